"""Scaled data sets as images: the values against dials.export, variances, numbering of images, beam intensity."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import sgtbx, uctbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.electron import scaled_images
from dials_postrefine.files.electron.intensities import counting_variance
from dials_postrefine.files.electron.scaled_images import ImageChoice, read_images
from dials_postrefine.files.images import beam_intensity
from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

pytestmark = pytest.mark.dials

CASES = [
    (lambda t: t.__delitem__("inverse_scale_factor"), {}, "are not scaled"),
    (lambda t: t.__delitem__("intensity.scale.value"), {}, "are not scaled"),
    (lambda t: t.__delitem__("intensity.prf.value"), {"intensity": "profile"}, "intensity.prf.value"),
    (lambda t: t.__delitem__("xyzcal.px"), {}, "xyzcal.px"),
    (lambda t: t.__setitem__("intensity.scale.value", flex.double(len(t), np.nan)), {}, "No observation can"),
    (lambda t: None, {"beam": "images"}, "images can't be opened"),
    (lambda t: t.__delitem__("background.mean"), {"beam": "background"}, "background.mean"),
    (lambda t: None, {"space_group": "P4"}, "space group P 4"),
]


@pytest.fixture(scope="module")
def sweeps():
    return simulate_sweeps(SweepOptions(n_crystals=2, n_images=60))


@pytest.fixture()
def write(sweeps, tmp_path):
    """A function: change of the table -> names of the .expt and .refl."""

    def write(change=None):
        table = sweeps.table.copy()
        if change:
            change(table)
        return [
            [name] for name in write_sweeps(type(sweeps)(sweeps.experiments, table, None, None), tmp_path / "scaled")
        ]

    return write


@pytest.mark.data
def test_values_are_those_of_dials_export(run_program, shared_data, tmp_path):
    folder = shared_data / "ed_quartz_scaled"
    expt, refl = str(folder / "scaled.expt"), str(folder / "scaled.refl")
    run_program("dials.export", expt, refl, "format=shelx", "shelx.scale=False", cwd=tmp_path, check=True)
    exported: dict[tuple, list[float]] = {}
    for line in (tmp_path / "dials.hkl").read_text().splitlines():
        h = tuple(int(line[i : i + 4]) for i in (0, 4, 8))
        if not any(h):
            break
        exported.setdefault(h, []).append(float(line[12:20]))
    files = read_images([expt], [refl], ImageChoice(variance="scaled"))
    ours: dict[tuple, list[float]] = {}
    for h, value in zip(files.images.h, files.images.intensity):
        ours.setdefault(tuple(map(int, h)), []).append(value)
    pairs = []
    for h, values in exported.items():
        # dials.export has left out what was hardly recorded; what there is has its value here
        for value in values:
            nearest = min(ours[h], key=lambda one: abs(one - value))
            pairs.append((value, nearest))
    theirs, found = np.array(pairs).T
    assert len(found) > 0.95 * len(files.row)
    assert np.abs(theirs - found).max() <= 0.00501  # F8.2


def test_scaled_values_and_counting_variances(write, sweeps):
    files = read_images(*write(), ImageChoice(image_width=0.0))
    table = sweeps.table
    value, variance, scale = (
        flumpy.to_numpy(table[name])
        for name in ("intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor")
    )
    np.testing.assert_allclose(files.images.intensity, (value / scale)[files.row])
    # without an error model the variances of dials.scale are those of the counts
    np.testing.assert_allclose(files.images.variance, (variance / scale**2)[files.row])


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_the_variance_follows_how_intensities_were_combined(w):
    rng = np.random.default_rng(0)
    n = 50
    table = flex.reflection_table()
    i_prf, i_sum, v_prf, v_sum = rng.uniform(1.0, 2.0, (4, n))
    lp, qe, partiality = rng.uniform(0.5, 1.0, (3, n))
    for name, values in (
        ("intensity.prf.value", i_prf),
        ("intensity.prf.variance", v_prf),
        ("intensity.sum.value", i_sum),
        ("intensity.sum.variance", v_sum),
        ("lp", lp),
        ("qe", qe),
        ("partiality", partiality),
    ):
        table[name] = flumpy.from_numpy(values.copy())
    c = lp / qe
    value = w * i_prf * c + (1.0 - w) * i_sum * c / partiality
    expected = w * v_prf * c**2 + (1.0 - w) * v_sum * (c / partiality) ** 2
    np.testing.assert_allclose(counting_variance(table, value), expected, rtol=1e-9)
    table["intensity.prf.variance"] = flex.double(n, -1.0)  # as DIALS has it where no profile was fitted
    np.testing.assert_allclose(counting_variance(table, value), v_sum * (c / partiality) ** 2)
    for name in ("intensity.prf.value", "intensity.prf.variance"):
        del table[name]
    np.testing.assert_allclose(counting_variance(table, value), v_sum * (c / partiality) ** 2)


def test_columns_are_taken_as_they_are_and_a_remark_says_so(write, sweeps):
    files = read_images(*write(), ImageChoice(intensity="profile", image_width=0.0))
    value = flumpy.to_numpy(sweeps.table["intensity.prf.value"])
    np.testing.assert_array_equal(files.images.intensity, value[files.row])
    assert len(files.remarks) == 1 and "INTEGRATED" in files.remarks[0]
    scaled = read_images(*write(), ImageChoice(image_width=0.0))
    assert scaled.remarks == []
    others, kept = scaled.with_column("profile")
    assert kept.all()
    np.testing.assert_array_equal(others.intensity, value[scaled.row])


def test_images_are_where_the_spots_have_their_centres(write, sweeps):
    def change(table):
        x, y, z = table["xyzcal.px"].parts()
        z[0], z[1] = -0.3, 60.4
        table["xyzcal.px"] = flex.vec3_double(x, y, z)

    files = read_images(*write(change), ImageChoice(image_width=0.0))
    images = files.images
    z = flumpy.to_numpy(sweeps.table["xyzcal.px"])[files.row, 2]
    ids = flumpy.to_numpy(sweeps.table["id"])[files.row]
    expected = np.clip(np.floor(z).astype(int), 0, 59) + 60 * ids
    expected[0], expected[1] = 0, 59
    np.testing.assert_array_equal(images.image, expected)
    assert images.n_images == 120 and images.n_experiments == 2
    np.testing.assert_array_equal(images.number, np.tile(np.arange(1, 61), 2))


def test_reflections_are_near_the_sphere_in_the_middle_of_their_image(write):
    from dials_postrefine.electron.spread.orientation import excitation_error

    for width in (0.0, 4.0):
        images = read_images(*write(), ImageChoice(image_width=width)).images
        s = excitation_error(images.a_matrix[images.image], images.s0[images.image], images.h)
        half = np.radians(0.5 * max(1.0, width))
        # half an image away from it, as far as it turns |h|
        assert np.abs(s).max() < 1.05 * half * np.sqrt(images.d_star_sq.max()) and np.abs(s).max() > 0.3 * half


@pytest.mark.parametrize(("width", "together"), [(0.0, 1), (1.0, 1), (3.0, 3), (7.0, 7), (1000.0, 60)])
def test_images_are_binned_by_width(write, width, together):
    images = read_images(*write(), ImageChoice(image_width=width)).images
    assert (images.last - images.number + 1).max() == together
    assert images.n_images == 2 * -(-60 // together)
    np.testing.assert_allclose(np.degrees(images.angle[0]), 0.5 * together, atol=1e-9)


def test_images_of_few_spots_are_binned(write):
    images = read_images(*write()).images
    together = int((images.last - images.number + 1).max())
    alone = len(images.h) / 120
    assert together == int(np.ceil(10 / alone)) > 1


def test_unique_numbers_and_rotations_are_those_of_the_laue_group(write):
    files = read_images(*write())
    images = files.images
    group = files.space_group.build_derived_laue_group()
    sets = {}
    for h, unique in zip(images.h[::5], images.unique[::5]):
        mates = frozenset(tuple(int(x) for x in np.rint(h @ np.reshape(op.r().as_double(), (3, 3)))) for op in group)
        sets.setdefault(mates, set()).add(int(unique))
    assert all(len(numbers) == 1 for numbers in sets.values())
    assert len({min(numbers) for numbers in sets.values()}) == len(sets)
    assert len(images.symmetry.laue) == 6 and len(images.symmetry.lattice) == 12
    metric = np.reshape(uctbx.unit_cell(files.cell).reciprocal_metrical_matrix(), 6)
    g = np.array(
        [[metric[0], metric[3], metric[4]], [metric[3], metric[1], metric[5]], [metric[4], metric[5], metric[2]]]
    )
    for m in images.symmetry.lattice:
        np.testing.assert_allclose(m @ g @ m.T, g, rtol=1e-6, atol=1e-9)


def test_lattice_rotations_of_a_primitive_setting_of_a_centred_cell():
    cell = uctbx.unit_cell((8.0, 8.0, 12.0, 90.0, 90.0, 90.0))
    group = sgtbx.space_group_info("I4").group()
    to_primitive = group.z2p_op()
    found = scaled_images.symmetry_of(cell.change_basis(to_primitive).parameters(), group.change_basis(to_primitive))
    assert len(found.laue) == 4 and len(found.lattice) == 8
    np.testing.assert_array_equal(found.laue[0], np.eye(3))


def test_what_is_left_out_is_counted(write, sweeps):
    n = len(sweeps.table)

    def change(table):
        flags = table["flags"]
        flags[0] = 0
        flags[1] |= int(table.flags.outlier_in_scaling)
        flags[2] |= int(table.flags.excluded_for_scaling)
        table["intensity.scale.value"][3] = np.nan
        table["inverse_scale_factor"][4] = 0.0
        table["intensity.prf.variance"][5] = table["intensity.sum.variance"][5] = -1.0

    names = write(change)
    files = read_images(*names)
    assert files.n_excluded == {
        "not integrated": 1,
        "outliers of scaling": 1,
        "excluded from scaling": 1,
        "with bad intensity, variance or scale": 3,
    }
    assert len(files.row) == n - 6
    assert len(read_images(*names, ImageChoice(keep_outliers=True)).row) == n - 5
    inside = read_images(*names, ImageChoice(d_min=1.0, d_max=3.0)).images
    assert inside.d_star_sq.max() <= 1.0 and inside.d_star_sq.min() >= 1.0 / 9.0


def test_absences_are_counted_and_a_wrong_centring_is_seen(write):
    """In R32 two thirds of the reflections of a primitive lattice would be absent; they are as strong as the rest."""
    right, wrong = (read_images(*write(), ImageChoice(space_group=group)) for group in ("P3221", "R32:H"))
    assert not right.absences().strong and right.absences().n == np.count_nonzero(right.absent)
    h, found = wrong.images.h, wrong.absences()
    assert found.n == np.count_nonzero((-h[:, 0] + h[:, 1] + h[:, 2]) % 3) > 0.6 * len(h)
    assert found.strong and found.ratio == pytest.approx(1.0, abs=0.3)
    assert wrong.n_input == len(h) + sum(wrong.n_excluded.values())


def test_reflections_of_no_experiment_are_counted(write, sweeps):
    def change(table):
        table["id"][7] = -1

    files = read_images(*write(change))
    assert files.n_excluded == {"of no experiment": 1} and files.n_input == len(sweeps.table)


@pytest.mark.parametrize(("change", "choice", "words"), CASES)
def test_what_can_not_be_used_is_one_sentence(write, change, choice, words):
    with pytest.raises(Sorry) as error:
        read_images(*write(change), ImageChoice(**choice))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_background_gives_the_level_of_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 20, 2000)
    d_star_sq = rng.uniform(0.1, 1.0, 2000)
    level = rng.uniform(0.5, 2.0, 20)
    background = level[image] * 50.0 * np.exp(-3.0 * d_star_sq) * rng.lognormal(0.0, 0.1, 2000)
    background[:5] = 0.0, -1.0, np.nan, np.inf, 0.0
    found = beam_intensity.background_levels(background, d_star_sq, image, 21)
    assert np.isnan(found[20])
    ratio = found[:20] / level
    np.testing.assert_allclose(ratio / ratio.mean(), 1.0, atol=0.08)


def test_the_annulus_gives_the_exposure_of_the_image():
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageInMemory, with_images

    experiments = make_experiments(SeriesOptions(n_images=4))
    shape = experiments[0].detector[0].get_image_size()[::-1]
    rng = np.random.default_rng(1)
    levels = [20.0, 40.0, 30.0, 10.0]
    panels = [rng.poisson(level, shape).astype(np.int32) for level in levels]
    panels[2][:, :5] = -1  # not to be trusted
    experiments = with_images(experiments, [[ImageInMemory([panel]) for panel in panels]])
    found = beam_intensity.annulus_means(experiments[0], 2.5, 6.0)
    np.testing.assert_allclose(found, levels, rtol=0.02)
    with pytest.raises(Sorry, match="No pixel lies between"):
        beam_intensity.annulus_means(experiments[0], 0.1, 0.2)


@pytest.mark.parametrize("width", [0.0, 1.0])
def test_the_beam_intensity_of_images_on_disk(tmp_path, width):
    from dials_postrefine.numerics.indices import to_flex_miller
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions

    experiments = make_experiments(SeriesOptions(n_images=6, oscillation=0.5))
    exposures = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 5.0])
    experiments[0].scan.set_exposure_times(exposures.tolist())
    expt = write_series(experiments, None, tmp_path / "image", ImageOptions(), background=lambda s: 2e6 + 0.0 * s[:, 0])
    n = 12
    table = flex.reflection_table()
    table["id"] = flex.int(n, 0)
    table.experiment_identifiers()[0] = experiments[0].identifier
    table["miller_index"] = to_flex_miller(np.tile([[1, 2, 3]], (n, 1)))
    table["flags"] = flex.size_t(n, int(table.flags.integrated_sum))
    table["s1"] = flex.vec3_double(n, (0.0, 0.0, -1.0))
    z = np.repeat(np.arange(6), 2) + 0.5
    table["xyzcal.px"] = flex.vec3_double([(1.0, 1.0, float(one)) for one in z])
    for name in ("intensity.sum", "intensity.scale"):
        table[f"{name}.value"], table[f"{name}.variance"] = flex.double(n, 1.0), flex.double(n, 0.1)
    table["inverse_scale_factor"] = flex.double(n, 1.0)
    table["background.mean"] = flex.double(n, 7.0)
    table.as_file(str(tmp_path / "scaled.refl"))
    choice = ImageChoice(image_width=width, annulus=(6.0, 2.5))
    files = read_images([str(expt)], [str(tmp_path / "scaled.refl")], choice)
    level = files.images.beam_intensity
    expected = exposures if width == 0.0 else exposures.reshape(3, 2).mean(axis=1)
    np.testing.assert_allclose(level / level.mean(), expected / expected.mean(), rtol=0.02)
    assert "on the images" in files.beam_source
    (tmp_path / "image_00003.cbf").unlink()
    missing = read_images([str(expt)], [str(tmp_path / "scaled.refl")], choice)
    if width == 0.0:
        assert np.flatnonzero(np.isnan(missing.images.beam_intensity)).tolist() == [2]


@pytest.mark.parametrize("detector", ["flat", "tilted", "reversed"])
def test_the_annulus_is_where_dials_has_its_resolutions(detector):
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments

    experiment = make_experiments(SeriesOptions(n_images=1, detector=detector))[0]
    panel, s0 = experiment.detector[0], experiment.beam.get_s0()
    found = beam_intensity._annulus(panel, np.array(s0), 2.5, 6.0)[::7, ::7]
    n_fast, n_slow = panel.get_image_size()
    places = [[(x + 0.5, y + 0.5) for x in range(0, n_fast, 7)] for y in range(0, n_slow, 7)]
    d = np.array([[panel.get_resolution_at_pixel(s0, place) for place in row] for row in places])
    # DIALS' resolutions have the parallax of the sensor, a fraction of a pixel
    assert np.count_nonzero(found != ((d > 2.5) & (d <= 6.0))) <= 0.01 * found.sum()
