"""Every difference between DIALS 3.12 and the newest that concerns us, one function each (dials-facts.md)."""

from __future__ import annotations

import inspect
from functools import lru_cache

import numpy as np

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import BeamFactory, Detector


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


def make_beam(wavelength: float, radiation: str):
    """A beam model along z of a wavelength (Angstrom); the probe of dxtbx from 3.17 on is that of the radiation."""
    beam = BeamFactory.simple(wavelength)
    if hasattr(beam, "set_probe"):
        beam.set_probe(beam.get_probe_from_name("x-ray" if radiation == "xray" else radiation))
    return beam


def scaled_history(experiments) -> dict[str, bool]:
    """The arguments of as_file, which as_json gets, that note that the data are scaled; dxtbx of 3.12 has none."""
    known = inspect.signature(experiments.as_json).parameters
    return {"history_as_scaled": True} if "history_as_scaled" in known else {}


def trusted_interval(low: float, high: float) -> tuple[float, float]:
    """
    The values v that a trusted range trusts, as a <= v < b: dxtbx of 3.12 excludes both limits, the newest includes
    them.

    No upper limit where high is not above low.  A lower limit of -1 is excluded by either: it is how files were written
    while limits were excluded, and the mark of pixels that were not measured.
    """
    with_low, with_high = _includes_limits()
    if not high > low:
        high = np.inf
    a = low if with_low and low != -1.0 else np.nextafter(low, np.inf)
    b = np.nextafter(high, np.inf) if with_high else high
    return float(a), float(b)


@lru_cache(maxsize=None)
def _includes_limits() -> tuple[bool, bool]:
    """Whether the installed dxtbx trusts values at the lower and at the upper limit: it is asked."""
    panel = Detector().add_panel()
    panel.set_image_size((2, 1))
    panel.set_trusted_range((1.0, 3.0))
    values = flex.int([1, 3])
    values.reshape(flex.grid(1, 2))
    low, high = panel.get_trusted_range_mask(values)
    return bool(low), bool(high)
