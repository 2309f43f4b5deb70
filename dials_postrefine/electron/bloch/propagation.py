"""
Amplitudes behind the slab: psi of the structure matrix.

    psi_g(t) = m_g sum_j C_gj e_j (C^-1)_j0/m_0,   e_j = exp(i pi t lambda_j/K_n),   M C = C lambda

Methods.  eigh: M = H + iA, of which H alone is diagonalised, C^-1 = C^H; absorption enters to first order by
lambda_j = lambda_j(H) + i (C^H A C)_jj.  It is exact without absorption, and LAPACK's real solver does it where U is
real about a centre of symmetry.  eig: M as it is.  chebyshev: no eigenvectors, and exact (chebyshev.py).  expm: no
eigenvectors, so degenerate and defective M are no matter; each thickness is a step from the one before.  Of C^-1 only
the column of the incident beam is made.  auto is exact: eigh without absorption; with it eig, five times slower than
eigh, for few beams, and chebyshev for many.

All take a stack of matrices, one an orientation.  The first beam is the incident one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm

from dials_postrefine.electron.bloch import chebyshev
from dials_postrefine.electron.bloch.blocks import weakly_absorbing

METHODS = ("auto", "eigh", "eig", "chebyshev", "expm")
FEW = 64  # beams, of which eig is faster than the series


@dataclass(frozen=True)
class StructureMatrix:
    """
    M = H + i A of o orientations, or of one (shapes without o).

    Attributes
    ----------
    hermitian : ndarray, shape (o, n, n)
        H, real or complex; 1/Angstrom^2.
    absorption : ndarray, shape (o, n, n)
        A, of U'; empty where nothing is absorbed.
    m : ndarray, shape (o, n)
    k_normal : ndarray, shape (o,)
        K_n; 1/Angstrom.
    phase : ndarray of complex, shape (n,)
        By which amplitudes are those of the crystal's origin, where M has a centre of symmetry for it.
    """

    hermitian: np.ndarray
    absorption: np.ndarray
    m: np.ndarray
    k_normal: np.ndarray
    phase: np.ndarray

    @property
    def absorbs(self) -> bool:
        """Whether anything is absorbed."""
        return self.absorption.size > 0

    @property
    def factor(self) -> np.ndarray:
        """What amplitudes are to be multiplied by: m_g/m_0 and the phase, shape (..., n)."""
        return self.m / self.m[..., :1] * self.phase

    def full(self) -> np.ndarray:
        """M, complex where there is absorption."""
        return self.hermitian + 1j * self.absorption if self.absorbs else self.hermitian


@dataclass(frozen=True)
class Eigen:
    """
    M diagonalised: values (..., n), vectors C (..., n, n), excitation (C^-1)_j0 (..., n).

    inverse is C^-1 (..., n, n), which is C^H where only H was diagonalised.
    """

    values: np.ndarray
    vectors: np.ndarray
    excitation: np.ndarray
    inverse: np.ndarray


def diagonalise(matrix: StructureMatrix, method: str = "eigh") -> Eigen:
    """
    Eigenvalues and eigenvectors of M.

    Parameters
    ----------
    matrix : StructureMatrix
    method : str
        ``eigh`` (absorption to first order), ``eig``, or ``blocks`` (weak absorption, blocks.py).

    Returns
    -------
    Eigen
    """
    if method == "eig":
        values, vectors = np.linalg.eig(matrix.full())
        inverse = np.linalg.inv(vectors)
        return Eigen(values, vectors, inverse[..., :, 0], inverse)
    if method == "blocks" and matrix.absorbs:
        values, vectors, inverse = weakly_absorbing(matrix.hermitian, matrix.absorption)
        return Eigen(values, vectors, inverse[..., :, 0], inverse)
    values, vectors = np.linalg.eigh(matrix.hermitian)
    if matrix.absorbs:
        first_order = np.sum(np.conj(vectors) * (matrix.absorption @ vectors), axis=-2).real
        values = values + 1j * first_order
    return Eigen(values, vectors, np.conj(vectors[..., 0, :]), np.conj(np.swapaxes(vectors, -1, -2)))


def amplitudes(matrix: StructureMatrix, thickness: np.ndarray, method: str = "auto") -> np.ndarray:
    """
    psi (module docstring).

    Parameters
    ----------
    matrix : StructureMatrix
        Of n beams and one or o orientations.
    thickness : ndarray, shape (t,)
        Along the normal of the surface; Angstrom.
    method : str
        One of METHODS.

    Returns
    -------
    ndarray of complex, shape (t, n) or (o, t, n)

    Raises
    ------
    ValueError
        For an unknown method, or a thickness below zero.
    """
    thickness = np.atleast_1d(np.asarray(thickness, dtype=float))
    if method not in METHODS:
        raise ValueError(f"no method {method}: it is one of {', '.join(METHODS)}")
    if np.any(thickness < 0.0):
        raise ValueError("a thickness is below zero")
    if method == "auto":
        few = matrix.m.shape[-1] <= FEW
        method = ("eig" if few else "chebyshev") if matrix.absorbs else "eigh"
    if method in ("expm", "chebyshev"):
        waves = _one_by_one(matrix, thickness, _by_steps if method == "expm" else _by_series)
    else:
        waves = of_eigen(diagonalise(matrix, method), matrix, thickness)
    return waves * matrix.factor[..., None, :]


def phases(values: np.ndarray, matrix: StructureMatrix, thickness: np.ndarray) -> np.ndarray:
    """
    e_j (module docstring) of eigenvalues.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        lambda_j, complex with absorption; 1/Angstrom^2.
    matrix : StructureMatrix
        Whose K_n is taken.
    thickness : ndarray, shape (t,)
        Angstrom.

    Returns
    -------
    ndarray of complex, shape (..., n, t)
    """
    argument = (np.pi / np.asarray(matrix.k_normal)[..., None]) * values
    return np.exp(1j * argument[..., :, None] * thickness)


def of_eigen(eigen: Eigen, matrix: StructureMatrix, thickness: np.ndarray) -> np.ndarray:
    """
    psi_g m_0/m_g: one matrix product for all thicknesses.

    Parameters
    ----------
    eigen : Eigen
        Of this matrix.
    matrix : StructureMatrix
    thickness : ndarray, shape (t,)
        Angstrom.

    Returns
    -------
    ndarray of complex, shape (..., t, n)
    """
    waves = eigen.excitation[..., :, None] * phases(eigen.values, matrix, thickness)
    if np.isrealobj(eigen.vectors):  # a real times a complex matrix: half of the work in two real products
        product = eigen.vectors @ waves.real + 1j * (eigen.vectors @ waves.imag)
    else:
        product = eigen.vectors @ waves
    return np.swapaxes(product, -1, -2)


def _one_by_one(matrix: StructureMatrix, thickness: np.ndarray, propagate) -> np.ndarray:
    """psi_g m_0/m_g, shape (..., t, n), by a function of M, t and K_n that is called for each orientation."""
    full = matrix.full()
    stack = full.reshape(-1, *full.shape[-2:])
    k_normal = np.broadcast_to(matrix.k_normal, full.shape[:-2]).ravel()
    waves = np.array([propagate(one, thickness, k_n) for one, k_n in zip(stack, k_normal)])
    return waves.reshape(*full.shape[:-2], len(thickness), full.shape[-1])


def _by_series(full: np.ndarray, thickness: np.ndarray, k_normal: float) -> np.ndarray:
    return chebyshev.propagate(full, np.pi / k_normal * thickness).T


def _by_steps(full: np.ndarray, thickness: np.ndarray, k_normal: float) -> np.ndarray:
    now, before = np.zeros(len(full), dtype=complex), 0.0
    now[0] = 1.0
    steps: dict[float, np.ndarray] = {}  # equal steps are common, and an exponential is dear
    waves = np.empty((len(thickness), len(full)), dtype=complex)
    for i in np.argsort(thickness, kind="stable"):
        step = round(float(thickness[i] - before), 12)
        if step:
            if step not in steps:
                steps[step] = expm(1j * np.pi * step / k_normal * full)
            now = steps[step] @ now
        waves[i], before = now, thickness[i]
    return waves
