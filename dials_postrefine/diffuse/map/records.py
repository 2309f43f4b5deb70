"""
What is kept beside the sums of a map: how it was made, what each image gave, and the crystal it is of.

These records are written into the file of a map and read back when maps are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dials_postrefine.diffuse.map.columns import QUANTA
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.numerics.shells import equal_width_edges

# Shells of |s| in the profile of an image, and its sums in each (kernels.profile).
N_SHELLS = 60
N_PROFILE = 11


@dataclass(frozen=True)
class Corrections:
    """Which corrections are made (geometry.py)."""

    solid_angle: bool = True
    polarization: bool = True
    efficiency: bool = True
    air: bool = True


@dataclass(frozen=True)
class MappingSettings:
    """
    corrections; scale "none", "per_image", "smooth" or "from_refl" (Series.scales); half_sets "images", "random" or
    "friedel"; radial_offset: take the isotropic part off each image; n_sigma to reject outliers, None for no rejection,
    "auto" for that of rejection.py where that helps;
    allow_bad_images: skip images that can't be used; excluded: ranges of |s| (1/Angstrom) that are masked.
    """

    corrections: Corrections = Corrections()
    scale: str = "per_image"
    half_sets: str = "images"
    radial_offset: bool = False
    n_sigma: float | str | None = None
    allow_bad_images: bool = True
    excluded: tuple[tuple[float, float], ...] = ()

    @property
    def normalised(self) -> bool:
        """Whether exposures have the level of the image in them, and the ratio of sums is relative to it."""
        return self.scale in ("per_image", "smooth")

    @property
    def quanta(self) -> tuple[float, float]:
        """The quanta of exposure and of squares in the sums, as their inverses."""
        return QUANTA[self.normalised]


@dataclass
class ImageResult:
    """
    What is kept of an image: of which series, its number, why it was not used (None if it was), its scale, level and
    exposure time, its pixels (counted in the first part of the rotation), its profile (N_SHELLS, N_PROFILE; with
    exposures that have no scale), and of strong spots their number, sums and sums of squares of the offset of the
    fractional indices (3,).

        n_pixels = outside of the limits + n_masked + n_untrusted + n_inside
        n_inside = n_bragg + n_rejected + averaged

    where n_masked are those inside of the limits that a mask takes away, n_untrusted those whose values can't be used.
    """

    series: int
    number: int
    error: str | None = None
    scale: float = np.nan
    level: float = np.nan
    time: float = 0.0
    n_pixels: int = 0
    n_masked: int = 0
    n_untrusted: int = 0
    n_inside: int = 0
    n_bragg: int = 0
    n_rejected: int = 0
    profile: np.ndarray = field(default_factory=lambda: np.zeros((N_SHELLS, N_PROFILE)))
    n_spots: int = 0
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    offset_sq: np.ndarray = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True)
class Description:
    """
    What files and reports say of a map's crystal and origin.

    unit_cell (Angstrom, degrees), space_group its symbol, ub (3, 3; 1/Angstrom; empty where there is not one),
    wavelength (Angstrom), symmetry "laue", "friedel" or "p1", the version of the program, its changed parameters, the
    input files, and the identifiers of the experiments, in the order of their series; the widest oscillation of an
    image (degrees), followed in phi_steps, the masks of Bragg peaks in words, the polarisation fraction (None where
    there is not one), the .expt of the background, and whether exposure times are known; of the corrections (fields of
    Corrections) those that were made, for "all" series or "some" (None of older files, which do not say); from
    how many sigma on pixels were rejected (None: not); the names of the terms (terms.py) by which images were scaled
    against each other.
    """

    unit_cell: tuple[float, ...]
    space_group: str
    ub: np.ndarray
    wavelength: float
    symmetry: str
    version: str
    parameters: str
    input_files: tuple[str, ...]
    identifiers: tuple[str, ...]
    oscillation: float = 0.0
    phi_steps: int = 1
    mask: str = ""
    polarization_fraction: float | None = None
    background: str | None = None
    times_known: bool = True
    corrections: Mapping[str, str] | None = None
    rejected_beyond: float | None = None
    scaled_by: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Of intensities: photons into a steradian, in a second where exposure times are known."""
        return "photons/(s sr)" if self.times_known else "photons/sr"


def shell_edges(grid: Grid) -> np.ndarray:
    """
    The shells of |s| in which images are compared.

    Parameters
    ----------
    grid : Grid
        Its limits of resolution.

    Returns
    -------
    ndarray (N_SHELLS + 1,)
        The edges, even steps, 1/Angstrom.
    """
    return equal_width_edges(grid.d_max, grid.d_min, N_SHELLS)
