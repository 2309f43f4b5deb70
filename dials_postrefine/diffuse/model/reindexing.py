"""
Which indexing of a map is that of a structure.

A map may be indexed in any setting that its lattice allows.  Candidates are the matrices M of small integers that make
of the metric of the map's cell that of the structure's, h_structure = M h_map; of those that differ by the Laue class
of the structure, and so make the same map, one is taken, a rotation with the fewest minus signs.
"""

from __future__ import annotations

import itertools

import numpy as np

SAME_LENGTH = 0.03  # relative


def candidates(of_map: np.ndarray, of_structure: np.ndarray, rotations: np.ndarray) -> list[np.ndarray]:
    """
    The operations M on indices.

    Parameters
    ----------
    of_map, of_structure : ndarray (3, 3)
        Reciprocal metrics: |s|^2 = h'G h, 1/Angstrom^2.
    rotations : ndarray (g, 3, 3)
        Of the structure, on positions: indices go to h R.

    Returns
    -------
    list of ndarray (3, 3)
        None where the lattices differ; the identity, or what is equivalent to it, first.
    """
    size = np.sqrt(np.outer(np.diag(of_map), np.diag(of_map)))
    found: dict[tuple, tuple] = {}
    laue = [sign * np.rint(r.T) for r in np.asarray(rotations, float) for sign in (1, -1)]
    for elements in itertools.product((-1, 0, 1), repeat=9):
        m = np.array(elements, float).reshape(3, 3)
        if abs(round(np.linalg.det(m))) != 1:
            continue
        if (np.abs(m.T @ of_structure @ m - of_map) > 2.0 * SAME_LENGTH * size).any():
            continue
        coset = min(tuple((r @ m).ravel()) for r in laue)
        rank = (not np.array_equal(m, np.eye(3)), np.linalg.det(m) < 0, int((m < 0).sum()), tuple(-m.ravel()))
        if coset not in found or rank < found[coset][0]:
            found[coset] = rank, m
    return [m for _, m in sorted(found.values(), key=lambda one: one[0])]


def as_text(m: np.ndarray) -> str:
    """
    An operation as k,h,-l.

    Parameters
    ----------
    m : ndarray (3, 3)
        Of elements -1, 0 and 1.

    Returns
    -------
    str
    """
    rows = []
    for row in np.rint(m).astype(int):
        terms = [f"{'-' if n < 0 else '+'}{letter}" for n, letter in zip(row, "hkl") if n]
        rows.append("".join(terms).removeprefix("+"))
    return ",".join(rows)


def from_text(text: str) -> np.ndarray:
    """
    The operation of a text as k,h,-l.

    Parameters
    ----------
    text : str

    Returns
    -------
    ndarray (3, 3)
        Of integers as floats, its determinant 1 or -1.

    Raises
    ------
    ValueError
        For anything else.
    """
    rows = []
    for part in text.replace(" ", "").lower().split(","):
        row, sign = [0, 0, 0], 1
        for letter in part:
            if letter in "+-":
                sign = -1 if letter == "-" else 1
            elif letter in "hkl":
                row["hkl".index(letter)] += sign
                sign = 1
            else:
                raise ValueError(f"{text} is no operation as k,h,-l")
        rows.append(row)
    m = np.array(rows, float)
    if m.shape != (3, 3) or abs(round(np.linalg.det(m))) != 1:
        raise ValueError(f"{text} is no operation as k,h,-l")
    return m
