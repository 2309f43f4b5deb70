"""
The structure matrix of a frozen list of beams, for many orientations at once, and its derivatives.

    M_gh = m_g (2 K s_g delta_gh + U_{g-h} + i U'_{g-h}) m_h,      U_0 = 0

U_{g-h} depends on the indices alone and is gathered once; the orientation is in s_g and m_g, n numbers.  What the
amplitudes depend on is M/K_n and m, so a derivative is a Change: of M, less M d ln K_n, and of ln m.

    d m_g/m_g = -1/2 m_g^2 d(g_n/K_n),     dM_gh = M_gh (d ln m_g + d ln m_h) + m_g (d(2 K s_g) delta_gh + dU_{g-h}) m_h

By A (nine elements: orientation and cell together; a rotation by a small vector w is dA = [w]x A) with k and n at rest
in the laboratory; by k with the crystal at rest, |k| = K free; by U and U'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.bloch.geometry import Geometry, along, obliquity, twice_k_s
from dials_postrefine.electron.bloch.potential import Potential
from dials_postrefine.electron.bloch.propagation import StructureMatrix


@dataclass(frozen=True)
class Change:
    """
    The derivative of what the amplitudes depend on by p parameters, for one orientation.

    Attributes
    ----------
    matrix : ndarray, shape (p, n, n)
        K_n d(M/K_n).
    log_m : ndarray, shape (p, n)
        d ln m.
    """

    matrix: np.ndarray
    log_m: np.ndarray

    def combined(self, weights: np.ndarray) -> Change:
        """By q other parameters, which these depend on linearly: weights (q, p)."""
        return Change(np.tensordot(weights, self.matrix, 1), np.tensordot(weights, self.log_m, 1))


def structure_matrix(geometry: Geometry, potential: Potential, beams: np.ndarray) -> StructureMatrix:
    """
    M (module docstring).

    Parameters
    ----------
    geometry : Geometry
        Of one orientation, or of o.
    potential : Potential
    beams : ndarray of int, shape (n, 3)
        0,0,0 first.

    Returns
    -------
    StructureMatrix
        Its arrays of shape (o, n, n), or (n, n) for one orientation; real where U is.

    Raises
    ------
    ValueError
        Where the first beam is not 0,0,0, or a beam does not leave through the exit surface.
    """
    if np.any(np.asarray(beams)[0]):
        raise ValueError("the first beam must be 0,0,0, the incident one")
    m = obliquity(geometry, beams)
    diagonal = twice_k_s(geometry, beams) * m**2
    both = m[..., :, None] * m[..., None, :]
    u, u_prime = potential.between(beams)
    hermitian = both * u
    here = np.arange(len(beams))
    hermitian[..., here, here] = diagonal
    shape = np.broadcast_shapes(np.shape(geometry.k_normal), m.shape[:-1])
    k_normal = np.broadcast_to(geometry.k_normal, shape)
    absorption = np.zeros(0) if u_prime is None else both * u_prime
    return StructureMatrix(hermitian, absorption, m, k_normal, potential.phases(beams))


def by_reciprocal(
    geometry: Geometry,
    matrix: StructureMatrix,
    beams: np.ndarray,
    potential_by_reciprocal: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> Change:
    """
    By the nine elements of A, in C's order, for one orientation.

    Parameters
    ----------
    geometry : Geometry
        Of one orientation.
    matrix : StructureMatrix
    beams : ndarray, shape (n, 3)
    potential_by_reciprocal : tuple of ndarray (9, n, n), the second or None, optional
        dU_{g-h} and dU'_{g-h} (potential.py), which a change of the cell needs and a rotation does not: it leaves them.

    Returns
    -------
    Change
        Of p = 9 parameters.
    """
    h = np.asarray(beams, dtype=float)
    g = geometry.g(h)
    # d g_i / d A_ij = h_j
    twice_k_s_change = -2.0 * (geometry.k + g)[:, :, None] * h[:, None, :]
    g_n = geometry.normal[None, :, None] * h[:, None, :]
    n = len(h)
    log_m = -0.5 * matrix.m**2 * g_n.reshape(n, 9).T / geometry.k_normal
    change = _change(matrix, twice_k_s_change.reshape(n, 9).T, log_m, np.zeros(9))
    if potential_by_reciprocal is None:
        return change
    return _with_potential(change, matrix, *potential_by_reciprocal)


def by_wave_vector(geometry: Geometry, matrix: StructureMatrix, beams: np.ndarray) -> Change:
    """
    By the three components of k with crystal and surface at rest, for one orientation.

    A rotation of crystal and surface together by a small vector w is one of k by -w: dk = -w x k.  A change of
    wavelength is along k; that of gamma_rel, which U has, is not in it.

    Parameters
    ----------
    geometry : Geometry
        Of one orientation.
    matrix : StructureMatrix
    beams : ndarray, shape (n, 3)

    Returns
    -------
    Change
        Of p = 3 parameters.
    """
    g = geometry.g(beams)
    k_normal = float(geometry.k_normal)
    g_n = along(g, geometry.normal)
    by_k_normal = geometry.normal / k_normal  # d ln K_n
    log_m = 0.5 * matrix.m**2 * g_n / k_normal * by_k_normal[:, None]
    return _change(matrix, -2.0 * g.T, log_m, by_k_normal)


def by_potential(matrix: StructureMatrix, u: np.ndarray, u_prime: np.ndarray | None = None) -> Change:
    """
    By parameters of U and U', for one orientation.

    Parameters
    ----------
    matrix : StructureMatrix
    u, u_prime : ndarray of complex, shape (p, n, n)
        dU_{g-h} and dU'_{g-h}, of the crystal's origin; the latter None where there is none.

    Returns
    -------
    Change
    """
    p, n = len(u), matrix.m.shape[-1]
    return _with_potential(Change(np.zeros((p, n, n), dtype=complex), np.zeros((p, n))), matrix, u, u_prime)


def _change(matrix: StructureMatrix, diagonal: np.ndarray, log_m: np.ndarray, log_k_normal: np.ndarray) -> Change:
    """Of d(2 K s) (p, n), d ln m (p, n) and d ln K_n (p,)."""
    full = matrix.full()
    factor = log_m[:, :, None] + log_m[:, None, :] - log_k_normal[:, None, None]
    change = full * factor
    here = np.arange(full.shape[-1])
    change[:, here, here] += matrix.m**2 * diagonal
    return Change(change, log_m)


def _with_potential(change: Change, matrix: StructureMatrix, u: np.ndarray, u_prime: np.ndarray | None) -> Change:
    to_centre = matrix.m * np.conj(matrix.phase)
    both = to_centre[:, None] * np.conj(to_centre)
    added = u.copy() if u_prime is None else u + 1j * u_prime
    here = np.arange(added.shape[-1])
    # U_0 is in no diagonal, U'_0 is
    added[:, here, here] = 0.0 if u_prime is None else 1j * u_prime[:, here, here]
    return Change(change.matrix + both * added, change.log_m)
