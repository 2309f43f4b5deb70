"""The Request of dials.dynamical and a structure (cctbx) -> a dynamical fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dials_postrefine.electron.bloch.electrons import energy_of, relativistic_mass
from dials_postrefine.electron.bloch.potential import Scattering
from dials_postrefine.electron.dynamical.fitting import FitChoice, fit_dynamical
from dials_postrefine.electron.dynamical.results import DynamicalFit
from dials_postrefine.numerics.frames import FrameData
from dials_postrefine.scattering.electron_atoms import electron_atoms
from dials_postrefine.settings.dynamical import DynamicalRequest


def fit_choice(request: DynamicalRequest) -> FitChoice:
    """How to fit."""
    thickness, beams = request.thickness, request.beams
    return FitChoice(
        refine=request.refine,
        hand=request.hand,
        thickness_range=(thickness.least, thickness.most),
        thickness_start=_or_nan(thickness.start),
        g_max=_or_nan(beams.g_max),
        s_max=beams.s_max,
        step=float(np.radians(_or_nan(beams.step))),
        by_frame=thickness.model == "by_frame",
        distribution=thickness.distribution,
        tilt_width=float(np.radians(request.restrain.orientation)),
    )


def fit_structure(
    data: FrameData,
    structure: Any,
    request: DynamicalRequest = DynamicalRequest(),
    progress: Callable[[str, int, int], None] | None = None,
) -> DynamicalFit:
    """The fit of a structure; raises Unusable or ValueError, each with a sentence, where there is none."""
    atoms = electron_atoms(structure, request.ions)
    wavelength = data.frames.wavelength
    scattering = Scattering(relativistic_mass(energy_of(wavelength)), wavelength)
    return fit_dynamical(data, atoms, scattering, fit_choice(request), progress)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
