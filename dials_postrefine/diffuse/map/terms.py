"""
The terms of the model that scales unmerged sums against each other,

    n/e = exp(sum_t f_t) I(h) + sum_t L(|s|) d_t,

of which each f_t or d_t is linear in its coefficients; L is the level of its shell, so that offsets are parts of it.
For u, v, z see places.py.

    name         kind    of                    coefficients
    image        factor  z                     a cubic spline for each series: beam, volume of crystal
    gradient     factor  u, v                  1st and 2nd powers, for each detector: they go on where nothing is seen
    panel        factor  panel                 one for each
    detector     factor  u, v                  splines, for each detector: what does not turn with the crystal
    absorption   factor  u, v, z               splines, for each series
    background   offset  |s|, z                splines, for each series: air, solvent, loop that change in the sweep
    azimuth      offset  |s|, azimuth          splines times cos, sin of one and two azimuths, for each detector

A term knows no symmetry.  What it can't know from equivalents is left out by fitting_terms.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map.places import Places
from dials_postrefine.numerics import splines

# Coefficients of splines: along z, u and v of a detector, u and v of absorption, z of absorption, |s|.
N_IMAGE, N_DETECTOR, N_ABSORPTION, N_TURN, N_RESOLUTION = 9, 9, 6, 7, 10
# A term with more coefficients than this is left out.
MOST_COEFFICIENTS = 1200


@dataclass(frozen=True)
class Term:
    """
    A term: its name; whether it is a factor or an offset; design, which makes of places the sparse matrix (n, p) of its
    p coefficients; rough, the matrix (p, p) of their roughness.
    """

    name: str
    is_factor: bool
    design: Callable[[Places], object]
    rough: np.ndarray


def make_terms(places: Places) -> list[Term]:
    """
    The terms that data can have, those that are simple first.

    Parameters
    ----------
    places : Places
        Of all records; their limits are those of the splines.

    Returns
    -------
    list of Term
    """
    n_series, n_detectors = len(places.images), places.n_detectors
    last = np.maximum(1.0, places.images - 1.0)
    reach = max(float(np.hypot(places.u, places.v).max(initial=0.0)), 1e-9)
    low, high = float(places.s.min(initial=0.0)), float(places.s.max(initial=1.0))

    def by_series(of: Places, matrix):
        return splines.product(_one_of(of.series, n_series), matrix)

    def by_detector(of: Places, matrix):
        return splines.product(_one_of(of.detector, n_detectors), matrix)

    def turn(of: Places, n: int):
        return splines.basis(of.z / last[of.series], 0.0, 1.0, n)

    def plane(of: Places, n: int):
        along = (splines.basis(w / reach, -1.0, 1.0, n) for w in (of.u, of.v))
        return splines.product(*along)

    def shells(of: Places):
        return splines.basis(of.s, low, high, N_RESOLUTION)

    def repeated(n: int, *sizes: int) -> np.ndarray:
        return np.kron(np.eye(n), splines.roughness(*sizes))

    factors = {
        "image": (lambda of: by_series(of, turn(of, N_IMAGE)), repeated(n_series, N_IMAGE)),
        "gradient": (lambda of: by_detector(of, _powers(of.u / reach, of.v / reach)), np.zeros((5 * n_detectors,) * 2)),
        "panel": (
            lambda of: _one_of(of.detector * of.n_panels + of.panel, n_detectors * of.n_panels),
            np.zeros((n_detectors * places.n_panels,) * 2),
        ),
        "detector": (lambda of: by_detector(of, plane(of, N_DETECTOR)), repeated(n_detectors, N_DETECTOR, N_DETECTOR)),
        "absorption": (
            lambda of: by_series(of, splines.product(plane(of, N_ABSORPTION), turn(of, N_TURN))),
            repeated(n_series, N_ABSORPTION, N_ABSORPTION, N_TURN),
        ),
    }
    offsets = {
        "background": (
            lambda of: by_series(of, splines.product(turn(of, N_TURN), shells(of))),
            repeated(n_series, N_TURN, N_RESOLUTION),
        ),
        "azimuth": (
            lambda of: by_detector(of, splines.product(_harmonics(of.u, of.v), shells(of))),
            repeated(4 * n_detectors, N_RESOLUTION),
        ),
    }
    found = [Term(name, True, *what) for name, what in factors.items()]
    found += [Term(name, False, *what) for name, what in offsets.items()]
    return [
        term
        for term in found
        if len(term.rough) <= MOST_COEFFICIENTS and not (term.name == "panel" and places.n_panels == 1)
    ]


def _one_of(number: np.ndarray, n: int):
    """A column for each of n, in which its rows have 1."""
    from scipy import sparse

    rows = np.arange(len(number) + 1)
    return sparse.csr_matrix((np.ones(len(number)), np.asarray(number, np.int32), rows), shape=(len(number), n))


def _powers(u: np.ndarray, v: np.ndarray):
    return _dense([u, v, u * u - v * v, u * v, u * u + v * v])


def _harmonics(u: np.ndarray, v: np.ndarray):
    azimuth = np.arctan2(v, u)
    return _dense([np.cos(azimuth), np.sin(azimuth), np.cos(2.0 * azimuth), np.sin(2.0 * azimuth)])


def _dense(columns: list[np.ndarray]):
    """Columns as a sparse matrix that has all of its elements."""
    from scipy import sparse

    values = np.stack(columns, axis=1)
    n, p = values.shape
    return sparse.csr_matrix((values.ravel(), np.tile(np.arange(p), n), np.arange(n + 1) * p), shape=(n, p))
