"""
Can intensities be predicted?  Gradient boosted trees learn amplitudes from some observations and predict others.

    F = sqrt(max(I, 0)),    R1 = sum |F - k F_p| / sum F,    k = sum F F_p / sum F_p^2

Four predictions F_p of an amplitude, none of which has seen it:

    mates     the root of the mean intensity of its symmetry mates in the training set
    f_calc    |F_calc| of a model
    trees     trees of the features but F_calc, which minimise sum |F - F_p|
    both      trees of all features for r = F/|F_calc|, F_p = r |F_calc|, with weights |F_calc|: they minimise the same

Training and test sets are experiments, or folds: each observation is predicted by what was trained on the other folds,
which are whole experiments, contiguous blocks of images, or unique indices (of which the training set has no mates).
k is that of each experiment and prediction.  R1 of the predictions are over the same observations: those for which all
of them that exist have a value.  Errors are those of a ratio of sums over images,

    esd^2 = sum_m (n_m - R1 d_m)^2 / (sum_m d_m)^2,    n_m, d_m the sums of image m

The importance of a feature is how much R1 grows when its values are permuted among the test observations.

Gradient boosting is scikit-learn's HistGradientBoostingRegressor (Ke et al. 2017, LightGBM), imported late.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dials_postrefine.electron.spread.images import Images, Unusable
from dials_postrefine.electron.trees.features import Features
from dials_postrefine.executors.processes import single_thread
from dials_postrefine.numerics.amplitudes import amplitudes
from dials_postrefine.numerics.grouped import grouped_mean, rows_of_groups

PREDICTIONS = ("mates", "f_calc", "trees", "both")
SPLITS = ("auto", "experiment", "image_blocks", "unique")
FEWEST_TRAINING = 30  # observations
LARGEST_RATIO = 20.0  # of F/|F_calc|


@dataclass(frozen=True)
class TreeSettings:
    """Of the trees: how many, how fast they learn, how few observations a leaf has; seed; permutations a feature."""

    max_iter: int = 100
    learning_rate: float = 0.05
    min_samples_leaf: int = 5
    seed: int = 0
    n_permutations: int = 5


@dataclass
class R1:
    """R1 of a prediction with its esd over n observations, NaN without any."""

    value: float
    esd: float
    n: int


@dataclass
class Prediction:
    """
    amplitude (n,) that was observed, predicted by name (n,), NaN where there is none, fold (n,), -1: not predicted;
    overall R1 by name; of_experiments: for each experiment with predictions its number and R1 by name; gain: how much
    lower R1 of `both` is than that of `f_calc`, and importances: by the trees that are named ("trees", "both"), of
    features by name, the mean and standard deviation of the growth of R1.
    """

    amplitude: np.ndarray
    predicted: dict[str, np.ndarray]
    fold: np.ndarray
    overall: dict[str, R1]
    of_experiments: list[tuple[int, dict[str, R1]]]
    gain: R1
    importances: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The prediction that has seen most: by the trees, with F_calc where there are any."""
        return "both" if "both" in self.predicted else "trees"


def choose_split(images: Images) -> str:
    """By experiments where there are two, else by images where there are two, else by unique indices."""
    images_used = np.unique(images.image)
    n_experiments = len(np.unique(images.experiment[images_used]))
    return "experiment" if n_experiments > 1 else "image_blocks" if len(images_used) > 1 else "unique"


def make_folds(images: Images, split: str, n_folds: int, seed: int = 0) -> np.ndarray:
    """
    The fold (n,) of each observation; split: of SPLITS but "auto".

    Raises Unusable where there are not two.
    """
    if split == "experiment":
        fold = np.unique(images.experiment[images.image], return_inverse=True)[1].ravel()
        n = fold.max() + 1
        fold = fold if n <= n_folds else fold * n_folds // n
    elif split == "image_blocks":
        used = np.unique(images.image)
        fold = np.searchsorted(used, images.image) * n_folds // len(used)
    else:
        unique, number = np.unique(images.unique, return_inverse=True)
        order = np.random.default_rng(seed).permutation(len(unique))
        fold = order[number.ravel()] % n_folds
    if fold.max() < 1:
        raise Unusable(f"split={split} leaves nothing to train on: there is one {split.rstrip('s')} only.")
    return fold


def predict(
    images: Images,
    features: Features,
    f_calc: np.ndarray | None,
    fold: np.ndarray,
    settings: TreeSettings = TreeSettings(),
    importances: bool = True,
) -> Prediction:
    """
    Predict the observations of each fold (n,) >= 0 from all others; those of fold -1 are trained on only.

    f_calc (n,), NaN where unknown.  One thread does it all: scikit-learn 1.2 beside the OpenMP of cctbx may find leaves
    without observations, and what a sum is does not depend on the number of threads then.
    Raises Unusable where too few observations are left to train on, or none is above zero.
    """
    import sklearn.ensemble  # noqa: F401 - loads the library whose threads are limited

    with single_thread():
        return _predict(images, features, f_calc, fold, settings, importances)


def _predict(images, features, f_calc, fold, settings, importances) -> Prediction:
    amplitude = amplitudes(images.intensity)
    if not amplitude.any():
        raise Unusable("No intensity is above zero: there are no amplitudes to predict.")
    predicted = {name: np.full(len(fold), np.nan) for name in PREDICTIONS if f_calc is not None or name != "both"}
    if f_calc is None:
        del predicted["f_calc"]
    else:
        predicted["f_calc"] = np.where(fold >= 0, f_calc, np.nan)
    trained = []
    for k in range(fold.max() + 1):
        test, train = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        if not len(test):
            continue
        if len(train) < FEWEST_TRAINING:
            raise Unusable(
                f"Only {len(train)} observations are left to train on: give more data sets, or another split."
            )
        predicted["mates"][test] = mean_of_mates(images, train)[images.unique[test]]
        models = _train(features, amplitude, f_calc, train, settings)
        for name, model in models.items():
            predicted[name][test] = _apply(name, model, features, f_calc, test)
        trained.append((test, models))
    existing = [name for name in predicted if np.isfinite(predicted[name]).any()]
    rows = np.flatnonzero(np.all([np.isfinite(predicted[name]) for name in existing], axis=0))
    if not len(rows):
        raise Unusable("No observation has all predictions: training and test data have no reflections in common.")
    of_row = images.experiment[images.image]
    scaled = {name: _scaled(amplitude, predicted[name], of_row) for name in existing}
    image = images.image

    def r1(name: str, own: np.ndarray) -> R1:
        if name not in existing:
            return R1(np.nan, np.nan, 0)
        return ratio_of_sums(np.abs(amplitude - scaled[name])[own], amplitude[own], image[own])

    groups = [(k, rows[own]) for k, own in enumerate(rows_of_groups(of_row[rows], images.n_experiments)) if len(own)]
    of_experiments = [(k, {name: r1(name, own) for name in predicted}) for k, own in groups]
    gain = R1(np.nan, np.nan, 0)
    if "both" in existing:
        better = np.abs(amplitude - scaled["f_calc"]) - np.abs(amplitude - scaled["both"])
        gain = ratio_of_sums(better[rows], amplitude[rows], image[rows])
    result = Prediction(amplitude, scaled, fold, {name: r1(name, rows) for name in predicted}, of_experiments, gain)
    if importances:
        result.importances = _importances(features, amplitude, f_calc, trained, settings)
    return result


def mean_of_mates(images: Images, train: np.ndarray) -> np.ndarray:
    """The root of the mean intensity of the training rows of each unique index, (n_unique,); NaN without any."""
    n_unique = int(images.unique.max()) + 1
    return amplitudes(grouped_mean(images.intensity[train], images.unique[train], n_unique))


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, image: np.ndarray) -> R1:
    """sum numerator/sum denominator with its esd from images (module docstring)."""
    total = denominator.sum()
    if not len(image) or total <= 0.0:
        return R1(np.nan, np.nan, len(image))
    value = numerator.sum() / total
    of_image = np.bincount(image, numerator - value * denominator)
    return R1(float(value), float(np.sqrt(np.sum(of_image**2)) / total), len(image))


def _scaled(amplitude: np.ndarray, predicted: np.ndarray, experiment: np.ndarray) -> np.ndarray:
    """k F_p, with the k of each experiment."""
    known = np.isfinite(predicted)
    p = np.where(known, predicted, 0.0)
    products = np.bincount(experiment, np.where(known, amplitude, 0.0) * p)
    squares = np.bincount(experiment, p * p)
    k = np.divide(products, squares, out=np.ones_like(products), where=squares > 0.0)
    return k[experiment] * predicted


def _names(features: Features, name: str) -> list[str]:
    return [one for one in features.names if one != "f_calc" or name == "both"]


def _train(features: Features, amplitude: np.ndarray, f_calc, train: np.ndarray, settings: TreeSettings) -> dict:
    from sklearn.ensemble import HistGradientBoostingRegressor

    def fit(name: str, rows: np.ndarray, target: np.ndarray, weight: np.ndarray | None):
        model = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=settings.max_iter,
            learning_rate=settings.learning_rate,
            min_samples_leaf=settings.min_samples_leaf,
            early_stopping=False,
            random_state=settings.seed,
        )
        return model.fit(features.of(_names(features, name))[rows], target, sample_weight=weight)

    models = {"trees": fit("trees", train, amplitude[train], None)}
    if f_calc is not None:
        rows = train[np.nan_to_num(f_calc[train]) > 0.0]
        if len(rows) < FEWEST_TRAINING:
            raise Unusable(f"The model has F_calc of {len(rows)} training observations only: check the model.")
        ratio = np.minimum(amplitude[rows] / f_calc[rows], LARGEST_RATIO)
        models["both"] = fit("both", rows, ratio, f_calc[rows])
    return models


def _apply(name: str, model, features: Features, f_calc, rows: np.ndarray, values: np.ndarray | None = None):
    x = features.of(_names(features, name))[rows] if values is None else values
    found = np.maximum(model.predict(x), 0.0)
    return found * f_calc[rows] if name == "both" else found


def _importances(features: Features, amplitude, f_calc, trained, settings: TreeSettings) -> dict:
    """By trees and feature, mean and standard deviation of the growth of R1 over permutations; none is scaled by k."""
    rng = np.random.default_rng(settings.seed)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in trained[0][1]:
        names = _names(features, name)
        group = features.group[np.isin(features.group, [features.names.index(one) for one in names])]
        total, before, after = 0.0, 0.0, np.zeros((len(names), settings.n_permutations))
        for test, models in trained:
            rows = test if name == "trees" else test[np.isfinite(f_calc[test])]
            x = features.of(names)[rows]
            total += amplitude[rows].sum()
            before += np.abs(amplitude[rows] - _apply(name, models[name], features, f_calc, rows, x)).sum()
            for i, one in enumerate(names):
                columns = group == features.names.index(one)
                for j in range(settings.n_permutations):
                    permuted = x.copy()
                    permuted[:, columns] = x[rng.permutation(len(rows))][:, columns]
                    value = _apply(name, models[name], features, f_calc, rows, permuted)
                    after[i, j] += np.abs(amplitude[rows] - value).sum()
        growth = (after - before) / total
        spread = growth.std(axis=1, ddof=1) if settings.n_permutations > 1 else np.full(len(names), np.nan)
        found[name] = {one: (float(m), float(s)) for one, m, s in zip(names, growth.mean(axis=1), spread)}
    return found
