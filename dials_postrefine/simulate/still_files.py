"""
Simulated stills as files: what dials.stills_process would have written, and the truth beside it; and as arrays,
without a file in between.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Beam, DetectorFactory, Experiment, ExperimentList, MosaicCrystalSauter2014

from dials_postrefine.files.dials.models import d_star_sq
from dials_postrefine.files.dials.symmetry import friedel_pairs, statistical_factors
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.simulate.stills import (
    SimulatedStills,
    StillsOptions,
    background_variance,
    beam_frame,
    reference_intensities,
)
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.friedel import FriedelPairs
from dials_postrefine.stills.geometry import vectors_of_lattices
from dials_postrefine.stills.systematics.deviations import Recording
from dials_postrefine.stills.wilson import WilsonPrior

PIXEL_SIZE = 0.1  # mm
DETECTOR_DISTANCE = 150.0  # mm
FOREGROUND_PIXELS = 40  # of an integrated spot; relates the background variance to the background per pixel
TRUTH = (
    "a_true",
    "a_indexed",
    "s0",
    "wavelength",
    "scale",
    "b_factor",
    "theta_x",
    "theta_y",
    "cell_scale",
    "radius",
    "mosaic_spread",
    "useless",
)


def write_stills(sim: SimulatedStills, prefix: str) -> list[str]:
    """
    Write prefix.expt and prefix.refl as dials.stills_process would, prefix_truth.mtz and prefix_truth.json.

    The MTZ holds the structure's intensities (I, SIGI), the JSON options and the truth of each lattice by identifier.
    Returns the file names.
    """
    names = [str(prefix) + ending for ending in (".expt", ".refl", "_truth.mtz", "_truth.json")]
    experiments = make_experiments(sim)
    experiments.as_file(names[0])
    make_reflections(sim, experiments).as_file(names[1])
    array = reference_intensities(sim.options)[2]
    array = array.customized_copy(sigmas=0.01 * array.data()).set_observation_type_xray_intensity()
    array.as_mtz_dataset(column_root_label="I", wavelength=sim.options.wavelength).mtz_object().write(names[2])
    per_lattice = {name: getattr(sim, name).tolist() for name in TRUTH}
    lattices = {
        identifier: {name: None if values[i] != values[i] else values[i] for name, values in per_lattice.items()}
        for i, identifier in enumerate(sim.identifiers)
    }
    with open(names[3], "w") as handle:
        json.dump({"options": asdict(sim.options), "lattices": lattices}, handle, indent=1)
    return names


def as_stills(sim: SimulatedStills) -> Stills:
    """
    The simulation as arrays, the polarisation taken off; every second lattice is of the second half set.  Friedel pairs
    are apart where the simulated ones differ.
    """
    n, cell = len(sim.identifiers), sim.options.unit_cell
    space_group = sgtbx.space_group_info(sim.options.space_group).group()
    offsets = np.searchsorted(sim.lattice, np.arange(n + 1))
    q, q_sq = vectors_of_lattices(sim.a_indexed, sim.h, offsets)
    apart = sim.options.bijvoet_ratio > 0.0
    return Stills(
        a_matrix=sim.a_indexed,
        s0=sim.s0,
        offsets=offsets,
        h=sim.h,
        q=q,
        q_sq=q_sq,
        unique=sim.asu,
        intensity=sim.intensity / sim.polarisation,
        variance=sim.variance / sim.polarisation**2,
        half=np.arange(n) % 2 == 1,
        absent=np.zeros(len(sim.reference_h), dtype=bool),
        prior=WilsonPrior(d_star_sq(cell, sim.reference_h), *statistical_factors(sim.reference_h, cell, space_group)),
        friedel=FriedelPairs(*friedel_pairs(sim.reference_h, space_group)) if apart else None,
    )


def as_recording(sim: SimulatedStills) -> Recording:
    """How the observations of as_stills were recorded: on one panel, the lattices in their order, no goniometer."""
    n = len(sim.identifiers)
    unit = sim.s1 / np.linalg.norm(sim.s1, axis=1)[:, None]
    reach = math.tan(sim.options.highest_angle)
    s0, normal = beam_frame(sim.options)
    return Recording(
        s1=unit,
        panel=np.zeros(len(unit), dtype=int),
        position=0.5 + 0.5 * unit[:, :2] / np.abs(unit[:, 2:]) / reach,
        correction=1.0 / sim.polarisation,
        s0=np.tile(s0, (n, 1)),
        normal=np.tile(normal, (n, 1)),
        fraction=np.full(n, sim.options.polarization_fraction),
        order=np.arange(n, dtype=float),
        shared=np.zeros(n, dtype=bool),
    )


def make_detector(options: StillsOptions):
    """One flat panel that everything to d_min hits, normal to z and on its negative side."""
    half = math.ceil(DETECTOR_DISTANCE * math.tan(options.highest_angle) / PIXEL_SIZE) + 10
    return DetectorFactory.simple(
        sensor="CCD",
        distance=DETECTOR_DISTANCE,
        beam_centre=(half * PIXEL_SIZE, half * PIXEL_SIZE),
        fast_direction="+x",
        slow_direction="-y",
        pixel_size=(PIXEL_SIZE, PIXEL_SIZE),
        image_size=(2 * half, 2 * half),
        trusted_range=(-1, 65535),
    )


def make_experiments(sim: SimulatedStills):
    """
    The experiment list: shared detector, a beam for each wavelength, crystals in the indexed orientation, no images.

    The crystals' domain size is what makes d/(2 D), DIALS' allowance for an angle off the sphere, the window here.
    """
    options = sim.options
    detector = make_detector(options)
    space_group = sgtbx.space_group_info(options.space_group).group()
    normal = tuple(beam_frame(options)[1])
    beams: dict[float, Beam] = {}
    experiments = ExperimentList()
    for i, identifier in enumerate(sim.identifiers):
        wavelength = float(sim.wavelength[i])
        if wavelength not in beams:
            beam = Beam(tuple(map(float, sim.s0[i])))
            beam.set_wavelength(wavelength)
            beam.set_polarization_normal(normal)
            beam.set_polarization_fraction(options.polarization_fraction)
            beams[wavelength] = beam
        real_space = np.linalg.inv(sim.a_indexed[i])
        crystal = MosaicCrystalSauter2014(*(tuple(map(float, v)) for v in real_space), space_group)
        crystal.set_half_mosaicity_deg(0.0)
        crystal.set_domain_size_ang(0.5 / options.window)
        experiments.append(
            Experiment(identifier=identifier, beam=beams[wavelength], detector=detector, crystal=crystal)
        )
    return experiments


def make_reflections(sim: SimulatedStills, experiments):
    """
    The reflection table with the columns of dials.stills_process: p = 1 and no `lp`.

    `xyzobs.px.value` is where the true orientation puts the spot.  `delpsical.rad` has the sign of DIALS: the angle
    that turns q onto the sphere about q x s0.
    """
    m, options = len(sim.lattice), sim.options
    s0 = sim.s0[sim.lattice]
    q = np.einsum("mij,mj->mi", sim.a_indexed[sim.lattice], sim.h)
    s1_true = np.einsum("mij,mj->mi", sim.a_true[sim.lattice], sim.h) + s0
    d_matrix = np.array(experiments[0].detector[0].get_D_matrix()).reshape(3, 3)

    def position(s1):
        v = s1 @ d_matrix.T
        return np.column_stack([v[:, :2] / v[:, 2:], np.zeros(m)])

    def column(values, dtype=float):
        return flumpy.from_numpy(np.ascontiguousarray(values, dtype=dtype))

    def vectors(values):
        return flumpy.vec_from_numpy(np.ascontiguousarray(values, dtype=float))

    xyz_mm = position(sim.s1)
    to_pixel = np.array([1 / PIXEL_SIZE, 1 / PIXEL_SIZE, 1.0])
    corner = np.floor(xyz_mm[:, :2] * to_pixel[:2]).astype(np.int32) - 3
    zero = np.zeros(m, dtype=np.int32)
    box = (corner[:, 0], corner[:, 0] + 7, corner[:, 1], corner[:, 1] + 7, zero, zero + 1)

    table = flex.reflection_table()
    table["miller_index"] = to_flex_miller(sim.h)
    table["id"] = column(sim.lattice, np.int32)
    table["panel"] = flex.size_t(m, 0)
    flags = table.flags
    table["flags"] = flex.size_t(m, int(flags.predicted) | int(flags.indexed) | int(flags.integrated_sum))
    table["s1"] = vectors(sim.s1)
    table["xyzcal.mm"] = vectors(xyz_mm)
    table["xyzcal.px"] = vectors(xyz_mm * to_pixel)
    table["xyzobs.px.value"] = vectors(position(s1_true) * to_pixel + (0, 0, 0.5))
    table["bbox"] = flex.int6(*(column(x, np.int32) for x in box))
    table["intensity.sum.value"] = column(sim.intensity)
    table["intensity.sum.variance"] = column(sim.variance)
    background = background_variance(options, 1.0 / sim.d) / (options.gain * FOREGROUND_PIXELS)
    table["background.mean"] = column(background)
    table["num_pixels.foreground"] = flex.int(m, FOREGROUND_PIXELS)
    table["partiality"] = flex.double(m, 1.0)
    table["d"] = column(sim.d)
    table["delpsical.rad"] = column(_rotation_to_sphere(q, s0))
    table["entering"] = flex.bool(m, False)
    for i, identifier in enumerate(sim.identifiers):
        table.experiment_identifiers()[i] = identifier
    return table


def _rotation_to_sphere(q: np.ndarray, s0: np.ndarray) -> np.ndarray:
    """Angle (m,) in radians between q (m, 3) and the Ewald sphere, about e1 = q x s0; dials' StillsRayPredictor."""
    k = np.linalg.norm(s0, axis=1)
    q_sq = np.sum(q**2, axis=1)
    e1 = np.cross(q, s0)
    e1 /= np.linalg.norm(e1, axis=1)[:, None]
    along = -0.5 * q_sq / k  # component along s0 of the point on the sphere, which has the length of q
    on_sphere = (along / k)[:, None] * s0 + np.sqrt(q_sq - along**2)[:, None] * np.cross(s0 / k[:, None], e1)
    return -np.arctan2(np.sum(on_sphere * np.cross(q, e1), axis=1), np.sum(on_sphere * q, axis=1))
