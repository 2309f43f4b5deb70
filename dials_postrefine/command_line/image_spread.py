# LIBTBX_SET_DISPATCHER_NAME dials.image_spread
"""
Measure how reproducible scaled intensities are from image to image: which images show the same reflections, how far
these differ, whether more than their errors allow (the excess relative spread tau), and what it depends on.

Made for electron diffraction, where dynamical scattering spreads symmetry equivalents; X-ray data sets run the same
way and give the comparison.

Examples::

  dials.image_spread scaled.expt scaled.refl match=laue

  dials.image_spread scaled.expt scaled.refl match=laue min_angle=5 compare=profile

  dials.image_spread first.expt first.refl second.expt second.refl image_width=1
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import run_program
from dials_postrefine.settings.scope import load

phil_scope = load("image_spread")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.image_spread from the command line."""
    usage = "dials.image_spread [options] scaled.expt scaled.refl [more pairs]"
    run_program(args, phil, usage, __doc__, _load)


def _load():
    from dials_postrefine.programs.image_spread import ImageSpreadRequest, run

    return run, ImageSpreadRequest


if __name__ == "__main__":
    sys.exit(run())
