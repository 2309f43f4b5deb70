"""Pattern and structure -> what dials.fine_refine fits: crystal, beams, parameters; and what is wrong with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from cctbx.eltbx import tiny_pse
from dials.util import Sorry

from dials_postrefine.electron.bloch.beams import BeamSelection
from dials_postrefine.electron.bloch.electrons import relativistic_mass, wave_number, wavelength
from dials_postrefine.electron.bloch.potential import (
    Potential,
    Scattering,
    centre_of_symmetry,
    coefficients,
    indices_within,
    potential_of_atoms,
)
from dials_postrefine.electron.fine.beamlist import choose_beams, more_beams, places_of
from dials_postrefine.electron.fine.crystal import Crystal
from dials_postrefine.electron.fine.groups import ReflectionGroup, make_group, representative
from dials_postrefine.electron.fine.model import PatternModel
from dials_postrefine.electron.fine.parameters import Parameters, default_range
from dials_postrefine.electron.fine.simulation import Slab
from dials_postrefine.files.electron.patterns import read_pattern
from dials_postrefine.files.reference.atomic_models import read_atomic_model
from dials_postrefine.numerics.disks import Pattern
from dials_postrefine.scattering.electron_atoms import electron_atoms
from dials_postrefine.scattering.form_factors import element_of
from dials_postrefine.settings.fine_refine import FineRefineRequest

SAME_CELL = 0.02  # relative difference of lengths, and degrees/50 of angles
MOST_AUTO = 2  # groups of reflections
USUAL_ABSORPTION = 0.02  # U'/U to start with
LEAST_BEAMS = 64
BEAMS_A_DISK = 1.5
MOST_WORK = 2e9  # pixels times beams^3
FEW = 50  # pixels, of which it can't be told whether they have a signal
SAMPLE = 50  # incident directions that the beams are chosen with
GEOMETRY = {
    "thickness": ("thickness",),
    "tilt": ("tilt_x", "tilt_y"),
    "step": ("step",),
    "rotation": ("rotation",),
    "absorption": ("absorption",),
    "psf": ("sigma", "gamma"),
}
STARTS = {"step": 1.0, "rotation": 0.0, "sigma": 1.0, "gamma": 0.2, "tilt_x": 0.0, "tilt_y": 0.0}
WORDS = (*GEOMETRY, "shift", "b")


@dataclass(frozen=True)
class Prepared:
    """
    What is fitted: the pattern, the crystal, the model of the pixels that are simulated (which of the pattern's), its
    parameters, Z of the kinds of atoms, U of the atoms for each group, the longer list of beams; whether there was a
    start for the thickness, notes.
    """

    pattern: Pattern
    crystal: Crystal
    model: PatternModel
    pixels: np.ndarray
    parameters: Parameters
    charges: np.ndarray
    u_atoms: dict[str, float]
    more: np.ndarray
    knows_thickness: bool
    notes: tuple[str, ...]


def prepare(request: FineRefineRequest) -> Prepared:
    """Read, check and join; raises Sorry for what can't be used."""
    if request.pattern is None or request.structure is None:
        missing = "a pattern" if request.pattern is None else "a structure"
        raise Sorry(f"There is not {missing}: give an array of disks (.npz, .h5, ...) and a structure (.cif, .pdb).")
    found = read_atomic_model(request.structure)
    cell = found.structure.unit_cell().parameters()
    pattern = read_pattern(request.pattern, request.geometry, request.energy, cell)
    check_pattern(pattern)
    step = pixel_step(request, pattern)
    pattern = pattern.thinned(step) if step > 1 else pattern
    check_cell(pattern, found.structure.unit_cell(), request.structure)
    notes = [*pattern.notes, *found.notes]
    if step > 1:
        notes.append(f"Every {step}. row and column of the images is taken: pixel_step=1 takes all, and longer.")
    atoms = _with_b(electron_atoms(found.structure), request, pattern, notes)
    elements = tuple(sorted({one.scattering_type for one in found.structure.scatterers()}))
    scattering = Scattering(relativistic_mass(pattern.energy), wavelength(pattern.energy))
    crystal = Crystal(atoms, elements, pattern.reciprocal, scattering)
    crystal = replace(crystal, groups=choose_groups(request, pattern, crystal))
    parameters, knows_thickness = start_of(request, pattern, crystal)
    pixels = np.ones(len(pattern.offset), dtype=bool)
    if "sigma" not in parameters.values:
        pixels = pattern.used.any(axis=0)
    model, more = _model(request, pattern, crystal, pixels)
    model = replace(model, pixel_step=step)
    charges = np.array([tiny_pse.table(element_of(one)).atomic_number() for one in elements], dtype=float)
    u_atoms = {group.label: _u_of_atoms(crystal, group) for group in crystal.groups}
    return Prepared(
        pattern, crystal, model, pixels, parameters, charges, u_atoms, more, knows_thickness, (*notes, *atoms.notes)
    )


def check_pattern(pattern: Pattern) -> None:
    """Raises Sorry for a pattern that nothing can be learned from."""
    if not 1e3 <= pattern.energy <= 1e7:
        raise Sorry(f"An energy of {pattern.energy:g} V is none of electrons that cross a crystal: give it in volts.")
    if not pattern.used.any():
        raise Sorry("The mask leaves no pixel: give a mask that is true where a pixel is to be used.")
    if pattern.variance.size:
        if pattern.variance.shape != pattern.data.shape:
            raise Sorry("The variance map is not of the shape of the data: give one value for each pixel.")
        bad = np.count_nonzero(pattern.used & ~(pattern.variance > 0.0))
        if bad:
            raise Sorry(f"The variance of {bad} pixels that are used is not above zero: mask them.")
    spread = [np.ptp(x[used]) if used.any() else 0.0 for x, used in zip(pattern.data, pattern.used)]
    if max(spread) == 0.0:
        raise Sorry("There is no signal: all pixels of each disk are the same.")
    if pattern.variance.size:
        flat = 0.0
        for x, used, variance in zip(pattern.data, pattern.used, pattern.variance):
            if used.any():
                w = 1.0 / variance[used]
                flat += np.sum(w * (x[used] - np.sum(w * x[used]) / w.sum()) ** 2)
        n = np.count_nonzero(pattern.used)
        if n > FEW and flat < n + 5.0 * math.sqrt(2.0 * n):
            raise Sorry("There is no signal: constant disks fit as well as their variance lets anything fit.")
    elif np.max(pattern.data[pattern.used]) <= 0.0:
        raise Sorry("There is no signal: no pixel has counts above zero.")
    if np.hypot(*pattern.offset.T).max() > 0.5 * wave_number(pattern.energy):
        raise Sorry("The pixels' wave vectors are larger than the electrons': give kx, ky and pixel in 1/A.")
    if not np.any(np.all(pattern.hkl == 0, axis=1)) and len(pattern.hkl) == 0:
        raise Sorry("There are no disks: give the reflection of each.")


def check_cell(pattern: Pattern, cell, path: str) -> None:
    """Raises Sorry where the structure has another cell than the pattern."""
    lengths = np.linalg.norm(pattern.direct, axis=1)
    unit = pattern.direct / lengths[:, None]
    angles = np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)))
    parameters = np.array(cell.parameters())
    wrong = np.abs(parameters[:3] / lengths - 1.0).max() > SAME_CELL or np.abs(parameters[3:] - angles).max() > 1.0
    if wrong:
        own = " ".join(f"{one:.3f}" for one in (*lengths, *angles))
        other = " ".join(f"{one:.3f}" for one in parameters)
        raise Sorry(
            f"{path} is not of this crystal: its cell is {other}, that of the pattern {own}; give the structure in the "
            "pattern's setting."
        )


def pixel_step(request: FineRefineRequest, pattern: Pattern) -> int:
    """Every how manieth row and column of images is taken."""
    if request.pixel_step is not None and request.pixel_step > 1 and not pattern.is_grid:
        raise Sorry("pixel_step= needs images, and the pixels of this pattern are scattered: leave it out.")
    if request.pixel_step is not None or not pattern.is_grid:
        return request.pixel_step or 1
    n_beams = request.beams.most or max(LEAST_BEAMS, round(BEAMS_A_DISK * len(pattern.hkl)))
    return max(1, round((len(pattern.offset) * n_beams**3 / MOST_WORK) ** 0.5))


def _with_b(atoms, request: FineRefineRequest, pattern: Pattern, notes: list[str]):
    """The atoms with B as asked for, or as it comes with the pattern."""
    if request.b_iso is not None:
        return replace(atoms, b=np.full(len(atoms.b), request.b_iso))
    if math.isfinite(pattern.debye_waller):
        if np.abs(atoms.b - pattern.debye_waller).max() > 0.005:
            notes.append(
                f"B is {pattern.debye_waller:g} A^2, as the pattern has it, and not that of the structure "
                f"({atoms.b.mean():.3f}): set b_iso= for another."
            )
        return replace(atoms, b=np.full(len(atoms.b), pattern.debye_waller))
    if not np.any(atoms.b) and not np.any(atoms.u_star):
        notes.append("The atoms have no B: they are taken as at rest; give it with the structure, or as b_iso=.")
    return atoms


def scale_of(request: FineRefineRequest, pattern: Pattern) -> str:
    """Whether disks have one scale, ``common``, or ``each_disk``."""
    return ("each_disk" if pattern.images_apart else "common") if request.disk_scale == "auto" else request.disk_scale


def choose_groups(request: FineRefineRequest, pattern: Pattern, crystal: Crystal) -> tuple[ReflectionGroup, ...]:
    """The groups of reflections whose U is refined."""
    hkl = indices_within(crystal.reciprocal, 1.5)
    u = coefficients(crystal.atoms, crystal.reciprocal, hkl, crystal.scattering)[0]
    largest, centre = float(np.abs(u[1:]).max()), centre_of_symmetry(hkl, u, None)
    words = request.structure_factors
    if words == ("no",) or (not words and scale_of(request, pattern) == "each_disk"):
        return ()
    if not words:
        order = np.argsort(np.linalg.norm(pattern.hkl @ crystal.reciprocal.T, axis=1), kind="stable")
        listed = [representative(crystal.atoms, one) for one in pattern.hkl[order] if np.any(one)]
        listed = list(dict.fromkeys(listed))[:MOST_AUTO]
    else:
        listed = list(dict.fromkeys(representative(crystal.atoms, _index(word)) for word in words))
    found = []
    for one in listed:
        own = coefficients(crystal.atoms, crystal.reciprocal, np.array([one]), crystal.scattering)[0][0]
        central = 1.0 if centre is None else np.exp(-2j * np.pi * (np.array(one) @ centre))
        found.append(make_group(crystal.atoms, np.array(one), own, largest, central))
    return tuple(found)


def _index(word: str) -> np.ndarray:
    try:
        found = np.array([int(part) for part in word.strip("()").split(",")])
    except ValueError:
        found = np.zeros(0)
    if found.shape != (3,) or not np.any(found):
        raise Sorry(f"structure_factors={word} is no reflection: write three indices with commas, as 1,1,1.")
    return found


def start_of(request: FineRefineRequest, pattern: Pattern, crystal: Crystal) -> tuple[Parameters, bool]:
    """The parameters with their starting values, and whether one of the thickness was given."""
    given = {**pattern.start, **_numbers("start", request.start)}
    values = {"thickness": given.get("thickness", float("nan")), "tilt_x": 0.0, "tilt_y": 0.0}
    f = values["absorption"] = given.get("absorption", USUAL_ABSORPTION)
    free = []
    for group in crystal.groups:
        names = {f"U{group.label}": given.get(f"U{group.label}", _u_of_atoms(crystal, group))}
        if not group.forbidden:
            names[f"Uprime{group.label}"] = f * names[f"U{group.label}"]
        if request.phases == "free" and np.any(group.sense):
            names[f"phase{group.label}"] = 0.0
        values |= names
        free += names
    for word in _words(request, pattern, crystal):
        names = _names(word, pattern, crystal)
        for name in names:
            if name.startswith("B_"):
                own_b = crystal.atoms.b[crystal.atoms.kind == crystal.elements.index(name[2:])]
                values[name] = float(own_b.mean()) or 0.5
            elif name not in values:
                values[name] = STARTS.get(name, 0.0)
        free += names
    unknown = sorted(set(_numbers("start", request.start)) - set(values))
    if unknown:
        raise Sorry(f"start={unknown[0]}=... is no parameter here: it is one of {', '.join(values)}.")
    values |= {name: value for name, value in given.items() if name in values}
    knows = math.isfinite(values["thickness"])
    thickness = values["thickness"] if knows else 1000.0
    values["thickness"] = thickness
    ranges = {name: default_range(name, value, pattern.pixel) for name, value in values.items()}
    ranges |= _numbers("range", request.range)
    return Parameters(values, tuple(dict.fromkeys(free)), ranges, request.bound), knows


def _u_of_atoms(crystal: Crystal, group: ReflectionGroup) -> float:
    if group.forbidden:
        return 0.0
    return float(np.abs(coefficients(crystal.atoms, crystal.reciprocal, group.hkl[:1], crystal.scattering)[0][0]))


def _words(request: FineRefineRequest, pattern: Pattern, crystal: Crystal) -> list[str]:
    words = [word for word in request.refine if word != "auto"]
    if "auto" in request.refine:
        words += ["thickness", "tilt", "absorption"]
        words += ["psf"] * (pattern.is_large_angle and pattern.is_grid)
        words += ["b"] * (not crystal.groups)
    return [word for word in WORDS if word in words]


def _names(word: str, pattern: Pattern, crystal: Crystal) -> list[str]:
    if word == "b":
        return [f"B_{name}" for name in crystal.elements]
    if word == "shift":
        return [f"shift_{axis}_{d + 1}" for d in range(1, len(pattern.hkl)) for axis in "xy"]
    if word == "psf" and not pattern.is_grid:
        raise Sorry("refine=psf needs images, and the pixels of this pattern are scattered: leave it out.")
    return list(GEOMETRY[word])


def _numbers(what: str, words: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for word in words:
        for part in word.replace(",", " ").split():
            name, equals, value = part.partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                equals = ""
            if not equals or not math.isfinite(found[name]):
                raise Sorry(f"{what}={part} is not understood: write a parameter and a number, as thickness=1500.")
    return found


def _model(
    request: FineRefineRequest, pattern: Pattern, crystal: Crystal, pixels: np.ndarray
) -> tuple[PatternModel, np.ndarray]:
    """The model of the pixels, and a longer list of beams."""
    tilt = np.array([pattern.start.get("tilt_x", 0.0), pattern.start.get("tilt_y", 0.0)])
    offset = pattern.offset[pixels]
    sample = offset[:: max(1, len(offset) // SAMPLE)] + tilt
    slab = Slab(crystal.reciprocal, np.zeros((1, 3), dtype=int), np.array([0]), wave_number(pattern.energy))
    geometry = slab.geometry(sample)
    most = request.beams.most or max(LEAST_BEAMS, round(BEAMS_A_DISK * len(pattern.hkl)))
    selection = BeamSelection(request.beams.g_max, request.beams.s_max, 0.0, most)
    reach = 2.0 * max(request.beams.g_max, *np.linalg.norm(pattern.hkl @ crystal.reciprocal.T, axis=1), _g(pattern))
    potential: Potential = potential_of_atoms(crystal.atoms, crystal.reciprocal, 1.01 * reach, crystal.scattering)
    given = pattern.beams
    beams = choose_beams(geometry, potential, given, pattern.hkl, selection)
    if len(given) > len(beams):
        more = choose_beams(geometry, potential, given, pattern.hkl, replace(selection, most=2 * len(beams)))
    else:
        wider = choose_beams(geometry, potential, given[:0], pattern.hkl, more_beams(selection, len(beams)))
        more = np.array(list(dict.fromkeys([*map(tuple, beams.tolist()), *map(tuple, wider.tolist())])))
    slab = replace(slab, beams=beams, disks=places_of(pattern.hkl, beams))
    shape = pattern.shape if pixels.all() else (len(offset), 1)
    return PatternModel(slab, crystal.table(beams), offset, shape), more


def _g(pattern: Pattern) -> float:
    return float(np.linalg.norm(pattern.beams @ pattern.reciprocal.T, axis=1).max()) if len(pattern.beams) else 0.0
