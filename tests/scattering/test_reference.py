"""
Reference intensities: which way to index and which hand agree best, Friedel pairs, sigmas, agreement.

Data are simulated by numpy and cctbx's own reindexing of the made-up protein, or counted out by hand.
"""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx computes the structure factors")
pytest.importorskip("dials.array_family.flex", reason="the files' modules are those of DIALS")

import iotbx.pdb
from cctbx import crystal, miller, sgtbx
from cctbx.array_family import flex
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.correlation import correlation_from_covariance
from dials_postrefine.programs.reference_model import describe, find_indexing_choices
from dials_postrefine.scattering import compare
from dials_postrefine.scattering.form_factors import FormFactorChoice, choose_form_factors
from dials_postrefine.scattering.reference import AtomicSource, Indexing, TabulatedSource, calculate_reference
from dials_postrefine.scattering.scaling import MergedIntensities, ScaleSettings
from dials_postrefine.scattering.structure_factors import calculate_f_calc

pytestmark = pytest.mark.dials

IDENTITY = np.eye(3)
WAVELENGTH = 0.9797  # at the edge of selenium
# of a polar group: k,h,-l is a rotation of the lattice that P41 does not have
TWOFOLD = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


@pytest.fixture(scope="module")
def polar(tmp_path_factory, protein_file):
    """The made-up protein in P41, whose indexing is ambiguous."""
    text = open(protein_file).read().replace("P 43 21 2     8", "P 41          4")
    path = tmp_path_factory.mktemp("polar") / "polar.pdb"
    path.write_text(text)
    return iotbx.pdb.input(str(path)).xray_structure_simple()


def source_of(structure, **options):
    types = [scatterer.scattering_type for scatterer in structure.scatterers()]
    return AtomicSource(structure, choose_form_factors(types, FormFactorChoice(**options)))


def noisy(intensity, seed=0):
    rng = np.random.default_rng(seed)
    sigma = 0.05 * (intensity + 0.2 * np.mean(intensity))
    return intensity + sigma * rng.standard_normal(len(intensity)), sigma


def merged(wanted, observed, sigma):
    return MergedIntensities(observed, sigma, wanted.epsilon, wanted.centric)


def test_the_indexing_is_found(polar):
    """The data are cctbx's intensities of the reindexed structure."""
    operation = sgtbx.change_of_basis_op("k,h,-l")
    turned = polar.change_basis(operation)
    indices = miller.build_set(turned, anomalous_flag=False, d_min=2.5)
    types = [scatterer.scattering_type for scatterer in polar.scatterers()]
    f = calculate_f_calc(turned, choose_form_factors(types), indices)
    observed, sigma = noisy(np.abs(np.array(f.data())) ** 2)
    indexings = [Indexing(IDENTITY, "h,k,l", 1), Indexing(TWOFOLD, "k,h,-l", 1)]
    wanted = describe(indices)
    result = calculate_reference(source_of(polar), wanted, indexings, merged(wanted, observed, sigma))
    assert result.indexing.name == "k,h,-l"
    assert result.indexing.r < 0.05 and result.indexings[0].r > 0.3
    assert correlation_from_covariance(result.intensity, observed) > 0.99
    phases = np.angle(np.exp(1j * np.radians(result.phase)) / (np.array(f.data()) / np.abs(np.array(f.data()))))
    assert np.abs(phases).max() < 1e-6  # those of the structure as the data are indexed


def test_the_name_of_an_indexing_is_the_operation_that_dials_reindex_takes():
    """An orthorhombic cell that is cubic by accident: the threefold operations have an inverse of another name."""
    symmetry = crystal.symmetry((50.0, 50.1, 50.2, 90.0, 90.0, 90.0), "P 21 21 21")
    indexings = find_indexing_choices(symmetry, (1,))
    assert len(indexings) == 6 and indexings[0].name == "h,k,l"
    for indexing in indexings:
        reindexed = sgtbx.change_of_basis_op(indexing.name).apply(flex.miller_index([(1, 2, 3)]))
        assert tuple(np.rint(np.array([1, 2, 3]) @ indexing.matrix).astype(int)) == reindexed[0]


def test_the_hand_is_found_from_anomalous_differences(polar):
    """Data of the inverted structure, P43, where selenium has f''; told only with Friedel pairs apart."""
    options = {"dispersion": "sasaki", "wavelength": WAVELENGTH}
    inverted = polar.change_hand()
    assert str(inverted.space_group_info()) == "P 43"
    indices = miller.build_set(inverted, anomalous_flag=True, d_min=2.5)
    types = [scatterer.scattering_type for scatterer in polar.scatterers()]
    f = calculate_f_calc(inverted, choose_form_factors(types, FormFactorChoice(**options)), indices)
    observed, sigma = noisy(np.abs(np.array(f.data())) ** 2)
    indexings = [Indexing(IDENTITY, "h,k,l", hand) for hand in (1, -1)]
    wanted = describe(indices)
    result = calculate_reference(source_of(polar, **options), wanted, indexings, merged(wanted, observed, sigma))
    assert result.indexing.hand == -1
    assert result.indexings[0].r > result.indexings[1].r + 0.005


def test_merged_friedel_pairs_are_the_mean_of_both(polar):
    options = {"dispersion": "sasaki", "wavelength": WAVELENGTH}
    source = source_of(polar, **options)
    together = miller.build_set(polar, anomalous_flag=False, d_min=3.0)
    h = miller_indices_to_numpy(together.indices())
    result = calculate_reference(source, describe(together), [Indexing(IDENTITY, "h,k,l", 1)])
    plus, minus = (np.abs(source(sign * h)[0]) ** 2 for sign in (1, -1))
    assert np.abs(plus - minus).max() > 1.0
    assert result.intensity == pytest.approx((plus + minus) / 2.0)
    assert result.amplitude == pytest.approx(np.sqrt(result.intensity))


def test_without_data_the_scale_is_one_and_sigma_the_error_that_was_said(polar):
    indices = miller.build_set(polar, anomalous_flag=False, d_min=2.0)
    source = source_of(polar)
    settings = ScaleSettings(model_error=0.1, n_shells=1)
    wanted = describe(indices)
    result = calculate_reference(source, wanted, [Indexing(IDENTITY, "h,k,l", 1)], settings=settings)
    f = source(miller_indices_to_numpy(indices.indices()))[0]
    assert result.intensity == pytest.approx(np.abs(f) ** 2)
    # what errors of F of a tenth of its rms do to the intensities, tried
    rng = np.random.default_rng(4)
    spread = 0.1 * np.sqrt(np.mean(np.abs(f) ** 2) * wanted.epsilon)
    delta = rng.standard_normal((2000, len(f))) + 1j * rng.standard_normal((2000, len(f)))
    delta = np.where(wanted.centric, delta.real * f / np.abs(f), delta / np.sqrt(2.0)) * spread
    tried = np.std(np.abs(f + delta) ** 2, axis=0)
    assert result.sigma == pytest.approx(tried, rel=0.12)
    assert np.mean(result.sigma / tried) == pytest.approx(1.0, abs=0.01)
    assert result.indexing.fit is None and result.shells == []


def test_tabulated_intensities_are_looked_up_in_any_asymmetric_unit(polar):
    indices = miller.build_set(polar, anomalous_flag=False, d_min=4.0)
    values = flumpy.from_numpy(np.random.default_rng(1).uniform(1.0, 9.0, indices.size()))
    array = indices.array(data=values)
    source = TabulatedSource(array)
    expanded = array.expand_to_p1()
    h = np.vstack([miller_indices_to_numpy(expanded.indices()), [[99, 0, 0]]]).astype(np.int32)
    f, mask = source(-h)
    assert not len(mask) and np.isnan(f[-1])
    assert np.abs(f[:-1]) ** 2 == pytest.approx(np.array(expanded.data()))


def test_agreement_is_what_one_counts_by_hand():
    observed, model = np.array([4.0, 9.0, 16.0, -1.0]), np.array([9.0, 9.0, 4.0, 1.0])
    sigma, d_star_sq = np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.01, 0.04, 0.09, 0.16])
    shells = compare.agreement_by_shell(d_star_sq, observed, sigma, model, np.array([0.009, 0.05, 0.17]), np.ones(2))
    assert [shell.n for shell in shells] == [2, 2, 4]
    assert shells[0].r == pytest.approx((1.0 + 0.0) / (2.0 + 3.0))
    assert shells[1].r == pytest.approx((2.0 + 1.0) / (4.0 + 0.0))
    assert shells[1].r_strong == pytest.approx(2.0 / 4.0)
    assert shells[2].r == pytest.approx(4.0 / 9.0)
    assert np.isnan(shells[0].cc_i) and shells[2].cc_i == pytest.approx(np.corrcoef(observed, model)[0, 1])
    assert shells[2].i_over_sigma == pytest.approx(7.0)
    assert shells[0].model_error == pytest.approx(1.0 / 3.0)
