"""
The fit of the terms (terms.py) that scale unmerged sums against each other, to symmetry equivalents.

Of the records r of an orbit o (a voxel and its symmetry equivalents)

    y_r = n_r/e_r = g_r I_o + d_r + noise,      g = exp(sum f),     d = L sum d_t,
    sigma^2 = alpha var(n)/e^2 + kappa^2 L^2,

with alpha and kappa, what differs between records beside noise, from their residuals.  I_o is eliminated: with J the
derivatives by the coefficients c of a term, and weights w = 1/(sigma^2 (1 + z^2/Z^2)) (Cauchy) of residuals z,

    N = J'wJ - sum_o (J'wg)_o (J'wg)_o' / (g'wg)_o,      N c = J'w (y - d - g I).                                  (1)

So nothing that obeys the symmetry pulls at any coefficient.  What equivalents can't tell from such a signal must not be
fitted either: N v = rho M v, M = J'wJ + P, has 0 <= rho <= 1, the part of a mode v that shows in differences of
equivalents.  Only modes with rho > VISIBLE are; the others stay 0, and with them what changes the isotropic part.  P is
the roughness.

Terms are fitted one after the other, each with those before as they are, and kept where it lessens the misfit of orbits
that were held out by more than CHANCE times the error of that: orbits are halved by the cubes of voxels that they lie
in, each half is predicted by the fit to the other.  Those kept are fitted again, in turn.

A simple term is not dropped where those tried after it do as well: it says also what equivalents do not see, which they
leave at 0 (without its gradient a map of nuclease has a CC of -0.12 with an independent one at 1.6 Angstrom, not 0.75).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.diffuse.map.normal import normal_equations
from dials_postrefine.diffuse.map.places import Places
from dials_postrefine.diffuse.map.terms import Term

# The part of a mode that has to show in differences of equivalents.
VISIBLE = 0.02
# By how many standard errors the misfit of held-out orbits has to become less.
CHANCE = 3.0
# Residuals beyond so many sigma count less.
Z = 4.0
# Passes of one fit, each with normal equations and noise of its own, their steps, and rounds of steps of all terms,
# which end where terms change by less than SMALL.
PASSES, STEPS, ROUNDS, SMALL = 2, 6, 150, 1e-4
# Roughness, of coefficients that change by so much.
STIFFNESS = 0.1


@dataclass(frozen=True)
class UnmergedRecords:
    """
    Records (n,) to be fitted, in the order of their orbits: y = n/e and its variance by counting, the orbit by number
    from 0 on, the group (0 to N_GROUPS) of orbits that are held out together, and the level L of the shell.
    """

    y: np.ndarray
    variance: np.ndarray
    orbit: np.ndarray
    group: np.ndarray
    level: np.ndarray

    def take(self, rows: np.ndarray) -> UnmergedRecords:
        """
        Some of them.

        Parameters
        ----------
        rows : ndarray

        Returns
        -------
        UnmergedRecords
        """
        return UnmergedRecords(*(getattr(self, name)[rows] for name in ("y", "variance", "orbit", "group", "level")))


@dataclass(frozen=True)
class FittedTerm:
    """
    A term with its coefficients (p,) and their covariance (p, p): of the p, how many modes were seen; how much it
    lessens the misfit of held-out orbits, as part of it and in standard errors, and whether it was kept.
    """

    term: Term
    coefficients: np.ndarray
    covariance: np.ndarray
    n_seen: int
    gain: float
    significance: float
    kept: bool


def evaluate(fitted: list[FittedTerm], places: Places, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    What terms say of records.

    Parameters
    ----------
    fitted : list of FittedTerm
    places : Places
        Of n records.
    level : ndarray (n,)
        L.

    Returns
    -------
    factor, offset : ndarray (n,)
        g and d.
    """
    logarithm, offset = np.zeros(len(level)), np.zeros(len(level))
    for one in fitted:
        value = one.term.design(places) @ one.coefficients
        if one.term.is_factor:
            logarithm += value
        else:
            offset += level * value
    return np.exp(logarithm), offset


def fit(
    observed: UnmergedRecords,
    places: Places,
    terms: list[Term],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[list[FittedTerm], list[FittedTerm]]:
    """
    Fit the terms that pay.

    Parameters
    ----------
    observed : UnmergedRecords
    places : Places
        Of the same records.
    terms : list of Term
        In the order in which they are tried.
    progress : callable
        progress(what, done, total) is told of each term.

    Returns
    -------
    kept : list of FittedTerm
        Those that are to be used.
    tried : list of FittedTerm
        All, as they were when they were tried.
    """
    halves = [np.flatnonzero(observed.group % 2 == k) for k in (0, 1)]
    kept: list[FittedTerm] = []
    tried: list[FittedTerm] = []
    for number, term in enumerate(terms):
        design = term.design(places)
        state = evaluate(kept, places, observed.level)
        predicted = [np.empty_like(part) for part in state]
        for rows, others in (halves, halves[::-1]):
            found = _fit_term(observed.take(rows), design[rows], term, [part[rows] for part in state])[0]
            for part, value in zip(
                predicted, _with(term, design[others] @ found, [p[others] for p in state], observed.level[others])
            ):
                part[others] = value
        gain, significance = _gain(observed, state, predicted)
        found, covariance, n_seen = _fit_term(observed, design, term, state)
        tried.append(FittedTerm(term, found, covariance, n_seen, gain, significance, significance > CHANCE))
        if tried[-1].kept:
            kept.append(tried[-1])
        progress("Terms", number + 1, len(terms))
    if len(kept) > 1:
        kept = _settle(observed, places, kept)
    return kept, tried


def _with(term: Term, value: np.ndarray, state, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The state (g, d) with the value of a term."""
    factor, offset = state
    return (factor * np.exp(value), offset) if term.is_factor else (factor, offset + level * value)


def _settle(observed: UnmergedRecords, places: Places, kept: list[FittedTerm]) -> list[FittedTerm]:
    """Terms fitted in turn, a step each, until nothing changes."""
    designs, values = [one.term.design(places) for one in kept], [one.coefficients for one in kept]
    sizes = [design @ value for design, value in zip(designs, values)]
    state = evaluate(kept, places, observed.level)
    variance = noise(observed, state)
    covariances = [_covariance(observed, design, one.term, state, variance)[0] for design, one in zip(designs, kept)]
    for _ in range(ROUNDS):
        moved = 0.0
        for k, one in enumerate(kept):
            state = np.ones_like(observed.y), np.zeros_like(observed.y)
            for other, size in zip(kept, sizes):
                state = _with(other.term, size, state, observed.level)
            change = _change(observed, designs[k], one.term, state, values[k], covariances[k], variance)
            values[k] = values[k] + change
            step = designs[k] @ change
            sizes[k] = sizes[k] + step
            moved = max(moved, float(np.std(step)))
        if moved < SMALL:
            break
    return [replace(one, coefficients=v, covariance=c) for one, v, c in zip(kept, values, covariances)]


def _fit_term(observed: UnmergedRecords, design, term: Term, state) -> tuple[np.ndarray, np.ndarray, int]:
    """The coefficients (p,) of a term, by (1), their covariance, and the number of modes that were seen."""
    found, n_seen, covariance = np.zeros(design.shape[1]), 0, np.zeros((design.shape[1],) * 2)
    for _ in range(PASSES):
        now = _with(term, design @ found, state, observed.level)
        variance = noise(observed, now)
        covariance, n_seen = _covariance(observed, design, term, now, variance)
        for _ in range(STEPS if n_seen else 0):  # the normal equations change little
            change = _change(observed, design, term, now, found, covariance, variance)
            found = found + change
            now = _with(term, design @ found, state, observed.level)
            if np.std(design @ change) < SMALL:
                break
    return found, covariance, n_seen


def _covariance(observed, design, term: Term, state, variance) -> tuple[np.ndarray, int]:
    """N^-1 of the modes of a term that are seen, with the term in the state, and their number."""
    from scipy import linalg

    n, p = design.shape
    intensity, _, weight = residuals(observed, state, variance)
    slope = state[0] * intensity[observed.orbit] if term.is_factor else observed.level
    full, normal = np.zeros((p, p)), np.zeros((p, p))
    columns, values = design.indices.reshape(n, -1), design.data.reshape(n, -1)
    normal_equations(columns, values, (slope, weight, state[0]), observed.orbit, full, normal)
    rough = _rough(term)
    visible, modes = linalg.eigh(normal, full + rough + 1e-9 * (np.trace(full) / p + 1e-300) * np.eye(p))
    seen = modes[:, visible > VISIBLE]
    if not seen.shape[1]:
        return np.zeros((p, p)), 0
    return seen @ np.linalg.inv(seen.T @ (normal + rough) @ seen) @ seen.T, seen.shape[1]


def _rough(term: Term) -> np.ndarray:
    """P: the roughness, and a little for what has none."""
    return (term.rough + 1e-3 * np.eye(len(term.rough))) / STIFFNESS**2


def _change(observed, design, term, state, found, covariance, variance) -> np.ndarray:
    """A step of the coefficients `found` of a term that is in the state."""
    intensity, residual, weight = residuals(observed, state, variance)
    slope = state[0] * intensity[observed.orbit] if term.is_factor else observed.level
    return covariance @ (design.T @ (weight * slope * residual) - _rough(term) @ found)


def residuals(
    observed: UnmergedRecords, state: tuple[np.ndarray, np.ndarray], variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    How records differ from their equivalents.

    Parameters
    ----------
    observed : UnmergedRecords
    state : tuple of two ndarray (n,)
        g and d.
    variance : ndarray (n,)
        sigma^2.

    Returns
    -------
    intensity : ndarray (n_orbits,)
        I of the orbits.
    residual, weight : ndarray (n,)
        y - d - g I, and the weights, which are robust.
    """
    (g, d), orbit = state, observed.orbit
    signal = observed.y - d
    residual = np.zeros_like(signal)
    for _ in range(4):
        weight = 1.0 / (variance * (1.0 + residual * residual / (variance * Z * Z)))
        total = np.bincount(orbit, weight * g * g)
        intensity = np.bincount(orbit, weight * g * signal) / np.maximum(total, 1e-300)
        residual = signal - g * intensity[orbit]
    return intensity, residual, weight


def noise(observed: UnmergedRecords, state: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """
    sigma^2 of records, from how they differ from their equivalents.

    Parameters
    ----------
    observed : UnmergedRecords
    state : tuple of two ndarray (n,)
        g and d.

    Returns
    -------
    ndarray (n,)
        alpha var/e^2 + kappa^2 L^2; alpha is 0.1 at least.
    """
    from scipy.optimize import nnls

    relative = observed.variance / observed.level**2
    variance = observed.variance + (0.02 * observed.level) ** 2
    for _ in range(2):
        (g, _), orbit = state, observed.orbit
        weight = 1.0 / variance
        total = np.bincount(orbit, weight * g * g)
        _, residual, _ = residuals(observed, state, variance)
        freedom = 1.0 - weight * g * g / np.maximum(total[orbit], 1e-300)
        free = freedom > 0.3
        if np.count_nonzero(free) < 100:
            return variance
        square = (residual[free] / observed.level[free]) ** 2 / freedom[free]
        order = np.array_split(np.argsort(relative[free]), 10)
        medians = np.array([np.median(square[part]) / 0.4549 for part in order])  # the median of chi^2 of one
        counted = np.array([np.median(relative[free][part]) for part in order])
        alpha, kappa_sq = nnls(np.stack([counted, np.ones(10)], axis=1) / medians[:, None], np.ones(10))[0]
        variance = max(alpha, 0.1) * observed.variance + kappa_sq * observed.level**2
    return variance


def misfits(observed: UnmergedRecords, state, variance: np.ndarray) -> np.ndarray:
    """
    How badly equivalents agree: Z^2 ln(1 + z^2/Z^2), whose sum the weights of the fit make least.

    Parameters
    ----------
    observed : UnmergedRecords
    state : tuple of two ndarray (n,)
        g and d.
    variance : ndarray (n,)

    Returns
    -------
    ndarray (n,)
    """
    _, residual, _ = residuals(observed, state, variance)
    return Z * Z * np.log1p(residual * residual / (variance * Z * Z))


def _gain(observed: UnmergedRecords, before, after) -> tuple[float, float]:
    """How much less the misfit is, as part of it, and in standard errors, groups of orbits being independent."""
    variance = noise(observed, before)
    old, new = misfits(observed, before, variance), misfits(observed, after, variance)
    each = np.bincount(observed.group, old - new)
    error = np.sqrt(np.sum(each * each))
    return float(each.sum() / max(old.sum(), 1e-300)), float(each.sum() / error) if error > 0.0 else 0.0
