"""
Intensities that were integrated while a crystal or the beam moved: what files read and electron/dynamical/ takes.

A frame is a part of a measurement with one orientation, about which things move by an angle phi (radians, 0 in the
middle of the frame):

    rotation      A(phi) = R(axis, phi) A,  k at rest,                      |phi| <= semi_width
    precession    A at rest,  k(phi) = R(z, phi) R(x, semi_width) k,        0 <= phi < 2 pi

with z along k and x across it (x is R(axis, .)'s axis made perpendicular to z).  A (3, 3) has the reciprocal basis in
its columns, g = A h, k is the wave vector of the incident electrons, |k| = 1/lambda: 1/Angstrom, laboratory frame.

An observation is of one index and one frame,

    I_obs = c weight int_start^end I(phi) dphi

with c the scale of its frame.  Frames that tile a sweep (DIALS: images, or bins of them) hold parts of rocking curves,
and an observation may reach into the frames beside its own: start and end are counted from the middle of its own frame,
and weight = |ds/dphi|, so that c is of int I ds, which is what a profile-fitted intensity times lp stands for.  Frames
that overlap (PETS' virtual ones) hold what was seen in their own interval alone, weight = 1/(end - start).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

MOTIONS = ("rotation", "precession")
OBSERVED = 3.0  # esds
COVERED, CENTRED = 0.9, 0.5


@dataclass(frozen=True)
class Frames:
    """
    The frames, f of them (module docstring).

    Attributes
    ----------
    number : ndarray of int, shape (f,)
        As the file has it: of the image, counted from 1, or of the zone axis.
    sweep : ndarray of int, shape (f,)
        Experiment, 0 of the first; frames of one sweep follow one another.
    angle : ndarray, shape (f,)
        Of the rotation in the middle of the frame; radians, to be reported.
    semi_width : ndarray, shape (f,)
        Half of the interval of a rotation, the angle of the cone of a precession; radians.
    a_matrix : ndarray, shape (f, 3, 3)
        A in the middle; scan-varying where the file is.
    axis : ndarray, shape (f, 3)
        Of the rotation, of unit length.
    k : ndarray, shape (f, 3)
    motion : str
        One of MOTIONS.
    tile : bool
        Whether observations reach into the frames beside theirs.
    """

    number: np.ndarray
    sweep: np.ndarray
    angle: np.ndarray
    semi_width: np.ndarray
    a_matrix: np.ndarray
    axis: np.ndarray
    k: np.ndarray
    motion: str = "rotation"
    tile: bool = False

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.number)

    @property
    def wavelength(self) -> float:
        """The mean of all, Angstrom."""
        return float(np.mean(1.0 / np.linalg.norm(self.k, axis=1)))


@dataclass(frozen=True)
class FrameData:
    """
    Observations, n of them, in frames.

    Attributes
    ----------
    frames : Frames
    frame : ndarray of int, shape (n,)
    h : ndarray of int, shape (n, 3)
    intensity, variance : ndarray, shape (n,)
        The variance by counting, without the spread that an error model adds.
    start, end : ndarray, shape (n,)
        Radians from the middle of the frame.
    weight : ndarray, shape (n,)
        1/Angstrom (ds/dphi) or 1/radian.
    row : ndarray of int, shape (n,)
        In the file's table.
    cell : ndarray, shape (6,)
        Angstrom and degrees.
    unique : ndarray of int, shape (n,)
        Numbers of the unique indices by the Laue class: symmetry equivalents and Friedel mates have one.
    laue, lattice : ndarray, shape (m, 3, 3)
        The rotations M of the Laue class, and of the lattice, identity first, that take a row of indices h to h M.
    error_variance : ndarray, shape (n,)
        As the file has it, with the spread of an error model; left out (empty) that by counting.
    """

    frames: Frames
    frame: np.ndarray
    h: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    start: np.ndarray
    end: np.ndarray
    weight: np.ndarray
    row: np.ndarray
    cell: np.ndarray
    unique: np.ndarray
    laue: np.ndarray
    lattice: np.ndarray
    error_variance: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if self.error_variance.size == 0:
            object.__setattr__(self, "error_variance", self.variance)

    @property
    def n(self) -> int:
        """How many observations there are."""
        return len(self.frame)

    @property
    def observed(self) -> np.ndarray:
        """Which observations (n,) are above three times their esd by error_variance."""
        return self.intensity > OBSERVED * np.sqrt(self.error_variance)

    @property
    def d_star(self) -> np.ndarray:
        """|g| (n,), 1/Angstrom."""
        return np.linalg.norm(np.einsum("nij,nj->ni", self.frames.a_matrix[self.frame], self.h), axis=1)

    def select(self, kept: np.ndarray) -> FrameData:
        """The observations where kept (n,) holds, all frames."""
        return replace(self, **{name: getattr(self, name)[kept] for name in OF_OBSERVATIONS})


OF_OBSERVATIONS = (
    "frame",
    "h",
    "intensity",
    "variance",
    "start",
    "end",
    "weight",
    "row",
    "unique",
    "error_variance",
)


def excitation_errors_in_the_middle(data: FrameData) -> np.ndarray:
    """
    s_g where phi = 0 of the frame, s = -(2 k.g + g.g)/2K, without the motion.

    Parameters
    ----------
    data : FrameData

    Returns
    -------
    ndarray, shape (n,)
        1/Angstrom.
    """
    g = np.einsum("nij,nj->ni", data.frames.a_matrix[data.frame], data.h)
    k = data.frames.k[data.frame]
    return -(2.0 * np.sum(k * g, axis=1) + np.sum(g * g, axis=1)) / (2.0 * np.linalg.norm(k, axis=1))


def slopes_of_excitation(data: FrameData) -> np.ndarray:
    """
    ds_g/dphi of a rotation where phi = 0: -k.(axis x g)/K; its absolute value is the Lorentz factor's inverse.

    Parameters
    ----------
    data : FrameData

    Returns
    -------
    ndarray, shape (n,)
        1/Angstrom a radian.
    """
    g = np.einsum("nij,nj->ni", data.frames.a_matrix[data.frame], data.h)
    k, axis = data.frames.k[data.frame], data.frames.axis[data.frame]
    return -np.sum(k * np.cross(axis, g), axis=1) / np.linalg.norm(k, axis=1)


def are_covered(data: FrameData) -> np.ndarray:
    """
    Which observations have the exact Bragg angle well inside what they were integrated over.

    That is inside COVERED of the interval, of a precession of the largest |s| that is reached, |g| sin(semi_width);
    where frames tile a sweep, inside CENTRED of it, as an interval that is not about the Bragg angle was cut at the end
    of the sweep.

    Parameters
    ----------
    data : FrameData

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    s = excitation_errors_in_the_middle(data)
    if data.frames.motion == "precession":
        return np.abs(s) < COVERED * data.d_star * np.sin(data.frames.semi_width[data.frame])
    slope = slopes_of_excitation(data)
    middle, half = 0.5 * (data.start + data.end), 0.5 * (data.end - data.start)
    part = CENTRED if data.frames.tile else COVERED
    return np.abs(s + slope * middle) < part * np.abs(slope) * half
