# LIBTBX_SET_DISPATCHER_NAME dials.fine_refine
"""
Refine structure factors of low order, with esds, of the disks of a convergent-beam pattern (CBED or LARBED): U, U',
thickness, orientation and point spread by Bloch waves and Gauss-Newton, scale and backgrounds eliminated.

Examples::

  dials.fine_refine cbed.npz silicon.cif

  dials.fine_refine larbed.h5 gaas.cif structure_factors=1,1,1 refine=thickness+tilt+psf+b

  dials.fine_refine disks.tif silicon.cif geometry=disks.json energy=200000
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dials_postrefine.command_line import run_program
from dials_postrefine.settings.scope import load

phil_scope = load("fine_refine")
PATTERNS = (".npz", ".npy", ".h5", ".hdf5", ".nxs", ".mrc", ".tif", ".tiff", ".expt", ".refl")
STRUCTURES = (".cif", ".mmcif", ".pdb", ".ent")
KINDS = {**dict.fromkeys(PATTERNS, "pattern"), **dict.fromkeys(STRUCTURES, "structure"), ".json": "geometry"}


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.fine_refine from the command line."""
    usage = "dials.fine_refine [options] PATTERN STRUCTURE"
    run_program(args, phil, usage, __doc__, _load, _name_files)


def _name_files(args: Sequence[str]) -> list[str]:
    """The arguments, bare names of files as the parameters that they are."""
    found = []
    for argument in args:
        ending = os.path.splitext(argument)[1].lower()
        kind = None if "=" in argument or argument.startswith("-") else KINDS.get(ending)
        found.append(argument if kind is None else f'input.{kind}="{argument}"')
    return found


def _load():
    from dials_postrefine.programs.fine_refine import FineRefineRequest, run

    return run, FineRefineRequest


if __name__ == "__main__":
    sys.exit(run())
