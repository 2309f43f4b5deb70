"""
Simulated sweeps of electron diffraction as DIALS has them after scaling: experiments, one reflection table, the truth.

Reflections are those that DIALS predicts; intensities are of quartz (simulate/electrons.py), the kinematical ones from
cctbx' form factors for electrons.  intensity.prf and .sum hold what an integrator would have found, before Lorentz
correction and scaling,

    I_sum = I g/lp,     lp = |m2.(s1 x s0)|/|s0|^2 of the axis m2,     g = 1 + 0.5 sin(image/20)

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cctbx import crystal, xray
from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import ExperimentList

from dials_postrefine.files.dials.models import setting_matrix
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.simulate.electrons import dependence, observe
from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments

CELL = (4.92489, 4.92489, 5.40137, 90.0, 90.0, 120.0)
SPACE_GROUP = "P3121"
# Label, fractional coordinates, B (A^2).
ATOMS = (("Si", (-0.4697, 0.0, 1.0 / 3.0), 0.5), ("O", (-0.4135, -0.2669, 0.2143), 1.0))
SMALLEST_LORENTZ = 0.05


@dataclass(frozen=True)
class SweepOptions:
    """
    Crystals of quartz at random orientations, each turned through n_images of `oscillation` degrees; tau and
    perturbation (a of simulate/electrons.py); v = error^2 J <J> + (floor <J>)^2.
    """

    n_crystals: int = 4
    n_images: int = 100
    oscillation: float = 1.0
    d_min: float = 0.8
    tau: float = 0.0
    perturbation: float = 0.0
    error: float = 0.02
    floor: float = 0.003
    seed: int = 0


@dataclass
class Sweeps:
    """experiments, table of all, and by reflection |F| of the structure and the factor 1 + a f (n,)."""

    experiments: ExperimentList
    table: object
    f_calc: np.ndarray
    factor: np.ndarray


def structure():
    """Quartz (xray.structure)."""
    symmetry = crystal.symmetry(unit_cell=CELL, space_group_symbol=SPACE_GROUP)
    quartz = xray.structure(crystal_symmetry=symmetry)
    for label, site, b in ATOMS:
        quartz.add_scatterer(xray.scatterer(label, site=site, b=b))
    quartz.scattering_type_registry(table="electron")
    return quartz


def simulate_sweeps(options: SweepOptions = SweepOptions()) -> Sweeps:
    """The sweeps (module docstring)."""
    experiments, tables = ExperimentList(), []
    for k in range(options.n_crystals):
        series = SeriesOptions(
            name=f"sweep-{k}",
            unit_cell=CELL,
            space_group=SPACE_GROUP,
            wavelength=0.02508,
            distance=900.0,
            pixel_size=0.1,
            image_size=(1024, 1024),
            n_images=options.n_images,
            oscillation=options.oscillation,
            seed=1000 * options.seed + k,
        )
        experiment = make_experiments(series)[0]
        experiments.append(experiment)
        predict = ScanStaticReflectionPredictor(experiment, dmin=options.d_min)  # which asks for no images
        table = predict.for_ub(experiment.crystal.get_A())
        z = flumpy.to_numpy(table["xyzcal.px"])[:, 2]
        table = table.select(flumpy.from_numpy((z >= 0.0) & (z < options.n_images)))
        table["id"] = flex.int(len(table), k)
        tables.append(_without_identifiers(table))
    table = tables[0]
    for more in tables[1:]:
        table.extend(more)
    for k, experiment in enumerate(experiments):
        table.experiment_identifiers()[k] = experiment.identifier
    return _fill(options, experiments, table)


def _without_identifiers(table):
    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    return table


def _fill(options: SweepOptions, experiments, table) -> Sweeps:
    rng = np.random.default_rng(options.seed)
    h, ids = miller_indices_to_numpy(table["miller_index"]), flumpy.to_numpy(table["id"])
    z, s1 = flumpy.to_numpy(table["xyzcal.px"])[:, 2], flumpy.to_numpy(table["s1"])
    kinematical = structure().structure_factors(d_min=0.9 * options.d_min).f_calc()
    expanded = kinematical.as_amplitude_array().expand_to_p1().generate_bijvoet_mates()
    known = dict(zip(expanded.indices(), expanded.data()))
    f_calc = np.array([known.get(tuple(map(int, index)), 0.0) for index in h])
    theta = np.empty(len(h))
    lorentz = np.empty(len(h))
    for k, experiment in enumerate(experiments):
        s0, axis = np.array(experiment.beam.get_s0()), np.array(experiment.goniometer.get_rotation_axis())
        for i in np.unique(np.floor(z[ids == k])):
            on_image = (ids == k) & (np.floor(z) == i)
            c = np.linalg.inv(setting_matrix(experiment, i))[2]
            theta[on_image] = np.arccos(np.abs(c @ s0) / np.linalg.norm(c) / np.linalg.norm(s0))
        lorentz[ids == k] = np.abs(np.cross(s1[ids == k], s0) @ axis) / (s0 @ s0)
    factor = 1.0 + options.perturbation * dependence(theta)
    expected = (f_calc * factor) ** 2
    mean = expected.mean()
    variance = options.error**2 * expected * mean + (options.floor * mean) ** 2
    intensity = observe(rng, expected, variance, options.tau)
    scale = 1.0 + 0.5 * np.sin(z / 20.0)
    lp = np.maximum(lorentz, SMALLEST_LORENTZ * lorentz.max())
    columns = {
        "intensity.scale.value": intensity * scale,
        "intensity.scale.variance": variance * scale**2,
        "inverse_scale_factor": scale,
        "inverse_scale_factor_variance": np.zeros_like(scale),
        "lp": lp,
        "partiality": np.ones_like(scale),
        "background.mean": 5.0 * np.exp(-2.0 * flumpy.to_numpy(table["s1"])[:, 0] ** 2),
    }
    for kind in ("sum", "prf"):
        columns[f"intensity.{kind}.value"] = intensity * scale / lp
        columns[f"intensity.{kind}.variance"] = variance * (scale / lp) ** 2
    for name, values in columns.items():
        table[name] = flumpy.from_numpy(np.ascontiguousarray(values))
    flags = table.flags
    table["flags"] = flex.size_t(len(table), int(flags.integrated_sum | flags.integrated_prf | flags.scaled))
    table["miller_index"] = to_flex_miller(h)
    return Sweeps(experiments, table, f_calc, factor)


def write_sweeps(sweeps: Sweeps, prefix: str) -> tuple[str, str]:
    """Write prefix.expt and prefix.refl; returns their names."""
    names = f"{prefix}.expt", f"{prefix}.refl"
    sweeps.experiments.as_file(names[0])
    sweeps.table.as_file(names[1])
    return names
