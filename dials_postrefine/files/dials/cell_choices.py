"""
Choices of the unit cell: lattices of one crystal form that were indexed with different cells, and their operations.

One lattice has many cells: of a monoclinic one a, c and -a-c serve alike as axes, a centred cell is C or I, an
orthorhombic one may have its axes in any order, a triclinic one need not be reduced.  Merged together their indices
mean different reflections.  The main choice is the largest group of cells that agree (cells.py; of equal ones the
first), of those centred as the common space group.  Of each other group the common cell is reduced, by its own
centring, and compared with the reduced main cell: where a change of basis takes one to the other, all lattices that it
takes there are of the main form, in another choice; no other is.  Of several such changes one that keeps the Laue group
(the rotations of the lattice's own space group becoming those of the common one) goes before one that does not, then
the one that agrees best, then the simplest.  What is left, changes that the lattice's own symmetry allows, is the
indexing ambiguity (reindexing.py).

Screw axes are those of the main choice: the axes of a cell are seen, the label of a screw axis is an opinion.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cctbx import crystal, sgtbx, uctbx
from dials.util import Sorry

from dials_postrefine.files.dials import models
from dials_postrefine.numerics.cells import cells_agree, change_cells, find_bases, find_main_cells, separate_cells

# Where no experiment is to be left out: cells that agree, and the part of the experiments that may stray.
COMMON_LENGTH, COMMON_ANGLE = 0.03, 2.0
MAX_STRAY = 0.05
MAX_GROUPS = 30  # of cells that are compared with the main one; each lattice that agrees with none is a group


@dataclass
class CellChoices:
    """
    The choices of the cell: operations, identity first, and which one each lattice needs, chosen (n,).

    main (n,): whether a lattice has the cell of the main choice after its operation.  cell: the main one, exact for the
    space group.  others: cells (6,) that are of another form, each with the number of its lattices, most first.
    """

    cell: tuple[float, ...]
    operations: list
    chosen: np.ndarray
    main: np.ndarray
    others: list[tuple[tuple[float, ...], int]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The operations as dials.reindex takes them."""
        return [operation.as_abc() for operation in self.operations]

    def counts(self) -> list[tuple[str, int]]:
        """Each operation that lattices need, with their number, the identity left out."""
        numbers = np.bincount(self.chosen, minlength=len(self.operations))
        return [(name, int(n)) for name, n in zip(self.names[1:], numbers[1:]) if n]


def find_cell_choices(experiments, space_group, length: float, angle: float) -> CellChoices:
    """
    The choices of the cell of the lattices (module docstring).

    length, angle: how far cells that agree may differ, a fraction and degrees.  Raises Sorry where no cell fits the
    space group.
    """
    crystals, fits = models.has_crystal(experiments), models.cells_fit(experiments, space_group)
    models.check_cells_fit(experiments, space_group, crystals, fits)
    centred = _centred_alike(experiments, space_group)
    if (fits & centred).any():  # else the space group was given against what all crystals say
        fits &= centred
    cells = models.symmetric_cells(experiments, fits, space_group)
    main = find_main_cells(cells, length, angle)
    operations, chosen = [sgtbx.change_of_basis_op()], np.zeros(len(experiments), dtype=int)

    # choices that differ by no more than the tolerance, where the cells are sharp enough to tell
    target = _median(cells[main], space_group)
    real = _real_cell(cells[main], space_group)  # halves of two choices may have a median that is of neither
    changes = _operations(real, [space_group], real, space_group, length, angle, strict=True)
    if len(changes) > 1:
        choices = np.array([_changed(cells[main], operation, space_group) for operation in changes])
        best = separate_cells(choices)
        if best.any():
            best, changes = _most_stay(best, changes)
            operations, chosen[main] = changes, best
            cells[main] = [_changed(one[None], changes[m], space_group)[0] for one, m in zip(cells[main], best)]
            main = find_main_cells(cells, length, angle) & main
            target = _median(cells[main], space_group)

    raw = np.full_like(cells, np.nan)
    for k in np.flatnonzero(crystals & ~main):
        raw[k] = experiments[int(k)].crystal.get_unit_cell().parameters()
    chosen[~main] = 0
    rest, others = crystals & ~main, []
    for _ in range(MAX_GROUPS):
        if not rest.any():
            break
        label = experiments[int(rest.argmax())].crystal.get_space_group()
        same = rest & np.array([e.crystal is not None and e.crystal.get_space_group() == label for e in experiments])
        group = find_main_cells(np.where(same[:, None], raw, np.nan), length, angle)
        cell = np.median(raw[group], axis=0)
        taken = np.zeros(len(rest), dtype=bool)
        labels = [label]
        if centred[group].all() and models.unit_cell_fits(uctbx.unit_cell(tuple(cell)), space_group):
            labels.insert(0, space_group)
        for operation in _operations(cell, labels, target, space_group, length, angle)[:1]:
            changed = change_cells(raw[same], _basis(operation))
            taken[same] = cells_agree(changed, np.array(target), length, angle)
            if operation not in operations:
                operations.append(operation)
            chosen[taken] = operations.index(operation)
        main |= taken
        if (group & ~taken).any():
            others.append((tuple(float(x) for x in cell), int((group & ~taken).sum())))
        rest &= ~(group | taken)
    others.sort(key=lambda other: -other[1])
    return CellChoices(target, operations, chosen, main, others)


def common_cell(
    experiments, space_group, length: float = COMMON_LENGTH, angle: float = COMMON_ANGLE
) -> tuple[float, ...]:
    """
    The one cell of experiments of which none is to be left out: the median of the main group, exact for the group.

    Raises Sorry where they are of several choices, with the operation for dials.reindex, or more than MAX_STRAY of them
    are of another cell.
    """
    choices = find_cell_choices(experiments, space_group, length, angle)
    off = (choices.chosen > 0) | ~choices.main
    if not choices.chosen.any() and off.sum() <= MAX_STRAY * len(off):
        return choices.cell
    off = choices.chosen > 0 if choices.chosen.any() else off
    k = int(off.argmax())
    name, n = experiments[k].identifier or str(k), int(off.sum())
    has = ", ".join(f"{x:.2f}" for x in choices.cell)
    if choices.chosen[k]:
        raise Sorry(
            f"{n} of {len(experiments)} experiments are indexed with another choice of the unit cell than the others "
            f"({has}): reindex {name} by dials.reindex change_of_basis_op={choices.names[choices.chosen[k]]}."
        )
    raise Sorry(
        f"{n} of {len(experiments)} experiments have another unit cell ({name}: "
        f"{experiments[k].crystal.get_unit_cell()!s}) than the others ({has}): give data sets of one crystal form."
    )


def _centred_alike(experiments, space_group) -> np.ndarray:
    """Which crystals are centred as the space group, or primitive, which may mean that it is not known: (n,)."""
    centring = space_group.conventional_centring_type_symbol()
    return np.array(
        [
            e.crystal is not None and e.crystal.get_space_group().conventional_centring_type_symbol() in ("P", centring)
            for e in experiments
        ],
        dtype=bool,
    )


def _median(cells: np.ndarray, space_group) -> tuple[float, ...]:
    return tuple(_exact(np.median(cells, axis=0), space_group))


def _real_cell(cells: np.ndarray, space_group) -> tuple[float, ...]:
    """The cell (6,) of cells (n, 6) that is nearest to their median, of equal ones the least, whatever their order."""
    median = np.median(cells, axis=0)
    off = np.abs(cells - median) / np.concatenate([median[:3], np.full(3, 180.0 / np.pi)])
    distance = np.round(off.max(axis=1), 9)
    nearest = min(map(tuple, cells[distance == distance.min()]))
    return tuple(_exact(np.array(nearest), space_group))


def _exact(cell: np.ndarray, space_group) -> np.ndarray:
    """The cell (6,) made exact for the space group."""
    return np.array(space_group.average_unit_cell(uctbx.unit_cell(tuple(cell))).parameters())


def _changed(cells: np.ndarray, operation, space_group) -> np.ndarray:
    return np.array([_exact(cell, space_group) for cell in change_cells(cells, _basis(operation))])


def _basis(operation) -> np.ndarray:
    """P (3, 3): the axes after an operation are (a b c) P, and indices h P."""
    return np.array(operation.c_inv().r().as_double()).reshape(3, 3)


def _most_stay(best: np.ndarray, changes: list) -> tuple[np.ndarray, list]:
    """The same choices, from that of most lattices, of equal ones the first."""
    counts = np.bincount(best, minlength=len(changes))
    most = int(counts.argmax())
    if most == 0:
        return best, changes
    # c_most^-1 c_m takes lattices that need m to where those are that need `most`
    from_most = [changes[most].inverse() * change for change in changes]
    order = [most, *(m for m in range(len(changes)) if m != most)]
    return np.array([order.index(m) for m in best]), [
        sgtbx.change_of_basis_op() if m == most else from_most[m] for m in order
    ]


def _reduction(cell: np.ndarray, space_group):
    """The operation to the reduced primitive cell; the cell need not fit the space group."""
    symmetry = crystal.symmetry(
        unit_cell=tuple(cell),
        space_group=space_group.build_derived_patterson_group(),
        assert_is_compatible_unit_cell=False,
    )
    return symmetry.change_of_basis_op_to_minimum_cell()


def _operations(cell, labels, target, space_group, length, angle, strict: bool = False) -> list:
    """
    The operations that take a cell (6,) to the target (6,), best first, one of each coset of the Laue group.

    labels: space groups that may say how the cell is centred.  strict: only those that keep the Laue group.
    """
    to_target = _reduction(target, space_group)
    reduced = np.array(uctbx.unit_cell(tuple(target)).change_basis(to_target).parameters())
    wanted, found = space_group.build_derived_patterson_group(), []
    for label in labels:
        to_reduced = _reduction(cell, label)
        cell_reduced = np.array(uctbx.unit_cell(tuple(cell)).change_basis(to_reduced).parameters())
        # the limits are those of the cell as it is given, and serve the reduced one with some room
        for basis in find_bases(cell_reduced, reduced, 1.5 * length, 1.5 * angle):
            matrix = sgtbx.rt_mx(sgtbx.rot_mx([int(x) for x in basis.ravel()], 1))
            change = sgtbx.change_of_basis_op(matrix).inverse().new_denominators(to_reduced)
            operation = to_target.inverse() * change * to_reduced
            new = change_cells(np.array([cell]), _basis(operation))
            if not cells_agree(new, np.array(target), length, angle).all():
                continue
            keeps = _keeps_laue_group(label, operation, wanted)
            if strict and not keeps:
                continue
            exact = _exact(new[0], space_group)
            off = np.abs(exact - target) / np.concatenate([length * np.array(target[:3]), np.full(3, angle)])
            simple = np.abs(_basis(operation) - np.eye(3)).sum()
            found.append((not keeps, round(float(off.max()), 6), simple, operation.as_abc(), exact, operation))
    found.sort(key=lambda one: one[:4])
    kept: list = []
    for *_, exact, operation in found:
        if not any(np.allclose(exact, other, rtol=1e-7) for other, _ in kept):
            kept.append((exact, operation))
    return [operation for _, operation in kept]


def _keeps_laue_group(label, operation, wanted) -> bool:
    try:
        return label.build_derived_patterson_group().change_basis(operation) == wanted
    except RuntimeError:  # an operation that the group's translations do not allow
        return False
