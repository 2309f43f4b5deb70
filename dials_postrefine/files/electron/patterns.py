"""
Convergent-beam patterns from files -> numerics/disks.py.

The file has arrays by name (.npz, .h5), or one array (.npy, .mrc, .tif), in which case all else is in a second file
with arrays by name, or in JSON.  What they are called, the first that is there being taken:

    data, images, experiment_final, experiment    (d, y, x) or (d, n), counts; or image (y, x) with centres (d, 2), rows
                                                   and columns, and radius, in pixels
    disks, hkl                                     (d, 3)
    mask                                           true where a pixel is used; none: where it is finite
    variance, variance_pyextal                     of the counts
    A                                              rows are the cell vectors in the laboratory, electrons along +z; or
    cell, zone, x_direction                        a, or six parameters, with the directions [uvw] along z and x; or
    ex, ey, ez                                     the laboratory's axes in the Cartesian ones of the crystal, with a
    cell kx, ky                                         of each pixel (1/A), k_axis of each row and column, kt_cart in
    the
                                                   crystal's Cartesian axes; else pixel (1/A) about the middle
    energy_V                                       volts
    beams, start (JSON), detector, B, origin_shift optional
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from dials.util import Sorry

from dials_postrefine.files.electron.pattern_arrays import read_named_arrays
from dials_postrefine.numerics.disks import Pattern

DATA = ("data", "images", "experiment_final", "experiment", "experiment_start")
LEAST_APART, ALIKE = 4, 0.8  # disks, and their least maximum over the largest: each is on a scale of its own
PYEXTAL_ENERGY = 196750.0  # volts: that of its Si (111) example, whose arrays do not have it
START_NAMES = {"Uprime_over_U": "absorption", "t": "thickness", "thickness_A": "thickness"}


def read_pattern(path: str, geometry: str | None, energy: float | None, cell: tuple[float, ...]) -> Pattern:
    """
    The pattern of a file, what it lacks being in the file geometry.

    energy (volts) overrules the file's; cell is that of the structure, for where the file has none.  Raises Sorry for
    what is no pattern.
    """
    arrays = read_named_arrays(path)
    if geometry is not None:
        arrays = {**arrays, **read_named_arrays(geometry)}
    where = os.path.basename(path)
    notes: list[str] = []
    data = _data(arrays, where)
    hkl = _first(arrays, ("disks", "hkl"), where, "the reflection of each disk")
    hkl = np.asarray(hkl)
    if hkl.shape != (len(data), 3):
        raise Sorry(f"{where} has {len(data)} disks, but indices of shape {hkl.shape}: give three indices a disk.")
    direct, notes_of_cell = _direct(arrays, where, cell)
    if energy is None:
        energy = _energy(arrays, where, notes)
    offset, centre, pixel = _offsets(arrays, data.shape, direct, where)
    variance = next((np.asarray(arrays[k], dtype=float) for k in ("variance", "variance_pyextal") if k in arrays), None)
    n_disks = len(data)
    shape = data.shape[1:] if data.ndim == 3 else (data.shape[1], 1)
    used = np.isfinite(data)
    if "mask" in arrays:
        mask = np.asarray(arrays["mask"])
        if mask.shape not in (data.shape, data.shape[1:]):
            raise Sorry(f"{where} has a mask of shape {mask.shape}, and data of {data.shape}: give one for each pixel.")
        used &= mask.astype(bool)
    start = _start(arrays, where)
    for axis, name in enumerate(("tilt_x", "tilt_y")):
        start[name] = start.get(name, 0.0) + float(centre[axis])
    return Pattern(
        hkl=np.rint(hkl).astype(int),
        data=np.where(np.isfinite(data), data, 0.0).reshape(n_disks, -1),
        used=used.reshape(n_disks, -1),
        variance=np.zeros((n_disks, 0)) if variance is None else variance.reshape(n_disks, -1),
        offset=offset,
        shape=(int(shape[0]), int(shape[1])),
        direct=direct,
        energy=float(energy),
        pixel=pixel,
        beams=np.asarray(arrays.get("beams", np.zeros((0, 3)))).astype(int).reshape(-1, 3),
        start=start,
        debye_waller=float(arrays["B"]) if "B" in arrays else float("nan"),
        detector=tuple(float(one) for one in np.ravel(arrays.get("detector", ()))),
        origin_shift=float(np.ravel(arrays.get("origin_shift", 0.0))[0]),
        images_apart=variance is None and _are_apart(data.reshape(n_disks, -1)),
        notes=(*notes, *notes_of_cell),
    )


def _are_apart(data: np.ndarray) -> bool:
    """Whether several disks (d, n) have each been scaled to the same largest value, as those of no crystal do."""
    largest = data.max(axis=1)
    return len(data) >= LEAST_APART and bool(largest.min() > ALIKE * largest.max())


def _first(arrays: Mapping, names: tuple[str, ...], where: str, what: str):
    for name in names:
        if name in arrays:
            return arrays[name]
    raise Sorry(f"{where} lacks {what}: give it as {' or '.join(names)}, there or in the file geometry=.")


def _data(arrays: Mapping, where: str) -> np.ndarray:
    """The disks (d, y, x) or (d, n)."""
    if not any(name in arrays for name in DATA) and "image" in arrays:
        return _cut_out(arrays, where)
    data = np.asarray(_first(arrays, DATA, where, "the disks' pixels"))
    if data.ndim not in (2, 3) or not np.issubdtype(data.dtype, np.number) or data.size == 0:
        raise Sorry(f"{where} has data of shape {data.shape}: give an image, or a list of pixels, for each disk.")
    return data.astype(float)


def _cut_out(arrays: Mapping, where: str) -> np.ndarray:
    """Squares about the centres of an image's disks, interpolated linearly; NaN outside of the radius."""
    from scipy.ndimage import map_coordinates

    image = np.asarray(arrays["image"], dtype=float)
    centres = np.asarray(_first(arrays, ("centres", "centers"), where, "the centres of the disks")).reshape(-1, 2)
    radius = float(_first(arrays, ("radius",), where, "the radius of the disks"))
    half = int(np.floor(radius))
    if half < 1:
        raise Sorry(f"{where} has disks of radius {radius:g} pixels: give 1 or more.")
    low, high = centres - half, centres + half
    if np.any(low < 0) or np.any(high > np.array(image.shape) - 1):
        bad = int(np.flatnonzero(np.any((low < 0) | (high > np.array(image.shape) - 1), axis=1))[0]) + 1
        raise Sorry(f"Disk {bad} of {where} overlaps the edge of the image: leave it out, or make the radius smaller.")
    axis = np.arange(-half, half + 1)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    inside = np.hypot(rows, columns) <= radius
    cut = [map_coordinates(image, [c[0] + rows, c[1] + columns], order=1) for c in centres]
    return np.where(inside, np.array(cut), np.nan)


def _energy(arrays: Mapping, where: str, notes: list[str]) -> float:
    if "energy_V" in arrays:
        return float(arrays["energy_V"])
    if "pyextal_sim_final" in arrays:
        notes.append(
            f"{where} has no energy: that of PyExtal's example, {PYEXTAL_ENERGY / 1000:g} kV, is taken; set energy= "
            "where it is another."
        )
        return PYEXTAL_ENERGY
    raise Sorry(f"{where} lacks the energy of the electrons: give it in volts, as energy=200000.")


def _direct(arrays: Mapping, where: str, cell: tuple[float, ...]) -> tuple[np.ndarray, list[str]]:
    """The cell vectors in the laboratory, rows; and what was assumed."""
    if "A" in arrays:
        direct = np.asarray(arrays["A"], dtype=float)
        if direct.shape != (3, 3) or abs(np.linalg.det(direct)) < 1e-6:
            raise Sorry(f"{where} has A that is no cell: give three rows, the cell vectors in Angstrom.")
        return direct, []
    own = np.ravel(arrays["cell"]).astype(float) if "cell" in arrays else np.array(cell)
    if len(own) == 1:
        own = np.array([*np.repeat(own, 3), 90.0, 90.0, 90.0])
    from cctbx import uctbx

    vectors = np.array(uctbx.unit_cell(tuple(own)).orthogonalization_matrix()).reshape(3, 3).T  # rows
    if all(name in arrays for name in ("ex", "ey", "ez")):
        return vectors @ np.array([arrays[name] for name in ("ex", "ey", "ez")], dtype=float).T, []
    zone = np.asarray(_first(arrays, ("zone",), where, "the orientation"), dtype=float) @ vectors
    x = np.asarray(_first(arrays, ("x_direction",), where, "the direction along x"), dtype=float) @ vectors
    z = zone / np.linalg.norm(zone)
    x = x - (x @ z) * z
    if np.linalg.norm(x) < 1e-6:
        raise Sorry(f"{where} has the same direction as zone and x_direction: give two.")
    x /= np.linalg.norm(x)
    return vectors @ np.array([x, np.cross(z, x), z]).T, []


def _offsets(arrays: Mapping, shape: tuple[int, ...], direct: np.ndarray, where: str):
    """The pixels' places about the centre (n, 2), the centre (2,), and the size of a pixel, 1/Angstrom."""
    pixel = float(np.ravel(arrays["pixel"])[0]) if "pixel" in arrays else float("nan")
    n = int(np.prod(shape[1:]))
    if "kx" in arrays and "ky" in arrays:
        kt = np.column_stack([np.ravel(arrays["kx"]), np.ravel(arrays["ky"])]).astype(float)
    elif "k_axis" in arrays and len(shape) == 3:
        axis = np.ravel(arrays["k_axis"]).astype(float)
        kt = np.column_stack([np.tile(axis, len(axis)), np.repeat(axis, len(axis))])
    elif "kt_cart" in arrays:
        axes = np.array([arrays["ex"], arrays["ey"]], dtype=float)
        kt = np.asarray(arrays["kt_cart"], dtype=float) @ axes.T
    elif len(shape) == 3 and np.isfinite(pixel):
        y, x = (np.arange(one) - 0.5 * (one - 1) for one in shape[1:])
        kt = pixel * np.column_stack([np.tile(x, len(y)), np.repeat(y, len(x))])
    else:
        raise Sorry(f"{where} does not say where pixels are: give kx and ky (1/A), or pixel, the size of one.")
    if kt.shape != (n, 2) or not np.all(np.isfinite(kt)):
        raise Sorry(f"{where} has {n} pixels a disk, but wave vectors for {len(kt)}: give one for each.")
    centre = _centre(kt, arrays) if "kt_cart" in arrays else np.zeros(2)
    if not np.isfinite(pixel):
        steps = np.linalg.norm(np.diff(kt, axis=0), axis=1)
        pixel = float(np.median(steps[steps > 0.0])) if np.any(steps > 0.0) else 1e-3
    return kt - centre, centre, pixel


def _centre(kt: np.ndarray, arrays: Mapping) -> np.ndarray:
    """kt where row and column are 0, by a straight line; without these the mean."""
    if "row_col" not in arrays:
        return kt.mean(axis=0)
    places = np.column_stack([np.asarray(arrays["row_col"], dtype=float), np.ones(len(kt))])
    return np.linalg.lstsq(places, kt, rcond=None)[0][2]


def _start(arrays: Mapping, where: str) -> dict[str, float]:
    """The starting values that come with the data."""
    found: dict[str, float] = {}
    if "shift_fit" in arrays:
        found["thickness"] = float(np.ravel(arrays["shift_fit"])[2])
    if "start" not in arrays:
        return found
    given = arrays["start"]
    try:
        given = given if isinstance(given, dict) else json.loads(str(given))
        for name, value in given.items():
            if name in ("tilt", "tilt_kt"):
                found["tilt_x"], found["tilt_y"] = (float(one) for one in value)
            elif not isinstance(value, str) and np.ndim(value) == 0 and value is not None:
                found[START_NAMES.get(name, name)] = float(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise Sorry(f"{where} has a start that can't be read ({error}): give JSON, names and numbers.") from None
    return found
