"""
What scatters: the atoms of an asymmetric unit and the operations that make the cell of it, as arrays.

A Cartesian position is A x of the fractional x, a scattering vector s = A'^-1 h of the indices h; an operation takes x
to R x + t.  Form factors f_t(s) = sum_k a_k exp(-b_k s^2/4) + c by type t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Atoms:
    """
    The atoms of an asymmetric unit (module docstring).

    orthogonal A (3, 3), Angstrom; sites (n, 3) fractional; occupancy (n,); u (n, 3, 3), Cartesian mean square
    displacements, Angstrom^2; kind (n,) of int, the row of a, b (m, n_gaussians) and c (m,); rotations (g, 3, 3) of int
    and translations (g, 3) of the space group, the identity first; residue (n,) of int and chain (n,) of str.
    """

    orthogonal: np.ndarray
    sites: np.ndarray
    occupancy: np.ndarray
    u: np.ndarray
    kind: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    residue: np.ndarray
    chain: np.ndarray

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def reciprocal(self) -> np.ndarray:
        """B (3, 3): s = B h, 1/Angstrom."""
        return np.linalg.inv(self.orthogonal).T

    @property
    def xyz(self) -> np.ndarray:
        """Cartesian positions (n, 3), Angstrom."""
        return self.sites @ self.orthogonal.T

    def means(self, group: np.ndarray) -> np.ndarray:
        """Mean positions of groups (n_groups, 3), Angstrom; group (n,) of int numbers them from 0 on."""
        n = np.bincount(group)
        return np.stack([np.bincount(group, x) / n for x in self.xyz.T], axis=1)

    @property
    def u_iso(self) -> np.ndarray:
        """Isotropic mean square displacements (n,), Angstrom^2."""
        return np.trace(self.u, axis1=1, axis2=2) / 3.0

    @property
    def is_isotropic(self) -> bool:
        """Whether no displacement depends on the direction."""
        return bool(np.abs(self.u - self.u_iso[:, None, None] * np.eye(3)).max(initial=0.0) < 1e-9)

    def factors(self, s_sq: np.ndarray) -> np.ndarray:
        """
        Form factors.

        Parameters
        ----------
        s_sq : ndarray (n,)
            |s|^2, 1/Angstrom^2.

        Returns
        -------
        ndarray (m, n)
            By type.
        """
        gaussians = np.exp(-self.b[:, :, None] * np.ravel(s_sq) / 4.0)
        return np.einsum("tk,tkn->tn", self.a, gaussians) + self.c[:, None]

    def select(self, chosen: np.ndarray) -> Atoms:
        """The chosen atoms alone."""
        per_atom = ("sites", "occupancy", "u", "kind", "residue", "chain")
        return replace(self, **{name: getattr(self, name)[chosen] for name in per_atom})

    def with_u(self, u: np.ndarray | float) -> Atoms:
        """The same with isotropic mean square displacements u (n,) or all alike, Angstrom^2."""
        return replace(self, u=np.broadcast_to(u, len(self))[:, None, None] * np.eye(3))

    def expanded(self) -> Atoms:
        """The cell in P1: the copies follow one another, each as its operation puts it."""
        basis, inverse = self.orthogonal, np.linalg.inv(self.orthogonal)
        turned = [basis @ r @ inverse for r in self.rotations]
        n = len(self.rotations)
        return replace(
            self,
            sites=np.concatenate([self.sites @ r.T + t for r, t in zip(self.rotations, self.translations)]),
            u=np.concatenate([np.einsum("ab,nbc,dc->nad", r, self.u, r) for r in turned]),
            **{name: np.tile(getattr(self, name), n) for name in ("occupancy", "kind", "residue", "chain")},
            rotations=np.eye(3, dtype=int)[None],
            translations=np.zeros((1, 3)),
        )
