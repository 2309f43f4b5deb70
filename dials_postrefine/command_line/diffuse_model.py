# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_model
"""
Fit models of motion to a map of diffuse scattering: bodies that move as a whole, liquid-like motions, elastic networks.
Says which of them explains the map, as voxels tell that were not fitted, how well, and how sure its parameters are.

Examples::

  dials.diffuse_model diffuse.nxs model.pdb

  dials.diffuse_model diffuse.nxs model.pdb model=liquid_like liquid_like.across=crystal

  dials.diffuse_model diffuse.nxs model.pdb d_min=2.5 held_out.by=regions
"""

from __future__ import annotations

import sys

from dials_postrefine.command_line import run_program
from dials_postrefine.settings.scope import load

phil_scope = load("diffuse_model")
MAPS = (".nxs", ".h5", ".hdf5", ".lat")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_model from the command line."""
    usage = "dials.diffuse_model [options] diffuse.nxs model.pdb"
    run_program(args, phil, usage, __doc__, _load, name_files)


def name_files(args: list[str]) -> list[str]:
    """The arguments with bare names of files as input.map=NAME, by their ending, or else input.structure=NAME."""
    from dials.util import Sorry

    found, names = [], {"map": [], "structure": []}
    for argument in args:
        if "=" in argument or argument.startswith("-") or argument.endswith(".phil"):
            found.append(argument)
            continue
        kind = "map" if argument.lower().endswith(MAPS) else "structure"
        names[kind].append(argument)
        found.append(f'input.{kind}="{argument}"')
    for kind, given in names.items():
        if len(given) > 1:
            raise Sorry(
                f"{' and '.join(given)} are given, but one {'map' if kind == 'map' else 'atomic model'} is fitted."
            )
    return found


def _load():
    from dials_postrefine.programs.diffuse_model import DiffuseModelRequest, run

    return run, DiffuseModelRequest


if __name__ == "__main__":
    sys.exit(run())
