"""
Which scattering factor each kind of atom has: radiation, table, ions, dispersion.

    f(s) = sum_i a_i exp(-b_i s^2) + c + f' + i f'',      s = sin(theta)/lambda

X-rays: it1992 (International Tables C, 1992, 6.1.1.4; s < 2 1/A), wk1995 (Waasmaier and Kirfel 1995; s < 6 1/A) or
n_gaussian (cctbx's fits of as few terms as the resolution needs), in electrons.  Electrons: International Tables C,
2011, 4.3.2.2 (Peng et al. 1996; neutral atoms only, s < 2 1/A), in Angstrom.  Neutrons: bound coherent scattering
lengths (Neutron News 3, 1992), in fm.  f' and f'' (X-rays only) by Sasaki (1989) or Henke et al. (1993).

Ions that the electron table lacks are neutral atoms, or follow from the X-ray factors (Mott and Massey 1965)

    f_e(s) = C (Z - f_x(s))/s^2,      C = m_e e^2/(8 pi eps_0 h^2) = 1/(8 pi^2 a_0) = 0.0239337 1/A

which diverges for an ion as s -> 0.  No sum of Gaussians: structure_factors.py adds it in reciprocal space.  The X-ray
tables' hydrogen is the bonded one (Stewart, Davidson and Simpson 1965), the electron table's the free atom: here, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cctbx.eltbx import henke, sasaki, tiny_pse, xray_scattering
from cctbx.eltbx.e_scattering import ito_vol_c_2011_table_4_3_2_2_entry_as_gaussian as electron_entry
from cctbx.eltbx.neutron import neutron_news_1992_table

BOHR_RADIUS = 0.529177210903  # Angstrom (CODATA 2018)
MOTT_BETHE = 1.0 / (8.0 * math.pi**2 * BOHR_RADIUS)  # 1/Angstrom
TABLES = {"xray": ("wk1995", "it1992", "n_gaussian"), "electron": ("electron",), "neutron": ("neutron",)}
MIN_D = {"it1992": 1.0 / 4.0, "wk1995": 1.0 / 12.0, "electron": 1.0 / 4.0}  # Angstrom, to which a table reaches
# Of one water, f(0) in the units of each radiation, which scales what bulk solvent is for X-rays.  Electrons: the sum
# of the table's a_i of one O and two H; neutrons: 5.803 - 2 x 3.739 fm.
WATER = {"xray": 10.0, "electron": 1.9834 + 2.0 * 0.5288, "neutron": -1.675}
# The free hydrogen atom (International Tables C, 1992, 6.1.1.4): a_i, b_i (Angstrom^2), and c such that f(0) = 1.
FREE_HYDROGEN = (0.489918, 0.262003, 0.196767, 0.049879), (20.6593, 7.74039, 49.5519, 2.20159), 0.001433
DISPERSION = {"sasaki": sasaki.table, "henke": henke.table}


@dataclass
class FormFactors:
    """
    The scattering factors of a structure (module docstring).

    Attributes
    ----------
    radiation, table : str
    gaussians : dict
        By scattering type, as cctbx takes them.
    nuclear_charge : dict of str to float
        Z of the types whose Gaussians are X-ray factors that stand for electrons by Mott-Bethe.
    dispersion : dict of str to (float, float)
        f' and f'' by type, empty for none.
    notes : list of str
        What was replaced.
    """

    radiation: str
    table: str
    gaussians: dict
    nuclear_charge: dict[str, float] = field(default_factory=dict)
    dispersion: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FormFactorChoice:
    """
    Which scattering factors to take.

    Attributes
    ----------
    radiation : str
        One of TABLES.
    table : str or None
        One of TABLES[radiation], None the first.
    ions : bool
        Keep the charges.
    mott_bethe : str
        Of electrons: ``none``, ``ions`` for those that the table lacks, ``all``.
    dispersion : str
        Of X-rays: ``none``, or one of DISPERSION at the wavelength.
    wavelength : float or None
        Angstrom.
    d_min : float or None
        Resolution (Angstrom), which the table must reach.
    """

    radiation: str = "xray"
    table: str | None = None
    ions: bool = False
    mott_bethe: str = "none"
    dispersion: str = "none"
    wavelength: float | None = None
    d_min: float | None = None


def choose_form_factors(types: Iterable[str], choice: FormFactorChoice = FormFactorChoice()) -> FormFactors:
    """
    The scattering factors of scattering types.

    Parameters
    ----------
    types : iterable of str
        Element and charge, as C or Fe3+.
    choice : FormFactorChoice

    Returns
    -------
    FormFactors

    Raises
    ------
    ValueError
        For an unknown element, a table of another radiation, a resolution that the table does not reach.
    """
    types = sorted(set(types))
    radiation = choice.radiation
    table = _table(choice)
    unknown = [name for name in types if not is_known(name)]
    if unknown:
        raise ValueError(f"no scattering factor is known for {', '.join(unknown)}")
    factors = FormFactors(radiation, table, {})
    neutralised = []
    for name in types:
        wanted = name if choice.ions else element_of(name)
        by_mott_bethe = radiation == "electron" and choice.mott_bethe == "all"
        entry = None if by_mott_bethe else _entry(wanted, table, choice.d_min)
        if entry is None and radiation == "electron" and (by_mott_bethe or choice.mott_bethe == "ions"):
            entry = _entry(wanted, "wk1995", choice.d_min)
            if wanted in ("H", "D", "T"):
                entry = xray_scattering.gaussian(*FREE_HYDROGEN)
            if entry is not None:
                factors.nuclear_charge[name] = float(tiny_pse.table(_table_element(name)).atomic_number())
        if entry is None:
            entry = _entry(element_of(name), table, choice.d_min)
            neutralised.append(name)
        if entry is None:
            raise ValueError(f"the table {table} has no scattering factor of {name}")
        factors.gaussians[name] = entry
    if neutralised:
        factors.notes.append(f"The table {table} lacks {', '.join(neutralised)}: the neutral atoms are taken.")
    hydrogen_isotope = [name for name in types if element_of(name) in ("D", "T")]
    if hydrogen_isotope and radiation != "neutron":
        factors.notes.append("Deuterium scatters X-rays and electrons as hydrogen does, and is taken as such.")
    if choice.dispersion != "none" and radiation == "xray":
        _add_dispersion(factors, choice.dispersion, choice.wavelength)
    return factors


def _table(choice: FormFactorChoice) -> str:
    """The table, which is one of the radiation and reaches the resolution."""
    tables, d_min = TABLES[choice.radiation], choice.d_min
    table = choice.table or tables[0]
    if table not in tables:
        raise ValueError(f"the table {table} is none of radiation {choice.radiation}, which has {', '.join(tables)}")
    if d_min is not None and d_min < MIN_D.get(table, 0.0):
        raise ValueError(f"the table {table} reaches {MIN_D[table]:.3g} A, not {d_min:.3g} A")
    return table


def is_known(scattering_type: str) -> bool:
    """
    Whether this is an element, with or without a charge, that scatters.

    Parameters
    ----------
    scattering_type : str

    Returns
    -------
    bool
    """
    return xray_scattering.get_standard_label(label=scattering_type, exact=False, optional=True) is not None and (
        element_of(scattering_type) in ("D", "T") or _atomic_number(scattering_type) is not None
    )


def element_of(scattering_type: str) -> str:
    """
    The element of a scattering type: Fe of Fe3+, D of D.

    Parameters
    ----------
    scattering_type : str

    Returns
    -------
    str
    """
    return re.match("[A-Za-z]*", scattering_type).group().capitalize()


def _table_element(scattering_type: str) -> str:
    element = element_of(scattering_type)
    return "H" if element in ("D", "T") else element


def _atomic_number(scattering_type: str) -> int | None:
    try:
        return tiny_pse.table(_table_element(scattering_type), True).atomic_number()
    except (RuntimeError, ValueError):
        return None


def _entry(name: str, table: str, d_min: float | None):
    """The Gaussians of a scattering type, None where the table has none of exactly this."""
    if table != "neutron" and element_of(name) in ("D", "T"):
        name = "H" + name[1:]
    label = xray_scattering.get_standard_label(label=name, exact=True, optional=True)
    if label is None:
        return None
    try:
        if table == "it1992":
            return xray_scattering.it1992(label, True).fetch()
        if table == "wk1995":
            return xray_scattering.wk1995(label, True).fetch()
        if table == "n_gaussian":
            return xray_scattering.n_gaussian_table_entry(label, d_min or 0.0, 0.0).gaussian()
        if table == "electron":
            return electron_entry(label=label, exact=True)
        return xray_scattering.gaussian(neutron_news_1992_table(label, True).bound_coh_scatt_length().real)
    except (RuntimeError, ValueError):
        return None


def _add_dispersion(factors: FormFactors, source: str, wavelength: float | None) -> None:
    if wavelength is None:
        raise ValueError("anomalous scattering factors need a wavelength")
    missing = []
    for name in factors.gaussians:
        element = _table_element(name)
        try:
            value = DISPERSION[source](element).at_angstrom(wavelength)
        except (RuntimeError, ValueError):
            value = None
        if value is not None and value.is_valid():
            factors.dispersion[name] = (value.fp(), value.fdp())
        elif _atomic_number(name) > 2:  # H and He have none to speak of
            missing.append(name)
    if missing:
        factors.notes.append(
            f"The table {source} has no f' and f'' of {', '.join(missing)} at {wavelength:.4g} A: none."
        )
