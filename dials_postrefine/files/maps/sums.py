"""
The sums of a map of diffuse scattering, before the average over symmetry, in its NeXus file, and added.

    /entry/sums       NXcollection, with the attributes format and totals (of each sum, modulo 2^64)
      header          JSON: the grid, the settings, and the crystal and origin of the map
      images/...      the fields of diffuse.map.records.ImageResult, (n, ...) each
      occupied        one bit a voxel, in the order of addresses: whether there is anything in it
      values          (N_SUMS, n) int64: the sums of those voxels

Adding is exact, as sums are integers.  The first file gives the grid; voxels of others find their place by their
coordinates where the unit cells, and with them the limits of resolution, differ a little.

A file is read in a forked process (guarded.py), which adds to sums that are shared, and is checked throughout: by HDF5
(structures and small tables), by zlib (what is compressed), by the totals.  After a Sorry the sums are of no use.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from dials.util import Sorry

from dials_postrefine.diffuse.map.columns import N_SUMS, PIXELS, make_sums
from dials_postrefine.diffuse.map.grid import Grid, addresses, make_grid, voxels_at
from dials_postrefine.diffuse.map.records import Corrections, Description, ImageResult, MappingSettings
from dials_postrefine.files.images import exposure
from dials_postrefine.files.images.crystals import CELL_ANGLE, CELL_LENGTH
from dials_postrefine.files.maps.nexus import COMPRESSION, create_file, make_group, write_chunks, write_entry
from dials_postrefine.files.maps.writing import cell_parameters
from dials_postrefine.files.reference.file_kinds import Kind, refuse_compressed, what_else
from dials_postrefine.files.safety.guarded import ChildFailed, call_in_child

FORMAT = 1
PIECE = 1 << 16  # voxels that are read or written at once
SMALL = {"compression": "gzip", "shuffle": True, "fletcher32": True}  # how small tables are kept
NO_UB = np.empty((0, 3))  # of several crystals
SAME = 1e-9  # how much limits and spacings of one grid may differ, relative


@dataclass
class Sums:
    """
    Sums (n_voxels, N_SUMS) on a grid, the images in them, sorted, and what else merging and writing them need; images
    belong to the series of description.identifiers.
    """

    sums: np.ndarray
    images: list[ImageResult]
    grid: Grid
    settings: MappingSettings
    description: Description


def sort_images(images: Sequence[ImageResult], identifiers: Sequence[str]) -> tuple[list[ImageResult], tuple[str, ...]]:
    """
    Images by identifier of their series and number, so that statistics do not depend on who came first, and the
    identifiers, sorted as well.
    """
    names = tuple(sorted(set(identifiers)))
    place = {name: number for number, name in enumerate(names)}
    renumbered = [replace(image, series=place[identifiers[image.series]]) for image in images]
    return sorted(renumbered, key=lambda image: (image.series, image.number)), names


def write_sums(path: str, total: Sums) -> None:
    """Begin the NeXus file of a map with its sums; merging.merge changes them, and comes later."""
    images, identifiers = sort_images(total.images, total.description.identifiers)
    total = replace(total, images=images, description=replace(total.description, identifiers=identifiers))
    sums, pixels = total.sums, total.sums[:, PIXELS]
    occupied = np.concatenate([np.packbits(pixels[i : i + 8 * PIECE] != 0) for i in range(0, len(sums), 8 * PIECE)])
    n = sum(len(piece) for piece in _pieces(occupied))
    with create_file(path) as file:
        write_entry(file, total.description, total.grid.reciprocal)
        group = make_group(file["entry"], "sums", "NXcollection")
        group.attrs["format"] = FORMAT
        _write_header(group, total)
        group.create_dataset("occupied", data=occupied, chunks=(min(PIECE, len(occupied)),), **SMALL)
        values = group.create_dataset(
            "values", (N_SUMS, n), np.int64, maxshape=(N_SUMS, None), chunks=(1, PIECE), **COMPRESSION
        )
        totals, start = np.zeros(N_SUMS, np.int64), 0
        for piece in _pieces(occupied):
            found = np.zeros((N_SUMS, PIECE), np.int64)
            found[:, : len(piece)] = sums[piece].T
            totals += found.sum(axis=1)
            write_chunks(values, [(k, start) for k in range(N_SUMS)], found)
            start += PIECE
        group.attrs["totals"] = totals


def add_sums(paths: Sequence[str]) -> Sums:
    """
    The sum of the maps in files that write_sums has begun, on the grid and with the crystal of the first.

    Raises Sorry for files that are not ours or damaged, and for maps that do not go together: of different grids,
    crystals or settings, or with an image in common.
    """
    parts = [_read(path, _read_header) for path in paths]
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:]):
        _check_alike(paths[0], first, path, part)
    exposure.check_addable(
        [part.description.times_known for part in parts],
        [frozenset(part.description.identifiers) for part in parts],
        first.settings.scale,
        paths,
    )
    owner: dict[tuple[str, int], str] = {}
    for path, part in zip(paths, parts):
        for image in part.images:
            key = part.description.identifiers[image.series], image.number
            if key in owner:
                raise Sorry(
                    f"Image {key[1]} of {key[0]} is in both {owner[key]} and {path}: add maps of different images."
                    if owner[key] != path
                    else f"{path} is given twice, or holds image {key[1]} of {key[0]} twice: give each map once."
                )
            owner[key] = path
    sums = make_sums(first.grid, shared=True)  # read in a process of its own
    for path, part in zip(paths, parts):
        _read(path, lambda file, part=part: _add(file, part.grid, first.grid, sums))
    identifiers, images = [], []
    for part in parts:
        images += [replace(image, series=image.series + len(identifiers)) for image in part.images]
        identifiers += part.description.identifiers
    images, names = sort_images(images, identifiers)
    files = dict.fromkeys(name for part in parts for name in part.description.input_files)
    description = replace(_common(parts), identifiers=names, input_files=tuple(files))
    return Sums(sums, images, first.grid, first.settings, description)


def _common(parts: Sequence[Sums]) -> Description:
    """What is true of all maps that are added; the first one's where one is as good as another."""
    every = [part.description for part in parts]
    first = every[0]

    def same(name: str, otherwise=None):
        values = [getattr(one, name) for one in every]
        return values[0] if all(np.array_equal(values[0], value) for value in values[1:]) else otherwise

    return replace(
        first,
        ub=same("ub", NO_UB),
        wavelength=common_wavelength([one.wavelength for one in every], [_n_used(part.images) for part in parts]),
        times_known=all(one.times_known for one in every),
        oscillation=max(one.oscillation for one in every),
        phi_steps=max(one.phi_steps for one in every),
        rejected_beyond=min((one.rejected_beyond for one in every if one.rejected_beyond), default=None),
        scaled_by=tuple(dict.fromkeys(name for one in every for name in one.scaled_by)),
        mask="; ".join(dict.fromkeys(text for one in every for text in one.mask.split("; ") if text)),
        polarization_fraction=same("polarization_fraction"),
        corrections=_common_corrections([one.corrections for one in every]),
        background=", ".join(dict.fromkeys(one.background for one in every if one.background)) or None,
    )


def _n_used(images: Sequence[ImageResult]) -> int:
    return sum(image.error is None for image in images)


def _common_corrections(every: Sequence[Mapping[str, str] | None]) -> dict[str, str] | None:
    """Those of all maps; where not all of them say "all", "some"."""
    if any(one is None for one in every):
        return None
    names = dict.fromkeys(name for one in every for name in one)
    return {name: "all" if all(one.get(name) == "all" for one in every) else "some" for name in names}


def common_wavelength(wavelengths: Sequence[float], weights: Sequence[float]) -> float:
    """The one wavelength, or the mean of several, each with its number of images as weight."""
    if len(set(wavelengths)) == 1:
        return float(wavelengths[0])
    order = np.argsort(wavelengths)  # the same in any order
    values, weights = np.array(wavelengths, float)[order], np.maximum(np.array(weights, float)[order], 1e-9)
    return float(np.average(values, weights=weights))


def _pieces(occupied: np.ndarray) -> Iterator[np.ndarray]:
    """The addresses of occupied voxels, PIECE at a time."""
    waiting = np.empty(0, np.int64)
    for start in range(0, len(occupied), PIECE):
        found = np.flatnonzero(np.unpackbits(occupied[start : start + PIECE]))
        waiting = np.concatenate([waiting, found + 8 * start])
        whole = len(waiting) - len(waiting) % PIECE
        yield from waiting[:whole].reshape(-1, PIECE)
        waiting = waiting[whole:]
    if len(waiting):
        yield waiting


def _write_header(group, total: Sums) -> None:
    grid, description = total.grid, total.description
    text = json.dumps(
        {
            "grid": {
                "reciprocal": grid.reciprocal.tolist(),
                "d_min": grid.d_min,
                "d_max": grid.d_max,
                "subdivide": grid.subdivide,
                "spacing": grid.spacing,
            },
            "voxels": _fingerprint(grid),
            "settings": asdict(total.settings),
            "description": {**asdict(description), "ub": description.ub.tolist() if description.ub.size else None},
        },
        default=lambda value: value.tolist(),  # what numpy has put among the numbers
    )
    _write_small(group, "header", np.array([text.encode()]))
    tables = make_group(group, "images", "NXcollection")
    for field in fields(ImageResult):
        values = [getattr(image, field.name) for image in total.images]
        if field.name == "error":
            values = [(error or "").encode() for error in values]
        _write_small(tables, field.name, np.array(values))


def _write_small(group, name: str, values: np.ndarray) -> None:
    group.create_dataset(name, data=values, chunks=(max(1, min(len(values), 1024)), *values.shape[1:]), **SMALL)


def _fingerprint(grid: Grid) -> list[int]:
    """What tells two grids apart that have the same parameters, but of which rounding made different rows."""
    rows = np.stack([grid.row_low, grid.row_high]).astype("<i4")
    return [int(grid.n_voxels), zlib.crc32(rows.tobytes())]


def _read(path: str, function):
    """function(file) in a process of its own; raises Sorry."""
    if not os.path.isfile(path):
        raise Sorry(f"The file {path} does not exist: check the name.")
    if not os.access(path, os.R_OK):
        raise Sorry(f"{path} can't be read (permission denied): check the file.")
    refuse_compressed(path)

    def read(path: str):
        import h5py

        with h5py.File(path, "r") as file:
            if "entry/sums" not in file or "format" not in file["entry/sums"].attrs:
                raise Sorry(f"{path} is no map with its sums: give the diffuse.nxs of dials.diffuse_map.")
            if file["entry/sums"].attrs["format"] != FORMAT:
                raise Sorry(f"{path} was written by another version of dials_postrefine: make the map again.")
            return function(file["entry/sums"])

    try:
        return call_in_child(read, path)
    except OSError as error:
        raise Sorry(f"{path} can't be read ({(error.strerror or str(error)).lower()}): check the file.") from error
    except ChildFailed as error:
        why = what_else(path, Kind.HDF5)
        todo = "make the map again" if why.startswith("truncated") else "give the diffuse.nxs that it wrote"
        raise Sorry(f"{path} can't be read as a map of dials.diffuse_map ({why}): {todo}.") from error


def _read_header(group) -> Sums:
    """All but the sums."""
    header = json.loads(group["header"][0])
    grid = make_grid(**{**header["grid"], "reciprocal": np.array(header["grid"]["reciprocal"])})
    if _fingerprint(grid) != header["voxels"]:
        raise Sorry(f"{group.file.filename} was written by another version of dials_postrefine: make the map again.")
    corrections = header["settings"].pop("corrections")
    corrections.pop("mu_air", None)  # which belongs to a beam, and older files have here
    corrections = Corrections(**_tuples(corrections))
    settings = MappingSettings(corrections, **_tuples(header["settings"]))
    ub = header["description"].pop("ub")
    description = Description(ub=np.array(ub) if ub else NO_UB, **_tuples(header["description"]))
    if any(field.name not in group["images"] for field in fields(ImageResult)):
        raise Sorry(f"{group.file.filename} was written by another version of dials_postrefine: make the map again.")
    columns = {field.name: group["images"][field.name][:] for field in fields(ImageResult)}
    columns["error"] = [error.decode() or None for error in columns["error"]]
    images = [ImageResult(**dict(zip(columns, map(_plain, row)))) for row in zip(*columns.values())]
    return Sums(np.empty((0, N_SUMS), np.int64), images, grid, settings, description)


def _tuples(value):
    """What JSON has made lists of."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value


def _add(group, written: Grid, grid: Grid, sums: np.ndarray) -> None:
    """Add the sums of a file, on the grid they were written with, to sums on another one."""
    occupied, values = group["occupied"][:], group["values"]
    if len(occupied) != -(-written.n_voxels // 8) or values.shape[0] != N_SUMS or values.dtype != np.int64:
        raise ValueError("shapes")
    same = _fingerprint(written) == _fingerprint(grid)
    totals, start = np.zeros(N_SUMS, np.int64), 0
    for piece in _pieces(occupied):
        found = np.empty((N_SUMS, len(piece)), np.int64)
        values.read_direct(found, np.s_[:, start : start + len(piece)])
        totals += found.sum(axis=1)
        start += len(piece)
        if not same:
            piece = addresses(grid, voxels_at(written, piece))
            inside = piece >= 0
            piece, found = piece[inside], found[:, inside]
        sums[piece] += found.T
    if start != values.shape[1] or not np.array_equal(totals, group.attrs["totals"]):
        raise ValueError("totals")


def _check_alike(path: str, first: Sums, other_path: str, other: Sums) -> None:
    both = f"{path} and {other_path}"

    for name, parameter in (
        ("frame", "grid.frame"),
        ("subdivide", "grid.subdivide"),
        ("spacing", "grid.spacing"),
        ("d_min", "d_min"),
        ("d_max", "d_max"),
    ):
        a, b = getattr(first.grid, name), getattr(other.grid, name)
        if not (a == b or (isinstance(a, float) and isinstance(b, float) and np.isclose(a, b, rtol=SAME, atol=0.0))):
            raise Sorry(
                f"{both} have different grids ({parameter} {_plainly(a)} and {_plainly(b)}): make both maps with the "
                "same grid, d_min and d_max."
            )
    cells = [cell_parameters(np.linalg.inv(part.grid.reciprocal).T) for part in (first, other)]
    if (np.abs(cells[1][0] / cells[0][0] - 1.0) > CELL_LENGTH).any() or (
        np.abs(cells[1][1] - cells[0][1]) > CELL_ANGLE
    ).any():
        raise Sorry(
            f"The unit cells of {both} differ by more than {CELL_LENGTH:.0%}: add only maps of crystals that are alike."
        )
    if first.description.space_group != other.description.space_group:
        raise Sorry(
            f"{both} have different space groups ({first.description.space_group} and "
            f"{other.description.space_group}): make both maps with the same space_group."
        )
    for field in fields(MappingSettings):
        a, b = getattr(first.settings, field.name), getattr(other.settings, field.name)
        if a != b and field.name != "allow_bad_images":
            raise Sorry(
                f"{both} were made with different settings ({field.name} {_plainly(a)} and {_plainly(b)}): make both "
                "maps with the same ones."
            )


def _plainly(value) -> str:
    if isinstance(value, Corrections):
        return "for " + (", ".join(field.name for field in fields(value) if getattr(value, field.name)) or "nothing")
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "None" if value == np.inf else str(value)
