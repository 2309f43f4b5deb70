"""
The programs' parameters: finds and parses phil/*.phil, and turns a scope into the dataclass that an algorithm takes.

The folder phil/ lies inside the package where it is installed, and beside it in a checkout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def load(program: str):
    """The PHIL scope of a program, phil/<program>.phil."""
    import iotbx.phil

    package = Path(__file__).resolve().parent
    for folder in (package / "phil", package.parent / "phil"):
        path = folder / f"{program}.phil"
        if path.is_file():
            return iotbx.phil.parse(file_name=str(path), process_includes=True)
    raise FileNotFoundError(f"phil/{program}.phil is missing: install dials_postrefine again.")


# By program, the parameters that have another name now.
RENAMED = {
    "dials.postrefine": {"model": "algorithm"},
    "dials.image_spread": {"intensity": "intensity_choice"},
    "dials.intensity_model": {"intensity": "intensity_choice", "model": "reference"},
}


def renamed(program: str, name: str) -> str | None:
    """The name that a parameter of a program has now, None if it is no old name."""
    return RENAMED.get(program, {}).get(name)


def word(value) -> str:
    """A choice as it was written: PHIL turns `auto` and `none` on the command line into objects of its own."""
    from libtbx import Auto

    return "auto" if value is Auto else "none" if value is None else value


SMALLEST_D = 0.01  # Angstrom: no diffraction of crystals reaches there


def check_limits(params) -> None:
    """Raises Sorry for resolution limits that cross or are no numbers; 0 is no limit."""
    from dials.util import Sorry

    for name in ("d_min", "d_max"):
        value = getattr(params, name)
        if value is not None and value != 0.0 and not SMALLEST_D <= value < float("inf"):
            raise Sorry(f"{name}={value:g} is no resolution: give Angstrom, or leave it out.")
    if params.d_min and params.d_max and params.d_min >= params.d_max:
        raise Sorry(f"d_min={params.d_min:g} is not below d_max={params.d_max:g}: d_min is the high resolution limit.")


def reading(params) -> dict:
    """What files.stills.read_stills takes of dials.postrefine's parameters, by name; Sorry for limits that cross."""
    check_limits(params)
    return {
        "experiment_paths": params.input.experiments,
        "reflection_paths": params.input.reflections,
        "space_group": str(params.space_group) if params.space_group else None,
        "intensity_choice": params.intensity_choice,
        "d_min": params.d_min,
        "d_max": params.d_max,
        "seed": params.seed,
        "filters": input_filters(params),
        "radiation": reference_settings(params.reference_model).radiation,
        "reindex": word(params.reindex) == "auto",
    }


def refining(params, h_unique) -> dict:
    """What stills.refinement.refine takes of them, by name, for the unique indices h (n_unique, 3)."""
    return {
        "settings": dataset_settings(params),
        "candidates": candidates(params),
        "free": free_reflections(params, h_unique),
        "half_sets": word(params.cross_validation) == "half_sets",
        "n_shells": params.n_shells,
        "seed": params.seed,
    }


def candidates(params) -> tuple[list[str], list[str], list[str]]:
    """The profiles, radii and unit cells to choose from: the ones that were named, or for `auto` all."""
    from dials_postrefine.stills.model import RADII, UNIT_CELLS
    from dials_postrefine.stills.partiality import PROFILES

    profiles = list(PROFILES) if word(params.profile) == "auto" else [params.profile]
    radii = list(RADII) if word(params.radius) == "auto" else [params.radius]
    unit_cells = list(UNIT_CELLS) if word(params.unit_cell) == "auto" else [params.unit_cell]
    return profiles, radii if params.algorithm == "rs_hybrid" else ["constant"], unit_cells


def free_reflections(params, h_unique):
    """Which unique indices h (n_unique, 3) no fit shall see, (n_unique,) bool; None where there are to be none."""
    from dials_postrefine.stills.freereflections import free_set

    wanted = word(params.cross_validation) == "free_reflections"
    return free_set(h_unique, params.free_fraction, params.seed) if wanted else None


def input_filters(params):
    """What lattices and observations are tested for before any fit."""
    from dials_postrefine.stills.filters import InputFilters, SignificanceFilter

    cell, significance = params.filtering.unit_cell, params.filtering.significance_filter
    return InputFilters(
        cell_length=cell.relative_length_tolerance,
        cell_angle=cell.absolute_angle_tolerance,
        significance=(
            SignificanceFilter(significance.sigma, significance.n_bins, significance.min_ct)
            if significance.enable
            else None
        ),
    )


def dataset_settings(params):
    """The settings of dials.postrefine's cycles and fits, angles in radians; of `auto` the first candidate."""
    from libtbx import Auto

    from dials_postrefine.stills.cycles import DatasetSettings
    from dials_postrefine.stills.deltacchalf import DeltaCCHalfFilter
    from dials_postrefine.stills.filters import LatticeFilters
    from dials_postrefine.stills.lattice import FitSettings
    from dials_postrefine.stills.model import CONVENTIONAL_B

    profiles, radii, unit_cells = candidates(params)
    delta = params.filtering.deltacchalf
    return DatasetSettings(
        fit=FitSettings(
            model=params.algorithm,
            profile=profiles[0],
            radius=radii[0],
            unit_cell=unit_cells[0],
            weighting=params.weighting,
            loss=params.loss,
            fix=tuple(params.fix),
            model_error=params.model_error,
            partiality_threshold=params.partiality_threshold,
            min_correlation=params.min_correlation,
            min_reflections=params.min_reflections,
            reflections_per_parameter=params.reflections_per_parameter,
            max_misorientation=float(np.radians(params.max_misorientation)),
            max_b_factor=params.max_b_factor / CONVENTIONAL_B,
        ),
        n_cycles=None if params.n_cycles in (None, Auto) else params.n_cycles,
        convergence=params.convergence,
        excludes_self=params.reference_excludes_self,
        outlier_z=params.outlier_z,
        engine=word(params.engine),
        restraints=params.restraints,
        error_model=word(params.error_model),
        filters=LatticeFilters(params.min_partial_correlation, params.parameter_outlier_z),
        delta_cc_half=DeltaCCHalfFilter(delta.stdcutoff, delta.max_percent_removed)
        if params.filtering.method
        else None,
    )


def reference_settings(scope):
    """The PHIL scope reference_model as the dataclass that files and algorithms take."""
    from dials_postrefine.files.reference_model import ReferenceSettings
    from dials_postrefine.scattering.reference import ScaleSettings

    def choice(name: str) -> str | None:
        value = word(getattr(scope, name))
        return None if value == "auto" else value

    return ReferenceSettings(
        radiation=choice("radiation"),
        table=choice("table"),
        ions=scope.ions,
        mott_bethe=word(scope.mott_bethe),
        anomalous=choice("anomalous"),
        bulk_solvent={"auto": None, "on": True, "off": False}[word(scope.bulk_solvent)],
        rescale_cell=scope.rescale_cell,
        algorithm=word(scope.algorithm),
        d_min=scope.d_min,
        labels=scope.labels,
        block=scope.block,
        scaling=ScaleSettings(
            word(scope.scale), scope.target, scope.k_sol, scope.b_sol, scope.model_error, scope.n_shells
        ),
    )


def image_settings(params):
    """How dials.diffuse_map reads images, of its parameters."""
    from dials.util import Sorry
    from libtbx import Auto

    from dials_postrefine.files.images import ImageSettings

    if params.image_range and params.image_range[0] > params.image_range[1]:
        raise Sorry(
            f"image_range={params.image_range[0]} {params.image_range[1]} ends before it begins: turn it round."
        )
    return ImageSettings(
        image_range=tuple(params.image_range) if params.image_range else None,
        phi_steps=None if params.sampling.phi_steps is Auto else params.sampling.phi_steps,
        bragg=word(params.mask.bragg),
        n_sigma=params.mask.n_sigma,
        box=params.mask.box,
        scales=word(params.scale.model) == "from_refl",
        mask_file=params.mask.file,
        bad_pixels=params.mask.bad_pixels,
        max_masked=params.mask.max_fraction,
        gain=params.gain,
        pedestal=params.pedestal,
        read_noise=params.read_noise,
        polarization_fraction=params.polarization_fraction,
        background_scale=params.background.scale,
        exposure_time=tuple(params.exposure_time) if params.exposure_time else None,
        background_exposure_time=params.background.exposure_time,
        scale=word(params.scale.model),
    )


def map_request(params):
    """What dials.diffuse_map is asked for, of its parameters."""
    from libtbx import Auto

    from dials_postrefine.diffuse.geometry import Corrections
    from dials_postrefine.diffuse.mapping import MappingSettings
    from dials_postrefine.files.images import ice_rings
    from dials_postrefine.files.map_input import MapRequest
    from dials_postrefine.files.versions import available_cores

    check_limits(params)
    wanted, ice = params.corrections, params.mask.ice_rings
    return MapRequest(
        experiments=params.input.experiments,
        reflections=params.input.reflections,
        background=params.background.experiments,
        add=params.add or (),
        reading=image_settings(params),
        mapping=MappingSettings(
            corrections=Corrections(wanted.solid_angle, wanted.polarization, wanted.efficiency, wanted.air),
            scale=word(params.scale.model),
            half_sets=params.half_sets,
            radial_offset=word(params.background.radial) == "offset",
            n_sigma="auto" if params.reject.n_sigma is Auto else params.reject.n_sigma,
            allow_bad_images=params.allow_bad_images,
            excluded=ice_rings(ice.unit_cell, ice.space_group, ice.width, params.d_min) if ice.filter else (),
        ),
        d_min=params.d_min or None,
        d_max=params.d_max or None,
        frame=params.grid.frame,
        subdivide=tuple(params.grid.subdivide),
        spacing=params.grid.spacing,
        symmetry=params.symmetry,
        space_group=str(params.space_group) if params.space_group else None,
        planes=params.planes or (),
        n_shells=params.n_shells,
        nproc=available_cores() if params.nproc is Auto else params.nproc,
    )


def image_choice(params):
    """Which observations dials.image_spread reads, of its parameters."""
    from dials.util import Sorry

    from dials_postrefine.files.scaled_images import ImageChoice

    check_limits(params)
    outer, inner = params.beam.annulus
    if inner >= outer:
        raise Sorry(f"beam.annulus={outer:g} {inner:g} ends before it begins: the larger resolution comes first.")
    return ImageChoice(
        intensity=params.intensity_choice,
        variance=params.variance,
        keep_outliers=params.outliers == "keep",
        d_min=params.d_min or None,
        d_max=params.d_max or None,
        image_width=params.image_width,
        space_group=str(params.space_group) if params.space_group else None,
        beam=word(params.beam.intensity),
        annulus=(outer, inner),
    )


def compared_column(params) -> str | None:
    """The column of integrated intensities that dials.image_spread shows beside the others, of its parameters."""
    wanted = word(params.compare)
    return None if wanted in ("none", params.intensity_choice) else wanted


def spread_settings(params):
    """How dials.image_spread compares images, of its parameters."""
    from dials_postrefine.electron.imagespread import SpreadSettings

    return SpreadSettings(
        match=word(params.match),
        min_common=params.min_common,
        min_angle=float(np.radians(params.min_angle)),
        max_pairs=params.max_pairs,
        strong=params.strong,
        n_shells=params.n_shells,
        prior=params.random_match.prior,
        n_permutations=params.random_match.permutations,
        zone_axis_index=params.zone_axis.max_index,
        seed=params.seed,
    )


def model_request(params):
    """What dials.intensity_model is asked for, of its parameters."""
    from dials_postrefine.electron.intensitymodel import TreeSettings
    from dials_postrefine.files.intensity_model import ModelRequest
    from dials_postrefine.files.scaled_images import ImageChoice

    check_limits(params)
    trees = params.trees
    return ModelRequest(
        train=params.train or (),
        test=params.test or (),
        experiments=params.input.experiments,
        reflections=params.input.reflections,
        choice=ImageChoice(
            intensity=params.intensity_choice,
            keep_outliers=params.outliers == "keep",
            d_min=params.d_min or None,
            d_max=params.d_max or None,
            image_width=0.0,
            space_group=str(params.space_group) if params.space_group else None,
            beam="none",
        ),
        model=params.reference,
        reference=reference_settings(params.reference_model),
        split=word(params.split),
        n_folds=params.n_folds,
        trees=TreeSettings(
            trees.max_iter, trees.learning_rate, trees.min_samples_leaf, params.seed, trees.permutations
        ),
        compare=word(params.compare),
    )
