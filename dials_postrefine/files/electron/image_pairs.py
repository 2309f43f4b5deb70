"""Pairs of images as a table, image_pairs.csv."""

from __future__ import annotations

import csv

import numpy as np

from dials_postrefine.electron.spread.imagespread import ImageSpread
from dials_postrefine.files.electron.scaled_images import ImageFiles

HEADERS = (
    "experiment_1",
    "image_1",
    "experiment_2",
    "image_2",
    "n_common",
    "jaccard",
    "misorientation_degrees",
    "n_strong",
    "log_spread",
    "log_spread_esd",
    "log_spread_expected",
    "r",
    "r_esd",
    "cc",
    "cc_esd",
    "cc_log",
    "z_width",
    "llr",
    "posterior",
    "p",
)


def write_pairs(path: str, files: ImageFiles, found: ImageSpread) -> None:
    """One row a pair, most in common first; an image of several is called by its first one; empty: no number."""
    pairs, of, test, images = found.pairs, found.of_pairs, found.random_match, files.images
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADERS)
        for k, (a, b) in enumerate(zip(pairs.a, pairs.b)):
            values = (
                pairs.jaccard[k],
                np.degrees(pairs.misorientation[k]),
                of.n_strong[k],
                of.log_spread[k],
                of.log_spread_esd[k],
                of.expected[k],
                of.r[k],
                of.r_esd[k],
                of.cc[k],
                of.cc_esd[k],
                of.cc_log[k],
                of.z_width[k],
                test.llr[k],
                test.posterior[k],
                test.p[k],
            )
            names = [(files.identifiers[images.experiment[i]], images.number[i]) for i in (a, b)]
            writer.writerow([*names[0], *names[1], pairs.n_common[k], *(_text(value) for value in values)])


def _text(value) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""
