"""
The Requests (settings/) -> the settings that files and algorithms take.

What is called the same in both is the same; what differs in name, units or kind is said here, one by one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

from dials_postrefine.settings.diffuse_map import DiffuseMapRequest
from dials_postrefine.settings.image_spread import ImageSpreadRequest
from dials_postrefine.settings.intensity_model import IntensityModelRequest
from dials_postrefine.settings.postrefine import PostrefineRequest
from dials_postrefine.settings.reference_model import ReferenceModel

Settings = TypeVar("Settings")

# Imports are local: none of the programs needs the rooms of the others, of which one needs numba.


def settings_of(kind: type[Settings], request, **others) -> Settings:
    """The dataclass of a kind, with what the request has by the same names, and with the others as they are given."""
    same = {field.name for field in fields(kind)} & {field.name for field in fields(request)} - others.keys()
    return kind(**{name: getattr(request, name) for name in same}, **others)


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
        significance=settings_of(SignificanceFilter, significance) if significance.enable else None,
    )


def stills_choice(request: PostrefineRequest):
    """Which observations dials.postrefine reads."""
    from dials_postrefine.programs.stills_input import StillsChoice

    return settings_of(
        StillsChoice,
        request,
        intensity=request.intensity_choice,
        filters=input_filters(request),
        radiation=reference_settings(request.reference_model).radiation,
        reindex=request.reindex == "auto",
    )


def fit_settings(request: PostrefineRequest):
    """The settings of the fit of a lattice; of `auto` what the search starts with."""
    from dials_postrefine.stills.fits import FitSettings
    from dials_postrefine.stills.model import CONVENTIONAL_B

    return settings_of(
        FitSettings,
        request,
        model=request.algorithm,
        **model_candidates(request).first,
        max_b_factor=request.max_b_factor / CONVENTIONAL_B,
    )


def dataset_settings(request: PostrefineRequest):
    """The settings of the cycles, with those of the fits."""
    from dials_postrefine.stills.deltacchalf import DeltaCCHalfFilter
    from dials_postrefine.stills.filters import LatticeFilters
    from dials_postrefine.stills.loop import DatasetSettings

    delta = request.filtering.deltacchalf
    return settings_of(
        DatasetSettings,
        request,
        fit=fit_settings(request),
        excludes_self=request.reference_excludes_self,
        filters=LatticeFilters(request.min_partial_correlation, request.parameter_outlier_z),
        delta_cc_half=settings_of(DeltaCCHalfFilter, delta) if request.filtering.method == "deltacchalf" else None,
        requires_gain=request.require_gain,
    )


def reference_settings(model: ReferenceModel):
    """How a reference is read, calculated and scaled."""
    from dials_postrefine.programs.reference_model import ReferenceSettings
    from dials_postrefine.scattering.scaling import ScaleSettings

    def unless_auto(word: str) -> str | None:
        return None if word == "auto" else word

    return settings_of(
        ReferenceSettings,
        model,
        radiation=unless_auto(model.radiation),
        table=unless_auto(model.table),
        anomalous=unless_auto(model.anomalous),
        bulk_solvent={"auto": None, "on": True, "off": False}[model.bulk_solvent],
        scaling=settings_of(ScaleSettings, model),
    )


def image_settings(request: DiffuseMapRequest):
    """How images are read."""
    from dials_postrefine.files.images.experiments import ImageSettings

    mask, background = request.mask, request.background
    return settings_of(
        ImageSettings,
        request,
        bragg=mask.bragg,
        n_sigma=mask.n_sigma,
        box=mask.box,
        scale=scale_of_images(request),
        scales=request.scale == "from_refl",
        mask_file=mask.file,
        bad_pixels=mask.bad_pixels,
        max_masked=mask.max_fraction,
        max_counts=mask.max_counts,
        background_scale=background.scale,
        background_exposure_time=background.exposure_time,
    )


def scale_of_images(request: DiffuseMapRequest) -> str:
    """How an image is scaled before equivalents are asked."""
    return "per_image" if request.scale in ("auto", "full") else request.scale


def mapping_settings(request: DiffuseMapRequest):
    """How images become sums."""
    from cctbx import sgtbx, uctbx

    from dials_postrefine.diffuse.map.records import Corrections, MappingSettings
    from dials_postrefine.files.images.crystals import ice_rings

    made, ice, rings = request.corrections, request.mask.ice_rings, ()
    if ice.filter:
        group = sgtbx.space_group_info(ice.space_group)
        rings = ice_rings(uctbx.unit_cell(ice.unit_cell), group, ice.width, request.d_min)
    return settings_of(
        MappingSettings,
        request,
        corrections=Corrections(made.solid_angle, made.polarization, made.efficiency, made.air),
        scale=scale_of_images(request),
        radial_offset=request.background.radial == "offset",
        n_sigma=request.reject_n_sigma,
        excluded=rings,
    )


def image_choice(request: ImageSpreadRequest):
    """Which observations dials.image_spread reads."""
    return _image_choice(request, beam=request.beam.intensity, annulus=request.beam.annulus)


def tree_image_choice(request: IntensityModelRequest):
    """Which observations dials.intensity_model reads."""
    return _image_choice(request, beam="none", image_width=0.0)


def _image_choice(request: ImageSpreadRequest | IntensityModelRequest, **others):
    """Which observations of scaled images are read; a limit of the resolution that is 0 is none."""
    from dials_postrefine.files.electron.scaled_images import ImageChoice

    return settings_of(
        ImageChoice,
        request,
        intensity=request.intensity_choice,
        keep_outliers=request.outliers == "keep",
        d_min=request.d_min or None,
        d_max=request.d_max or None,
        **others,
    )


def spread_settings(request: ImageSpreadRequest):
    """How images are compared."""
    from dials_postrefine.electron.spread.imagespread import SpreadSettings

    random = request.random_match
    return settings_of(SpreadSettings, request, prior=random.prior, n_permutations=random.permutations)


def compared_column(request: ImageSpreadRequest) -> str | None:
    """The column of integrated intensities that dials.image_spread shows beside the others."""
    return None if request.compare in ("none", request.intensity_choice) else request.compare


def tree_settings(request: IntensityModelRequest):
    """How the trees grow."""
    from dials_postrefine.electron.trees.intensitymodel import TreeSettings

    return settings_of(TreeSettings, request.trees, seed=request.seed, n_permutations=request.trees.permutations)
