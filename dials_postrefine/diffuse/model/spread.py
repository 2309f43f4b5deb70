"""
A model whose voxels are shared out among processes, for sums over pairs of atoms that take minutes.

The voxels are taken in blocks of BLOCK, block b of m being every m-th voxel from the b-th one, so that all blocks are
alike.  A worker makes the model of a block when it first has it, and of few keeps it.  Blocks depend on the voxels
alone, so that the numbers are the same whatever the number of processes is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import numpy as np

from dials_postrefine.diffuse.model.parameters import Model, calculate
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.numerics.run import Run

BLOCK = 1000
KEPT = 24  # blocks, of more than which no model is kept, as memory is not without end
FEW = 16  # voxels, that with the largest |q| among them, of the model that has names and limits

_worker: dict = {}  # what a worker has: how a model is made, the voxels, and the models of blocks by number


class SpreadModel:
    """The model (module docstring): an executor whose workers begun with (make, voxels), and those."""

    def __init__(self, executor: Executor, make: Callable[[Voxels], Model], voxels: Voxels):
        self.executor, self.n = executor, len(voxels)
        self.n_blocks = max(1, -(-self.n // BLOCK))
        some = np.unique(np.append(np.arange(0, self.n, max(1, self.n // FEW)), np.argmax(voxels.q_sq)))
        self.pattern = make(voxels.select(some))
        self.name, self.parameters = self.pattern.name, self.pattern.parameters

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and its derivatives (parameters.Model)."""
        intensity, derivatives = np.zeros(self.n), np.zeros((len(self.parameters), self.n))
        for number, found in enumerate(self._map(_evaluate, values)):
            intensity[number :: self.n_blocks], derivatives[:, number :: self.n_blocks] = found
        return intensity, derivatives

    def calculate(self, values: np.ndarray) -> np.ndarray:
        """I (n,) without the derivatives, where the model can do without them."""
        intensity = np.zeros(self.n)
        for number, found in enumerate(self._map(calculate, values)):
            intensity[number :: self.n_blocks] = found
        return intensity

    def grown(self, values: np.ndarray) -> np.ndarray:
        """Values to begin with from those of a model of fewer parameters."""
        return self.pattern.grown(values)

    def _map(self, function: Callable, values: np.ndarray) -> Iterator:
        tasks = [(function, number, self.n_blocks, values) for number in range(self.n_blocks)]
        return self.executor.map(_of_block, tasks)


@contextlib.contextmanager
def spread(run: Run, make: Callable[[Voxels], Model], voxels: Voxels) -> Iterator[SpreadModel]:
    """
    A model whose voxels are shared out among the processes of a run.

    Parameters
    ----------
    run : Run
    make : callable
        The model of voxels.
    voxels : Voxels

    Returns
    -------
    context manager
        Gives a SpreadModel, which is good inside the block.
    """
    try:
        with run.executor(_begin, (make, voxels)) as executor:
            yield SpreadModel(executor, make, voxels)
    finally:
        _worker.clear()


def _begin(make: Callable[[Voxels], Model], voxels: Voxels) -> None:
    _worker.update(make=make, voxels=voxels, models={})


def _evaluate(model: Model, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return model.evaluate(values)


def _of_block(task):
    function, number, n_blocks, values = task
    models = _worker["models"]
    if number not in models:
        voxels = _worker["voxels"]
        made = _worker["make"](voxels.select(np.arange(number, len(voxels), n_blocks)))
        if n_blocks > KEPT:
            return function(made, values)
        models[number] = made
    return function(models[number], values)
