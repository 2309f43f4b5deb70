"""
Whether the beams are enough: the same intensities with more beams.

    R1(t) = sum_g |F_g - F'_g|/sum_g F'_g,    F = sqrt(I)

over the given beams without the incident one, F' of a list to larger |g| and |s_g|.  A zone axis of heavy atoms
without absorption may not converge at a thousand beams.  It is said then, with the thickness to which the intensities
can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_postrefine.electron.bloch.beams import BeamSelection, select_beams
from dials_postrefine.electron.bloch.geometry import Geometry
from dials_postrefine.electron.bloch.intensities import intensities
from dials_postrefine.electron.bloch.potential import Potential
from dials_postrefine.electron.bloch.structurematrix import structure_matrix

WIDER = 1.4  # g_max and s_max of the larger list
MAX_R1 = 0.02


@dataclass(frozen=True)
class Convergence:
    """
    How much more beams change.

    Attributes
    ----------
    beams : ndarray of int, shape (n, 3)
        That were tried.
    n_larger : int
        Beams of the larger list.
    thickness : ndarray, shape (t,)
        Angstrom.
    r1 : ndarray, shape (t,)
    """

    beams: np.ndarray
    n_larger: int
    thickness: np.ndarray
    r1: np.ndarray

    @property
    def sentence(self) -> str | None:
        """What to tell the user; None where the intensities converge."""
        bad = self.thickness[~(self.r1 <= MAX_R1)]
        if not len(bad):
            return None
        if np.isnan(self.r1).all():
            return f"No beam of {len(self.beams)} is diffracted: raise g_max and s_max."
        good = self.thickness[self.thickness < bad.min()]
        to = f"up to {good.max():.0f} A only" if len(good) else "at no thickness"
        return (
            f"The intensities do not converge with the number of beams: {len(self.beams)} and {self.n_larger} beams "
            f"differ by R1 {np.nanmax(self.r1):.3f}; they agree within {MAX_R1:.2f} {to}. Raise g_max and s_max, add "
            "absorption, or leave out orientations near zone axes."
        )


def amplitude_r1(intensity: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """
    R1 (module docstring) of intensities, over the last axis.

    Parameters
    ----------
    intensity, reference : ndarray, shape (..., n)
        I and I' of the same n beams.

    Returns
    -------
    ndarray, shape (...)
        NaN where nothing is diffracted.
    """
    f, f_reference = np.sqrt(intensity), np.sqrt(reference)
    total = f_reference.sum(axis=-1)
    return np.abs(f - f_reference).sum(axis=-1) / np.where(total > 0.0, total, np.nan)


def converge(geometry: Geometry, potential: Potential, selection: BeamSelection, thickness: np.ndarray) -> Convergence:
    """
    Compare the beams of a selection with those of one that is WIDER.

    Parameters
    ----------
    geometry : Geometry
        Of one orientation.
    potential : Potential
        To 2 WIDER g_max.
    selection : BeamSelection
    thickness : ndarray, shape (t,)
        Angstrom.

    Returns
    -------
    Convergence

    Raises
    ------
    ValueError
        As select_beams, structure_matrix and intensities do.
    """
    thickness = np.atleast_1d(np.asarray(thickness, dtype=float))
    larger = replace(
        selection, g_max=WIDER * selection.g_max, s_max=WIDER * selection.s_max, w_min=selection.w_min / WIDER**2
    )
    lists = [select_beams(geometry, potential, one) for one in (selection, larger)]
    found = [intensities(structure_matrix(geometry, potential, beams), thickness) for beams in lists]
    place = {tuple(h): i for i, h in enumerate(lists[1].tolist())}
    common = [(i, place[tuple(h)]) for i, h in enumerate(lists[0].tolist()) if i and tuple(h) in place]
    small, large = np.array(common, dtype=int).reshape(-1, 2).T
    return Convergence(lists[0], len(lists[1]), thickness, amplitude_r1(found[0][:, small], found[1][:, large]))
