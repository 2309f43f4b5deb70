"""The Request of dials.postrefine."""

from __future__ import annotations

from dataclasses import dataclass

from dials_postrefine.settings.binding import choice, none_for_auto, part, phil, radians, symbol, texts
from dials_postrefine.settings.checks import check_limits
from dials_postrefine.settings.limits import check_values
from dials_postrefine.settings.reference_model import ReferenceModel


@dataclass(frozen=True)
class UnitCellFilter:
    """How much cells may differ from the others: a fraction of the lengths, degrees."""

    relative_length_tolerance: float = phil("relative_length_tolerance", 0.03)
    absolute_angle_tolerance: float = phil("absolute_angle_tolerance", 2.0)


@dataclass(frozen=True)
class SignificanceFilter:
    """The mean I/sigma that resolution bins of each lattice must have."""

    enable: bool = phil("enable", False)
    n_bins: int = phil("n_bins", 12)
    min_ct: int = phil("min_ct", 10)
    sigma: float = phil("sigma", 0.5)


@dataclass(frozen=True)
class DeltaCCHalf:
    """Which lattices lower CC1/2: standard deviations below the mean, and percent of the observations at most."""

    stdcutoff: float = phil("stdcutoff", 4.0)
    max_percent_removed: float = phil("max_percent_removed", 10.0)


@dataclass(frozen=True)
class Filtering:
    """Which lattices and observations are rejected, before any fit and after the last; method none or deltacchalf."""

    unit_cell: UnitCellFilter = part("unit_cell", UnitCellFilter)
    significance_filter: SignificanceFilter = part("significance_filter", SignificanceFilter)
    method: str = choice("method", "none")
    deltacchalf: DeltaCCHalf = part("deltacchalf", DeltaCCHalf)


@dataclass(frozen=True)
class Output:
    """Names of files; what is None is not written."""

    experiments: str = phil("experiments", "postrefined.expt")
    reflections: str = phil("reflections", "postrefined.refl")
    log: str | None = phil("log", "dials.postrefine.log")
    json: str | None = phil("json", "dials.postrefine.json")
    html: str | None = phil("html", "dials.postrefine.html")
    mtz: str | None = phil("mtz", None)
    xfel_merge: str | None = phil("xfel_merge", None)


@dataclass(frozen=True)
class PostrefineRequest:
    """
    What dials.postrefine is asked for; phil/postrefine.phil describes each parameter.

    max_misorientation in radians, d_min and d_max in Angstrom, max_b_factor, conventional, in Angstrom^2; exponent None
    for the one of the data, n_cycles and nproc None for as many as it takes, and as there are cores.
    """

    experiments: tuple[str, ...] = phil("input.experiments", (), convert=texts)
    reflections: tuple[str, ...] = phil("input.reflections", (), convert=texts)
    file_list: tuple[str, ...] = phil("input.file_list", (), convert=texts)
    algorithm: str = choice("algorithm", "rs_hybrid")
    profile: str = choice("profile", "auto")
    exponent: float | None = phil("exponent", None, convert=none_for_auto)
    radius: str = choice("radius", "auto")
    unit_cell: str = choice("unit_cell", "auto")
    require_gain: bool = phil("require_gain", True)
    reference: str | None = phil("reference", None)
    reference_model: ReferenceModel = part("reference_model", ReferenceModel)
    anomalous: bool = phil("anomalous", False)
    reference_excludes_self: bool = phil("reference_excludes_self", True)
    cross_validation: str = choice("cross_validation", "half_sets")
    free_fraction: float = phil("free_fraction", 0.1)
    n_cycles: int | None = phil("n_cycles", None, convert=none_for_auto)
    engine: str = choice("engine", "auto")
    restraints: bool = phil("restraints", True)
    convergence: float = phil("convergence", 0.005)
    weighting: str = choice("weighting", "sigma")
    loss: str = choice("loss", "huber")
    model_error: float = phil("model_error", 0.1)
    space_group: str | None = phil("space_group", None, convert=symbol)
    reindex: str = choice("reindex", "auto")
    fix: tuple[str, ...] = phil("fix", (), convert=tuple)
    intensity_choice: str = choice("intensity_choice", "sum")
    polarization_fraction: float | None = phil("polarization_fraction", None)
    d_min: float | None = phil("d_min", None)
    d_max: float | None = phil("d_max", None)
    partiality_threshold: float = phil("partiality_threshold", 0.2)
    min_correlation: float = phil("min_correlation", 0.4)
    min_partial_correlation: float = phil("min_partial_correlation", 0.25)
    min_reflections: int = phil("min_reflections", 10)
    reflections_per_parameter: float = phil("reflections_per_parameter", 3.0)
    max_misorientation: float = phil("max_misorientation", radians(0.5), convert=radians)
    max_b_factor: float = phil("max_b_factor", 100.0)
    parameter_outlier_z: float = phil("parameter_outlier_z", 5.0)
    filtering: Filtering = part("filtering", Filtering)
    error_model: str = choice("error_model", "basic")
    outlier_z: float = phil("outlier_z", 6.0)
    n_shells: int = phil("n_shells", 10)
    lattice_plots: tuple[str, ...] = phil("lattice_plots", (), convert=texts)
    mp_method: str = choice("mp.method", "auto")
    nproc: int | None = phil("mp.nproc", None, convert=none_for_auto)
    seed: int = phil("seed", 0)
    output: Output = part("output", Output)

    def check(self) -> None:
        """Raises Sorry for values that a parameter can't have, and for what can't be done whatever the data are."""
        from dials.util import Sorry

        check_values("postrefine", self)
        if not self.experiments or not self.reflections:
            raise Sorry("Both experiments (.expt) and reflections (.refl) are needed: name one or more pairs of files.")
        check_limits(self)
