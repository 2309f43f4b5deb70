"""dials.diffuse_map scales images by symmetry equivalents: real data beside an independent map, what it refuses."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from dials.util import Sorry

pytestmark = [pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

EDGES = (10.0, 5.0, 4.0, 3.2, 2.8, 2.5, 2.3, 2.1, 1.95, 1.8, 1.7, 1.6)


def lunus_lattice(path):
    """The voxels of a lunus lattice: indices (n, 3) and intensity (n,)."""
    raw = path.read_bytes()
    shape = np.frombuffer(raw[:12], np.uint32)
    values = np.frombuffer(raw[36:], np.float32).reshape(shape[::-1]).transpose(2, 1, 0)
    seen = np.argwhere(values > -30000.0)
    return seen - [30, 30, 39], values[tuple(seen.T)].astype(float)


def unique_of_4_over_m(h, value):
    """Means over 4/m, by a key of the orbit."""
    turned = [h, h * [-1, -1, 1], h[:, [1, 0, 2]] * [-1, 1, 1], h[:, [1, 0, 2]] * [1, -1, 1]]
    keys = np.min([(sign * one) @ [10**6, 10**3, 1] for one in turned for sign in (1, -1)], axis=0)
    unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return unique, h[first], np.bincount(inverse, value) / np.bincount(inverse)


def anisotropic(s, value):
    """Values less the means of forty shells."""
    shell = np.clip(((s - 0.1) / (0.625 - 0.1) * 40).astype(int), 0, 39)
    return value - (np.bincount(shell, value, minlength=40) / np.maximum(np.bincount(shell, minlength=40), 1))[shell]


def correlations(path, lattice):
    """By shells of EDGES, of the anisotropic parts of a map and the independent one, which is in (-k, h, l) of it."""
    with h5py.File(path, "r") as file:
        data = file["entry/map"]
        intensity, axes = data["intensity"][()], [data[name][()] for name in "hkl"]
    seen = np.argwhere(np.isfinite(intensity))
    h = np.stack([np.rint(axis[k]) for axis, k in zip(axes, seen.T)], axis=1).astype(int)
    theirs, values = lunus_lattice(lattice)
    ours = unique_of_4_over_m(h, intensity[tuple(seen.T)])
    other = unique_of_4_over_m(np.stack([theirs[:, 1], -theirs[:, 0], theirs[:, 2]], axis=1), values)
    _, a, b = np.intersect1d(ours[0], other[0], return_indices=True)
    s = np.linalg.norm(ours[1][a] / [48.521, 48.521, 63.498], axis=1)
    first, second = anisotropic(s, ours[2][a]), anisotropic(s, other[2][b])
    shells = [(s >= 1.0 / high) & (s < 1.0 / low) for high, low in zip(EDGES, EDGES[1:])]
    return np.array([np.corrcoef(first[chosen], second[chosen])[0, 1] for chosen in shells])


@pytest.mark.slow
@pytest.mark.data
def test_nuclease_is_as_an_independent_map_has_it(shared_data, mapped, tmp_path):
    images = shared_data / "snase_images_24" / "rotation.expt"
    lattice = shared_data / "snase_diffuse_lunus" / "snc_diffuse_reference.lat"
    if not (images.exists() and lattice.exists()):
        pytest.skip("snase_images_24 or snase_diffuse_lunus is not there")
    options = ("d_min=1.6", "grid.subdivide=1,1,1", "mask.bragg=box")
    found = mapped("scaled", images, *options)
    assert "gradient" in found["dataset"]["scaled_by"]
    after = correlations(tmp_path / "scaled" / "diffuse.nxs", lattice)
    assert (after[2:7] > 0.9).all() and (after[7:10] > 0.8).all() and after[10] > 0.7
    mapped("plain", images, *options, "scale.model=per_image")
    before = correlations(tmp_path / "plain" / "diffuse.nxs", lattice)
    assert (before[3:] < 0.7).all()


def test_what_can_not_be_scaled_is_said(write_images, mapped):
    stills = write_images(goniometer="none", n_images=3)
    small = ("d_min=2.5", "grid.subdivide=1,1,1")
    assert mapped("auto", stills, *small)["scaling"] is None
    with pytest.raises((Sorry, SystemExit), match="scale.model=full can't be done"):
        mapped("full", stills, *small, "scale.model=full")
