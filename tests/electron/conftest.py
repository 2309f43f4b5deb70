"""Images made from arrays, without a file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

# Rotations of the Laue group 4/mmm and of a tetragonal lattice, as they act on rows of indices.
QUARTER = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
FLIP = np.diag([1.0, -1.0, -1.0])


def group_of(*generators: np.ndarray) -> np.ndarray:
    """All products of the generators, identity first."""
    found = [np.eye(3)]
    for one in found:
        for generator in generators:
            new = one @ generator
            if not any(np.allclose(new, known) for known in found):
                found.append(new)
    return np.array(found)


@pytest.fixture(scope="session")
def make_images():
    """
    A function: seed and options -> Images of a tetragonal crystal (5, 5, 8 A, Laue class 4/m) at orientations 2 degrees
    apart about an axis, or given as rotations (n, 3, 3), with random indices and intensities on each.
    """
    from dials_postrefine.numerics.images import Images, Symmetry

    laue, lattice = group_of(QUARTER), group_of(QUARTER, FLIP)

    def make(seed=0, n_images=12, n_spots=40, largest=3, rotations=None, tau=0.0, error=0.05):
        rng = np.random.default_rng(seed)
        if rotations is None:
            axis = np.array([0.3, 0.5, 0.81])
            axis /= np.linalg.norm(axis)
            rotations = [Rotation.from_rotvec(np.radians(2.0 * i) * axis).as_matrix() for i in range(n_images)]
        a_matrix = np.array([r @ np.diag([0.2, 0.2, 0.125]) for r in rotations])
        n = len(a_matrix)
        image = np.repeat(np.arange(n), n_spots)
        h = rng.integers(-largest, largest + 1, (len(image), 3))
        h[~h.any(axis=1)] = 1, 1, 0
        equivalents = np.einsum("ni,kij->nkj", h, np.concatenate([laue, -laue]))
        packed = (equivalents[:, :, 0] * 100 + equivalents[:, :, 1]) * 100 + equivalents[:, :, 2]
        unique = np.unique(packed.max(axis=1), return_inverse=True)[1].ravel()
        true = rng.exponential(size=unique.max() + 1)[unique]
        variance = error**2 * true + 0.01**2
        intensity = true * (1.0 + tau * rng.normal(size=len(h))) + np.sqrt(variance) * rng.normal(size=len(h))
        s0 = np.tile([0.0, 0.0, -40.0], (n, 1))
        return Images(
            experiment=np.zeros(n, dtype=np.int64),
            number=np.arange(1, n + 1),
            last=np.arange(1, n + 1),
            angle=np.full(n, np.nan),
            a_matrix=a_matrix,
            s0=s0,
            beam_intensity=np.full(n, np.nan),
            image=image,
            unique=unique,
            h=h,
            intensity=intensity,
            variance=variance,
            d_star_sq=np.sum((h * [0.2, 0.2, 0.125]) ** 2, axis=1),
            symmetry=Symmetry(laue, lattice),
        )

    return make
