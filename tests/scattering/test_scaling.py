"""
Scale, overall B and bulk solvent: derivatives against finite differences, and what was put in comes out.

The simulated data are the made-up protein's structure factors with parameters of the test, noise of the test's own
generator and outliers: nothing of the fit makes them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx computes the structure factors")
pytest.importorskip("dxtbx", reason="dxtbx makes arrays of cctbx's")

import iotbx.pdb
from cctbx import adptbx, miller, sgtbx, uctbx
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.scattering.bulk_solvent import Parts, intensities, intensities_and_derivatives
from dials_postrefine.scattering.form_factors import choose_form_factors
from dials_postrefine.scattering.scaling import MergedIntensities, ScaleSettings, fit_scale
from dials_postrefine.scattering.structure_factors import calculate_f_calc, calculate_f_mask
from dials_postrefine.scattering.tensors import tensor_basis

pytestmark = pytest.mark.cctbx

K_OV, K_SOL, B_SOL = 0.7, 0.38, 55.0
B_CART = (6.0, 6.0, -3.0, 0.0, 0.0, 0.0)
# p of the crystal systems: triclinic to cubic (Nye 1957)
N_FREE = {"P 1": 6, "P 1 21 1": 4, "P 21 21 21": 3, "P 41": 2, "P 43 21 2": 2, "P 32 2 1": 2, "R 3 :H": 2, "P 21 3": 1}


@pytest.fixture(scope="module")
def protein(protein_file):
    """A protein in a cell with solvent: the atoms of the file as they are, with a low B so that 1.6 A tell."""
    structure = iotbx.pdb.input(protein_file).xray_structure_simple()
    indices = miller.build_set(structure, anomalous_flag=False, d_min=1.6)
    types = [scatterer.scattering_type for scatterer in structure.scatterers()]
    f_calc = calculate_f_calc(structure, choose_form_factors(types), indices)
    f_mask, fraction = calculate_f_mask(structure, indices)
    assert fraction > 0.1
    return structure, indices, flumpy.to_numpy(f_calc.data())[:, None], flumpy.to_numpy(f_mask.data())[:, None]


def simulate(protein, b_cart=B_CART, error=0.05, outliers=0.0, seed=0):
    """Merged data: the intensities with noise, by the formulae as the papers print them."""
    structure, indices, f_calc, f_mask = protein
    rng = np.random.default_rng(seed)
    h = miller_indices_to_numpy(indices.indices()).astype(float)
    s_sq = flumpy.to_numpy(indices.d_star_sq().data()) / 4.0
    orthogonal = np.array(structure.unit_cell().fractionalization_matrix()).reshape(3, 3)
    b11, b22, b33, b12, b13, b23 = b_cart
    cartesian = h @ orthogonal  # h^T A^-1
    b = np.array([[b11, b12, b13], [b12, b22, b23], [b13, b23, b33]])
    scale = K_OV * np.exp(-np.einsum("ni,ij,nj->n", cartesian, b, cartesian) / 4.0)
    f = scale * np.abs(f_calc[:, 0] + K_SOL * np.exp(-B_SOL * s_sq) * f_mask[:, 0])
    sigma = error * (f**2 + 0.3 * np.mean(f**2))
    intensity = f**2 + sigma * rng.standard_normal(len(f))
    wild = rng.random(len(f)) < outliers
    intensity[wild] += np.mean(f**2) * rng.uniform(3.0, 30.0, np.count_nonzero(wild))
    epsilon = flumpy.to_numpy(indices.epsilons().data()).astype(float)
    return MergedIntensities(intensity, sigma, epsilon, flumpy.to_numpy(indices.centric_flags().data()))


def parts_of(protein, scale="anisotropic"):
    structure, indices, f_calc, f_mask = protein
    h = miller_indices_to_numpy(indices.indices())
    basis, q = tensor_basis(scale, structure.unit_cell(), structure.space_group(), h)
    return Parts(flumpy.to_numpy(indices.d_star_sq().data()), f_calc, f_mask, q), basis


@pytest.mark.parametrize("mates", [1, 2])
@pytest.mark.parametrize("solvent", [True, False])
def test_derivatives_are_those_of_finite_differences(mates, solvent):
    rng = np.random.default_rng(1)
    n, shape = 40, (40, mates)
    parts = Parts(
        rng.uniform(0.01, 0.3, n),
        rng.normal(size=shape) + 1j * rng.normal(size=shape),
        rng.normal(size=shape) + 1j * rng.normal(size=shape) if solvent else np.empty((n, 0), complex),
        rng.uniform(-0.1, 0.3, (n, 3)),
    )
    x = np.array([0.2, 3.0, -2.0, 1.0, *([0.4, 40.0] if solvent else [])])
    value, derivatives = intensities_and_derivatives(parts, x)
    assert value == pytest.approx(intensities(parts, x), rel=1e-14)
    for j in range(len(x)):
        step = np.zeros(len(x))
        step[j] = 1e-5 * max(1.0, abs(x[j]))
        numeric = (intensities(parts, x + step) - intensities(parts, x - step)) / (2.0 * step[j])
        assert derivatives[:, j] == pytest.approx(numeric, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("symbol", N_FREE)
def test_tensor_has_as_many_numbers_as_the_crystal_system_allows_and_its_symmetry(symbol):
    group = sgtbx.space_group_info(symbol).group()
    cell = sgtbx.space_group_info(symbol).any_compatible_unit_cell(1e4)
    h = np.random.default_rng(2).integers(-9, 9, (30, 3))
    basis, q = tensor_basis("anisotropic", cell, group, h)
    assert len(basis) == N_FREE[symbol]
    for rotation in group.smx():
        turned = np.rint(h @ np.array(rotation.r().as_double()).reshape(3, 3)).astype(int)
        assert tensor_basis("anisotropic", cell, group, turned)[1] == pytest.approx(q, abs=1e-12)


def test_isotropic_tensor_is_b_d_star_sq():
    cell = uctbx.unit_cell((10.0, 11.0, 12.0, 80.0, 95.0, 103.0))
    h = np.random.default_rng(3).integers(-9, 9, (30, 3))
    basis, q = tensor_basis("isotropic", cell, sgtbx.space_group("P 1"), h)
    assert q[:, 0] == pytest.approx([cell.d_star_sq(index) for index in h.tolist()], abs=1e-12)
    assert basis.tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]


def test_tensor_is_the_u_of_cctbx():
    """exp(-h^T B* h/4) is cctbx's Debye-Waller factor of U = B/(8 pi^2)."""
    cell = uctbx.unit_cell((10.0, 11.0, 12.0, 80.0, 95.0, 103.0))
    b = np.array([4.0, 7.0, 2.0, 1.0, -1.0, 0.5])
    h = np.random.default_rng(4).integers(-5, 5, (20, 3))
    basis, q = tensor_basis("anisotropic", cell, sgtbx.space_group("P 1"), h)
    coefficients = np.linalg.solve(basis.T, b)
    u_star = adptbx.u_cart_as_u_star(cell, tuple(adptbx.b_as_u(value) for value in b))
    expected = [adptbx.debye_waller_factor_u_star(index, u_star) for index in h.tolist()]
    assert np.exp(-q @ coefficients / 4.0) == pytest.approx(expected, rel=1e-10)


def assert_recovered(fit, b_cart=B_CART):
    """To the accuracy that is asked for, and as far as the esds say."""
    assert fit.k_sol == pytest.approx(K_SOL, abs=0.01)
    assert fit.b_sol == pytest.approx(B_SOL, abs=3.0)
    assert fit.b_cart == pytest.approx(np.array(b_cart), abs=0.3)
    assert fit.k_ov == pytest.approx(K_OV, rel=0.02)
    assert abs(fit.k_sol - K_SOL) < 4.0 * fit.k_sol_esd
    assert abs(fit.b_sol - B_SOL) < 4.0 * fit.b_sol_esd
    assert (np.abs(fit.b_cart - b_cart)[:3] < 4.0 * fit.b_cart_esd[:3]).all()


@pytest.mark.parametrize("target", ["least_squares", "robust"])
def test_solvent_and_anisotropy_are_recovered(protein, target):
    parts, basis = parts_of(protein)
    fit = fit_scale(parts, basis, simulate(protein), ScaleSettings(target=target))
    assert_recovered(fit)
    assert fit.at_bound == []


def test_two_percent_of_outliers_do_not_harm_the_robust_target(protein):
    parts, basis = parts_of(protein)
    data = simulate(protein, outliers=0.02)
    fit = fit_scale(parts, basis, data, ScaleSettings(target="robust"))
    assert_recovered(fit)
    assert fit.n_outliers == pytest.approx(0.02 * len(data.intensity), rel=0.25)
    plain = fit_scale(parts, basis, data, ScaleSettings(target="least_squares"))
    assert np.abs(plain.b_cart - B_CART).max() > 3.0 * np.abs(fit.b_cart - B_CART).max()


def test_esds_are_the_scatter_of_repeated_fits(protein):
    parts, basis = parts_of(protein)
    found, esds = [], []
    for seed in range(12):
        fit = fit_scale(parts, basis, simulate(protein, outliers=0.02, seed=seed), ScaleSettings(target="robust"))
        found.append([np.log(fit.k_ov), *fit.b_cart[[0, 2]], fit.k_sol, fit.b_sol])
        esds.append([fit.k_ov_esd / fit.k_ov, *fit.b_cart_esd[[0, 2]], fit.k_sol_esd, fit.b_sol_esd])
    pulls = (np.array(found) - [np.log(K_OV), 6.0, -3.0, K_SOL, B_SOL]) / np.array(esds)
    # 60 numbers, of 5 parameters that are correlated: their rms is one within 35 %
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.35)


def test_model_error_is_that_which_was_put_in(protein):
    """Errors of the structure factors, complex and of one size in a shell, with exact intensities."""
    parts, basis = parts_of(protein)
    rng = np.random.default_rng(5)
    data = simulate(protein)
    x = np.array([0.0, 0.0, 0.0, K_SOL, B_SOL])
    f = parts.f_calc[:, 0] + K_SOL * np.exp(-B_SOL * parts.d_star_sq / 4.0) * parts.f_mask[:, 0]
    put_in = 0.1 * np.sqrt(np.mean(np.abs(f) ** 2))
    delta = rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))
    phase = f / np.abs(f)
    delta = np.where(data.centric, np.sqrt(2.0) * delta.real * phase, delta) * put_in * np.sqrt(data.epsilon / 2.0)
    intensity = np.abs(f + delta) ** 2
    sigma = np.full(len(f), 1e-3 * np.mean(intensity))
    assert intensities(parts, x) == pytest.approx(np.abs(f) ** 2)
    fit = fit_scale(parts, basis, replace(data, intensity=intensity, sigma=sigma))
    assert fit.sigma_f == pytest.approx(np.full(len(fit.sigma_f), put_in), rel=0.2)
    assert np.mean(fit.sigma_f) == pytest.approx(put_in, rel=0.05)


def test_without_solvent_or_with_it_fixed_only_the_rest_is_fitted(protein):
    parts, basis = parts_of(protein, "isotropic")
    data = simulate(protein, b_cart=(5.0, 5.0, 5.0, 0.0, 0.0, 0.0))
    fixed = fit_scale(parts, basis, data, ScaleSettings(k_sol=K_SOL, b_sol=B_SOL))
    assert (fixed.k_sol, fixed.b_sol) == (K_SOL, B_SOL) and np.isnan(fixed.k_sol_esd)
    assert fixed.b_cart == pytest.approx([5.0, 5.0, 5.0, 0.0, 0.0, 0.0], abs=0.1)
    without = fit_scale(replace(parts, f_mask=parts.f_mask[:, :0]), basis, data)
    assert np.isnan(without.k_sol) and without.chi_sq == pytest.approx(1.0, abs=0.05)
    assert without.sigma_f[0] > 3.0 * fixed.sigma_f[0]  # what is missing is the solvent, at low resolution


def test_too_few_reflections_are_an_error(protein):
    parts, basis = parts_of(protein)
    few = np.arange(4)
    with pytest.raises(ValueError, match="4 reflections"):
        fit_scale(parts.select(few), basis, simulate(protein).select(few))
