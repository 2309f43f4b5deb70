"""The Requests (settings/) -> the settings that files and algorithms take."""

from __future__ import annotations

from dials_postrefine.settings.diffuse_map import DiffuseMapRequest
from dials_postrefine.settings.image_spread import ImageSpreadRequest
from dials_postrefine.settings.intensity_model import IntensityModelRequest
from dials_postrefine.settings.postrefine import PostrefineRequest
from dials_postrefine.settings.reference_model import ReferenceModel

# Imports are local: none of the programs needs the rooms of the others, of which one needs numba.


def model_candidates(request: PostrefineRequest):
    """The profiles, radii and unit cells to choose from: the ones that were named, or for `auto` all."""
    from dials_postrefine.stills.model import RADII, UNIT_CELLS
    from dials_postrefine.stills.partiality import Profile
    from dials_postrefine.stills.selection import Candidates

    profile = None
    if request.profile not in ("auto", "pearson_vii"):
        profile = Profile(request.profile)
    elif request.exponent is not None:
        profile = Profile(exponent=request.exponent)
    radii = list(RADII) if request.radius == "auto" else [request.radius]
    unit_cells = list(UNIT_CELLS) if request.unit_cell == "auto" else [request.unit_cell]
    return Candidates(profile, radii if request.algorithm == "rs_hybrid" else ["constant"], unit_cells)


def input_filters(request: PostrefineRequest):
    """What lattices and observations are tested for before any fit."""
    from dials_postrefine.stills.filters import InputFilters, SignificanceFilter

    cell, significance = request.filtering.unit_cell, request.filtering.significance_filter
    return InputFilters(
        cell_length=cell.relative_length_tolerance,
        cell_angle=cell.absolute_angle_tolerance,
        significance=(
            SignificanceFilter(significance.sigma, significance.n_bins, significance.min_ct)
            if significance.enable
            else None
        ),
    )


def stills_choice(request: PostrefineRequest):
    """Which observations dials.postrefine reads."""
    from dials_postrefine.programs.stills_input import StillsChoice

    return StillsChoice(
        space_group=request.space_group,
        intensity=request.intensity_choice,
        d_min=request.d_min,
        d_max=request.d_max,
        seed=request.seed,
        filters=input_filters(request),
        radiation=reference_settings(request.reference_model).radiation,
        reindex=request.reindex == "auto",
        polarization_fraction=request.polarization_fraction,
        anomalous=request.anomalous,
    )


def fit_settings(request: PostrefineRequest):
    """The settings of the fit of a lattice; of `auto` what the search starts with."""
    from dials_postrefine.stills.fits import FitSettings
    from dials_postrefine.stills.model import CONVENTIONAL_B

    return FitSettings(
        model=request.algorithm,
        **model_candidates(request).first,
        weighting=request.weighting,
        loss=request.loss,
        fix=request.fix,
        model_error=request.model_error,
        partiality_threshold=request.partiality_threshold,
        min_correlation=request.min_correlation,
        min_reflections=request.min_reflections,
        reflections_per_parameter=request.reflections_per_parameter,
        max_misorientation=request.max_misorientation,
        max_b_factor=request.max_b_factor / CONVENTIONAL_B,
    )


def dataset_settings(request: PostrefineRequest):
    """The settings of the cycles, with those of the fits."""
    from dials_postrefine.stills.deltacchalf import DeltaCCHalfFilter
    from dials_postrefine.stills.filters import LatticeFilters
    from dials_postrefine.stills.loop import DatasetSettings

    delta = request.filtering.deltacchalf
    return DatasetSettings(
        fit=fit_settings(request),
        n_cycles=request.n_cycles,
        convergence=request.convergence,
        excludes_self=request.reference_excludes_self,
        outlier_z=request.outlier_z,
        engine=request.engine,
        restraints=request.restraints,
        error_model=request.error_model,
        filters=LatticeFilters(request.min_partial_correlation, request.parameter_outlier_z),
        delta_cc_half=DeltaCCHalfFilter(delta.stdcutoff, delta.max_percent_removed)
        if request.filtering.method == "deltacchalf"
        else None,
        requires_gain=request.require_gain,
    )


def reference_settings(model: ReferenceModel):
    """How a reference is read, calculated and scaled."""
    from dials_postrefine.programs.reference_model import ReferenceSettings
    from dials_postrefine.scattering.scaling import ScaleSettings

    def unless_auto(word: str) -> str | None:
        return None if word == "auto" else word

    return ReferenceSettings(
        radiation=unless_auto(model.radiation),
        table=unless_auto(model.table),
        ions=model.ions,
        mott_bethe=model.mott_bethe,
        anomalous=unless_auto(model.anomalous),
        bulk_solvent={"auto": None, "on": True, "off": False}[model.bulk_solvent],
        rescale_cell=model.rescale_cell,
        algorithm=model.algorithm,
        d_min=model.d_min,
        labels=model.labels,
        block=model.block,
        scaling=ScaleSettings(model.scale, model.target, model.k_sol, model.b_sol, model.model_error, model.n_shells),
    )


def image_settings(request: DiffuseMapRequest):
    """How images are read."""
    from dials_postrefine.files.images.experiments import ImageSettings

    mask, background = request.mask, request.background
    return ImageSettings(
        image_range=request.image_range,
        phi_steps=request.phi_steps,
        bragg=mask.bragg,
        n_sigma=mask.n_sigma,
        box=mask.box,
        scales=request.scale == "from_refl",
        mask_file=mask.file,
        bad_pixels=mask.bad_pixels,
        max_masked=mask.max_fraction,
        gain=request.gain,
        pedestal=request.pedestal,
        read_noise=request.read_noise,
        polarization_fraction=request.polarization_fraction,
        background_scale=background.scale,
        exposure_time=request.exposure_time,
        background_exposure_time=background.exposure_time,
        scale=request.scale,
    )


def mapping_settings(request: DiffuseMapRequest):
    """How images become sums."""
    from cctbx import sgtbx, uctbx

    from dials_postrefine.diffuse.map.records import Corrections, MappingSettings
    from dials_postrefine.files.images.crystals import ice_rings

    made, ice, rings = request.corrections, request.mask.ice_rings, ()
    if ice.filter:
        group = sgtbx.space_group_info(ice.space_group)
        rings = ice_rings(uctbx.unit_cell(ice.unit_cell), group, ice.width, request.d_min)
    return MappingSettings(
        corrections=Corrections(made.solid_angle, made.polarization, made.efficiency, made.air),
        scale=request.scale,
        half_sets=request.half_sets,
        radial_offset=request.background.radial == "offset",
        n_sigma=request.reject_n_sigma,
        allow_bad_images=request.allow_bad_images,
        excluded=rings,
    )


def image_choice(request: ImageSpreadRequest):
    """Which observations dials.image_spread reads."""
    from dials_postrefine.files.electron.scaled_images import ImageChoice

    return ImageChoice(
        intensity=request.intensity_choice,
        variance=request.variance,
        keep_outliers=request.outliers == "keep",
        d_min=request.d_min or None,
        d_max=request.d_max or None,
        image_width=request.image_width,
        space_group=request.space_group,
        beam=request.beam.intensity,
        annulus=request.beam.annulus,
    )


def spread_settings(request: ImageSpreadRequest):
    """How images are compared."""
    from dials_postrefine.electron.spread.imagespread import SpreadSettings

    return SpreadSettings(
        match=request.match,
        min_common=request.min_common,
        min_angle=request.min_angle,
        max_pairs=request.max_pairs,
        strong=request.strong,
        n_shells=request.n_shells,
        prior=request.random_match.prior,
        n_permutations=request.random_match.permutations,
        zone_axis_index=request.zone_axis_index,
        seed=request.seed,
    )


def compared_column(request: ImageSpreadRequest) -> str | None:
    """The column of integrated intensities that dials.image_spread shows beside the others."""
    return None if request.compare in ("none", request.intensity_choice) else request.compare


def tree_image_choice(request: IntensityModelRequest):
    """Which observations dials.intensity_model reads."""
    from dials_postrefine.files.electron.scaled_images import ImageChoice

    return ImageChoice(
        intensity=request.intensity_choice,
        keep_outliers=request.outliers == "keep",
        d_min=request.d_min or None,
        d_max=request.d_max or None,
        image_width=0.0,
        space_group=request.space_group,
        beam="none",
    )


def tree_settings(request: IntensityModelRequest):
    """How the trees grow."""
    from dials_postrefine.electron.trees.intensitymodel import TreeSettings

    trees = request.trees
    return TreeSettings(trees.max_iter, trees.learning_rate, trees.min_samples_leaf, request.seed, trees.permutations)
