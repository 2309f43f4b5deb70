"""
Scaled data sets -> what was observed on each image (numerics/images.py).

Systematic absences are used like all others (multiple scattering of electrons makes them real), but counted.

An observation belongs to the image in which its spot has its centre, floor of xyzcal.px, not below the first one; or to
a bin of as many images as it takes for a width, or for FEW_SPOTS spots on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctbx import crystal, miller
from cctbx.sgtbx import lattice_symmetry
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials import models, tables
from dials_postrefine.files.dials.cell_choices import common_cell
from dials_postrefine.files.dials.reindexing import MAX_DELTA
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.electron.intensities import are_usable, has_intensity, intensities
from dials_postrefine.files.images import beam_intensity
from dials_postrefine.numerics.absences import N_SHELLS, Absences, weigh_absences
from dials_postrefine.numerics.grouped import rows_of_groups
from dials_postrefine.numerics.images import COLUMNS, Images, Symmetry
from dials_postrefine.numerics.indices import pack, to_flex_miller
from dials_postrefine.numerics.populations import MIN_GAP_DISTANCE, describe_groups
from dials_postrefine.numerics.shells import shells_of_equal_numbers

# Spots on an image, on average, from which on images are not binned.
FEW_SPOTS = 10


@dataclass(frozen=True)
class ImageChoice:
    """
    Which observations are read and how: intensity "scale", "profile" or "sum"; variance of scaled ones "counting" or
    "scaled"; whether scaling's outliers stay; limits (Angstrom); width of an image (degrees; 0: as they are, None:
    module docstring); beam intensity "auto", "images", "background" or "none", and the annulus (d_max, d_min;
    Angstrom).
    """

    intensity: str = "scale"
    variance: str = "counting"
    keep_outliers: bool = False
    d_min: float | None = None
    d_max: float | None = None
    image_width: float | None = None
    space_group: str | None = None
    beam: str = "auto"
    annulus: tuple[float, float] = (20.0, 5.0)


@dataclass
class ImageFiles:
    """
    What was read: the experiments, their names and how many each file has, the table of all, the images, row (n,) of
    each observation in the table, cell (6,) and space group (cctbx), how many rows are out by reason, where the beam
    intensity is from; absent (n,): the observations that are systematically absent, which are used like the others.
    """

    experiments: Any
    identifiers: list[str]
    sizes: list[int]
    table: Any
    images: Images
    row: np.ndarray
    cell: tuple[float, ...]
    space_group: Any
    n_excluded: dict[str, int]
    beam_source: str
    remarks: list[str]
    absent: np.ndarray

    @property
    def n_input(self) -> int:
        """How many observations were given, used or not."""
        return len(self.row) + sum(self.n_excluded.values())

    def wavelengths(self) -> list[tuple[float, int]]:
        """The wavelengths (Angstrom) that the images fall into groups of, each with the number of its images."""
        return describe_groups(1.0 / np.linalg.norm(self.images.s0, axis=1))

    def detector_distances(self) -> list[tuple[float, int]]:
        """The same of distances (mm) of the detector."""
        distances = models.detector_distances(self.experiments)[self.images.experiment]
        return describe_groups(distances, MIN_GAP_DISTANCE)

    def absences(self) -> Absences:
        """How strong the absent observations are."""
        images = self.images
        ratio = images.intensity / np.sqrt(images.variance)
        return weigh_absences(ratio, shells_of_equal_numbers(images.d_star_sq, N_SHELLS), self.absent)

    def with_column(self, kind: str) -> tuple[Images, np.ndarray] | None:
        """
        The images with the intensities of another column, `kind` of COLUMNS, and which of the observations (n,) have
        such; None where the table has none.
        """
        if not has_intensity(self.table, kind):
            return None
        intensity, variance = (x[self.row] for x in intensities(self.table, kind, "counting"))
        kept = are_usable(intensity, variance)
        return self.images.select(kept, intensity, variance), kept


def read_images(
    experiment_paths: Sequence[str],
    reflection_paths: Sequence[str],
    choice: ImageChoice = ImageChoice(),
    progress: Callable[[str, int, int], None] | None = None,
) -> ImageFiles:
    """
    Read data sets of one crystal form.

    Raises Sorry with one sentence for what can't be used.
    """
    if not experiment_paths or not reflection_paths:
        raise Sorry("Experiments and reflections are needed: give a scaled .expt file with its .refl file.")
    experiments, table, identifiers, n_lost = _load(experiment_paths, reflection_paths)
    remarks = _check_columns(table, choice)
    group = models.common_space_group(experiments, choice.space_group)
    if not models.cells_fit(experiments, group).all():
        raise Sorry(
            f"Not all unit cells fit the space group {group.type().lookup_symbol()}: give data sets of one crystal "
            "form, in one setting."
        )
    cell = common_cell(experiments, group)
    observed, n_excluded = _read_observations(table, choice, cell, n_lost)
    ids = flumpy.to_numpy(table["id"])[observed.row]
    z = flumpy.to_numpy(table["xyzcal.px"])[observed.row, 2]
    image, frames = _number_images(experiments, ids, z, choice.image_width)
    opened = beam_intensity.open_images(experiment_paths) if choice.beam in ("auto", "images") else None
    if opened is not None:
        level, source = _beam_on_images(opened, frames, choice, progress)
    else:
        level, source = _beam_behind_spots(table, observed, image, len(frames.experiment), choice)
    images = Images(
        experiment=frames.experiment,
        number=frames.first + 1,
        last=frames.first + frames.n,
        angle=frames.angle,
        a_matrix=frames.a_matrix,
        s0=frames.s0,
        beam_intensity=level,
        image=image,
        unique=number_unique(observed.h, cell, group),
        h=observed.h,
        intensity=observed.intensity,
        variance=observed.variance,
        d_star_sq=observed.d_star_sq,
        symmetry=symmetry_of(cell, group),
    )
    return ImageFiles(
        experiments=experiments,
        identifiers=[name for names in identifiers for name in names],
        sizes=[len(names) for names in identifiers],
        table=table,
        images=images,
        row=observed.row,
        cell=cell,
        space_group=group,
        n_excluded=n_excluded,
        beam_source=source,
        remarks=remarks,
        absent=flumpy.to_numpy(group.is_sys_absent(to_flex_miller(observed.h))).copy(),
    )


def _load(experiment_paths: Sequence[str], reflection_paths: Sequence[str]) -> tuple[Any, Any, list[list[str]], int]:
    """All experiments, one table of all, the identifiers by file, and how many rows are of no experiment."""
    lists = [models.read_experiments(path) for path in experiment_paths]
    loaded = [tables.read_table(path) for path in reflection_paths]
    identifiers = models.set_identifiers(lists, loaded, list(zip(experiment_paths, reflection_paths)))
    experiments = lists[0]
    for more in lists[1:]:
        experiments.extend(more)
    _check_experiments(experiments)
    n_rows = sum(map(len, loaded))
    table = tables.join_tables(reflection_paths, loaded, identifiers)
    return experiments, table, identifiers, n_rows - len(table)


@dataclass
class _Observed:
    """The observations that are used: row (n,) in the table, h (n, 3), d*^2, intensity and variance (n,)."""

    row: np.ndarray
    h: np.ndarray
    d_star_sq: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray


def _read_observations(
    table, choice: ImageChoice, cell: tuple[float, ...], n_lost: int
) -> tuple[_Observed, dict[str, int]]:
    """The observations, and how many are out by reason; n_lost: of no experiment, and not in the table."""
    h = miller_indices_to_numpy(table["miller_index"])
    d_star_sq = models.d_star_sq(cell, h)
    intensity, variance = intensities(table, choice.intensity, choice.variance)
    row, n_excluded = _usable_rows(table, choice, h, d_star_sq, are_usable(intensity, variance))
    if n_lost > 0:
        n_excluded = {"of no experiment": n_lost} | n_excluded
    if not len(row):
        reasons = ", ".join(f"{n} {reason}" for reason, n in n_excluded.items() if n)
        raise Sorry(f"No observation can be used ({reasons or 'the tables are empty'}): check the .refl files.")
    return _Observed(row, *(column[row] for column in (h, d_star_sq, intensity, variance))), n_excluded


def symmetry_of(cell: tuple[float, ...], space_group) -> Symmetry:
    """The rotations of the Laue group and of the lattice, h to h M as numerics/images.py has them."""
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    to_minimum = symmetry.change_of_basis_op_to_minimum_cell()
    lattice = lattice_symmetry.group(symmetry.change_basis(to_minimum).unit_cell(), max_delta=MAX_DELTA)
    laue = space_group.build_derived_point_group().build_derived_laue_group().build_derived_acentric_group()
    return Symmetry(*(_rotations(group) for group in (laue, lattice.change_basis(to_minimum.inverse()))))


def _rotations(group) -> np.ndarray:
    """The rotations (n, 3, 3) of a group (cctbx), identity first."""
    found = np.array([np.reshape(operation.r().as_double(), (3, 3)) for operation in group])
    return found[np.argsort(~np.all(found == np.eye(3), axis=(1, 2)), kind="stable")]


def _check_experiments(experiments) -> None:
    if not len(experiments):
        raise Sorry("The .expt files hold no experiments: give those that dials.scale wrote.")
    for model in ("crystal", "beam"):
        n = sum(getattr(experiment, model) is None for experiment in experiments)
        if n:
            raise Sorry(f"{n} of {len(experiments)} experiments have no {model}: give those that dials.scale wrote.")
    models.check_goniometers(experiments)


def _check_columns(table, choice: ImageChoice) -> list[str]:
    """Remarks on the columns; Sorry where what was chosen is not there."""
    scaled = has_intensity(table, "scale") and "inverse_scale_factor" in table
    if choice.intensity == "scale" and not scaled:
        raise Sorry(
            "The reflections are not scaled (no intensity.scale.value and inverse_scale_factor): scale them with "
            "dials.scale, or say intensity_choice=profile or sum for integrated values."
        )
    if not has_intensity(table, choice.intensity):
        raise Sorry(
            f"The reflections have no {COLUMNS[choice.intensity]}.value and .variance: choose another "
            "intensity_choice=."
        )
    if "xyzcal.px" not in table:
        raise Sorry("The reflections have no xyzcal.px, so that their images are not known: integrate again.")
    if choice.intensity == "scale" and choice.variance == "counting":
        if not (has_intensity(table, "profile") or has_intensity(table, "sum")):
            raise Sorry(
                "The reflections have lost the integrated intensities, and with them the variances of the counts: set "
                "variance=scaled."
            )
    if choice.intensity != "scale" and scaled:
        return [
            f"The table is scaled, but {COLUMNS[choice.intensity]}.value still holds the INTEGRATED values, neither "
            "corrected nor scaled: what follows is not the spread of scaled intensities."
        ]
    return []


def _usable_rows(
    table, choice: ImageChoice, h: np.ndarray, d_star_sq: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """The rows to be used, of those whose intensities are usable (n,), and how many are out by reason."""
    flags, names = flumpy.to_numpy(table["flags"]), table.flags
    keep, n_excluded = np.ones(len(flags), dtype=bool), {}

    def exclude(reason: str, mask: np.ndarray) -> None:
        n_excluded[reason] = int(np.count_nonzero(mask & keep))
        keep[mask] = False

    integrated = {"profile": int(names.integrated_prf), "sum": int(names.integrated_sum)}
    integrated["scale"] = integrated["profile"] | integrated["sum"]  # either will do
    exclude("not integrated", flags & integrated[choice.intensity] == 0)
    exclude(
        "excluded from scaling", flags & (int(names.excluded_for_scaling) | int(names.user_excluded_in_scaling)) != 0
    )
    if not choice.keep_outliers:
        exclude("outliers of scaling", flags & int(names.outlier_in_scaling) != 0)
    exclude("with bad intensity, variance or scale", ~usable)
    exclude("of the index 0,0,0", ~h.any(axis=1))
    if choice.d_min is not None and choice.d_min > 0.0:
        exclude("beyond d_min", d_star_sq > choice.d_min**-2)
    if choice.d_max is not None and choice.d_max > 0.0:
        exclude("below d_max", d_star_sq < choice.d_max**-2)
    return np.flatnonzero(keep), {reason: n for reason, n in n_excluded.items() if n}


@dataclass
class _Frames:
    """
    The images of all experiments, (n_images,): arrays as of Images; first, the number of the first one in the array of
    the scan, n, how many images of the detector it is, start, counted from the first of its experiment.
    """

    experiment: np.ndarray
    first: np.ndarray
    n: np.ndarray
    start: np.ndarray
    angle: np.ndarray
    a_matrix: np.ndarray
    s0: np.ndarray


def _number_images(experiments, ids: np.ndarray, z: np.ndarray, width: float | None) -> tuple[np.ndarray, _Frames]:
    """The image (n,) of each observation, and the images."""
    image = np.empty(len(ids), dtype=np.int64)
    found: list[tuple] = []
    n_of = [e.scan.get_num_images() if e.scan is not None else 1 for e in experiments]
    n_spots = np.bincount(ids, minlength=len(experiments))
    rotating = [k for k, e in enumerate(experiments) if models.rotates(e) and n_spots[k]]
    spots_per_image = sum(n_spots[k] for k in rotating) / max(1, sum(n_of[k] for k in rotating))
    for k, rows in enumerate(rows_of_groups(ids, len(experiments))):
        experiment, n, first, step = experiments[k], n_of[k], 0, 1
        scan = experiment.scan
        if scan is not None:
            first = scan.get_array_range()[0]
        if models.rotates(experiment):
            oscillation = abs(scan.get_oscillation()[1])
            wanted = FEW_SPOTS / max(spots_per_image, 1e-9) if width is None else round(width / oscillation)
            step = int(np.clip(np.ceil(wanted), 1, n))
        image[rows] = len(found) + np.clip(np.floor(z[rows]).astype(np.int64) - first, 0, n - 1) // step
        for start in range(0, n, step):
            m = min(step, n - start)
            middle = first + start + 0.5 * m
            whole = int(np.floor(middle))
            angle = np.nan
            if models.rotates(experiment):
                angle = np.radians(scan.get_angle_from_array_index(middle, deg=True))
            setting = models.setting_matrix(experiment, whole, middle - whole)
            found.append((k, first + start, m, start, angle, setting, models.incident_beam(experiment, whole)))
    return image, _Frames(*map(np.array, zip(*found)))


def number_unique(h: np.ndarray, cell: tuple[float, ...], space_group) -> np.ndarray:
    """Numbers (n,) of the unique indices by the Laue class of indices h (n, 3)."""
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    unique = miller.set(symmetry, to_flex_miller(h), anomalous_flag=False).map_to_asu().indices()
    packed = pack(miller_indices_to_numpy(unique))
    return np.unique(packed, return_inverse=True)[1].ravel()


def _beam_on_images(
    opened: Sequence, frames: _Frames, choice: ImageChoice, progress: Callable[[str, int, int], None] | None
) -> tuple[np.ndarray, str]:
    """The beam intensity (n_images,) by the pixels of the annulus, NaN where unknown, and where it is from."""
    d_max, d_min = choice.annulus
    means = [beam_intensity.annulus_means(experiment, d_min, d_max, progress) for experiment in opened]
    binned = [means[k][start : start + n] for k, start, n in zip(frames.experiment, frames.start, frames.n)]
    known = [values[np.isfinite(values)] for values in binned]
    level = np.array([values.mean() if len(values) else np.nan for values in known])
    return _known_or_not(level, f"mean photons of a pixel between {d_max:g} and {d_min:g} Angstrom on the images")


def _beam_behind_spots(
    table, observed: _Observed, image: np.ndarray, n_images: int, choice: ImageChoice
) -> tuple[np.ndarray, str]:
    """The same by the background of the spots, where it is there and wanted."""
    if choice.beam == "images":
        raise Sorry("The images can't be opened: they must lie where the .expt file says, or set beam.intensity.")
    if choice.beam in ("auto", "background") and "background.mean" in table:
        background = flumpy.to_numpy(table["background.mean"])[observed.row]
        level = beam_intensity.background_levels(background, observed.d_star_sq, image, n_images)
        return _known_or_not(level, "background of the spots")
    if choice.beam == "background":
        raise Sorry("The reflections have no background.mean: set beam.intensity to something else.")
    return np.full(n_images, np.nan), "not known"


def _known_or_not(level: np.ndarray, source: str) -> tuple[np.ndarray, str]:
    if np.isfinite(level).any():
        return level, source
    return np.full(len(level), np.nan), f"not known: no {source} is a positive number"
