"""
Which profile, which radius and which cell describe a data set: the choice by what reflections that no fit has seen say.

A quarter of the unique indices, the same for every lattice, takes no part in the fits; of small data sets one quarter
after the other, up to all four.  Each candidate i postrefines a sample of the lattices for a few cycles and predicts
every unseen observation j of lattice k from the mean of the other lattices, I_ij = G e p <I>.  Its score is the
negative logarithm of a likelihood with Student's t (robust.py), summed over all observations that all compared
candidates predict,

    S_ik = sum over j of lattice k of rho(z_ij^2)/2,      z_ij = (I_j - I_ij) / (w sigma_j),
    sigma_j^2 = v_j + (m mean_i I_ij)^2,

with v the measured variance and m the relative error of the model; sigma is the same for all candidates, and the width
w is the robust one of z of the best.  Two candidates differ by

    D = sum over k of (S_0k - S_ik),      s = sqrt(L) std over k of (S_0k - S_ik),

i being better if D > s (the one-standard-error rule: Breiman et al. 1984, Classification and Regression Trees).  All
observations count together, so that lattices of a few spots each can tell, and s knows how much lattices differ.

The search goes in stages, each at what the one before has found:

1. The exponent m of Pearson VII, one for the data set, by u = 1/m (0 is the Gaussian, 1 the Lorentzian).  A parabola
   through S at the best of EXPONENTS and its neighbours has its minimum at u; its esd is that of M-estimators
   (sandwich.py) with lattices as clusters, s = sqrt(sum g_k^2)/H, g_k the slope of S_k there and H the curvature of the
   whole.  What is known of real stills, u_0 = 1/2 with s_0 = 0.15, is another measurement of it: u and u_0 are averaged
   with the weights 1/s^2 and 1/s_0^2, so that sparse data have the usual exponent, and then kept within 1/50 and 1.
2. The cell: its scale is refined if that is better; else, and of fewer than FEWEST_CLUSTERS lattices, the cell stays as
   indexed.
3. The radius: constant if that is better than the mosaic one; of two that do not differ by more than chance the mosaic
   one is taken, which has the constant one as a limit and is restrained to the population.

What is named is not searched.

Against the data's own mean the chosen model is worth it if it predicts at least FEWEST_UNSEEN observations better than
one scale a lattice does, by more than 2 s, or more esds where s is known from few lattices (as improbable for Student's
t with L - 1 degrees of freedom).

Against an external reference D > 0 has to do, but the unseen indices are merged, too, as they would be written, each by
the fits that have not seen it: CC to the reference must not be below that of scaled ones, over the same indices, by
more than its esd.  For a lattice of few reflections may predict well and yet be corrected badly, I/(G e p) where p is
small and a mosaic radius has run away that nothing restrains; if so, a constant one is taken where that is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from scipy.special import ndtr, stdtrit

from dials_postrefine.numerics.correlation import correlation, is_lower
from dials_postrefine.numerics.robust import LOSSES, robust_width
from dials_postrefine.numerics.run import Run
from dials_postrefine.stills.dataset import Stills, select_lattices
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.reference import FitReference
from dials_postrefine.stills.scaling import Scaled, WeightedMean, mean_of_kept
from dials_postrefine.stills.unrefined import predict_by_scale

N_QUARTERS = 4
N_CYCLES = 3
# The sample: every so many lattices that they have no more observations than this, but FEWEST_LATTICES of them.
MOST_OBSERVATIONS = 25_000
FEWEST_LATTICES = 80
# As many quarters are left out in turn as there are observations for in this number.
OBSERVATIONS_OF_ALL = 60_000
EXPONENTS = (1.0, 2.0, 4.0, 50.0)
USUAL, USUAL_WIDTH = 0.5, 0.15  # of u = 1/m
GAIN_ESDS = 2.0
FEWEST_UNSEEN = 50  # observations, for a gain
FEWEST_CLUSTERS = 10  # lattices, for an esd that they tell


class Decision(str, Enum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    NEAREST = "nearest to the chosen one"  # which has the exponent that was found
    WORSE = "worse than the chosen one"
    ALIKE = "as good as the chosen one"  # the difference is no more than its esd
    UNTOLD = "can't be told"
    STEP = "tried for the exponent"
    CORRECTS_WORSE = "corrects worse than scaling"  # D > 0, but what is merged agrees less with the reference


@dataclass
class Candidate:
    """
    What was tried: its model, how many lattices were accepted, and how it compares with the best one before it, if
    there is any: the n observations that both predict, D and s (module docstring).
    """

    profile: Profile
    radius: str
    unit_cell: str
    n_accepted: int = 0
    n: int = 0
    difference: float = 0.0
    difference_esd: float = 0.0
    decision: Decision | None = None


@dataclass(frozen=True)
class Exponent:
    """m of Pearson VII as it was found, and the esd of 1/m."""

    value: float
    inverse_esd: float

    @property
    def esd(self) -> float:
        """Of m, by first-order propagation."""
        return self.value**2 * self.inverse_esd


@dataclass(frozen=True)
class Candidates:
    """
    What to choose from.

    Parameters
    ----------
    profile : Profile or None
        None: Pearson VII with the exponent of the data.
    radii, unit_cells : sequence of str
        One, or those of model.RADII and UNIT_CELLS to choose from.
    """

    profile: Profile | None
    radii: Sequence[str]
    unit_cells: Sequence[str]

    @property
    def first(self) -> dict:
        """Where the search starts, as fields of FitSettings."""
        radius = "mosaic" if "mosaic" in self.radii else self.radii[0]
        return {"profile": self.profile or Profile(), "radius": radius, "unit_cell": self.unit_cells[0]}

    @property
    def is_choice(self) -> bool:
        """Whether there is anything to choose."""
        return self.profile is None or len(self.radii) > 1 or len(self.unit_cells) > 1


@dataclass
class Gain:
    """
    What postrefinement is worth: D and s of the chosen model against scaling alone by n unseen observations of
    n_lattices, NaN where nothing can be compared, s also of one lattice; with an external reference CC to it of
    n_merged unseen indices, scaled and refined.
    """

    difference: float
    difference_esd: float
    n: int
    n_lattices: int
    cc_scaled: float = np.nan
    cc_refined: float = np.nan
    n_merged: int = 0

    @property
    def merges_worse(self) -> bool:
        """Whether what is merged agrees less with the reference, by more than chance."""
        return is_lower(self.cc_refined, self.cc_scaled, self.n_merged)

    @property
    def predicts_better(self) -> bool:
        """Whether postrefinement predicts better than scaling alone by more than chance (module docstring)."""
        if self.n_merged:
            return self.difference > 0.0
        limit = stdtrit(self.n_lattices - 1, ndtr(GAIN_ESDS))
        return self.n >= FEWEST_UNSEEN and bool(self.difference > limit * self.difference_esd)

    @property
    def is_there(self) -> bool:
        """Whether postrefinement is worth it."""
        return self.predicts_better and not self.merges_worse


@dataclass
class ModelChoice:
    """settings with what was chosen; tried, in their order; exponent and gain, where they were sought."""

    settings: DatasetSettings
    tried: list[Candidate] = field(default_factory=list)
    exponent: Exponent | None = None
    gain: Gain | None = None


class Scores:
    """The predictions of unseen observations by candidates, and how they compare."""

    def __init__(self, stills: Stills, rows: np.ndarray, model_error: float) -> None:
        self.n_lattices, self.lattice = stills.n_lattices, stills.lattice()[rows]
        self.intensity, self.variance = stills.intensity[rows], stills.variance[rows]
        self.rows, self.model_error = rows, model_error
        self.predicted: list[np.ndarray] = []

    def add(self, predicted: np.ndarray) -> int:
        """Take the prediction of all observations (n,) by a candidate, NaN where there is none; gives its number."""
        self.predicted.append(predicted[self.rows])
        return len(self.predicted) - 1

    def compare(self, numbers: Sequence[int]) -> tuple[np.ndarray, int]:
        """S (len(numbers), L) of these candidates, and the number of observations that all of them predict."""
        predicted = np.array([self.predicted[i] for i in numbers])
        common = np.isfinite(predicted).all(axis=0)
        n = int(np.count_nonzero(common))
        if not n:
            return np.zeros((len(numbers), self.n_lattices)), 0
        predicted, lattice = predicted[:, common], self.lattice[common]
        sigma = np.sqrt(self.variance[common] + (self.model_error * predicted.mean(axis=0)) ** 2)
        z = (self.intensity[common] - predicted) / sigma
        width = min(robust_width(row) for row in z) or 1.0  # of predictions that are exact
        loss = LOSSES["student_t"]
        scores = [0.5 * np.bincount(lattice, loss((row / width) ** 2).rho, self.n_lattices) for row in z]
        return np.array(scores), n

    def difference(self, number: int, other: int) -> tuple[float, float, int]:
        """D and s by which one candidate is better than the other, NaN if unknown, and the number of observations."""
        (scores, other_scores), n = self.compare([number, other])
        apart = other_scores - scores
        apart = apart[np.bincount(self.lattice, minlength=self.n_lattices) > 0]
        if not n:
            return np.nan, np.nan, n
        return float(apart.sum()), float(apart.std(ddof=1) * np.sqrt(len(apart))) if len(apart) > 1 else np.nan, n


def choose_model(
    stills: Stills,
    settings: DatasetSettings,
    candidates: Candidates,
    reference: FitReference | None = None,
    run: Run = Run(),
    tests_gain: bool = False,
) -> ModelChoice:
    """
    Choose profile, radius and cell by unseen reflections (module docstring).

    Parameters
    ----------
    stills : Stills
    settings : DatasetSettings
    candidates : Candidates
        Where there is nothing to choose nothing is tried, but for the gain.
    reference : FitReference, optional
        As postrefine takes it; its free indices take no part in the choice either, and its prior is not asked.
    run : Run
        Its seed says which indices are unseen.
    tests_gain : bool
        Whether to compare with scaling alone too.

    Returns
    -------
    ModelChoice
    """
    settings = _with(settings, **candidates.first)
    if not candidates.is_choice and not tests_gain:
        return ModelChoice(settings)
    search = _Search(stills, settings, FitReference() if reference is None else reference, run)
    best = search.start(settings.fit)
    if candidates.profile is None:
        best = search.find_exponent(best)
    if len(candidates.unit_cells) > 1:
        best = search.prefer(best, unit_cell="scale")
    if len(candidates.radii) > 1:
        best = search.prefer(best, radius="constant")
    return search.choice(best, tests_gain)


class _Search:
    """The candidates tried so far and what they predict."""

    def __init__(self, stills: Stills, settings: DatasetSettings, reference: FitReference, run: Run) -> None:
        stills = reference.hide(stills)
        step = max(1, len(stills.unique) // MOST_OBSERVATIONS)
        step = max(1, min(step, stills.n_lattices // FEWEST_LATTICES))
        self.sample = select_lattices(stills, np.arange(stills.n_lattices) % step == 0)
        quarter = np.floor(N_QUARTERS * np.random.default_rng(run.seed).random(stills.n_unique))
        if stills.friedel is not None:  # one of a pair tells of the other
            quarter = quarter[stills.friedel.one_of_pair()]
        n = int(np.clip(OBSERVATIONS_OF_ALL // max(len(self.sample.unique), 1), 1, N_QUARTERS))
        self.references, self.run = [FitReference(reference.working, quarter == i) for i in range(n)], run
        self.settings, self.external = settings, reference.external
        self.quick = replace(settings, n_cycles=None if reference.external else N_CYCLES, takes_best=False)
        rows = np.flatnonzero(quarter[self.sample.unique] < n)
        self.scores = Scores(self.sample, rows, settings.fit.model_error)
        self.tried: list[Candidate] = []
        self.merged: list[np.ndarray] = []  # of unseen indices (n_unique,), by candidate
        self.scaled: list[tuple[int, np.ndarray]] = []  # the number of scaling alone, and what it merges, once made
        self.exponent: Exponent | None = None

    def start(self, fit: FitSettings) -> int:
        """Try the first candidate."""
        return self.try_out(fit.profile, fit.radius, fit.unit_cell)

    def try_out(self, profile: Profile, radius: str, unit_cell: str, against: int | None = None) -> int:
        """Postrefine the sample with a model; gives its number."""
        progress, named = self.run.progress, f"{profile}, {radius}, {unit_cell}"
        run = replace(self.run, progress=lambda what, *rest: progress(f"{named}, {what}", *rest))
        settings = _with(self.quick, profile=profile, radius=radius, unit_cell=unit_cell)
        results = [self._postrefine(settings, reference, run) for reference in self.references]
        number = self.scores.add(self._join([result.free.predicted for result, _ in results], self.sample.unique))
        self.merged.append(self._join([merged for _, merged in results]))
        accepted = round(np.mean([np.count_nonzero(result.accepted) for result, _ in results]))
        candidate = Candidate(profile, radius, unit_cell, accepted)
        if against is not None:
            candidate.difference, candidate.difference_esd, candidate.n = self.scores.difference(number, against)
        self.tried.append(candidate)
        return number

    def _postrefine(
        self, settings: DatasetSettings, reference: FitReference, run: Run
    ) -> tuple[PostrefinedStills, np.ndarray]:
        """The outcome, and what the last cycle merges of all indices (n_unique,) if the reference is external."""
        merged = np.full(self.sample.n_unique, np.nan)

        def take(scaled: Scaled, mean: WeightedMean) -> None:
            if self.external:
                found = mean.error_model, settings.outlier_z, settings.error_model == "basic"
                merged[:] = mean_of_kept(self.sample, scaled, *found).reference

        return postrefine(self.sample, settings, reference, run, each=take), merged

    def _join(self, values: Sequence[np.ndarray], unique: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Of each index, or of each observation (n,) of these indices, the value by the fits that have not seen it."""
        joined = np.full(values[0].shape, np.nan)
        for reference, value in zip(self.references, values):
            unseen = reference.free[unique]
            joined[unseen] = value[unseen]
        return joined

    def find_exponent(self, first: int) -> int:
        """The exponent of the data; gives the candidate that is nearest to it."""
        start = self.tried[first]
        numbers = []
        for m in EXPONENTS:
            is_there = start.profile == Profile(exponent=m)
            profile = Profile(exponent=m)
            numbers.append(first if is_there else self.try_out(profile, start.radius, start.unit_cell, first))
            self.tried[numbers[-1]].decision = Decision.STEP
        scores, _ = self.scores.compare(numbers)
        self.exponent = find_exponent(1.0 / np.array(EXPONENTS), scores)
        nearest = int(np.argmin(np.abs(1.0 / np.array(EXPONENTS) - 1.0 / self.exponent.value)))
        return numbers[nearest]

    def prefer(self, best: int, **other: str) -> int:
        """Try the best candidate with something else, which is taken where it is better."""
        model = self.tried[best]
        fields = {"profile": model.profile, "radius": model.radius, "unit_cell": model.unit_cell} | other
        number = self.try_out(**fields, against=best)
        candidate = self.tried[number]
        d, s = candidate.difference, candidate.difference_esd
        if self.sample.n_lattices < FEWEST_CLUSTERS or not np.isfinite(d):  # of fewer the esd is not known
            candidate.decision = Decision.UNTOLD
        elif d > s:
            model.decision = model.decision or Decision.WORSE
            return number
        else:
            candidate.decision = Decision.WORSE if d < -s else Decision.ALIKE
        return best

    def choice(self, best: int, tests_gain: bool) -> ModelChoice:
        """The outcome."""
        gain = self._gain(best) if tests_gain else None
        last = len(self.tried) - 1
        if gain is not None and gain.merges_worse and last != best and self.tried[last].radius == "constant":
            other = self._gain(last)
            if other.is_there:
                self.tried[best].decision = Decision.CORRECTS_WORSE
                best, gain = last, other
        chosen = self.tried[best]
        profile = chosen.profile if self.exponent is None else Profile(exponent=self.exponent.value)
        chosen.decision = Decision.CHOSEN if profile == chosen.profile else Decision.NEAREST
        settings = _with(self.settings, profile=profile, radius=chosen.radius, unit_cell=chosen.unit_cell)
        return ModelChoice(settings, self.tried, self.exponent, gain)

    def _gain(self, number: int) -> Gain:
        """What a candidate is worth beside scaling alone."""
        if not self.scaled:
            found = [predict_by_scale(self.sample, self.settings, reference) for reference in self.references]
            merged = self._join([merged for _, merged in found])
            self.scaled = [(self.scores.add(self._join([one for one, _ in found], self.sample.unique)), merged)]
        scaled, merged = self.scaled[0]
        gain = Gain(*self.scores.difference(number, scaled), self.sample.n_lattices)
        if self.external:
            self._compare_merged(gain, merged, self.merged[number])
        return gain

    def _compare_merged(self, gain: Gain, scaled: np.ndarray, refined: np.ndarray) -> None:
        """Add how two merges of unseen indices (n_unique,) agree with the external reference to the gain."""
        known = self.references[0].intensity
        both = np.isfinite(scaled) & np.isfinite(refined) & np.isfinite(known)
        gain.n_merged = int(np.count_nonzero(both))
        gain.cc_scaled, gain.cc_refined = (correlation(one[both], known[both]) for one in (scaled, refined))


def find_exponent(u: np.ndarray, scores: np.ndarray) -> Exponent:
    """
    The exponent of Pearson VII from scores at several of them (module docstring, stage 1).

    Parameters
    ----------
    u : ndarray, shape (c,)
        1/m in falling order, three at least.
    scores : ndarray, shape (c, L)
        S by lattice.

    Returns
    -------
    Exponent
    """
    total, contributing = scores.sum(axis=1), np.any(scores != scores[:1], axis=0)
    n = int(np.count_nonzero(contributing))
    middle = int(np.clip(np.argmin(total), 1, len(u) - 2))
    near = slice(middle - 1, middle + 2)
    # S_k(u) = a_k u^2 + b_k u + c_k through three points
    a, b, _ = np.linalg.inv(np.vander(u[near], 3)) @ scores[near][:, contributing]
    curvature = 2.0 * a.sum()
    best, weight = USUAL, 0.0
    if n >= FEWEST_CLUSTERS and curvature > 0.0:
        best = -float(b.sum()) / curvature
        slopes = 2.0 * a * best + b
        weight = curvature**2 / (np.sum(slopes**2) * n / (n - 1))
    usual_weight = USUAL_WIDTH**-2.0
    best = (weight * best + usual_weight * USUAL) / (weight + usual_weight)
    return Exponent(1.0 / float(np.clip(best, u.min(), u.max())), float((weight + usual_weight) ** -0.5))


def _with(settings: DatasetSettings, **choice) -> DatasetSettings:
    return replace(settings, fit=replace(settings.fit, **choice))
