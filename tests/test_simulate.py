"""The synthetic stills are what their docstrings say: numbers recomputed through cctbx, files through DIALS."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.simulate import stills as simulate
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytest.importorskip("cctbx", reason="the simulation needs cctbx")
pytestmark = pytest.mark.cctbx

SMALL = StillsOptions(n_lattices=5, seed=7, d_min=3.0, noise=False)
# Everything that can differ between lattices does, and the beam is tilted and polarised
GENERAL = dataclasses.replace(
    SMALL,
    beam_tilt=1.5,
    polarization_fraction=0.9,
    wavelength_jitter=0.002,
    cell_spread=0.001,
    radius_spread=0.2,
    misorientation=0.1,
)
PER_LATTICE = ("a_true", "a_indexed", "s0", "scale", "b_factor", "theta_x", "theta_y", "radius", "mosaic_spread")
PER_REFLECTION = ("h", "s1", "d", "i_full", "partiality", "polarisation", "expected", "intensity", "variance", "wild")


@pytest.fixture(scope="module")
def benchmark():
    return simulate_stills(StillsOptions.unlike_model(n_lattices=200, seed=3))


def r_h_of(sim, matrices):
    """r_h of every reflection of a simulation, (m,), with one matrix a lattice."""
    q = np.einsum("mij,mj->mi", matrices[sim.lattice], sim.h)
    return np.linalg.norm(q + sim.s0[sim.lattice], axis=1) - 1 / sim.wavelength[sim.lattice]


@pytest.mark.parametrize("physics", ["model", "mosaic"])
def test_same_options_give_the_same_bytes_and_other_seeds_do_not(physics):
    options = dataclasses.replace(SMALL, physics=physics, noise=True, wild_fraction=0.05)
    first, second = simulate_stills(options), simulate_stills(options)
    for name in PER_LATTICE + PER_REFLECTION + ("lattice", "asu", "reference_h", "reference_intensity"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    assert first.identifiers == second.identifiers
    other = simulate_stills(dataclasses.replace(options, seed=8))
    assert not np.allclose(first.a_indexed, other.a_indexed)
    assert np.array_equal(first.reference_intensity, other.reference_intensity)
    assert not set(first.identifiers) & set(other.identifiers)


def test_a_lattice_does_not_depend_on_how_many_there_are():
    options = dataclasses.replace(StillsOptions.unlike_model(3, seed=5), d_min=3.0)
    few, many = simulate_stills(options), simulate_stills(dataclasses.replace(options, n_lattices=6))
    for name in PER_LATTICE:
        assert np.array_equal(getattr(few, name), getattr(many, name)[:3], equal_nan=True), name
    for name in PER_REFLECTION:
        assert np.array_equal(getattr(few, name), getattr(many, name)[many.lattice < 3]), name
    assert few.identifiers == many.identifiers[:3]


def test_geometry_does_not_depend_on_noise_scale_or_profile():
    one = simulate_stills(SMALL)
    other = simulate_stills(
        dataclasses.replace(
            SMALL, noise=True, scale_spread=1.0, profile="gaussian", radius=0.0006, useless_fraction=1.0
        )
    )
    assert np.array_equal(one.a_true, other.a_true)
    assert np.array_equal(one.h, other.h)


def test_random_states_of_python_and_flex_are_left_alone():
    from cctbx.array_family import flex

    random.seed(11)
    flex.set_random_seed(11)
    undisturbed = random.random(), flex.random_double()
    random.seed(11)
    flex.set_random_seed(11)
    simulate.reference_intensities(SMALL)
    assert (random.random(), flex.random_double()) == undisturbed


def test_a_true_is_the_scaled_and_rotated_a_indexed():
    from scitbx import matrix

    sim = simulate_stills(GENERAL)
    for i in range(5):
        r_x = matrix.col((1, 0, 0)).axis_and_angle_as_r3_rotation_matrix(sim.theta_x[i])
        r_y = matrix.col((0, 1, 0)).axis_and_angle_as_r3_rotation_matrix(sim.theta_y[i])
        expected = float(sim.cell_scale[i]) * r_y * r_x * matrix.sqr(sim.a_indexed[i].ravel())
        assert sim.a_true[i].ravel() == pytest.approx(expected.elems, abs=1e-15)
    assert np.std(sim.cell_scale) > 1e-4


def test_indexed_matrix_is_u_b_of_the_unit_cell_with_u_a_rotation():
    from cctbx import uctbx
    from scitbx import matrix

    sim = simulate_stills(SMALL)
    b = matrix.sqr(uctbx.unit_cell(SMALL.unit_cell).fractionalization_matrix()).transpose()
    for a in sim.a_indexed:
        assert (matrix.sqr(a.ravel()) * b.inverse()).is_r3_rotation_matrix(rms_tolerance=1e-12)


def test_misorientation_is_the_sigma_of_each_angle_or_fixed_in_size():
    normal = [simulate._draw_lattice(SMALL, i) for i in range(400)]
    angles = np.degrees([(x.theta_x, x.theta_y) for x in normal])
    assert angles.std(axis=0) == pytest.approx([0.05, 0.05], rel=0.12)
    options = dataclasses.replace(SMALL, misorientation_kind="fixed", misorientation=0.2)
    fixed = [simulate._draw_lattice(options, i) for i in range(20)]
    assert [math.degrees(math.hypot(x.theta_x, x.theta_y)) for x in fixed] == pytest.approx([0.2] * 20)


def test_prediction_window_is_that_of_the_indexed_orientation_and_complete():
    sim = simulate_stills(GENERAL)
    assert np.abs(r_h_of(sim, sim.a_indexed)).max() < GENERAL.window < np.abs(r_h_of(sim, sim.a_true)).max()
    assert sim.d.min() >= GENERAL.d_min - 1e-9
    assert sim.d.max() <= GENERAL.d_max + 1e-9
    # volume of the shell about the Ewald sphere inside d_min and outside d_max, times the volume of the cell
    expected = 2 * GENERAL.window * math.pi * (GENERAL.d_min**-2 - GENERAL.d_max**-2) * 79 * 79 * 38
    assert len(sim.h) / 5 == pytest.approx(expected, rel=0.1)
    assert len(set(zip(sim.lattice, *sim.h.T))) == len(sim.h)
    assert np.all(np.diff(sim.lattice) >= 0)


@pytest.mark.parametrize("profile", simulate.PROFILES)
def test_noise_free_intensity_is_the_formula_computed_with_cctbx(profile):
    from cctbx import uctbx
    from cctbx.array_family import flex
    from scitbx import matrix

    options = dataclasses.replace(GENERAL, profile=profile)
    sim = simulate_stills(options)
    array = simulate.reference_intensities(options)[2]
    lookup = dict(zip(array.indices(), array.data()))
    cell = uctbx.unit_cell(options.unit_cell)
    axis = matrix.col((1, 1, 0)).normalize()
    s0_hat = matrix.col((0, 0, -1)).rotate_around_origin(axis, options.beam_tilt, deg=True)
    normal = matrix.col((0, 1, 0)).rotate_around_origin(axis, options.beam_tilt, deg=True)
    f = options.polarization_fraction
    for j in range(0, len(sim.h), 23):
        i, h = sim.lattice[j], tuple(int(x) for x in sim.h[j])
        s0 = s0_hat / sim.wavelength[i]
        r_x = matrix.col((1, 0, 0)).axis_and_angle_as_r3_rotation_matrix(sim.theta_x[i])
        r_y = matrix.col((0, 1, 0)).axis_and_angle_as_r3_rotation_matrix(sim.theta_y[i])
        q = float(sim.cell_scale[i]) * (r_y * r_x * (matrix.sqr(sim.a_indexed[i].ravel()) * matrix.col(h)))
        r_h, r_s = (q + s0).length() - s0.length(), sim.radius[i]
        if profile == "hard_sphere":
            p = 1 - (r_h / r_s) ** 2 if abs(r_h) < r_s else 0
        elif profile == "lorentzian":
            p = r_s**2 / (2 * r_h**2 + r_s**2)
        elif profile == "pearson_vii":  # with the exponent 2
            p = (1 + 2 * (math.sqrt(2) - 1) * (r_h / r_s) ** 2) ** -2
        else:
            p = 2 ** (-2 * (r_h / r_s) ** 2)
        s1 = (matrix.sqr(sim.a_indexed[i].ravel()) * matrix.col(h) + s0).normalize()
        polarisation = (1 - 2 * f) * (1 - normal.dot(s1) ** 2) + f * (1 + s1.dot(s0_hat) ** 2)
        d = cell.d(h) / sim.cell_scale[i]
        i_full = lookup[array.set(indices=flex.miller_index([h])).map_to_asu().indices()[0]]
        expected = sim.scale[i] * math.exp(-2 * sim.b_factor[i] / d**2) * p * polarisation * i_full
        assert sim.i_full[j] == pytest.approx(i_full, rel=1e-12)
        assert sim.intensity[j] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert sim.d[j] == pytest.approx(cell.d(h), rel=1e-12)


def test_intensities_carry_no_polarisation_when_told_so():
    with_it, without = simulate_stills(SMALL), simulate_stills(dataclasses.replace(SMALL, apply_polarisation=False))
    assert np.all(without.polarisation == 1)
    assert with_it.intensity == pytest.approx(without.intensity * with_it.polarisation)
    two_theta = 2 * np.arcsin(SMALL.wavelength / (2 * with_it.d))
    assert with_it.polarisation == pytest.approx((1 + np.cos(two_theta) ** 2) / 2, rel=1e-3)


def integral(y, x):
    return np.sum((y[1:] + y[:-1]) * np.diff(x)) / 2


def q_at(r_h, d, wavelength):
    """Points (n, 3) of spacing d at the distances r_h from the Ewald sphere of s0 = (0, 0, -1/wavelength)."""
    k = 1 / wavelength
    z = (k**2 + d**-2 - (k + r_h) ** 2) / (2 * k)  # |q + s0|^2 = k^2 + |q|^2 - 2 k q_z
    return np.column_stack([np.sqrt(d**-2 - z**2), np.zeros_like(z), z])


def test_partiality_of_a_perfect_crystal_is_the_shape_transform_of_its_domain():
    rng = np.random.default_rng(0)
    r_h = np.linspace(-6e-4, 6e-4, 41)
    q = q_at(r_h, 3.0, 1.3)
    p = simulate.mosaic_partiality(q, np.array([0, 0, -1 / 1.3]), *simulate.mosaic_samples(rng, 50, 0, 0), 2500.0)
    assert p == pytest.approx(np.exp(-math.pi * (2500 * r_h) ** 2), rel=1e-9)
    assert p.max() == pytest.approx(1.0)
    # height and integral of the transform of a block, which has its integral 1/D over the distance in A^-1
    fine = np.linspace(-5e-3, 5e-3, 20001)
    assert integral(np.exp(-math.pi * (2500 * fine) ** 2), fine) == pytest.approx(1 / 2500)
    assert integral(np.sinc(2500 * fine) ** 2, fine) == pytest.approx(1 / 2500, rel=0.02)


@pytest.mark.parametrize("d", [20.0, 4.0, 2.0])
def test_mosaic_partiality_is_the_convolution_of_domain_mosaicity_and_bandwidth(d):
    """To first order e = r_h + N(0, s), s^2 = (eta sqrt(q^2 - q_z^2))^2 + (b q^2 lambda / 2)^2, and variances add."""
    eta, bandwidth, domain, wavelength = math.radians(0.04), 0.0008, 2500.0, 1.3
    r_h = np.linspace(-3e-3, 3e-3, 301)
    q = q_at(r_h, d, wavelength)
    samples = simulate.mosaic_samples(np.random.default_rng(1), 4000, eta, bandwidth)
    p = simulate.mosaic_partiality(q, np.array([0, 0, -1 / wavelength]), *samples, domain)
    across = math.sqrt(d**-2 - (wavelength / 2 / d**2) ** 2)
    width_sq = (eta * across) ** 2 + (bandwidth * wavelength / 2 / d**2) ** 2
    domain_sq = 1 / (2 * math.pi * domain**2)
    expected = math.sqrt(domain_sq / (domain_sq + width_sq)) * np.exp(-(r_h**2) / 2 / (domain_sq + width_sq))
    assert p == pytest.approx(expected, abs=0.01)
    assert integral(p, r_h) == pytest.approx(1 / domain, rel=0.01)  # constant volume


def test_mosaic_samples_have_the_spreads_that_were_asked_for():
    rotations, ratios = simulate.mosaic_samples(np.random.default_rng(2), 2000, 1e-3, 8e-4)
    vectors = np.column_stack([rotations[:, 2, 1], rotations[:, 0, 2], rotations[:, 1, 0]])
    assert vectors.std(axis=0) == pytest.approx([1e-3] * 3, rel=0.02)
    assert ratios.std() == pytest.approx(8e-4, rel=0.02)
    assert np.abs(np.corrcoef(np.column_stack([vectors, ratios]).T) - np.eye(4)).max() < 0.02
    assert np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12


def test_benchmark_reflections_are_wider_at_higher_resolution(benchmark):
    r_h = r_h_of(benchmark, benchmark.a_true)
    widths = []
    for low, high in ((20, 5), (5, 3), (3, 2.3), (2.3, 2)):
        shell = (benchmark.d <= low) & (benchmark.d > high)
        widths.append(math.sqrt(np.average(r_h[shell] ** 2, weights=benchmark.partiality[shell])))
    assert widths == sorted(widths)
    assert widths[-1] > 1.4 * widths[0]


def test_benchmark_is_as_large_wild_and_useless_as_it_says(benchmark):
    assert 265 < len(benchmark.h) / 200 < 300
    assert benchmark.wild.mean() == pytest.approx(0.004, rel=0.3)
    assert 0 < benchmark.useless.mean() < 0.07
    assert np.degrees(np.median(benchmark.mosaic_spread)) == pytest.approx(0.04, rel=0.08)
    assert np.log(benchmark.mosaic_spread).std() == pytest.approx(0.3, rel=0.15)
    assert np.log(benchmark.scale).std() == pytest.approx(0.8, rel=0.15)
    assert np.sqrt(np.mean((4 * benchmark.b_factor) ** 2)) == pytest.approx(6.0, rel=0.15)
    assert benchmark.cell_scale.std() == pytest.approx(0.0008, rel=0.15)
    ratio = benchmark.intensity[benchmark.wild].mean() / benchmark.expected[benchmark.wild].mean()
    assert 15 < ratio < 100


def test_useless_lattices_do_not_know_the_structure_but_its_falloff(benchmark):
    good = ~benchmark.wild & (benchmark.partiality > 0.1)
    full = benchmark.expected / benchmark.partiality

    def correlations(lattices):
        return [
            np.corrcoef(np.log(full[k]), np.log(benchmark.i_full[k]))[0, 1]
            for k in (good & (benchmark.lattice == i) & (benchmark.d < 2.5) for i in lattices)
        ]

    assert np.min(correlations(np.flatnonzero(~benchmark.useless)[:20])) > 0.9
    assert abs(np.mean(correlations(np.flatnonzero(benchmark.useless)))) < 0.3
    useless = good & benchmark.useless[benchmark.lattice]
    assert full[useless & (benchmark.d > 4)].mean() > 3 * full[useless & (benchmark.d < 2.5)].mean()


@pytest.mark.parametrize("gain, background", [(1.0, 100.0), (3.0, 20.0)])
def test_pulls_of_the_noise_are_standard_normal(gain, background):
    from scipy import stats

    sim = simulate_stills(dataclasses.replace(SMALL, n_lattices=30, noise=True, gain=gain, background=background))
    pulls = (sim.intensity - sim.expected) / np.sqrt(sim.variance)
    assert pulls.mean() == pytest.approx(0, abs=4 / math.sqrt(len(pulls)))
    assert pulls.std() == pytest.approx(1, abs=4 / math.sqrt(2 * len(pulls)))
    assert stats.kstest(pulls, "norm").pvalue > 0.01
    ring = background * (0.3 + 0.7 * np.exp(-0.5 * ((1 / sim.d - 0.3) / 0.08) ** 2))
    assert sim.variance == pytest.approx(gain * sim.expected + ring)


def test_observed_variance_is_that_of_the_noisy_counts(benchmark):
    background = simulate.background_variance(benchmark.options, 1 / benchmark.d)
    assert benchmark.variance == pytest.approx(np.maximum(benchmark.intensity, 0) + background)
    assert benchmark.variance.min() > 0


def test_reference_is_a_wilson_structure_without_absences_or_duplicates():
    from cctbx import sgtbx

    h, intensity, array = simulate.reference_intensities(StillsOptions())
    group = sgtbx.space_group_info("P43212").group()
    assert not any(group.is_sys_absent(tuple(int(x) for x in row)) for row in h)
    assert not np.any((h[:, 0] == 0) & (h[:, 1] == 0) & (h[:, 2] % 4 != 0))
    assert not np.any((h[:, 1] == 0) & (h[:, 2] == 0) & (h[:, 0] % 2 != 0))
    assert len({tuple(row) for row in h}) == len(h)
    assert array.is_xray_intensity_array() and array.is_in_asu() and not array.anomalous_flag()
    assert array.complete_set(d_max=20.0, d_min=2.0).size() == pytest.approx(len(h), abs=2)
    assert intensity.mean() == pytest.approx(1000.0)
    acentric = array.select(~array.centric_flags().data())
    acentric.setup_binner(n_bins=10)
    assert np.mean(acentric.second_moment(use_binning=True).data[1:-1]) == pytest.approx(2.0, abs=0.15)
    slope = np.polyfit(array.d_star_sq().data().as_numpy_array(), np.log(intensity), 1)[0]
    assert -slope * 2 == pytest.approx(20.0, abs=8.0)  # I ~ exp(-B d*^2 / 2) times the falloff of the atoms


def test_observed_indices_are_never_absent_and_cover_both_friedel_mates():
    from cctbx import sgtbx

    sim = simulate_stills(dataclasses.replace(SMALL, n_lattices=40))
    group = sgtbx.space_group_info("P43212").group()
    unique = {tuple(int(x) for x in row) for row in sim.h}
    assert not any(group.is_sys_absent(row) for row in unique)
    assert any(tuple(-x for x in row) in unique for row in unique)
    assert sim.i_full == pytest.approx(sim.reference_intensity[sim.asu])


@pytest.mark.parametrize("space_group, cell", [("P1", (30, 40, 50, 80, 95, 100)), ("C2", (60, 40, 50, 90, 105, 90))])
def test_other_symmetries_work(space_group, cell):
    options = dataclasses.replace(SMALL, space_group=space_group, unit_cell=cell, window=0.002)
    sim = simulate_stills(options)
    assert len(sim.h) > 100
    assert np.abs(r_h_of(sim, sim.a_indexed)).max() < options.window


@pytest.mark.parametrize(
    "wrong", [{"physics": "magic"}, {"profile": "cube"}, {"d_min": 30.0}, {"d_min": 0.7}, {"n_lattices": 0}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StillsOptions(**wrong)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("dials", reason="the files are those of DIALS")
    folder = tmp_path_factory.mktemp("stills")
    sim = simulate_stills(dataclasses.replace(GENERAL, noise=True))
    return sim, write_stills(sim, str(folder / "stills"))


@pytest.mark.dials
def test_files_load_in_dials_and_agree_with_each_other(written):
    from dials.array_family import flex
    from dxtbx.model.experiment_list import ExperimentList

    sim, names = written
    experiments = ExperimentList.from_file(names[0], check_format=False)
    table = flex.reflection_table.from_file(names[1])
    assert list(experiments.identifiers()) == sim.identifiers
    table.assert_experiment_identifiers_are_consistent(experiments)
    assert len(table) == len(sim.h)
    assert len(experiments.detectors()) == 1 and len(experiments.beams()) == 5
    assert not experiments.scans()[0] and not experiments.goniometers()[0]
    crystal = experiments[0].crystal
    assert type(crystal).__name__ == "MosaicCrystalSauter2014"
    assert crystal.get_unit_cell().parameters() == pytest.approx(GENERAL.unit_cell)
    assert crystal.get_space_group().type().lookup_symbol() == "P 43 21 2"
    assert table.get_flags(table.flags.integrated_sum).count(True) == len(table)


@pytest.mark.dials
def test_r_h_and_polarisation_recomputed_from_the_files_are_the_simulated_ones(written):
    from dials.array_family import flex
    from dxtbx import flumpy
    from dxtbx.model.experiment_list import ExperimentList

    sim, names = written
    experiments = ExperimentList.from_file(names[0], check_format=False)
    table = flex.reflection_table.from_file(names[1])
    lattice = flumpy.to_numpy(table["id"])
    h = flumpy.to_numpy(table["miller_index"].as_vec3_double())
    a = np.array([e.crystal.get_A() for e in experiments]).reshape(-1, 3, 3)[lattice]
    s0 = np.array([e.beam.get_s0() for e in experiments])[lattice]
    s = np.einsum("mij,mj->mi", a, h) + s0
    r_h = np.linalg.norm(s, axis=1) - np.linalg.norm(s0, axis=1)
    assert np.abs(r_h - r_h_of(sim, sim.a_indexed)).max() < 1e-12
    s1 = flumpy.to_numpy(table["s1"])
    assert np.abs(np.cross(s1, s)).max() < 1e-12
    assert np.linalg.norm(s1, axis=1) == pytest.approx(np.linalg.norm(s0, axis=1))
    beam = experiments[0].beam
    first = lattice == 0
    p = simulate.polarisation_factor(
        s1[first], s0[0], np.array(beam.get_polarization_normal()), beam.get_polarization_fraction()
    )
    assert p == pytest.approx(sim.polarisation[first], rel=1e-12)
    assert np.dot(beam.get_polarization_normal(), beam.get_s0()) == pytest.approx(0, abs=1e-12)


@pytest.mark.dials
def test_spots_are_on_the_detector_where_dxtbx_puts_them_and_delpsi_is_that_of_dials(written):
    from dials.algorithms.spot_prediction import StillsReflectionPredictor
    from dials.array_family import flex
    from dxtbx import flumpy
    from dxtbx.model.experiment_list import ExperimentList

    sim, names = written
    experiments = ExperimentList.from_file(names[0], check_format=False)
    table = flex.reflection_table.from_file(names[1])
    panel = experiments[0].detector[0]
    px = flumpy.to_numpy(table["xyzcal.px"])
    for j in range(0, len(table), 31):
        mm = panel.get_ray_intersection(table["s1"][j])
        assert table["xyzcal.mm"][j][:2] == pytest.approx(mm)
        assert px[j, :2] == pytest.approx(panel.millimeter_to_pixel(mm))
    assert px[:, :2].min() > 3
    assert px[:, :2].max() < panel.get_image_size()[0] - 4
    own = table.select(table["id"] == 2)
    predicted = own.copy()
    StillsReflectionPredictor(experiments[2]).for_reflection_table(predicted, experiments[2].crystal.get_A())
    assert flumpy.to_numpy(own["delpsical.rad"]) == pytest.approx(flumpy.to_numpy(predicted["delpsical.rad"]), abs=1e-9)
    shift = flumpy.to_numpy(own["xyzcal.px"]) - flumpy.to_numpy(predicted["xyzcal.px"])
    assert np.abs(shift).max() < 1.0  # DIALS turns q onto the sphere, s1 here is q + s0 rescaled


@pytest.mark.dials
def test_truth_files_hold_the_structure_and_every_lattice(written):
    from iotbx import reflection_file_reader

    sim, names = written
    arrays = reflection_file_reader.any_reflection_file(names[2]).as_miller_arrays()
    assert [x.info().label_string() for x in arrays] == ["I,SIGI"]
    assert arrays[0].is_xray_intensity_array()
    truth = {tuple(int(x) for x in row): value for row, value in zip(sim.reference_h, sim.reference_intensity)}
    found = arrays[0].map_to_asu()
    assert len(truth) == found.size()
    assert [truth[h] for h in found.indices()] == pytest.approx(list(found.data()), rel=1e-5)
    with open(names[3]) as handle:
        written_truth = json.load(handle)
    assert list(written_truth["lattices"]) == sim.identifiers
    lattice = written_truth["lattices"][sim.identifiers[4]]
    assert lattice["theta_x"] == sim.theta_x[4]
    assert lattice["mosaic_spread"] is None
    assert np.array_equal(lattice["a_true"], sim.a_true[4])
    assert StillsOptions(**written_truth["options"]) == sim.options


@pytest.mark.dials
def test_dials_show_reads_the_files(written, run_program, tmp_path):
    sim, names = written
    result = run_program("dials.show", *names[:2], cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sim.identifiers[-1] in result.stdout
    assert "intensity.sum.value" in result.stdout
