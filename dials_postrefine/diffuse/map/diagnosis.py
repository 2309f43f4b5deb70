"""
How symmetry equivalents agree, by image, azimuth, resolution and place on the detector, before and after they were
scaled against each other, and what the terms look like.

Of records with the noise sigma that is left after scaling (fitting_terms.noise), the residual of a bin is the mean of
(y - d - g I)/L with weights L^2/sigma^2, 0 but for noise where nothing systematic is left; the misfit is the mean of
z^2, each at most Z^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map import fitting_terms
from dials_postrefine.diffuse.map.equivalents import Scaling

N_IMAGES, N_AZIMUTHS, N_RESOLUTIONS, N_PLACES = 60, 36, 20, 24


@dataclass(frozen=True)
class TermRecord:
    """
    A term: its name, coefficients and how many modes of them equivalents see; the part by which it lessens the misfit
    of held-out orbits, in standard errors too; whether it was kept; and what it does to a record, as parts of the
    intensity: the root mean square, and of its esd.
    """

    name: str
    n_coefficients: int
    n_seen: int
    gain: float
    significance: float
    kept: bool
    size: float
    esd: float


@dataclass(frozen=True)
class Binned:
    """By the middle x (n,) of bins of one quantity: the mean residual before and after, and misfits."""

    x: np.ndarray
    before: np.ndarray
    after: np.ndarray
    misfit_before: np.ndarray
    misfit_after: np.ndarray


@dataclass(frozen=True)
class Diagnosis:
    """
    terms; how many records there are, how many were fitted to; residuals by image (in the order of all), azimuth
    (degrees) and |s| (1/Angstrom); over the detector (N_PLACES, N_PLACES), v and u from -reach to reach, the residual
    before and after and the factor g that was found, NaN where there is nothing; the misfit before and after.
    """

    terms: list[TermRecord]
    n_records: int
    n_fitted: int
    by_image: Binned
    by_azimuth: Binned
    by_resolution: Binned
    reach: float
    place_before: np.ndarray
    place_after: np.ndarray
    factor: np.ndarray
    misfit_before: float
    misfit_after: float


def diagnose(scaling: Scaling) -> Diagnosis | None:
    """
    The agreement before and after.

    Parameters
    ----------
    scaling : Scaling

    Returns
    -------
    Diagnosis, or None
        None where nothing was tried.
    """
    if not scaling.tried:
        return None
    observed, places = scaling.observed, scaling.places
    nothing = np.ones_like(observed.y), np.zeros_like(observed.y)
    variance = fitting_terms.noise(observed, scaling.state)
    residuals = [
        fitting_terms.residuals(observed, state, variance)[1] / observed.level for state in (nothing, scaling.state)
    ]
    weight = observed.level**2 / variance
    squares = [np.minimum(weight * one * one, fitting_terms.Z**2) for one in residuals]

    def mean(k: np.ndarray, n: int, value: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total = np.bincount(k, weights, minlength=n)
        with np.errstate(invalid="ignore"):
            return np.where(total > 0.0, np.bincount(k, weights * value, minlength=n) / total, np.nan)

    def binned(x: np.ndarray, low: float, high: float, n: int) -> Binned:
        k = np.clip(((x - low) / (high - low) * n).astype(int), 0, n - 1)
        ones = np.ones_like(weight)
        return Binned(
            low + (np.arange(n) + 0.5) * (high - low) / n,
            *(mean(k, n, one, weight) for one in residuals),
            *(mean(k, n, one, ones) for one in squares),
        )

    first = np.concatenate([[0], np.cumsum(places.images)])
    number = first[places.series] + places.z
    reach = float(np.hypot(places.u, places.v).max())
    column, row = (
        np.clip(((w / reach + 1.0) * 0.5 * N_PLACES).astype(int), 0, N_PLACES - 1) for w in (places.u, places.v)
    )
    cell = row * N_PLACES + column
    over = [
        mean(cell, N_PLACES**2, value, weight).reshape(N_PLACES, N_PLACES) for value in (*residuals, scaling.state[0])
    ]
    return Diagnosis(
        [_record(one, scaling) for one in scaling.tried],
        scaling.n_records,
        len(observed.y),
        binned(number, 0.0, float(first[-1]), min(int(first[-1]), N_IMAGES)),
        binned(np.degrees(np.arctan2(places.v, places.u)), -180.0, 180.0, N_AZIMUTHS),
        binned(places.s, float(places.s.min()), float(places.s.max()), N_RESOLUTIONS),
        reach,
        *over,
        *(float(one.mean()) for one in squares),
    )


def _record(one: fitting_terms.FittedTerm, scaling: Scaling) -> TermRecord:
    final = next((other for other in scaling.kept if other.term is one.term), one)
    some = scaling.places.take(slice(None, None, max(1, len(scaling.observed.y) // 20000)))
    design = final.term.design(some)
    value = design @ final.coefficients
    variance = np.asarray(design.multiply(design @ final.covariance).sum(axis=1)).ravel()
    return TermRecord(
        one.term.name,
        len(one.coefficients),
        one.n_seen,
        one.gain,
        one.significance,
        one.kept,
        float(np.std(value)),
        float(np.sqrt(np.mean(np.maximum(variance, 0.0)))),
    )
