"""
The data set: the usable observations of all lattices, as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.friedel import FriedelPairs
from dials_postrefine.stills.model import JoinedObservations, Observations
from dials_postrefine.stills.wilson import WilsonPrior


@dataclass(frozen=True)
class EarlierFit:
    """
    What an earlier run found of a lattice: x (7,) from the orientation as indexed, its covariance (7, 7), whether more
    than the scale was fitted, and the profile's name, radius and unit_cell of its model.
    """

    x: np.ndarray
    covariance: np.ndarray
    refined: bool
    profile: str
    radius: str
    unit_cell: str

    reason = None  # like a LatticeFit that was accepted, which it is

    def suits(self, settings: FitSettings) -> bool:
        """Whether a fit with these settings can go on from here."""
        return (self.profile, self.radius, self.unit_cell) == (
            settings.profile.name,
            settings.radius,
            settings.unit_cell,
        )


@dataclass
class Stills:
    """
    The usable observations of all lattices, sorted by lattice: L lattices, n observations.

    a_matrix (L, 3, 3) and s0 (L, 3) in 1/Angstrom; offsets (L + 1,): lattice k owns rows offsets[k]:offsets[k + 1];
    h (n, 3) Miller indices as indexed; q (n, 3) in 1/Angstrom and q_sq = d*^2 (n,), which geometry.vectors_of_lattices
    makes of these (whoever replaces a_matrix or h replaces them too); unique (n,) number of the index in the
    asymmetric unit, 0 to n_unique - 1; intensity, variance (n,) corrected for polarisation and efficiency; half (L,)
    the half set of each lattice; absent (n_unique,) systematic absences; inverse_variance (n,) variance of 1/p as the
    integrator gave it, (0,) where it gave none; prior: what Wilson statistics need of the unique indices, or None;
    friedel: the pairs of the unique indices where Friedel pairs are kept apart, else None;
    rejected: the lattices that are out before any fit, with the reason; earlier: what an earlier run found of the
    lattices that it accepted.
    """

    a_matrix: np.ndarray
    s0: np.ndarray
    offsets: np.ndarray
    h: np.ndarray
    q: np.ndarray
    q_sq: np.ndarray
    unique: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    half: np.ndarray
    absent: np.ndarray
    inverse_variance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    prior: WilsonPrior | None = None
    rejected: dict[int, Reason] = field(default_factory=dict)
    earlier: dict[int, EarlierFit] = field(default_factory=dict)
    friedel: FriedelPairs | None = None

    @property
    def n_lattices(self) -> int:
        return len(self.a_matrix)

    @property
    def n_unique(self) -> int:
        return len(self.absent)

    def rows(self, k: int, last: int | None = None) -> slice:
        """The rows of lattice k, or of the lattices from k up to and without last."""
        return slice(self.offsets[k], self.offsets[k + 1 if last is None else last])

    def lattice(self) -> np.ndarray:
        """The lattice of each observation (n,)."""
        return np.repeat(np.arange(self.n_lattices, dtype=np.int32), np.diff(self.offsets))

    def observations(self, k: int, reference: np.ndarray) -> Observations:
        """The observations of lattice k with the reference (its rows) that they are fitted to."""
        rows = self.rows(k)
        return Observations(
            self.q[rows], self.q_sq[rows], self.s0[k], self.intensity[rows], self.variance[rows], reference
        )

    def joined(self, reference: np.ndarray, first: int = 0, last: int | None = None) -> JoinedObservations:
        """The observations of the lattices from first up to and without last together, with their reference."""
        last = self.n_lattices if last is None else last
        rows = self.rows(first, last) if last > first else slice(0, 0)
        lattice = np.repeat(np.arange(last - first), np.diff(self.offsets[first : last + 1]))
        return JoinedObservations(
            self.q[rows],
            self.q_sq[rows],
            self.s0[first:last],
            self.intensity[rows],
            self.variance[rows],
            reference,
            lattice,
        )

    def unmatched(self, k: int) -> Observations:
        """The observations of lattice k, for what needs no reference."""
        rows = self.rows(k)
        return self.observations(k, np.full(rows.stop - rows.start, np.nan))


BY_OBSERVATION = ("h", "q", "q_sq", "unique", "intensity", "variance")


def select_lattices(stills: Stills, selection: np.ndarray) -> Stills:
    """
    The stills of some lattices alone, which are numbered anew.

    Parameters
    ----------
    stills : Stills
    selection : ndarray of bool, shape (L,)

    Returns
    -------
    Stills
    """
    rows = selection[stills.lattice()]
    number = np.cumsum(selection) - 1
    return replace(
        stills,
        a_matrix=stills.a_matrix[selection],
        s0=stills.s0[selection],
        offsets=np.concatenate([[0], np.cumsum(np.diff(stills.offsets)[selection])]),
        half=stills.half[selection],
        inverse_variance=stills.inverse_variance[rows] if len(stills.inverse_variance) else stills.inverse_variance,
        rejected={int(number[k]): reason for k, reason in stills.rejected.items() if selection[k]},
        earlier={int(number[k]): fit for k, fit in stills.earlier.items() if selection[k]},
        **{name: getattr(stills, name)[rows] for name in BY_OBSERVATION},
    )
