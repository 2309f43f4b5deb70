"""
Systematic errors of the experiment, told by the residuals: value, esd, what the models of the experiment say, verdict.

    polarization_fraction   in the plane that the beam models say (polarisation.py)
    polarization_direction  of that plane, turned about the beam (radians)
    panel_gain              of the panel, or the part of a single one, that is off most, less one
    radial                  deviation from a reference with resolution (intensities.fit_radial)
    cell_scale              of all reciprocal cells, less one: cell, wavelength and detector distance do not go together
    asymmetry               observations outside of the Ewald sphere too strong by so much, inside too weak
    beam_direction_x, _y    the beam has to be turned about these laboratory axes (radians): minus the mean angle of all
                            lattices
    drift_scale, drift_b, drift_radius, drift_mosaicity
                            change along the run of ln G, B (conventional), ln r_0 and ln eta

Data that are scaled alone (unrefined.py) tell of polarisation, gains and the drift of G: their partialities, unknown,
scatter like an error, which esds from the spread between lattices allow for.  All else is told by partialities or
refined parameters, and is not determined.

A value differs if it is further from what is expected than chance has it, with the probability CHANCE for each of them
and Student's distribution for as many lattices; and that matters if it changes something by more than its limit in
LIMITS: the intensities by the root mean square (polarisation), one gain, the distance from the Ewald sphere in units of
the radius at the highest resolution (cell, beam), ln G, B, ln r_0, ln eta from one end of the run to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from scipy import stats

from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    CONVENTIONAL_B,
    LN_MOSAICITY,
    LN_RADIUS,
    LN_SCALE,
    THETA_X,
    THETA_Y,
    radius,
)
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.systematics.deviations import MOST, Deviations, Recording, collect_deviations
from dials_postrefine.stills.systematics.intensities import (
    AzimuthBin,
    SharedErrors,
    find_regions,
    fit_intensities,
    fit_radial,
)
from dials_postrefine.stills.systematics.trends import common_mean, drift

CHANCE = 1e-5
FEWEST_LATTICES = 8
LEAST_LEFT = 0.1  # of a departure from the population; of less there is nothing to be said
FEWEST_OBSERVATIONS = 300
REGIONS_AT_MOST = 16  # at full length: with more regions fewer observations are enough
USELESS = {"polarization_fraction": 0.25, "polarization_direction": np.radians(30.0)}
LIMITS = {
    "polarization_fraction": 0.01,
    "polarization_direction": 0.01,
    "panel_gain": 0.02,
    "radial": 0.05,
    "cell_scale": 0.1,
    "asymmetry": 0.03,
    "beam_direction_x": 0.1,
    "beam_direction_y": 0.1,
    "drift_scale": 0.2,
    "drift_b": 2.0,
    "drift_radius": 0.1,
    "drift_mosaicity": 0.1,
}
NAMES = tuple(LIMITS)
WITHOUT_GEOMETRY = ("polarization_fraction", "polarization_direction", "panel_gain", "radial", "drift_scale")
SCALED_ONLY = "the data are scaled alone: it takes refined lattices"
DRIFTS = {
    "drift_scale": (LN_SCALE, 1.0),
    "drift_b": (B_FACTOR, CONVENTIONAL_B),
    "drift_radius": (LN_RADIUS, 1.0),
    "drift_mosaicity": (LN_MOSAICITY, 1.0),
}


class Verdict(str, Enum):
    """What a value beside the expected one says."""

    UNKNOWN = "not determined"
    AS_EXPECTED = "as expected"
    SMALL = "differs, too little to matter"
    DIFFERS = "differs"


@dataclass(frozen=True)
class RegionGain:
    """The gain of a panel, or of a part of it, over the mean, less one."""

    name: str
    value: float
    esd: float


@dataclass(frozen=True)
class Systematic:
    """
    One of NAMES: value and esd, NaN where unknown, for a reason; expected; size, what the limit is compared with;
    verdict; where, the panel of a gain, and all gains; azimuths, what shows of the polarisation.
    """

    name: str
    value: float
    esd: float
    expected: float
    size: float
    verdict: Verdict
    reason: str = ""
    where: str = ""
    gains: list[RegionGain] = field(default_factory=list)
    azimuths: list[AzimuthBin] = field(default_factory=list)


def find_systematics(
    stills: Stills, result: PostrefinedStills, recording: Recording, reference: FitReference = FitReference()
) -> dict[str, Systematic]:
    """
    What the residuals say.

    Parameters
    ----------
    stills : Stills
    result : PostrefinedStills
    recording : Recording
        Of the observations of the stills.
    reference : FitReference
        What the lattices were fitted to.

    Returns
    -------
    dict of Systematic
        All of NAMES, in this order.  Bad data raise nothing: what can't be told has a reason.
    """
    accepted = result.accepted
    n_regions = len(find_regions(recording, np.flatnonzero(accepted[stills.lattice()])).names)
    deviations = collect_deviations(stills, result, MOST * REGIONS_AT_MOST // max(REGIONS_AT_MOST, n_regions))
    found = [
        *_of_intensities(stills, result, deviations, recording),
        _radial(deviations, reference, stills),
        *_of_lattices(stills, result, recording),
    ]
    if result.scaled_only:
        found = [one if one.name in WITHOUT_GEOMETRY else unknown(one.name, 0.0, SCALED_ONLY) for one in found]
    by_name = {one.name: one for one in found}
    return {name: by_name[name] for name in NAMES}


def judge(
    name: str, found: tuple[float, float], expected: float, size: float, n_lattices: int, n_tries: int = 1, **more
) -> Systematic:
    """
    The verdict on what was found (module docstring).

    Parameters
    ----------
    name : str
        One of NAMES.
    found : tuple of float
        A value and its esd.
    expected : float
        In the unit of the value.
    size : float
        What counts beside the limit.
    n_lattices : int
    n_tries : int
        Of how many values this is the most striking.
    **more
        Other fields of Systematic.

    Returns
    -------
    Systematic
        Unknown where value or esd are not finite, or the esd is not positive.
    """
    value, esd = found
    if not (np.isfinite(value) and np.isfinite(esd) and esd > 0.0):
        return unknown(name, expected, "the data do not determine it")
    probability = n_tries * 2.0 * stats.t.sf(abs(value - expected) / esd, max(n_lattices - 1, 1))
    verdict = Verdict.AS_EXPECTED
    if probability < CHANCE:
        verdict = Verdict.DIFFERS if abs(size) > LIMITS[name] else Verdict.SMALL
    return Systematic(name, float(value), float(esd), float(expected), float(size), verdict, **more)


def unknown(name: str, expected: float, reason: str) -> Systematic:
    """
    What can't be told.

    Parameters
    ----------
    name : str
        One of NAMES.
    expected : float
    reason : str

    Returns
    -------
    Systematic
        Value, esd and size are NaN.
    """
    return Systematic(name, np.nan, np.nan, expected, np.nan, Verdict.UNKNOWN, reason)


def _of_intensities(stills, result, deviations: Deviations, recording: Recording) -> list[Systematic]:
    names = ("polarization_fraction", "polarization_direction", "panel_gain", "asymmetry", "cell_scale")
    fraction = recording.fraction[result.accepted]
    expected = float(np.median(fraction)) if len(fraction) and np.isfinite(fraction).all() else np.nan
    why = _too_few(deviations)
    if why:
        return [unknown(name, expected if name == names[0] else 0.0, why) for name in names]
    lattice = stills.lattice()[deviations.row]
    shared = fit_intensities(deviations, recording, lattice)
    reach = _reach(stills, result)
    n = shared.n_lattices
    # robust weights hide a part of what the cells of lattices differ by, where they have their own
    cell_scale = result.x[_refined(result), CELL_SCALE]
    cell_esd = float(np.fmax(shared.cell_scale_esd, common_mean(cell_scale)[1]))
    return [
        *_polarisation(shared, expected, float(np.ptp(fraction))),
        _gain(shared),
        judge("asymmetry", (shared.asymmetry, shared.asymmetry_esd), 0.0, shared.asymmetry, n),
        judge("cell_scale", (shared.cell_scale, cell_esd), 0.0, shared.cell_scale * reach[0], n),
    ]


def _too_few(deviations: Deviations) -> str:
    """Why there are too few deviations for a fit, "" where there are enough."""
    if deviations.n_lattices < FEWEST_LATTICES:
        return f"fewer than {FEWEST_LATTICES} accepted lattices share indices"
    if len(deviations.value) < FEWEST_OBSERVATIONS:
        return f"fewer than {FEWEST_OBSERVATIONS} observations have others to compare with"
    return ""


def _polarisation(shared: SharedErrors, expected: float, spread: float) -> list[Systematic]:
    names = ("polarization_fraction", "polarization_direction")
    if shared.stokes is None:
        return [
            unknown(names[0], np.nan, "the beam is not polarised: no X-rays"),
            unknown(names[1], np.nan, "the beam is not polarised: no X-rays"),
        ]
    (fraction, direction), (fraction_esd, direction_esd) = shared.stokes.polarisation
    n = shared.n_lattices
    if not fraction_esd < USELESS[names[0]]:
        return [unknown(names[0], expected, "too few observations at high angles"), unknown(names[1], 0.0, "as above")]
    size = 2.0 * (fraction - expected) * shared.stokes.effect[0]
    found = [judge(names[0], (fraction, fraction_esd), expected, size, n, azimuths=shared.azimuths)]
    if spread > 1e-3:
        found = [unknown(names[0], expected, "the beam models differ among themselves")]
    if direction_esd < USELESS[names[1]]:
        # U itself: that of an angle is no normal distribution
        size = shared.stokes.value[1] * shared.stokes.effect[1]
        found.append(judge(names[1], (direction, direction_esd), 0.0, size, n))
    else:
        found.append(unknown(names[1], 0.0, "hardly polarised, or too few observations at high angles"))
    # what is beyond the possible range is at its end
    found[0] = replace(found[0], value=float(np.clip(found[0].value, 0.0, 1.0)))
    return found


def _gain(shared: SharedErrors) -> Systematic:
    if not shared.regions:
        return unknown("panel_gain", 0.0, "no two parts of the detector have enough observations, or no positions")
    z = np.abs(shared.gain) / shared.gain_esd
    k = int(np.argmax(z))
    gains = [RegionGain(name, float(v), float(e)) for name, v, e in zip(shared.regions, shared.gain, shared.gain_esd)]
    more = {"where": shared.regions[k], "gains": gains, "n_tries": len(gains)}
    return judge("panel_gain", (shared.gain[k], shared.gain_esd[k]), 0.0, shared.gain[k], shared.n_lattices, **more)


def _radial(deviations: Deviations, reference: FitReference, stills: Stills) -> Systematic:
    name = "radial"
    if not reference.external:
        return unknown(name, 0.0, "each index has one resolution: only an external reference= can tell")
    expected = reference.intensity[stills.unique[deviations.row]]
    known = np.isfinite(expected) & (expected > 0.0)
    part = deviations.select(known)
    why = _too_few(part)
    if why:
        return unknown(name, 0.0, why)
    value, esd = fit_radial(part, expected[known])
    return judge(name, (value, esd), 0.0, 1.5 * value, part.n_unique)


def _refined(result: PostrefinedStills) -> np.ndarray:
    return result.accepted & np.array([fit.refined for fit in result.fits])


def _left(result: PostrefinedStills, column: int) -> np.ndarray:
    """What the population leaves of each lattice's departure (L,) in a parameter (trends.py)."""
    width = np.inf if result.restraint is None else result.restraint.width[column]
    return np.clip(1.0 - result.covariance[:, column, column] / width**2, LEAST_LEFT, 1.0)


def _reach(stills: Stills, result: PostrefinedStills) -> tuple[float, float]:
    """
    By how many radii the spots at the highest resolution move off the sphere by 1 of the cell's scale, and by 1 radian;
    medians over the lattices.
    """
    good = _refined(result) if _refined(result).any() else result.accepted
    highest = np.array([stills.q_sq[stills.rows(k)].max() for k in np.flatnonzero(good)])
    wavelength = 1.0 / np.linalg.norm(stills.s0[good], axis=1)
    r_s = radius(result.x[good].T, highest)
    return float(np.median(0.5 * wavelength * highest / r_s)), float(np.median(np.sqrt(highest) / r_s))


def _of_lattices(stills: Stills, result: PostrefinedStills, recording: Recording) -> list[Systematic]:
    good = result.accepted if result.scaled_only else _refined(result)
    n = int(np.count_nonzero(good))
    few = f"fewer than {FEWEST_LATTICES} lattices were {'accepted' if result.scaled_only else 'refined'}"
    found = []
    free = good & ~recording.shared
    for name, column in (("beam_direction_x", THETA_X), ("beam_direction_y", THETA_Y)):
        if np.count_nonzero(free) < FEWEST_LATTICES:
            found.append(unknown(name, 0.0, few if n < FEWEST_LATTICES else "the lattices share a goniometer"))
            continue
        value, esd = common_mean(-result.x[free, column], _left(result, column)[free])
        size = value * _reach(stills, result)[1]
        found.append(judge(name, (value, esd), 0.0, size, int(np.count_nonzero(free))))
    for name, (column, factor) in DRIFTS.items():
        if n < FEWEST_LATTICES:
            found.append(unknown(name, 0.0, few))
        elif column == LN_MOSAICITY and result.radius != "mosaic":
            found.append(unknown(name, 0.0, "the model has no mosaicity: radius=mosaic"))
        elif column == LN_RADIUS and result.model == "rs":
            found.append(unknown(name, 0.0, "the radius was not refined: algorithm=rs_hybrid"))
        else:
            centre = 0.0 if result.restraint is None else result.restraint.mean[column]
            departure = factor * (result.x[good, column] - centre)
            value, esd = drift(departure, recording.order[good], _left(result, column)[good])
            found.append(judge(name, (value, esd), 0.0, value, n))
    return found
