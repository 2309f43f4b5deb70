"""
What Bloch waves cost, beside abTEM on the same beams in one run.

    pip install abtem    # it is run, and no part of anything here; without it our times alone
    OMP_NUM_THREADS=1 python benchmarks/bloch.py [repeats]

Quartz (no centre: M complex) and silicon (a centre: M real) at 200 kV in a general orientation, the 62, 124 and 258
strongest beams by perturbation strength, no absorption; abTEM gets our list of beams, the same atoms, B and table.  A
row: milliseconds, the least of the repeats, which are taken in turn so that a busy machine is so for both:

matrix      M from the table of U
solve 10    intensities of M at 10 thicknesses to 1000 A, and at 30; in () the times for M in addition
ratio       both together with 10 thicknesses, ours over abTEM's; and of the solvers alone
30/10       solve at 30 thicknesses over that at 10
|dI|        largest difference of an intensity

Then: choosing the beams; amplitudes with absorption, to first order and exact; all derivatives of the intensities at 10
thicknesses by nine elements of A.

pip brings a numpy and scipy that the system's cctbx may not be built for, and a zarr that needs newer packages, too:
`pip uninstall numpy scipy typing_extensions zarr` in .venv leaves the system's, with which abTEM 1.0.11 runs.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from scipy.spatial.transform import Rotation

from dials_postrefine.electron.bloch import electrons
from dials_postrefine.electron.bloch.beams import BeamSelection, select_beams
from dials_postrefine.electron.bloch.derivatives import differentiable, intensities_by
from dials_postrefine.electron.bloch.geometry import Geometry
from dials_postrefine.electron.bloch.intensities import intensities
from dials_postrefine.electron.bloch.potential import Scattering, potential_of_atoms
from dials_postrefine.electron.bloch.propagation import StructureMatrix, amplitudes
from dials_postrefine.electron.bloch.structurematrix import by_reciprocal, structure_matrix
from dials_postrefine.scattering.electron_atoms import electron_atoms

warnings.filterwarnings("ignore")  # of what abTEM imports
ENERGY = 200e3
SIZES = 62, 124, 258
SELECTION = BeamSelection(3.0, 0.15)
FEW, MANY = np.linspace(100.0, 1000.0, 10), np.linspace(100.0, 1000.0, 30)
CRYSTALS = {
    "quartz": (
        (4.92489, 4.92489, 5.40137, 90, 90, 120),
        "P 31 2 1",
        [("Si", (-0.4697, 0.0, 1.0 / 3.0), 0.5), ("O", (-0.4135, -0.2669, 0.2143), 1.0)],
    ),
    "silicon": ((5.4309, 5.4309, 5.4309, 90, 90, 90), "F d -3 m :1", [("Si", (0.0, 0.0, 0.0), 0.4668)]),
}


def structure_of(name: str):
    """The crystal as xray.structure, all atoms of the cell in P1."""
    from cctbx import adptbx, crystal, xray
    from cctbx.array_family import flex

    cell, group, atoms = CRYSTALS[name]
    symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol=group)
    scatterers = [xray.scatterer(kind, site=site, u=adptbx.b_as_u(b), scattering_type=kind) for kind, site, b in atoms]
    settings = crystal.special_position_settings(symmetry)
    return xray.structure(settings, scatterers=flex.xray_scatterer(scatterers)).expand_to_p1(sites_mod_positive=True)


def best(*tasks, repeats: int) -> list[float]:
    """The least time of each task in milliseconds, taken in turn."""
    least = np.full(len(tasks), np.inf)
    for _ in range(repeats):
        for i, task in enumerate(tasks):
            start = time.perf_counter()
            task()
            least[i] = min(least[i], time.perf_counter() - start)
    return (1e3 * least).tolist()


class Peer:
    """abTEM's Bloch waves of a structure, in the orientation of A."""

    def __init__(self, structure, reciprocal: np.ndarray) -> None:
        from abtem.bloch import StructureFactor
        from abtem.parametrizations import PengParametrization
        from ase import Atoms

        sigma = np.sqrt([one.u_iso for one in structure.scatterers()])
        atoms = Atoms(
            symbols=[one.scattering_type for one in structure.scatterers()],
            scaled_positions=np.array(structure.sites_frac()),
            cell=np.linalg.inv(reciprocal),
            pbc=True,
        )
        self.cell = atoms.cell
        factors = StructureFactor(
            atoms,
            g_max=2.0 * SELECTION.g_max + 0.01,
            parametrization=PengParametrization(parameters="peng_low.json"),
            thermal_sigma=sigma,
            cutoff="hard",
        )
        self.factors = factors.build(lazy=False)

    def matrix(self, beams: np.ndarray) -> np.ndarray:
        from abtem.bloch.dynamical import calculate_structure_matrix

        f = self.factors
        return calculate_structure_matrix(f.array, f.hkl, beams, self.cell, ENERGY, f.gpts)

    def intensities(self, matrix: np.ndarray, beams: np.ndarray, thickness: np.ndarray) -> np.ndarray:
        from abtem.bloch.dynamical import calculate_dynamical_scattering

        return np.abs(calculate_dynamical_scattering(matrix, beams, self.cell, ENERGY, thickness)) ** 2


def peer_of(structure, reciprocal: np.ndarray) -> Peer | None:
    """abTEM, or None where it is not installed."""
    try:
        import abtem
    except ImportError as error:
        print(f"abTEM can't be imported ({error}): `pip install abtem`. Ours alone:")
        return None
    abtem.config.set({"precision": "float64", "device": "cpu"})
    return Peer(structure, reciprocal)


def run(name: str, repeats: int) -> None:
    structure = structure_of(name)
    fractional = np.array(structure.unit_cell().fractionalization_matrix()).reshape(3, 3)
    reciprocal = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix() @ fractional.T
    geometry = Geometry(reciprocal, electrons.wave_number(ENERGY) * np.array([0.0, 0.0, 1.0]))
    scattering = Scattering(electrons.relativistic_mass(ENERGY), electrons.wavelength(ENERGY))
    potential = potential_of_atoms(electron_atoms(structure), reciprocal, 2.0 * SELECTION.g_max, scattering)
    peer = peer_of(structure, reciprocal)
    for size in SIZES:
        selection = BeamSelection(SELECTION.g_max, SELECTION.s_max, most=size)
        beams = np.array(select_beams(geometry, potential, selection))
        matrix = structure_matrix(geometry, potential, beams)
        tasks = [
            lambda: structure_matrix(geometry, potential, beams),
            lambda: intensities(matrix, FEW),
            lambda: intensities(matrix, MANY),
        ]
        row = f"{name:8s} {len(beams):4d} beams  "
        if peer is not None:
            theirs = peer.matrix(beams)
            tasks += [
                lambda: peer.matrix(beams),
                lambda: peer.intensities(theirs, beams, FEW),
                lambda: peer.intensities(theirs, beams, MANY),
            ]
        times = best(*tasks, repeats=repeats)
        row += f"ours {times[1]:6.2f} {times[2]:6.2f} (+{times[0]:5.2f}) 30/10 {times[2] / times[1]:4.2f}"
        if peer is not None:
            difference = np.abs(peer.intensities(theirs, beams, FEW) - intensities(matrix, FEW)).max()
            whole = (times[0] + times[1]) / (times[3] + times[4])
            row += f"  abTEM {times[4]:6.2f} {times[5]:6.2f} (+{times[3]:5.2f})"
            row += f"  ratio {whole:4.2f}, of solvers {times[1] / times[4]:4.2f}  |dI| {difference:.0e}"
        print(row, flush=True)
        report_others(geometry, potential, beams, matrix, selection, repeats)


def report_others(geometry, potential, beams, matrix, selection, repeats: int) -> None:
    """Beams, absorption and derivatives."""
    absorbing = StructureMatrix(matrix.hermitian, 0.02 * matrix.hermitian, matrix.m, matrix.k_normal, matrix.phase)
    found = best(
        lambda: select_beams(geometry, potential, selection),
        lambda: amplitudes(absorbing, FEW, "eigh"),
        lambda: amplitudes(absorbing, FEW),
        lambda: intensities_by(differentiable(matrix, FEW), by_reciprocal(geometry, matrix, beams)),
        repeats=max(repeats // 4, 2),
    )
    print(
        "{:22s} beams {:.2f}, with absorption to first order {:.2f}, exact {:.2f}, nine derivatives {:.2f}".format(
            "", *found
        ),
        flush=True,
    )


if __name__ == "__main__":
    for crystal_name in CRYSTALS:
        run(crystal_name, int(sys.argv[1]) if len(sys.argv) > 1 else 20)
