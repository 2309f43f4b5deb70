"""
The scaled observations beside what their lattices' models leave free: where the fits of errors that all share start.

    y = I/(G e p),   g_k = d ln(G e p r_0/r_s)/dx_k     (k: the parameters that the model refines, but for epsilon)

y with the variance of the error model, of the observations that were merged, outliers left out, whose index at least
two lattices have and whose merged intensity is above SIGNIFICANT of its standard deviations: of the others y says
nothing in relative terms.  Of very large sets as many lattices, evenly taken, as have MOST observations: a part is
enough for errors that all share.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.model import (
    CELL_SCALE,
    LN_SCALE,
    PARAMETERS,
    JoinedObservations,
    calculate_with_jacobian,
    radius,
    rounds,
)
from dials_postrefine.stills.outcome import PostrefinedStills

SIGNIFICANT = 3.0
MOST = 120_000


@dataclass(frozen=True)
class Recording:
    """
    How each usable observation was recorded, n observations of L lattices.

    s1 (n, 3) unit vectors to the spots; panel (n,) numbers and position (n, 2) on the panel as fractions of its size,
    NaN where unknown; correction (n,) the factor 1/P that was applied for polarisation, 1 where none was.  By lattice:
    s0 (L, 3) unit vectors along the beam, normal (L, 3) of the plane of polarisation and fraction (L,) in it as the
    beam models have them, NaN where the radiation is not polarised; order (L,), the place of each in the series; shared
    (L,): whether it stands on one goniometer with others.
    """

    s1: np.ndarray
    panel: np.ndarray
    position: np.ndarray
    correction: np.ndarray
    s0: np.ndarray
    normal: np.ndarray
    fraction: np.ndarray
    order: np.ndarray
    shared: np.ndarray


@dataclass(frozen=True)
class Deviations:
    """
    Observations that were merged (module docstring), n of L lattices, sorted by lattice, all arrays (n,) but gradient.

    value and variance; unique and lattice, renumbered without gaps; row, the number of each among all; d_star_sq;
    gradient (n, k) by the lattice's refined parameters; cell_scale, epsilon of the lattice, and cell_gradient by it;
    ratio, r_h/r_s.
    """

    value: np.ndarray
    variance: np.ndarray
    unique: np.ndarray
    lattice: np.ndarray
    row: np.ndarray
    d_star_sq: np.ndarray
    gradient: np.ndarray
    cell_scale: np.ndarray
    cell_gradient: np.ndarray
    ratio: np.ndarray

    @property
    def n_lattices(self) -> int:
        return int(self.lattice[-1]) + 1 if len(self.lattice) else 0

    @property
    def n_unique(self) -> int:
        return int(self.unique.max()) + 1 if len(self.unique) else 0

    def select(self, mask: np.ndarray) -> Deviations:
        """The observations where mask (n,) holds, numbered without gaps."""
        chosen = {one.name: getattr(self, one.name)[mask] for one in fields(self)}
        for name in ("unique", "lattice"):
            chosen[name] = np.unique(chosen[name], return_inverse=True)[1]
        return Deviations(**chosen)


def collect_deviations(stills: Stills, result: PostrefinedStills, most: int = MOST) -> Deviations:
    """
    The deviations of a result (module docstring).

    Parameters
    ----------
    stills : Stills
    result : PostrefinedStills
    most : int
        Of so many observations about; of more lattices every so many.

    Returns
    -------
    Deviations
        None of them where no lattice was accepted.
    """
    chosen = _some_lattices(stills, result.accepted, most)
    part, rows = select_lattices(stills, chosen), np.flatnonzero(chosen[stills.lattice()])
    lattice, x = part.lattice(), result.x[chosen]
    ones = np.ones(len(rows))
    observations = JoinedObservations(part.q, part.q_sq, part.s0, part.intensity, part.variance, ones, lattice)
    names = rounds(result.model, result.radius, result.unit_cell)[-1]
    calculated, jacobian = calculate_with_jacobian(x, observations, result.profile)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gradient = jacobian / calculated[:, None]
    value, variance = result.merging_values(stills, rows)
    used = (result.kept & ~result.outlier)[rows] & ~stills.absent[part.unique]
    used &= np.isfinite(gradient).all(axis=1) & np.isfinite(value) & (variance > 0.0) & np.isfinite(variance)
    # a lattice whose scale alone was fitted has nothing else that could give way
    refined = np.array([fit.refined for fit in result.fits])[chosen][lattice]
    columns = [PARAMETERS.index(name) for name in names if name != PARAMETERS[CELL_SCALE]]
    free = np.where(refined[:, None] | (np.array(columns) == LN_SCALE), gradient[:, columns], 0.0)
    ratio = observations.excitation(x)[0] / radius(observations.parameters(x), part.q_sq)
    cell = x[lattice, CELL_SCALE], gradient[:, CELL_SCALE]
    found = Deviations(value, variance, part.unique, lattice, rows, part.q_sq, free, *cell, ratio)
    found = found.select(used & np.isfinite(ratio))
    return _worth_something(_worth_something(found))


def _some_lattices(stills: Stills, accepted: np.ndarray, most: int) -> np.ndarray:
    """Which lattices are looked at (L,): all that are accepted, or every so many of them."""
    number = np.flatnonzero(accepted)
    n = int(np.diff(stills.offsets)[number].sum())
    chosen = np.zeros(len(accepted), dtype=bool)
    chosen[number[:: max(1, -(-n // most))]] = True
    return chosen


def _worth_something(found: Deviations) -> Deviations:
    """Without what has no other lattice's observation beside it, or no significant mean."""
    if not len(found.value):
        return found
    merged = merge(found.value, found.variance, found.unique, found.n_unique)
    pairs = np.unique(found.unique.astype(np.int64) * found.n_lattices + found.lattice)
    several = np.bincount(pairs // found.n_lattices, minlength=found.n_unique) > 1
    good = several & (merged.intensity > SIGNIFICANT * merged.sigma)
    return found.select(good[found.unique])
