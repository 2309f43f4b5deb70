"""
Data sets and an atomic model -> what electron/trees/intensitymodel.py learns from, and its predictions -> a table.

|F_calc| come from the machinery of reference intensities (reference_model.py), on the scale of the mean intensities of
the training data, or of all where these are split into folds; systematic absences have zero.  The predicted intensity
goes into the column intensity.model.value, which is to be divided by inverse_scale_factor as intensity.scale.value is;
it is 0 where nothing was predicted, as intensity.ref.value is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, miller, uctbx
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.electron.spread.images import Unusable
from dials_postrefine.electron.trees.features import Features, make_features
from dials_postrefine.electron.trees.intensitymodel import Prediction, TreeSettings, choose_split, make_folds, predict
from dials_postrefine.files.dials.radiation import common_probe
from dials_postrefine.files.dials.tables import select_rows, write_table
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.electron.scaled_images import ImageChoice, ImageFiles, has_intensity, read_images
from dials_postrefine.files.reference.alignment import align
from dials_postrefine.files.reference.reflection_files import index_array
from dials_postrefine.numerics.grouped import grouped_mean
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.numerics.populations import main_value
from dials_postrefine.programs.reference_model import Beam, ReferenceSettings, compute_reference, open_reference


@dataclass(frozen=True)
class ModelRequest:
    """
    Files to train on and to test on, .expt and .refl, or in place of both those for folds by split and n_folds; how
    they are read; a model with its settings; the trees; with which column of integrated intensities to compare, None:
    none.
    """

    train: Sequence[str]
    test: Sequence[str]
    experiments: Sequence[str]
    reflections: Sequence[str]
    choice: ImageChoice
    model: str | None
    reference: ReferenceSettings
    split: str
    n_folds: int
    trees: TreeSettings
    compare: str | None


@dataclass
class ModelData:
    """
    The files, how they were split (None: by train and test), fold (n,) and features of their observations, f_calc (n,)
    or None, and notes.
    """

    files: ImageFiles
    split: str | None
    fold: np.ndarray
    features: Features
    f_calc: np.ndarray | None
    notes: list[str]


def read_model_data(request: ModelRequest, progress: Callable[[str, int, int], None] | None = None) -> ModelData:
    """Read what was asked for.  Raises Sorry for what can't be used."""
    given = bool(request.experiments or request.reflections)
    if bool(request.train) != bool(request.test):
        raise Sorry("train= and test= belong together: give both, or data sets alone to split them.")
    if bool(request.train) == given:
        raise Sorry("Data are needed: give train=FIRST.expt,FIRST.refl and test=..., or data sets alone to split them.")
    experiments, reflections = list(request.experiments), list(request.reflections)
    n_train = 0
    for number, names in enumerate((request.train, request.test)):
        for name in names:
            if name.endswith((".expt", ".json")):
                experiments.append(name)
                n_train += number == 0
            elif name.endswith((".refl", ".pickle")):
                reflections.append(name)
            else:
                raise Sorry(f"{name} is neither an .expt nor a .refl file: check train= and test=.")
    files = read_images(experiments, reflections, request.choice, progress)
    images = files.images
    split = None
    if request.train:
        first_test = sum(files.sizes[:n_train])
        fold = np.where(images.experiment[images.image] >= first_test, 0, -1)
        if not (fold == 0).any() or (fold == 0).all():
            raise Sorry("Either the training or the test data have no usable observations: check the files.")
    else:
        split = choose_split(images) if request.split == "auto" else request.split
        try:
            fold = make_folds(images, split, request.n_folds, request.trees.seed)
        except Unusable as error:
            raise Sorry(str(error)) from None
    if request.train and not np.isin(images.unique[fold == 0], images.unique[fold == -1]).any():
        raise Sorry("Training and test data have no reflections in common: check space group and resolution.")
    f_calc, notes = None, list(files.remarks)
    if request.model:
        f_calc, of_model = calculate_amplitudes(files, request.model, request.reference, fold)
        notes += of_model
    table = files.table
    scale = flumpy.to_numpy(table["inverse_scale_factor"])[files.row] if "inverse_scale_factor" in table else None
    background = flumpy.to_numpy(table["background.mean"])[files.row] if "background.mean" in table else None
    reciprocal = np.array(uctbx.unit_cell(files.cell).fractionalization_matrix()).reshape(3, 3).T
    features = make_features(images, reciprocal, scale, background, f_calc)
    return ModelData(files, split, fold, features, f_calc, notes)


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


def make_prediction(data: ModelData, settings: TreeSettings) -> Prediction:
    """What the trees predict.  Raises Sorry where it can't be done."""
    try:
        return predict(data.files.images, data.features, data.f_calc, data.fold, settings)
    except Unusable as error:
        raise Sorry(str(error)) from None


def predict_column(data: ModelData, column: str | None, settings: TreeSettings) -> Prediction | None:
    """The same with a column of integrated intensities in place of the scaled ones, None where there is none."""
    others = data.files.of_column(column) if column else None
    if others is None:
        return None
    images, kept = others
    features = Features(
        data.features.values[kept], data.features.group, data.features.names, data.features.representative[kept]
    )
    f_calc = None if data.f_calc is None else data.f_calc[kept]
    try:
        return predict(images, features, f_calc, data.fold[kept], settings, importances=False)
    except Unusable:
        return None


def column_to_compare(table, wanted: str, intensity: str) -> str | None:
    """The column of integrated intensities for `auto`, or the one that is wanted; None where there is none."""
    if wanted == "none":
        return None
    candidates = ("profile", "sum") if wanted == "auto" else (wanted,)
    return next((kind for kind in candidates if kind != intensity and has_intensity(table, kind)), None)


def write_predictions(data: ModelData, prediction: Prediction, experiments: str, reflections: str) -> None:
    """Write the experiments that were tested and their reflections, with intensity.model.value (module docstring)."""
    files, table = data.files, data.files.table
    name = prediction.best
    value = np.zeros(len(table))
    value[files.row] = np.nan_to_num(prediction.predicted[name] ** 2)
    if "inverse_scale_factor" in table:
        value *= flumpy.to_numpy(table["inverse_scale_factor"])
    tested = np.unique(files.images.experiment[files.images.image[data.fold >= 0]])
    written = np.isin(flumpy.to_numpy(table["id"]), tested)
    table = select_rows(table, flumpy.from_numpy(written))
    table["intensity.model.value"] = flumpy.from_numpy(value[written])
    table.reset_ids()
    write_table(table, reflections)
    chosen = files.experiments[int(tested[0]) : int(tested[0]) + 1]
    for k in tested[1:]:
        chosen.append(files.experiments[int(k)])
    chosen.as_file(experiments)
