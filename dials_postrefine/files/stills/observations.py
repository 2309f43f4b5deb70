"""
Files of integrated stills <-> one list of experiments and one table, in an order that does not depend on the input's.

Also what a run leaves in a lattice's scale model, so that a next one can go on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dxtbx import flumpy

from dials_postrefine.files.dials import models, tables


@dataclass
class StillsTables:
    """
    Experiments and table as DIALS has them, of all files together.

    Experiments, and with them ids and lattices, are in the order of their identifiers, so that the order of the input
    changes no sum; place (L,) is where each stood in the input.
    """

    experiments: Any
    table: Any
    place: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """The numbers of the lattices (L,) in the order of the input."""
        return np.argsort(self.place)


def read_tables(experiment_paths: Sequence[str], reflection_paths: Sequence[str]) -> tuple[StillsTables, int]:
    """
    Any number of .expt and .refl files as one, and how many of their reflections belong to no lattice.

    Raises Sorry with one sentence for files that can't be used or do not belong together.
    """
    lists = [models.read_experiments(path) for path in experiment_paths]
    loaded = [tables.read_table(path) for path in reflection_paths]
    pairs = list(zip(experiment_paths, reflection_paths))
    identifiers = models.set_identifiers(lists, loaded, pairs)
    experiments = lists[0]
    for more in lists[1:]:
        experiments.extend(more)
    models.check_stills(experiments)
    n_rows = sum(map(len, loaded))
    table = tables.join_tables(reflection_paths, loaded, identifiers)
    return _sort_by_identifier(experiments, table), n_rows - len(table)


def _sort_by_identifier(experiments, table) -> StillsTables:
    """The experiments sorted by identifier, the ids of the table following."""
    identifiers = list(experiments.identifiers())
    place = np.array(sorted(range(len(identifiers)), key=identifiers.__getitem__), dtype=np.int32)
    _renumber(table, np.argsort(place).astype(np.int32), [identifiers[k] for k in place])
    return StillsTables(type(experiments)([experiments[int(k)] for k in place]), table, place)


def _renumber(table, number: np.ndarray, identifiers: Sequence[str]) -> None:
    """Give the table's ids i the number[i], and the identifiers that go with these."""
    for i in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[i]
    table["id"] = flumpy.from_numpy(number[flumpy.to_numpy(table["id"])])
    for i, identifier in enumerate(identifiers):
        table.experiment_identifiers()[i] = identifier


def rows_by_lattice(files: StillsTables) -> np.ndarray:
    """How many rows of the table each lattice has (L,), usable or not."""
    return np.bincount(flumpy.to_numpy(files.table["id"]), minlength=len(files.experiments))


def in_second_half(identifier: str, seed: int) -> bool:
    """The half set of a lattice, by a hash of its identifier and the seed."""
    return bool(hashlib.md5(f"{seed} {identifier}".encode()).digest()[0] & 1)


def keep_lattices(files: StillsTables, accepted: np.ndarray) -> None:
    """Take the rejected lattices out of table and experiments, and put the others in the order of the input."""
    table, kept = files.table, np.array([k for k in files.order if accepted[k]], dtype=np.int32)
    number = np.full(len(accepted), -1, dtype=np.int32)
    number[kept] = np.arange(len(kept))
    files.experiments = type(files.experiments)([files.experiments[int(k)] for k in kept])
    _renumber(table, number, list(files.experiments.identifiers()))
    if not accepted.all():
        table.del_selected(table["id"] < 0)


@dataclass(frozen=True)
class FitRecord:
    """
    The fit of a lattice as its scale model keeps it: parameters x (m,) and their covariance (m, m), as
    stills/model.py has them, from the orientation as indexed; whether more than the scale was fitted; and the
    profile, radius and unit_cell of its model.
    """

    x: np.ndarray
    covariance: np.ndarray
    refined: bool
    profile: str
    radius: str
    unit_cell: str


def record_fit(x: np.ndarray, covariance: np.ndarray) -> dict[str, list[float]]:
    """What a scale model keeps of x (m,) and covariance (m, m), of this the upper triangle by rows."""
    return {"parameters": x.tolist(), "covariance": covariance[np.triu_indices(len(x))].tolist()}


def read_fit(configuration: dict, m: int) -> FitRecord | None:
    """The fit of m parameters in the configuration of a scale model, None where there is none that makes sense."""
    if "postrefinement" not in configuration:
        return None
    covariance = np.zeros((m, m))
    try:
        x = np.array(configuration["parameters"], dtype=float)
        covariance[np.triu_indices(m)] = configuration["covariance"]
        model = [str(configuration[name]) for name in ("profile", "radius_model", "unit_cell")]
        refined = bool(configuration["refined"])
    except (KeyError, TypeError, ValueError):
        return None
    covariance += np.triu(covariance, 1).T
    if x.shape != (m,) or not np.isfinite(x).all() or not np.isfinite(covariance).all():
        return None
    return FitRecord(x, covariance, refined, *model)
