"""
Scale, overall B and bulk solvent refined against merged intensities.

In: the Parts of the model (bulk_solvent.py), intensities I with standard deviations sigma; out: the parameters with
their esds.  The minimum of

    sum_h rho(r_h^2),   r = (I - I_model)/sqrt(v),   v = sigma^2 + v_model

is sought by scipy's trust-region least squares with the derivatives of bulk_solvent.py, for least_squares rho(z) = z,
for robust that of Student's t, rho(z) = (nu + 1) ln(1 + z/nu), nu = 4 (Lange, Little and Taylor 1989), to which what
is far out weighs less and less.  v_model is the variance that an incomplete and wrong model adds: F = F_model + delta,
delta a complex Gaussian of variance eps Sigma in each shell of resolution, so that

    v_model = c (2 I_model eps Sigma + (eps Sigma)^2),     c = 1, centric 2

Sigma is such that the median of |r| in its shell is that of a normal distribution: outliers do not count for it.  Fit
and Sigma take turns until the fit no longer changes.  esds are those of M-estimators, A^-1 C A^-1 with A = sum rho'
J^T J (second order in what bends rho included) and C = sum psi^2 J^T J, J = d r/d x (Huber 1967, White 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, least_squares

from dials_postrefine.numerics.robust import LOSSES, MEDIAN_OF_NORMAL, loss_derivatives
from dials_postrefine.numerics.sandwich import sandwich_hc1
from dials_postrefine.numerics.shells import equal_number_edges, shell_of
from dials_postrefine.scattering.bulk_solvent import B_SOL, K_SOL, Parts, intensities, intensities_and_derivatives

LOSS = {"least_squares": "linear", "robust": "student_t"}  # by target
MIN_IN_SHELL = 25  # reflections that tell Sigma
MAX_ROUNDS = 12
CONVERGED = 0.01  # of an esd
MAX_B_SOL = 400.0  # Angstrom^2
OUTLIER = 6.0  # expected standard deviations


@dataclass(frozen=True)
class ScaleSettings:
    """
    How model and data are brought together.

    Attributes
    ----------
    scale : str
        ``none``, ``isotropic`` or ``anisotropic`` (tensors.py).
    target : str
        ``least_squares`` or ``robust`` (module docstring).
    k_sol, b_sol : float or None
        Of a solvent as water, in electrons/Angstrom^3 and Angstrom^2; None for both: refined where there are data.
    model_error : float
        Relative, of amplitudes, where there are no data.
    n_shells : int
    """

    scale: str = "anisotropic"
    target: str = "robust"
    k_sol: float | None = None
    b_sol: float | None = None
    model_error: float = 0.2
    n_shells: int = 10

    @property
    def solvent(self) -> tuple[float, float]:
        """k_sol and b_sol as given, or where a refinement starts."""
        return K_SOL if self.k_sol is None else self.k_sol, B_SOL if self.b_sol is None else self.b_sol

    @property
    def refines_solvent(self) -> bool:
        """Whether k_sol and b_sol are refined."""
        return self.k_sol is None and self.b_sol is None


@dataclass(frozen=True)
class MergedIntensities:
    """
    Merged data, of n reflections.

    Attributes
    ----------
    intensity, sigma : ndarray, shape (n,)
    epsilon : ndarray, shape (n,)
        How often symmetry makes each index of itself.
    centric : ndarray of bool, shape (n,)
    """

    intensity: np.ndarray
    sigma: np.ndarray
    epsilon: np.ndarray
    centric: np.ndarray

    def select(self, rows: np.ndarray) -> MergedIntensities:
        """The reflections of these rows (mask or numbers)."""
        return MergedIntensities(*(column[rows] for column in vars(self).values()))


@dataclass
class ScaleFit:
    """
    The fitted model.

    Attributes
    ----------
    x : ndarray, shape (n_parameters,)
        The parameters (bulk_solvent.py).
    covariance : ndarray, shape (n_parameters, n_parameters)
    k_ov, k_ov_esd : float
    b_cart, b_cart_esd : ndarray, shape (6,)
        11 22 33 12 13 23 in Angstrom^2.
    k_sol, k_sol_esd, b_sol, b_sol_esd : float
        Electrons/Angstrom^3 and Angstrom^2; NaN without solvent, the esds where it is not refined.
    n : int
        Reflections used.
    n_outliers : int
        Those that are more than 6 expected standard deviations off.
    chi_sq : float
        The median of |r| as a standard deviation, squared.
    edges : ndarray, shape (s + 1,)
        Of the shells, in d*^2.
    sigma_f : ndarray, shape (s,)
        sqrt(Sigma), the model error on the amplitudes.
    at_bound : list of str
        What ended at a bound.
    """

    x: np.ndarray
    covariance: np.ndarray
    k_ov: float
    k_ov_esd: float
    b_cart: np.ndarray
    b_cart_esd: np.ndarray
    k_sol: float
    k_sol_esd: float
    b_sol: float
    b_sol_esd: float
    n: int
    n_outliers: int
    chi_sq: float
    edges: np.ndarray
    sigma_f: np.ndarray
    at_bound: list[str]


def model_variance(intensity: np.ndarray, eps_sigma: np.ndarray, centric: np.ndarray) -> np.ndarray:
    """
    v_model, the variance that the error of the model adds (module docstring).

    Parameters
    ----------
    intensity : ndarray, shape (n,)
        I_model.
    eps_sigma : ndarray, shape (n,)
        eps Sigma.
    centric : ndarray of bool, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
    """
    return np.where(centric, 2.0, 1.0) * (2.0 * intensity * eps_sigma + eps_sigma**2)


def fit_scale(
    parts: Parts, basis: np.ndarray, data: MergedIntensities, settings: ScaleSettings = ScaleSettings()
) -> ScaleFit:
    """
    Fit the model of the parts to merged data (module docstring).

    Parameters
    ----------
    parts : Parts
        Of n reflections.
    basis : ndarray, shape (p, 6)
        Which goes with parts.q.
    data : MergedIntensities
        Of the same, all finite and sigma > 0.
    settings : ScaleSettings
        k_sol and b_sol: start, or, unless they are refined, values.

    Returns
    -------
    ScaleFit

    Raises
    ------
    ValueError
        Where there are no more reflections than parameters, or data and model have no positive scale.
    """
    n, n_parameters = len(data.intensity), parts.n_parameters
    if n <= n_parameters:
        raise ValueError(f"{n} reflections can't tell {n_parameters} parameters")
    edges = equal_number_edges(parts.d_star_sq, settings.n_shells, MIN_IN_SHELL)
    shell = shell_of(parts.d_star_sq, edges)
    k_sol, b_sol = settings.solvent
    starts: list[tuple] = [(k_sol, b_sol)]
    free = np.ones(n_parameters, dtype=bool)
    lower, upper = np.full(n_parameters, -np.inf), np.full(n_parameters, np.inf)
    if not parts.has_solvent:
        starts = [()]
    elif settings.refines_solvent:
        starts += [(0.5 * k_sol, 2.0 * b_sol), (1.4 * k_sol, 0.6 * b_sol)]
        lower[-2:], upper[-2:] = (min(0.0, 3.0 * k_sol), 0.0), (max(0.0, 3.0 * k_sol), MAX_B_SOL)
    else:
        free[-2:] = False
    problem = _Problem(parts, data, settings.target, free, lower, upper)
    best = None
    for start in starts:
        found = _alternate(problem, shell, len(edges) - 1, _start(problem, shell, start))
        if best is None or found.minus_2_ln_l < best.minus_2_ln_l - 1e-6:
            best = found
    return _result(problem, basis, edges, best)


@dataclass(frozen=True)
class _Problem:
    """The model, the data and the target; which parameters are free, and their bounds, all (n_parameters,)."""

    parts: Parts
    data: MergedIntensities
    target: str
    free: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def loss(self) -> str:
        """As numerics.robust calls it."""
        return LOSS[self.target]


@dataclass(frozen=True)
class _Minimum:
    """Where a fit has ended: parameters and covariance, Sigma (s,), r (n,), and -2 ln L by Student's t, to compare."""

    x: np.ndarray
    covariance: np.ndarray
    sigma_sq: np.ndarray
    residual: np.ndarray
    minus_2_ln_l: float


def _alternate(problem: _Problem, shell: np.ndarray, n_shells: int, x: np.ndarray) -> _Minimum:
    """Fit and Sigma in turns, from x on, until the fit no longer changes."""
    parts, data = problem.parts, problem.data
    for _ in range(MAX_ROUNDS):
        current = intensities(parts, x)
        sigma_sq = _model_errors(data, current, shell, n_shells)
        variance = data.sigma**2 + model_variance(current, data.epsilon * sigma_sq[shell], data.centric)
        before, x = x, _minimise(problem, variance, x)
        covariance = _covariance(problem, variance, x)
        with np.errstate(invalid="ignore", divide="ignore"):
            moved = np.abs(x - before) / np.sqrt(np.diag(covariance))
        if not (moved[np.isfinite(moved)] > CONVERGED).any():
            break
    residual = (data.intensity - intensities(parts, x)) / np.sqrt(variance)
    minus_2_ln_l = np.sum(np.log(variance)) + np.sum(LOSSES["student_t"](residual**2).rho)
    return _Minimum(x, covariance, sigma_sq, residual, minus_2_ln_l)


def _start(problem: _Problem, shell: np.ndarray, solvent: tuple) -> np.ndarray:
    """Scale and isotropic B from the medians of the shells: ln(I/I_model) = 2 ln k_ov - B d*^2/2."""
    parts, intensity = problem.parts, problem.data.intensity
    x = np.zeros(parts.n_parameters)
    x[len(x) - len(solvent) :] = solvent
    model = intensities(parts, x)
    rows = [np.flatnonzero(shell == k) for k in range(shell.max() + 1)]
    ratio = np.array([np.median(intensity[row]) / np.median(model[row]) for row in rows])
    d_star_sq = np.array([np.mean(parts.d_star_sq[row]) for row in rows])
    good = np.isfinite(ratio) & (ratio > 0.0)
    if not good.any():
        raise ValueError("data and model have no positive scale")
    if parts.q.shape[1] and np.count_nonzero(good) > 2:
        slope, offset = np.polyfit(d_star_sq[good], np.log(ratio[good]), 1)
        x[0], x[1] = offset / 2.0, -2.0 * slope
    else:
        x[0] = np.median(np.log(ratio[good])) / 2.0
    return x


def _model_errors(data: MergedIntensities, model: np.ndarray, shell: np.ndarray, n_shells: int) -> np.ndarray:
    """Sigma by shell (n_shells,): makes the median of |r| a normal one's; 0 where sigma alone explains it."""
    found = np.zeros(n_shells)
    for k in range(n_shells):
        in_shell = shell == k
        here, expected = data.select(in_shell), model[in_shell]
        deviation = np.abs(here.intensity - expected)

        def excess(value: float) -> float:
            variance = here.sigma**2 + model_variance(expected, here.epsilon * value, here.centric)
            return np.median(deviation / np.sqrt(variance)) - MEDIAN_OF_NORMAL

        top = np.mean(expected) + np.median(deviation)
        if excess(1e-12 * top) <= 0.0:
            continue
        while excess(top) > 0.0:
            top *= 4.0
        found[k] = brentq(excess, 1e-12 * top, top, xtol=1e-9 * top, rtol=1e-6)
    return found


def _minimise(problem: _Problem, variance: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The parameters at the minimum for fixed variances (n,), from x on."""
    parts, intensity, free = problem.parts, problem.data.intensity, problem.free
    weight = 1.0 / np.sqrt(variance)

    def whole(free_x: np.ndarray) -> np.ndarray:
        every = x.copy()
        every[free] = free_x
        return every

    def residuals(free_x: np.ndarray) -> np.ndarray:
        return (intensity - intensities(parts, whole(free_x))) * weight

    def jacobian(free_x: np.ndarray) -> np.ndarray:
        return -intensities_and_derivatives(parts, whole(free_x))[1][:, free] * weight[:, None]

    lower, upper = problem.lower[free], problem.upper[free]
    name = problem.loss
    loss = name if name == "linear" else (lambda z: loss_derivatives(name, z))
    found = least_squares(
        residuals,
        np.clip(x[free], lower, upper),
        jacobian,
        (lower, upper),
        loss=loss,
        x_scale="jac",
        xtol=1e-10,
        ftol=1e-12,
    )
    return whole(found.x)


def _covariance(problem: _Problem, variance: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The sandwich of the module docstring; NaN for what is not free, or at a bound."""
    free = problem.free & (x > problem.lower) & (x < problem.upper)
    model, derivatives = intensities_and_derivatives(problem.parts, x)
    jacobian = derivatives[:, free] / np.sqrt(variance)[:, None]
    residual = (problem.data.intensity - model) / np.sqrt(variance)
    covariance = np.full((len(x), len(x)), np.nan)
    covariance[np.ix_(free, free)] = sandwich_hc1(residual, jacobian, problem.loss)
    return covariance


def _result(problem: _Problem, basis: np.ndarray, edges: np.ndarray, minimum: _Minimum) -> ScaleFit:
    x, covariance, residual, p = minimum.x, minimum.covariance, minimum.residual, len(basis)
    lower, upper, solvent = problem.lower, problem.upper, problem.parts.has_solvent
    b_covariance = covariance[1 : 1 + p, 1 : 1 + p]
    esd = np.sqrt(np.diag(covariance))
    names = ["ln k_ov", *(f"b_{j + 1}" for j in range(p)), "k_sol", "b_sol"][: len(x)]
    bound = problem.free & np.isfinite(lower) & (np.isclose(x, lower, atol=1e-6) | np.isclose(x, upper, atol=1e-6))
    return ScaleFit(
        x=x,
        covariance=covariance,
        k_ov=float(np.exp(x[0])),
        k_ov_esd=float(np.exp(x[0]) * esd[0]),
        b_cart=x[1 : 1 + p] @ basis if p else np.zeros(6),
        b_cart_esd=np.sqrt(np.diag(basis.T @ b_covariance @ basis)) if p else np.full(6, np.nan),
        k_sol=float(x[-2]) if solvent else np.nan,
        k_sol_esd=float(esd[-2]) if solvent else np.nan,
        b_sol=float(x[-1]) if solvent else np.nan,
        b_sol_esd=float(esd[-1]) if solvent else np.nan,
        n=len(residual),
        n_outliers=int(np.count_nonzero(np.abs(residual) > OUTLIER)),
        chi_sq=float((np.median(np.abs(residual)) / MEDIAN_OF_NORMAL) ** 2),
        edges=edges,
        sigma_f=np.sqrt(minimum.sigma_sq),
        at_bound=[name for name, reached in zip(names, bound) if reached],
    )
