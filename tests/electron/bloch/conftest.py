"""The given sets of Bloch waves, and crystals without a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

TRUTH = Path(__file__).parents[4] / "shared" / "data" / "bloch_truth"
SETS = ("Si110", "Si_row111", "quartz_general2")


@dataclass(frozen=True)
class Truth:
    """One set of bloch_truth: its arrays by name, and geometry and potential made of them."""

    arrays: dict
    geometry: object
    potential: object

    def __getattr__(self, name):
        return self.arrays[name]


def read_truth(name: str) -> Truth:
    from dials_postrefine.electron.bloch.geometry import Geometry
    from dials_postrefine.electron.bloch.potential import tabulate

    with np.load(TRUTH / f"{name}_200kV.npz") as found:
        arrays = {key: found[key] for key in found.files}
    k, kt = float(arrays["K"]), arrays["kt"]
    wave_vector = np.array([*kt, np.sqrt(k**2 - kt @ kt)])
    geometry = Geometry(np.linalg.inv(arrays["A"]), wave_vector, np.array([0.0, 0.0, 1.0]))
    return Truth(arrays, geometry, tabulate(arrays["U_hkl"], arrays["U"]))


@pytest.fixture(params=SETS)
def truth(request):
    """Each of the given sets."""
    if not TRUTH.is_dir():
        pytest.skip("no ../shared/data/bloch_truth")
    return read_truth(request.param)


@pytest.fixture
def truth_of():
    """A function that reads one of the given sets."""
    if not TRUTH.is_dir():
        pytest.skip("no ../shared/data/bloch_truth")
    return read_truth


@pytest.fixture
def make_structure():
    """A function: cell, space group and atoms (scattering type, site, B) -> cctbx.xray.structure."""
    from cctbx import adptbx, crystal, xray
    from cctbx.array_family import flex

    def make(cell, group, atoms):
        scatterers = flex.xray_scatterer(
            [
                xray.scatterer(f"{kind}{i}", site=site, u=adptbx.b_as_u(b), scattering_type=kind)
                for i, (kind, site, b) in enumerate(atoms)
            ]
        )
        symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol=group)
        return xray.structure(crystal.special_position_settings(symmetry), scatterers=scatterers)

    return make


@pytest.fixture
def quartz(make_structure):
    """Quartz, P3(1)21, as cctbx.xray.structure."""
    atoms = [("Si", (-0.4697, 0.0, 1.0 / 3.0), 0.5), ("O", (-0.4135, -0.2669, 0.2143), 1.0)]
    return make_structure((4.92489, 4.92489, 5.40137, 90, 90, 120), "P 31 2 1", atoms)


@pytest.fixture
def quartz_case(quartz):
    """Quartz in a general orientation with an inclined surface: atoms, geometry, scattering, beams."""
    from scipy.spatial.transform import Rotation

    from dials_postrefine.electron.bloch import electrons
    from dials_postrefine.electron.bloch.beams import BeamSelection, select_beams
    from dials_postrefine.electron.bloch.geometry import Geometry
    from dials_postrefine.electron.bloch.potential import Scattering, potential_of_atoms
    from dials_postrefine.scattering.electron_atoms import electron_atoms

    atoms = electron_atoms(quartz)
    turn = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    reciprocal = turn @ np.array(quartz.unit_cell().fractionalization_matrix()).reshape(3, 3).T
    k = electrons.wave_number(200e3) * np.array([0.0, 0.0, 1.0])
    normal = Rotation.from_rotvec([0.25, 0.1, 0.0]).as_matrix()[2]
    geometry = Geometry(reciprocal, k, normal)
    scattering = Scattering(electrons.relativistic_mass(200e3), electrons.wavelength(200e3), "proportional", 0.05)
    potential = potential_of_atoms(atoms, reciprocal, 2.4, scattering)
    beams = select_beams(geometry, potential, BeamSelection(1.1, 0.012))
    return atoms, geometry, scattering, beams
