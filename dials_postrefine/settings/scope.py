"""
The programs' PHIL scopes: finds and parses phil/*.phil.

The folder phil/ lies inside the package where it is installed, and beside it in a checkout.
"""

from __future__ import annotations

from pathlib import Path


def load(program: str):
    """The PHIL scope of a program, phil/<program>.phil."""
    import iotbx.phil

    package = Path(__file__).resolve().parent.parent
    for folder in (package / "phil", package.parent / "phil"):
        path = folder / f"{program}.phil"
        if path.is_file():
            return iotbx.phil.parse(file_name=str(path), process_includes=True)
    raise FileNotFoundError(f"phil/{program}.phil is missing: install dials_postrefine again.")


# By program, the parameters that have another name now.
RENAMED = {
    "dials.postrefine": {"model": "algorithm", "nproc": "mp.nproc"},
    "dials.diffuse_map": {"nproc": "mp.nproc"},
    "dials.image_spread": {"intensity": "intensity_choice"},
    "dials.intensity_model": {"intensity": "intensity_choice", "model": "reference"},
}


def renamed(program: str, name: str) -> str | None:
    """The name that a parameter of a program has now, None if it is no old name."""
    return RENAMED.get(program, {}).get(name)
