"""
What dials.intensity_model learns from: data sets, their split, and features of the observations; and its predictions.

|F_calc| come from the machinery of reference intensities (programs/reference_model.py), on the scale of the mean
intensities of the training data, or of all where these are split into folds; systematic absences have zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, miller, uctbx
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.trees.features import Features, make_features
from dials_postrefine.electron.trees.intensitymodel import Prediction, TreeSettings, choose_split, make_folds, predict
from dials_postrefine.files.dials.radiation import common_probe
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.electron.intensities import has_intensity
from dials_postrefine.files.electron.scaled_images import ImageFiles, read_images
from dials_postrefine.files.reference.alignment import align
from dials_postrefine.files.reference.reflection_files import index_array
from dials_postrefine.numerics.grouped import grouped_mean
from dials_postrefine.numerics.images import Images
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.numerics.populations import main_value
from dials_postrefine.programs.algorithm_settings import reference_settings, tree_image_choice
from dials_postrefine.programs.reference_model import Beam, ReferenceSettings, compute_reference, open_reference
from dials_postrefine.settings.intensity_model import IntensityModelRequest

EXPERIMENTS = (".expt", ".json")


@dataclass
class TreeData:
    """
    The files, how they were split (None: by train and test), fold (n,) and features of their observations, and notes.
    """

    files: ImageFiles
    split: str | None
    fold: np.ndarray
    features: Features
    notes: list[str]


def read_tree_data(request: IntensityModelRequest, progress: Callable[[str, int, int], None] | None = None) -> TreeData:
    """Read what was asked for.  Raises Sorry for what can't be used."""
    experiments, reflections, n_train = _paths(request)
    files = read_images(experiments, reflections, tree_image_choice(request), progress)
    images = files.images
    if request.train:
        split, fold = None, _fold_of_test(images, sum(files.sizes[:n_train]))
    else:
        split = choose_split(images) if request.split == "auto" else request.split
        try:
            fold = make_folds(images, split, request.n_folds, request.seed)
        except Unusable as error:
            raise Sorry(str(error)) from None
    measured, notes = {}, list(files.remarks)
    for name, column in (("scale", "inverse_scale_factor"), ("background", "background.mean")):
        if column in files.table:
            measured[name] = flumpy.to_numpy(files.table[column])[files.row]
    if request.reference:
        settings = reference_settings(request.reference_model)
        measured["f_calc"], notes_on_model = calculate_amplitudes(files, request.reference, settings, fold)
        notes += notes_on_model
    reciprocal = np.array(uctbx.unit_cell(files.cell).fractionalization_matrix()).reshape(3, 3).T
    return TreeData(files, split, fold, make_features(images, reciprocal, measured), notes)


def _paths(request: IntensityModelRequest) -> tuple[list[str], list[str], int]:
    """The .expt and the .refl files, and how many of the former are to be trained on, which come first."""
    given = bool(request.experiments or request.reflections)
    if bool(request.train) != bool(request.test):
        raise Sorry("train= and test= belong together: give both, or data sets alone to split them.")
    if bool(request.train) == given:
        raise Sorry("Data are needed: give train=FIRST.expt,FIRST.refl and test=..., or data sets alone to split them.")
    experiments, reflections = list(request.experiments), list(request.reflections)
    for name in (*request.train, *request.test):
        if name.endswith(EXPERIMENTS):
            experiments.append(name)
        elif name.endswith((".refl", ".pickle")):
            reflections.append(name)
        else:
            raise Sorry(f"{name} is neither an .expt nor a .refl file: check train= and test=.")
    return experiments, reflections, sum(name.endswith(EXPERIMENTS) for name in request.train)


def _fold_of_test(images: Images, first: int) -> np.ndarray:
    """The fold (n,): 0 of the experiments from the first one that is tested on, -1 of those before."""
    fold = np.where(images.experiment[images.image] >= first, 0, -1)
    if not (fold == 0).any() or (fold == 0).all():
        raise Sorry("Either the training or the test data have no usable observations: check the files.")
    if not np.isin(images.unique[fold == 0], images.unique[fold == -1]).any():
        raise Sorry("Training and test data have no reflections in common: check space group and resolution.")
    return fold


def calculate_amplitudes(
    files: ImageFiles, model: str, settings: ReferenceSettings, fold: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """|F_calc| (n,) of the observations, NaN where the model has none, and notes on how they came about."""
    images, n_unique = files.images, int(files.images.unique.max()) + 1
    symmetry = crystal.symmetry(unit_cell=files.cell, space_group=files.space_group)
    first = np.zeros(n_unique, dtype=np.int64)
    first[images.unique] = np.arange(len(images.h))
    indices = miller.set(symmetry, to_flex_miller(images.h[first]), anomalous_flag=False).map_to_asu()
    h = miller_indices_to_numpy(indices.indices())
    train = fold != 0 if (fold < 0).any() else np.ones(len(fold), dtype=bool)
    n = np.bincount(images.unique[train], minlength=n_unique)
    absent = flumpy.to_numpy(indices.sys_absent_flags().data())
    known = (n > 0) & ~absent
    mean = grouped_mean(images.intensity[train], images.unique[train], n_unique)[known]
    variance = np.bincount(images.unique[train], images.variance[train], n_unique)[known] / n[known] ** 2
    merged = index_array(h[known], symmetry, mean, np.sqrt(variance))
    wavelength = main_value(1.0 / np.linalg.norm(images.s0, axis=1))
    beam = Beam(wavelength, common_probe([experiment.beam for experiment in files.experiments], settings.radiation))
    d_min = float(images.d_star_sq.max() ** -0.5)
    opened = open_reference(model, settings, beam, d_min)
    reference = compute_reference(opened, settings, symmetry, merged, d_min)
    intensity = align(h, *reference.known())
    intensity[absent] = 0.0
    if not np.isfinite(intensity[~absent]).any():
        raise Sorry(f"No observed reflection is in {model}: check its resolution.")
    return np.sqrt(np.maximum(intensity, 0.0))[images.unique], list(reference.notes)


def make_prediction(data: TreeData, settings: TreeSettings) -> Prediction:
    """What the trees predict.  Raises Sorry where it can't be done."""
    try:
        return predict(data.files.images, data.features, data.fold, settings)
    except Unusable as error:
        raise Sorry(str(error)) from None


def predict_column(data: TreeData, column: str | None, settings: TreeSettings) -> Prediction | None:
    """The same with a column of integrated intensities in place of the scaled ones, None where there is none."""
    others = data.files.with_column(column) if column else None
    if others is None:
        return None
    images, kept = others
    try:
        return predict(images, data.features.select(kept), data.fold[kept], settings, importances=False)
    except Unusable:
        return None


def column_to_compare(table, wanted: str, intensity: str) -> str | None:
    """The column of integrated intensities for `auto`, or the one that is wanted; None where there is none."""
    if wanted == "none":
        return None
    candidates = ("profile", "sum") if wanted == "auto" else (wanted,)
    return next((kind for kind in candidates if kind != intensity and has_intensity(table, kind)), None)
