"""
Experiments <-> geometry arrays; the refined orientation and a scale model written back.

Each lattice is one experiment: a still with a crystal, a beam and a detector.  The scale model is DIALS' own
KBScalingModel, which every DIALS program can read,

    scale = G,   decay = -B,        scale exp(decay/(2 d^2)) = G exp(-B d*^2/2)

with the esds, and the rest of the fit (r_s, angles, correlations) as extra keys of its configuration.  The height
r_0/r_s of a mosaic radius has no place in that model: it is in the table's inverse_scale_factor alone.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cctbx import crystal, miller, sgtbx, uctbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy
from dxtbx.model import DetectorFactory
from dxtbx.model.experiment_list import ExperimentListFactory
from scitbx import matrix

from dials_postrefine.files.dials.identifiers import content_identifiers
from dials_postrefine.files.reference.file_kinds import Kind, refuse_compressed, what_else

CELL_LENGTH_TOLERANCE = 0.03
CELL_ANGLE_TOLERANCE = 2.0
MAX_IMAGES = 10**6  # of a scan
MAX_UNIQUE = 5e7  # reflections: a gigabyte; a virus, 400 Angstrom in P 1, has fewer to 1.5 Angstrom
MIN_WAVELENGTH = 1e-3  # Angstrom; that of electrons of 1 MeV is 0.0087
MAX_WAVELENGTH = 100.0  # Angstrom, beyond which no crystal diffracts


def read_experiments(path: str):
    """Read a .expt file.  Raises Sorry where it is missing, damaged or no experiment list."""
    if not os.path.isfile(path):
        raise Sorry(f"The file {path} does not exist: check the name.")
    refuse_compressed(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        # dxtbx makes lists as long as the scan, whatever number stands there
        for scan in content.get("scan", []):
            first, last = scan["image_range"]
            if last - first >= MAX_IMAGES:
                raise ValueError(f"a scan of {last - first + 1} images")
        directory = os.path.dirname(os.path.abspath(path))
        experiments = ExperimentListFactory.from_dict(content, check_format=False, directory=directory)
        for detector in experiments.detectors():  # some can be read and written, but not read again
            if detector is not None:
                DetectorFactory.from_dict(detector.to_dict())
        for experiment in experiments:
            if experiment.profile is not None:  # and some can't be written
                experiment.profile.to_dict()
        return experiments
    except OSError as error:
        raise Sorry(f"{path} can't be read ({error.strerror}): check the file.") from error
    except Exception as error:  # json and dxtbx raise anything at all on a damaged file
        why = what_else(path, Kind.EXPERIMENTS, Kind.JSON)
        raise Sorry(f"{path} can't be read as an experiment list ({why}).") from error


def check_stills(experiments) -> None:
    """Raises Sorry unless every experiment is a still with a beam and a detector, and at least one has a crystal."""
    if not len(experiments):
        raise Sorry("The .expt files hold no experiments: give the output of dials.stills_process or ssx_integrate.")
    if all(experiment.crystal is None for experiment in experiments):
        raise Sorry("No experiment has a crystal: index and integrate the images first.")
    for model in ("beam", "detector"):
        n = sum(getattr(experiment, model) is None for experiment in experiments)
        if n:
            raise Sorry(f"{n} of {len(experiments)} experiments have no {model}: index and integrate them first.")
    for what, is_possible in (("wavelength", _has_wavelength), ("beam direction or polarisation", _has_directions)):
        n = sum(not is_possible(experiment.beam) for experiment in experiments)
        if n:
            raise Sorry(f"{n} of {len(experiments)} experiments have an impossible {what}: import the images again.")
    n = sum(not experiment.is_still() for experiment in experiments)
    if n:
        raise Sorry(
            f"{n} of {len(experiments)} experiments are rotation data, not stills: scale them with dials.scale."
        )


def _has_wavelength(beam) -> bool:
    return MIN_WAVELENGTH < beam.get_wavelength() < MAX_WAVELENGTH


def _has_directions(beam) -> bool:
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm([beam.get_s0(), beam.get_polarization_normal()], axis=1)
    return bool((lengths > 0.0).all() and np.isfinite(lengths).all()) and 0.0 <= beam.get_polarization_fraction() <= 1.0


def set_identifiers(
    experiments_of_files: Sequence, tables_of_files: Sequence = (), paths: Sequence[tuple[str, str]] = ()
) -> list[list[str]]:
    """
    The identifiers by file, made of their content (identifiers.py) where experiments have none.

    tables_of_files: the tables that were given, each at the place of its experiments, where they name no identifiers;
    paths: the names of both by file, for messages.  Raises Sorry where two experiments share an identifier.
    """
    known: dict[int, list[str]] = {}

    def of_content(number: int) -> list[str]:
        if number not in known:
            table = tables_of_files[number] if number < len(tables_of_files) else None
            known[number] = content_identifiers(experiments_of_files[number], table)
        return known[number]

    for number, experiments in enumerate(experiments_of_files):
        for i, experiment in enumerate(experiments):
            if not experiment.identifier:
                experiment.identifier = of_content(number)[i]
    identifiers = [list(experiments.identifiers()) for experiments in experiments_of_files]
    places: dict[str, list[tuple[int, int]]] = {}
    for number, names in enumerate(identifiers):
        for i, name in enumerate(names):
            places.setdefault(name, []).append((number, i))
    twice = [name for name, found in places.items() if len(found) > 1]
    if twice:
        number = places[twice[0]][-1][0]
        alike = len({of_content(n)[i] for n, i in places[twice[0]]}) == 1
        message = f"{len(twice)} lattices are given more than once (the first: {twice[0]})"
        if alike or number >= len(paths):
            raise Sorry(f"{message}: give each file once.")
        command, new = naming_command(*paths[number], number + 1, len(identifiers[number]))
        raise Sorry(
            f"{message}: give each file once, or, where they are others with the same identifiers, run '{command}' and "
            f"give {new}.expt and {new}.refl instead."
        )
    return identifiers


def naming_command(experiments: str, reflections: str, number: int, n: int) -> tuple[str, str]:
    """
    The command that gives the n experiments of the file with this number identifiers that no other file has, and what
    it calls its files.
    """
    stem = re.sub(r"[^\w.-]", "_", os.path.splitext(os.path.basename(experiments))[0], flags=re.ASCII) + f"-{number}"
    files = shlex.join([experiments, reflections])
    identifiers = f"identifiers=\"$(seq -f '{stem}-%g' -s ' ' {n})\""
    outputs = f"output.experiments={stem}.expt output.reflections={stem}.refl"
    return f"dials.assign_experiment_identifiers {files} {identifiers} {outputs}", stem


def common_space_group(experiments, chosen: str | None = None):
    """
    The one space group of the lattices: chosen by its symbol, or what all crystals have.

    Raises Sorry where the crystals differ, or no group has that symbol.
    """
    if chosen is not None:
        try:
            return sgtbx.space_group_info(chosen).group()
        except RuntimeError:
            raise Sorry(f"space_group={chosen} is no space group that cctbx knows.") from None
    groups = [e.crystal.get_space_group() for e in experiments if e.crystal is not None]
    if any(group != groups[0] for group in groups):
        symbols = Counter(group.type().lookup_symbol() for group in groups)
        found = ", ".join(f"{symbol} ({n})" for symbol, n in symbols.most_common())
        raise Sorry(f"The lattices are of different space groups: {found}; say which one with space_group=.")
    return groups[0]


def has_crystal(experiments) -> np.ndarray:
    """Which experiments have a crystal, of a setting matrix that is one: (n,) bool."""
    return np.array(
        [e.crystal is not None and bool(np.isfinite(e.crystal.get_A()).all()) for e in experiments], dtype=bool
    )


def cells_fit(experiments, space_group) -> np.ndarray:
    """Which experiments have a crystal whose unit cell fits the space group: (n,) bool."""
    return np.array(
        [
            crystal and unit_cell_fits(e.crystal.get_unit_cell(), space_group)
            for e, crystal in zip(experiments, has_crystal(experiments))
        ],
        dtype=bool,
    )


def check_cells_fit(experiments, space_group, crystal: np.ndarray, fits: np.ndarray) -> None:
    """Raises Sorry where no cell fits the space group; crystal, fits (n,) as has_crystal and cells_fit give them."""
    if not fits.any():
        raise Sorry(
            f"No unit cell fits the space group {space_group.type().lookup_symbol()} (the first is "
            f"{experiments[int(crystal.argmax())].crystal.get_unit_cell()!s}): set space_group= to the crystals' own."
        )


def unit_cell_fits(cell, space_group) -> bool:
    """Whether the unit cell fits the space group, within 2 % and 1.5 degrees."""
    return space_group.is_compatible_unit_cell(cell, 0.02, 1.5)


def symmetric_cells(experiments, fits: np.ndarray, space_group) -> np.ndarray:
    """The unit cells (n, 6), Angstrom and degrees, made exact for the space group; NaN where they do not fit it."""
    cells = np.full((len(experiments), 6), np.nan)
    for k in np.flatnonzero(fits):
        cells[k] = space_group.average_unit_cell(experiments[int(k)].crystal.get_unit_cell()).parameters()
    return cells


def median_cell(experiments, space_group) -> tuple[float, ...]:
    """The median unit cell of experiments whose cells agree (cell_choices.py), made exact for the space group."""
    cells = np.median([e.crystal.get_unit_cell().parameters() for e in experiments], axis=0)
    return space_group.average_unit_cell(uctbx.unit_cell(tuple(cells))).parameters()


def geometry_arrays(experiments) -> tuple[np.ndarray, np.ndarray]:
    """The setting matrices A (n, 3, 3), NaN without a crystal, and incident beams s0 (n, 3), in 1/Angstrom."""
    none = (np.nan,) * 9
    a_matrix = np.array([none if e.crystal is None else e.crystal.get_A() for e in experiments]).reshape(-1, 3, 3)
    s0 = np.array([e.beam.get_s0() for e in experiments]).reshape(-1, 3)
    return a_matrix, s0


def detector_distances(experiments) -> np.ndarray:
    """The distance (n,; mm) of each detector, the mean of its panels; NaN where there is none."""
    found = np.full(len(experiments), np.nan)
    for k, experiment in enumerate(experiments):
        if experiment.detector is not None:
            found[k] = np.mean([abs(panel.get_directed_distance()) for panel in experiment.detector])
    return found


def rotates(experiment) -> bool:
    """Whether the images of an experiment have a width in the angle of rotation."""
    return experiment.scan is not None and abs(experiment.scan.get_oscillation()[1]) > 0.0


def check_goniometers(experiments) -> None:
    """Raises Sorry for sweeps without a goniometer, or with models whose scan points are not those of the scan."""
    n = sum(rotates(experiment) and experiment.goniometer is None for experiment in experiments)
    if n:
        raise Sorry(f"{n} of {len(experiments)} experiments are sweeps without a goniometer: import the images again.")
    for experiment in experiments:
        _check_scan_points(experiment)


def _check_scan_points(experiment) -> None:
    if experiment.scan is None:
        return
    n = experiment.scan.get_num_images()
    for name in ("crystal", "beam", "goniometer"):
        model = getattr(experiment, name)
        points = 0 if model is None else model.num_scan_points
        if points not in (0, n + 1):
            raise Sorry(
                f"The {name} of {experiment.identifier or 'an experiment'} has {points} scan points where its {n} "
                f"image{'s' * (n > 1)} need {n + 1}: refine again with these images, or give those that were refined."
            )


def setting_matrix(experiment, image: float, fraction: float = 0.5) -> np.ndarray:
    """
    S R F U B (3, 3), 1/Angstrom, of an experiment at the part `fraction` of the image with the number `image` in the
    array of its scan.
    """
    model, goniometer, scan = experiment.crystal, experiment.goniometer, experiment.scan
    first = scan.get_array_range()[0] if scan is not None else 0

    def at(get, n_points):
        start = min(max(int(image) - first, 0), n_points - 2)
        return (1.0 - fraction) * np.array(get(start)) + fraction * np.array(get(start + 1))

    ub = np.array(model.get_A())
    if model.num_scan_points > 1:
        ub = at(model.get_A_at_scan_point, model.num_scan_points)
    ub = ub.reshape(3, 3)
    if not rotates(experiment):
        return ub
    setting = np.array(goniometer.get_setting_rotation())
    if goniometer.num_scan_points > 1:
        setting = at(goniometer.get_setting_rotation_at_scan_point, goniometer.num_scan_points)
    axis = matrix.col(goniometer.get_rotation_axis_datum())
    phi = scan.get_angle_from_array_index(float(image) + fraction, deg=True)
    rotation = np.array(axis.axis_and_angle_as_r3_rotation_matrix(phi, deg=True)).reshape(3, 3)
    return setting.reshape(3, 3) @ rotation @ np.array(goniometer.get_fixed_rotation()).reshape(3, 3) @ ub


def rotation_axis(experiment, image: float) -> np.ndarray:
    """The axis (3,) of rotation in the laboratory in the middle of an image, by its number in the array of the scan."""
    goniometer = experiment.goniometer
    if goniometer.num_scan_points < 2:
        return np.array(goniometer.get_rotation_axis())
    start = min(max(int(image) - experiment.scan.get_array_range()[0], 0), goniometer.num_scan_points - 2)
    ends = (goniometer.get_setting_rotation_at_scan_point(start + i) for i in (0, 1))
    turned = 0.5 * np.sum([np.reshape(end, (3, 3)) for end in ends], axis=0)
    return turned @ np.array(goniometer.get_rotation_axis_datum())


def incident_beam(experiment, image: float) -> np.ndarray:
    """s0 (3,), 1/Angstrom, of an experiment in the middle of an image, by its number in the array of the scan."""
    beam = experiment.beam
    if beam.num_scan_points < 2:
        return np.array(beam.get_s0())
    start = min(max(int(image) - experiment.scan.get_array_range()[0], 0), beam.num_scan_points - 2)
    return 0.5 * (np.array(beam.get_s0_at_scan_point(start)) + np.array(beam.get_s0_at_scan_point(start + 1)))


def complete_set(
    cell: tuple[float, ...], space_group, d_min: float, d_max: float, anomalous: bool = False
) -> np.ndarray:
    """
    d*^2 (n,) of every unique index between d_min and d_max (Angstrom), absences left out, Friedel pairs as one, or
    apart where they are wanted anomalous.

    Raises Sorry where they are more than any data can have.
    """
    volume = 4.0 / 3.0 * np.pi * (d_min**-3 - d_max**-3) * uctbx.unit_cell(cell).volume()
    n = volume / space_group.build_derived_laue_group().order_z()
    if n > MAX_UNIQUE:  # one damaged index may do that
        raise Sorry(f"The data reach to {d_min:.3g} Angstrom, with {n:.0e} unique reflections: set d_min=.")
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    return flumpy.to_numpy(
        miller.build_set(symmetry, anomalous_flag=anomalous, d_min=d_min, d_max=d_max).d_star_sq().data()
    )


def complete_pairs(cell: tuple[float, ...], space_group, d_min: float, d_max: float) -> np.ndarray:
    """d*^2 (n,) of every Friedel pair between d_min and d_max (Angstrom) that is not centric, absences left out."""
    symmetry = crystal.symmetry(unit_cell=cell, space_group=space_group)
    indices = miller.build_set(symmetry, anomalous_flag=False, d_min=d_min, d_max=d_max)
    return flumpy.to_numpy(indices.select(~indices.centric_flags().data()).d_star_sq().data()).copy()


def d_star_sq(cell: tuple[float, ...], h: np.ndarray) -> np.ndarray:
    """d*^2 (n,) of the indices h (n, 3) in the unit cell, 1/Angstrom^2."""
    metric = np.array(uctbx.unit_cell(cell).reciprocal_metrical_matrix())
    h = h.astype(float)
    diagonal = h**2 @ metric[:3]
    return diagonal + 2.0 * (
        metric[3] * h[:, 0] * h[:, 1] + metric[4] * h[:, 0] * h[:, 2] + metric[5] * h[:, 1] * h[:, 2]
    )


def set_space_group(experiments, space_group) -> None:
    """Write the space group into every crystal; its cell and orientation stay."""
    for model in experiments.crystals():
        if model is not None:
            model.set_space_group(space_group)


def number_imagesets(table, experiments) -> None:
    """Make the table's `imageset_id` count the image sets of the experiment list, where it has any."""
    # as dxtbx looks them up when it writes a list: by what they are, as to compare them would take n^2 steps
    number = {imageset: i for i, imageset in enumerate(experiments.imagesets())}
    if not number:
        return
    if any(experiment.imageset is None for experiment in experiments):
        if "imageset_id" in table:
            del table["imageset_id"]
        return
    numbers = [number[experiment.imageset] for experiment in experiments]
    ids = np.array(numbers, dtype=np.int32)[flumpy.to_numpy(table["id"])]
    table["imageset_id"] = flumpy.from_numpy(ids)


def unshare_crystals(experiments) -> None:
    """Give every experiment a crystal model of its own, so that each can be turned by itself."""
    if len(experiments.crystals()) < len(experiments):
        for experiment in experiments:
            experiment.crystal = copy.deepcopy(experiment.crystal)


def write_indexed_orientation(experiment, rotation: np.ndarray, epsilon: float) -> None:
    """Put the crystal back as it was indexed, A_ref = R^T A/(1 + epsilon): undoes write_orientation."""
    write_orientation(experiment, rotation.T, 1.0 / (1.0 + epsilon) - 1.0)


def write_orientation(experiment, rotation: np.ndarray, epsilon: float = 0.0) -> None:
    """Turn the crystal by R (3, 3) and scale its reciprocal cell: A = (1 + epsilon) R A_ref."""
    u = rotation @ np.array(experiment.crystal.get_U()).reshape(3, 3)
    experiment.crystal.set_U(tuple(u.ravel()))
    if epsilon:
        experiment.crystal.set_B(tuple((1.0 + epsilon) * b for b in experiment.crystal.get_B()))


def write_scaling_model(experiment, scale, scale_esd, b_factor, b_factor_esd, extra: dict) -> None:
    """Give the experiment a KBScalingModel (module docstring), B being conventional; extra: further numbers or text."""
    from dials.algorithms.scaling.model.model import KBScalingModel

    experiment.scaling_model = KBScalingModel(
        {
            "scale": {"parameters": flex.double([scale]), "parameter_esds": flex.double([scale_esd])},
            "decay": {
                "parameters": flex.double([-b_factor]),
                "parameter_esds": flex.double([b_factor_esd]),
            },
        },
        # dials.export format=xds_ascii asks for the type of the error model, and stops where there is none
        {"corrections": ["scale", "decay"], "error_model_type": "none", **extra},
        is_scaled=True,
    )
