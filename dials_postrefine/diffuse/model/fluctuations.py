"""
What a fitted model says of the atoms: V (isotropic, Angstrom^2) between all atoms of a molecule, by residue, and
against their distance.

    rigid_body     sigma^2 inside a body (of a tensor, a third of its trace), 0 between bodies; where it librates, and
                   (2/3) L rho_i.rho_j with rho from the centroid
    liquid_like    sigma^2 Gamma(r)
    mixture        s^2 + sigma^2 Gamma(r)
    covariance     L L', where it is inferred
    elastic        fraction C_RS sqrt(u_R u_S)

and V_ii is what the atom does in all, u_i, or where displacements are the model's own what that is; collective is what
of V_ii an atom shares with others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.elastic import correlate, find_network, nodes_of
from dials_postrefine.diffuse.model.group_covariance import groups_of, kernel_root
from dials_postrefine.diffuse.model.kernels import correlation_of

MOST_ATOMS = 4000
N_DISTANCES = 30


@dataclass(frozen=True)
class Fluctuations:
    """V (n, n), what of V_ii is collective (n,), V_residue (m, m), and by distance r (k,) the mean of V_ij (k,)."""

    v: np.ndarray
    collective: np.ndarray
    v_residue: np.ndarray
    r: np.ndarray
    mean: np.ndarray


def describe_fluctuations(name: str, variant: dict[str, str], values: dict[str, float], atoms: Atoms):
    """
    The Fluctuations of a fitted model.

    Parameters
    ----------
    name : str
        Of the model.
    variant : dict of str
        Which of its kind it is.
    values : dict of float
        Its parameters.
    atoms : Atoms

    Returns
    -------
    Fluctuations or None
        None for models without one, and for more than MOST_ATOMS atoms.
    """
    inferred = name == "covariance" and "rank" in variant
    if not (inferred or name in ("rigid_body", "liquid_like", "mixture", "elastic")) or len(atoms) > MOST_ATOMS:
        return None
    n, xyz = len(atoms), atoms.xyz
    distance = np.sqrt(np.maximum(((xyz[:, None] - xyz[None]) ** 2).sum(axis=2), 0.0))
    if name == "elastic":
        groups = nodes_of(atoms)[0]
        correlations = correlate(find_network(atoms, float(variant["cutoff"])).stiffness, values["anchor"])[0]
        u = np.bincount(groups, atoms.u_iso) / np.bincount(groups)
        of_groups = values["fraction"] * correlations * np.sqrt(np.outer(u, u))
        v = of_groups[np.ix_(groups, groups)]
    elif inferred:
        groups, places = groups_of(atoms, int(variant["residues"]))
        elements = np.reshape(list(values.values()), (len(places), -1))
        factor = kernel_root(places, float(variant["length"])) @ elements
        v = (factor @ factor.T)[np.ix_(groups, groups)]
    elif name == "rigid_body":
        size = values["sigma"] ** 2 if "sigma" in values else sum(values[key] for key in ("u11", "u22", "u33")) / 3.0
        v = np.full((n, n), size)
        if "libration" in values:
            v += 2.0 / 3.0 * np.radians(values["libration"]) ** 2 * _from_centroids(atoms, variant["unit"])
        if variant["unit"] == "chain":
            v = np.where(atoms.chain[:, None] == atoms.chain[None], v, 0.0)
    else:
        v = values["sigma"] ** 2 * correlation_of(distance, values["gamma"], variant["kernel"])[0]
        v = v + values.get("sigma_rigid", 0.0) ** 2
    collective = np.diag(v).copy()
    if variant.get("displacements") != "model":
        np.fill_diagonal(v, atoms.u_iso + values.get("b_extra", 0.0) / (8.0 * np.pi**2))
    residues = np.unique(atoms.residue, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(residues)
    by_residue = np.zeros((len(counts), n))
    np.add.at(by_residue, residues, v)
    v_residue = np.stack([np.bincount(residues, row, minlength=len(counts)) for row in by_residue])
    v_residue /= np.outer(counts, counts)
    r, mean = _by_distance(distance, v)
    return Fluctuations(v, collective, v_residue, r, mean)


def _from_centroids(atoms: Atoms, unit: str) -> np.ndarray:
    """rho_i.rho_j (n, n) of positions from the centroid of their body, Angstrom^2."""
    rho = atoms.xyz - (atoms.expanded() if unit == "cell" else atoms).xyz.mean(axis=0)
    if unit == "chain":
        for name in np.unique(atoms.chain):
            here = atoms.chain == name
            rho[here] = atoms.xyz[here] - atoms.xyz[here].mean(axis=0)
    return rho @ rho.T


def _by_distance(distance: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of V_ij, i != j, in shells of distance."""
    pairs = np.triu_indices(len(v), 1)
    if not len(pairs[0]):
        return np.zeros(0), np.zeros(0)
    r, value = distance[pairs], v[pairs]
    shell = np.minimum((N_DISTANCES * r / (r.max() * (1.0 + 1e-9))).astype(int), N_DISTANCES - 1)
    counts = np.bincount(shell, minlength=N_DISTANCES)
    present = counts > 0
    return tuple(np.bincount(shell, one, minlength=N_DISTANCES)[present] / counts[present] for one in (r, value))
