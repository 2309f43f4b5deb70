"""Factors of atoms and ions for electrons: tables, Mott-Bethe, and what they say of each other."""

from __future__ import annotations

import numpy as np
import pytest

from dials_postrefine.scattering.electron_atoms import charge_of, electron_atoms
from dials_postrefine.scattering.form_factors import MOTT_BETHE
from dials_postrefine.scattering.peng1998 import IONS

S = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0])
CATIONS = (
    "Li1+",
    "Na1+",
    "Mg2+",
    "Al3+",
    "Si4+",
    "K1+",
    "Ca2+",
    "Ti4+",
    "Mn2+",
    "Fe2+",
    "Fe3+",
    "Ni2+",
    "Zn2+",
    "La3+",
)
CATIONS += ("Gd3+", "Sr2+")


@pytest.fixture
def atom():
    """A function: scattering type and source of ions -> ElectronAtoms of one atom."""
    from cctbx import crystal, xray
    from cctbx.array_family import flex

    def make(kind, ions="neutral"):
        symmetry = crystal.symmetry(unit_cell=(10, 10, 10, 90, 90, 90), space_group_symbol="P 1")
        scatterers = flex.xray_scatterer([xray.scatterer("a", scattering_type=kind)])
        settings = crystal.special_position_settings(symmetry)
        return electron_atoms(xray.structure(settings, scatterers=scatterers), ions)

    return make


def test_charges_are_read():
    read = {name: charge_of(name) for name in ("Fe3+", "O2-", "Cl-", "Cl1-", "Na+", "Si")}
    assert read == {"Fe3+": 3, "O2-": -2, "Cl-": -1, "Cl1-": -1, "Na+": 1, "Si": 0}


def test_neutral_atoms_are_those_of_the_international_tables(atom):
    """Silicon: f(0) 5.828 A, and Mott-Bethe of the X-ray factors where that does not cancel."""
    from cctbx.eltbx import xray_scattering

    found = atom("Si").factors(np.array([0.0, 0.25, 0.5, 1.0]) ** 2)[:, 0]
    x_rays = [xray_scattering.wk1995("Si").fetch().at_stol(s) for s in (0.25, 0.5, 1.0)]
    expected = MOTT_BETHE * (14.0 - np.array(x_rays)) / np.array([0.25, 0.5, 1.0]) ** 2
    np.testing.assert_allclose(found, [5.828, *expected], rtol=0.01)


@pytest.mark.parametrize("kind", ["O2-", "Mg2+", "Na1+", "Cl1-", "Fe3+"])
def test_ions_are_pengs(atom, kind):
    """Written out; Peng (1998), Table 1."""
    a, b = (np.array(x) for x in IONS[kind])
    expected = 0.023934 * charge_of(kind) / S**2 + np.exp(-np.outer(S**2, b)) @ a
    np.testing.assert_allclose(atom(kind, "peng1998").factors(S**2)[:, 0], expected, rtol=1e-3)


def test_values_of_the_published_table(atom):
    """Three digits of the paper: O2-, Mg2+ and Na1+, without the charge's term, as s -> 0."""
    for kind, total in (("O2-", 4.0941), ("Mg2+", 0.8282), ("Na1+", 1.1275)):
        s_sq = np.array([1e-6])
        short = atom(kind, "peng1998").factors(s_sq)[0, 0] - MOTT_BETHE * charge_of(kind) / s_sq[0]
        assert short == pytest.approx(total, abs=2e-4)


@pytest.mark.parametrize("kind", ["Yb3+", "U3+"])
def test_heavy_cations_agree_within_the_digits_of_the_table(atom, kind):
    by_table, by_x_rays = (atom(kind, ions).factors(S**2)[:, 0] for ions in ("peng1998", "mott_bethe"))
    np.testing.assert_allclose(by_x_rays, by_table, rtol=0.012)


@pytest.mark.parametrize("kind", CATIONS)
def test_cations_by_mott_bethe_agree_with_peng(atom, kind):
    """Within 0.5 %: independent tables, so that a wrong digit in either is seen."""
    by_table, by_x_rays = (atom(kind, ions).factors(S**2)[:, 0] for ions in ("peng1998", "mott_bethe"))
    np.testing.assert_allclose(by_x_rays, by_table, rtol=5e-3)


def test_the_oxide_ion_of_1992_is_wrong_where_its_charge_is_seen(atom):
    """By 3 to 25 % of Peng's at s <= 0.3 1/A; Waasmaier and Kirfel's is not, and is what is taken."""
    from cctbx.eltbx import xray_scattering

    entry = xray_scattering.it1992("O2-", True).fetch()
    a, b = np.array(entry.array_of_a()), np.array(entry.array_of_b())
    low = np.array([0.1, 0.15, 0.2, 0.3])
    peng = atom("O2-", "peng1998").factors(low**2)[:, 0]
    of_1992 = MOTT_BETHE * (-2.0 - np.expm1(-np.outer(low**2, b)) @ a) / low**2
    wrong = np.abs(of_1992 / peng - 1.0)
    assert wrong[0] > 0.2 and wrong[2] == pytest.approx(0.10, abs=0.01) and np.all(wrong > 0.03)
    taken = atom("O2-", "mott_bethe").factors(low**2)[:, 0]
    keep = np.abs(peng) > 0.3  # it changes its sign between
    np.testing.assert_allclose(taken[keep], peng[keep], rtol=0.01)


@pytest.mark.parametrize("ions", ["neutral", "peng1998", "mott_bethe"])
def test_the_slope_is_the_slope(atom, ions):
    s_sq = np.array([1e-4, 0.01, 0.3, 2.0])
    one = atom("Mg2+", ions)
    step = 1e-4 * s_sq
    expected = (one.factors(s_sq + step) - one.factors(s_sq - step)) / (2.0 * step[:, None])
    np.testing.assert_allclose(one.factor_slopes(s_sq), expected, rtol=1e-6)


def test_nothing_cancels_at_low_s(atom):
    """An ion is its charge there; the difference of 1/s^2 large numbers would leave few digits."""
    one = atom("Mg2+", "mott_bethe")
    s_sq = np.array([1e-10, 1e-8, 1e-6])
    short = one.factors(s_sq)[:, 0] - MOTT_BETHE * 2.0 / s_sq
    np.testing.assert_allclose(short, MOTT_BETHE * np.sum(one.c * one.d), rtol=1e-3)
    assert one.factors(np.array([0.0]))[0, 0] == pytest.approx(MOTT_BETHE * np.sum(one.c * one.d))


def test_what_is_replaced_is_said(atom):
    assert atom("Mg2+").notes == ("Mg2+ is taken as the neutral atom.",)
    assert not atom("Mg2+", "peng1998").notes
    assert atom("Ba2+", "peng1998").notes == ("Ba2+ is by mott_bethe, as peng1998 lacks it.",)
    assert atom("Cr4+", "mott_bethe").notes == ("Cr4+ is by peng1998, as mott_bethe lacks it.",)
    assert atom("S2-", "peng1998").notes == ("S2- is taken as the neutral atom.",)
    with pytest.raises(ValueError, match="no factors of ions"):
        atom("Mg2+", "magic")
