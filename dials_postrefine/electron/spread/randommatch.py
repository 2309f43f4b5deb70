"""
Whether the matched spots of a pair of images are of the same reflections, or as alike as any others.

x, y are the standard scores of ln I inside resolution shells of all spots, on the two images, and rho the pooled
correlation of symmetry equivalents.  For a pair of images, over its m matched spots,

    LLR = sum -1/2 ln(1 - rho^2) - [rho^2 (x^2 + y^2) - 2 rho x y]/[2 (1 - rho^2)]

is the logarithm of the ratio of the likelihoods: equivalents against independent spots, if the scores are normal; by
Bayes the probability of equivalents is 1/(1 + exp(-LLR) (1 - prior)/prior).  They are not normal (their residuals have
long tails, and the test of this is reported), so that significance comes from permutations: the scores of all spots are
permuted inside the shells, and p = (1 + how many permutations have an LLR as high)/(1 + n_permutations) is uniform
where pairs are random.  AUC is the probability that a matched pair has a higher LLR than a random one, the mean of f_p,
the fraction of random ones below that of pair p; as pairs share images, its esd is (Aronow et al. 2015, Polit. Anal.
23, 564)

    esd^2 = [sum_m (sum_(p with m) e_p)^2 - sum_p e_p^2]/n_pairs^2,    e_p = f_p - AUC,    m the images
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import kurtosis, normaltest

from dials_postrefine.electron.spread.pairs import Pairs
from dials_postrefine.numerics.grouped import even_groups, standard_scores

# No test without some correlation: below this rho would follow the chance of the very pairs to be tested.
RHO_RANGE = (0.1, 0.999)
FEWEST_IN_SHELL = 20
FEWEST_FOR_NORMALITY = 20
MOST_NUMBERS = 50_000_000  # permuted scores: of many spots there are fewer permutations
MOST_PERMUTATIONS, FEWEST_PERMUTATIONS = 999, 99


@dataclass
class RandomMatch:
    """
    Whether pairs of images are better than chance (module docstring).

    Attributes
    ----------
    llr, posterior, p : ndarray, shape (n_pairs,)
        NaN of a pair without matched spots of I > 0.
    n : ndarray of int, shape (n_pairs,)
        Matched spots with I > 0.
    rho : float
    n_equivalents : int
        The spots that rho is from.
    auc, auc_esd : float
    n_permutations, n_shells : int
    kurtosis, p_normal : float
        Excess kurtosis of the residuals, and the p value of their normality.
    """

    llr: np.ndarray
    posterior: np.ndarray
    p: np.ndarray
    n: np.ndarray
    rho: float
    n_equivalents: int
    auc: float
    auc_esd: float
    n_permutations: int
    n_shells: int
    kurtosis: float
    p_normal: float


def pooled_correlation(x: np.ndarray, unique: np.ndarray) -> tuple[float, int]:
    """
    The correlation of the scores of symmetry equivalents, each pair taken both ways round.

    Parameters
    ----------
    x : ndarray, shape (m,)
        Scores.
    unique : ndarray of int, shape (m,)

    Returns
    -------
    rho : float
        0 where there is no pair.
    n_equivalents : int
        How many scores have an equivalent.
    """
    _, number, counts = np.unique(unique, return_inverse=True, return_counts=True)
    total, square = np.bincount(number, x), np.bincount(number, x**2)
    below = np.sum((counts - 1) * square)
    return float(np.sum(total**2 - square) / below) if below > 0.0 else 0.0, int(counts[counts > 1].sum())


def ln_likelihood_ratio(x: np.ndarray, y: np.ndarray, rho: float) -> np.ndarray:
    """
    The LLR of single spots (module docstring).

    Parameters
    ----------
    x, y : ndarray, shape (m,)
        Their scores on the two images.
    rho : float
        The correlation of symmetry equivalents.

    Returns
    -------
    ndarray, shape (m,)
    """
    rest = 1.0 - rho**2
    return -0.5 * np.log(rest) - (rho**2 * (x**2 + y**2) - 2.0 * rho * x * y) / (2.0 * rest)


def _esd_of_mean(values: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """The esd of the mean of values (n,) of pairs of images a and b (n,) (module docstring)."""
    if len(values) < 2:
        return np.nan
    e = values - values.mean()
    of_image = np.bincount(np.concatenate([a, b]), np.concatenate([e, e]))
    plain = np.sum(e**2)
    return float(np.sqrt(max(np.sum(of_image**2) - plain, plain))) / len(values)


def compare_with_random(
    pairs: Pairs, n_shells: int = 5, prior: float = 0.5, n_permutations: int | None = None, seed: int = 0
) -> RandomMatch:
    """
    The test of all pairs (module docstring).

    Parameters
    ----------
    pairs : Pairs
    n_shells : int
        Fewer where they would hold less than FEWEST_IN_SHELL spots.
    prior : float
        The probability that a pair is one of equivalents.
    n_permutations : int, optional
        By default 999, of very many spots fewer, 99 at least.
    seed : int
        Of the permutations.

    Returns
    -------
    RandomMatch
    """
    spots = pairs.spots
    bright = (spots.intensity[pairs.first] > 0.0) & (spots.intensity[pairs.second] > 0.0)
    used = np.flatnonzero(spots.intensity > 0.0)
    first, second = (np.searchsorted(used, rows[bright]) for rows in (pairs.first, pairs.second))
    pair, n_pairs = pairs.pair[bright], len(pairs.a)
    n_shells = max(1, min(n_shells, len(used) // FEWEST_IN_SHELL))
    shell = even_groups(spots.d_star_sq[used], n_shells)
    x = standard_scores(np.log(spots.intensity[used]), shell, n_shells)
    found, n_equivalents = pooled_correlation(x, spots.unique[used])
    rho = float(np.clip(found, *RHO_RANGE))

    def llr_of(scores: np.ndarray) -> np.ndarray:
        return np.bincount(pair, ln_likelihood_ratio(scores[first], scores[second], rho), n_pairs)

    n = np.bincount(pair, minlength=n_pairs)
    tested = n > 0
    llr = llr_of(x)
    if n_permutations is None:
        n_permutations = int(
            np.clip(MOST_NUMBERS // max(len(first), len(used), 1), FEWEST_PERMUTATIONS, MOST_PERMUTATIONS)
        )
    rng = np.random.default_rng(seed)
    shells = [np.flatnonzero(shell == k) for k in range(n_shells)]
    as_high, random, permuted = np.zeros(n_pairs), [], x.copy()
    for _ in range(n_permutations):
        for rows in shells:
            permuted[rows] = x[rng.permutation(rows)]
        random_llr = llr_of(permuted)
        as_high += random_llr >= llr
        random.append(random_llr[tested].astype(np.float32))
    random = np.sort(np.concatenate(random)) if random else np.zeros(0)
    below = np.searchsorted(random, llr[tested], "left") + np.searchsorted(random, llr[tested], "right")
    below = below / (2.0 * len(random)) if len(random) else np.full(np.count_nonzero(tested), np.nan)
    residual = (x[second] - rho * x[first]) / np.sqrt(1.0 - rho**2)
    normal = len(residual) >= FEWEST_FOR_NORMALITY and np.ptp(residual) > 0.0
    with np.errstate(over="ignore"):
        posterior = 1.0 / (1.0 + np.exp(-llr) * (1.0 - prior) / prior)
    return RandomMatch(
        np.where(tested, llr, np.nan),
        np.where(tested, posterior, np.nan),
        np.where(tested, (1.0 + as_high) / (1.0 + n_permutations), np.nan),
        n,
        found,
        n_equivalents,
        float(below.mean()) if len(below) else np.nan,
        _esd_of_mean(below, pairs.a[tested], pairs.b[tested]),
        n_permutations,
        n_shells,
        float(kurtosis(residual)) if normal else np.nan,
        float(normaltest(residual).pvalue) if normal else np.nan,
    )
