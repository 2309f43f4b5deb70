"""Features that symmetry does not change, folds, R1, and trees that find a dependence where there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.trees import intensitymodel as model
from dials_postrefine.electron.trees.features import find_representatives, make_features
from dials_postrefine.executors.processes import single_thread

B = np.diag([0.2, 0.2, 0.125])
SMALL = model.TreeSettings(max_iter=40, n_permutations=2)


@pytest.fixture(autouse=True)
def one_thread():
    """As the program has it: the trees of scikit-learn beside the OpenMP of cctbx may find leaves without anything."""
    import sklearn.ensemble  # noqa: F401 - loads the library whose threads are limited

    with single_thread():
        yield


def test_representatives_are_the_same_of_mates_alone(make_images):
    images = make_images(n_spots=80)
    found, operation = find_representatives(images.h, images.symmetry.laue)
    np.testing.assert_allclose(np.einsum("ni,nij->nj", images.h, operation), found)
    _, number = np.unique(found, axis=0, return_inverse=True)
    for a, b in ((number.ravel(), images.unique), (images.unique, number.ravel())):
        assert all(len(np.unique(b[a == k])) == 1 for k in np.unique(a))


def test_a_mate_of_the_same_geometry_has_the_same_features(make_images):
    """Indexed otherwise, h M of A M^-T, a spot is the same to the crystal."""
    images = make_images(rotations=Rotation.random(4, random_state=0).as_matrix(), n_spots=10)
    one = make_features(images, B)
    for m in images.symmetry.laue:
        equivalents = replace(
            images, h=np.rint(images.h @ m).astype(int), a_matrix=images.a_matrix @ np.linalg.inv(m).T
        )
        np.testing.assert_allclose(make_features(equivalents, B).values, one.values, atol=1e-9)


def test_the_columns_of_a_feature_are_found_by_name(make_images):
    images = make_images(n_images=3, n_spots=5)
    n = len(images.h)
    scale = np.linspace(1.0, 2.0, n)
    found = make_features(images, B, {"scale": scale, "background": np.arange(n), "f_calc": np.ones(n)})
    assert found.names == ["index", "resolution", "orientation", "excitation", "scale", "background", "f_calc"]
    assert found.values.shape == (n, 3 + 1 + 3 + 1 + 1 + 1 + 1)
    np.testing.assert_allclose(found.columns(["scale"])[:, 0], np.log(scale))
    np.testing.assert_allclose(found.columns(["resolution"])[:, 0] ** 2, images.d_star_sq)
    np.testing.assert_allclose(np.linalg.norm(found.columns(["orientation"]), axis=1), 1.0)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_folds_hold_whole_blocks_and_whole_indices(make_images, n_folds):
    images = make_images(n_images=20)
    blocks = model.make_folds(images, "image_blocks", n_folds)
    assert np.all(np.diff(blocks[np.argsort(images.image, kind="stable")]) >= 0)
    unique = model.make_folds(images, "unique", n_folds)
    for fold, own in ((blocks, images.image), (unique, images.unique)):
        assert set(fold) == set(range(n_folds))
        assert all(len(set(fold[own == k])) == 1 for k in np.unique(own))
    images.experiment = np.arange(20) // 10
    assert set(model.make_folds(images, "experiment", n_folds)) == {0, 1}


def test_one_experiment_can_not_be_split_by_experiment(make_images):
    with pytest.raises(Unusable, match="one experiment only"):
        model.make_folds(make_images(), "experiment", 5)


def test_auto_splits_by_the_first_of_which_there_are_two(make_images):
    images = make_images(n_images=20)
    assert model.choose_split(images) == "image_blocks"
    images.experiment = np.arange(20) // 10
    assert model.choose_split(images) == "experiment"
    images.image = np.zeros_like(images.image)  # all spots on the first image
    assert model.choose_split(images) == "unique"


def test_r1_and_its_esd():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        image = np.repeat(np.arange(50), 8)
        f = rng.exponential(size=400)
        off = np.abs(0.2 * f * rng.normal(size=400) * (1.0 + 0.5 * rng.normal(size=50))[image])
        found.append(model.ratio_of_sums(off, f, image))
    values = np.array([one.value for one in found])
    assert np.mean([one.esd for one in found]) == pytest.approx(values.std(), rel=0.12)
    one = model.ratio_of_sums(np.array([1.0, 2.0]), np.array([4.0, 6.0]), np.array([0, 1]))
    assert (one.value, one.n) == (pytest.approx(0.3), 2)


def test_no_prediction_has_seen_what_it_predicts(make_images):
    """With data of pure chance, whoever has seen them does better than chance."""
    images = make_images(n_images=30, n_spots=40)
    rng = np.random.default_rng(1)
    images.intensity = rng.exponential(size=len(images.h))
    f_calc = rng.exponential(size=images.unique.max() + 1)[images.unique]
    features = make_features(images, B, {"f_calc": f_calc})
    found = model.predict(images, features, model.make_folds(images, "unique", 4), SMALL, importances=False)
    constant = np.full(len(images.h), np.median(found.amplitude))
    k = (found.amplitude @ constant) / (constant @ constant)
    chance = np.abs(found.amplitude - k * constant).sum() / found.amplitude.sum()
    assert found.overall["trees"].value > chance - 2.0 * found.overall["trees"].esd
    assert found.overall["equivalents"].n == 0 and np.isnan(found.overall["equivalents"].value)


def test_the_mean_of_equivalents_is_that_of_the_training_set(make_images):
    images = make_images(n_images=4, n_spots=60, largest=2)
    train = np.flatnonzero(images.image < 2)
    found = model.mean_of_equivalents(images, train)
    for k in range(images.unique.max() + 1):
        own = images.intensity[train][images.unique[train] == k]
        expected = np.sqrt(max(own.mean(), 0.0)) if len(own) else np.nan
        assert found[k] == pytest.approx(expected, nan_ok=True)


def test_k_and_r1_of_a_prediction_that_is_right_up_to_a_factor(make_images):
    images = make_images(n_images=12, n_spots=60, largest=2, error=1e-6)
    f_calc = 3.0 * np.sqrt(np.maximum(images.intensity, 0.0))
    features = make_features(images, B, {"f_calc": f_calc})
    found = model.predict(images, features, model.make_folds(images, "image_blocks", 3), SMALL, importances=False)
    assert found.overall["f_calc"].value == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(found.predicted["f_calc"], found.amplitude, rtol=1e-6, atol=1e-6)
    assert found.overall["both"].value < 0.02


def test_a_training_set_is_trained_on_and_not_predicted(make_images):
    images = make_images(n_images=12, n_spots=60, largest=2)
    fold = np.where(images.image < 6, -1, 0)
    found = model.predict(images, make_features(images, B), fold, SMALL)
    assert np.isnan(found.predicted["trees"][fold < 0]).all() and np.isfinite(found.predicted["trees"][fold == 0]).all()
    assert set(found.predicted) == {"equivalents", "trees"} and np.isnan(found.gain.value)


def test_too_few_to_train_on_is_an_error(make_images):
    images = make_images(n_images=4, n_spots=20)
    fold = np.where(images.image < 1, -1, 0)
    with pytest.raises(Unusable, match="Only 20 observations"):
        model.predict(images, make_features(images, B), fold, SMALL)


def test_no_intensity_above_zero_is_an_error(make_images):
    images = make_images()
    images.intensity = -images.intensity.clip(min=0.0)
    fold = model.make_folds(images, "image_blocks", 3)
    with pytest.raises(Unusable, match="above zero"):
        model.predict(images, make_features(images, B), fold, SMALL)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A function: perturbation -> the prediction of four simulated sweeps, and the true factors of the amplitudes."""
    pytest.importorskip("dials")
    from cctbx import uctbx
    from dxtbx import flumpy

    from dials_postrefine.files.electron.scaled_images import ImageChoice, read_images
    from dials_postrefine.simulate.sweeps import CELL, SweepOptions, simulate_sweeps, write_sweeps

    def learn(perturbation, n_crystals=4):
        sweeps = simulate_sweeps(SweepOptions(perturbation=perturbation, n_crystals=n_crystals))
        names = write_sweeps(sweeps, tmp_path_factory.mktemp("sweeps") / "scaled")
        files = read_images([names[0]], [names[1]], ImageChoice(image_width=0.0))
        scale = flumpy.to_numpy(files.table["inverse_scale_factor"])[files.row]
        reciprocal = np.reshape(uctbx.unit_cell(CELL).fractionalization_matrix(), (3, 3)).T
        f_calc = sweeps.f_calc[files.row]
        features = make_features(files.images, reciprocal, {"scale": scale, "f_calc": f_calc})
        fold = model.make_folds(files.images, "experiment", 4)
        return model.predict(files.images, features, fold), sweeps.factor[files.row], f_calc

    return learn


@pytest.mark.dials
@pytest.mark.slow
def test_a_dependence_on_orientation_that_exists_is_found(learned):
    found, factor, f_calc = learned(0.2, n_crystals=6)
    assert found.gain.value > 5.0 * found.gain.esd and found.overall["both"].value < 0.7 * found.overall["f_calc"].value
    strong = f_calc > 0.0
    ratio = found.predicted["both"][strong] / found.predicted["f_calc"][strong]
    assert np.corrcoef(ratio, factor[strong])[0, 1] > 0.6
    growth = {name: mean for name, (mean, _) in found.importances["both"].items()}
    assert growth["orientation"] > 5.0 * max(value for name, value in growth.items() if name != "orientation")


@pytest.mark.dials
@pytest.mark.slow
def test_nothing_is_found_where_there_is_nothing(learned):
    found, _, _ = learned(0.0)
    assert found.gain.value < 3.0 * found.gain.esd
    assert abs(found.overall["both"].value - found.overall["f_calc"].value) < 0.002
    assert all(abs(mean) < 0.002 for mean, _ in found.importances["both"].values())
