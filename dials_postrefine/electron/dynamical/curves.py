"""
Intensities of all observations, sums over the nodes of blocks (rocking.py), and their derivatives.

M = m (U + i kappa U) m + m^2 2 K s(w) of each node is diagonalised without its absorption, which enters to first order:

    lambda_j + i kappa (C^H m (U + U_0) m C)_jj, psi_g = m_g/m_0 sum_j C_gj e_j conj(C_0j), e_j = exp(i pi t lambda_j/K)

(bloch/propagation.py).  A change P of the matrix, diagonal where a frame is turned, adds (Daleckii-Krein)

    dpsi_g = m_g/m_0 (pi t/K) sum_j C_gj [sum_k Phi_jk P'_jk conj(C_0k) - kappa db_j e_j conj(C_0j)],      P' = C^H P C
    Phi_jk = (e_j - e_k)/(x_j - x_k),  Phi_jj = i e_j,      x = pi t lambda/K without absorption
    db_j = (C^H dB C)_jj + 2 Re sum_k (C^H B C)_jk P'_kj/(lambda_j - lambda_k),      B = m (U + U_0) m

of which only the rows of observed beams are made.  All thicknesses share a diagonalisation.

Mosaicity of standard deviation eta is the mean over w_2, at 0 and +-sqrt(3) eta with shares 2/3 and 1/6 each (Gauss and
Hermite); along the motion the integral over it has done that already, but at its ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.dynamical.crystal import Tables
from dials_postrefine.electron.dynamical.rocking import Block, OrientationGrid

NEAR = 1e-7  # 1/Angstrom^2, of eigenvalues
MOSAIC = ((0.0, 2.0 / 3.0), (3.0**0.5, 1.0 / 6.0), (-(3.0**0.5), 1.0 / 6.0))  # nodes and shares


@dataclass(frozen=True)
class Specimen:
    """
    Thicknesses and what else an intensity depends on besides U.

    Attributes
    ----------
    thickness : ndarray, shape (f, q)
        Of each frame, the nodes of its distribution; Angstrom.
    share : ndarray, shape (q,)
        Of the nodes, 1 together.
    kappa : float
    tilt : ndarray, shape (f, 2)
        w, radians.
    mosaicity : float
        eta, radians.
    """

    thickness: np.ndarray
    share: np.ndarray
    kappa: float
    tilt: np.ndarray
    mosaicity: float = 0.0


@dataclass(frozen=True)
class Curves:
    """
    I of n observations and its derivatives.

    Attributes
    ----------
    intensity : ndarray, shape (n,)
    by_thickness : ndarray, shape (n, q)
        By the thickness at each node of the distribution, of all frames together, times its share.
    by_kappa : ndarray, shape (n,)
    by_potential : ndarray, shape (n, p)
        By the parameters of the tables.
    rows, frames : ndarray of int, shape (c,)
        Of the pieces that blocks have of observations: what is turned or made thicker is one frame.
    by_tilt : ndarray, shape (c, 2)
    by_thickness_of_frame : ndarray, shape (c, q)
    by_mosaicity : ndarray, shape (n,)
        Where the derivatives by the tilts are wanted.
    """

    intensity: np.ndarray
    by_thickness: np.ndarray
    by_kappa: np.ndarray
    by_potential: np.ndarray
    rows: np.ndarray
    frames: np.ndarray
    by_tilt: np.ndarray
    by_thickness_of_frame: np.ndarray
    by_mosaicity: np.ndarray


@dataclass(frozen=True)
class _Solved:
    """A block diagonalised: lambda (m, b), C (m, b, b), its rows of observed beams, conj(C_0j), dlambda/dkappa."""

    values: np.ndarray
    vectors: np.ndarray
    observed: np.ndarray
    excitation: np.ndarray
    by_kappa: np.ndarray
    ratio: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """lambda without absorption."""
        return self.values.real


def _solve(block: Block, u: np.ndarray, tables: Tables, slab_kappa: float, tilt: np.ndarray) -> _Solved:
    m = block.obliquity
    base = m[:, None] * u * m
    diagonal = m**2 * (block.twice_k_s + np.tensordot(tilt, block.by_tilt, 1))
    matrix = np.broadcast_to(base, (len(diagonal), *base.shape)).copy()
    here = np.arange(len(m))
    matrix[:, here, here] = diagonal
    values, vectors = np.linalg.eigh(matrix)
    share = np.abs(vectors) ** 2
    # C^H (M - diagonal) C + U_0
    by_kappa = values - np.einsum("mgj,mg->mj", share, diagonal - tables.u_prime_0 * m**2)
    values = values + 1j * slab_kappa * by_kappa if slab_kappa else values
    observed = vectors[:, block.beam, :]
    return _Solved(values, vectors, observed, np.conj(vectors[:, 0, :]), by_kappa, (m / m[0])[block.beam])


def scan(grid: OrientationGrid, tables: Tables, thickness: np.ndarray, n: int, kappa: float = 0.0) -> np.ndarray:
    """
    Intensities for many thicknesses, orientations as given.

    Parameters
    ----------
    grid : OrientationGrid
    tables : Tables
    thickness : ndarray, shape (t,)
        Angstrom.
    n : int
        Observations.
    kappa : float

    Returns
    -------
    ndarray, shape (n, t)
    """
    found = np.zeros((n, len(thickness)))
    for block in grid.blocks:
        solved = _solve(block, tables.between(block.beams)[0], tables, kappa, np.zeros(2))
        waves = np.exp((1j * np.pi / grid.k) * solved.values[:, :, None] * thickness)
        psi = solved.observed @ (solved.excitation[:, :, None] * waves)
        np.add.at(found, block.rows, np.einsum("rm,mrt->rt", block.weights, psi.real**2 + psi.imag**2))
    return found


def evaluate(grid: OrientationGrid, tables: Tables, slab: Specimen, n: int, tilts: bool = True) -> Curves:
    """
    Intensities and derivatives.

    Parameters
    ----------
    grid : OrientationGrid
    tables : Tables
        With the derivatives that are wanted.
    slab : Specimen
    n : int
        Observations.
    tilts : bool
        Whether the derivatives by the tilts are wanted.

    Returns
    -------
    Curves
    """
    n_nodes, p = len(slab.share), len(tables.values) - 1
    found = np.zeros(n), np.zeros((n, n_nodes)), np.zeros(n), np.zeros((n, p)), np.zeros(n)
    pieces = []
    for block in grid.blocks:
        for node, share in MOSAIC if slab.mosaicity else ((0.0, 1.0),):
            tilt = slab.tilt[block.frame] + np.array([0.0, node * slab.mosaicity])
            one = _evaluate_block(block, tables, slab, tilt, (grid.k, tilts))
            values = one.intensity, one.by_thickness, one.by_kappa, one.by_potential, node * one.by_tilt[:, 1]
            for total, value in zip(found, values):
                np.add.at(total, block.rows, share * value)
            pieces.append((one.rows, one.frames, share * one.by_tilt, share * one.by_thickness))
    return Curves(*found[:4], *(np.concatenate(parts) for parts in zip(*pieces)), found[4])


def _evaluate_block(block: Block, tables: Tables, slab: Specimen, tilt: np.ndarray, how: tuple[float, bool]) -> Curves:
    """The same of one block that is turned, for its observations; how: K, and whether derivatives by tilts are made."""
    k, tilts = how
    u = tables.between(block.beams)
    solved = _solve(block, u[0], tables, slab.kappa, tilt)
    m, r = block.obliquity, len(block.rows)
    changes = []
    hermitian = np.conj(np.swapaxes(solved.vectors, -1, -2))
    if tilts:
        diagonal = m**2 * block.by_tilt
        changes += [hermitian @ (one[:, :, None] * solved.vectors) for one in diagonal]
    changes += [hermitian @ ((m[:, None] * one * m) @ solved.vectors) for one in u[1:]]
    intensity, by_kappa = np.zeros(r), np.zeros(r)
    by_thickness, by_change = np.zeros((r, len(slab.share))), np.zeros((r, len(changes)))
    absorbed = _absorption_by(solved, (m[:, None] * u[0] * m, tables.u_prime_0 * m**2), changes, 2 * tilts, slab.kappa)

    def summed(psi: np.ndarray, change: np.ndarray) -> np.ndarray:
        return 2.0 * np.einsum("rm,mr->r", block.weights, np.real(np.conj(psi) * change))

    for q, (t, share) in enumerate(zip(slab.thickness[block.frame], slab.share)):
        x = (np.pi * t / k) * solved.values
        e = np.exp(1j * x)
        wave = solved.excitation * e

        def at(amplitudes: np.ndarray) -> np.ndarray:
            return (solved.observed @ amplitudes[:, :, None])[:, :, 0] * solved.ratio

        psi = at(wave)
        intensity += share * np.einsum("rm,mr->r", block.weights, np.abs(psi) ** 2)
        by_thickness[:, q] = share * summed(psi, at((1j * np.pi / k) * solved.values * wave))
        by_kappa += share * summed(psi, at((-np.pi * t / k) * solved.by_kappa * wave))
        if changes:
            phi = _divided_differences((np.pi * t / k) * solved.real, e) * solved.excitation[:, None, :]
            for i, change in enumerate(changes):
                inner = (np.pi * t / k) * (np.einsum("mjk,mjk->mj", phi, change) - absorbed[i] * wave)
                by_change[:, i] += share * summed(psi, at(inner))
    n_tilts = 2 * tilts
    by_tilt = by_change[:, :n_tilts] if tilts else np.zeros((r, 2))
    frames = np.full(r, block.frame)
    of_block = intensity, by_thickness, by_kappa, by_change[:, n_tilts:], block.rows, frames, by_tilt, by_thickness
    return Curves(*of_block, np.zeros(r))


def _absorption_by(solved: _Solved, coupling: tuple, changes: list, n_tilts: int, kappa: float) -> np.ndarray:
    """kappa db (module docstring) of each change, (p, m, b) or zeros; coupling: B beside its diagonal."""
    if not kappa or not changes:
        return np.zeros((len(changes), 1, 1))
    beside, diagonal = coupling
    b = np.conj(np.swapaxes(solved.vectors, -1, -2)) @ ((beside + np.diag(diagonal)) @ solved.vectors)
    difference = solved.real[:, :, None] - solved.real[:, None, :]
    near = np.abs(difference) < NEAR
    b = np.where(near, 0.0, b / np.where(near, 1.0, difference))
    found = []
    for i, change in enumerate(changes):
        one = 2.0 * np.real(np.einsum("mjk,mkj->mj", b, change))
        if i >= n_tilts:
            one = one + np.real(np.einsum("mjj->mj", change))
        found.append(kappa * one)
    return np.array(found)


def _divided_differences(x: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Phi (module docstring), shape (m, b, b)."""
    difference = x[:, :, None] - x[:, None, :]
    near = np.abs(difference) < 1e-5
    middle = 0.5j * (e[:, :, None] + e[:, None, :])
    found = (e[:, :, None] - e[:, None, :]) / np.where(near, 1.0, difference)
    return np.where(near, middle, found)
