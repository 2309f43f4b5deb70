"""
Unit cells as six numbers: which of many belong together, and which bases describe one lattice.

A median, parameter by parameter, of cells that are of two kinds is of neither kind.

Groups.  Two cells agree where each length differs by less than a fraction and each angle by less than a number of
degrees.  The main group starts with the cell with which most others agree (of equal numbers the first) and all that
agree with it, and grows as far as its own spread reaches: with m the median of the members and
MAD = median |c - m| of them, parameter by parameter, members are those with

    |c - m| <= max(tolerance, CELL_Z * 1.4826 MAD)

until they stay the same.  A wide population is taken whole; of two narrow ones further apart, one.

Change of basis.  With the metric tensor G = A^T A of a cell, A = (a b c), the basis A P has the metric P^T G P.  Two
cells describe one lattice where an integer P of determinant +1 takes the metric of the one (primitive, reduced) to that
of the other; of two reduced bases its elements are within -REACH..REACH, so its columns are among few vectors, those of
the right lengths.  (Triclinic lattices near the borders of a reduction have several reduced cells that hardly differ:
an exact comparison of Niggli cells, Krivy and Gruber 1976, Acta Cryst. A32, 297, would miss these.)

Cells (..., 6) are a, b, c in Angstrom and alpha, beta, gamma in degrees, as they are given everywhere.
"""

from __future__ import annotations

import itertools

import numpy as np

from dials_postrefine.numerics.robust import MAD_TO_SIGMA, robust_width

CELL_Z = 5.0
MAX_SEEDS = 500  # cells that are tried as the first of a group
MAX_GROWTH = 50
SEPARATION = 6.0  # of two bases, in standard deviations; cells folded onto one side of no separation at all reach 3
MIN_SPREAD = 1e-4  # of lengths, and radians: as well as a cell is known
REACH = 2


def cells_agree(cells: np.ndarray, cell: np.ndarray, length: float, angle: float) -> np.ndarray:
    """
    Which cells agree with one.

    Parameters
    ----------
    cells : ndarray, shape (n, 6)
    cell : ndarray, shape (6,)
    length, angle : float
        The tolerances: a fraction of the lengths of the cell, and degrees.

    Returns
    -------
    ndarray of bool, shape (n,)
        False of NaN.
    """
    off = np.abs(cells - cell)
    return (off[:, :3] <= length * cell[:3]).all(axis=1) & (off[:, 3:] <= angle).all(axis=1)


def find_main_cells(cells: np.ndarray, length: float, angle: float) -> np.ndarray:
    """
    The largest group of cells that agree (module docstring).

    Parameters
    ----------
    cells : ndarray, shape (n, 6)
        NaN where one is not known.
    length, angle : float
        The tolerances of two cells that agree: a fraction, and degrees.

    Returns
    -------
    ndarray of bool, shape (n,)
        Who is a member; none of NaN.
    """
    known = np.isfinite(cells).all(axis=1)
    member = np.zeros(len(cells), dtype=bool)
    if not known.any():
        return member
    # spread over the list, lest all are of the first file
    seeds = np.flatnonzero(known)[np.unique(np.linspace(0, known.sum() - 1, MAX_SEEDS).astype(int))]
    n_agree = [np.count_nonzero(cells_agree(cells, cells[k], length, angle)) for k in seeds]
    member = cells_agree(cells, cells[seeds[int(np.argmax(n_agree))]], length, angle)
    for _ in range(MAX_GROWTH):
        grown = (np.abs(cells - np.median(cells[member], axis=0)) <= _limit(cells[member], length, angle)).all(axis=1)
        if not grown.any() or np.array_equal(grown, member):
            break
        member = grown
    return member


def _limit(cells: np.ndarray, length: float, angle: float) -> np.ndarray:
    """How far from their median cells (n, 6) of one group may be, (6,)."""
    median = np.median(cells, axis=0)
    tolerance = np.concatenate([length * median[:3], np.full(3, angle)])
    return np.maximum(tolerance, CELL_Z * MAD_TO_SIGMA * np.median(np.abs(cells - median), axis=0))


def spread_of_cells(cells: np.ndarray) -> np.ndarray:
    """
    The robust standard deviations of cells of one group.

    Parameters
    ----------
    cells : ndarray, shape (n, 6)

    Returns
    -------
    ndarray, shape (6,)
        Angstrom and degrees.
    """
    return robust_width(cells - np.median(cells, axis=0), axis=0)


def separate_cells(choices: np.ndarray) -> np.ndarray:
    """
    Which of several bases each cell of one group is best given in, where the cells themselves tell.

    With the cells put as near together as they can be, and s their spread then, a basis counts only if it moves the
    common cell by more than SEPARATION s.

    Parameters
    ----------
    choices : ndarray, shape (n_bases, n, 6)
        The cells in each basis, first as they are.

    Returns
    -------
    ndarray of int, shape (n,)
        The number of the basis of each.
    """
    centre = choices[0, 0]
    scale = np.concatenate([np.full(3, centre[:3].mean()), np.full(3, 180.0 / np.pi)])
    open_ = np.arange(len(choices))
    chosen = np.zeros(choices.shape[1], dtype=int)
    for _ in range(MAX_GROWTH):
        distance = (((choices[open_] - centre) / scale) ** 2).sum(axis=2)
        # of equal ones the first, whatever the rounding
        chosen = open_[np.argmax(distance <= distance.min(axis=0) + 1e-12, axis=0)]
        alike = choices[chosen, np.arange(len(chosen))]
        spread = np.maximum(spread_of_cells(alike), MIN_SPREAD * scale)
        # a basis that takes the common cell, as it is, hardly elsewhere can't be told from the spread
        members = [choices[m][chosen == 0] if (chosen == 0).any() else choices[m] for m in open_]
        moved = [np.median(cells, axis=0) - np.median(members[0], axis=0) for cells in members]
        keep = np.array([m == 0 or ((move / spread) ** 2).sum() > SEPARATION**2 for m, move in zip(open_, moved)])
        common = np.median(alike, axis=0)
        if keep.all() and np.allclose(common, centre, rtol=1e-9, atol=0.0):
            break
        open_, centre = open_[keep], common
    return chosen


def metric_of(cells: np.ndarray) -> np.ndarray:
    """
    The metric tensors of cells.

    Parameters
    ----------
    cells : ndarray, shape (..., 6)

    Returns
    -------
    ndarray, shape (..., 3, 3)
        Angstrom^2.
    """
    lengths, cosines = cells[..., :3], np.cos(np.radians(cells[..., 3:]))
    metric = lengths[..., :, None] * lengths[..., None, :]
    for i, j, k in ((1, 2, 0), (0, 2, 1), (0, 1, 2)):
        metric[..., i, j] *= cosines[..., k]
        metric[..., j, i] *= cosines[..., k]
    return metric


def cell_of(metric: np.ndarray) -> np.ndarray:
    """
    The cells of metric tensors.

    Parameters
    ----------
    metric : ndarray, shape (..., 3, 3)
        Angstrom^2.

    Returns
    -------
    ndarray, shape (..., 6)
    """
    lengths = np.sqrt(np.diagonal(metric, axis1=-2, axis2=-1))
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = np.stack([metric[..., i, j] / (lengths[..., i] * lengths[..., j]) for i, j in pairs], axis=-1)
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))], axis=-1)


def change_cells(cells: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """
    The cells after the change to the basis P (module docstring).

    Parameters
    ----------
    cells : ndarray, shape (n, 6)
    basis : ndarray, shape (3, 3)
        P.

    Returns
    -------
    ndarray, shape (n, 6)
    """
    return cell_of(basis.T @ metric_of(cells) @ basis)


def find_bases(cell: np.ndarray, target: np.ndarray, length: float, angle: float) -> list[np.ndarray]:
    """
    All integer P of determinant +1 that take a cell to one that agrees with a target (module docstring).

    Parameters
    ----------
    cell, target : ndarray, shape (6,)
        Both reduced and primitive.
    length, angle : float
        The tolerances of the agreement: a fraction of the target's lengths, and degrees.

    Returns
    -------
    list of ndarray of int, shape (3, 3)
        The unit matrix, where it is one, and those near it come first.
    """
    metric = metric_of(cell)
    vectors = np.array(list(itertools.product(range(-REACH, REACH + 1), repeat=3)))
    lengths = np.sqrt(np.einsum("ni,ij,nj->n", vectors, metric, vectors))
    columns = [vectors[np.abs(lengths - wanted) <= length * wanted] for wanted in target[:3]]
    found = []
    for a, b in itertools.product(columns[0], columns[1]):
        for c in columns[2]:
            basis = np.column_stack([a, b, c])
            if (
                round(np.linalg.det(basis)) == 1
                and cells_agree(change_cells(cell[None], basis), target, length, angle).all()
            ):
                found.append(basis)
    return sorted(found, key=lambda basis: (np.abs(basis - np.eye(3)).sum(), basis.tolist()))
