# LIBTBX_SET_DISPATCHER_NAME dials.postrefine
"""
Postrefine stills: refine the scale, B factor, orientation and reciprocal-lattice point radius of each lattice against
reference intensities, and write a scaled table that dials.merge, dials.export and dials.report take.

Without a reference, the scaled mean of the data themselves is used and improved from cycle to cycle.

Examples::

  dials.postrefine integrated.expt integrated.refl

  dials.postrefine integrated.expt integrated.refl reference=model.mtz space_group=P43212

  dials.postrefine run_1.expt run_1.refl run_2.expt run_2.refl d_min=1.8 nproc=8
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import run_program
from dials_postrefine.settings.scope import load

phil_scope = load("postrefine")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.postrefine from the command line."""
    usage = "dials.postrefine [options] integrated.expt integrated.refl [more pairs] [reference=FILE]"
    run_program(args, phil, usage, __doc__, _load)


def _load():
    from dials_postrefine.programs.postrefine import PostrefineRequest, run

    return run, PostrefineRequest


if __name__ == "__main__":
    sys.exit(run())
