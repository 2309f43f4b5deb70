"""
The model of a lattice: calculated intensities and their derivatives by the parameters.

    I_calc = G exp(-2 B d*^2) (r_0/r_s) p(r_h, r_s) I_ref,      exp(-2 B d*^2) = exp(-8 B sin^2(theta)/lambda^2)

B (A^2) is a quarter of the conventional one, which users give and see.  The partiality p is a profile of partiality.py,
one on the Ewald sphere, whose width follows resolution at constant volume,

    r_s^2 = r_0^2 + (eta d*)^2,

r_0 from the size of the domains and eta (radians) from their mosaic spread and the bandwidth.  The height r_0/r_s
counts as a part of the scale factor.  With `radius=constant` eta is zero and r_s = r_0.  With `unit_cell=scale` the
reciprocal cell is larger than indexed by the factor 1 + epsilon, which also stands for a wavelength that is shorter by
that factor: an error of 0.1 % moves r_h by 0.001 lambda d*^2/2.  The parameter vector is

    x = (ln G, B, theta_x, theta_y, ln r_0, ln eta, epsilon)

with logarithms because G, r_0 and eta are positive (p depends on r_s^2, so that a free r_s can converge to -r_s).
`rs` refines the first four, `rs_hybrid` then the radius too, r_0 and, if it is not constant, eta; the last round of
either refines epsilon if the cell is not fixed.  The derivatives are

    dI/dlnG = I,  dI/dB = -2 d*^2 I,  dI/dy = G e I_ref (r_0/r_s) dp/dr_h dr_h/dy  (y: theta_x, theta_y, epsilon),
    dI/dln r_0 = G e I_ref (r_0/r_s) (a r_s dp/dr_s + (1 - a) p),          a = (r_0/r_s)^2,
    dI/dln eta = G e I_ref (r_0/r_s) (1 - a) (r_s dp/dr_s - p).

Everything works on the Observations of one lattice, x (7,), and on the JoinedObservations of many, x (L, 7).
Sources: postrefinement.md, Model and recipe; the cell after Uervirojnangkoorn et al. (2015), eLife 4, e05421, who
refine it with each still.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.rotations import rotate_many_with_derivatives, rotate_with_derivatives
from dials_postrefine.stills.geometry import excitation_with_derivatives
from dials_postrefine.stills.partiality import Profile, find_profile

PARAMETERS = ("scale", "b_factor", "theta_x", "theta_y", "radius", "mosaicity", "cell_scale")
N_PARAMETERS = len(PARAMETERS)
LN_SCALE, B_FACTOR, THETA_X, THETA_Y, LN_RADIUS, LN_MOSAICITY, CELL_SCALE = range(N_PARAMETERS)

# ln eta where there is no mosaicity: (eta d*)^2 is then nothing beside any r_0^2
LN_NOTHING = -60.0

MODELS = ("rs", "rs_hybrid")
RADII = ("constant", "mosaic")
UNIT_CELLS = ("fixed", "scale")

CONVENTIONAL_B = 4.0  # the conventional B, of exp(-B d*^2/2), is so many times this model's
# exp(-2 B d*^2) of a trial step must stay a number: the exponent is clipped here, far beyond any accepted B.
MAX_EXPONENT = 50.0

# What is known to no better than this is not known at all.
MAX_RELATIVE_VARIANCE = 1.0


def rounds(model: str, radius: str, unit_cell: str = "fixed") -> tuple[tuple[str, ...], ...]:
    """
    The parameters that each round of a model refines (module docstring).

    Parameters
    ----------
    model, radius, unit_cell : str
        Of MODELS, RADII and UNIT_CELLS.

    Returns
    -------
    tuple of tuples of str
        Of PARAMETERS.
    """
    first = last = PARAMETERS[:LN_RADIUS]
    if model == "rs_hybrid":
        last = PARAMETERS[:CELL_SCALE] if radius == "mosaic" else PARAMETERS[:LN_MOSAICITY]
    if unit_cell == "scale":
        last = (*last, PARAMETERS[CELL_SCALE])
    return (first,) if last == first else (first, last)


@dataclass
class Observations:
    """
    The observations of one lattice: n reflections.

    q (n, 3) scattering vectors A_ref h in 1/Angstrom, q_sq = |q|^2 (n,), the beam s0 (3,) in 1/Angstrom, intensity and
    variance (n,) corrected for polarisation and detector efficiency, reference (n,) full intensities, NaN where there
    is none.
    """

    q: np.ndarray
    q_sq: np.ndarray
    s0: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    reference: np.ndarray

    def select(self, mask: np.ndarray) -> Observations:
        """The observations where mask (n,) holds."""
        return replace(self, **{name: getattr(self, name)[mask] for name in BY_REFLECTION})

    def __len__(self) -> int:
        return len(self.q_sq)

    def parameters(self, x: np.ndarray) -> np.ndarray:
        """The parameters of each reflection's lattice: here the numbers x (7,) themselves."""
        return x

    def excitation(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """r_h at x (7,) and its derivatives by the angles and the cell's scale, each (n,) (geometry.py)."""
        rotated, length = self.s0 @ rotate_with_derivatives(x[THETA_X], x[THETA_Y]), np.sqrt(self.s0 @ self.s0)
        return excitation_with_derivatives(self.q, self.q_sq, length, rotated, 1.0 + x[CELL_SCALE])

    def times_covariance(self, gradient: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """The rows of gradient (n, 7) times the covariance (7, 7)."""
        return gradient @ covariance


BY_REFLECTION = ("q", "q_sq", "intensity", "variance", "reference")


@dataclass
class JoinedObservations(Observations):
    """
    The observations of L lattices together: s0 (L, 3), and lattice (n,), sorted, says which reflection is whose.

    Parameters are x (L, 7) and covariances (L, 7, 7).
    """

    lattice: np.ndarray

    def select(self, mask: np.ndarray) -> JoinedObservations:
        """The observations where mask (n,) holds."""
        return replace(super().select(mask), lattice=self.lattice[mask])

    def split(self) -> list[Observations]:
        """The observations of each lattice."""
        edges = np.searchsorted(self.lattice, np.arange(len(self.s0) + 1))
        return [
            Observations(s0=s0, **{name: getattr(self, name)[first:last] for name in BY_REFLECTION})
            for s0, first, last in zip(self.s0, edges[:-1], edges[1:])
        ]

    def parameters(self, x: np.ndarray) -> np.ndarray:
        """
        The parameters x (L, 7) of each reflection's lattice (7, n).

        Contiguous: numpy takes the exponential of strided numbers by another way, with another last digit, when it
        likes.
        """
        return np.ascontiguousarray(x[self.lattice].T)

    def excitation(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """r_h at x (L, 7) and its derivatives by the angles and the cell's scale, each (n,) (geometry.py)."""
        rotated = np.einsum("li,lkij->lkj", self.s0, rotate_many_with_derivatives(x[:, THETA_X], x[:, THETA_Y]))
        rotated, length = rotated[self.lattice], np.sqrt(np.einsum("li,li->l", self.s0, self.s0))[self.lattice]
        cell_scale = (1.0 + x[:, CELL_SCALE])[self.lattice]
        return excitation_with_derivatives(self.q, self.q_sq, length, rotated, cell_scale)

    def times_covariance(self, gradient: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """The rows of gradient (n, 7), each times the covariance (L, 7, 7) of its lattice."""
        return (gradient[:, None, :] @ covariance[self.lattice])[:, 0, :]


def radius(x: np.ndarray, q_sq: np.ndarray) -> np.ndarray:
    """
    The radius r_s of the reciprocal-lattice points (module docstring).

    Parameters
    ----------
    x : ndarray, shape (7,) or (7, n)
        Parameters of one lattice, or of the lattice of each reflection.
    q_sq : ndarray, shape (n,)
        d*^2 in 1/Angstrom^2.

    Returns
    -------
    ndarray, shape (n,)
        In 1/Angstrom.
    """
    return np.sqrt(np.exp(2.0 * x[LN_RADIUS]) + np.exp(2.0 * x[LN_MOSAICITY]) * q_sq)


def _decay(x: np.ndarray, q_sq: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(x[LN_SCALE] - 2.0 * x[B_FACTOR] * q_sq, -MAX_EXPONENT, MAX_EXPONENT))


def scale_factor(x: np.ndarray, q_sq: np.ndarray) -> np.ndarray:
    """
    The scale factor G exp(-2 B d*^2) r_0/r_s.

    Parameters
    ----------
    x : ndarray, shape (7,) or (7, n)
        Parameters of one lattice, or of the lattice of each reflection.
    q_sq : ndarray, shape (n,)
        d*^2 in 1/Angstrom^2.

    Returns
    -------
    ndarray, shape (n,)
    """
    return _decay(x, q_sq) * np.exp(x[LN_RADIUS]) / radius(x, q_sq)


def scale_variance(x: np.ndarray, covariance: np.ndarray, q_sq: np.ndarray) -> np.ndarray:
    """
    The variance of the scale factor s of one lattice, by first-order propagation:

        s^2 g^T C g,      g = d ln s/dx = (1, -2 d*^2, 0, 0, 1 - a, a - 1, 0),      a = (r_0/r_s)^2

    Parameters
    ----------
    x : ndarray, shape (7,)
        Parameters of the lattice.
    covariance : ndarray, shape (7, 7)
        Their covariance C.
    q_sq : ndarray, shape (n,)
        d*^2 in 1/Angstrom^2.

    Returns
    -------
    ndarray, shape (n,)
        s^2 MAX_RELATIVE_VARIANCE where the covariance is not known.
    """
    gradient = np.zeros((len(q_sq), N_PARAMETERS))
    gradient[:, LN_SCALE] = 1.0
    gradient[:, B_FACTOR] = -2.0 * q_sq
    gradient[:, LN_RADIUS] = 1.0 - np.exp(2.0 * x[LN_RADIUS]) / radius(x, q_sq) ** 2
    gradient[:, LN_MOSAICITY] = -gradient[:, LN_RADIUS]
    with np.errstate(invalid="ignore"):  # of an infinite covariance
        relative = np.einsum("ni,ij,nj->n", gradient, covariance, gradient)
    relative = np.where(np.isfinite(relative), np.maximum(relative, 0.0), MAX_RELATIVE_VARIANCE)
    return scale_factor(x, q_sq) ** 2 * relative


def partiality(x: np.ndarray, observations: Observations, profile: Profile | str) -> np.ndarray:
    """
    The partiality p of each observation.

    Parameters
    ----------
    x : ndarray, shape (7,), or (L, 7) of joined observations
        Parameters.
    observations : Observations
        n of them.
    profile : Profile or str
        Or its name.

    Returns
    -------
    ndarray, shape (n,)
    """
    r_h, *_ = observations.excitation(x)
    return find_profile(profile)(r_h, radius(observations.parameters(x), observations.q_sq))[0]


def calculate(x: np.ndarray, observations: Observations, profile: Profile | str) -> np.ndarray:
    """
    The calculated intensities I_calc (module docstring).

    Parameters
    ----------
    x, observations, profile
        As in `partiality`.

    Returns
    -------
    ndarray, shape (n,)
        NaN where there is no reference.
    """
    scale = scale_factor(observations.parameters(x), observations.q_sq)
    return scale * partiality(x, observations, profile) * observations.reference


def calculate_with_jacobian(
    x: np.ndarray, observations: Observations, profile: Profile | str
) -> tuple[np.ndarray, np.ndarray]:
    """
    The calculated intensities and their derivatives by the parameters of their lattice (module docstring).

    Parameters
    ----------
    x, observations, profile
        As in `partiality`.

    Returns
    -------
    i_calc : ndarray, shape (n,)
    jacobian : ndarray, shape (n, 7)
        NaN where there is no reference.
    """
    q_sq = observations.q_sq
    r_h, dr_x, dr_y, dr_cell = observations.excitation(x)
    by_reflection = observations.parameters(x)
    r_s = radius(by_reflection, q_sq)
    height = np.exp(by_reflection[LN_RADIUS]) / r_s
    p, dp_dr_h, dp_dr_s = find_profile(profile)(r_h, r_s)
    full = _decay(by_reflection, q_sq) * observations.reference * height
    jacobian = np.empty((len(q_sq), N_PARAMETERS))
    jacobian[:, LN_SCALE] = i_calc = full * p
    jacobian[:, B_FACTOR] = -2.0 * q_sq * i_calc
    slope = full * dp_dr_h
    jacobian[:, THETA_X] = slope * dr_x
    jacobian[:, THETA_Y] = slope * dr_y
    jacobian[:, CELL_SCALE] = slope * dr_cell
    share = height * height  # a of the module docstring
    wider = full * dp_dr_s * r_s
    jacobian[:, LN_RADIUS] = share * wider + (1.0 - share) * i_calc
    jacobian[:, LN_MOSAICITY] = (1.0 - share) * (wider - i_calc)
    return i_calc, jacobian


def partiality_with_variance(
    x: np.ndarray, covariance: np.ndarray, observations: Observations, profile: Profile | str
) -> tuple[np.ndarray, np.ndarray]:
    """
    The partiality, and the variance of ln(G e p r_0/r_s) by first-order propagation: g^T C g with g = d ln I_calc/dx.

    Parameters
    ----------
    x : ndarray, shape (7,), or (L, 7) of joined observations
        Parameters.
    covariance : ndarray, shape (7, 7) or (L, 7, 7)
        Their covariance C.
    observations : Observations
        n of them; their reference does not matter.
    profile : Profile or str
        Or its name.

    Returns
    -------
    p : ndarray, shape (n,)
    variance : ndarray, shape (n,)
        At most MAX_RELATIVE_VARIANCE, also where the covariance is not known.
    """
    ones = replace(observations, reference=np.ones(len(observations)))
    y, jacobian = calculate_with_jacobian(x, ones, profile)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gradient = jacobian / y[:, None]
        variance = np.einsum("ni,ni->n", observations.times_covariance(gradient, covariance), gradient)
    p = y / scale_factor(observations.parameters(x), observations.q_sq)
    return p, np.fmin(np.fmax(variance, 0.0), MAX_RELATIVE_VARIANCE)
