# LIBTBX_SET_DISPATCHER_NAME dials.dynamical
"""
Fit dynamical diffraction of electrons, calculated by Bloch waves, to the frames of an experiment: thickness,
orientations, absorption and the structure; tell the hand; and say how much of what symmetry equivalents differ by is
multiple scattering.

Writes intensities divided by the dynamical factor, for dials.merge, dials.export and dials.scale.

Examples::

  dials.dynamical scaled.expt scaled.refl structure.cif

  dials.dynamical structure.cif data=frames.cif_pets refine=orientation+structure

  dials.dynamical scaled.expt scaled.refl structure.cif ions=peng1998 compare=order
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import run_program
from dials_postrefine.settings.scope import load

phil_scope = load("dynamical")
STRUCTURES = (".cif", ".pdb", ".mmcif", ".ent")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.dynamical from the command line."""
    usage = "dials.dynamical [options] scaled.expt scaled.refl structure.cif"
    run_program(args, phil, usage, __doc__, _load, _name_files)


def _load():
    from dials_postrefine.programs.dynamical import DynamicalRequest, run

    return run, DynamicalRequest


def _name_files(args: list[str]) -> list[str]:
    """The arguments with bare names of structures as input.structure=, and of frames as input.data=."""
    found = []
    for arg in args:
        if "=" in arg or arg.startswith("-"):
            found.append(arg)
        elif arg.lower().endswith(".cif_pets"):
            found.append(f'input.data="{arg}"')
        elif arg.lower().endswith(STRUCTURES):
            found.append(f'input.structure="{arg}"')
        else:
            found.append(arg)
    return found


if __name__ == "__main__":
    sys.exit(run())
