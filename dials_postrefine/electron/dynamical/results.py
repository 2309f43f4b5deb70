"""
What a dynamical refinement leaves, for files and report: values with esds, and the intensities of all observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A fitted number and its esd, NaN where it was not fitted."""

    value: float
    esd: float = float("nan")


@dataclass(frozen=True)
class Stage:
    """
    A stage of the refinement.

    Attributes
    ----------
    name : str
        As scale, thickness, orientation, structure.
    refined : tuple of str
        The kinds of parameters.
    n_parameters : int
    n_iterations : int
    r1 : float
        Of the observed (package docstring) once it has ended.
    objective : float
        sum w (I_obs - I_calc)^2 once it has ended, robust.
    """

    name: str
    refined: tuple[str, ...]
    n_parameters: int
    n_iterations: int
    r1: float
    objective: float


@dataclass(frozen=True)
class HandCandidate:
    """
    A hand and setting that was tried.

    Attributes
    ----------
    name : str
        As ``as given``, ``inverted``, or with the indices that it reads h,k,l as.
    hand : int
        1 as given, -1 inverted.
    operation : ndarray of int, shape (3, 3)
        M: indices h of the data are h M of the structure.
    r1 : float
    log_likelihood : float
    """

    name: str
    hand: int
    operation: np.ndarray
    r1: float
    log_likelihood: float


@dataclass(frozen=True)
class HandChoice:
    """
    The candidates, the best one first.

    Attributes
    ----------
    candidates : tuple of HandCandidate
    deviation : float
        How much better the best one is than the best one of the other hand, in units of chance: the difference of
        log-likelihood by frame, its sum over its standard deviation.
    other_r1 : float
        R1 of the other hand, refined as far; NaN where both are the same crystal.
    """

    candidates: tuple[HandCandidate, ...]
    deviation: float
    other_r1: float


@dataclass(frozen=True)
class Structure:
    """
    The atoms as refined.

    Attributes
    ----------
    sites, sites_esd : ndarray, shape (a, 3)
        Fractional, of the structure as it was given or inverted; esd 0 where symmetry fixes or nothing was refined.
    b, b_esd : ndarray, shape (a,)
        Isotropic B, Angstrom^2; what is anisotropic is left as it was but for overall_b.
    overall_b : Estimate
        What was added to all B.
    u_star : ndarray, shape (a, 3, 3)
        U* of atoms that are anisotropic, as refined, without overall_b; in reciprocal fractional coordinates;
        left out (empty) as they were given.
    """

    sites: np.ndarray
    sites_esd: np.ndarray
    b: np.ndarray
    b_esd: np.ndarray
    overall_b: Estimate
    u_star: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class DynamicalFit:
    """
    The refined model and its intensities, for n observations in f frames.

    Attributes
    ----------
    thickness : Estimate
        Mean, Angstrom.
    spread : Estimate
        Relative standard deviation of the thickness over the crystal (distribution, wedge); 0 where none.
    thicknesses, thicknesses_esd : ndarray, shape (f,)
        By frame.
    absorption : Estimate
        kappa = U'/U.
    mosaicity : Estimate
        Standard deviation of orientation, radians.
    scale, scale_esd : ndarray, shape (f,)
    tilt, tilt_esd : ndarray, shape (f, 3)
        Rotation vector in the laboratory, by which each frame's orientation was turned; radians.
    structure : Structure
    kinematical, dynamical : ndarray, shape (n,)
        I_calc on the scale of the observations.
    observed : ndarray of bool, shape (n,)
        I > 3 sigma.
    r1_kinematical, r1_dynamical : float
        Over the observed; the kinematical one with its own scales and B.
    hand : HandChoice
    stages : tuple of Stage
    notes : tuple of str
        Sentences for the reader: the step of the orientations, beams, what was not determined.
    scanned : ndarray, shape (t, 2)
        Thicknesses (Angstrom) and R1 of the best setting, before anything else is refined; empty where not tried.
    """

    thickness: Estimate
    spread: Estimate
    thicknesses: np.ndarray
    thicknesses_esd: np.ndarray
    absorption: Estimate
    mosaicity: Estimate
    scale: np.ndarray
    scale_esd: np.ndarray
    tilt: np.ndarray
    tilt_esd: np.ndarray
    structure: Structure
    kinematical: np.ndarray
    dynamical: np.ndarray
    observed: np.ndarray
    r1_kinematical: float
    r1_dynamical: float
    hand: HandChoice
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    scanned: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def factor(self) -> np.ndarray:
        """The dynamical factor (n,) (package docstring)."""
        return self.dynamical / self.kinematical
