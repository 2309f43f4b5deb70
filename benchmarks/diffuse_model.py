"""
Time and memory of the models of dials.diffuse_model.

    python benchmarks/diffuse_model.py

A molecule of 250 random atoms in a cell of 27 x 30 x 33 Angstrom, in P 1; voxels at thirds of an index: 10^6 of them to
1.41 Angstrom for rigid bodies and liquid-like motions, 10^5 to 3.04 Angstrom for the covariances; and a protein of
3,000 atoms in a cell of 54 x 60 x 66 Angstrom, 220,000 voxels at halves of an index to 3.2 Angstrom.

Printed are the seconds of CPU, of one thread, and the peak memory: of whole fits, what it takes to set a model up
(structure factors) and to fit it to counts with a background of 16 functions; of others to set up, and to evaluate
intensity and derivatives once.  Compiled loops are compiled before.
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace

import numpy as np
from scipy.fft import set_workers

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.covariance import GroupPairs
from dials_postrefine.diffuse.model.elastic import AnisotropicElastic, Elastic, NetworkChoice, find_network
from dials_postrefine.diffuse.model.fitting import Problem, fit, join_equivalents
from dials_postrefine.diffuse.model.given_covariance import GivenCovariance
from dials_postrefine.diffuse.model.group_covariance import GroupCovariance
from dials_postrefine.diffuse.model.groups import runs_of_residues
from dials_postrefine.diffuse.model.liquid_like import LiquidLike
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.tls import TLSBody
from dials_postrefine.diffuse.model.voxels import PoissonLaw, Voxels, hold_out, orbits_of

CELL = np.array([27.0, 30.0, 33.0])
N_ATOMS = 250
TLS = [0.09, 0.09, 0.09, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0, *[0.0] * 11]


def make_atoms(n: int = N_ATOMS, cell: np.ndarray = CELL) -> Atoms:
    """n random atoms of C, N and O, 1.3 Angstrom apart, in the middle of a cell; form factors of IT92."""
    random = np.random.default_rng(1)
    xyz: list[np.ndarray] = []
    width = 6.0 * (n / N_ATOMS) ** (1.0 / 3.0)
    while len(xyz) < n:
        one = random.normal(size=3) * width
        if not xyz or np.linalg.norm(np.array(xyz) - one, axis=1).min() > 1.3:
            xyz.append(one)
    return Atoms(
        orthogonal=np.diag(cell),
        sites=np.array(xyz) / cell + 0.5,
        occupancy=np.ones(n),
        u=random.uniform(0.15, 0.4, n)[:, None, None] * np.eye(3),
        kind=np.arange(n) % 3,
        a=np.array([[2.31, 1.02, 1.5886, 0.865], [12.2126, 3.1322, 2.0125, 1.1663], [3.0485, 2.2868, 1.5463, 0.867]]),
        b=np.array(
            [[20.8439, 10.2075, 0.5687, 51.6512], [0.0057, 9.8933, 28.9975, 0.5826], [13.2771, 5.7011, 0.3239, 32.9089]]
        ),
        c=np.array([0.2156, -11.529, 0.2508]),
        rotations=np.eye(3, dtype=int)[None],
        translations=np.zeros((1, 3)),
        residue=np.arange(n) // 8,
        chain=np.full(n, "A"),
    )


def make_voxels(d_min: float, cell: np.ndarray = CELL, cells: int = 3) -> Voxels:
    """The voxels to d_min in steps of 1/cells, without intensity."""
    axes = [np.arange(-m, m + 1) / cells for m in np.ceil(cells * cell / d_min).astype(int)]
    h = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    s = np.linalg.norm(h / cell, axis=1)
    h = h[(s < 1.0 / d_min) & (s > 0.0)]
    nothing = np.zeros(len(h))
    return Voxels(h, np.full(3, cells), 2.0 * np.pi * h / cell, nothing, nothing, np.arange(len(h)), nothing > 1.0)


def observe(model, values: list[float], voxels: Voxels) -> Voxels:
    """The voxels with counts of a model's intensity and a background."""
    intensity = model.evaluate(np.array(values))[0]
    exposure = 30.0 / intensity.mean()
    counts = np.random.default_rng(0).poisson(exposure * np.maximum(intensity, 0.0) + 9.0)
    orbit = orbits_of(voxels.h, voxels.cells, np.eye(3, dtype=int)[None])
    return replace(
        voxels,
        intensity=counts / exposure,
        sigma=np.sqrt(np.maximum(counts, 1)) / exposure,
        orbit=orbit,
        held_out=hold_out(voxels.h, orbit, 0.1, "orbits"),
        poisson=PoissonLaw(1.0, np.full(len(voxels), exposure)),
    )


def say_fit(name: str, make, values: list[float], voxels: Voxels) -> None:
    """Print the row of a whole fit to voxels simulated with these values."""
    voxels = observe(make(voxels), values, voxels)
    begun = time.process_time()
    functions = background_functions(voxels.s, "smooth", 16)
    problem = join_equivalents(Problem(voxels, functions, ~voxels.held_out))
    model = make(problem.distinct)
    made = time.process_time()
    found = fit(model, problem)
    done = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    fitted = ", ".join(
        f"{key} {value:.4f} +- {esd:.4f}" for key, value, esd in zip(found.names, found.values, found.esds)
    )
    print(
        f"{name:28s} {len(voxels):9d} voxels  set up {made - begun:6.2f} s  fit {done - made:6.2f} s  "
        f"together {done - begun:6.2f} s  {memory:5.2f} GB   {fitted}"
    )


def say(name: str, make, values: list[float], voxels: Voxels) -> None:
    """Print a row."""
    begun = time.process_time()
    model = make(voxels)
    made = time.process_time()
    model.evaluate(np.array(values))
    done = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:28s} {len(voxels):9d} voxels  set up {made - begun:6.2f} s  evaluate {done - made:6.2f} s"
        f"  {memory:5.2f} GB"
    )


def main() -> None:
    atoms, few, many = make_atoms(), make_voxels(3.04), make_voxels(1.41)
    random = np.random.default_rng(2)
    root = random.normal(size=(3 * N_ATOMS, 40)) * 0.05
    v = root @ root.T
    network, tensors = (find_network(atoms, NetworkChoice(n, 8.0)) for n in (1, 3))
    small = few.select(np.arange(100))
    for warm in (RigidBody([atoms], small), LiquidLike(atoms, small), GivenCovariance(atoms, small, v[::3, ::3])):
        warm.evaluate(np.array([one.start for one in warm.parameters]))
    GivenCovariance(atoms, small, v).evaluate(np.array([0.9]))
    set_workers(1).__enter__()
    say_fit("rigid_body", lambda voxels: RigidBody([atoms], voxels), [0.35], many)
    say_fit("liquid_like, molecule", lambda voxels: LiquidLike(atoms, voxels), [0.45, 6.5], many)
    say_fit("liquid_like, crystal", lambda voxels: LiquidLike(atoms, voxels, "crystal"), [0.45, 6.5], many)
    protein, fine = make_atoms(3000, 2.0 * CELL), make_voxels(3.2, 2.0 * CELL, 2)
    say_fit("rigid_body, 3000 atoms", lambda voxels: RigidBody([protein], voxels), [0.35], fine)
    say_fit("liquid_like, 3000 atoms", lambda voxels: LiquidLike(protein, voxels), [0.45, 6.5], fine)
    groups = runs_of_residues(protein, 6)
    some = fine.select(np.arange(0, len(fine), 200))

    def inferred(voxels: Voxels) -> GroupCovariance:
        return GroupCovariance(GroupPairs(protein, groups.number, voxels), groups.places(protein), voxels, 3)

    start = np.array([one.start for one in inferred(some.select(np.arange(10))).parameters])
    say("covariance, rank 3, 3000", inferred, start, some)
    say("elastic", lambda voxels: Elastic(atoms, voxels, network), [0.9, 0.1], few)
    say("elastic, anisotropic", lambda voxels: AnisotropicElastic(atoms, voxels, tensors), [0.9, 0.1], few)
    say("rigid_body, TLS", lambda voxels: TLSBody([atoms], voxels), TLS, few.select(np.arange(0, len(few), 10)))
    say("covariance, isotropic", lambda voxels: GivenCovariance(atoms, voxels, v[::3, ::3]), [0.9], few)
    say("covariance, 3 x 3", lambda voxels: GivenCovariance(atoms, voxels, v), [0.9], few)


if __name__ == "__main__":
    main()
