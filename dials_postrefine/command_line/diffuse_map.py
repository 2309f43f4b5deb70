# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_map
"""
Average the pixels of rotation series, or of stills, into a map of reciprocal space: the diffuse scattering between and
under the Bragg peaks, corrected for geometry, polarisation, sensor and air, with its errors and statistics that tell
whether it can be trusted.

Examples::

  dials.diffuse_map refined.expt d_min=1.8

  dials.diffuse_map integrated.expt integrated.refl d_min=1.8 grid.subdivide=3,3,3

  dials.diffuse_map refined.expt background.experiments=empty.expt nproc=4

  dials.diffuse_map add=first.nxs,second.nxs
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import comma_lists, run_program
from dials_postrefine.settings.scope import load

phil_scope = load("diffuse_map")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_map from the command line."""
    usage = "dials.diffuse_map [options] refined.expt [refined.refl] [more data sets]"
    run_program(args, phil, usage, __doc__, _load, lambda words: comma_lists(words, ("add", "planes")))


def _load():
    from dials_postrefine.programs.diffuse_map import DiffuseMapRequest, run

    return run, DiffuseMapRequest


if __name__ == "__main__":
    sys.exit(run())
