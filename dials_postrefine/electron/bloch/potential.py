"""
The Fourier coefficients of the crystal's potential, U_g + i U'_g, of atoms or as given, and their derivatives.

    U_g = gamma_rel/(pi V) sum_operations sum_j o_j f_j(s) T_j exp(-2 pi i g.r),     T = exp(-B s^2 - 2 pi^2 h^T U* h)

in 1/Angstrom^2: the CONJUGATE of cctbx's F(h).  U' is none, proportional (U' = kappa U), or that of an Einstein
crystal (absorption.py: f' in the place of f).  Atoms of an anisotropic U* absorb as those of the isotropic B that has
its trace.

A change of atoms changes U_g by the sums over the operations that cctbx's derivatives are made of; a change of A (the
cell) changes s and V:

    dU_g/dA = U_g A^-T + dU_g/d(s^2) g h^T/2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.bloch.absorption import einstein_factor, einstein_factor_slope
from dials_postrefine.scattering.electron_atoms import ElectronAtoms

ABSORPTION = ("none", "proportional", "einstein")
MOST_VALUES = 2e8  # of the table of U
MOST_INDICES = 5e7  # that are looked through for those of small |g|
STRONGEST = 30  # coefficients that a centre of symmetry is looked for with


@dataclass(frozen=True)
class Potential:
    """
    U and U' by index: a table that reaches from -largest to +largest.

    Attributes
    ----------
    u : ndarray, shape (2 H + 1, 2 K + 1, 2 L + 1)
        1/Angstrom^2; real where a centre of symmetry makes U and U' so.
    u_prime : ndarray of the same shape
        Empty where nothing is absorbed.
    largest : ndarray of int, shape (3,)
        H, K, L.
    centre : ndarray, shape (3,)
        The centre of symmetry r_c that is the origin of the table, fractional: it has U_g exp(2 pi i g.r_c); else 0.
    """

    u: np.ndarray
    u_prime: np.ndarray
    largest: np.ndarray
    centre: np.ndarray

    def phases(self, hkl: np.ndarray) -> np.ndarray:
        """exp(-2 pi i h.r_c) of indices (..., 3), by which amplitudes have the crystal's own origin."""
        return np.exp(-2j * np.pi * (np.asarray(hkl) @ self.centre))

    def at(self, hkl: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """U and U' at indices (..., 3), of the crystal's origin; 0 where none is given, ValueError beyond."""
        place, phase = self.places(np.asarray(hkl)), self.phases(hkl)
        return self.u.ravel()[place] * phase, self.u_prime.ravel()[place] * phase if self.u_prime.size else None

    def between(self, beams: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """U_{g-h} and U'_{g-h}, shape (n, n), of beams (n, 3); the centre is the origin."""
        # the number of an index is linear in it
        stride = np.array([self.u.shape[1] * self.u.shape[2], self.u.shape[2], 1])
        beams = np.asarray(beams)
        if np.any(np.ptp(beams, axis=0) > self.largest):
            raise ValueError("the table of U does not reach the differences of the beams: make it to twice their |g|")
        number = beams @ stride
        place = number[:, None] - number + self.largest @ stride
        return self.u.ravel()[place], self.u_prime.ravel()[place] if self.u_prime.size else None

    def places(self, hkl: np.ndarray) -> np.ndarray:
        """Where indices (..., 3) are in the table made flat."""
        if np.any(np.abs(hkl) > self.largest):
            raise ValueError("an index is beyond the table of U: make it to twice the |g| of the beams")
        h, k, l = np.moveaxis(hkl + self.largest, -1, 0)  # noqa: E741
        return (h * self.u.shape[1] + k) * self.u.shape[2] + l


def tabulate(hkl: np.ndarray, u: np.ndarray, u_prime: np.ndarray | None = None) -> Potential:
    """
    The table of given coefficients.

    Parameters
    ----------
    hkl : ndarray of int, shape (n, 3)
    u, u_prime : ndarray of complex, shape (n,)
        1/Angstrom^2; of a Friedel pair one is enough.

    Returns
    -------
    Potential

    Raises
    ------
    ValueError
        Where U_{-g} is not U_g* though both are given, or the table needs too much memory.
    """
    hkl = np.asarray(hkl, dtype=np.int64)
    largest = np.abs(hkl).max(axis=0)
    shape = tuple(2 * largest + 1)
    centre = centre_of_symmetry(hkl, u, u_prime)
    shift = np.exp(2j * np.pi * (hkl @ (np.zeros(3) if centre is None else centre)))
    if np.prod(shape, dtype=float) > MOST_VALUES:
        raise ValueError(
            f"a table of U with {np.prod(shape, dtype=float):.0f} values is too large: take beams of smaller |g|"
        )
    tables = []
    for values in (u, u_prime):
        if values is None:
            tables.append(np.zeros(0))
            continue
        table, values = np.zeros(shape, dtype=complex), values * shift
        table[tuple((largest - hkl).T)] = np.conj(values)
        table[tuple((largest + hkl).T)] = values
        error = np.abs(table - np.conj(table[::-1, ::-1, ::-1])).max()
        if error > 1e-9 * np.abs(table).max():
            raise ValueError("the coefficients of a Friedel pair are not each other's conjugate: U_-g must be U_g*")
        tables.append(table)
    if centre is None:
        return Potential(*tables, largest, np.zeros(3))
    real = [np.ascontiguousarray(table.real) for table in tables]
    return Potential(*real, largest, centre)


def centre_of_symmetry(hkl: np.ndarray, u: np.ndarray, u_prime: np.ndarray | None) -> np.ndarray | None:
    """
    The centre r_c, in 24ths of the cell, about which all U and U' are real, or None.

    The space groups' own centres are in the origin of one setting, and in others off it by half a translation that
    symmetry operations have (silicon with an atom in the origin: 1/8 1/8 1/8).

    Parameters
    ----------
    hkl : ndarray of int, shape (n, 3)
    u, u_prime : ndarray of complex, shape (n,)
        U, and U' or None.

    Returns
    -------
    ndarray, shape (3,), or None
        Fractional, a multiple of 1/24.
    """
    values = [np.asarray(one) for one in (u, u_prime) if one is not None]
    steps = np.arange(12) / 24.0  # what is half a cell off is a centre, too
    places = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    strongest = np.argsort(-np.abs(values[0]), kind="stable")[:STRONGEST]
    for some in (strongest, slice(None)):
        for one in values:
            shifted = one[some] * np.exp(2j * np.pi * (places @ hkl[some].T))
            places = places[np.abs(shifted.imag).max(axis=1) <= 1e-11 * np.abs(one).max()]
        places = places[:8]  # the strongest leave few, of which all coefficients choose
    return places[0] if len(places) else None


def indices_within(reciprocal: np.ndarray, d_star_max: float) -> np.ndarray:
    """
    All indices of |g| up to a limit.

    Parameters
    ----------
    reciprocal : ndarray, shape (3, 3)
        A.
    d_star_max : float
        1/Angstrom.

    Returns
    -------
    ndarray of int, shape (n, 3)
        0,0,0 first, then by rising |g|.

    Raises
    ------
    ValueError
        For more than memory holds.
    """
    # |h_i| <= |a_i| |g|
    most = np.floor(np.linalg.norm(np.linalg.inv(reciprocal), axis=1) * d_star_max + 1e-9).astype(int)
    n = np.prod(2.0 * most + 1.0)
    if n > MOST_INDICES:
        raise ValueError(f"{n:.0f} indices need too much memory: take beams of smaller |g|")
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ reciprocal.T, axis=1)
    inside = length <= d_star_max * (1.0 + 1e-12)
    hkl, length = hkl[inside], length[inside]
    return hkl[np.lexsort((*hkl.T[::-1], np.round(length, 9)))]


@dataclass(frozen=True)
class Scattering:
    """
    How atoms scatter: gamma_rel and lambda (Angstrom) of the electrons, and the absorption, one of ABSORPTION; kappa is
    U'/U where it is proportional.
    """

    gamma_rel: float
    wavelength: float
    absorption: str = "none"
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.absorption not in ABSORPTION:
            raise ValueError(f"no absorption {self.absorption}: it is one of {', '.join(ABSORPTION)}")


def potential_of_atoms(
    atoms: ElectronAtoms, reciprocal: np.ndarray, d_star_max: float, scattering: Scattering
) -> Potential:
    """
    The table of U and U' of atoms.

    Parameters
    ----------
    atoms : ElectronAtoms
    reciprocal : ndarray, shape (3, 3)
        A, of any orientation.
    d_star_max : float
        1/Angstrom; twice the largest |g| of the beams.
    scattering : Scattering

    Returns
    -------
    Potential

    Raises
    ------
    ValueError
        Where the table needs too much memory.
    """
    hkl = indices_within(reciprocal, d_star_max)
    first = np.where(hkl[:, 0] != 0, hkl[:, 0], np.where(hkl[:, 1] != 0, hkl[:, 1], hkl[:, 2]))
    hkl = hkl[first >= 0]  # of a Friedel pair one is enough
    return tabulate(hkl, *coefficients(atoms, reciprocal, hkl, scattering))


def coefficients(
    atoms: ElectronAtoms, reciprocal: np.ndarray, hkl: np.ndarray, scattering: Scattering
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    U and U' (module docstring); of ions U_0 is 0, which no beam sees.

    Parameters
    ----------
    atoms : ElectronAtoms
    reciprocal : ndarray, shape (3, 3)
        A, of any orientation; 1/Angstrom.
    hkl : ndarray of int, shape (n, 3)
    scattering : Scattering

    Returns
    -------
    u : ndarray of complex, shape (n,)
        1/Angstrom^2.
    u_prime : ndarray of complex, shape (n,), or None
        1/Angstrom^2; None where nothing is absorbed.
    """
    allowed = _is_allowed(atoms, np.asarray(hkl))
    if not allowed.all():  # three quarters of what an F lattice has
        found = coefficients(atoms, reciprocal, np.asarray(hkl)[allowed], scattering)
        return tuple(None if one is None else _spread(one, allowed) for one in found)
    s_sq = _s_sq(reciprocal, hkl)
    factor = atoms.factors(s_sq)
    u = _sum(atoms, hkl, s_sq, factor) * _scale(reciprocal, scattering)
    if scattering.absorption == "none":
        return u, None
    if scattering.absorption == "proportional":
        return u, scattering.kappa * u
    absorbed = _absorption_factors(atoms, reciprocal, s_sq, scattering)
    return u, _sum(atoms, hkl, s_sq, absorbed) * _scale(reciprocal, scattering)


def _is_allowed(atoms: ElectronAtoms, hkl: np.ndarray) -> np.ndarray:
    """Whether the lattice's centring allows indices (n, 3)."""
    return np.abs(np.exp(-2j * np.pi * (hkl @ _without_centring(atoms)[2].T)).sum(axis=1)) > 0.5


def _spread(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values where a mask (n,) is, and 0."""
    found = np.zeros(len(places), dtype=complex)
    found[places] = values
    return found


def _absorption_factors(
    atoms: ElectronAtoms, reciprocal: np.ndarray, s_sq: np.ndarray, scattering: Scattering, of=einstein_factor
) -> np.ndarray:
    """f' of each atom, or with einstein_factor_slope df'/dB, shape (n, atoms)."""
    direct = np.linalg.inv(reciprocal)  # rows are the cell vectors
    u_cartesian = np.einsum("ri,nrs,sj->nij", direct, atoms.u_star, direct)
    b = atoms.b + 8.0 * np.pi**2 * np.trace(u_cartesian, axis1=1, axis2=2) / 3.0
    strength = scattering.gamma_rel * scattering.wavelength
    columns = [of(s_sq, atoms.core_a[kind], atoms.core_b[kind], b_j, strength) for kind, b_j in zip(atoms.kind, b)]
    return np.stack(columns, axis=1)


def _scale(reciprocal: np.ndarray, scattering: Scattering) -> float:
    """gamma_rel/(pi V)."""
    return scattering.gamma_rel * abs(np.linalg.det(reciprocal)) / np.pi


def _s_sq(reciprocal: np.ndarray, hkl: np.ndarray) -> np.ndarray:
    return np.sum((np.asarray(hkl) @ np.transpose(reciprocal)) ** 2, axis=1) / 4.0


def _terms(atoms: ElectronAtoms, hkl: np.ndarray, s_sq: np.ndarray):
    """
    h R and o T exp(-2 pi i h.(R x + t)), (n, 3) and (n, atoms), of one symmetry operation after the other.

    Those that differ by a centring translation are one, with a factor that is 0 or their number.
    """
    rotations, translations, centring = _without_centring(atoms)
    lattice = np.rint(np.exp(-2j * np.pi * (hkl @ centring.T)).sum(axis=1).real)
    isotropic = lattice[:, None] * atoms.occupancy * np.exp(-s_sq[:, None] * atoms.b)
    anisotropic = np.any(atoms.u_star)
    for rotation, translation in zip(rotations, translations):
        turned = hkl @ rotation
        phase = turned @ atoms.sites.T + (hkl @ translation)[:, None]
        term = isotropic * np.exp(-2j * np.pi * phase)
        if anisotropic:
            term *= np.exp(-2.0 * np.pi**2 * np.einsum("ni,jik,nk->nj", turned, atoms.u_star, turned))
        yield turned, term


def _without_centring(atoms: ElectronAtoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One operation of each rotation, (p, 3, 3) and (p, 3), and the translations (c, 3) of the centring."""
    first = np.sort(np.unique(atoms.rotations.reshape(-1, 9), axis=0, return_index=True)[1])
    centring = atoms.translations[np.all(atoms.rotations == np.eye(3, dtype=int), axis=(1, 2))]
    return atoms.rotations[first], atoms.translations[first], centring


def _sum(atoms: ElectronAtoms, hkl: np.ndarray, s_sq: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The sum over all atoms of the cell with factors (n, atoms)."""
    return sum(np.sum(factor * term, axis=1) for _, term in _terms(atoms, np.asarray(hkl), s_sq))


def by_atoms(
    atoms: ElectronAtoms, reciprocal: np.ndarray, hkl: np.ndarray, scattering: Scattering
) -> tuple[np.ndarray, np.ndarray]:
    """
    Derivatives of U_g by the fractional positions and by B of the atoms of the asymmetric unit.

    Parameters
    ----------
    atoms : ElectronAtoms
    reciprocal : ndarray, shape (3, 3)
        A, of any orientation; 1/Angstrom.
    hkl : ndarray of int, shape (n, 3)
    scattering : Scattering

    Returns
    -------
    by_sites : ndarray of complex, shape (3 atoms, n)
        x, y, z of the first atom, then of the next; 1/Angstrom^2.
    by_b : ndarray of complex, shape (atoms, n)
        1/Angstrom^4.
    """
    s_sq = _s_sq(reciprocal, hkl)
    factor = atoms.factors(s_sq) * _scale(reciprocal, scattering)
    return _by_atoms(atoms, np.asarray(hkl), s_sq, factor, -s_sq[:, None] * factor)


def absorption_by_atoms(
    atoms: ElectronAtoms, reciprocal: np.ndarray, hkl: np.ndarray, scattering: Scattering
) -> tuple[np.ndarray, np.ndarray] | None:
    """
    Derivatives of U'_g, as by_atoms gives those of U_g.

    Parameters
    ----------
    atoms, reciprocal, hkl, scattering
        As of by_atoms.

    Returns
    -------
    by_sites, by_b : ndarray of complex, shape (3 atoms, n) and (atoms, n)
        Or None instead of both where nothing is absorbed.
    """
    if scattering.absorption == "none":
        return None
    if scattering.absorption == "proportional":
        sites, b = by_atoms(atoms, reciprocal, hkl, scattering)
        return scattering.kappa * sites, scattering.kappa * b
    s_sq, scale = _s_sq(reciprocal, hkl), _scale(reciprocal, scattering)
    factor = scale * _absorption_factors(atoms, reciprocal, s_sq, scattering)
    slope = scale * _absorption_factors(atoms, reciprocal, s_sq, scattering, einstein_factor_slope)
    return _by_atoms(atoms, np.asarray(hkl), s_sq, factor, slope - s_sq[:, None] * factor)


def _by_atoms(
    atoms: ElectronAtoms, hkl: np.ndarray, s_sq: np.ndarray, factor: np.ndarray, by_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives, of factors f (n, atoms) and of exp(B s^2) d[f exp(-B s^2)]/dB."""
    sites = np.zeros((len(hkl), len(atoms.sites), 3), dtype=complex)
    b = np.zeros((len(hkl), len(atoms.sites)), dtype=complex)
    for turned, term in _terms(atoms, hkl, s_sq):
        sites += -2j * np.pi * (factor * term)[:, :, None] * turned[:, None, :]
        b += by_b * term
    return sites.reshape(len(hkl), -1).T, b.T


def by_displacements(
    atoms: ElectronAtoms, reciprocal: np.ndarray, hkl: np.ndarray, scattering: Scattering
) -> np.ndarray:
    """
    Derivatives of U_g by the elements of U* of the atoms of the asymmetric unit, each of the nine for itself.

    U' as of by_atoms.

    Parameters
    ----------
    atoms : ElectronAtoms
    reciprocal : ndarray, shape (3, 3)
        A, of any orientation; 1/Angstrom.
    hkl : ndarray of int, shape (n, 3)
    scattering : Scattering

    Returns
    -------
    ndarray of complex, shape (9 atoms, n)
        1/Angstrom^2; in C's order of the elements, atom by atom.
    """
    hkl = np.asarray(hkl)
    s_sq = _s_sq(reciprocal, hkl)
    factor = atoms.factors(s_sq) * _scale(reciprocal, scattering)
    found = np.zeros((len(hkl), len(atoms.sites), 9), dtype=complex)
    for turned, term in _terms(atoms, hkl, s_sq):
        squares = (turned[:, :, None] * turned[:, None, :]).reshape(len(hkl), 1, 9)
        found -= 2.0 * np.pi**2 * (factor * term)[:, :, None] * squares
    return found.reshape(len(hkl), -1).T


def by_cell(atoms: ElectronAtoms, reciprocal: np.ndarray, hkl: np.ndarray, scattering: Scattering) -> np.ndarray:
    """
    Derivatives of U_g by the nine elements of A in C's order.

    U' only where it is none or proportional, kappa times these.

    Parameters
    ----------
    atoms : ElectronAtoms
    reciprocal : ndarray, shape (3, 3)
        A; 1/Angstrom.
    hkl : ndarray of int, shape (n, 3)
    scattering : Scattering

    Returns
    -------
    ndarray of complex, shape (9, n)
        1/Angstrom.
    """
    hkl = np.asarray(hkl)
    s_sq = _s_sq(reciprocal, hkl)
    scale = _scale(reciprocal, scattering)
    factor, slope = atoms.factors(s_sq), atoms.factor_slopes(s_sq)
    u = scale * _sum(atoms, hkl, s_sq, factor)
    by_s_sq = scale * _sum(atoms, hkl, s_sq, slope - atoms.b * factor)
    g = hkl @ np.transpose(reciprocal)
    by_volume = np.linalg.inv(reciprocal).T
    found = u[:, None, None] * by_volume + 0.5 * by_s_sq[:, None, None] * g[:, :, None] * hkl[:, None, :]
    return found.reshape(len(hkl), 9).T


def between_beams(values: np.ndarray, hkl: np.ndarray, beams: np.ndarray) -> np.ndarray:
    """
    Values of indices, gathered at g - h of all pairs of beams.

    Parameters
    ----------
    values : ndarray, shape (p, n)
    hkl : ndarray of int, shape (n, 3)
        Those of the values: they are to be differences(beams).
    beams : ndarray of int, shape (b, 3)

    Returns
    -------
    ndarray, shape (p, b, b)
    """
    largest = np.abs(hkl).max(axis=0)
    shape = tuple(2 * largest + 1)
    numbers = np.zeros(shape, dtype=np.int64)
    numbers[tuple((largest + hkl).T)] = np.arange(len(hkl))
    difference = beams[:, None, :] - beams[None, :, :] + largest
    return values[:, numbers[tuple(np.moveaxis(difference, -1, 0))]]


def differences(beams: np.ndarray) -> np.ndarray:
    """
    All indices g - h of pairs of beams, each once.

    Parameters
    ----------
    beams : ndarray of int, shape (b, 3)

    Returns
    -------
    ndarray of int, shape (n, 3)
    """
    beams = np.asarray(beams)
    return np.unique((beams[:, None, :] - beams[None, :, :]).reshape(-1, 3), axis=0)
