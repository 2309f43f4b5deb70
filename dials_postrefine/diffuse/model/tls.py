"""
Bodies that move as a whole and librate by any tensors (TLS; Schomaker and Trueblood, Acta Cryst. 1968, B24, 63).  To
first order in the angle, with rho_i = r_i - c from the centroid c of the body,

    u_i = t + lambda x rho_i,     T = <t t'>,   L = <lambda lambda'>,   S = <lambda t'>

are 6, 6 and 9 numbers in the Cartesian frame of the file, which turns with the copies.  With m_i = rho_i x q

    w_ij = q'V_ij q = q'T q + m_i'L m_j + (m_i + m_j)'S q

m_i is perpendicular to q, so that S = 1 has no effect at all: the trace of S is determined neither by diffuse
scattering nor by Bragg's, and is 0 here by convention (s33 = -s11 - s22).  All else a map can tell in principle; what
one does not is seen in the standard deviations.  With (2) of the room and x = q'Tq, for each body

    I = exp(x) sum_{i != j} c_i c_j^* exp(m_i'L m_j) - sum_{i != j} E_i E_j^* + sum_j o_j^2 f_j^2 - sum_j E_j^2
    c_i = E_i exp(m_i'S q)
    sum_ij c_i c_j^* exp(m_i'L m_j) = sum_mn (l_1^m l_2^n)/(m! n!) |M_mn|^2,     M_mn = sum_i c_i a_i^m b_i^n

where a_i and b_i are the coordinates of m_i along the axes of L in the plane normal to q, and l_1, l_2 what L has
there.  Derivatives by T, L and S are sums of products of neighbouring moments.  Moments depend on L and S, unlike those
of an isotropic L (libration.py): n_voxels x n_atoms x n_orientations x (K + 2)^2 multiplications an evaluation, K the
order at which the rest of the exponential is REST of it.  T, L and S that are fitted need not be the covariance of any
t and lambda: is_covariance says whether they are, for some trace of S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
from scipy import optimize, stats

from dials_postrefine.diffuse.model.amplitudes import incoherent
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.covariance import displaced_occupancies
from dials_postrefine.diffuse.model.libration import LARGEST, librations_of
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.positive_tensors import tensor_of
from dials_postrefine.diffuse.model.rigid_body import ELEMENTS, TENSOR
from dials_postrefine.diffuse.model.voxels import Voxels

REST = 1e-7
BLOCK = 1024  # voxels at a time
MOST_ORDERS = 60
SCREW = ((0, 0), (1, 1), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
DEGREE = math.radians(1.0)


class TLSBody:
    """
    The model (module docstring) of bodies, each the atoms of one with its operations; all have the same T, L and S.

    bodies : sequence of Atoms; voxels : Voxels.  Parameters are t11 to t23 (A^2), l11 to l23 (deg^2) and s11 to s32
    (A deg).
    """

    name = "rigid_body"

    def __init__(self, bodies: Sequence[Atoms], voxels: Voxels):
        self.bodies, self.h = bodies, voxels.h
        high = librations_of(bodies, voxels) ** 2  # the largest mean square angle, deg^2
        cross = 0.5 * math.sqrt(high)
        pairs = [f"{i + 1}{j + 1}" for i, j in ELEMENTS]
        self.parameters = (
            *(Parameter(f"t{one}", u.start, u.low, u.high, u.unit, tensor=True) for one, u in zip(pairs, TENSOR)),
            *(Parameter(f"l{one}", 0.09 * high, 0.0, high, "deg^2", tensor=True) for one in pairs[:3]),
            *(Parameter(f"l{one}", 0.0, -high, high, "deg^2", tensor=True) for one in pairs[3:]),
            *(Parameter(f"s{i + 1}{j + 1}", 0.0, -cross, cross, "A deg") for i, j in SCREW),
        )

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        tensors = tensors_of(values)
        intensity, derivatives = np.zeros(len(self.h)), np.zeros((len(values), len(self.h)))
        for atoms in self.bodies:
            rho = atoms.xyz - atoms.xyz.mean(axis=0)
            for rotation in atoms.rotations:
                h = self.h @ rotation
                for start in range(0, len(h), BLOCK):
                    here = slice(start, start + BLOCK)
                    one, slopes = _block(atoms, rho, h[here], tensors)
                    intensity[here] += one
                    derivatives[:, here] += slopes
        return intensity, derivatives


def tensors_of(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    T, L and S of the parameters.

    Parameters
    ----------
    values : sequence of 20 float
        As TLSBody has them, in degrees.

    Returns
    -------
    t, l, s : ndarray (3, 3)
        Angstrom^2, rad^2, Angstrom rad.
    """
    values = np.asarray(values, float)
    t, libration, s = tensor_of(values[:6]), tensor_of(values[6:12] * DEGREE**2), np.zeros((3, 3))
    for k, (i, j) in enumerate(SCREW):
        s[i, j] = values[12 + k] * DEGREE
    s[2, 2] = -s[0, 0] - s[1, 1]
    return t, libration, s


def is_covariance(values: Sequence[float]) -> bool:
    """
    Whether T, L and S are those of some motion.

    Parameters
    ----------
    values : sequence of 20 float

    Returns
    -------
    bool
        True where for some trace of S the 6 x 6 matrix of t and lambda has no negative eigenvalue.
    """
    t, libration, s = tensors_of(values)
    size = np.sqrt(max(np.trace(t), 1e-12) * max(np.trace(libration), 1e-12))
    scale = np.repeat([1.0, np.sqrt(max(np.trace(t), 1e-12) / max(np.trace(libration), 1e-12))], 3)

    def smallest(trace):
        turned = s + trace * np.eye(3)
        whole = np.block([[t, turned.T], [turned, libration]]) * np.outer(scale, scale)
        return np.linalg.eigvalsh(whole)[0]

    found = optimize.minimize_scalar(lambda one: -smallest(one), bounds=(-size, size), method="bounded")
    return bool(-found.fun > -1e-6 * np.trace(t))


def tls_covariances(rho: np.ndarray, values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """
    What atoms of a body have in common.

    Parameters
    ----------
    rho : ndarray (n, 3)
        From the centroid, Angstrom.
    values : sequence of 20 float

    Returns
    -------
    v : ndarray (n, n)
        A third of the traces of V_ij, Angstrom^2.
    u : ndarray (n, 3, 3)
        V_ii.
    """
    t, libration, s = tensors_of(values)
    x, y, z = rho.T
    o = np.zeros(len(rho))
    arm = np.array([[o, z, -y], [-z, o, x], [y, -x, o]]).transpose(2, 0, 1)  # lambda x rho = arm lambda
    screw = arm @ s
    turned = arm @ libration
    v = np.einsum("iab,jab->ij", turned, arm) + np.trace(t)
    mixed = np.trace(screw, axis1=1, axis2=2)
    u = t + turned @ arm.transpose(0, 2, 1) + screw + screw.transpose(0, 2, 1)
    return (v + mixed[:, None] + mixed[None]) / 3.0, u


def _block(atoms: Atoms, rho: np.ndarray, h: np.ndarray, tensors) -> tuple[np.ndarray, np.ndarray]:
    """I (n,) and its derivatives (20, n) of a body in an orientation."""
    t, libration, s = tensors
    q = 2.0 * np.pi * h @ atoms.reciprocal.T
    f = atoms.factors((q**2).sum(axis=1) / (4.0 * np.pi**2))[atoms.kind].T * displaced_occupancies(atoms, q)
    axes = _axes(q, libration)
    # a and b in units of the largest m
    reach = math.sqrt((rho**2).sum(axis=1).max(initial=1e-12)) * np.linalg.norm(q, axis=1) + 1e-30
    sizes = np.array([np.einsum("ni,ij,nj->n", one, libration, one) for one in axes]) * reach**2
    screws = np.array([np.einsum("ni,ij,nj->n", one, s, q) for one in axes]) * reach
    arms = np.array([np.cross(q, one) for one in axes]) / reach[:, None]
    found = np.zeros((7, len(h)))
    _add_moments(found, (h @ atoms.sites.T, f), rho, arms, (sizes, screws, orders_of(np.abs(sizes).max(axis=0))))
    grown = np.exp(np.minimum(np.einsum("ni,ij,nj->n", q, t, q), 50.0))
    total, elastic = incoherent(atoms, q)
    pairs, aa, ab, bb, a, b = found[:6] * grown * np.array([reach**k for k in (0, 2, 2, 2, 1, 1)])
    first, second = axes.transpose(0, 2, 1)
    slopes = []
    for i, j in ELEMENTS:
        slopes.append((1.0 if i == j else 2.0) * q[:, i] * q[:, j] * pairs)
    for i, j in ELEMENTS:
        mixed = ab * (first[i] * second[j] + second[i] * first[j])
        both = aa * first[i] * first[j] + bb * second[i] * second[j] + mixed
        slopes.append((1.0 if i == j else 2.0) * DEGREE**2 * both)
    along = 2.0 * DEGREE * (a * first + b * second)  # by the rows of S
    for i, j in SCREW:
        slopes.append(along[i] * q[:, j] - (along[2] * q[:, 2] if i == j else 0.0))
    return pairs - found[6] + total - elastic, np.array(slopes)


def _axes(q: np.ndarray, libration: np.ndarray) -> np.ndarray:
    """The axes (2, n, 3) of L in the planes normal to q (n, 3)."""
    direction = q / np.maximum(np.linalg.norm(q, axis=1), 1e-300)[:, None]
    first = np.cross(direction, np.eye(3)[np.abs(direction).argmin(axis=1)])
    first /= np.maximum(np.linalg.norm(first, axis=1), 1e-300)[:, None]
    second = np.cross(direction, first)
    aa, ab, bb = (
        np.einsum("ni,ij,nj->n", x, libration, y) for x, y in ((first, first), (first, second), (second, second))
    )
    turn = 0.5 * np.arctan2(2.0 * ab, aa - bb)[:, None]
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.array([cosine * first + sine * second, cosine * second - sine * first])


def orders_of(y: np.ndarray) -> np.ndarray:
    """
    How many terms of exp(y) are enough, REST of it being left out, at most MOST_ORDERS.

    Parameters
    ----------
    y : ndarray (n,)

    Returns
    -------
    ndarray (n,) of int
    """
    ends = np.linspace(0.0, 3.0 * LARGEST, 200)
    enough = np.concatenate([[2], stats.poisson.isf(REST, ends[1:]) + 2]).astype(int)
    return np.minimum(enough[np.minimum(np.searchsorted(ends, y), len(ends) - 1)], MOST_ORDERS)


@numba.njit(nogil=True, cache=True)
def _add_moments(out, amplitudes, rho, arms, constant):
    """
    The sums of voxels over pairs of different atoms, in units of the reach: of exp(m'L m) with the S (0), with products
    aa, ab, bb (1 to 3), with a and b (4, 5), and of E E^* alone (6).
    """
    turns, f = amplitudes
    sizes, screws, orders = constant
    n_atoms, most = len(rho), orders.max() + 1
    real, imaginary = np.zeros((most, most)), np.zeros((most, most))
    for v in range(len(turns)):
        order = orders[v]
        real[:], imaginary[:] = 0.0, 0.0
        first, second = arms[0, v], arms[1, v]
        whole = 0.0j
        for i in range(n_atoms):
            a = rho[i, 0] * first[0] + rho[i, 1] * first[1] + rho[i, 2] * first[2]
            b = rho[i, 0] * second[0] + rho[i, 1] * second[1] + rho[i, 2] * second[2]
            phase = 2.0 * math.pi * turns[v, i]
            one = f[v, i] * complex(math.cos(phase), math.sin(phase))
            whole += one
            size = math.exp(a * screws[0, v] + b * screws[1, v])
            power_a = 1.0
            for m in range(order + 1):
                x, y = one.real * size * power_a, one.imag * size * power_a
                for n in range(order + 1 - m):
                    real[m, n] += x
                    imaginary[m, n] += y
                    x *= b
                    y *= b
                power_a *= a
            alone = (f[v, i] * size) ** 2 * math.exp(sizes[0, v] * a * a + sizes[1, v] * b * b)
            out[0, v] -= alone
            out[1, v] -= alone * a * a
            out[2, v] -= alone * a * b
            out[3, v] -= alone * b * b
            out[4, v] -= alone * a
            out[5, v] -= alone * b
            out[6, v] -= f[v, i] ** 2
        out[6, v] += whole.real**2 + whole.imag**2
        weight_a = 1.0
        for m in range(order):
            weight = weight_a
            for n in range(order - m):
                x, y = real[m, n], imaginary[m, n]
                xa, ya, xb, yb = real[m + 1, n], imaginary[m + 1, n], real[m, n + 1], imaginary[m, n + 1]
                out[0, v] += weight * (x * x + y * y)
                out[1, v] += weight * (xa * xa + ya * ya)
                out[2, v] += weight * (xa * xb + ya * yb)
                out[3, v] += weight * (xb * xb + yb * yb)
                out[4, v] += weight * (x * xa + y * ya)
                out[5, v] += weight * (x * xb + y * yb)
                weight *= sizes[1, v] / (n + 1)
            weight_a *= sizes[0, v] / (m + 1)
