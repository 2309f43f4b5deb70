"""
Independently refined half sets.

Where the reference is the data's own mean, every lattice has been drawn towards a mean that holds the lattices of both
half sets, and their agreement (the conventional CC1/2 and R_split) is too good.  Here each half of the lattices is
postrefined against its own half's mean, from the start; only then are the two compared: the honest CC1/2 and R_split.
Neither half knows the other's overall scale and B, so the second is put on the first one's,

    ln(<I_1>/<I_2>) = ln k - 2 b d*^2      by least squares over resolution shells of common reflections.

Against an external reference the halves are independent as they are, and nothing has to be done twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.numerics.run import Run
from dials_postrefine.numerics.shells import equal_volume_edges, shell_of
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import Merged, merge
from dials_postrefine.stills.scaling import Scaled, WeightedMean, linear_scales, merging_values
from dials_postrefine.stills.unrefined import scale_alone

N_SHELLS = 10
FEWEST_IN_SHELL = 5
FEWEST_COMMON = 50  # for a verdict on a cycle: the esd of a correlation is then 0.14 at most


@dataclass
class HalfSets:
    """The merges of the two halves over the unique indices, on the scale of the first: at the end, and by cycle."""

    merged: tuple[Merged, Merged]
    by_cycle: list[tuple[Merged, Merged]]

    @property
    def agreement(self) -> list[float]:
        """The honest CC1/2 by cycle, NaN of fewer than FEWEST_COMMON indices."""
        found = []
        for first, second in self.by_cycle:
            both = np.isfinite(first.intensity) & np.isfinite(second.intensity)
            enough = np.count_nonzero(both) >= FEWEST_COMMON
            found.append(correlation(first.intensity[both], second.intensity[both]) if enough else np.nan)
        return found


def refine_half_sets(
    stills: Stills, settings: DatasetSettings, d_star_sq: np.ndarray, run: Run = Run()
) -> HalfSets | None:
    """
    Postrefine each half set by itself, to its last cycle, and merge it.

    Parameters
    ----------
    stills : Stills
    settings : DatasetSettings
    d_star_sq : ndarray, shape (n_unique,)
        In 1/Angstrom^2.
    run : Run

    Returns
    -------
    HalfSets or None
        None where a half has no lattice, or none that is accepted.
    """
    ends, courses = [], []
    for number, selection in enumerate((~stills.half, stills.half)):
        if not selection.any():
            return None
        half = replace(select_lattices(stills, selection), earlier={})  # which has seen the other half
        course: list[Merged] = []

        def take(scaled: Scaled, mean: WeightedMean, half=half, course=course) -> None:
            model = mean.error_model if settings.error_model == "basic" else None
            course.append(_merged(half, scaled, mean.outlier, mean.reference, model))

        progress = run.progress
        half_run = replace(run, progress=lambda what, *rest, n=number: progress(f"half set {n + 1}, {what}", *rest))
        result = postrefine(half, replace(settings, takes_best=False), run=half_run, each=take)
        end = _merged(half, result, result.outlier, result.mean, result.error_model)
        if not end.n.any():
            return None
        ends.append(end)
        courses.append(course)
    longest = max(len(course) for course in courses)
    pairs = [tuple(course[min(i, len(course) - 1)] for course in courses) for i in range(longest)]
    return HalfSets(_on_one_scale(*ends, d_star_sq), [_on_one_scale(*pair, d_star_sq) for pair in pairs])


def merge_half_sets(
    stills: Stills, settings: DatasetSettings, d_star_sq: np.ndarray, run: Run = Run()
) -> tuple[Merged, Merged] | None:
    """
    The merges of refine_half_sets at the end alone.

    Parameters
    ----------
    stills, settings, d_star_sq, run
        As of refine_half_sets.

    Returns
    -------
    pair of Merged, or None
    """
    found = refine_half_sets(stills, settings, d_star_sq, run)
    return None if found is None else found.merged


def scale_half_sets(stills: Stills, settings: DatasetSettings, d_star_sq: np.ndarray) -> tuple[Merged, Merged] | None:
    """
    Scale each half set by itself, without postrefinement, and merge it.

    Parameters
    ----------
    stills, settings, d_star_sq
        As of refine_half_sets.

    Returns
    -------
    pair of Merged, or None
        As of merge_half_sets.
    """
    ends = []
    for selection in (~stills.half, stills.half):
        if not selection.any():
            return None
        half = select_lattices(stills, selection)
        scaled, mean = scale_alone(half, settings, linear_scales(half, None))
        model = mean.error_model if settings.error_model == "basic" else None
        ends.append(_merged(half, scaled, mean.outlier, mean.reference, model))
        if not ends[-1].n.any():
            return None
    return _on_one_scale(*ends, d_star_sq)


def compare_half_sets(first: tuple[Merged, Merged], second: tuple[Merged, Merged]) -> tuple[float, float, int]:
    """
    CC1/2 of two pairs of half sets over the indices that both pairs have.

    Parameters
    ----------
    first, second : pair of Merged

    Returns
    -------
    first, second : float
        NaN of fewer than FEWEST_COMMON indices.
    n : int
    """
    intensities = [half.intensity for pair in (first, second) for half in pair]
    common = np.all(np.isfinite(intensities), axis=0)
    n = int(np.count_nonzero(common))
    if n < FEWEST_COMMON:
        return np.nan, np.nan, n
    a, b, c, d = (intensity[common] for intensity in intensities)
    return correlation(a, b), correlation(c, d), n


def _merged(stills: Stills, scaled, outlier: np.ndarray, mean: np.ndarray, model: ErrorModel | None) -> Merged:
    """What is kept and no outlier, merged; scaled: a Scaled, or a result."""
    kept = scaled.kept & ~outlier & ~stills.absent[stills.unique]
    return merge(*merging_values(stills, scaled, mean, model, kept), stills.unique[kept], stills.n_unique)


def _on_one_scale(first: Merged, second: Merged, d_star_sq: np.ndarray) -> tuple[Merged, Merged]:
    factor = relative_scale(first.intensity, second.intensity, d_star_sq)
    return first, Merged(second.sum_w / factor**2, second.sum_wi / factor, second.n)


def relative_scale(first: np.ndarray, second: np.ndarray, d_star_sq: np.ndarray) -> np.ndarray:
    """
    The factor k exp(-2 b d*^2) that brings the second intensities to the first (module docstring).

    Parameters
    ----------
    first, second : ndarray, shape (n,)
        Merged intensities, NaN where there is none.
    d_star_sq : ndarray, shape (n,)
        In 1/Angstrom^2.

    Returns
    -------
    ndarray, shape (n,)
        One where too few reflections are common.
    """
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        return np.ones(len(first))
    shell = shell_of(d_star_sq[both], equal_volume_edges(d_star_sq[both], N_SHELLS))
    n = np.bincount(shell, minlength=N_SHELLS)
    means = [np.bincount(shell, values[both], N_SHELLS) for values in (first, second, d_star_sq)]
    good = (n >= FEWEST_IN_SHELL) & (means[0] > 0.0) & (means[1] > 0.0)
    if not good.any():
        return np.ones(len(first))
    x, y = means[2][good] / n[good], np.log(means[0][good] / means[1][good])
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(n[good])) if len(x) > 2 else (0.0, float(np.median(y)))
    return np.exp(intercept + slope * d_star_sq)
