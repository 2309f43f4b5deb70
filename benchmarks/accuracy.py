"""
How near the merged amplitudes come to the truth, on simulated stills whose physics is not the model's.

    python benchmarks/accuracy.py [lattices] [seed]

R of amplitudes against the truth over all merged reflections, after one scale and one isotropic B
(merging.r_to_truth); self-merged unless it says otherwise.  Monte Carlo: the plain mean of the linearly scaled
observations.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from dials_postrefine.files.simulated import as_stills
from dials_postrefine.simulate import SimulatedStills, StillsOptions, simulate_stills
from dials_postrefine.stills.cycles import DatasetSettings, postrefine
from dials_postrefine.stills.lattice import FitSettings
from dials_postrefine.stills.merging import merge, r_to_truth
from dials_postrefine.stills.partiality import PROFILES
from dials_postrefine.stills.scaling import linear_scales, scaled_values


def report(name: str, sim: SimulatedStills, merged, seconds: float = np.nan, accepted=None) -> None:
    """One row: R, R by fifths of the reflections from low to high resolution, and what was rejected."""
    d_star_sq = np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)
    r, f = r_to_truth(merged, sim.reference_intensity, d_star_sq)
    f_true = np.sqrt(sim.reference_intensity)
    order = np.argsort(d_star_sq)
    order = order[np.isfinite(f[order])]
    fifths = [np.abs(f - f_true)[some].sum() / f_true[some].sum() for some in np.array_split(order, 5)]
    row = f"{name:38s} {r:6.4f}  {len(order):6d}  {' '.join(f'{fifth:.3f}' for fifth in fifths)}"
    if accepted is not None:
        useless, good = np.count_nonzero(~accepted & sim.useless), np.count_nonzero(~accepted & ~sim.useless)
        row += f"  {useless:3d} of {np.count_nonzero(sim.useless):<3d} {good:4d}  {1e3 * seconds / len(accepted):6.1f}"
    print(row, flush=True)


def main(n_lattices: int = 400, seed: int = 0) -> None:
    """Print the table."""
    sim = simulate_stills(StillsOptions.unlike_model(n_lattices, seed))
    stills = as_stills(sim)
    print(f"{n_lattices} lattices, {len(sim.lattice)} reflections")
    print(f"{'':38s} {'R':6s}  merged  by fifths, low to high d*   useless good  ms of CPU")
    print(f"{'':82s} rejected     a lattice")
    scale = linear_scales(stills, None)[stills.lattice()]
    ones = np.ones(len(scale))
    report(
        "Monte Carlo, linear-scaled",
        sim,
        merge(stills.intensity / scale, ones, stills.unique, stills.n_unique).intensity,
    )
    default = FitSettings()
    rows = [
        (f"{p}, {m}", replace(default, profile=p, model=m))
        for p in ("hard_sphere", "lorentzian", "gaussian")
        for m in ("rs", "rs_hybrid")
    ]
    rows += [(f"{p}, mosaic radius", replace(default, profile=p, radius="mosaic")) for p in PROFILES]
    rows += [(f"default, loss={loss}", replace(default, loss=loss)) for loss in ("linear", "huber", "student_t")]
    rows += [("default, weighting=unit", replace(default, weighting="unit"))]
    rows += [("default, against the truth", default)]
    rows += [("gaussian, mosaic, against the truth", replace(default, profile="gaussian", radius="mosaic"))]
    for name, fit in rows:
        start = time.process_time()
        result = postrefine(stills, DatasetSettings(fit=fit), sim.reference_intensity if "truth" in name else None)
        seconds = time.process_time() - start
        kept = result.kept & ~result.outlier
        value, variance = scaled_values(stills, result.partiality, result.scale, kept)
        merged = merge(value, variance, stills.unique[kept], stills.n_unique).intensity
        report(name, sim, merged, seconds, result.accepted)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
