"""
Errors that show in the intensities, fitted to all observations together (projection.py):

    y = M (1 + delta_u + g . s_l) (P(Q, U)/P_0) (1 + a sign(r_h) + (epsilon - epsilon_l) c + gain + profile) + noise

P_0, what was divided by, and P(Q, U) (polarisation.py); a, the asymmetry: inside of the Ewald sphere observations are
too weak by a, outside too strong; epsilon, the scale of all reciprocal cells, with c = dln p/depsilon and what lattices
have of their own, epsilon_l, in p already (that they were restrained to one another changes nothing); and the gain of
regions of the detector, its panels or, of a single one, GRID x GRID parts.  P is not linear in ln y over the range of
Q: it is applied, and the rest fitted to what is left, until Q and U stay.

The gains could make up much of a polarisation.  They have a prior with long tails about zero, Student's t of width
GAIN_WIDTH: few of them may be far out, but not all a little in the pattern of the polarisation.  Their own values are
then found with the other numbers known, and hardly a prior; where one is large it is applied, and all is fitted again.

The profile that all lattices share may not fit: what is even in r_h, x and x^2 with x = (r_h/r_s)^2, and how these
change with resolution, is fitted along, so that its misfit neither counts as noise nor passes for anything else.

Weights are those of the merging variances, and robust (Huber).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.robust import LOSSES, STUDENT_NU, robust_width
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.systematics.deviations import Deviations, Recording
from dials_postrefine.stills.systematics.polarisation import Stokes, fraction_and_direction, stokes_of
from dials_postrefine.stills.systematics.projection import Projected, make_nuisances, project

N_ROUNDS = 4
GRID = 4
GAIN_WIDTH = 0.02
LOOSE_WIDTH = 0.3
LARGE_GAIN, LARGE_ESDS = 0.03, 4.0
N_PRIOR_ROUNDS = 10
FEWEST_IN_REGION = 100
MOST_REGIONS = 64
N_PROFILE = 4
N_AZIMUTHS = 18
FEWEST_IN_AZIMUTH = 10
REFERENCE_ERROR = 0.1
FARTHEST = 3.0  # r_h/r_s


@dataclass(frozen=True)
class Regions:
    """Names of the parts of the detector, and the number of each observation's (n,), -1 where it is in none."""

    names: list[str]
    number: np.ndarray


@dataclass(frozen=True)
class _Problem:
    """What is fitted, and what it is fitted to; stokes None where there is no polarisation."""

    deviations: Deviations
    recording: Recording
    stokes: Stokes | None
    regions: Regions


@dataclass(frozen=True)
class AzimuthBin:
    """Observations about an azimuth (radians): what polarisation adds for sin^2(2 theta) = 1, esd, and as found."""

    azimuth: float
    value: float
    esd: float
    found: float


@dataclass(frozen=True)
class FittedStokes:
    """Q and U (2,), their covariance (2, 2), and effect (2,), the root mean square of dln P by each."""

    value: np.ndarray
    covariance: np.ndarray
    effect: np.ndarray

    @property
    def polarisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Fraction and direction (2,), and their esds (2,) (polarisation.py)."""
        return fraction_and_direction(self.value, self.covariance)


@dataclass(frozen=True)
class SharedErrors:
    """
    What was found; esds from the spread between lattices.

    stokes, None without polarisation; asymmetry and cell_scale with their esds; gain and gain_esd (R,) of the regions,
    relative to their mean; n observations of n_lattices; azimuths, what shows of the polarisation.
    """

    stokes: FittedStokes | None
    asymmetry: float
    asymmetry_esd: float
    cell_scale: float
    cell_scale_esd: float
    regions: list[str]
    gain: np.ndarray
    gain_esd: np.ndarray
    n: int
    n_lattices: int
    azimuths: list[AzimuthBin]


def find_regions(recording: Recording, rows: np.ndarray) -> Regions:
    """
    The panels, or of a single panel its parts, that have FEWEST_IN_REGION of the observations.

    Parameters
    ----------
    recording : Recording
    rows : ndarray of int, shape (n,)
        The observations.

    Returns
    -------
    Regions
        None of them where fewer than two have enough.
    """
    panel, position = recording.panel[rows], recording.position[rows]
    single = not len(recording.panel) or bool((recording.panel == recording.panel[0]).all())
    if single:
        known = np.isfinite(position).all(axis=1)
        part = np.clip(np.where(known[:, None], position, 0.0) * GRID, 0, GRID - 1).astype(int)
        key = np.where(known, part[:, 1] * GRID + part[:, 0], -1)
    else:
        key = panel
    values, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    good = [k for k in np.argsort(-counts, kind="stable") if counts[k] >= FEWEST_IN_REGION and values[k] >= 0]
    good = sorted(good[:MOST_REGIONS])
    if len(good) < 2:
        return Regions([], np.full(len(rows), -1))
    number = np.full(len(values), -1)
    number[good] = np.arange(len(good))
    names = [f"part {values[k] % GRID + 1},{values[k] // GRID + 1}" if single else f"panel {values[k]}" for k in good]
    return Regions(names, number[inverse])


def fit_intensities(deviations: Deviations, recording: Recording, lattice: np.ndarray) -> SharedErrors:
    """
    Fit all of them together (module docstring).

    Parameters
    ----------
    deviations : Deviations
        Of n observations.
    recording : Recording
        Of all observations.
    lattice : ndarray of int, shape (n,)
        The number of each observation's lattice among all.

    Returns
    -------
    SharedErrors
    """
    stokes = stokes_of(recording, deviations.row, lattice)
    regions = find_regions(recording, deviations.row)
    problem = _Problem(deviations, recording, stokes, regions)
    gain, gain_esd = np.zeros(len(regions.names)), np.zeros(len(regions.names))
    n_pol = 2 if stokes else 0
    n_others = n_pol + 2 + N_PROFILE
    now, robust = stokes.model.copy() if stokes else np.zeros(2), np.ones(len(deviations.value))
    for k in range(N_ROUNDS + 1):
        with_gains = k >= N_ROUNDS - 1 and len(gain) > 0
        projected = _linearise(problem, now, gain, robust, with_gains)
        found = projected.solve(_gain_precision(projected, n_others))
        now = now + (found.a[:n_pol] if stokes else 0.0)
        robust = _robust_weight((projected.residual - projected.columns @ found.a) / np.sqrt(robust))
        if with_gains:
            others = found.a.copy()
            others[n_others:] = 0.0
            gains = projected.part(slice(n_others, None), others).solve(LOOSE_WIDTH**-2.0)
            gain, gain_esd = (1.0 + gain) * (1.0 + gains.a) - 1.0, np.sqrt(np.diag(gains.covariance))
        if k >= N_ROUNDS - 1 and not np.any(np.abs(gain) > np.maximum(LARGE_GAIN, LARGE_ESDS * gain_esd)):
            break
    esd = np.sqrt(np.diag(found.covariance))
    fitted = None
    if stokes is not None:
        effect = np.sqrt(np.mean((stokes.slopes / stokes.factor(now)[:, None]) ** 2, axis=0))
        fitted = FittedStokes(now, found.covariance[:2, :2], effect)
    return SharedErrors(
        fitted,
        float(found.a[n_pol]),
        float(esd[n_pol]),
        float(found.a[n_pol + 1]),
        float(esd[n_pol + 1]),
        regions.names,
        gain,
        gain_esd,
        len(deviations.value),
        deviations.n_lattices,
        [] if stokes is None else _by_azimuth(problem, now, robust),
    )


def fit_radial(deviations: Deviations, reference: np.ndarray) -> tuple[float, float]:
    """
    By how much observations differ from the reference with resolution as neither scale nor B can have it: the
    coefficient of P_2(t) = (3 t^2 - 1)/2, with t from -1 to 1 in d*^2.

    The errors of a reference are those of its indices, which are the clusters.

    Parameters
    ----------
    deviations : Deviations
        Of n observations.
    reference : ndarray, shape (n,)
        Intensities.

    Returns
    -------
    value, esd : float
    """
    t = deviations.d_star_sq - deviations.d_star_sq.min()
    t = 2.0 * t / t.max() - 1.0
    of_index = np.zeros(deviations.n_unique)
    of_index[deviations.unique] = reference
    variance, robust = deviations.variance + (REFERENCE_ERROR * reference) ** 2, np.ones(len(t))
    for _ in range(N_ROUNDS):
        root = np.sqrt(robust / variance)
        nuisances = make_nuisances(deviations, of_index, root, by_index=False)
        column = (0.5 * (3.0 * t**2 - 1.0) * reference * root)[:, None]
        projected = project(nuisances, column, (deviations.value - reference) * root, deviations.unique)
        projected = replace(projected, widening=_widening(robust))
        found = projected.solve()
        robust = _robust_weight((projected.residual - projected.columns @ found.a) / np.sqrt(robust))
    return float(found.a[0]), float(np.sqrt(found.covariance[0, 0]))


def _robust_weight(z: np.ndarray) -> np.ndarray:
    """Huber's weights of residuals (n,) in units of their width."""
    width = robust_width(z)
    return LOSSES["huber"]((z / width) ** 2)[1] if width > 0.0 else np.ones(len(z))


def _widening(robust: np.ndarray) -> float:
    """sum w / sum psi' of Huber's weights w (n,): psi' is one where they are, else zero."""
    return float(robust.sum()) / max(np.count_nonzero(robust >= 1.0), 1)


def _linearise(problem: _Problem, now: np.ndarray, gain: np.ndarray, robust: np.ndarray, with_gains: bool) -> Projected:
    """
    What the nuisances leave at Q, U and the gains (R,) as they are now, with robust weights (n,) besides those of the
    variances; with_gains: with a column for the gain of each region.
    """
    deviations, stokes, regions = problem.deviations, problem.stokes, problem.regions
    columns = [np.sign(deviations.ratio), deviations.cell_gradient, *_profile_columns(deviations)]
    if stokes is not None:
        columns = [*(stokes.slopes / stokes.factor(now)[:, None]).T, *columns]
    if with_gains:
        columns += list((regions.number[:, None] == np.arange(len(regions.names))).T.astype(float))
    of_region = np.append(1.0 + gain, 1.0)[regions.number]
    value, mean, root = _corrected(problem, now, robust, of_region)
    mean_of = mean[deviations.unique]
    nuisances = make_nuisances(deviations, mean, root)
    weighted = np.column_stack(columns) * (mean_of * root)[:, None]
    residual = value - mean_of + mean_of * deviations.cell_scale * deviations.cell_gradient
    return replace(project(nuisances, weighted, residual * root, deviations.lattice), widening=_widening(robust))


def _corrected(
    problem: _Problem, now: np.ndarray, robust: np.ndarray, factor: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Values (n,) with Q and U as they are now, and without a factor (n,), their means (n_unique,), and the square roots
    of weights (n,).
    """
    deviations, stokes = problem.deviations, problem.stokes
    if stokes is not None:
        factor = factor * stokes.factor(now) * problem.recording.correction[deviations.row]
    value, weight = deviations.value / factor, robust * factor**2 / deviations.variance
    mean = merge(value, 1.0 / weight, deviations.unique, deviations.n_unique).intensity
    return value, mean, np.sqrt(weight)


def _by_azimuth(problem: _Problem, now: np.ndarray, robust: np.ndarray) -> list[AzimuthBin]:
    """
    What a wrong polarisation does, by N_AZIMUTHS of the angle phi from e to n about the beam, modulo pi.

    In each the slope of (y/M - 1) on sin^2(2 theta) and its esd, y as it was corrected and M the means with Q and U as
    found, and what these say it should be.
    """
    deviations, stokes = problem.deviations, problem.stokes
    value, mean, root = _corrected(problem, now, robust)
    factor = stokes.factor(now) * problem.recording.correction[deviations.row]
    mean_of = mean[deviations.unique]
    # s_e^2 - s_n^2 and 2 s_e s_n are sin^2(2 theta) times cos and sin of 2 phi
    sin_sq = 2.0 * np.hypot(*stokes.slopes.T)
    phi = 0.5 * (np.arctan2(-stokes.slopes[:, 1], -stokes.slopes[:, 0]) % (2.0 * np.pi))
    number = np.minimum((phi * N_AZIMUTHS / np.pi).astype(int), N_AZIMUTHS - 1)
    column, unit = mean_of * root * sin_sq, mean_of * root
    found = []
    for k in range(N_AZIMUTHS):
        inside = number == k
        norm = float(column[inside] @ column[inside])
        if np.count_nonzero(inside) < FEWEST_IN_AZIMUTH or not norm > 0.0:
            continue
        expected = (factor[inside] - 1.0) * unit[inside]
        noise = (value[inside] - mean_of[inside]) * root[inside]
        slope = float(column[inside] @ (expected + factor[inside] * noise)) / norm
        esd = float(np.sqrt(np.sum((column[inside] * factor[inside] * noise) ** 2))) / norm
        found.append(AzimuthBin((k + 0.5) * np.pi / N_AZIMUTHS, slope, esd, float(column[inside] @ expected) / norm))
    return found


def _profile_columns(deviations: Deviations) -> list[np.ndarray]:
    """What a profile may be off by (module docstring), N_PROFILE columns."""
    x = np.minimum(deviations.ratio**2, FARTHEST**2)
    relative = deviations.d_star_sq / deviations.d_star_sq.max()
    return [x, x**2, x * relative, x**2 * relative]


def _gain_precision(projected: Projected, n_others: int) -> np.ndarray:
    """The precisions (m,) of the gains' prior, zero of the others, by iterative reweighting."""
    f, r = projected.columns, projected.residual
    normal, right = f.T @ f, f.T @ r
    precision = np.zeros(f.shape[1])
    precision[n_others:] = (STUDENT_NU + 1.0) / STUDENT_NU / GAIN_WIDTH**2
    # unit weights: the residuals are in units of their standard deviations
    for _ in range(N_PRIOR_ROUNDS if len(precision) > n_others else 0):
        a = np.linalg.pinv(normal + np.diag(precision), hermitian=True) @ right
        t = (a[n_others:] / GAIN_WIDTH) ** 2
        precision[n_others:] = (STUDENT_NU + 1.0) / (STUDENT_NU + t) / GAIN_WIDTH**2
    return precision
