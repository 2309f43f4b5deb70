"""
Structure factors against gemmi's direct summation.

gemmi shares nothing with cctbx: its own reader of PDB and CIF, space groups, summation and printed tables.  Its X-ray
table is that of 1992 only, so the comparison is with table=it1992; f' and f'' are handed to it.
"""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx computes the structure factors")
pytest.importorskip("dxtbx", reason="dxtbx makes arrays of cctbx's")
pytest.importorskip("gemmi", reason="gemmi is the independent program (pip install .[test])")

import gemmi

import iotbx.cif
import iotbx.pdb
from cctbx import miller
from cctbx.array_family import flex
from cctbx.eltbx import tiny_pse, xray_scattering
from cctbx.eltbx.xray_scattering import gaussian
from cctbx.xray.structure_factors import from_scatterers_direct
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.scattering.form_factors import FormFactorChoice, FormFactors, choose_form_factors
from dials_postrefine.scattering.structure_factors import calculate_f_calc, calculate_f_mask

pytestmark = pytest.mark.cctbx

RADIATIONS = {
    "xray": ({"table": "it1992"}, gemmi.StructureFactorCalculatorX),
    "electron": ({}, gemmi.StructureFactorCalculatorE),
    "neutron": ({}, gemmi.StructureFactorCalculatorN),
}
TOLERANCE = 1e-6
N_SAMPLED = 300


def read_protein(path):
    return iotbx.pdb.input(path).xray_structure_simple()


def read_small_molecule(path):
    return next(iter(iotbx.cif.reader(path).build_crystal_structures().values()))


def gemmi_small_molecule(path):
    small = gemmi.read_small_structure(path)
    small.change_occupancies_to_crystallographic()  # the metal lies on the inversion centre
    return small


def f_calc(structure, d_min, anomalous=False, algorithm="direct", **options):
    """The indices (n, 3) and F_calc (n,)."""
    types = [scatterer.scattering_type for scatterer in structure.scatterers()]
    indices = miller.build_set(structure, anomalous_flag=anomalous, d_min=d_min)
    array = calculate_f_calc(structure, choose_form_factors(types, FormFactorChoice(**options)), indices, algorithm)
    return miller_indices_to_numpy(array.indices()), flumpy.to_numpy(array.data())


def sample(h, f):
    some = np.random.default_rng(0).choice(len(h), min(N_SAMPLED, len(h)), replace=False)
    return h[some], f[some]


def assert_same(f, expected, tolerance=TOLERANCE):
    """
    Relative to the amplitude, which bounds amplitude and phase (radians) together; the weak ones, below a quarter of
    the rms amplitude, relative to that: B and U of gemmi and the tables of cctbx have only the 7 digits of a float.
    """
    scale = np.maximum(np.abs(expected), 0.25 * np.sqrt(np.mean(np.abs(expected) ** 2)))
    assert np.max(np.abs(f - expected) / scale) < tolerance


@pytest.mark.parametrize("radiation", RADIATIONS)
def test_protein_is_as_gemmi_sums_it(protein_file, radiation):
    options, calculator = RADIATIONS[radiation]
    h, f = sample(*f_calc(read_protein(protein_file), 1.7, radiation=radiation, **options))
    theirs = gemmi.read_structure(protein_file)
    calculate = calculator(theirs.cell)
    assert_same(f, [calculate.calculate_sf_from_model(theirs[0], index) for index in h.tolist()])


@pytest.mark.parametrize("radiation", RADIATIONS)
def test_small_molecule_is_as_gemmi_sums_it(small_molecule_file, radiation):
    options, calculator = RADIATIONS[radiation]
    h, f = sample(*f_calc(read_small_molecule(small_molecule_file), 0.8, radiation=radiation, **options))
    theirs = gemmi_small_molecule(small_molecule_file)
    calculate = calculator(theirs.cell)
    assert_same(f, [calculate.calculate_sf_from_small_structure(theirs, index) for index in h.tolist()])


@pytest.mark.data
@pytest.mark.parametrize("radiation", RADIATIONS)
def test_lysozyme_is_as_gemmi_sums_it(shared_data, tmp_path, radiation):
    """Without two waters on a twofold axis, of which cctbx takes one and gemmi two."""
    lines = (shared_data / "models" / "RTSAD_HEWL_refine_25.pdb").read_text().splitlines(keepends=True)
    path = str(tmp_path / "lysozyme.pdb")
    with open(path, "w") as file:
        file.writelines(line for line in lines if line[17:26] not in ("HOH S  46", "HOH S 101"))
    options, calculator = RADIATIONS[radiation]
    h, f = sample(*f_calc(read_protein(path), 3.0, radiation=radiation, **options))
    theirs = gemmi.read_structure(path)
    calculate = calculator(theirs.cell)
    assert_same(f[:50], [calculate.calculate_sf_from_model(theirs[0], index) for index in h[:50].tolist()])


@pytest.mark.parametrize("options", [*({"radiation": name} for name in RADIATIONS), {"mott_bethe": "all"}], ids=str)
def test_fft_is_within_its_stated_error_of_direct_summation(protein_file, options):
    if "mott_bethe" in options:
        options = {"radiation": "electron", **options}
    structure = read_protein(protein_file)
    h, direct = f_calc(structure, 1.4, **options)
    _, fft = f_calc(structure, 1.4, algorithm="fft", **options)
    error = np.abs(fft - direct)
    order = np.argsort(((h / np.array([41.0, 41.0, 33.0])) ** 2).sum(axis=1))
    for shell in np.array_split(order, 10):
        assert error[shell].max() < 1e-4 * np.sqrt(np.mean(np.abs(direct[shell]) ** 2))
    assert error.sum() < 1e-5 * np.abs(direct).sum()
    assert error.max() > 0.0  # it was the FFT


def test_fft_of_anomalous_scatterers_tells_friedel_mates_apart(protein_file):
    structure = read_protein(protein_file)
    options = {"dispersion": "sasaki", "wavelength": 0.9797}
    h, direct = f_calc(structure, 2.0, anomalous=True, **options)
    _, fft = f_calc(structure, 2.0, anomalous=True, algorithm="fft", **options)
    assert np.abs(fft - direct).sum() < 1e-5 * np.abs(direct).sum()


@pytest.mark.parametrize("source", ["sasaki", "henke"])
def test_anomalous_differences_are_as_gemmi_has_them_with_the_same_dispersion(protein_file, source):
    structure = read_protein(protein_file)
    types = {scatterer.scattering_type for scatterer in structure.scatterers()}
    factors = choose_form_factors(types, FormFactorChoice(table="it1992", dispersion=source, wavelength=0.9797))
    h, f = f_calc(structure, 2.0, anomalous=True, table="it1992", dispersion=source, wavelength=0.9797)
    by_index = dict(zip(map(tuple, h.tolist()), f))
    pairs = [index for index in by_index if tuple(-i for i in index) in by_index and index > (0, 0, 0)][:200]
    theirs = gemmi.read_structure(protein_file)
    real, imaginary = (gemmi.StructureFactorCalculatorX(theirs.cell) for _ in range(2))
    for name, (fp, fdp) in factors.dispersion.items():
        real.addends.set(gemmi.Element(name), fp)
    # F = F(f0 + f') + i F(f''), and gemmi sums real factors: the second sum is that with f'' less that without
    for name, (fp, fdp) in factors.dispersion.items():
        imaginary.addends.set(gemmi.Element(name), fp + fdp)

    def expected(index):
        with_real = real.calculate_sf_from_model(theirs[0], index)
        return with_real + 1j * (imaginary.calculate_sf_from_model(theirs[0], index) - with_real)

    mates = [tuple(-i for i in index) for index in pairs]
    plus, minus = (np.array([by_index[index] for index in side]) for side in (pairs, mates))
    expected_plus, expected_minus = (np.array([expected(index) for index in side]) for side in (pairs, mates))
    assert_same(plus, expected_plus)
    assert_same(minus, expected_minus)
    difference, expected_difference = np.abs(plus) - np.abs(minus), np.abs(expected_plus) - np.abs(expected_minus)
    assert np.abs(expected_difference).mean() > 0.5  # electrons: there is something to compare
    assert difference == pytest.approx(expected_difference, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("element", ["H", "C", "N", "O", "S", "Se", "Fe"])
def test_mott_bethe_is_near_the_electron_table(element):
    """From s = 0.1 to 1 1/A: Peng's fit is good to about 1 % of f(0), hydrogen as bonded or free differs by more."""
    s = np.linspace(0.1, 1.0, 10)
    table = choose_form_factors([element], FormFactorChoice("electron")).gaussians[element]
    factors = choose_form_factors([element], FormFactorChoice("electron", mott_bethe="all"))
    x_ray, z = factors.gaussians[element], factors.nuclear_charge[element]
    f_table = np.array([table.at_stol(value) for value in s])
    f_mott_bethe = np.array([0.0239337 * (z - x_ray.at_stol(value)) / value**2 for value in s])
    assert np.abs(f_mott_bethe - f_table).max() < 0.01 * table.at_stol(0.0)
    assert f_mott_bethe == pytest.approx(f_table, rel=0.05)


@pytest.mark.parametrize("algorithm", ["direct", "fft"])
def test_mott_bethe_structure_factors_are_as_gemmi_has_them(protein_file, algorithm):
    """With the X-ray factors of 1992, which both have; gemmi's constant C has five digits."""
    structure = read_protein(protein_file)
    types = {scatterer.scattering_type for scatterer in structure.scatterers()}
    factors = FormFactors(
        "electron",
        "electron",
        {name: xray_scattering.it1992(name, True).fetch() for name in types},
        {name: float(tiny_pse.table(name).atomic_number()) for name in types},
    )
    indices = miller.build_set(structure, anomalous_flag=False, d_min=1.7)
    array = calculate_f_calc(structure, factors, indices, algorithm)
    h, f = sample(miller_indices_to_numpy(array.indices()), flumpy.to_numpy(array.data()))
    theirs = gemmi.read_structure(protein_file)
    calculate = gemmi.StructureFactorCalculatorX(theirs.cell)
    calculate.addends.subtract_z()
    expected = []
    for index in h.tolist():
        difference = calculate.calculate_sf_from_model(theirs[0], index)  # which tells the factor the resolution
        expected.append(calculate.mott_bethe_factor() * difference)
    if algorithm == "direct":
        assert_same(f, expected, 2e-5)
    assert np.abs(f - expected).max() < 1e-4 * np.sqrt(np.mean(np.abs(expected) ** 2))


def test_an_ion_by_mott_bethe_among_neutral_atoms_of_the_table(small_molecule_file):
    """The copper's part is C (29 - f_x)/s^2 T at the origin and its images, the others' that of the table."""
    structure = read_small_molecule(small_molecule_file)
    structure.scatterers()[0].scattering_type = "Cu2+"
    h, f = f_calc(structure, 1.5, radiation="electron", ions=True, mott_bethe="ions")
    structure.scatterers()[0].scattering_type = "Cu"
    _, neutral = f_calc(structure, 1.5, radiation="electron")
    table = choose_form_factors(["Cu"], FormFactorChoice("electron")).gaussians["Cu"]
    ion = xray_scattering.wk1995("Cu2+", True).fetch()
    s = np.array([structure.unit_cell().stol(index) for index in h.tolist()])
    change = np.array([0.0239337 * (29.0 - ion.at_stol(v)) / v**2 - table.at_stol(v) for v in s])
    copper = structure.select(flex.bool([True] + [False] * (structure.scatterers().size() - 1)))
    copper.scattering_type_registry(custom_dict={"Cu": gaussian(1.0)})
    indices = miller.set(structure, flex.miller_index(h.tolist()), anomalous_flag=False)
    unit = flumpy.to_numpy(from_scatterers_direct(copper, indices).f_calc().data())
    assert np.abs(change).max() > 0.5
    assert np.abs(f - neutral - change * unit).max() < 1e-5 * np.abs(f).max()


@pytest.mark.data
def test_solvent_mask_is_as_gemmi_has_it(shared_data):
    """The same radii, another program: where atoms end on a grid differs by a little at low resolution."""
    path = str(shared_data / "models" / "RTSAD_HEWL_refine_25.pdb")
    structure = read_protein(path)
    indices = miller.build_set(structure, anomalous_flag=False, d_min=5.0)
    f_mask, fraction = calculate_f_mask(structure, indices)
    theirs = gemmi.read_structure(path)
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx)
    grid = gemmi.FloatGrid()
    grid.setup_from(theirs, spacing=0.6)
    masker.put_mask_on_float_grid(grid, theirs[0])
    assert fraction == pytest.approx(np.mean(grid), abs=0.01)
    transform = gemmi.transform_map_to_f_phi(grid)
    ours = flumpy.to_numpy(f_mask.data())
    expected = np.array([transform.get_value(*index) for index in indices.indices()])
    assert np.abs(ours - expected).sum() < 0.1 * np.abs(expected).sum()
