"""
Whether postrefinement helps a set of real stills: independently refined half sets, and an independent reference.

    python benchmarks/real_stills.py integrated.expt integrated.refl reference.mtz

The stills are postrefined against their own mean as the plain command does it.  Printed are, by shell, before
(one scale a lattice) and after: CC1/2; after, also the honest CC1/2.  Then the same against the reference itself.  The
last line of each is the change of the correlation with the reference, which took no part in the first, over the unique
reflections that both merges have.
"""

from __future__ import annotations

import sys

import numpy as np

from dials_postrefine.files.reference.alignment import align, read_reference
from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.programs.algorithm_settings import dataset_settings, model_candidates
from dials_postrefine.programs.stills_input import read_stills
from dials_postrefine.report.stills.choice import describe_choice, model_words
from dials_postrefine.report.stills.course import describe_course
from dials_postrefine.report.stills.text import candidates_table, shells_table
from dials_postrefine.settings.postrefine import PostrefineRequest
from dials_postrefine.stills.merging import merge
from dials_postrefine.stills.reference import make_reference
from dials_postrefine.stills.refinement import refine
from dials_postrefine.stills.statistics import ResolutionShells

N_SHELLS = 5


def main(experiments: str, reflections: str, reference_path: str) -> None:
    """Print the tables."""
    files = read_stills([experiments], [reflections])
    stills, request = files.stills, PostrefineRequest()
    settings, candidates = dataset_settings(request), model_candidates(request)
    independent = align(files.h_unique, *read_reference(reference_path, files.space_group, files.cell))
    for title, reference in (("self-merged", None), ("against the reference", independent)):
        shells = ResolutionShells(files.d_star_sq, files.complete, N_SHELLS)
        found = refine(stills, settings, candidates, shells, make_reference(reference))
        result, statistics, described = found.result, found.statistics, describe_choice(found)
        print(f"\n{title}\n{candidates_table(described)}\n{model_words(described)}")
        print(describe_course(result, settings.convergence)["words"])
        if described["gain"]:
            print(described["gain"]["words"])
        print(f"{np.count_nonzero(result.accepted)} of {stills.n_lattices} lattices accepted")
        print(f"before\n{shells_table(statistics.before)}\nafter\n{shells_table(statistics.after)}")

        linear = result.linear_scale[stills.lattice()]
        used = np.isfinite(linear)
        value, variance = stills.intensity[used] / linear[used], stills.variance[used] / linear[used] ** 2
        before = merge(value, variance, stills.unique[used], stills.n_unique).intensity
        plain = merge(value, np.ones(len(value)), stills.unique[used], stills.n_unique).intensity
        after = statistics.merged.intensity
        both = np.isfinite(before) & np.isfinite(after) & np.isfinite(independent)
        found = [correlation(one[both], independent[both]) for one in (before, plain, after)]
        print(
            f"CC to the reference over the same {np.count_nonzero(both)} unique reflections: "
            "{:.3f} before ({:.3f} unweighted), {:.3f} after".format(*found),
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
