"""
The programs' parameters: finds and parses phil/*.phil, and turns a scope into the dataclass that an algorithm takes.

The folder phil/ lies inside the package where it is installed, and beside it in a checkout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def load(program: str):
    """The PHIL scope of a program, phil/<program>.phil."""
    import iotbx.phil

    package = Path(__file__).resolve().parent
    for folder in (package / "phil", package.parent / "phil"):
        path = folder / f"{program}.phil"
        if path.is_file():
            return iotbx.phil.parse(file_name=str(path), process_includes=True)
    raise FileNotFoundError(f"phil/{program}.phil is missing: install dials_postrefine again.")


def word(value) -> str:
    """A choice as it was written: PHIL turns `auto` and `none` on the command line into objects of its own."""
    from libtbx import Auto

    return "auto" if value is Auto else "none" if value is None else value


def candidates(params) -> tuple[list[str], list[str]]:
    """The profiles and radii to choose from: the ones that were named, or for `auto` all."""
    from dials_postrefine.stills.model import RADII
    from dials_postrefine.stills.partiality import PROFILES

    profiles = list(PROFILES) if word(params.profile) == "auto" else [params.profile]
    radii = list(RADII) if word(params.radius) == "auto" else [params.radius]
    return profiles, radii if params.model == "rs_hybrid" else ["constant"]


def dataset_settings(params):
    """The settings of dials.postrefine's cycles and fits, angles in radians; of `auto` the first candidate."""
    from libtbx import Auto

    from dials_postrefine.stills.cycles import DatasetSettings
    from dials_postrefine.stills.lattice import FitSettings

    profiles, radii = candidates(params)
    return DatasetSettings(
        fit=FitSettings(
            model=params.model,
            profile=profiles[0],
            radius=radii[0],
            weighting=params.weighting,
            loss=params.loss,
            fix=tuple(params.fix),
            model_error=params.model_error,
            partiality_threshold=params.partiality_threshold,
            min_correlation=params.min_correlation,
            min_reflections=params.min_reflections,
            reflections_per_parameter=params.reflections_per_parameter,
            max_misorientation=float(np.radians(params.max_misorientation)),
            max_b_factor=params.max_b_factor,
        ),
        n_cycles=None if params.n_cycles in (None, Auto) else params.n_cycles,
        convergence=params.convergence,
        excludes_self=params.reference_excludes_self,
        outlier_z=params.outlier_z,
        engine=word(params.engine),
        restraints=params.restraints,
    )
