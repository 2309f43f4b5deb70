"""The Request of dials.diffuse_map."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import (
    cell_parameters,
    choice,
    none_for_auto,
    numbers,
    part,
    phil,
    symbol,
    texts,
    word_for_auto,
)
from dials_postrefine.settings.checks import check_limits
from dials_postrefine.settings.limits import check_values


@dataclass(frozen=True)
class Grid:
    """The voxels: parts of an index, or of a Cartesian grid their size (1/Angstrom; None: of the cell)."""

    frame: str = choice("frame", "hkl")
    subdivide: tuple[int, int, int] = phil("subdivide", (3, 3, 3), convert=tuple)
    spacing: float | None = phil("spacing", None)


@dataclass(frozen=True)
class IceRings:
    """Rings of ice: its cell (Angstrom, degrees) and space group, the width of a ring in 1/d^2 (1/Angstrom^2)."""

    filter: bool = phil("filter", False)
    unit_cell: tuple[float, ...] = phil("unit_cell", (4.498, 4.498, 7.338, 90.0, 90.0, 120.0), convert=cell_parameters)
    space_group: str = phil("space_group", "P 63/m m c", convert=symbol)
    width: float = phil("width", 0.002)


@dataclass(frozen=True)
class Mask:
    """Which pixels are left out: extent of peaks in standard deviations of the profile model, of boxes in indices."""

    bragg: str = choice("bragg", "auto")
    n_sigma: float = phil("n_sigma", 4.0)
    box: float = phil("box", 0.25)
    ice_rings: IceRings = part("ice_rings", IceRings)
    file: str | None = phil("file", None)
    bad_pixels: bool = phil("bad_pixels", True)
    max_counts: float | None = phil("max_counts", None)
    max_fraction: float = phil("max_fraction", 0.5)


@dataclass(frozen=True)
class Corrections:
    """Which corrections are made."""

    solid_angle: bool = phil("solid_angle", True)
    polarization: bool = phil("polarization", True)
    efficiency: bool = phil("efficiency", True)
    air: bool = phil("air", True)


@dataclass(frozen=True)
class Background:
    """Images without crystal, and their exposure time (s; None: of the scan)."""

    experiments: str | None = phil("experiments", None)
    exposure_time: float | None = phil("exposure_time", None)
    scale: float = phil("scale", 1.0)
    radial: str = choice("radial", "none")


@dataclass(frozen=True)
class Absolute:
    """The atoms of a unit cell (None: no absolute scale), and the B of masked Bragg peaks (Angstrom^2)."""

    composition: str | None = phil("composition", None)
    b_factor: float = phil("b_factor", 0.0)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    nxs: str = phil("nxs", "diffuse.nxs")
    ccp4: str | None = phil("ccp4", "diffuse.ccp4")
    anisotropic: str | None = phil("anisotropic", "diffuse_anisotropic.ccp4")
    mtz: str | None = phil("mtz", "diffuse.mtz")
    delta_pdf: str | None = phil("delta_pdf", None)
    radial: str | None = phil("radial", "radial.csv")
    html: str | None = phil("html", "dials.diffuse_map.html")
    json: str | None = phil("json", "dials.diffuse_map.json")
    log: str | None = phil("log", "dials.diffuse_map.log")


@dataclass(frozen=True)
class DiffuseMapRequest:
    """
    What dials.diffuse_map is asked for; phil/diffuse_map.phil describes each parameter.

    d_min and d_max in Angstrom, exposure times in s, gain in counts a photon; reject_n_sigma None for no rejection,
    "auto" where that helps; phi_steps and nproc None for as many as it takes, and as there are cores.
    """

    experiments: tuple[str, ...] = phil("input.experiments", (), convert=texts)
    reflections: tuple[str, ...] = phil("input.reflections", (), convert=texts)
    file_list: tuple[str, ...] = phil("input.file_list", (), convert=texts)
    add: tuple[str, ...] = phil("add", (), convert=texts)
    d_min: float | None = phil("d_min", None)
    d_max: float | None = phil("d_max", None)
    image_range: tuple[int, int] | None = phil("image_range", None, convert=numbers)
    grid: Grid = part("grid", Grid)
    symmetry: str = choice("symmetry", "laue")
    space_group: str | None = phil("space_group", None, convert=symbol)
    mask: Mask = part("mask", Mask)
    corrections: Corrections = part("corrections", Corrections)
    exposure_time: tuple[float, ...] | None = phil("exposure_time", None, convert=numbers)
    gain: float | None = phil("gain", None)
    pedestal: float | None = phil("pedestal", None)
    read_noise: float = phil("read_noise", 0.0)
    polarization_fraction: float | None = phil("polarization_fraction", None)
    background: Background = part("background", Background)
    scale: str = choice("scale.model", "auto")
    reject_n_sigma: float | str | None = phil("reject.n_sigma", "auto", convert=word_for_auto)
    absolute: Absolute = part("absolute", Absolute)
    half_sets: str = choice("half_sets", "images")
    phi_steps: int | None = phil("sampling.phi_steps", None, convert=none_for_auto)
    allow_bad_images: bool = phil("allow_bad_images", True)
    mp_method: str = choice("mp.method", "auto")
    nproc: int | None = phil("mp.nproc", None, convert=none_for_auto)
    n_shells: int = phil("n_shells", 10)
    planes: tuple[str, ...] = phil("planes", (), convert=texts)
    output: Output = part("output", Output)

    def check_input(self) -> None:
        """Raises Sorry where there is nothing to map, or two things."""
        from dials.util import Sorry

        if bool(self.experiments or self.file_list) == bool(self.add):
            raise Sorry(
                "Either experiments or maps to add are needed: give an .expt file, or add=FIRST.nxs,SECOND.nxs."
            )

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and for limits that cross."""
        from dials.util import Sorry

        check_values("diffuse_map", self)
        check_limits(self)
        if self.image_range and self.image_range[0] > self.image_range[1]:
            first, last = self.image_range
            raise Sorry(f"image_range={first} {last} ends before it begins: turn it round.")
