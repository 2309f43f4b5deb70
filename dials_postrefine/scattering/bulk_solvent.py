"""
The model of the intensities: atoms, a flat bulk solvent, one scale and one overall B.

    F_model(h) = k_ov exp(-h^T B* h/4) (F_calc + k_sol exp(-B_sol s^2) F_mask),      s = sin(theta)/lambda
    I_model(h) = 1/m sum |F_model|^2 over the m indices of a Friedel pair

(Jiang and Brunger 1994; Afonine, Grosse-Kunstleve and Adams 2005).  B* = A^-1 B_cart A^-T, B_cart the overall
anisotropic B in cctbx's Cartesian frame; h^T B* h = B d*^2 where it is isotropic.  m = 2 where dispersion makes
Friedel pairs differ and the data are their mean, else m = 1.

The parameters are x = (ln k_ov, b_1..b_p, k_sol, B_sol), B_cart = sum_j b_j T_j with a basis T of the tensors that the
crystal system allows (tensors.py); k_sol and B_sol only where there is solvent.  All derivatives are closed
expressions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

K_SOL, B_SOL = 0.35, 46.0  # electrons/Angstrom^3, Angstrom^2: means of refined structures (Fokine and Urzhumtsev 2002)


@dataclass
class Parts:
    """
    What the model is made of, for n reflections.

    Attributes
    ----------
    d_star_sq : ndarray, shape (n,)
        1/Angstrom^2.
    f_calc : ndarray of complex, shape (n, m)
    f_mask : ndarray of complex, shape (n, m), or (n, 0) without solvent
    q : ndarray, shape (n, p)
        h^T T*_j h of the basis tensors, 1/Angstrom^2 for B in Angstrom^2.
    """

    d_star_sq: np.ndarray
    f_calc: np.ndarray
    f_mask: np.ndarray
    q: np.ndarray

    def select(self, rows: np.ndarray) -> Parts:
        """The reflections of these rows (mask or numbers)."""
        return Parts(self.d_star_sq[rows], self.f_calc[rows], self.f_mask[rows], self.q[rows])

    @property
    def has_solvent(self) -> bool:
        """Whether there is a bulk solvent."""
        return self.f_mask.shape[1] > 0

    @property
    def n_parameters(self) -> int:
        """ln k_ov, p numbers of B, and two of the solvent where there is any."""
        return 1 + self.q.shape[1] + (2 if self.has_solvent else 0)


def structure_factors(parts: Parts, x: np.ndarray) -> np.ndarray:
    """
    F_model of the parameters (module docstring).

    Parameters
    ----------
    parts : Parts
        Of n reflections.
    x : ndarray, shape (n_parameters,)

    Returns
    -------
    ndarray of complex, shape (n, m)
    """
    p = parts.q.shape[1]
    scale = np.exp(x[0] - parts.q @ x[1 : 1 + p] / 4.0)
    return scale[:, None] * _unscaled(parts, x)[0]


def intensities(parts: Parts, x: np.ndarray) -> np.ndarray:
    """
    I_model of the parameters (module docstring).

    Parameters
    ----------
    parts : Parts
        Of n reflections.
    x : ndarray, shape (n_parameters,)

    Returns
    -------
    ndarray, shape (n,)
    """
    return np.mean(np.abs(structure_factors(parts, x)) ** 2, axis=1)


def intensities_and_derivatives(parts: Parts, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    I_model and its derivatives by the parameters.

    Parameters
    ----------
    parts : Parts
        Of n reflections.
    x : ndarray, shape (n_parameters,)

    Returns
    -------
    intensity : ndarray, shape (n,)
    derivatives : ndarray, shape (n, n_parameters)
    """
    p = parts.q.shape[1]
    scale_sq = np.exp(2.0 * x[0] - parts.q @ x[1 : 1 + p] / 2.0)
    f, solvent = _unscaled(parts, x)
    intensity = scale_sq * np.mean(np.abs(f) ** 2, axis=1)
    derivatives = np.empty((len(intensity), parts.n_parameters))
    derivatives[:, 0] = 2.0 * intensity
    derivatives[:, 1 : 1 + p] = -0.5 * intensity[:, None] * parts.q
    if solvent is not None:
        by_k_sol = scale_sq * np.mean(2.0 * (f.conj() * solvent).real, axis=1)
        derivatives[:, 1 + p] = by_k_sol
        derivatives[:, 2 + p] = -0.25 * parts.d_star_sq * x[1 + p] * by_k_sol
    return intensity, derivatives


def _unscaled(parts: Parts, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """F_calc + k_sol exp(-B_sol s^2) F_mask, and exp(-B_sol s^2) F_mask, both (n, m)."""
    if not parts.has_solvent:
        return parts.f_calc, None
    k_sol, b_sol = x[-2:]
    solvent = np.exp(-b_sol * parts.d_star_sq / 4.0)[:, None] * parts.f_mask
    return parts.f_calc + k_sol * solvent, solvent
