"""
A structure fitted to the frames of an experiment: hand and setting, the stages, and what they leave (results.py).

1. All settings and hands (hands.py), the thickness on a grid, orientations as given.
2. The best one of each hand: R1 has several minima over the thickness, and which is the deepest shows once the frames
   are turned: some frames are refined from each (starts.py).  From the best start the thickness is refined, then the
   orientations where they are asked for, and the better hand is chosen: both at one stage.
3. The chosen hand with more beams: orientation, absorption, mosaicity, structure, what is asked for, a stage each, with
   all before it refined on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from dials_postrefine.electron.bloch.potential import Scattering
from dials_postrefine.electron.dynamical.crystal import Setting, settings_of
from dials_postrefine.electron.dynamical.hands import (
    NEAR,
    deviation,
    kinematical_r1,
    log_likelihoods,
    scan_thickness,
)
from dials_postrefine.electron.dynamical.kinematical import kinematical_intensities
from dials_postrefine.electron.dynamical.orientations import orient
from dials_postrefine.electron.dynamical.refinement import (
    SHARED,
    DynamicalChoice,
    DynamicalProblem,
    RefinedState,
    make_problem,
    refine,
)
from dials_postrefine.electron.dynamical.residuals import r1
from dials_postrefine.electron.dynamical.results import DynamicalFit, Estimate, HandCandidate, HandChoice, Structure
from dials_postrefine.electron.dynamical.rocking import BeamLimits, enough_step
from dials_postrefine.electron.dynamical.starts import best_start
from dials_postrefine.electron.errors import Unusable
from dials_postrefine.numerics.frames import FrameData
from dials_postrefine.numerics.leastsquares import Iterations
from dials_postrefine.scattering.electron_atoms import ElectronAtoms

AUTO_MOST, PER_PARAMETER = 30, 10
STAGES = ("orientation", "absorption", "mosaicity", "structure")
MARGIN = 1.05  # of the thickness, for the step of orientations
FEWEST = 30  # observed reflections
BEYOND = 1.15  # of the data's largest |g|, for beams
W_MIN, W_COARSE = 0.02, 0.05  # least perturbation strength of a beam; to choose the hand
N_THICKNESSES = 48
CONVERGED = 3e-3  # step, relative to the parameters in units of their curvature
STEPS = 3
TOGETHER, ROUNDS = 4, 3  # of orientations with what frames share, and alone
FLAT = 0.002  # of R1 over the grid of thicknesses


@dataclass(frozen=True)
class FitChoice:
    """
    How to fit.

    Attributes
    ----------
    refine : tuple of str
        Of STAGES, besides scales, thickness and overall B; ``auto`` is orientation, and the structure where it has up
        to AUTO_MOST parameters with PER_PARAMETER observed reflections each.
    hand : str
        ``auto``, ``as_given`` or ``inverted``; the latter two take the indices as they are.
    thickness_range : tuple of float
        That is tried; Angstrom.
    thickness_start : float
        Angstrom; NaN for the best of the range.
    g_max, s_max : float
        Of beams, 1/Angstrom; g_max NaN for what the data need.
    step : float
        Radians between orientations; NaN for what is enough.
    by_frame : bool
        Whether each frame has its thickness.
    distribution : str
        Of thickness, as refinement.DISTRIBUTIONS.
    tilt_width, scale_width : float
        Of the restraints, as of DynamicalChoice; scale_width NaN for what the data need: SCALED where they were scaled,
        none else.
    """

    refine: tuple[str, ...] = ("auto",)
    hand: str = "auto"
    thickness_range: tuple[float, float] = (50.0, 2000.0)
    thickness_start: float = float("nan")
    g_max: float = float("nan")
    s_max: float = 0.02
    step: float = float("nan")
    by_frame: bool = False
    distribution: str = "none"
    tilt_width: float = field(default=float(np.radians(0.2)))
    scale_width: float = float("nan")


SCALED = 0.1  # of ln of the scale of a frame, where scaling has been before


def fit_dynamical(
    data: FrameData,
    atoms: ElectronAtoms,
    scattering: Scattering,
    choice: FitChoice = FitChoice(),
    progress: Callable[[str, int, int], None] | None = None,
) -> DynamicalFit:
    """
    Fit a structure to observations.

    Parameters
    ----------
    data : FrameData
    atoms : ElectronAtoms
        As given.
    scattering : Scattering
        Without absorption.
    choice : FitChoice
    progress : callable, optional
        Of what is done, how much, and of how many.

    Returns
    -------
    DynamicalFit

    Raises
    ------
    Unusable
        For too few observations, too many beams, or a thickness that is not determined.
    """
    say = progress or (lambda what, done, of: None)
    if int(data.observed.sum()) < FEWEST:
        raise Unusable(
            f"Only {int(data.observed.sum())} reflections are above 3 sigma: a dynamical model needs {FEWEST} at least."
        )
    try:
        return _fit(data, atoms, scattering, choice, say)
    except ValueError as error:
        raise Unusable(f"{error}.") from None


@dataclass(frozen=True)
class _Tried:
    """A setting with its problem, R1 over the thicknesses, and where its refinement stands."""

    setting: Setting
    problem: DynamicalProblem
    scanned: np.ndarray
    state: RefinedState


def _fit(data, atoms, scattering, choice: FitChoice, say) -> DynamicalFit:
    model = _model_choice(data, choice)
    coarse = replace(model, limits=replace(model.limits, w_min=W_COARSE))
    step = choice.step if np.isfinite(choice.step) else enough_step(data, _thickness_of_step(choice))
    tried = _try_settings(data, atoms, scattering, (choice, coarse, step), say)
    refined = []
    rivals = _best_of_each_hand(tried)
    for i, one in enumerate(rivals):
        say("Refining thickness and orientations" if _turns(choice) else "Refining thickness", i, len(rivals))
        refined.append(_settle(one, choice))
    refined.sort(key=lambda one: one.state.stages[-1].r1)
    best = refined[0]
    hand = _choose_hand(best, refined, tried)
    state = best.state
    best = replace(best, problem=replace(best.problem, choice=model))
    step = _step_of(choice, best.problem, state)
    best = replace(best, problem=best.problem.with_step(step))
    stages = _stages(choice, best.problem)
    if len(stages) > 1 and stages[0][0] == "orientation":
        stages = stages[1:]  # it has been
    for i, (name, kinds) in enumerate(stages):
        say(f"Refining {name}", i, len(stages))
        state = _with_start(best.problem, state, kinds)
        state = _stage(best.problem, state, name, kinds)
    return replace(_result(best, state, hand, step), scanned=np.column_stack([_thicknesses(choice), best.scanned]))


def _turns(choice: FitChoice) -> bool:
    """Whether orientations are refined."""
    return "auto" in choice.refine or "orientation" in choice.refine


def _step_of(choice: FitChoice, problem: DynamicalProblem, state: RefinedState) -> float:
    """Radians between orientations, of the thickness of a state."""
    if np.isfinite(choice.step):
        return choice.step
    return enough_step(problem.data, MARGIN * float(state.x[problem.layout.places["thickness"]].mean()))


def _settle(one: _Tried, choice: FitChoice) -> _Tried:
    """One hand from the best of its starts: thickness, then orientations where they are wanted."""
    start = one.state
    if _turns(choice) and len(one.scanned) > 1:
        thickness = best_start(one.problem, _thicknesses(choice), one.scanned)
        _, start = scan_thickness(one.problem, np.array([thickness]))
    problem = one.problem.with_step(_step_of(choice, one.problem, start))
    state = refine(problem, start, "thickness", SHARED, Iterations(1 if _turns(choice) else 2, CONVERGED))
    if _turns(choice):
        state = _stage(problem, state, "orientation", (*SHARED, "tilt"))
    return replace(one, problem=problem, state=state)


def _stage(problem: DynamicalProblem, state: RefinedState, name: str, kinds: tuple[str, ...]) -> RefinedState:
    """One stage: the frames' orientations, with what frames share and alone, then a last step with all for the esds."""
    shared = tuple(kind for kind in kinds if kind != "tilt")
    before = state.stages
    if "tilt" not in kinds:
        return refine(problem, state, name, shared, Iterations(STEPS, CONVERGED))
    state = orient(problem, state, TOGETHER, shared)
    state = orient(problem, state, ROUNDS)
    return refine(problem, replace(state, stages=before), name, kinds, Iterations(1, CONVERGED))


STARTS = {"spread": 0.05, "kappa": 0.02, "mosaicity": np.radians(0.03)}  # where the derivative is not zero


def _with_start(problem: DynamicalProblem, state: RefinedState, kinds: tuple[str, ...]) -> RefinedState:
    """The state with what is refined from now on away from zero."""
    x = state.x.copy()
    for kind, start in STARTS.items():
        place = problem.layout.places[kind]
        if kind in kinds and not x[place].any():
            x[place] = start
    return replace(state, x=x)


def _best_of_each_hand(tried: list[_Tried]) -> list[_Tried]:
    found = []
    for hand in (1, -1):
        of_hand = [one for one in tried if one.setting.hand == hand]
        if of_hand:
            found.append(min(of_hand, key=lambda one: one.scanned.min()))
    return found


def _thicknesses(choice: FitChoice) -> np.ndarray:
    """Those that are tried."""
    if np.isfinite(choice.thickness_start):
        return np.array([choice.thickness_start])
    return np.geomspace(*choice.thickness_range, N_THICKNESSES)


def _thickness_of_step(choice: FitChoice) -> float:
    return choice.thickness_start if np.isfinite(choice.thickness_start) else min(1000.0, choice.thickness_range[1])


def _model_choice(data: FrameData, choice: FitChoice) -> DynamicalChoice:
    g_max = choice.g_max if np.isfinite(choice.g_max) else BEYOND * float(data.d_star.max())
    width = choice.scale_width
    if np.isnan(width):
        width = SCALED if data.frames.tile else np.inf
    thickness = "by_frame" if choice.by_frame else "one"
    return DynamicalChoice(
        BeamLimits(g_max, choice.s_max, W_MIN), thickness, choice.distribution, choice.tilt_width, width
    )


def _stages(choice: FitChoice, problem: DynamicalProblem) -> list[tuple[str, tuple[str, ...]]]:
    """Names of stages, and the kinds of parameters that they refine."""
    wanted = choice.refine
    if "auto" in wanted:
        n, n_observed = problem.freedom.n, int(problem.judged.sum())
        small = n <= AUTO_MOST and n_observed >= PER_PARAMETER * n
        wanted = ("orientation", "structure") if small else ("orientation",)
    kinds: tuple[str, ...] = SHARED
    found = []
    if choice.distribution != "none":
        kinds = (*kinds, "spread")
        found.append(("distribution", kinds))
    more = {
        "orientation": ("tilt",),
        "absorption": ("kappa",),
        "mosaicity": ("mosaicity",),
        "structure": ("shifts", "b", "displacements"),
    }
    for name in STAGES:
        if name in wanted:
            kinds = (*kinds, *more[name])
            if name == "structure":
                kinds = tuple(kind for kind in kinds if kind != "overall_b")
            found.append((name, kinds))
    return found or [("thickness", kinds)]


def _try_settings(data, atoms, scattering, chosen: tuple, say) -> list[_Tried]:
    """All settings that single scattering does not rule out, with R1 over thicknesses."""
    choice, model, step = chosen
    low, high = choice.thickness_range
    thickness = _thicknesses(choice)
    settings = settings_of(atoms, data.lattice)
    if choice.hand != "auto":
        settings = [Setting(1 if choice.hand == "as_given" else -1, np.eye(3, dtype=int))]
    problems = []
    for setting in settings:
        problem = make_problem(data, atoms, scattering, model, setting)
        if int(problem.judged.sum()) < FEWEST:
            raise Unusable(
                "Too few reflections were integrated over their Bragg angle: check the frames' orientations."
            )
        single = kinematical_intensities(problem.data, problem.atoms, scattering, _thickness_of_step(choice))
        problems.append((setting, problem, kinematical_r1(problem, single)))
    least = min(value for _, _, value in problems)
    problems = [one for one in problems if one[2] <= least + NEAR]
    found = []
    for i, (setting, problem, _) in enumerate(problems):
        say("Trying hands and settings", i, len(problems))
        problem = problem.with_step(step)
        found.append(_Tried(setting, problem, *scan_thickness(problem, thickness)))
    best = min((one.scanned for one in found), key=np.min)
    if len(thickness) > 1 and np.ptp(best) < FLAT:
        raise Unusable(
            f"The data do not determine the thickness: between {low:g} and {high:g} Angstrom R1 changes by "
            f"{np.ptp(best):.4f} only; set thickness.start=, or give stronger data."
        )
    return found


def _choose_hand(best: _Tried, refined: list[_Tried], tried: list[_Tried]) -> HandChoice:
    calculated = [one.state.calculated for one in refined]
    by_frame = log_likelihoods(best.problem, calculated)
    candidates = [
        HandCandidate(
            one.setting.name, one.setting.hand, one.setting.operation, one.state.stages[-1].r1, float(ln_l.sum())
        )
        for one, ln_l in zip(refined, by_frame)
    ]
    done = {one.setting.name for one in refined}
    for one in tried:
        if one.setting.name not in done:
            ln_l = log_likelihoods(best.problem, [calculated[0], one.state.calculated])[1].sum()
            setting = one.setting
            candidates.append(
                HandCandidate(setting.name, setting.hand, setting.operation, float(one.scanned.min()), float(ln_l))
            )
    if len(refined) < 2:
        return HandChoice(tuple(candidates), float("nan"), float("nan"))
    return HandChoice(tuple(candidates), deviation(by_frame[0] - by_frame[1]), refined[1].state.stages[-1].r1)


def _result(best: _Tried, state: RefinedState, hand: HandChoice, step: float) -> DynamicalFit:
    problem, x = best.problem, state.x
    data, places, grid = problem.data, problem.layout.places, problem.grid
    esd = np.sqrt(np.maximum(np.diag(state.covariance), 0.0))

    def estimate(name: str) -> Estimate:
        values, esds = x[places[name]], esd[places[name]]
        return Estimate(float(values.mean()), float(esds.mean()) if esds.any() else float("nan"))

    n_frames = data.frames.n
    thickness = float(x[places["thickness"]].mean())
    single = kinematical_intensities(data, problem.atoms_at(x), problem.scattering, thickness)
    r1_kinematical = kinematical_r1(problem, single)
    scales = problem.scales_at(x)
    dynamical = np.where(problem.used, state.calculated, np.nan)
    single = np.where(problem.used, single, np.nan)
    some = problem.judged
    single = single * scales[data.frame]
    f = np.sqrt(np.maximum(single, 0.0))[some]
    single *= (np.sum(np.sqrt(np.maximum(dynamical, 0.0))[some] * f) / np.sum(f**2)) ** 2
    axes = grid.tilt_axes
    tilt = np.einsum("fi,fix->fx", x[places["tilt"]].reshape(n_frames, 2), axes)
    tilt_esd = np.sqrt(np.einsum("fi,fix->fx", (esd[places["tilt"]] ** 2).reshape(n_frames, 2), axes**2))
    scale_esd = scales * np.hypot(esd[places["frame_scale"]], esd[places["scale"]])
    return DynamicalFit(
        thickness=estimate("thickness"),
        spread=estimate("spread"),
        thicknesses=np.broadcast_to(x[places["thickness"]], n_frames).copy(),
        thicknesses_esd=np.broadcast_to(esd[places["thickness"]], n_frames).copy(),
        absorption=estimate("kappa"),
        mosaicity=estimate("mosaicity"),
        scale=scales,
        scale_esd=scale_esd,
        tilt=tilt,
        tilt_esd=tilt_esd,
        structure=_structure(problem, state, esd, estimate("overall_b")),
        kinematical=single,
        dynamical=dynamical,
        observed=some,
        r1_kinematical=r1_kinematical,
        r1_dynamical=r1(data.intensity[some], dynamical[some]),
        hand=hand,
        stages=state.stages,
        notes=_notes(problem, step, thickness),
    )


def _notes(problem: DynamicalProblem, step: float, thickness: float) -> tuple[str, ...]:
    grid, data = problem.grid, problem.data
    return (
        f"Rocking curves have a step of {np.degrees(step):.4f} degrees, as {thickness:.0f} Angstrom need: "
        f"{grid.n_orientations} orientations with {grid.n_beams:.0f} beams on average.",
        f"{int(np.count_nonzero(~problem.used))} of {data.n} observations were not integrated over their Bragg angle, "
        "and are not refined against.",
    )


def _structure(problem: DynamicalProblem, state: RefinedState, esd: np.ndarray, overall_b: Estimate) -> Structure:
    """The atoms, with esds (k,) of all parameters."""
    places, x = problem.layout.places, state.x
    shifts_esd = np.sqrt(
        np.einsum(
            "qas,qr,ras->as",
            problem.freedom.shifts,
            state.covariance[places["shifts"], places["shifts"]],
            problem.freedom.shifts,
        )
    )
    atoms = problem.atoms_at(x)
    b_esd = np.full(len(atoms.sites), np.nan_to_num(overall_b.esd))
    b_esd[problem.freedom.isotropic] = np.hypot(b_esd[problem.freedom.isotropic], esd[places["b"]])
    return Structure(atoms.sites, shifts_esd, atoms.b, b_esd, overall_b, atoms.u_star)
