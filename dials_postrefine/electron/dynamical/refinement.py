"""
The refinement of a dynamical model: its parameters, its residuals, and the stages.

    u_i = (c_f I_i - I_obs,i)/sigma_i,      sigma_i^2 = v_i + p^2 I_i <I>

with the counting variance v, and p for what the model leaves unexplained: alike for all amplitudes, so that weak
intensities, of which multiple scattering makes most, have larger relative errors; <I> is the mean of the observed.  p
is such that half of |u| of the observed is below that of a normal distribution; I_i in it is kept while a stage runs.
f = 1/2 sum rho(u^2) with Huber's loss (numerics/leastsquares.py) is minimised with all derivatives analytic; esds are
of the sandwich.

Parameters: thickness, the spread of its distribution, kappa, overall_b, shifts and B of the atoms, ln of the scale of
all and of each frame relative to it, and two tilts of each frame.  The last two are restrained to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.electron.bloch.potential import Scattering, potential_of_atoms
from dials_postrefine.electron.dynamical.crystal import Freedom, Refined, Setting, freedom_of, in_hand, tabulate_crystal
from dials_postrefine.electron.dynamical.curves import Curves, Specimen, evaluate
from dials_postrefine.electron.dynamical.residuals import r1
from dials_postrefine.electron.dynamical.results import Stage
from dials_postrefine.electron.dynamical.rocking import BeamLimits, OrientationGrid, make_grid, tilt_axes
from dials_postrefine.numerics.frames import FrameData, are_covered
from dials_postrefine.numerics.leastsquares import Bounds, Iterations, Objective, Restraint, minimise
from dials_postrefine.numerics.robust import MEDIAN_OF_NORMAL
from dials_postrefine.scattering.electron_atoms import ElectronAtoms

LOSS = "huber"
DISTRIBUTIONS = ("none", "wedge", "normal")
SHARED = ("thickness", "overall_b")  # what frames have in common and every stage refines, besides the scale
FEWEST_OF_FRAME = 3  # observations from which on a frame has parameters of its own


@dataclass(frozen=True)
class DynamicalChoice:
    """
    What a model is.

    Attributes
    ----------
    limits : BeamLimits
    thickness : str
        ``one`` or ``by_frame``.
    distribution : str
        One of DISTRIBUTIONS: uniform between two thicknesses (a wedge), or normal.
    tilt_width, scale_width : float
        Of the restraints of tilts (radians) and of ln of relative scales; infinite for none.
    """

    limits: BeamLimits
    thickness: str = "one"
    distribution: str = "none"
    tilt_width: float = np.radians(0.2)
    scale_width: float = np.inf


@dataclass(frozen=True)
class Layout:
    """Where the parameters are in x: slices by name."""

    places: dict[str, slice]
    size: int

    def of(self, names: tuple[str, ...]) -> list[int]:
        """The numbers of all parameters of these names."""
        every = np.arange(self.size)
        return [int(i) for name in names for i in every[self.places[name]]]


def make_layout(n_frames: int, freedom: Freedom, by_frame: bool) -> Layout:
    """
    The parameters of a model.

    Parameters
    ----------
    n_frames : int
    freedom : Freedom
        Of the structure.
    by_frame : bool
        Whether each frame has its thickness.

    Returns
    -------
    Layout
    """
    sizes = {
        "scale": 1,
        "thickness": n_frames if by_frame else 1,
        "spread": 1,
        "kappa": 1,
        "mosaicity": 1,
        "overall_b": 1,
        "shifts": len(freedom.shifts),
        "b": len(freedom.isotropic),
        "displacements": len(freedom.displacements),
        "frame_scale": n_frames,
        "tilt": 2 * n_frames,
    }
    ends = np.cumsum([0, *sizes.values()])
    return Layout({name: slice(a, b) for name, a, b in zip(sizes, ends[:-1], ends[1:])}, int(ends[-1]))


@dataclass(frozen=True)
class DynamicalProblem:
    """
    Observations and a crystal in one setting, with the blocks of its orientations.

    Attributes
    ----------
    data : FrameData
        In the setting of the atoms.
    atoms : ElectronAtoms
        Before any refinement, in the hand.
    scattering : Scattering
        Without absorption.
    choice : DynamicalChoice
    grid : OrientationGrid
    freedom : Freedom
    layout : Layout
    used : ndarray of bool, shape (n,)
        What is refined against.
    nodes, shares : ndarray, shape (q,)
        Of the distribution of thickness with unit variance.
    """

    data: FrameData
    atoms: ElectronAtoms
    scattering: Scattering
    choice: DynamicalChoice
    grid: OrientationGrid
    freedom: Freedom
    layout: Layout
    used: np.ndarray
    nodes: np.ndarray
    shares: np.ndarray

    @property
    def reciprocal(self) -> np.ndarray:
        """A of one frame, for lengths."""
        return self.data.frames.a_matrix[0]

    @property
    def judged(self) -> np.ndarray:
        """What R1, scales and p are of (n,): the observed ones of those that are refined against."""
        return self.used & self.data.observed

    def with_step(self, step: float) -> DynamicalProblem:
        """The same with another step between orientations, radians."""
        limits = self.choice.limits
        potential = potential_of_atoms(self.atoms, self.reciprocal, 2.0 * limits.g_max, self.scattering)
        return replace(self, grid=make_grid(self.data, self.used, potential, limits, step))

    def start(self, thickness: float) -> np.ndarray:
        """x of a thickness, and nothing else."""
        x = np.zeros(self.layout.size)
        x[self.layout.places["thickness"]] = thickness
        x[self.layout.places["b"]] = self.atoms.b[self.freedom.isotropic]
        return x

    def atoms_at(self, x: np.ndarray) -> ElectronAtoms:
        """The atoms with the parameters of a model."""
        places = self.layout.places
        sites = self.atoms.sites + np.tensordot(x[places["shifts"]], self.freedom.shifts, 1)
        b = self.atoms.b + x[places["overall_b"]]
        b[self.freedom.isotropic] += x[places["b"]] - self.atoms.b[self.freedom.isotropic]
        u_star = self.atoms.u_star + np.tensordot(x[places["displacements"]], self.freedom.displacements, 1)
        return replace(self.atoms, sites=sites, b=b, u_star=u_star)

    def slab_at(self, x: np.ndarray) -> Specimen:
        """Thicknesses, absorption and tilts of a model."""
        places, f = self.layout.places, self.data.frames.n
        mean = np.broadcast_to(x[places["thickness"]], f)
        spread = float(x[places["spread"]][0])
        thickness = mean[:, None] * (1.0 + spread * self.nodes)
        kappa, mosaicity = float(x[places["kappa"]][0]), float(x[places["mosaicity"]][0])
        return Specimen(thickness, self.shares, kappa, x[places["tilt"]].reshape(f, 2), mosaicity)

    def scales_at(self, x: np.ndarray) -> np.ndarray:
        """c_f of all frames (f,)."""
        return np.exp(x[self.layout.places["scale"]] + x[self.layout.places["frame_scale"]])

    def curves_at(self, x: np.ndarray, refined: tuple[str, ...] = ()) -> Curves:
        """I and its derivatives, before the scale."""
        wanted = Refined("overall_b" in refined, "shifts" in refined)
        tables = tabulate_crystal(
            self.atoms_at(x), self.reciprocal, 2.0 * self.choice.limits.g_max, self.scattering, wanted
        )
        return evaluate(self.grid, tables, self.slab_at(x), self.data.n, "tilt" in refined or "mosaicity" in refined)

    def calculated(self, x: np.ndarray) -> np.ndarray:
        """c_f I of all observations (n,)."""
        return self.scales_at(x)[self.data.frame] * self.curves_at(x).intensity

    def derivatives(self, x: np.ndarray, refined: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """c_f I (n,) and its derivatives by all parameters (n, k), zero for those that are not refined."""
        curves, places, data = self.curves_at(x, refined), self.layout.places, self.data
        scale = self.scales_at(x)[data.frame]
        rows, value = np.arange(data.n), scale * curves.intensity
        found = np.zeros((data.n, self.layout.size))
        found[:, places["scale"].start] = value
        found[rows, places["frame_scale"].start + data.frame] = value
        spread = float(x[places["spread"]][0])
        mean = np.broadcast_to(x[places["thickness"]], data.frames.n)
        grows = 1.0 + spread * self.nodes
        first = places["thickness"].start
        if self.choice.thickness == "by_frame":
            by_mean = scale[curves.rows] * (curves.by_thickness_of_frame @ grows)
            np.add.at(found, (curves.rows, first + curves.frames), by_mean)
        else:
            found[:, first] = scale * (curves.by_thickness @ grows)
        found[:, places["spread"].start] = scale * (curves.by_thickness @ self.nodes) * mean[data.frame]
        found[:, places["kappa"].start] = scale * curves.by_kappa
        found[:, places["mosaicity"].start] = scale * curves.by_mosaicity
        column = 0
        if "overall_b" in refined:
            found[:, places["overall_b"].start] = scale * curves.by_potential[:, 0]
            column = 1
        if curves.by_potential.shape[1] > column:
            structural = slice(places["shifts"].start, places["displacements"].stop)
            found[:, structural] = scale[:, None] * curves.by_potential[:, column:]
        if "tilt" in refined:
            at = places["tilt"].start + 2 * curves.frames
            for i in (0, 1):
                np.add.at(found, (curves.rows, at + i), scale[curves.rows] * curves.by_tilt[:, i])
        return value, found


def in_setting(data: FrameData, setting: Setting) -> FrameData:
    """
    The observations with the indices of the structure (crystal.py).

    Parameters
    ----------
    data : FrameData
    setting : Setting

    Returns
    -------
    FrameData
    """
    inverse = np.linalg.inv(setting.operation)
    frames = replace(data.frames, a_matrix=data.frames.a_matrix @ inverse.T)
    return replace(data, h=np.rint(data.h @ setting.operation).astype(int), frames=frames)


def make_problem(
    data: FrameData, atoms: ElectronAtoms, scattering: Scattering, choice: DynamicalChoice, setting: Setting
) -> DynamicalProblem:
    """
    A crystal in one setting against the observations, without orientations yet (DynamicalProblem.with_step).

    Parameters
    ----------
    data : FrameData
    atoms : ElectronAtoms
        As given.
    scattering : Scattering
        Without absorption.
    choice : DynamicalChoice
    setting : Setting

    Returns
    -------
    DynamicalProblem
    """
    data, atoms = in_setting(data, setting), in_hand(atoms, setting.hand)
    freedom = freedom_of(atoms)
    nodes, shares = _quadrature(choice.distribution)
    return DynamicalProblem(
        data,
        atoms,
        scattering,
        choice,
        OrientationGrid((), np.inf, float(np.mean(np.linalg.norm(data.frames.k, axis=1))), tilt_axes(data.frames)),
        freedom,
        make_layout(data.frames.n, freedom, choice.thickness == "by_frame"),
        are_covered(data) & (data.d_star <= choice.limits.g_max),
        nodes,
        shares,
    )


def _quadrature(distribution: str) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and shares (q,) of a distribution with unit variance."""
    if distribution == "none":
        return np.zeros(1), np.ones(1)
    if distribution == "wedge":
        nodes, weights = np.polynomial.legendre.leggauss(7)
        return np.sqrt(3.0) * nodes, weights / 2.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    return nodes, weights / weights.sum()


def unexplained_share(residual: np.ndarray, variance: np.ndarray, calculated: np.ndarray) -> float:
    """
    p (module docstring).

    Parameters
    ----------
    residual : ndarray, shape (n,)
        I_obs - I.
    variance : ndarray, shape (n,)
    calculated : ndarray, shape (n,)
        I <I>.

    Returns
    -------
    float
    """
    low, high = 1e-3, 3.0
    for _ in range(40):
        p = np.sqrt(low * high)
        width = np.median(np.abs(residual) / np.sqrt(variance + p**2 * calculated))
        low, high = (p, high) if width > MEDIAN_OF_NORMAL else (low, p)
    return float(p)


def sigma_of(problem: DynamicalProblem, calculated: np.ndarray) -> np.ndarray:
    """
    sigma (module docstring) of all observations.

    Parameters
    ----------
    problem : DynamicalProblem
    calculated : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
    """
    data, some = problem.data, problem.judged
    product = calculated * np.mean(calculated[some])
    p = unexplained_share((data.intensity - calculated)[some], data.variance[some], product[some])
    return np.sqrt(data.variance + p**2 * product)


def fit_scales(problem: DynamicalProblem, calculated: np.ndarray, x: np.ndarray) -> np.ndarray:
    """
    x with the scales that fit intensities best, amplitudes counting alike.

    Parameters
    ----------
    problem : DynamicalProblem
    calculated : ndarray, shape (n,)
        Before any scale.
    x : ndarray, shape (k,)

    Returns
    -------
    ndarray, shape (k,)
    """
    data, places = problem.data, problem.layout.places
    some = problem.judged & (calculated > 0.0)
    f_obs = np.sqrt(np.maximum(data.intensity, 0.0))[some]
    f_calc = np.sqrt(np.maximum(calculated, 0.0))[some]
    x = x.copy()
    x[places["scale"]] = 2.0 * np.log(np.sum(f_obs * f_calc) / np.sum(f_calc**2))
    if np.isinf(problem.choice.scale_width):
        top = np.bincount(data.frame[some], f_obs * f_calc, data.frames.n)
        below = np.bincount(data.frame[some], f_calc**2, data.frames.n)
        known = (top > 0.0) & (below > 0.0)
        ratio = np.divide(top, below, out=np.ones(len(top)), where=known)
        x[places["frame_scale"]] = np.where(known, 2.0 * np.log(ratio) - x[places["scale"]], 0.0)
    return x


@dataclass(frozen=True)
class RefinedState:
    """x, where it ended, its covariance (k, k), I of all observations there (n,), and the stages that led there."""

    x: np.ndarray
    covariance: np.ndarray
    calculated: np.ndarray
    stages: tuple[Stage, ...] = field(default=())


def refine(
    problem: DynamicalProblem,
    before: RefinedState,
    name: str,
    refined: tuple[str, ...],
    iterations: Iterations = Iterations(n_max=5, step_threshold=3e-3),
) -> RefinedState:
    """
    One stage.

    Parameters
    ----------
    problem : DynamicalProblem
    before : RefinedState
        Where it starts.
    name : str
        Of the stage.
    refined : tuple of str
        Names of parameters, besides the scales.
    iterations : Iterations

    Returns
    -------
    RefinedState
    """
    data, layout, choice = problem.data, problem.layout, problem.choice
    refined = ("scale", "frame_scale", *refined)
    sigma = sigma_of(problem, before.calculated)[problem.used]
    made: dict[bytes, np.ndarray] = {}
    observed = data.intensity[problem.used]
    mean, width = np.zeros(layout.size), np.full(layout.size, np.inf)
    width[layout.places["tilt"]] = choice.tilt_width
    # without a restraint the frames have the scale: that of all stays
    free_scales = np.isinf(choice.scale_width)
    width[layout.places["frame_scale"]] = choice.scale_width
    counts = np.bincount(data.frame[problem.used], minlength=data.frames.n)
    known = {
        "frame_scale": counts > 0,
        "tilt": np.repeat(counts >= FEWEST_OF_FRAME, 2),
        "thickness": counts >= FEWEST_OF_FRAME if choice.thickness == "by_frame" else np.ones(1, dtype=bool),
    }
    free = []
    for kind in refined:
        if kind == "scale" and free_scales:
            continue
        numbers = np.array(layout.of((kind,)), dtype=int)
        free += list(numbers[known.get(kind, np.ones(len(numbers), dtype=bool))])

    def weighted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, jacobian = problem.derivatives(x, refined)
        made[x.tobytes()] = value
        return (value[problem.used] - observed) / sigma, jacobian[problem.used] / sigma[:, None]

    objective = Objective(weighted, LOSS, Restraint(mean, width), norm=float(len(observed)))
    found = minimise(objective, before.x, sorted(free), bounds_of(layout), iterations)
    calculated = made[found.x.tobytes()]
    some = problem.judged
    stage = Stage(
        name,
        refined,
        len(free),
        found.n_iterations,
        r1(data.intensity[some], calculated[some]),
        2.0 * found.objective,
    )
    return RefinedState(found.x, found.covariance, calculated, (*before.stages, stage))


def bounds_of(layout: Layout) -> Bounds:
    """
    Of all parameters.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    Bounds
    """
    lower, upper = np.full(layout.size, -np.inf), np.full(layout.size, np.inf)
    lower[layout.places["thickness"]] = 1.0
    lower[layout.places["spread"]], upper[layout.places["spread"]] = 0.0, 0.5
    lower[layout.places["mosaicity"]] = 0.0
    lower[layout.places["kappa"]], upper[layout.places["kappa"]] = 0.0, 0.5
    return Bounds(lower, upper)
