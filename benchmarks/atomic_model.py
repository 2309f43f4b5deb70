"""
What an atomic model is worth as a reference, on the simulated stills of accuracy.py.

    python benchmarks/atomic_model.py [lattices] [seed]

R of amplitudes against the truth (simulate/truth.py) of stills that are fitted in one cycle to the intensities of the
structure behind them, its atoms moved by a rms shift; and in three, as dials.postrefine does: the second and third
against model and merged data together, each with the weight of its error (scattering/prior.py).  share: of the data
beside the model after the last.  Last, self-merged.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from unittest import mock

import numpy as np

from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.scattering.form_factors import choose_form_factors
from dials_postrefine.scattering.prior import ModelPrior
from dials_postrefine.scattering.structure_factors import calculate_f_calc
from dials_postrefine.simulate.still_files import as_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.reference import FitReference

BEST = FitSettings(profile="gaussian", radius="mosaic", unit_cell="scale")
SHIFTS = (0.0, 0.1, 0.2, 0.3, 0.5)  # Angstrom


def simulate_with_structure(options: StillsOptions):
    """Simulated stills and the random structure behind them."""
    from cctbx.development import random_structure

    structures, make = [], random_structure.xray_structure

    def keep(*args, **kwargs):
        structures.append(make(*args, **kwargs))
        return structures[-1]

    with mock.patch.object(random_structure, "xray_structure", keep):
        return simulate_stills(options), structures[0]


def intensities_of(sim, structure, shift: float) -> np.ndarray:
    """Of the structure with its atoms moved by a rms shift (Angstrom) in random directions."""
    from cctbx import miller
    from cctbx.array_family import flex

    moved = structure.deep_copy_scatterers()
    step = np.random.default_rng(0).normal(0.0, shift / np.sqrt(3.0), (moved.scatterers().size(), 3))
    moved.set_sites_cart(flex.vec3_double((np.array(moved.sites_cart()) + step).tolist()))
    factors = choose_form_factors({scatterer.scattering_type for scatterer in moved.scatterers()})
    indices = miller.set(moved, to_flex_miller(sim.reference_h), anomalous_flag=False)
    return np.abs(np.array(calculate_f_calc(moved, factors, indices).data())) ** 2


def main(n_lattices: int = 400, seed: int = 0) -> None:
    """Print the table."""
    sim, structure = simulate_with_structure(StillsOptions.unlike_model(n_lattices, seed))
    stills, truth = as_stills(sim), sim.reference_intensity
    d_star_sq = np.sum((sim.reference_h / np.array(sim.options.unit_cell[:3])) ** 2, axis=1)
    epsilon, centric = np.ones(len(truth)), np.zeros(len(truth), dtype=bool)
    settings = DatasetSettings(fit=BEST)

    def merge_and_compare(result) -> float:
        kept = result.kept & ~result.outlier
        merged = merge(*result.merging_values(stills, kept), stills.unique[kept], stills.n_unique)
        return r_to_truth(merged.intensity, truth, d_star_sq)[0]

    print("shift (A)  R of the model  R, one cycle  R, three  share of the data")
    for shift in SHIFTS:
        model = intensities_of(sim, structure, shift)
        alone = merge_and_compare(postrefine(stills, replace(settings, n_cycles=1), FitReference(model)))
        prior = ModelPrior(model, d_star_sq, epsilon, centric)
        together = merge_and_compare(postrefine(stills, settings, FitReference(model, prior=prior)))
        share = prior.last.share[prior.last.both].mean()
        r_model = r_to_truth(model, truth, d_star_sq)[0]
        print(f"{shift:9.2f}  {r_model:14.4f}  {alone:12.4f}  {together:8.4f}  {share:17.2f}", flush=True)
    print(f"self-merged: R = {merge_and_compare(postrefine(stills, settings)):.4f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
