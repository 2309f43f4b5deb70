"""
What a fitted model says of the atoms: V (isotropic, a third of the trace, Angstrom^2) between all atoms of a molecule,
by residue, and the correlation against their distance.

    rigid_body     sigma^2 inside a body (of a tensor, a third of its trace), 0 between bodies; where it librates, and
                   (2/3) L rho_i.rho_j with rho from the centroid, or by T, L and S (tls.py)
    liquid_like    sigma^2 Gamma(r)
    mixture        s^2 + sigma^2 Gamma(r)
    covariance     V of the groups where it is inferred, or of the file
    elastic        fraction C_RS sqrt(u_R u_S)

and V_ii is what the atom does in all, u_i, or where displacements are the model's own what that is; collective is what
of V_ii an atom shares with others, and tensors the same as 3 x 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.kernels import correlation_of
from dials_postrefine.diffuse.model.positive_tensors import tensor_of
from dials_postrefine.diffuse.model.rigid_body import ELEMENTS
from dials_postrefine.diffuse.model.tls import tls_covariances

MOST_ATOMS = 4000
N_DISTANCES = 30


@dataclass(frozen=True)
class Fluctuations:
    """
    V (n, n), what of V_ii is collective (n,) and as tensors (n, 3, 3), V_residue (m, m), and by distance r (k,) the
    mean of the correlations V_ij/sqrt(V_ii V_jj) (k,).
    """

    v: np.ndarray
    collective: np.ndarray
    tensors: np.ndarray
    v_residue: np.ndarray
    r: np.ndarray
    correlation: np.ndarray


@dataclass(frozen=True)
class GroupMotions:
    """
    What groups of atoms do: the group of each atom (n_atoms,) of int, -1 where it is in none; V (m, m), a third of the
    traces; u (m, 3, 3), V_RR; names of the groups (none of nodes and atoms), and standard deviations (m, m) of V, NaN
    where they are unknown.
    """

    number: np.ndarray
    v: np.ndarray
    u: np.ndarray
    names: tuple[str, ...]
    esds: np.ndarray


def motions_of(number: np.ndarray, v: np.ndarray, names: Sequence[str] = ()) -> GroupMotions:
    """
    GroupMotions without standard deviations.

    Parameters
    ----------
    number : ndarray (n_atoms,) of int
    v : ndarray (m, m) or (m, m, 3, 3)
        Angstrom^2.
    names : sequence of str

    Returns
    -------
    GroupMotions
    """
    every = np.arange(len(v))
    if v.ndim == 2:
        v = v[:, :, None, None] * np.eye(3)
    traces = np.trace(v, axis1=2, axis2=3) / 3.0
    return GroupMotions(number, traces, v[every, every], tuple(names), np.full_like(traces, np.nan))


def describe_fluctuations(
    name: str,
    variant: dict[str, str],
    values: dict[str, float],
    atoms: Atoms,
    motions: GroupMotions | None = None,
    bodies: Sequence[np.ndarray] = (),
):
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
    motions : GroupMotions or None
        Of models that have them.
    bodies : sequence of ndarray (n_atoms,) of bool
        Of rigid bodies that are selections.

    Returns
    -------
    Fluctuations or None
        None for models without one, and for more than MOST_ATOMS atoms.
    """
    known = motions is not None or name in ("rigid_body", "liquid_like", "mixture")
    if not known or len(atoms) > MOST_ATOMS:
        return None
    xyz = atoms.xyz
    distance = np.sqrt(np.maximum(((xyz[:, None] - xyz[None]) ** 2).sum(axis=2), 0.0))
    if motions is not None:
        v = np.pad(motions.v, (0, 1))[np.ix_(motions.number, motions.number)]  # of -1 the last one
        tensors = np.pad(motions.u, ((0, 1), (0, 0), (0, 0)))[motions.number]
    elif name == "rigid_body":
        v, tensors = _of_bodies(atoms, variant["unit"], values, bodies)
    else:
        v = values["sigma"] ** 2 * correlation_of(distance, values["gamma"], variant["kernel"])[0]
        v = v + values.get("sigma_rigid", 0.0) ** 2
        tensors = np.diag(v)[:, None, None] * np.eye(3)
    collective = np.diag(v).copy()
    if variant.get("displacements") != "model":
        np.fill_diagonal(v, atoms.u_iso + values.get("b_extra", 0.0) / (8.0 * np.pi**2))
    residues = np.unique(atoms.residue, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(residues)
    by_residue = np.zeros((len(counts), len(atoms)))
    np.add.at(by_residue, residues, v)
    v_residue = np.stack([np.bincount(residues, row, minlength=len(counts)) for row in by_residue])
    v_residue /= np.outer(counts, counts)
    r, correlation = _by_distance(distance, v)
    return Fluctuations(v, collective, tensors, v_residue, r, correlation)


def _of_bodies(atoms: Atoms, unit: str, values: dict[str, float], bodies: Sequence[np.ndarray]):
    """V (n, n) of atoms of rigid bodies, and what each does (n, 3, 3)."""
    n = len(atoms)
    v, tensors = np.zeros((n, n)), np.zeros((n, 3, 3))
    if not len(bodies):
        names = np.unique(atoms.chain) if unit == "chain" else ()
        bodies = [atoms.chain == name for name in names] or [np.ones(n, bool)]
    for number, body in enumerate(bodies):
        ending = f"_{number + 1}"
        own = {key.removesuffix(ending): value for key, value in values.items() if key.endswith(ending)}
        centre = (atoms.expanded() if unit == "cell" else atoms.select(body)).xyz.mean(axis=0)
        v[np.ix_(body, body)], tensors[body] = _of_body(atoms.xyz[body] - centre, own or values)
    return v, tensors


def _of_body(rho: np.ndarray, values: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """V (n, n) and tensors (n, 3, 3) of atoms at rho (n, 3) from the centroid of a body."""
    if "t11" in values:
        return tls_covariances(rho, list(values.values()))
    if "u11" in values:
        whole = tensor_of([values[f"u{i + 1}{j + 1}"] for i, j in ELEMENTS])
    else:
        whole = values.get("sigma", 0.0) ** 2 * np.eye(3)
    l_sq = np.radians(values.get("libration", 0.0)) ** 2
    products = rho @ rho.T
    turning = np.diag(products)[:, None, None] * np.eye(3) - rho[:, :, None] * rho[:, None, :]
    return np.trace(whole) / 3.0 + 2.0 / 3.0 * l_sq * products, whole + l_sq * turning


def _by_distance(distance: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of V_ij/sqrt(V_ii V_jj), i != j, in shells of distance; of atoms that move."""
    own = np.diag(v)
    i, j = np.triu_indices(len(v), 1)
    moving = (own[i] > 0.0) & (own[j] > 0.0)
    i, j = i[moving], j[moving]
    if not len(i):
        return np.zeros(0), np.zeros(0)
    r, value = distance[i, j], v[i, j] / np.sqrt(own[i] * own[j])
    shell = np.minimum((N_DISTANCES * r / (r.max() * (1.0 + 1e-9))).astype(int), N_DISTANCES - 1)
    counts = np.bincount(shell, minlength=N_DISTANCES)
    present = counts > 0
    return tuple(np.bincount(shell, one, minlength=N_DISTANCES)[present] / counts[present] for one in (r, value))
