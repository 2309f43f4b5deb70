"""Arrays by name from files (.npz, .h5, .json); of .npy, .mrc and .tif (first page) one, data, or image where flat."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np

from dials.util import Sorry

KINDS = ".npz, .npy, .h5, .hdf5, .mrc, .tif, .tiff or .json"


def read_named_arrays(path: str) -> dict:
    """The arrays of a file by name.  Raises Sorry where it is missing, damaged or of another kind."""
    if not os.path.isfile(path):
        raise Sorry(f"The pattern {path} does not exist: check the name.")
    ending = os.path.splitext(path)[1].lower()
    reader = {
        ".npz": _npz,
        ".npy": _npy,
        ".h5": _hdf5,
        ".hdf5": _hdf5,
        ".nxs": _hdf5,
        ".mrc": _mrc,
        ".tif": _tiff,
        ".tiff": _tiff,
        ".json": _json,
    }.get(ending)
    if reader is None:
        raise Sorry(f"{path} is no pattern: give arrays as {KINDS}.")
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise Sorry(
            f"{path} can't be read ({text or type(error).__name__}): it is damaged, or no {ending} file."
        ) from None


def _npz(path: str) -> dict:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _npy(path: str) -> dict:
    return _one(np.load(path, allow_pickle=False))


def _hdf5(path: str) -> dict:
    import h5py

    found = {}
    with h5py.File(path, "r") as file:

        def take(name, item):
            if isinstance(item, h5py.Dataset):
                value = item[()]
                found[name.rpartition("/")[2]] = value.decode() if isinstance(value, bytes) else value

        file.visititems(take)
        found.update({name: value for name, value in file.attrs.items() if name not in found})
    return found


def _mrc(path: str) -> dict:
    import mrcfile

    with mrcfile.open(path, permissive=False) as file:
        return _one(np.array(file.data))


def _tiff(path: str) -> dict:
    from matplotlib.image import imread

    return _one(np.array(imread(path)))


def _json(path: str) -> dict:
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    return {name: value if isinstance(value, (dict, str)) else np.array(value) for name, value in values.items()}


def _one(array: np.ndarray) -> dict:
    return {"image" if array.ndim == 2 else "data": array}
