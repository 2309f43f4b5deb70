"""
Where the crystal, the beam and the surfaces are: s_g and m_g.

    g = A h,   2 K s_g = -2 k.g - g.g,   m_g = (1 + g.n/k.n)^(-1/2)

A (3, 3) has the reciprocal basis in its columns, as DIALS' A, k is the wave vector of the incident electrons in vacuum,
|k| = K, n the unit normal of both surfaces, on the side on which the electrons leave: k.n > 0.  s_g is along k here,
within |g|/K of what others have along n; the equation is exact but for terms in gamma^2.  Any of A, k and n may be one
for all or a stack, one an orientation.  1/Angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """
    Of one orientation, or of o.

    Attributes
    ----------
    reciprocal : ndarray, shape (3, 3) or (o, 3, 3)
        A.
    k : ndarray, shape (3,) or (o, 3)
    normal : ndarray, shape (3,) or (o, 3)
        n, of unit length; left out (empty) that of surfaces across the beam.
    """

    reciprocal: np.ndarray
    k: np.ndarray
    normal: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if self.normal.size == 0:
            object.__setattr__(self, "normal", self.k / np.linalg.norm(self.k, axis=-1, keepdims=True))
        if np.any(self.k_normal <= 0.0):
            raise ValueError("the electrons run along the surface or into it: turn its normal to where they leave")

    @property
    def k_normal(self) -> np.ndarray:
        """K_n, of each orientation or one of all; 1/Angstrom."""
        return np.sum(self.k * self.normal, axis=-1)

    def g(self, hkl: np.ndarray) -> np.ndarray:
        """g of indices (n, 3), shape (..., n, 3)."""
        return np.asarray(hkl, dtype=float) @ np.swapaxes(self.reciprocal, -1, -2)


def twice_k_s(geometry: Geometry, hkl: np.ndarray) -> np.ndarray:
    """
    2 K s_g (module docstring).

    Parameters
    ----------
    geometry : Geometry
    hkl : ndarray, shape (n, 3)

    Returns
    -------
    ndarray, shape (..., n)
        1/Angstrom^2; (o, n) for a stack.
    """
    g = geometry.g(hkl)
    return -2.0 * along(g, geometry.k) - np.sum(g * g, axis=-1)


def excitation_errors(geometry: Geometry, hkl: np.ndarray) -> np.ndarray:
    """
    s_g; negative outside of the Ewald sphere.

    Parameters
    ----------
    geometry : Geometry
    hkl : ndarray, shape (n, 3)

    Returns
    -------
    ndarray, shape (..., n)
        1/Angstrom; (o, n) for a stack.
    """
    k = np.linalg.norm(geometry.k, axis=-1)
    return twice_k_s(geometry, hkl) / (2.0 * k[..., None])


def obliquity(geometry: Geometry, hkl: np.ndarray) -> np.ndarray:
    """
    m_g (module docstring).

    Parameters
    ----------
    geometry : Geometry
    hkl : ndarray, shape (n, 3)

    Returns
    -------
    ndarray, shape (..., n)

    Raises
    ------
    ValueError
        For a beam that runs along the surface, or back: this is no transmission.
    """
    square = 1.0 + along(geometry.g(hkl), geometry.normal) / geometry.k_normal[..., None]
    if np.any(square <= 0.0):
        raise ValueError("a beam leaves through the entrance surface: take beams of smaller |g|")
    return square**-0.5


def along(g: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """
    g.d of vectors and a direction.

    Parameters
    ----------
    g : ndarray, shape (..., n, 3)
    direction : ndarray, shape (3,) or (o, 3)
        d.

    Returns
    -------
    ndarray, shape (..., n)
        (o, n) where either is a stack.
    """
    return (g @ np.asarray(direction, dtype=float)[..., :, None])[..., 0]
