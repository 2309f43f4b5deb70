"""
Which profile, model, weighting and loss describe real stills: agreement on reflections that no fit has seen.

    python benchmarks/held_out.py integrated.expt integrated.refl reference.mtz

A quarter of the unique reflections at a time is taken out of the reference, all lattices are fitted to the rest, and
the intensities calculated for what was left out are correlated with the observed ones, lattice by lattice.  Printed is
the median over the lattices of that correlation, of the intensities and of their signed square roots; the first row is
the correlation with the reference itself, without any model.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from dials_postrefine.files.reference import align, read_reference
from dials_postrefine.files.stills import read_stills
from dials_postrefine.stills.cycles import DatasetSettings, postrefine
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.lattice import FitSettings, signed_root
from dials_postrefine.stills.merging import correlation
from dials_postrefine.stills.partiality import PROFILES

N_FOLDS = 4


def calculated_unseen(stills: Stills, reference: np.ndarray, settings: FitSettings) -> np.ndarray:
    """The calculated intensity (n,) of each observation from fits that have not seen its unique reflection."""
    fold = np.random.default_rng(0).integers(0, N_FOLDS, len(reference))
    i_calc = np.empty(len(stills.unique))
    for number in range(N_FOLDS):
        known = np.where(fold == number, np.nan, reference)
        result = postrefine(stills, DatasetSettings(fit=replace(settings, min_correlation=-1.0)), known)
        own = fold[stills.unique] == number
        scale = np.where(np.isfinite(result.x[stills.lattice()[own], 0]), result.scale[own], np.nan)
        i_calc[own] = result.partiality[own] * scale * reference[stills.unique[own]]
    return i_calc


def medians(stills: Stills, i_calc: np.ndarray) -> tuple[float, float]:
    """Median over the lattices of the correlation with i_calc (n,), of intensities and of signed roots."""
    pairs = []
    for k in range(stills.n_lattices):
        rows = stills.rows(k)
        known = np.isfinite(i_calc[rows])
        a, b = stills.intensity[rows][known], i_calc[rows][known]
        pairs.append((correlation(a, b), correlation(signed_root(a), signed_root(b))))
    return tuple(np.nanmedian(pairs, axis=0))


def main(experiments: str, reflections: str, reference_path: str) -> None:
    """Print the table."""
    files = read_stills([experiments], [reflections])
    stills = files.stills
    reference = align(files.h_unique, *read_reference(reference_path, files.space_group, files.cell))
    print("{:30s} {:9s} {}".format("held-out CC of a lattice", "I", "signed root of I"))
    print("{:30s} {:.3f}     {:.3f}".format("reference alone", *medians(stills, reference[stills.unique])))
    default = FitSettings()
    rows = {
        f"{profile}, {model}": {"profile": profile, "model": model}
        for profile in ("hard_sphere", "lorentzian", "gaussian")
        for model in ("rs", "rs_hybrid")
    }
    rows |= {f"{profile}, mosaic radius": {"profile": profile, "radius": "mosaic"} for profile in PROFILES}
    rows |= {f"default, loss={loss}": {"loss": loss} for loss in ("linear", "huber", "student_t")}
    rows |= {"default, weighting=unit": {"weighting": "unit"}}
    for name, changes in rows.items():
        found = medians(stills, calculated_unseen(stills, reference, replace(default, **changes)))
        print("{:30s} {:.3f}     {:.3f}".format(name, *found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
