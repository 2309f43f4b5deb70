# LIBTBX_SET_DISPATCHER_NAME dials.intensity_model
"""
Can the intensities of electron diffraction be predicted from what is known before they are measured?  Gradient boosted
trees learn amplitudes from index, resolution, orientation, excitation error, scale, background and, if a model is
given, |F_calc|; R1 of their predictions stands beside that of the mean of symmetry equivalents and of |F_calc| alone.

Examples::

  dials.intensity_model scaled.expt scaled.refl split=image_blocks reference=quartz.cif

  dials.intensity_model train=first.expt,first.refl test=second.expt,second.refl

  dials.intensity_model scaled.expt scaled.refl split=unique reference=quartz.cif reference_model.radiation=electron
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import comma_lists, run_program
from dials_postrefine.settings.scope import load

phil_scope = load("intensity_model")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.intensity_model from the command line."""
    usage = "dials.intensity_model [options] train=a.expt,a.refl test=b.expt,b.refl"
    run_program(args, phil, usage, __doc__, _load, lambda words: comma_lists(words, ("train", "test")))


def _load():
    from dials_postrefine.programs.intensity_model import IntensityModelRequest, run

    return run, IntensityModelRequest


if __name__ == "__main__":
    sys.exit(run())
