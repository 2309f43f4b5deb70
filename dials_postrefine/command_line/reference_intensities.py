# LIBTBX_SET_DISPATCHER_NAME dials.reference_intensities
"""
Calculate reference intensities from an atomic model (X-rays, electrons or neutrons), or take them from a reflection
file, and bring them to the scale of data: bulk solvent, scale and overall anisotropic B are fitted, and the indexing
and hand that agree best are found.

Writes an MTZ and a scaled .refl/.expt pair with intensities, sigmas, amplitudes and phases, either of which
dials.postrefine takes as its reference.

Examples::

  dials.reference_intensities model.pdb reference_model.d_min=2

  dials.reference_intensities model.cif integrated.expt integrated.refl

  dials.reference_intensities quartz.cif scaled.expt scaled.refl radiation=electron

  dials.reference_intensities model.pdb data=merged.mtz data_labels=IMEAN,SIGIMEAN
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import name_reference, run_program
from dials_postrefine.settings.scope import load

phil_scope = load("reference_intensities")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.reference_intensities from the command line."""
    usage = "dials.reference_intensities [options] FILE [data.expt data.refl]"
    run_program(args, phil, usage, __doc__, _load, name_reference)


def _load():
    from dials_postrefine.programs.reference_intensities import ReferenceIntensitiesRequest, run

    return run, ReferenceIntensitiesRequest


if __name__ == "__main__":
    sys.exit(run())
