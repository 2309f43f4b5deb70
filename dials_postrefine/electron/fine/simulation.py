"""
Intensities of the disks at many incident directions, and their derivatives, for one diagonalisation a direction.

    psi_d = m_d/m_0 E_d0,     E = exp(i pi t M/K_n) = C diag(e_j) C^-1
    dE_d0 = sum_ab G_ab P_ab,     G = (pi t/K_n) C^-T [C_dj Phi_jk (C^-1)_k0] C^T

(electron/bloch/derivatives.py has M, P, Phi and the source): of a few beams d, and of many parameters, G of each beam
costs less than P of each parameter; of many beams and few parameters it is the other way round.  P_ab of U and U' is
m_a m_b dV_ab/dx with V = U + iU'; that of the wave vector is in bloch/structurematrix.py.  o directions, n beams, d
disks.  eig, so that absorption is exact; of more beams than FEW bloch/blocks.py, 1e-4 of the largest I from that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.bloch.geometry import Geometry, along
from dials_postrefine.electron.bloch.potential import Potential
from dials_postrefine.electron.bloch.propagation import Eigen, StructureMatrix, diagonalise, of_eigen
from dials_postrefine.electron.bloch.structurematrix import structure_matrix

BYTES_AT_A_TIME = 2e6
FEW = 24  # beams, of which a general solver is as fast


@dataclass(frozen=True)
class Slab:
    """
    What diffracts: A (3, 3), the beams (n, 3), 0,0,0 first, the places of the disks among them (d,), K; 1/Angstrom.

    exact: whether absorption is, or to first order.
    """

    reciprocal: np.ndarray
    beams: np.ndarray
    disks: np.ndarray
    wave_number: float
    exact: bool = True

    def geometry(self, kt: np.ndarray) -> Geometry:
        """The geometry of tangential wave vectors (o, 2)."""
        kz = np.sqrt(self.wave_number**2 - np.sum(kt**2, axis=1))
        return Geometry(self.reciprocal, np.column_stack([kt, kz]), np.array([0.0, 0.0, 1.0]))

    def batches(self, n: int) -> list[slice]:
        """The directions in parts that suit memory."""
        size = max(1, int(BYTES_AT_A_TIME / (16.0 * len(self.beams) ** 2)))
        return [slice(k, k + size) for k in range(0, n, size)]

    def method(self, absorbs: bool) -> str:
        """How M is diagonalised."""
        if not (self.exact and absorbs):
            return "eigh"
        return "eig" if len(self.beams) <= FEW else "blocks"


def simulate_disks(slab: Slab, potential: Potential, kt: np.ndarray, thickness: np.ndarray) -> np.ndarray:
    """
    I of the disks at several thicknesses.

    Parameters
    ----------
    slab : Slab
    potential : Potential
    kt : ndarray, shape (o, 2)
    thickness : ndarray, shape (t,)
        Angstrom.

    Returns
    -------
    ndarray, shape (t, d, o)
    """
    found = np.empty((len(thickness), len(slab.disks), len(kt)))
    for part in slab.batches(len(kt)):
        matrix = structure_matrix(slab.geometry(kt[part]), potential, slab.beams)
        eigen = diagonalise(matrix, slab.method(matrix.absorbs))
        psi = of_eigen(eigen, matrix, thickness) * matrix.factor[:, None, :]
        found[:, :, part] = np.moveaxis(np.abs(psi[:, :, slab.disks]) ** 2, 0, 2)
    return found


@dataclass(frozen=True)
class Derivatives:
    """
    I (d, o) and its derivatives: by thickness (d, o), by kt_x and kt_y (2, d, o), by p parameters of V (p, d, o).
    """

    intensity: np.ndarray
    by_thickness: np.ndarray
    by_kt: np.ndarray
    by_potential: np.ndarray


def differentiate_disks(
    slab: Slab, potential: Potential, kt: np.ndarray, thickness: float, changes: np.ndarray
) -> Derivatives:
    """
    I of the disks and its derivatives.

    Parameters
    ----------
    slab : Slab
    potential : Potential
    kt : ndarray, shape (o, 2)
    thickness : float
        Angstrom.
    changes : ndarray of complex, shape (p, n, n)
        dV_{g-h} by each parameter, V = U + iU', of the crystal's origin; V_0 = iU'_0.

    Returns
    -------
    Derivatives
    """
    phase = np.conj(potential.phases(slab.beams))
    flat = (changes * (phase[:, None] * np.conj(phase))).reshape(len(changes), len(slab.beams) ** 2)
    parts = [_differentiate(slab, potential, kt[part], thickness, flat) for part in slab.batches(len(kt))]
    return Derivatives(*(np.concatenate(one, axis=-1) for one in zip(*parts)))


def _differentiate(slab: Slab, potential: Potential, kt: np.ndarray, thickness: float, changes: np.ndarray) -> tuple:
    """The fields of Derivatives, of one batch."""
    geometry = slab.geometry(kt)
    matrix = structure_matrix(geometry, potential, slab.beams)
    eigen = diagonalise(matrix, slab.method(matrix.absorbs))
    factor = matrix.m / matrix.m[:, :1]
    angle = (np.pi * thickness / matrix.k_normal)[:, None]
    waves = eigen.excitation * np.exp(1j * angle * eigen.values)
    at_disks = eigen.vectors[:, slab.disks, :]
    factor_d = factor[:, slab.disks]
    psi = np.einsum("odj,oj->od", at_disks, waves) * factor_d
    rate = 1j * np.pi * eigen.values / matrix.k_normal[:, None]
    by_t = np.einsum("odj,oj->od", at_disks, rate * waves) * factor_d
    way = _by_gradients if len(slab.disks) <= len(changes) + 2 else _by_changes
    along_k, log_m, by_v = way(geometry, matrix, slab, Propagated(eigen, at_disks, angle), changes)
    along_k = factor_d * along_k + psi * (log_m[:, :, slab.disks] - log_m[:, :, :1])
    by_v = by_v * factor_d[:, :, None]
    real = 2.0 * np.conj(psi)
    return (
        (np.abs(psi) ** 2).T,
        np.real(real * by_t).T,
        np.real(real * along_k).transpose(0, 2, 1),
        np.real(real[:, :, None] * by_v).transpose(2, 1, 0),
    )


@dataclass(frozen=True)
class Propagated:
    """What the derivatives of one batch need: its eigenvectors, those of the disks (o, d, n), pi t/K_n (o, 1)."""

    eigen: Eigen
    at_disks: np.ndarray
    angle: np.ndarray

    def weights(self) -> np.ndarray:
        """(pi t/K_n) Phi_jk (C^-1)_k0, shape (o, n, n)."""
        x = self.angle * self.eigen.values
        half = 0.5 * (x[:, :, None] - x[:, None, :])
        small = np.abs(half) < 1e-4
        wave = np.exp(0.5j * x)
        e = wave**2  # 2i sin(half) exp(i (x_j + x_k)/2) = e_j - e_k: no sine of a matrix
        phi = np.where(
            small,
            1j * wave[:, :, None] * wave[:, None, :] * (1.0 - half**2 / 6.0),
            0.5 * (e[:, :, None] - e[:, None, :]) / np.where(small, 1.0, half),
        )
        return phi * (self.eigen.excitation * self.angle)[:, None, :]


def _by_gradients(
    geometry: Geometry, matrix: StructureMatrix, slab: Slab, at: Propagated, changes: np.ndarray
) -> tuple:
    """dE_d0 by kt (2, o, d), d ln m (2, o, n), dE_d0 by V (o, d, p): by G of each disk."""
    left, right = np.swapaxes(at.eigen.inverse, 1, 2)[:, None], np.swapaxes(at.eigen.vectors, 1, 2)[:, None]
    gradient = left @ (at.at_disks[:, :, :, None] * at.weights()[:, None]) @ right  # (o, d, n, n)
    product = gradient * matrix.full()[:, None]
    sums = product.sum(axis=3) + product.sum(axis=2)  # (o, d, n)
    total, diagonal = product.sum(axis=(2, 3)), np.diagonal(gradient, axis1=2, axis2=3)
    found, by_log_m = [], []
    for along_diagonal, log_m, log_k_n in _by_kt(geometry, matrix, slab):
        one = np.einsum("odn,on->od", sums, log_m) - total * log_k_n[:, None]
        found.append(one + np.einsum("odn,on->od", diagonal, along_diagonal))
        by_log_m.append(log_m)
    gradient *= (matrix.m[:, :, None] * matrix.m[:, None, :])[:, None]
    return np.array(found), np.array(by_log_m), gradient.reshape(*gradient.shape[:2], -1) @ changes.T


def _by_changes(geometry: Geometry, matrix: StructureMatrix, slab: Slab, at: Propagated, changes: np.ndarray) -> tuple:
    """The same by P of each parameter, for many disks."""
    weights, n = at.weights(), matrix.m.shape[-1]
    both, full, here = matrix.m[:, :, None] * matrix.m[:, None, :], matrix.full(), np.arange(n)

    def by(change: np.ndarray) -> np.ndarray:
        inner = weights * (at.eigen.inverse @ change @ at.eigen.vectors)
        return np.einsum("odj,oj->od", at.at_disks, inner.sum(axis=2))

    found, by_log_m = [], []
    for along_diagonal, log_m, log_k_n in _by_kt(geometry, matrix, slab):
        change = full * (log_m[:, :, None] + log_m[:, None, :] - log_k_n[:, None, None])
        change[:, here, here] += along_diagonal
        found.append(by(change))
        by_log_m.append(log_m)
    of_v = [by(both * one.reshape(n, n)) for one in changes]
    shape = (*at.at_disks.shape[:2], len(changes))
    return np.array(found), np.array(by_log_m), np.stack(of_v, axis=-1) if of_v else np.zeros(shape)


def _by_kt(geometry: Geometry, matrix: StructureMatrix, slab: Slab) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By kt_x and kt_y, |k| = K: d(2 K s) m^2 and d ln m (o, n), d ln K_n (o,)."""
    g = geometry.g(slab.beams)
    g_n = along(g, geometry.normal)
    found = []
    for axis in range(2):
        slope = -geometry.k[:, axis] / geometry.k[:, 2]  # d kz
        log_k_n = slope / matrix.k_normal
        log_m = 0.5 * matrix.m**2 * g_n * (log_k_n / matrix.k_normal)[:, None]
        found.append((matrix.m**2 * -2.0 * (g[:, axis] + slope[:, None] * g[:, 2]), log_m, log_k_n))
    return found
