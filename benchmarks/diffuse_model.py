"""
Time and memory of the models of dials.diffuse_model.

    python benchmarks/diffuse_model.py

A molecule of 250 random atoms in a cell of 27 x 30 x 33 Angstrom, in P 1; voxels at thirds of an index: 10^6 of them to
1.41 Angstrom for rigid bodies and liquid-like motions, 10^5 to 3.04 Angstrom for the covariances.  Printed are the
seconds that it takes to set a model up (structure factors) and to evaluate intensity and derivatives once, at
parameters that it has not seen, and the peak memory; a fit takes 5 to 15 evaluations.  Compiled loops are compiled
before.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.elastic import AnisotropicElastic, Elastic, NetworkChoice, find_network
from dials_postrefine.diffuse.model.given_covariance import GivenCovariance
from dials_postrefine.diffuse.model.liquid_like import LiquidLike
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.tls import TLSBody
from dials_postrefine.diffuse.model.voxels import Voxels

CELL = np.array([27.0, 30.0, 33.0])
N_ATOMS = 250
TLS = [0.09, 0.09, 0.09, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0, *[0.0] * 11]


def make_atoms() -> Atoms:
    """Random atoms, 1.3 Angstrom apart, with carbon's, nitrogen's and oxygen's form factors (IT92)."""
    random = np.random.default_rng(1)
    xyz: list[np.ndarray] = []
    while len(xyz) < N_ATOMS:
        one = random.normal(size=3) * 6.0
        if all(np.linalg.norm(one - other) > 1.3 for other in xyz):
            xyz.append(one)
    return Atoms(
        orthogonal=np.diag(CELL),
        sites=np.array(xyz) / CELL + 0.5,
        occupancy=np.ones(N_ATOMS),
        u=random.uniform(0.15, 0.4, N_ATOMS)[:, None, None] * np.eye(3),
        kind=np.arange(N_ATOMS) % 3,
        a=np.array([[2.31, 1.02, 1.5886, 0.865], [12.2126, 3.1322, 2.0125, 1.1663], [3.0485, 2.2868, 1.5463, 0.867]]),
        b=np.array(
            [[20.8439, 10.2075, 0.5687, 51.6512], [0.0057, 9.8933, 28.9975, 0.5826], [13.2771, 5.7011, 0.3239, 32.9089]]
        ),
        c=np.array([0.2156, -11.529, 0.2508]),
        rotations=np.eye(3, dtype=int)[None],
        translations=np.zeros((1, 3)),
        residue=np.arange(N_ATOMS) // 8,
        chain=np.full(N_ATOMS, "A"),
    )


def make_voxels(d_min: float) -> Voxels:
    """The voxels to d_min, without intensity."""
    axes = [np.arange(-m, m + 1) / 3.0 for m in np.ceil(3.0 * CELL / d_min).astype(int)]
    h = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    s = np.linalg.norm(h / CELL, axis=1)
    h = h[(s < 1.0 / d_min) & (s > 0.0)]
    nothing = np.zeros(len(h))
    return Voxels(h, np.array([3, 3, 3]), 2.0 * np.pi * h / CELL, nothing, nothing, np.arange(len(h)), nothing > 1.0)


def say(name: str, make, values: list[float], voxels: Voxels) -> None:
    """Print a row."""
    begun = time.perf_counter()
    model = make(voxels)
    made = time.perf_counter()
    model.evaluate(np.array(values))
    done = time.perf_counter()
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
    say("rigid_body", lambda voxels: RigidBody([atoms], voxels), [0.3], many)
    say("liquid_like, molecule", lambda voxels: LiquidLike(atoms, voxels), [0.4, 6.0], many)
    say("liquid_like, crystal", lambda voxels: LiquidLike(atoms, voxels, "crystal"), [0.4, 6.0], many)
    say("elastic", lambda voxels: Elastic(atoms, voxels, network), [0.9, 0.1], few)
    say("elastic, anisotropic", lambda voxels: AnisotropicElastic(atoms, voxels, tensors), [0.9, 0.1], few)
    say("rigid_body, TLS", lambda voxels: TLSBody([atoms], voxels), TLS, few.select(np.arange(0, len(few), 10)))
    say("covariance, isotropic", lambda voxels: GivenCovariance(atoms, voxels, v[::3, ::3]), [0.9], few)
    say("covariance, 3 x 3", lambda voxels: GivenCovariance(atoms, voxels, v), [0.9], few)


if __name__ == "__main__":
    main()
