"""
How much of the anomalous differences survives postrefinement, on simulated stills with a Bijvoet ratio of 4 %.

    python benchmarks/anomalous.py [lattices] [seeds] [d_min]

D = I+ - I- of the merged intensities, brought to the scale and B of the truth, against the true one: the slope
sum D D_true / sum D_true^2, a regression with the truth as x, and the correlation.  Merged: the lattices are fitted to
means of both mates (anomalous=False), I+ and I- being merged from what is written.  Apart: anomalous=True.  Each
self-merged; against the intensities of the structure with the pairs apart, as a model with f'' gives them; and against
their means.  d_min: 3.0, 2.65 (the default) and 2.1 Angstrom give 49, 62 and 103 reflections a lattice.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.simulate.still_files import as_stills
from dials_postrefine.simulate.stills import SimulatedStills, StillsOptions, simulate_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.crossvalidation import relative_scale
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.reference import make_reference

SETTINGS = DatasetSettings(fit=FitSettings(profile="gaussian", radius="mosaic"))
CELL = (50.0, 50.0, 38.0, 90.0, 90.0, 90.0)


def simulate(n_lattices: int, seed: int, d_min: float) -> SimulatedStills:
    """Stills whose physics is not the model's, with anomalous scatterers."""
    return simulate_stills(
        StillsOptions(
            n_lattices=n_lattices,
            seed=seed,
            d_min=d_min,
            unit_cell=CELL,
            bijvoet_ratio=0.04,
            physics="mosaic",
            misorientation=0.03,
            cell_spread=0.0004,
            window=0.00075,
            background=20.0,
            observed_variance=True,
            n_samples=150,
        )
    )


def compare(sim: SimulatedStills, stills: Stills, result: PostrefinedStills) -> tuple[float, float, float]:
    """Slope and correlation of D, and R of the amplitudes; stills have Friedel pairs apart."""
    truth = sim.reference_intensity
    kept = result.kept & ~result.outlier
    merged = merge(*result.merging_values(stills, kept), stills.unique[kept], stills.n_unique).intensity
    d_star_sq = stills.prior.d_star_sq
    r, _ = r_to_truth(merged, truth, d_star_sq)
    found = stills.friedel.differences(merged * relative_scale(truth, merged, d_star_sq))
    true = stills.friedel.differences(truth)
    known = np.isfinite(found)
    found, true = found[known], true[known]
    return float(found @ true / (true @ true)), correlation(found, true), r


def main(n_lattices: int = 300, n_seeds: int = 8, d_min: float = 2.65) -> None:
    """Print the table."""
    table: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(n_seeds):
        sim = simulate(n_lattices, seed, d_min)
        apart, truth = as_stills(sim), sim.reference_intensity
        both = apart.friedel.one_of_pair()
        of_pair = np.bincount(both, truth, len(truth)) / np.maximum(np.bincount(both, minlength=len(truth)), 1)
        as_one = replace(apart, unique=both[apart.unique], friedel=None)
        runs = {
            "self-merged, merged": postrefine(as_one, SETTINGS),
            "self-merged, apart": postrefine(apart, SETTINGS),
            "against means of pairs, merged": postrefine(as_one, SETTINGS, make_reference(of_pair)),
            "against means of pairs, apart": postrefine(
                apart, SETTINGS, make_reference(of_pair[both], friedel_merged=True)
            ),
            "against pairs apart": postrefine(apart, SETTINGS, make_reference(truth)),
        }
        for name, result in runs.items():
            table.setdefault(name, []).append(compare(sim, apart, result))
    n = len(sim.lattice)
    print(f"{n_lattices} lattices of {n / n_lattices:.0f} reflections, {n / len(truth):.1f} of each unique one")
    print(f"{'':32s} slope of D      CC(D)           R, means and esds over {n_seeds} seeds")
    for name, values in table.items():
        mean, esd = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(n_seeds)
        print(f"{name:32s} " + " ".join(f"{m:.3f} +- {s:.3f} " for m, s in zip(mean, esd)), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]), *(float(argument) for argument in sys.argv[3:4]))
