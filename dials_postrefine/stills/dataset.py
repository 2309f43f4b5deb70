"""
The data set: the usable observations of all lattices, as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.lattice import FitSettings, Reason
from dials_postrefine.stills.model import Observations
from dials_postrefine.stills.wilson import WilsonPrior


@dataclass(frozen=True)
class EarlierFit:
    """
    What an earlier run found of a lattice: x (7,) from the orientation as indexed, its covariance (7, 7), whether more
    than the scale was fitted, and the profile, radius and unit_cell of its model.
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
        return all(getattr(self, name) == getattr(settings, name) for name in ("profile", "radius", "unit_cell"))


@dataclass
class Stills:
    """
    The usable observations of all lattices, sorted by lattice: L lattices, n observations.

    a_matrix (L, 3, 3) and s0 (L, 3) in 1/Angstrom; offsets (L + 1,): lattice k owns rows offsets[k]:offsets[k + 1];
    h (n, 3) Miller indices as indexed; unique (n,) number of the index in the asymmetric unit, 0 to n_unique - 1;
    intensity, variance (n,) corrected for polarisation and efficiency; inverse_variance (n,) variance of 1/p as the
    integrator gave it, or None; half (L,) the half set of each lattice; absent (n_unique,) systematic absences;
    prior: what Wilson statistics need of the unique indices, or None; rejected: the lattices that are out before any
    fit, with the reason; earlier: what an earlier run found of some of the lattices.
    """

    a_matrix: np.ndarray
    s0: np.ndarray
    offsets: np.ndarray
    h: np.ndarray
    unique: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    half: np.ndarray
    absent: np.ndarray
    inverse_variance: np.ndarray | None = None
    prior: WilsonPrior | None = None
    rejected: dict[int, Reason] = field(default_factory=dict)
    earlier: dict[int, EarlierFit] = field(default_factory=dict)

    @property
    def n_lattices(self) -> int:
        return len(self.a_matrix)

    @property
    def n_unique(self) -> int:
        return len(self.absent)

    def rows(self, k: int) -> slice:
        """The rows of lattice k."""
        return slice(self.offsets[k], self.offsets[k + 1])

    def lattice(self) -> np.ndarray:
        """The lattice of each observation (n,)."""
        return np.repeat(np.arange(self.n_lattices, dtype=np.int32), np.diff(self.offsets))

    def observations(self, k: int, reference: np.ndarray) -> Observations:
        """The observations of lattice k with the reference (its own rows) that they are fitted to."""
        rows = self.rows(k)
        q = scattering_vectors(self.a_matrix[k], self.h[rows])
        q_sq = np.einsum("ij,ij->i", q, q)
        return Observations(q, q_sq, self.s0[k], self.intensity[rows], self.variance[rows], reference)


def select_lattices(stills: Stills, selection: np.ndarray) -> Stills:
    """The stills of the selected lattices (L,) alone."""
    rows = selection[stills.lattice()]
    number = np.cumsum(selection) - 1
    return replace(
        stills,
        a_matrix=stills.a_matrix[selection],
        s0=stills.s0[selection],
        offsets=np.concatenate([[0], np.cumsum(np.diff(stills.offsets)[selection])]),
        h=stills.h[rows],
        unique=stills.unique[rows],
        intensity=stills.intensity[rows],
        variance=stills.variance[rows],
        half=stills.half[selection],
        inverse_variance=None if stills.inverse_variance is None else stills.inverse_variance[rows],
        rejected={int(number[k]): reason for k, reason in stills.rejected.items() if selection[k]},
        earlier={int(number[k]): fit for k, fit in stills.earlier.items() if selection[k]},
    )
