"""
What the spread between symmetry equivalents depends on: each cause alone, quantified and ranked by what it explains.

Of every observation the equivalents say what to expect (spread.Predictions).  A cause is one parameter more than the
one tau of the data set, and its gain is that of ln L; the ranking is by the gain less one (Akaike).

A cause of the size of the spread, by a number x_i of the observation:

    tau_i = tau exp(beta (x_i - <x>))

    zone axis   x is the angle in degrees between the beam and the nearest low-index zone axis
    intensity   x is the rank of J_h, from 0 of the weakest to 1
    noise       x is the rank of the relative error sqrt(v_i)/|J_h|, from 0 of the least to 1

A cause of a common factor g_m of an image m,

    g_m - 1 = sum m_i (I_i - m_i)/V_i / sum m_i^2/V_i,   e_m^2 = 1/sum m_i^2/V_i,   V_i = v_i + u_i + tau^2 m_i^2

with m_i and u_i the mean and variance of J by the equivalents, over the observations of the image:

    images      g_m - 1 ~ N(mu, s^2 + e_m^2): s is the variation between images, s^2/tau^2 its share
    beam        g_m - 1 ~ N(mu + beta x_m, s^2 + e_m^2), x_m = ln(beam intensity/its mean); s by restricted
                likelihood, the gain by full ones, since those that are restricted do not compare different beta

p is that of twice the gain where nothing depends on the cause: chi squared of one degree of freedom, but for s, which
can't be negative.  Half of all data then have s = 0 and no gain, and p = 1; p of the other half is half of chi
squared's (Self and Liang 1987, J. Am. Stat. Assoc. 82, 605; Stram and Lee 1994, Biometrics 50, 1171).  So p <= a in a
fraction a of such data for a below a half, to the accuracy that many images have.  beta has no boundary, and s no part
in its p, as it is free with and without beta.

tau of the fractions with the noisiest observations left out says the same of the noise without a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import chi2

from dials_postrefine.electron.spread.spread import Equivalents, Predictions, Tau, fit_by_observation
from dials_postrefine.numerics.grouped import rank

MOST_OBSERVATIONS = 20_000
FEWEST_IMAGES = 4
NORMAL_95 = 1.96
EDGES = 10.0, 90.0  # percentiles of x at which the tau of a cause is told
LEFT_OUT = 0.05, 0.1, 0.2, 0.5


@dataclass
class Cause:
    """
    One cause of the spread (module docstring).

    Attributes
    ----------
    name : str
    value, low, high : float
        beta or s with its 95 % interval.
    gain : float
        In ln L.
    p : float
    n : int
        Observations or images.
    x_at : (float, float) or None
        The 10th and 90th percentile of x, of a cause of the size of the spread.
    tau_at : (float, float) or None
        tau there.
    share : float or None
        Of tau^2, of a factor of the images.
    """

    name: str
    value: float
    low: float
    high: float
    gain: float
    p: float
    n: int
    x_at: tuple[float, float] | None = None
    tau_at: tuple[float, float] | None = None
    share: float | None = None


@dataclass
class ImageFactors:
    """g_m - 1 and its esd e_m (n_images,), NaN of images whose observations have no equivalent."""

    excess: np.ndarray
    esd: np.ndarray


@dataclass
class Causes:
    """The causes, what explains most first; those that could not be tested, with the reason; and the taus."""

    ranked: list[Cause]
    untested: dict[str, str]
    factors: ImageFactors
    left_out: list[tuple[float, Tau]]


def find_causes(
    equivalents: Equivalents,
    predicted: Predictions,
    ln_p: np.ndarray,
    tau: float,
    image: np.ndarray,
    beam_intensity: np.ndarray,
    zone_angle: np.ndarray,
) -> Causes:
    """
    All causes (module docstring).

    Parameters
    ----------
    equivalents : Equivalents
        n observations.
    predicted : Predictions
        What their equivalents say of them.
    ln_p : ndarray, shape (n_grid, n)
        As spread.ln_densities gives it.
    tau : float
        Of the data set.
    image : ndarray of int, shape (n,)
    beam_intensity : ndarray, shape (n_images,)
        NaN where it is not known.
    zone_angle : ndarray, shape (n_images,)
        From the beam to the nearest zone axis (radians).

    Returns
    -------
    Causes
    """
    step = max(1, len(image) // MOST_OBSERVATIONS)
    sample = Predictions(*(column[..., ::step] for column in vars(predicted).values()))
    noise = rank(
        np.sqrt(equivalents.variance) / np.maximum(np.abs(equivalents.at(equivalents.mean)), 1e-300),
    )
    x_of = {
        "zone axis": np.degrees(zone_angle)[image],
        "intensity": equivalents.at(rank(equivalents.mean)),
        "noise": noise,
    }
    found, untested = [], {}
    for name, x in x_of.items():
        if np.ptp(x) > 0.0 and tau > 0.0:
            found.append(_test_size(name, sample, x[::step], tau, step))
        else:
            untested[name] = "it is the same of all observations" if tau > 0.0 else "there is no excess spread"
    factors = image_factors(predicted, tau, image, len(beam_intensity))
    n_known = np.count_nonzero(np.isfinite(factors.excess))
    x = np.log(np.where(beam_intensity > 0.0, beam_intensity, np.nan))
    if n_known < FEWEST_IMAGES:
        untested["images"] = untested["beam"] = "there are too few images"
    else:
        found.append(_test_images(factors, tau))
        known = np.isfinite(x) & np.isfinite(factors.excess)
        if np.count_nonzero(known) < FEWEST_IMAGES or np.ptp(x[known]) == 0.0:
            untested["beam"] = "the beam intensity of the images is not known"
        else:
            found.append(_test_beam(factors, x))
    left_out = []
    for fraction in LEFT_OUT:
        quiet = np.where(noise < 1.0 - fraction, 0, -1)
        left_out.append((fraction, fit_by_observation(equivalents, ln_p, quiet, 1)[0]))
    return Causes(sorted(found, key=lambda cause: -cause.gain), untested, factors, left_out)


def _test_size(name: str, predicted: Predictions, x: np.ndarray, tau: float, step: int) -> Cause:
    """A cause of the size of the spread; of every step-th observation, the gain then being that of all."""
    centre, width = x.mean(), x.std()
    u = (x - centre) / width

    def minus_ln_l(p: np.ndarray) -> tuple[float, np.ndarray]:
        taus = np.exp(np.clip(p[0] + p[1] * u, -20.0, 5.0))
        slope = predicted.slope(taus)
        return -predicted.ln_density(taus).sum(), -np.array([slope.sum(), (slope * u).sum()])

    start = np.array([np.log(tau), 0.0])
    constant = minimize_scalar(lambda y: minus_ln_l(np.array([y, 0.0]))[0], bounds=(start[0] - 1.0, start[0] + 1.0))
    best = minimize(minus_ln_l, np.array([constant.x, 0.0]), jac=True, method="BFGS")
    h = 1e-3
    steps = h * np.eye(2)
    curvature = np.array([(minus_ln_l(best.x + d)[1] - minus_ln_l(best.x - d)[1]) / (2.0 * h) for d in steps])
    covariance = np.linalg.pinv(0.5 * (curvature + curvature.T))
    beta, esd = best.x[1] / width, np.sqrt(max(covariance[1, 1], 0.0) / step) / width
    gain = step * max(constant.fun - best.fun, 0.0)
    x_at = np.percentile(x, EDGES)
    tau_at = np.exp(best.x[0] + beta * (x_at - centre))
    interval = beta - NORMAL_95 * esd, beta + NORMAL_95 * esd
    pairs = (tuple(float(one) for one in pair) for pair in (x_at, tau_at))
    return Cause(name, float(beta), *map(float, interval), float(gain), _p(gain), len(x) * step, *pairs)


def _p(gain: float, on_boundary: bool = False) -> float:
    """p of a gain in ln L by one parameter; on_boundary: one that can't be below its value without a gain."""
    if on_boundary:
        return 1.0 if gain <= 0.0 else float(0.5 * chi2.sf(2.0 * gain, 1))
    return float(chi2.sf(2.0 * gain, 1))


def image_factors(predicted: Predictions, tau: float, image: np.ndarray, n_images: int) -> ImageFactors:
    """
    The common factor of each image (module docstring).

    Parameters
    ----------
    predicted : Predictions
        n observations.
    tau : float
    image : ndarray of int, shape (n,)
    n_images : int

    Returns
    -------
    ImageFactors
    """
    mean, variance = predicted.moments()
    total = predicted.variance + variance + (tau * mean) ** 2
    weight = np.bincount(image, mean**2 / total, n_images)
    known = weight > 0.0
    excess, esd = np.full(n_images, np.nan), np.full(n_images, np.nan)
    excess[known] = np.bincount(image, mean * (predicted.intensity - mean) / total, n_images)[known] / weight[known]
    esd[known] = weight[known] ** -0.5
    return ImageFactors(excess, esd)


def _component(y: np.ndarray, e_sq: np.ndarray, design: np.ndarray):
    """
    Of y ~ N(design beta, s^2 + e^2): s, its interval and gain by restricted likelihood, beta and its esd at this s, and
    the maximum of the full ln L over s and beta, as models of different beta are compared by.
    """

    def solve(s: float):
        w = 1.0 / (s**2 + e_sq)
        normal = design.T @ (w[:, None] * design)
        beta = np.linalg.solve(normal, design.T @ (w * y))
        r = y - design @ beta
        full = -0.5 * np.sum(w * r**2 - np.log(w))
        return full - 0.5 * np.linalg.slogdet(normal)[1], full, beta, np.sqrt(np.diag(np.linalg.inv(normal)))

    scale = max(np.std(y), np.sqrt(e_sq.min()))
    grid = scale * np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 200)])
    ln_l, full = np.array([solve(s)[:2] for s in grid]).T
    k = int(np.argmax(ln_l))
    best = minimize_scalar(
        lambda s: -solve(s)[0], bounds=(grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]), method="bounded"
    )
    s = best.x if -best.fun > ln_l[k] else grid[k]
    inside = grid[ln_l > ln_l[k] - 0.5 * NORMAL_95**2]
    return s, min(inside[0], s), max(inside[-1], s), ln_l[k] - ln_l[0], solve(s)[2:], full.max()


def _test_images(factors: ImageFactors, tau: float) -> Cause:
    known = np.isfinite(factors.excess)
    y, e_sq = factors.excess[known], factors.esd[known] ** 2
    s, low, high, gain, *_ = _component(y, e_sq, np.ones((len(y), 1)))
    share = min(s**2 / tau**2, 1.0) if tau > 0.0 else None
    return Cause(
        "images", float(s), float(low), float(high), float(gain), _p(gain, on_boundary=True), len(y), share=share
    )


def _test_beam(factors: ImageFactors, x: np.ndarray) -> Cause:
    known = np.isfinite(factors.excess) & np.isfinite(x)
    y, e_sq, x = factors.excess[known], factors.esd[known] ** 2, x[known] - x[known].mean()
    one = np.ones(len(y))
    s0, *_, without = _component(y, e_sq, one[:, None])
    s1, *_, (beta, esd), with_it = _component(y, e_sq, np.stack([one, x], axis=1))
    gain = max(with_it - without, 0.0)
    share = max(1.0 - s1**2 / s0**2, 0.0) if s0 > 0.0 else None
    interval = beta[1] - NORMAL_95 * esd[1], beta[1] + NORMAL_95 * esd[1]
    return Cause("beam", float(beta[1]), *map(float, interval), float(gain), _p(gain), len(y), share=share)
