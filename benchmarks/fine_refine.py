"""
Gauss-Newton with variable projection beside the published way, Nelder-Mead outside and Powell inside; and pulls.

    OMP_NUM_THREADS=1 python benchmarks/fine_refine.py [seeds]

On a small pattern of silicon with known parameters (simulate/disks.py): what both reach, in how many evaluations of the
model and how much CPU time, from the same start (of 8 by 8 pixels, and at most 60 iterations of the simplex); then the
pulls, (value - truth)/esd of each parameter, over seeds of the noise (50) of 12 by 12 pixels, whose root mean square is
1 where the esds are right.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.programs.fine_refine_fits import refine
from dials_postrefine.programs.fine_refine_input import prepare
from dials_postrefine.settings.fine_refine import FineRefineRequest
from dials_postrefine.simulate.disks import TRUTH, add_counts, silicon_pattern, true_intensity, write_pattern

SMALL = 8  # pixels
METHODS = ("gauss_newton", "nelder_mead")


def main() -> None:
    n_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        intensity = true_intensity()
        compare(*write_pattern(folder, add_counts(silicon_pattern(SMALL), true_intensity(SMALL), 0)))
        pulls(folder, intensity, n_seeds)


def compare(pattern: str, structure: str) -> None:
    found = {}
    for method in METHODS:
        request = FineRefineRequest(pattern=pattern, structure=structure, method=method, max_iterations=60)
        begun = time.process_time()
        found[method] = refine(request, prepare(request), lambda *_: None), time.process_time() - begun
    print(f"{'':14s}{'truth':>12s}" + "".join(f"{method:>28s}" for method in METHODS))
    for name, truth in TRUTH.items():
        line = f"{name:14s}{truth:12.6g}"
        for outcome, _ in found.values():
            esd = outcome.fit.esds()[name]
            line += f"{outcome.fit.parameters.values[name]:16.6g} +- {esd:8.2g}"
        print(line)
    for word, value in (
        ("chi^2", lambda one: f"{one[0].fit.chi2:.2f}"),
        ("evaluations", lambda one: str(one[0].n_evaluations)),
        ("CPU (s)", lambda one: f"{one[1]:.1f}"),
    ):
        print(f"{word:26s}" + "".join(f"{value(one):>28s}" for one in found.values()))
    ratio = found["nelder_mead"][0].n_evaluations / found["gauss_newton"][0].n_evaluations
    print(f"Nelder-Mead with Powell needs {ratio:.0f} times the evaluations.", flush=True)


def pulls(folder: Path, intensity: np.ndarray, n_seeds: int) -> None:
    rows, reduced = [], []
    for seed in range(n_seeds):
        files = write_pattern(folder, add_counts(silicon_pattern(), intensity, 1000 + seed))
        request = FineRefineRequest(pattern=files[0], structure=files[1])
        fit = refine(request, prepare(request), lambda *_: None).fit
        esds = fit.esds()
        rows.append([(fit.parameters.values[name] - value) / esds[name] for name, value in TRUTH.items()])
        reduced.append(fit.chi2_reduced)
    rms = np.sqrt(np.mean(np.square(rows), axis=0))
    print(f"\nPulls of {n_seeds} seeds, mean reduced chi^2 {np.mean(reduced):.3f}:")
    print("  ".join(f"{name} {value:.2f}" for name, value in zip(TRUTH, rms)))
    print(f"all {np.sqrt(np.mean(np.square(rows))):.3f}")


if __name__ == "__main__":
    main()
