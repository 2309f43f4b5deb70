"""
A small CBED pattern of silicon, with noise, of known U, thickness and tilt: for tests and benchmarks.

Four disks of the (111) row near [110], some incident directions on a square, a few beams: a refinement takes a second.
What is written is what dials.fine_refine reads (files/electron/patterns.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

CELL = 5.4307
TRUTH = {
    "U111": 0.0476,
    "Uprime111": 0.0008,
    "U222": -0.0009,
    "absorption": 0.016,
    "thickness": 1200.0,
    "tilt_x": -0.075,
    "tilt_y": 0.010,
}
DISKS = np.array([[0, 0, 0], [1, -1, -1], [-1, 1, 1], [2, -2, -2]])
SCALE, BACKGROUNDS = 5000.0, np.array([150.0, 60.0, 40.0, 25.0])
CIF = f"""data_silicon
_cell_length_a {CELL}
_cell_length_b {CELL}
_cell_length_c {CELL}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F d -3 m :2'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Si1 Si 0.125 0.125 0.125 0.4668
"""


def silicon_pattern(n: int = 12) -> dict[str, np.ndarray]:
    """The arrays of a pattern of n by n pixels without data: geometry, beams and a start."""
    x = np.array([1.0, -1.0, -1.0]) / np.sqrt(3.0)
    zone = np.array([1.0, 1.0, 0.0]) / np.sqrt(2.0)
    angle = np.radians(11.0)
    z = np.cos(angle) * zone + np.sin(angle) * np.cross(x, zone)
    axis = np.linspace(-0.13, 0.13, n)
    row = [[k, -k, -k] for k in (-2, -3, 3)]
    beams = np.array([*DISKS.tolist(), *row, [-1, -1, -7], [4, -2, 6], [-4, 2, -6]])
    return {
        "disks": DISKS,
        "A": CELL * np.array([x, np.cross(z, x), z]).T,
        "energy_V": np.array(200e3),
        "kx": np.tile(axis, (n, 1)),
        "ky": np.tile(axis[:, None], (1, n)),
        "pixel": np.array(axis[1] - axis[0]),
        "beams": beams,
        "start": np.array('{"tilt": [-0.073, 0.008], "thickness": 1212.0, "Uprime_over_U": 0.02}'),
    }


def add_counts(pattern: Mapping[str, np.ndarray], intensity: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """A pattern with the counts of intensities (d, n n), Poisson's variance and noise of it."""
    shape = (len(DISKS), *pattern["kx"].shape)
    expected = (SCALE * intensity + BACKGROUNDS[:, None]).reshape(shape)
    noise = np.random.default_rng(seed).normal(size=shape)
    return {**pattern, "data": expected + np.sqrt(expected) * noise, "variance": expected}


def write_pattern(folder: Path, pattern: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Write pattern and structure; their paths."""
    np.savez(folder / "pattern.npz", **pattern)
    (folder / "silicon.cif").write_text(CIF, encoding="utf-8")
    return str(folder / "pattern.npz"), str(folder / "silicon.cif")


def true_intensity(n: int = 12) -> np.ndarray:
    """The intensities (4, n n) at the truth."""
    from iotbx.cif import reader

    from dials_postrefine.electron.bloch.electrons import relativistic_mass, wave_number, wavelength
    from dials_postrefine.electron.bloch.potential import Scattering, coefficients
    from dials_postrefine.electron.fine.beamlist import places_of
    from dials_postrefine.electron.fine.crystal import Crystal
    from dials_postrefine.electron.fine.groups import make_group
    from dials_postrefine.electron.fine.model import PatternModel
    from dials_postrefine.electron.fine.simulation import Slab
    from dials_postrefine.scattering.electron_atoms import electron_atoms

    pattern = silicon_pattern(n)
    energy, reciprocal = float(pattern["energy_V"]), np.linalg.inv(pattern["A"])
    atoms = electron_atoms(reader(input_string=CIF).build_crystal_structures()["silicon"])
    scattering = Scattering(relativistic_mass(energy), wavelength(energy))
    indices = np.array([[1, 1, 1], [2, 2, 2]])
    u = coefficients(atoms, reciprocal, indices, scattering)[0]
    groups = tuple(make_group(atoms, one, value, abs(u[0]), 1.0) for one, value in zip(indices, u))
    crystal = Crystal(atoms, ("Si",), reciprocal, scattering, groups)
    beams = pattern["beams"]
    slab = Slab(reciprocal, beams, places_of(pattern["disks"], beams), wave_number(energy))
    offset = np.column_stack([pattern["kx"].ravel(), pattern["ky"].ravel()])
    return PatternModel(slab, crystal.table(beams), offset, (n, n)).simulate(TRUTH)
