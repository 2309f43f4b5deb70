"""Lattices one by one -> many of them together, as loops over all of them take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_postrefine.stills.model import BY_REFLECTION, JoinedObservations, Observations


def join_lattices(lattices: Sequence[Observations]) -> JoinedObservations:
    """The observations of the lattices, in their order."""
    return JoinedObservations(
        s0=np.array([lattice.s0 for lattice in lattices]),
        lattice=np.repeat(np.arange(len(lattices)), [len(lattice) for lattice in lattices]),
        **{name: np.concatenate([getattr(lattice, name) for lattice in lattices]) for name in BY_REFLECTION},
    )
