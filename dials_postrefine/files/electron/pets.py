"""
Frames of three-dimensional electron diffraction from PETS2's .cif_pets.

The file's frame has the rotation axis near x and the electrons along MINUS z; uvw of a frame is its lab +z in crystal
axes.  A frame f has the setting matrix and the electrons' wave vector

    A_f = R_z(omega_f) R_x(alpha_f) R_y(beta_f) UB,     k = (0, 0, -1/lambda)

and covers, by `data collection geometry`, one of

    continuous rotation    A = R_a(d) A_f,  d from -p to p about the axis a = R_z(omega_f) x
    precession             A = R_v(p) A_f,  v = (cos phi, sin phi, 0), phi from 0 to 2 pi

with p the precession angle, which is HALF of the width of a virtual frame: the frames of a merge of two images of 1
degree have 1.000.  That the electrons run along -z is seen from the excitation errors, whose median |s| is 0.016
against 0.044 1/Angstrom with +z in a quartz set.

UB is taken as it is: where the calibration of the camera length is not that of the cell (1 % in that set), the
reflections lie where UB says, and the cell's parameters are what volume and distances need.

What can't be meant is refused with one Sorry; rows whose intensity is no number or whose sigma is not above zero are
left out and counted.  Angles are radians, lengths Angstrom and 1/Angstrom.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cctbx import uctbx
from dials.util import Sorry

from dials_postrefine.files.dials.radiation import ELECTRON_WAVELENGTH
from dials_postrefine.files.electron.scaled_images import number_unique, symmetry_of
from dials_postrefine.files.reference.atomic_models import read_cif
from dials_postrefine.numerics.frames import FrameData, Frames

GEOMETRIES = {"continuous rotation": "rotation", "precession": "precession"}
CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
ANGLES = ("precession_angle", "alpha", "beta", "omega")
MAX_UVW = np.radians(0.5)  # between uvw and the lab +z: the file has them to five digits
MAX_STRAIN = 0.002  # of UB against the cell, above which it is told


@dataclass(frozen=True)
class PetsFile:
    """
    The frames of a file (f of them) and the reflections that can be used (n).

    Attributes
    ----------
    frames : Frames
    names : tuple of str
        Of the frames, as in the file.
    cell : tuple of float
        As stated; Angstrom, degrees.
    row : ndarray of int, shape (n,)
        In the file's loop of reflections.
    frame : ndarray of int, shape (n,)
    hkl : ndarray of int, shape (n, 3)
    intensity, sigma : ndarray, shape (n,)
    n_unusable : int
        Rows left out.
    notes : list of str
        A sentence each.
    """

    frames: Frames
    names: tuple[str, ...]
    cell: tuple[float, ...]
    row: np.ndarray
    frame: np.ndarray
    hkl: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    n_unusable: int = 0
    notes: list[str] = field(default_factory=list)

    def data(self, space_group: Any) -> FrameData:
        """The observations, with the symmetry of a space group (cctbx): what a structure has."""
        if not space_group.is_compatible_unit_cell(uctbx.unit_cell(self.cell), 0.02, 1.0):
            raise Sorry(
                f"The unit cell of the frames, {' '.join(f'{x:.6g}' for x in self.cell)}, does not fit the space group "
                f"{space_group.type().lookup_symbol()}: give the structure of this crystal, in this setting."
            )
        symmetry = symmetry_of(self.cell, space_group)
        semi_width = self.frames.semi_width[self.frame]
        turns = self.frames.motion == "rotation"
        start = -semi_width if turns else np.zeros(len(semi_width))
        end = semi_width if turns else np.full(len(semi_width), 2.0 * np.pi)
        return FrameData(
            frames=self.frames,
            frame=self.frame,
            h=self.hkl,
            intensity=self.intensity,
            variance=self.sigma**2,
            start=start,
            end=end,
            weight=1.0 / (end - start),
            row=self.row,
            cell=np.array(self.cell),
            unique=number_unique(self.hkl, self.cell, space_group),
            laue=symmetry.laue,
            lattice=symmetry.lattice,
        )


def read_pets(path: str) -> PetsFile:
    """Frames of a .cif_pets file; raises Sorry for what can't be meant (module docstring)."""
    blocks = [one for one in read_cif(path).values() if "_diffrn_zone_axis_id" in one]
    if len(blocks) != 1:
        raise Sorry(
            f"{path} holds {len(blocks)} data blocks with frames (_diffrn_zone_axis_id): give a .cif_pets file."
        )
    block = blocks[0]
    motion = _geometry(path, block)
    wavelength = float(_numbers(path, block, ["_diffrn_radiation_wavelength"])[0])
    if not 0.0 < wavelength < ELECTRON_WAVELENGTH:
        raise Sorry(
            f"The wavelength in {path} is {wavelength:g} A, which is not of electrons above 60 keV: give electron "
            "diffraction, or correct _diffrn_radiation_wavelength."
        )
    cell = tuple(_numbers(path, block, [f"_cell_{name}" for name in CELL]).tolist())
    ub = _numbers(path, block, [f"_diffrn_orient_matrix_UB_{i}{j}" for i in "123" for j in "123"]).reshape(3, 3)
    notes = _compare_with_cell(path, ub, cell)
    names = [str(one) for one in block["_diffrn_zone_axis_id"]]
    if len(set(names)) < len(names):
        raise Sorry(f"{path} has two frames of one number in _diffrn_zone_axis_id: number them anew.")
    frames = _frames(path, block, ub, motion, wavelength)
    row, frame, hkl, intensity, sigma = _reflections(path, block, names)
    n_unusable = len(block["_refln_zone_axis_id"]) - len(row)
    return PetsFile(frames, tuple(names), cell, row, frame, hkl, intensity, sigma, n_unusable, notes)


def _frames(path: str, block, ub: np.ndarray, motion: str, wavelength: float) -> Frames:
    names = block["_diffrn_zone_axis_id"]
    n = len(names)
    angles = _columns(path, block, "_diffrn_zone_axis_", ANGLES, n)
    semi_width, alpha, beta, omega = np.radians(angles)
    if not np.all(np.isfinite(angles)) or np.any(semi_width <= 0.0):
        raise Sorry(f"{path} has a frame without angles, or a precession angle that is not above zero: correct it.")
    turned = _about("z", omega)
    a_matrix = turned @ _about("x", alpha) @ _about("y", beta) @ ub
    _check_zone_axes(path, a_matrix, _columns(path, block, "_diffrn_zone_axis_", "uvw", n).T)
    return Frames(
        number=np.array([int(one) if one.isdigit() else i + 1 for i, one in enumerate(names)]),
        sweep=np.zeros(n, dtype=np.int64),
        angle=alpha,
        semi_width=semi_width,
        a_matrix=a_matrix,
        axis=turned[:, :, 0],
        k=np.tile([0.0, 0.0, -1.0 / wavelength], (n, 1)),
        motion=motion,
    )


def _geometry(path: str, block) -> str:
    found = re.search(r"data collection geometry:\s*(.+?)\s*$", str(block.get("_diffrn_measurement_details", "")), re.M)
    stated = found[1].lower() if found else "not stated"
    if stated not in GEOMETRIES:
        raise Sorry(
            f"The data collection geometry in {path} is {stated}: frames of {' and '.join(GEOMETRIES)} can be used."
        )
    return GEOMETRIES[stated]


def _numbers(path: str, block, names: list[str]) -> np.ndarray:
    """Single items of the file."""
    try:
        found = np.array([float(re.sub(r"\(\d+\)$", "", block[name])) for name in names])
    except (KeyError, TypeError, ValueError):
        found = np.array([np.nan])
    if not np.all(np.isfinite(found)):
        listed = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        raise Sorry(f"{path} lacks {listed}, or has no number there: write it again with PETS2 or dials.export.")
    return found


def _columns(path: str, block, prefix: str, names, n: int) -> np.ndarray:
    """Columns of a loop of n rows, shape (len(names), n), NaN where there is no number."""
    found = np.full((len(names), n), np.nan)
    for row, name in zip(found, names):
        values = block.get(prefix + name)
        if values is None or isinstance(values, str) or len(values) != n:
            raise Sorry(f"{path} has no column {prefix}{name} of {n} rows: write it again with PETS2 or dials.export.")
        row[:] = [_number(one) for one in values]
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _compare_with_cell(path: str, ub: np.ndarray, cell: tuple[float, ...]) -> list[str]:
    """What is to be said of UB and the cell; Sorry where they are of different crystals."""
    try:
        stated = np.reshape(uctbx.unit_cell(cell).fractionalization_matrix(), (3, 3)).T
    except RuntimeError:
        raise Sorry(f"The unit cell in {path} is none: {' '.join(f'{x:g}' for x in cell)}.") from None
    strain = np.linalg.svd(ub @ np.linalg.inv(stated), compute_uv=False) - 1.0
    if np.linalg.det(ub) <= 0.0 or np.abs(strain).max() > 0.1:
        raise Sorry(
            f"The orientation matrix in {path} is not of its unit cell (they differ by {np.abs(strain).max():.0%}, or "
            "in hand): write it again with PETS2 or dials.export."
        )
    if np.abs(strain).max() <= MAX_STRAIN:
        return []
    return [
        f"The orientation matrix is of a cell whose lengths are {-strain.mean():+.2%} off those stated: the spots are "
        "where the matrix says, and the stated cell is the structure's."
    ]


def _check_zone_axes(path: str, a_matrix: np.ndarray, uvw: np.ndarray) -> None:
    """Refuse a file whose uvw are not the lab +z of its angles: then its angles are of another convention."""
    lab = np.einsum("fji,fj->fi", np.linalg.inv(a_matrix), uvw)
    length = np.linalg.norm(lab, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.arccos(np.clip(lab[:, 2] / length, -1.0, 1.0))
    if not np.nanmax(np.where(np.isfinite(off), off, np.pi)) < MAX_UVW:
        raise Sorry(
            f"The zone axes u v w in {path} are up to {np.degrees(np.nanmax(off)):.1f} degrees from where its angles "
            "alpha, beta and omega put the beam: the file is of another convention, or damaged."
        )


def _reflections(path: str, block, names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Frame, index, intensity, sigma, and how many rows are left out."""
    of_frame = block.get("_refln_zone_axis_id")
    if of_frame is None or isinstance(of_frame, str):
        raise Sorry(
            f"{path} has no reflections by frame (_refln_zone_axis_id): write it again with PETS2 or dials.export."
        )
    number = {name: i for i, name in enumerate(names)}
    frame = np.array([number.get(str(one), -1) for one in of_frame], dtype=np.int64)
    columns = ("index_h", "index_k", "index_l", "intensity_meas", "intensity_sigma")
    found = _columns(path, block, "_refln_", columns, len(frame))
    hkl, (intensity, sigma) = np.rint(found[:3]), found[3:]
    if not np.array_equal(hkl, found[:3]):
        raise Sorry(f"{path} has indices that are no whole numbers: satellites and unindexed spots can't be used.")
    if np.any(frame < 0):
        raise Sorry(
            f"{path} has reflections of frames that it does not list: write it again with PETS2 or dials.export."
        )
    usable = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0.0) & hkl.any(axis=0)
    if not usable.any():
        raise Sorry(f"{path} has no reflection with an intensity and a sigma above zero.")
    row = np.flatnonzero(usable)
    return row, frame[row], hkl[:, row].T.astype(np.int64), intensity[row], sigma[row]


def _about(axis: str, angle: np.ndarray) -> np.ndarray:
    """Right-handed rotations about a lab axis, shape (f, 3, 3)."""
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    found = np.zeros((len(angle), 3, 3))
    found[:, i, i] = 1.0
    found[:, j, j] = found[:, k, k] = np.cos(angle)
    found[:, k, j] = np.sin(angle)
    found[:, j, k] = -found[:, k, j]
    return found
