"""
The voxels of a map that models are fitted to.

Symmetry equivalents by the Laue class are an orbit.  Held out are whole orbits, so that no voxel that is fitted tells
what a held-out one is: some by chance, or contiguous blocks of reciprocal space (of BLOCK indices along each axis, with
all their equivalents).  Where a map was averaged over symmetry, one voxel of each orbit is taken: the others are copies
of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

BLOCK = 4.0  # indices


@dataclass(frozen=True)
class PoissonLaw:
    """Variances by Poisson's law: level L of sigma^2 = L I/exposure, with the exposure (n,) of the voxels."""

    level: float
    exposure: np.ndarray


@dataclass(frozen=True)
class Voxels:
    """
    The voxels: fractional indices h (n, 3) in steps of 1/cells (3,), q (n, 3) in 1/Angstrom, intensity and sigma (n,).

    orbit (n,) of int numbers the orbits, held_out (n,) of bool says which voxels are not fitted; poisson is the law of
    the variances, None where sigmas are other.
    """

    h: np.ndarray
    cells: np.ndarray
    q: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    orbit: np.ndarray
    held_out: np.ndarray
    poisson: PoissonLaw | None = None

    def __len__(self) -> int:
        return len(self.h)

    @property
    def q_sq(self) -> np.ndarray:
        """|q|^2 (n,), 1/Angstrom^2."""
        return (self.q**2).sum(axis=1)

    @property
    def s(self) -> np.ndarray:
        """|s| (n,), 1/Angstrom."""
        return np.sqrt(self.q_sq) / (2.0 * np.pi)

    def select(self, chosen: np.ndarray) -> Voxels:
        """The chosen voxels alone."""
        names = ("h", "q", "intensity", "sigma", "orbit", "held_out")
        poisson = self.poisson and replace(self.poisson, exposure=self.poisson.exposure[chosen])
        return replace(self, poisson=poisson, **{name: getattr(self, name)[chosen] for name in names})

    @cached_property
    def blocks(self) -> np.ndarray:
        """The block of reciprocal space (n,) of int of each voxel: that of the first voxel of its orbit."""
        return block_of(self.h, self.orbit)

    def variance(self, calculated: np.ndarray) -> np.ndarray:
        """
        The variance of the intensities: by Poisson's law that of what is expected, which has no bias, else sigma^2.

        Parameters
        ----------
        calculated : ndarray (n,)
            What is expected.

        Returns
        -------
        ndarray (n,)
        """
        if self.poisson is None:
            return self.sigma**2
        least = 0.05 * np.median(self.intensity)
        return self.poisson.level * np.maximum(calculated, max(least, 1e-12)) / self.poisson.exposure


def orbits_of(h: np.ndarray, cells: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """
    The orbits of indices by rotations and Friedel's law.

    Parameters
    ----------
    h : ndarray (n, 3)
        In steps of 1/cells.
    cells : ndarray (3,)
    rotations : ndarray (g, 3, 3)
        On positions: indices go to h R.

    Returns
    -------
    ndarray (n,) of int
        A number that is the same for equivalents.
    """
    best = None
    scale = np.array([1 << 42, 1 << 21, 1], np.int64)
    for rotation in np.unique(np.asarray(rotations), axis=0):
        number = np.rint((h @ rotation) * np.lcm.reduce(np.asarray(cells, int))).astype(np.int64) @ scale
        number = np.maximum(number, -number)
        best = number if best is None else np.maximum(best, number)
    return np.unique(best, return_inverse=True)[1].reshape(-1)


def hold_out(h: np.ndarray, orbit: np.ndarray, fraction: float, kind: str, seed: int = 0) -> np.ndarray:
    """
    Which voxels are held out.

    Parameters
    ----------
    h : ndarray (n, 3)
    orbit : ndarray (n,) of int
    fraction : float
        Of the orbits, or of the blocks.
    kind : str
        "orbits", or "regions": blocks of BLOCK indices; an orbit is in the block of its first voxel.
    seed : int

    Returns
    -------
    ndarray (n,) of bool
    """
    group = block_of(h, orbit) if kind == "regions" else np.unique(orbit, return_inverse=True)[1].reshape(-1)
    n = int(group.max(initial=-1)) + 1
    chosen = np.zeros(n, bool)
    chosen[np.random.default_rng(seed).permutation(n)[: round(fraction * n)]] = True
    return chosen[group]


def block_of(h: np.ndarray, orbit: np.ndarray) -> np.ndarray:
    """
    The block of BLOCK indices along each axis in which the first voxel of each orbit lies.

    Parameters
    ----------
    h : ndarray (n, 3)
    orbit : ndarray (n,) of int

    Returns
    -------
    ndarray (n,) of int
    """
    _, first, row = np.unique(orbit, return_index=True, return_inverse=True)
    block = np.floor(h[first] / BLOCK + 0.5).astype(np.int64)
    block -= block.min(axis=0, initial=0)
    size = block.max(axis=0, initial=0) + 1
    number = (block[:, 0] * size[1] + block[:, 1]) * size[2] + block[:, 2]
    return np.unique(number, return_inverse=True)[1].reshape(-1)[row.reshape(-1)]
