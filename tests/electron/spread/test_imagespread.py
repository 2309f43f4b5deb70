"""The analysis as a whole, on arrays."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.spread import imagespread, spread
from dials_postrefine.electron.spread.imagespread import SpreadSettings, analyse


def test_all_numbers_are_of_the_same_data(make_images):
    images = make_images(n_images=12, n_spots=60, largest=2, tau=0.3)
    found = analyse(images, SpreadSettings(match="laue", min_common=4, n_permutations=99))
    assert found.spread.tau.low < 0.3 < found.spread.tau.high
    assert len(found.by_image) == 12 and len(found.by_experiment) == 1
    assert sum(one.n for one in found.by_image) == found.spread.tau.n
    assert found.by_experiment[0].tau == pytest.approx(found.spread.tau.tau, rel=0.05)
    alone = imagespread.measure_overall(images, SpreadSettings(match="laue", min_common=4))
    assert (alone.tau, alone.r_meas) == (found.spread.tau, found.spread.r_meas)
    assert alone.agreement.as_dict(0) == found.overall.agreement.as_dict(0)
    assert found.pair_agreement.n.sum() == found.overall.agreement.n[0] == len(found.pairs.pair)
    assert found.image_agreement.n.sum() == 2 * found.overall.agreement.n[0]
    assert found.experiment_agreement.n.tolist() == found.overall.agreement.n.tolist()


def test_parts_shells_and_tenths_cover_the_unique_indices(make_images):
    images = make_images(n_images=12, n_spots=60, largest=3)
    equivalents = spread.find_equivalents(images.unique, images.intensity, images.variance)
    found = imagespread.measure_spread(images, equivalents, n_shells=4)
    for groups in (found.tenths, found.quartiles, found.shells):
        assert sum(group.tau.n_unique for group in groups) == equivalents.n_unique
        assert sum(group.tau.n for group in groups) == len(equivalents.row)
    intensities = [group.intensity for group in found.tenths]
    assert intensities == sorted(intensities)
    limits = [limit for shell in found.shells for limit in shell.d_star_sq]
    assert limits == sorted(limits)
    half, tenth = found.parts["weakest half"], found.parts["strongest tenth"]
    assert half.tau.n_unique == pytest.approx(0.5 * equivalents.n_unique, abs=1)
    assert tenth.tau.n_unique == pytest.approx(0.1 * equivalents.n_unique, abs=1)
    assert found.n_alone == len(images.h) - len(equivalents.row)


def test_r_meas_is_that_of_its_definition():
    unique = np.array([0, 0, 0, 1, 1])
    intensity = np.array([1.0, 2.0, 3.0, 5.0, 6.0])
    equivalents = spread.find_equivalents(unique, intensity, np.ones(5))
    expected = (np.sqrt(3.0 / 2.0) * 2.0 + np.sqrt(2.0) * 1.0) / 17.0
    assert imagespread.r_meas(equivalents) == pytest.approx(expected)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda i: -np.abs(i),
        lambda i: 0.0 * i,
        lambda i: 0.0 * i + 1.0,
        lambda i: 1e-12 * i,
        lambda i: np.where(np.arange(len(i)) == 0, 1e9 * i, i),
    ],
    ids=["negative", "zero", "equal", "tiny", "one wild"],
)
def test_odd_intensities_do_not_end_the_analysis(make_images, change):
    for n_images, n_spots, largest in ((2, 10, 1), (3, 6, 1), (6, 20, 2)):
        images = make_images(n_images=n_images, n_spots=n_spots, largest=largest)
        images.intensity = change(images.intensity)
        found = analyse(images, SpreadSettings(match="laue", min_common=1, n_permutations=9))
        assert found.spread.tau.low <= found.spread.tau.tau <= found.spread.tau.high


def test_one_image_is_an_error(make_images):
    with pytest.raises(Unusable, match="one image"):
        analyse(make_images(n_images=1))


def test_the_order_of_the_observations_changes_nothing(make_images):
    images = make_images(n_images=8, tau=0.2)
    settings = SpreadSettings(match="laue", n_permutations=99)
    one = analyse(images, settings)
    order = np.random.default_rng(0).permutation(len(images.h))
    for name in ("image", "unique", "h", "intensity", "variance", "d_star_sq"):
        setattr(images, name, getattr(images, name)[order])
    other = analyse(images, settings)
    assert other.spread.tau.tau == pytest.approx(one.spread.tau.tau, rel=1e-9)
    np.testing.assert_array_equal(other.pairs.n_common, one.pairs.n_common)
    np.testing.assert_allclose(other.random_match.llr, one.random_match.llr, rtol=1e-9)
