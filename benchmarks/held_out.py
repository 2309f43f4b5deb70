"""
Which profile, model, cell, weighting and loss describe real stills: agreement on reflections that no fit has seen.

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

from dials_postrefine.files.reference.alignment import align, read_reference
from dials_postrefine.numerics.amplitudes import signed_root
from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.programs.stills_input import read_stills
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.filters import LatticeFilters
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.partiality import PROFILES
from dials_postrefine.stills.reference import FitReference

N_FOLDS = 4


NO_FILTERS = LatticeFilters(min_partial_correlation=-1.0, parameter_z=np.inf)


def calculated_unseen(
    stills: Stills, reference: np.ndarray, settings: FitSettings, restraints: bool = True
) -> np.ndarray:
    """The calculated intensity (n,) of each observation from fits that have not seen its unique reflection."""
    fold = np.random.default_rng(0).integers(0, N_FOLDS, len(reference))
    i_calc = np.empty(len(stills.unique))
    for number in range(N_FOLDS):
        known = np.where(fold == number, np.nan, reference)
        fit = replace(settings, min_correlation=-1.0)
        result = postrefine(
            stills, DatasetSettings(fit=fit, restraints=restraints, filters=NO_FILTERS), FitReference(known)
        )
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
    print("{:38s} {:9s} {}".format("held-out CC of a lattice", "I", "signed root of I"))
    print("{:38s} {:.3f}     {:.3f}".format("reference alone", *medians(stills, reference[stills.unique])))
    default = FitSettings()
    rows = {
        f"{profile}, {model}": {"profile": profile, "model": model}
        for profile in ("hard_sphere", "lorentzian", "gaussian")
        for model in ("rs", "rs_hybrid")
    }
    rows |= {f"{profile}, mosaic radius": {"profile": profile, "radius": "mosaic"} for profile in PROFILES}
    rows |= {
        f"{profile}, mosaic, unit_cell=scale": {"profile": profile, "radius": "mosaic", "unit_cell": "scale"}
        for profile in PROFILES
    }
    rows |= {f"default, loss={loss}": {"loss": loss} for loss in ("linear", "huber", "student_t")}
    rows |= {"default, weighting=unit": {"weighting": "unit"}}
    rows |= {"default, restraints=False": {}, "lorentzian, mosaic, restraints=False": {"radius": "mosaic"}}
    for name, changes in rows.items():
        restraints = "restraints" not in name
        found = medians(stills, calculated_unseen(stills, reference, replace(default, **changes), restraints))
        print("{:38s} {:.3f}     {:.3f}".format(name, *found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
