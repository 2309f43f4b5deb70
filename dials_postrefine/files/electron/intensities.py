"""
The intensities of a reflection table on one scale, and their variances.

    intensity_choice=scale     I = intensity.scale.value/g,  g = inverse_scale_factor
    profile, sum        the column as it is: the INTEGRATED value, also in a table that dials.scale has written

and the variance that goes with it: of scaled intensities by default that of the counts, as intensity.scale.variance has
the error model in it, in other words the spread that is to be measured:

    v = [w v_prf c^2 + (1 - w) v_sum (c/p)^2]/g^2,  c = lp/qe;   I_scale = w I_prf c + (1 - w) I_sum c/p

dials.scale takes profile or summed intensities, or mixes them by w (Evans, Acta Cryst. 2006, D62, 72); which it was is
seen from the values themselves.
"""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy

from dials_postrefine.files.dials.integrated import LARGEST
from dials_postrefine.numerics.images import COLUMNS


def has_intensity(table, kind: str) -> bool:
    """Whether the table has intensities of a kind of COLUMNS, with their variances."""
    return all(f"{COLUMNS[kind]}.{what}" in table for what in ("value", "variance"))


def are_usable(intensity: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Which intensities and variances (n,) are numbers, with a variance above zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.isfinite(intensity) & np.isfinite(variance) & (variance > 0.0) & (np.abs(intensity) < LARGEST)


def intensities(table, kind: str, variance: str = "counting") -> tuple[np.ndarray, np.ndarray]:
    """Intensities and variances (n,) of all rows (module docstring), not finite where there are none."""
    value = flumpy.to_numpy(table[f"{COLUMNS[kind]}.value"])
    of_value = flumpy.to_numpy(table[f"{COLUMNS[kind]}.variance"])
    if kind != "scale":
        return value, of_value
    scale = flumpy.to_numpy(table["inverse_scale_factor"])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = np.where(scale > 0.0, scale, np.nan)
        v = counting_variance(table, value) if variance == "counting" else of_value
        return value / scale, v / scale**2


def counting_variance(table, value: np.ndarray) -> np.ndarray:
    """The variance of the counts (n,), of intensity.scale.value (n,) before the scale factor (module docstring)."""
    known = {name: flumpy.to_numpy(table[name]) for name in ("lp", "qe", "dqe", "partiality") if name in table}
    c = known.get("lp", 1.0) / known.get("qe", known.get("dqe", 1.0))
    factor = {"profile": c, "sum": c / known.get("partiality", 1.0)}
    integrated = {}
    for kind, f in factor.items():
        if has_intensity(table, kind):
            i, v = (flumpy.to_numpy(table[f"{COLUMNS[kind]}.{what}"]) for what in ("value", "variance"))
            integrated[kind] = i * f, np.where(v > 0.0, v, np.nan) * f**2
    if len(integrated) == 1:
        return next(iter(integrated.values()))[1]
    (i_prf, v_prf), (i_sum, v_sum) = integrated["profile"], integrated["sum"]
    w = np.divide(value - i_sum, i_prf - i_sum, out=np.full(len(value), 0.5), where=i_prf != i_sum)
    w = np.where(np.isnan(v_prf), 0.0, np.where(np.isnan(v_sum), 1.0, np.clip(w, 0.0, 1.0)))
    return np.where(w > 0.0, w * v_prf, 0.0) + np.where(w < 1.0, (1.0 - w) * v_sum, 0.0)
