"""
Derivatives of amplitudes and intensities: Daleckii-Krein.

With M C = C lambda, x_j = pi t lambda_j/K_n, e_j = exp(i x_j) and a change P of M (K_n d(M/K_n): structurematrix.py)

    d[exp(i pi t M/K_n)] = C [Phi o (C^-1 P C)] C^-1 (pi t/K_n),   Phi_jk = (e_j - e_k)/(x_j - x_k)
                                                                         = i exp(i (x_j + x_k)/2) sinc((x_j - x_k)/2)

(Najfeld and Havel 1995, Adv. Appl. Math. 16, 321), sinc z = sin z/z also for complex z: the last form loses no digit
where eigenvalues are equal, or nearly.  One diagonalisation serves all parameters.  And

    psi_g = m_g/m_0 [exp(i pi t M/K_n)]_g0,   dpsi = psi (d ln m_g - d ln m_0) + m_g/m_0 [d exp]_g0
    dI = 2 Re psi* dpsi
    dpsi/dt = m_g/m_0 sum_j C_gj (i pi lambda_j/K_n) e_j (C^-1)_j0

For one orientation.  Without absorption M is diagonalised by eigh; with it by eig, so that these are the derivatives
of the exact amplitudes (method ``eig``), and not of those to first order in U'.  The gradient of one number made of all
intensities costs no more than one parameter: gradient_by_matrix gives it by the elements of M.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.bloch.propagation import Eigen, StructureMatrix, diagonalise, of_eigen, phases
from dials_postrefine.electron.bloch.structurematrix import Change


@dataclass(frozen=True)
class Differentiable:
    """
    Amplitudes of one orientation, and what their derivatives need.

    Attributes
    ----------
    matrix : StructureMatrix
    eigen : Eigen
    thickness : ndarray, shape (t,)
        Angstrom.
    psi : ndarray of complex, shape (t, n)
    """

    matrix: StructureMatrix
    eigen: Eigen
    thickness: np.ndarray
    psi: np.ndarray

    @property
    def intensity(self) -> np.ndarray:
        """I, shape (t, n)."""
        return np.abs(self.psi) ** 2


def differentiable(matrix: StructureMatrix, thickness: np.ndarray) -> Differentiable:
    """
    Amplitudes of M of one orientation, to be differentiated.

    Parameters
    ----------
    matrix : StructureMatrix
    thickness : ndarray, shape (t,)
        Angstrom.

    Returns
    -------
    Differentiable
    """
    thickness = np.atleast_1d(np.asarray(thickness, dtype=float))
    eigen = diagonalise(matrix, "eig" if matrix.absorbs else "eigh")
    psi = of_eigen(eigen, matrix, thickness) * matrix.factor
    return Differentiable(matrix, eigen, thickness, psi)


def amplitudes_by(at: Differentiable, change: Change) -> np.ndarray:
    """
    dpsi by p parameters.

    Parameters
    ----------
    at : Differentiable
    change : Change

    Returns
    -------
    ndarray of complex, shape (p, t, n)
    """
    c, inverse = at.eigen.vectors, at.eigen.inverse
    b = inverse @ change.matrix @ c
    k_normal = float(at.matrix.k_normal)
    found = np.empty((len(b), *at.psi.shape), dtype=complex)
    for i, t in enumerate(at.thickness):
        weighted = _divided_differences(at.eigen.values, t, k_normal) * at.eigen.excitation
        found[:, i] = (np.pi * t / k_normal) * np.einsum("pjk,jk->pj", b, weighted) @ c.T
    found *= at.matrix.factor
    return found + at.psi * (change.log_m - change.log_m[:, :1])[:, None, :]


def intensities_by(at: Differentiable, change: Change) -> np.ndarray:
    """
    dI by p parameters.

    Parameters
    ----------
    at : Differentiable
    change : Change

    Returns
    -------
    ndarray, shape (p, t, n)
    """
    return 2.0 * np.real(np.conj(at.psi) * amplitudes_by(at, change))


def amplitudes_by_thickness(at: Differentiable) -> np.ndarray:
    """
    dpsi/dt.

    Parameters
    ----------
    at : Differentiable

    Returns
    -------
    ndarray of complex, shape (t, n)
        1/Angstrom.
    """
    rate = 1j * np.pi * at.eigen.values / float(at.matrix.k_normal)
    waves = (rate * at.eigen.excitation)[:, None] * phases(at.eigen.values, at.matrix, at.thickness)
    return (at.eigen.vectors @ waves).T * at.matrix.factor


def intensities_by_thickness(at: Differentiable) -> np.ndarray:
    """
    dI/dt.

    Parameters
    ----------
    at : Differentiable

    Returns
    -------
    ndarray, shape (t, n)
        1/Angstrom.
    """
    return 2.0 * np.real(np.conj(at.psi) * amplitudes_by_thickness(at))


def gradient_by_matrix(at: Differentiable, by_intensity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The gradient of a number L by the elements of M, of which dL/dI is given.

    Parameters
    ----------
    at : Differentiable
    by_intensity : ndarray, shape (t, n)
        dL/dI.

    Returns
    -------
    by_matrix : ndarray of complex, shape (n, n)
        G, so that dL = Re sum_gh G_gh P_gh for any change P of M.
    by_log_m : ndarray, shape (n,)
        So that a Change adds sum_g by_log_m_g d ln m_g.
    """
    c, inverse = at.eigen.vectors, at.eigen.inverse
    k_normal = float(at.matrix.k_normal)
    seeds = 2.0 * by_intensity * np.conj(at.psi)  # dL = Re sum seeds dpsi
    left = (seeds * at.matrix.factor) @ c
    inner = np.zeros(c.shape, dtype=complex)
    for t, row in zip(at.thickness, left):
        inner += (np.pi * t / k_normal) * row[:, None] * _divided_differences(at.eigen.values, t, k_normal)
    by_matrix = inverse.T @ (inner * at.eigen.excitation) @ c.T
    by_log_m = np.real(seeds * at.psi).sum(axis=0)
    by_log_m[0] -= by_log_m.sum()
    return by_matrix, by_log_m


def _divided_differences(values: np.ndarray, thickness: float, k_normal: float) -> np.ndarray:
    """Phi (module docstring), shape (n, n)."""
    x = np.pi * thickness / k_normal * values
    half = 0.5 * (x[:, None] - x[None, :])
    small = np.abs(half) < 1e-4
    sinc = np.where(small, 1.0 - half**2 / 6.0, np.sin(half) / np.where(small, 1.0, half))
    middle = np.exp(0.5j * x)
    return 1j * middle[:, None] * middle[None, :] * sinc
