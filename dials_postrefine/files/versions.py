"""Every difference between DIALS 3.12 and the newest that concerns us, one function each (dials-facts.md)."""

from __future__ import annotations

import inspect

import numpy as np

from dxtbx import flumpy


def available_cores() -> int:
    """How many processes may run: `dials.util.system.CPU_COUNT`, in 3.12 `dials.util.mp.available_cores`."""
    try:
        from dials.util.system import CPU_COUNT
    except ImportError:
        from dials.util.mp import available_cores as cores

        return cores()
    return CPU_COUNT


def miller_indices_to_numpy(indices) -> np.ndarray:
    """A flex.miller_index as (n, 3) int32; flumpy of 3.12 can't convert one."""
    return flumpy.to_numpy(indices.as_vec3_double()).astype(np.int32)


def scaled_history(experiments) -> dict[str, bool]:
    """The arguments that make ExperimentList.as_file note that the data are scaled; dxtbx of 3.12 has none."""
    known = inspect.signature(experiments.as_file).parameters
    return {"history_as_scaled": True} if "history_as_scaled" in known else {}
