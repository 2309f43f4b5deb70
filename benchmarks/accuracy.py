"""
How near the merged amplitudes come to the truth, on simulated stills whose physics is not the model's.

    python benchmarks/accuracy.py [lattices] [seed]

R of amplitudes against the truth over all merged reflections, after one scale and one isotropic B
(simulate/truth.py); self-merged unless it says otherwise.  Monte Carlo: the plain mean of the linearly scaled
observations.

For the model that suits best there are also CC1/2, conventional and honest (independently refined half sets), beside
what the truth implies: the half sets' errors being independent, CC1/2 must be the product of the two correlations with
the truth; and by CC* = sqrt(2 CC1/2/(1 + CC1/2)) the correlation of the whole with the truth implies one as well
(Karplus and Diederichs 2012).  Then the width of the normalised residuals, by tenths of the intensity.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.still_files import as_stills
from dials_postrefine.simulate.stills import SimulatedStills, StillsOptions, simulate_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.crossvalidation import merge_half_sets
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.model import RADII, UNIT_CELLS
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.partiality import PROFILES
from dials_postrefine.stills.reference import make_reference
from dials_postrefine.stills.scaling import linear_scales
from dials_postrefine.stills.selection import Candidates, choose_model
from dials_postrefine.stills.statistics import ResolutionShells, collect_statistics

LEAST_PARTIALITY = 0.05  # of what is merged with the true partialities
BEST = FitSettings(profile="gaussian", radius="mosaic", unit_cell="scale")


def report(name: str, sim: SimulatedStills, merged, seconds: float = np.nan, accepted=None) -> float:
    """One row, and gives R: R, R by fifths of the reflections from low to high resolution, and what was rejected."""
    d_star_sq = d_star_sq_of(sim)
    r, f = r_to_truth(merged, sim.reference_intensity, d_star_sq)
    f_true = np.sqrt(sim.reference_intensity)
    order = np.argsort(d_star_sq)
    order = order[np.isfinite(f[order])]
    fifths = [np.abs(f - f_true)[some].sum() / f_true[some].sum() for some in np.array_split(order, 5)]
    row = f"{name:46s} {r:6.4f}  {len(order):6d}  {' '.join(f'{fifth:.3f}' for fifth in fifths)}"
    if accepted is not None:
        useless, good = np.count_nonzero(~accepted & sim.useless), np.count_nonzero(~accepted & ~sim.useless)
        row += f"  {useless:3d} of {np.count_nonzero(sim.useless):<3d} {good:4d}  {1e3 * seconds / len(accepted):6.1f}"
    print(row, flush=True)
    return r


def truly_scaled(sim: SimulatedStills, stills: Stills) -> np.ndarray:
    """The merged intensities (n_unique,) with the true scales and partialities: what the counts alone leave."""
    known = ~sim.useless[sim.lattice] & ~sim.wild & (sim.partiality > LEAST_PARTIALITY)
    scale = sim.scale[sim.lattice] * np.exp(-2.0 * sim.b_factor[sim.lattice] / sim.d**2) * sim.partiality
    value, variance = stills.intensity[known] / scale[known], stills.variance[known] / scale[known] ** 2
    return merge(value, variance, stills.unique[known], stills.n_unique).intensity


def report_run(name: str, sim: SimulatedStills, stills: Stills, settings: DatasetSettings, reference=None) -> float:
    """Postrefine and print a row; gives R."""
    start = time.process_time()
    result = postrefine(stills, settings, make_reference(reference))
    seconds = time.process_time() - start
    kept = result.kept & ~result.outlier
    merged = merge(*result.merging_values(stills, kept), stills.unique[kept], stills.n_unique).intensity
    return report(name, sim, merged, seconds, result.accepted)


def d_star_sq_of(sim: SimulatedStills) -> np.ndarray:
    """d*^2 (n_unique,) of the reference reflections, 1/Angstrom^2."""
    return np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)


def report_half_sets(
    sim: SimulatedStills, stills: Stills, result: PostrefinedStills, settings: DatasetSettings
) -> None:
    """CC1/2 beside what the truth implies, and the width of the residuals."""
    d_star_sq, truth = d_star_sq_of(sim), sim.reference_intensity
    halves = merge_half_sets(stills, settings, d_star_sq)
    statistics = collect_statistics(stills, result, ResolutionShells(d_star_sq, d_star_sq), independent=halves)
    common = np.isfinite(halves[0].intensity) & np.isfinite(halves[1].intensity)

    def to_truth(intensity: np.ndarray) -> float:
        f = r_to_truth(intensity, truth, d_star_sq)[1]  # on the scale and with the B of the truth
        known = np.isfinite(f)
        return correlation(np.sign(intensity[known]) * f[known] ** 2, truth[known])

    one, two = (to_truth(np.where(common, half.intensity, np.nan)) for half in halves)
    whole = to_truth(statistics.merged.intensity)
    after, model = statistics.after[-1], result.error_model
    print(f"\nCC1/2 conventional {after.cc_half:.4f}, honest {after.cc_half_honest:.4f}")
    print(f"implied by the truth: {one * two:.4f} by the half sets, {whole**2 / (2.0 - whole**2):.4f} by the whole")
    print(f"widths of the residuals, weak to strong: {' '.join(f'{width:.2f}' for width in model.widths)}")
    print(f"error model: a={model.a:.3f} b={model.b:.3f} c={model.c:.3f}")


def main(n_lattices: int = 400, seed: int = 0) -> None:
    """Print the table."""
    sim = simulate_stills(StillsOptions.unlike_model(n_lattices, seed))
    stills = as_stills(sim)
    print(f"{n_lattices} lattices, {len(sim.lattice)} reflections")
    print(f"{'':46s} {'R':6s}  merged  by fifths, low to high d*   useless good  ms of CPU")
    print(f"{'':90s} rejected     a lattice")
    scale = linear_scales(stills, None)[stills.lattice()]
    ones = np.ones(len(scale))
    report(
        "Monte Carlo, linear-scaled",
        sim,
        merge(stills.intensity / scale, ones, stills.unique, stills.n_unique).intensity,
    )
    r_limit = report("true scales and partialities: the limit", sim, truly_scaled(sim, stills))
    choice = choose_model(stills, DatasetSettings(), Candidates(None, RADII, UNIT_CELLS), tests_gain=True)
    fit = choice.settings.fit
    r_plain = report_run(f"plain command: {fit.profile}, {fit.radius}, {fit.unit_cell}", sim, stills, choice.settings)
    print(f"{'':4s}plain command over the limit: {r_plain / r_limit:.3f}", flush=True)
    default = FitSettings()
    rows = [
        (f"{p}, {m}", replace(default, profile=p, model=m))
        for p in ("hard_sphere", "lorentzian", "gaussian")
        for m in ("rs", "rs_hybrid")
    ]
    rows += [(f"{p}, mosaic", replace(default, profile=p, radius="mosaic")) for p in PROFILES]
    rows += [(f"{p}, mosaic, unit_cell=scale", replace(BEST, profile=p)) for p in PROFILES]
    rows += [("default, against the truth", default)]
    rows += [("gaussian, mosaic, scale, against the truth", BEST)]
    rows += [(f"gaussian, mosaic, scale, loss={loss}", replace(BEST, loss=loss)) for loss in ("linear", "student_t")]
    rows += [("gaussian, mosaic, scale, weighting=unit", replace(BEST, weighting="unit"))]
    settings = {name: DatasetSettings(fit=fit) for name, fit in rows}
    turned = not DatasetSettings().restraints
    settings[f"gaussian, mosaic, scale, restraints={turned}"] = DatasetSettings(fit=BEST, restraints=turned)
    settings["gaussian, mosaic, scale, error_model=none"] = DatasetSettings(fit=BEST, error_model="none")
    for threshold in (0.2, 0.1):
        fit = replace(BEST, partiality_threshold=threshold)
        settings[f"one cycle against the truth, p > {threshold}"] = DatasetSettings(fit=fit, n_cycles=1)
    for name, own in settings.items():
        report_run(name, sim, stills, own, sim.reference_intensity if "truth" in name else None)
    best = DatasetSettings(fit=BEST)
    report_half_sets(sim, stills, postrefine(stills, best), best)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
