"""
The data set: cycles of reference -> lattices -> scaled observations -> reference.

Against an external reference one cycle is enough.  Without one the reference is the scaled mean of the data themselves.
It starts from the lattices' start values (theta = 0, B = 0, r_s = RMS r_h, G to the current mean, three rounds) and
each cycle fits every lattice to the mean of the others (`excludes_self`: the lattice's own weighted contribution is
subtracted) until the merged intensities stop changing.  Neither the overall scale nor the overall B is determined
then: the medians of ln G and B over the accepted lattices are set to zero.

The mean of a cycle weighs with the model's variance

    var = v/(G e p)^2 + (m I_ref)^2 (1 + 4 (1 - p)^2),    e = exp(-2 B d*^2),

m = `model_error`, over observations with p above the threshold of accepted lattices that pass the outlier test of
merging.py.  The final merge weighs with v/(G e p)^2 (plus the integrator's own variance of 1/p where it gives one),
which is what the written table says and dials.merge does.  Source: postrefinement.md, recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dials_postrefine.parallel import ordered_map
from dials_postrefine.stills.geometry import scattering_vectors
from dials_postrefine.stills.lattice import (
    FitSettings,
    LatticeFit,
    Reason,
    fit_lattices,
    no_fit,
    signed_root,
    slope_through_origin,
    start_values,
)
from dials_postrefine.stills.merging import correlation, find_outliers, merge
from dials_postrefine.stills.minimise import Restraint
from dials_postrefine.stills.model import (
    B_FACTOR,
    LN_SCALE,
    PARAMETERS,
    THETA_X,
    THETA_Y,
    Observations,
    partiality,
    scale_factor,
)

LATTICES_PER_CHUNK = 32
FEWEST_BATCHED = 20
MIN_POPULATION = 20
MAX_CYCLES = 8
N_START_ROUNDS = 3
# A merged intensity must not be made of a vanishing remainder once a lattice's own weight is taken off.
MIN_OTHER_WEIGHT = 1e-6


@dataclass
class Stills:
    """
    The usable observations of all lattices, sorted by lattice: L lattices, n observations.

    a_matrix (L, 3, 3) and s0 (L, 3) in 1/Angstrom; offsets (L + 1,): lattice k owns rows offsets[k]:offsets[k + 1];
    h (n, 3) Miller indices as indexed; unique (n,) number of the index in the asymmetric unit, 0 to n_unique - 1;
    intensity, variance (n,) corrected for polarisation and efficiency; inverse_variance (n,) variance of 1/p as the
    integrator gave it, or None; half (L,) the half set of each lattice; absent (n_unique,) systematic absences;
    rejected: the lattices that are out before any fit, with the reason.
    """

    a_matrix: np.ndarray
    s0: np.ndarray
    offsets: np.ndarray
    h: np.ndarray
    unique: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    half: np.ndarray
    absent: np.ndarray
    inverse_variance: np.ndarray | None = None
    rejected: dict[int, Reason] = field(default_factory=dict)

    @property
    def n_lattices(self) -> int:
        return len(self.a_matrix)

    @property
    def n_unique(self) -> int:
        return len(self.absent)

    def rows(self, k: int) -> slice:
        """The rows of lattice k."""
        return slice(self.offsets[k], self.offsets[k + 1])

    def lattice(self) -> np.ndarray:
        """The lattice of each observation (n,)."""
        return np.repeat(np.arange(self.n_lattices, dtype=np.int32), np.diff(self.offsets))

    def observations(self, k: int, reference: np.ndarray) -> Observations:
        """The observations of lattice k with the reference (its own rows) that they are fitted to."""
        rows = self.rows(k)
        q = scattering_vectors(self.a_matrix[k], self.h[rows])
        q_sq = np.einsum("ij,ij->i", q, q)
        return Observations(q, q_sq, self.s0[k], self.intensity[rows], self.variance[rows], reference)


@dataclass(frozen=True)
class DatasetSettings:
    """
    What the cycles need to know: the fit's settings, None or a number of cycles, the convergence limit, whether a
    lattice's reference leaves the lattice out, the outlier limit, the engine (`auto`: batched from FEWEST_BATCHED
    lattices on), and whether the population restrains each lattice.
    """

    fit: FitSettings = FitSettings()
    n_cycles: int | None = None
    convergence: float = 0.005
    excludes_self: bool = True
    outlier_z: float = 6.0
    engine: str = "auto"
    restraints: bool = False


@dataclass
class Cycle:
    """
    One cycle's account: lattices accepted, their mean correlation, and the change of the merged intensities, NaN
    against an external reference.
    """

    n_accepted: int
    correlation: float
    change: float


@dataclass
class WeightedMean:
    """
    The mean of the kept observations with the model's variance (module docstring).

    weight and weighted (n,): what each observation adds to the sums of weights and of weight times value; outlier (n,);
    reference (n_unique,) the means, NaN where nothing is known or the index is absent; sum_w, sum_wi (n_unique,).
    """

    weight: np.ndarray
    weighted: np.ndarray
    outlier: np.ndarray
    sum_w: np.ndarray
    sum_wi: np.ndarray
    reference: np.ndarray


@dataclass
class PostrefinedStills:
    """
    The outcome.  model, profile and radius; x (L, 6), covariance (L, 6, 6), fits and reasons (L) by lattice;
    partiality, scale = G e, kept and outlier (n,) by observation, outliers being among the kept; reference (n_unique,)
    what the last cycle was fitted to; linear_scale (L,), the scales before; cycles; free_correlation (L,), see
    free_correlations, NaN where nothing was held out.
    """

    model: str
    profile: str
    radius: str
    x: np.ndarray
    covariance: np.ndarray
    fits: list[LatticeFit]
    reasons: list[Reason | None]
    partiality: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    outlier: np.ndarray
    reference: np.ndarray
    linear_scale: np.ndarray
    cycles: list[Cycle]
    free_correlation: np.ndarray

    @property
    def accepted(self) -> np.ndarray:
        """Which lattices are accepted (L,)."""
        return np.array([reason is None for reason in self.reasons], dtype=bool)


@dataclass
class _Chunk:
    """Some lattices on their way to a worker: the arrays of those lattices alone."""

    stills: Stills
    reference: np.ndarray
    starts: list[np.ndarray | None]
    linear_scale: np.ndarray
    settings: FitSettings
    restraint: Restraint | None
    engine: str


def _fit_chunk(chunk: _Chunk) -> list[LatticeFit]:
    stills, rejected = chunk.stills, chunk.stills.rejected
    lattices = [stills.observations(k, chunk.reference[stills.rows(k)]) for k in range(stills.n_lattices)]
    numbers = [k for k in range(stills.n_lattices) if k not in rejected]
    fitted = iter(
        fit_lattices(
            [lattices[k] for k in numbers],
            chunk.settings,
            [chunk.starts[k] for k in numbers],
            [chunk.linear_scale[k] for k in numbers],
            chunk.restraint,
            chunk.engine,
        )
    )
    return [no_fit(one, rejected[k]) if k in rejected else next(fitted) for k, one in enumerate(lattices)]


def postrefine(
    stills: Stills,
    settings: DatasetSettings,
    reference: np.ndarray | None = None,
    nproc: int = 1,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    held_out: np.ndarray | None = None,
) -> PostrefinedStills:
    """
    Postrefine all lattices (module docstring).

    reference (n_unique,) external full intensities, NaN where unknown, or None for the scaled mean of the data.
    progress(what, done, total) is told how far each cycle is.  held_out (n_unique,) names unique indices that take no
    part in any fit: the result then has each lattice's correlation with the model on them.  Never raises for a bad
    lattice: see `reasons`.
    """
    external = reference is not None
    linear_scale = linear_scales(stills, reference)
    mean = None if external else _first_mean(stills, settings, linear_scale)
    starts: list[np.ndarray | None] = [None] * stills.n_lattices
    cycles: list[Cycle] = []
    restraint = None
    free = np.full(stills.n_lattices, np.nan)
    with ordered_map(nproc) as mapped:
        for number in range(settings.n_cycles or (1 + settings.restraints if external else MAX_CYCLES)):
            target = reference if external else mean.reference
            fits: list[LatticeFit] = []
            others = mean if settings.excludes_self else None
            chunks = _chunks(stills, target, others, starts, linear_scale, settings, restraint, held_out)
            for some in mapped(_fit_chunk, chunks):
                fits.extend(some)
                progress(f"cycle {number + 1}", len(fits), stills.n_lattices)
            if not external:
                _fix_gauge(fits, settings.fit)
            p, scale, kept = _spread(stills, settings, fits)
            new = _mean_of_kept(stills, settings, p, scale, kept, target)
            change = np.nan if external else relative_change(target, new.reference)
            accepted = [fit for fit in fits if fit.reason is None]
            mean_correlation = float(np.mean([fit.correlation_after for fit in accepted])) if accepted else np.nan
            cycles.append(Cycle(len(accepted), mean_correlation, change))
            if held_out is not None:
                free = free_correlations(stills, p * scale, held_out, target, others)
            mean = None if external else new
            starts = [fit.x if fit.reason is None else None for fit in fits]
            restraint = population(fits) if settings.restraints else None
            if not accepted or change < settings.convergence:
                break
    return PostrefinedStills(
        model=settings.fit.model,
        profile=settings.fit.profile,
        radius=settings.fit.radius,
        x=np.array([fit.x for fit in fits]),
        covariance=np.array([fit.covariance for fit in fits]),
        fits=fits,
        reasons=[fit.reason for fit in fits],
        partiality=p,
        scale=scale,
        kept=kept,
        outlier=new.outlier,
        reference=target,
        linear_scale=linear_scale,
        cycles=cycles,
        free_correlation=free,
    )


def free_correlations(stills, factor, held_out, target, mean) -> np.ndarray:
    """
    Each lattice's correlation (L,) of I_obs and I_calc, as signed roots, over the reflections that no fit has seen.

    factor (n,) is p G e; the reference is the target or, where mean is given, the mean of the other lattices.
    """
    reference = target[stills.unique] if mean is None else _mean_of_others(stills, slice(None), mean)
    used = held_out[stills.unique] & np.isfinite(reference)
    observed, calculated = signed_root(stills.intensity), signed_root(factor * reference)
    found = np.full(stills.n_lattices, np.nan)
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        found[k] = correlation(observed[rows][used[rows]], calculated[rows][used[rows]])
    return found


def population(fits: list[LatticeFit]) -> Restraint | None:
    """
    The restraint that the refined and accepted lattices of a cycle put on the next: their medians, and as widths 1.48
    times the median absolute deviations.

    The angles are restrained to zero, as indexing left them; the scale is free.  None of fewer than MIN_POPULATION.
    """
    x = np.array([fit.x for fit in fits if fit.reason is None and fit.refined])
    if len(x) < MIN_POPULATION:
        return None
    mean = np.median(x, axis=0)
    mean[[THETA_X, THETA_Y]] = 0.0
    width = 1.4826 * np.median(np.abs(x - mean), axis=0)
    width[(width <= 0.0) | (np.arange(len(width)) == LN_SCALE)] = np.inf
    return Restraint(mean, width)


def _fix_gauge(fits: list[LatticeFit], settings: FitSettings) -> None:
    """Without an external reference: medians of ln G and B of the accepted lattices to zero, but for fixed ones."""
    accepted = [fit for fit in fits if fit.reason is None]
    for i in (LN_SCALE, B_FACTOR):
        if accepted and PARAMETERS[i] not in settings.fix:
            median = np.median([fit.x[i] for fit in accepted])
            for fit in fits:
                fit.x[i] -= median


def _spread(stills: Stills, settings: DatasetSettings, fits: list[LatticeFit]):
    """p, G e and kept of every observation (n,); the fits give their partialities away."""
    p = np.empty(len(stills.unique))
    scale = np.ones(len(stills.unique))
    kept = np.zeros(len(stills.unique), dtype=bool)
    for k, fit in enumerate(fits):
        rows = stills.rows(k)
        p[rows] = fit.partiality
        fit.partiality = None
        if np.isfinite(fit.x).all():
            q = scattering_vectors(stills.a_matrix[k], stills.h[rows])
            scale[rows] = scale_factor(fit.x, np.einsum("ij,ij->i", q, q))
        if fit.reason is None:
            kept[rows] = p[rows] >= settings.fit.partiality_threshold
    return p, scale, kept


def linear_scales(stills: Stills, reference: np.ndarray | None, n_rounds: int = 4) -> np.ndarray:
    """
    The scale of each lattice (L,) without any other parameter, (sum a a_ref / sum a_ref^2)^2 with the amplitudes
    a = sign(I) sqrt|I|: partial spots make a robust slope of the intensities meaningless, wild ones a plain one.

    Without a reference the mean of the scaled observations takes its place, in n_rounds rounds from the lattices' mean
    intensities on, and the median of the scales is one.  NaN where no positive slope exists.
    """
    lattice = stills.lattice()
    amplitude = signed_root(stills.intensity)

    def slopes(reference):
        root = signed_root(reference)[stills.unique]
        known = np.isfinite(root)
        a, root, of = amplitude[known], root[known], lattice[known]
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.bincount(of, a * root, stills.n_lattices) / np.bincount(of, root**2, stills.n_lattices)
        return np.where(slope > 0.0, slope**2, np.nan)

    if reference is not None:
        return slopes(reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.bincount(lattice, np.abs(stills.intensity), stills.n_lattices) / np.diff(stills.offsets)
    for _ in range(n_rounds):
        scale = np.where(scale > 0.0, scale / _median(scale), np.nan)
        used = np.isfinite(scale)[lattice]
        s = scale[lattice[used]]
        mean = merge(stills.intensity[used] / s, np.ones(len(s)), stills.unique[used], stills.n_unique).intensity
        mean[stills.absent] = np.nan
        scale = slopes(mean)
    return scale / _median(scale)


def _median(values: np.ndarray) -> float:
    """The median of the finite values, one of none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 1.0


def _positive_slope(intensity: np.ndarray, reference: np.ndarray) -> float:
    """The robust slope where the reference is known, NaN unless it is positive."""
    known = np.isfinite(reference)
    slope = slope_through_origin(intensity[known], reference[known])
    return slope if slope > 0.0 else np.nan


def _chunks(stills, target, mean, starts, linear_scale, settings, restraint, held_out=None):
    """The lattices in chunks with what each observation is fitted to: the target, or the mean of the other lattices."""
    engine = settings.engine
    if engine == "auto":
        engine = "batched" if stills.n_lattices >= FEWEST_BATCHED else "lstbx"
    for first in range(0, stills.n_lattices, LATTICES_PER_CHUNK):
        last = min(first + LATTICES_PER_CHUNK, stills.n_lattices)
        rows = slice(stills.offsets[first], stills.offsets[last])
        part = Stills(
            stills.a_matrix[first:last],
            stills.s0[first:last],
            stills.offsets[first : last + 1] - stills.offsets[first],
            stills.h[rows],
            stills.unique[rows],
            stills.intensity[rows],
            stills.variance[rows],
            stills.half[first:last],
            stills.absent[:0],
            rejected={k - first: reason for k, reason in stills.rejected.items() if first <= k < last},
        )
        reference = target[part.unique] if mean is None else _mean_of_others(part, rows, mean)
        if held_out is not None:
            reference = np.where(held_out[part.unique], np.nan, reference)
        yield _Chunk(part, reference, starts[first:last], linear_scale[first:last], settings.fit, restraint, engine)


def _mean_of_others(part: Stills, rows: slice, mean: WeightedMean) -> np.ndarray:
    """The mean without each lattice's own observations, per row of the chunk, NaN where nothing else is left."""
    key = part.lattice().astype(np.int64) * len(mean.reference) + part.unique
    _, group = np.unique(key, return_inverse=True)
    total = mean.sum_w[part.unique]
    weight = total - np.bincount(group, mean.weight[rows])[group]
    weighted = mean.sum_wi[part.unique] - np.bincount(group, mean.weighted[rows])[group]
    left = (weight > MIN_OTHER_WEIGHT * total) & np.isfinite(mean.reference[part.unique])
    return np.divide(weighted, weight, out=np.full(len(weight), np.nan), where=left)


def scaled_values(stills: Stills, p, scale, selection) -> tuple[np.ndarray, np.ndarray]:
    """
    The merging values I/(p G e) of the selected observations and their variances.

    The variance is v/(p G e)^2, plus (I/(G e))^2 var(1/p) where the integrator gave a variance of 1/p
    (dials-facts.md, contract of the scaled table).
    """
    full = 1.0 / (p[selection] * scale[selection])
    value = stills.intensity[selection] * full
    variance = stills.variance[selection] * full**2
    if stills.inverse_variance is not None:
        variance += (stills.intensity[selection] / scale[selection]) ** 2 * stills.inverse_variance[selection]
    return value, variance


def _mean_of_kept(stills, settings, p, scale, kept, reference) -> WeightedMean:
    """The weighted mean of the kept observations; reference (n_unique,) are the intensities expected so far."""
    value, variance = scaled_values(stills, p, scale, kept)
    unique = stills.unique[kept]
    expected = reference[unique]
    expected = np.where(np.isfinite(expected), expected, value)
    variance += (settings.fit.model_error * expected) ** 2 * (1.0 + 4.0 * (1.0 - p[kept]) ** 2)
    out = find_outliers(value, variance, unique, stills.n_unique, settings.outlier_z)
    merged = merge(value[~out], variance[~out], unique[~out], stills.n_unique)
    outlier = np.zeros(len(p), dtype=bool)
    outlier[kept] = out
    weight, weighted = np.zeros(len(p)), np.zeros(len(p))
    weight[kept] = np.where(out, 0.0, 1.0 / variance)
    weighted[kept] = weight[kept] * value
    intensity = merged.intensity
    intensity[stills.absent] = np.nan
    return WeightedMean(weight, weighted, outlier, merged.sum_w, merged.sum_wi, intensity)


def _first_mean(stills, settings, linear_scale) -> WeightedMean:
    """The scaled mean of the data at the lattices' start values."""
    p, shape = np.zeros(len(stills.unique)), np.ones(len(stills.unique))
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        observations = stills.observations(k, np.full(rows.stop - rows.start, np.nan))
        x = start_values(observations, settings.fit)
        x[LN_SCALE] = 0.0
        if np.isfinite(x).all() and k not in stills.rejected:
            p[rows] = partiality(x, observations, settings.fit.profile)
            shape[rows] = scale_factor(x, observations.q_sq)
    scale = linear_scale[stills.lattice()] * shape
    reference = np.full(stills.n_unique, np.nan)
    for _ in range(N_START_ROUNDS):
        kept = (p >= settings.fit.partiality_threshold) & np.isfinite(scale)
        mean = _mean_of_kept(stills, settings, p, scale, kept, reference)
        reference = mean.reference
        for k in range(stills.n_lattices):
            rows = stills.rows(k)
            recorded = reference[stills.unique[rows]] * p[rows] * shape[rows]
            scale[rows] = _positive_slope(stills.intensity[rows], recorded) * shape[rows]
    return mean


def relative_change(old: np.ndarray, new: np.ndarray) -> float:
    """sum |new - s old| / sum |new| over what both know, s the robust slope between them; NaN of nothing."""
    both = np.isfinite(old) & np.isfinite(new)
    total = np.sum(np.abs(new[both]))
    if not total > 0.0:
        return np.nan
    return float(np.sum(np.abs(new[both] - slope_through_origin(new[both], old[both]) * old[both])) / total)
