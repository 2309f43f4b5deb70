"""
Can intensities be predicted?  Gradient boosted trees learn amplitudes from some observations and predict others.

    F = sqrt(max(I, 0)),    R1 = sum |F - k F_p| / sum F,    k = sum F F_p / sum F_p^2

Four predictions F_p of an amplitude, none of which was trained on it:

    equivalents   the root of the mean intensity of its symmetry equivalents in the training set
    f_calc        |F_calc| of a model
    trees         trees of the features but F_calc, which minimise sum |F - F_p|
    both          trees of all features for r = F/|F_calc|, F_p = r |F_calc|, with weights |F_calc|: they minimise
                  the same

Training and test sets are experiments, or folds: each observation is predicted by what was trained on the other folds,
which are whole experiments, contiguous blocks of images, or unique indices (of which the training set has no
equivalents).  k is that of each experiment and prediction.  R1 of the predictions are over the same observations: those
for which all of them that exist have a value.  Errors are those of a ratio of sums over images,

    esd^2 = sum_m (n_m - R1 d_m)^2 / (sum_m d_m)^2,    n_m, d_m the sums of image m

The importance of a feature is how much R1 grows when its values are permuted among the test observations.

Gradient boosting is scikit-learn's HistGradientBoostingRegressor (Ke et al. 2017, LightGBM), imported late.  Who calls
limits it to one thread: scikit-learn 1.2 beside the OpenMP of cctbx may find leaves without observations, and what a
sum is does not depend on the number of threads then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dials_postrefine.electron.errors import Unusable
from dials_postrefine.electron.trees.features import Features
from dials_postrefine.numerics.amplitudes import amplitudes
from dials_postrefine.numerics.grouped import grouped_mean, rows_of_groups
from dials_postrefine.numerics.images import Images

PREDICTIONS = ("equivalents", "f_calc", "trees", "both")
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
    The predictions of n observations.

    Attributes
    ----------
    amplitude : ndarray, shape (n,)
        As observed.
    predicted : dict of str to ndarray, shape (n,)
        k F_p by name, of PREDICTIONS; NaN where there is none.
    fold : ndarray of int, shape (n,)
        -1 of what was not predicted.
    overall : dict of str to R1
    by_experiment : list of (int, dict of str to R1)
        Each experiment with predictions.
    gain : R1
        How much lower R1 of ``both`` is than that of ``f_calc``.
    importances : dict
        By the trees (``trees``, ``both``), of features by name, mean and standard deviation of the growth of R1.
    """

    amplitude: np.ndarray
    predicted: dict[str, np.ndarray]
    fold: np.ndarray
    overall: dict[str, R1]
    by_experiment: list[tuple[int, dict[str, R1]]]
    gain: R1
    importances: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The prediction that knows most: by the trees, with F_calc where there is a model."""
        return "both" if "both" in self.predicted else "trees"


def choose_split(images: Images) -> str:
    """
    The first split that there are two of: experiments, images, unique indices.

    Parameters
    ----------
    images : Images

    Returns
    -------
    str
        One of SPLITS but ``auto``.
    """
    images_used = np.unique(images.image)
    n_experiments = len(np.unique(images.experiment[images_used]))
    return "experiment" if n_experiments > 1 else "image_blocks" if len(images_used) > 1 else "unique"


def make_folds(images: Images, split: str, n_folds: int, seed: int = 0) -> np.ndarray:
    """
    The fold of each observation.

    Parameters
    ----------
    images : Images
        Of n observations.
    split : str
        One of SPLITS but ``auto``.
    n_folds : int
        How many at most: there are no more than experiments.
    seed : int
        Of the order in which unique indices are dealt out.

    Returns
    -------
    ndarray of int, shape (n,)

    Raises
    ------
    Unusable
        Where there are not two folds.
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
    fold: np.ndarray,
    settings: TreeSettings = TreeSettings(),
    importances: bool = True,
) -> Prediction:
    """
    Predict the observations of each fold from all others.

    Parameters
    ----------
    images : Images
        Of n observations.
    features : Features
        Of the same, with ``f_calc`` where there is a model.
    fold : ndarray of int, shape (n,)
        Observations of fold -1 are trained on only.
    settings : TreeSettings
    importances : bool
        Whether to permute the features.

    Returns
    -------
    Prediction

    Raises
    ------
    Unusable
        Where too few observations are left to train on, or none is above zero.
    """
    amplitude = amplitudes(images.intensity)
    if not amplitude.any():
        raise Unusable("No intensity is above zero: there are no amplitudes to predict.")
    predicted, trained = _predict_folds(images, features, amplitude, fold, settings)
    existing = [name for name in predicted if np.isfinite(predicted[name]).any()]
    rows = np.flatnonzero(np.all([np.isfinite(predicted[name]) for name in existing], axis=0))
    if not len(rows):
        raise Unusable("No observation has all predictions: training and test data have no reflections in common.")
    experiment, image = images.experiment[images.image], images.image
    scaled = {name: _scaled(amplitude, predicted[name], experiment) for name in existing}

    def r1(name: str, rows: np.ndarray) -> R1:
        if name not in existing:
            return R1(np.nan, np.nan, 0)
        return ratio_of_sums(np.abs(amplitude - scaled[name])[rows], amplitude[rows], image[rows])

    groups = rows_of_groups(experiment[rows], images.n_experiments)
    by_experiment = [
        (k, {name: r1(name, rows[group]) for name in predicted}) for k, group in enumerate(groups) if len(group)
    ]
    gain = R1(np.nan, np.nan, 0)
    if "both" in existing:
        better = np.abs(amplitude - scaled["f_calc"]) - np.abs(amplitude - scaled["both"])
        gain = ratio_of_sums(better[rows], amplitude[rows], image[rows])
    result = Prediction(amplitude, scaled, fold, {name: r1(name, rows) for name in predicted}, by_experiment, gain)
    if importances:
        result.importances = _importances(features, amplitude, trained, settings)
    return result


def _predict_folds(
    images: Images, features: Features, amplitude: np.ndarray, fold: np.ndarray, settings: TreeSettings
) -> tuple[dict[str, np.ndarray], list[tuple[np.ndarray, dict]]]:
    """The predictions (n,) by name, not scaled, and of each fold its rows and the trees that predict them."""
    names = [name for name in PREDICTIONS if features.has_f_calc or name not in ("f_calc", "both")]
    predicted = {name: np.full(len(fold), np.nan) for name in names}
    if features.has_f_calc:
        predicted["f_calc"] = np.where(fold >= 0, features.f_calc, np.nan)
    trained = []
    for k in range(fold.max() + 1):
        test, train = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        if not len(test):
            continue
        if len(train) < FEWEST_TRAINING:
            raise Unusable(
                f"Only {len(train)} observations are left to train on: give more data sets, or another split."
            )
        predicted["equivalents"][test] = mean_of_equivalents(images, train)[images.unique[test]]
        models = _train(features, amplitude, train, settings)
        for name, model in models.items():
            predicted[name][test] = _apply(name, model, features.select(test))
        trained.append((test, models))
    return predicted, trained


def mean_of_equivalents(images: Images, train: np.ndarray) -> np.ndarray:
    """
    The root of the mean intensity of the training observations of each unique index.

    Parameters
    ----------
    images : Images
    train : ndarray of int
        Which observations are trained on.

    Returns
    -------
    ndarray, shape (n_unique,)
        NaN of an index without any.
    """
    n_unique = int(images.unique.max()) + 1
    return amplitudes(grouped_mean(images.intensity[train], images.unique[train], n_unique))


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, image: np.ndarray) -> R1:
    """
    A ratio of sums with its esd from images (module docstring).

    Parameters
    ----------
    numerator, denominator : ndarray, shape (n,)
    image : ndarray of int, shape (n,)

    Returns
    -------
    R1
    """
    total = denominator.sum()
    if not len(image) or total <= 0.0:
        return R1(np.nan, np.nan, len(image))
    value = numerator.sum() / total
    by_image = np.bincount(image, numerator - value * denominator)
    return R1(float(value), float(np.sqrt(np.sum(by_image**2)) / total), len(image))


def _scaled(amplitude: np.ndarray, predicted: np.ndarray, experiment: np.ndarray) -> np.ndarray:
    """k F_p, with the k of each experiment."""
    known = np.isfinite(predicted)
    p = np.where(known, predicted, 0.0)
    products = np.bincount(experiment, np.where(known, amplitude, 0.0) * p)
    squares = np.bincount(experiment, p * p)
    k = np.divide(products, squares, out=np.ones_like(products), where=squares > 0.0)
    return k[experiment] * predicted


def _names(features: Features, trees: str) -> list[str]:
    """The names of the features that these trees take."""
    return [name for name in features.names if name != "f_calc" or trees == "both"]


def _train(features: Features, amplitude: np.ndarray, train: np.ndarray, settings: TreeSettings) -> dict:
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
        return model.fit(features.columns(_names(features, name))[rows], target, sample_weight=weight)

    models = {"trees": fit("trees", train, amplitude[train], None)}
    if features.has_f_calc:
        f_calc = features.f_calc
        rows = train[np.nan_to_num(f_calc[train]) > 0.0]
        if len(rows) < FEWEST_TRAINING:
            raise Unusable(f"The model has F_calc of {len(rows)} training observations only: check the model.")
        ratio = np.minimum(amplitude[rows] / f_calc[rows], LARGEST_RATIO)
        models["both"] = fit("both", rows, ratio, f_calc[rows])
    return models


def _apply(trees: str, model, features: Features, x: np.ndarray | None = None) -> np.ndarray:
    """F_p (n,) of these features; x (n, p): other values of what the trees take."""
    found = np.maximum(model.predict(features.columns(_names(features, trees)) if x is None else x), 0.0)
    return found * features.f_calc if trees == "both" else found


def _importances(features: Features, amplitude: np.ndarray, trained: list, settings: TreeSettings) -> dict:
    """By trees and feature, mean and standard deviation of the growth of R1 over permutations; none is scaled by k."""
    rng = np.random.default_rng(settings.seed)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for trees in trained[0][1]:
        names = _names(features, trees)
        group = features.group[np.isin(features.group, [features.names.index(name) for name in names])]
        total, before, after = 0.0, 0.0, np.zeros((len(names), settings.n_permutations))
        for test, models in trained:
            rows = test if trees == "trees" else test[np.isfinite(features.f_calc[test])]
            tested, observed = features.select(rows), amplitude[rows]
            x = tested.columns(names)
            total += observed.sum()
            before += np.abs(observed - _apply(trees, models[trees], tested, x)).sum()
            for i, name in enumerate(names):
                columns = group == features.names.index(name)
                for j in range(settings.n_permutations):
                    permuted = x.copy()
                    permuted[:, columns] = x[rng.permutation(len(rows))][:, columns]
                    after[i, j] += np.abs(observed - _apply(trees, models[trees], tested, permuted)).sum()
        growth = (after - before) / total
        spread = growth.std(axis=1, ddof=1) if settings.n_permutations > 1 else np.full(len(names), np.nan)
        found[trees] = {name: (float(m), float(s)) for name, m, s in zip(names, growth.mean(axis=1), spread)}
    return found
