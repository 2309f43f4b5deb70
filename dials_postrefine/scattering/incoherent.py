"""
What atoms scatter that have nothing to do with each other: f^2 and, by Compton's effect, S, electrons^2 an atom.

S is that of Hubbell, Veigele, Briggs, Brown, Cromer & Howerton, J. Phys. Chem. Ref. Data 1975, 4, 471 (cctbx has no
such table; these values are read from xraylib 4, at x = sin(theta)/lambda).  Between them it is a monotonic cubic of
ln x, below the first it goes as x^2, and Z - S as 1/x^2 from the last one on; so S is 0 at 0 and Z in the end.  Of
photons that are counted, S is less by Breit and Dirac's factor (1 + 2 (h/mc) lambda x^2)^-2.  f is cctbx's wk1995
without dispersion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

COMPTON = 0.0242631  # h/mc, Angstrom
X = (0.02, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0)
# S at X, electrons.
TABLE = {
    "H": (0.01749, 0.1033, 0.2144, 0.3426, 0.5887, 0.7688, 0.8777, 0.9369, 0.983, 0.995, 0.9984, 0.9998, 1, 1, 1),
    "C": (0.05164, 0.3086, 0.6418, 1.039, 1.866, 2.604, 3.198, 3.643, 4.184, 4.478, 4.69, 5.051, 5.348, 5.781, 5.93),
    "N": (0.0517, 0.31, 0.6565, 1.08, 2.003, 2.858, 3.559, 4.097, 4.792, 5.182, 5.437, 5.809, 6.113, 6.63, 6.86),
    "O": (0.0448, 0.271, 0.5837, 0.977, 1.885, 2.799, 3.614, 4.293, 5.257, 5.828, 6.175, 6.596, 6.901, 7.462, 7.764),
    "F": (0.0397, 0.242, 0.5249, 0.888, 1.761, 2.691, 3.569, 4.347, 5.552, 6.339, 6.832, 7.376, 7.703, 8.288, 8.648),
    "Na": (0.1378, 0.674, 1.133, 1.503, 2.16, 2.891, 3.667, 4.431, 5.804, 6.903, 7.724, 8.729, 9.252, 9.939, 10.38),
    "Mg": (0.1572, 0.831, 1.501, 2.066, 2.829, 3.444, 4.096, 4.771, 6.064, 7.181, 8.086, 9.304, 9.975, 10.77, 11.23),
    "Si": (0.1391, 0.782, 1.527, 2.293, 3.587, 4.52, 5.218, 5.808, 6.903, 7.937, 8.867, 10.33, 11.29, 12.41, 12.94),
    "P": (0.1256, 0.719, 1.435, 2.206, 3.611, 4.732, 5.611, 6.312, 7.435, 8.419, 9.323, 10.83, 11.89, 13.21, 13.79),
    "S": (0.1142, 0.666, 1.363, 2.151, 3.68, 4.96, 5.984, 6.795, 8.002, 8.96, 9.829, 11.34, 12.47, 13.99, 14.64),
    "Cl": (0.1043, 0.617, 1.283, 2.065, 3.665, 5.074, 6.239, 7.182, 8.553, 9.539, 10.38, 11.87, 13.05, 14.75, 15.49),
    "K": (0.2378, 1.105, 1.83, 2.5, 3.905, 5.301, 6.555, 7.652, 9.405, 10.65, 11.57, 13.01, 14.22, 16.21, 17.15),
    "Ca": (0.2781, 1.375, 2.334, 3.105, 4.401, 5.69, 6.899, 7.981, 9.79, 11.16, 12.16, 13.63, 14.83, 16.92, 17.97),
    "Mn": (0.2047, 1.104, 2.056, 2.949, 4.435, 5.791, 7.122, 8.38, 10.6, 12.49, 14.06, 16.38, 17.91, 20.41, 21.94),
    "Fe": (0.1947, 1.06, 1.995, 2.891, 4.405, 5.781, 7.138, 8.432, 10.73, 12.69, 14.34, 16.83, 18.49, 21.1, 22.7),
    "Co": (0.1856, 1.019, 1.936, 2.832, 4.369, 5.764, 7.143, 8.469, 10.84, 12.87, 14.6, 17.25, 19.04, 21.78, 23.46),
    "Ni": (0.1774, 0.981, 1.879, 2.772, 4.322, 5.726, 7.115, 8.461, 10.89, 12.98, 14.78, 17.6, 19.54, 22.45, 24.21),
    "Cu": (0.143, 0.796, 1.55, 2.348, 3.919, 5.455, 6.931, 8.31, 10.78, 12.94, 14.85, 17.89, 20, 23.11, 24.96),
    "Zn": (0.1631, 0.912, 1.774, 2.654, 4.22, 5.631, 7.024, 8.388, 10.9, 13.09, 15.02, 18.16, 20.43, 23.75, 25.68),
    "Se": (0.1517, 0.879, 1.784, 2.799, 4.794, 6.589, 8.186, 9.601, 12.03, 14.17, 16.1, 19.39, 22, 26.17, 28.5),
    "Br": (0.1445, 0.846, 1.742, 2.771, 4.851, 6.748, 8.443, 9.94, 12.44, 14.55, 16.46, 19.75, 22.4, 26.75, 29.19),
    "I": (0.2128, 1.23, 2.491, 3.903, 6.709, 9.287, 11.58, 13.56, 16.88, 19.78, 22.47, 27.27, 31.06, 37.02, 40.83),
}


def parse_composition(text: str) -> dict[str, float]:
    """
    The atoms that a text names.

    Parameters
    ----------
    text : str
        Such as "C3 H7 N O2 S".

    Returns
    -------
    dict of str to float
        Numbers by element.

    Raises
    ------
    ValueError
        Which says what is wrong.
    """
    found: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        match = re.fullmatch(r"([A-Za-z]{1,2})([0-9.]*)", word)
        element = match.group(1).capitalize() if match else word
        if element not in TABLE:
            raise ValueError(f"{word} is no element with its number, of {', '.join(TABLE)}")
        number = float(match.group(2) or 1.0)
        if not number > 0.0:
            raise ValueError(f"of {element} there must be some")
        found[element] = found.get(element, 0.0) + number
    if not found:
        raise ValueError("it names no element")
    return found


def incoherent(element: str, x: np.ndarray) -> np.ndarray:
    """
    S of an element.

    Parameters
    ----------
    element : str
    x : ndarray (n,)
        sin(theta)/lambda, 1/Angstrom.

    Returns
    -------
    ndarray (n,)
        Electrons^2.
    """
    from scipy.interpolate import PchipInterpolator

    from cctbx.eltbx import tiny_pse

    known, values = np.array(X), np.array(TABLE[element])
    left = max(tiny_pse.table(element).atomic_number() - values[-1], 0.0)
    between = PchipInterpolator(np.log(known), values)(np.log(np.clip(x, known[0], known[-1])))
    below = np.minimum(x / known[0], 1.0) ** 2
    return below * between + left * (1.0 - (known[-1] / np.maximum(x, known[-1])) ** 2)


def independent_scattering(
    composition: Mapping[str, float], s: np.ndarray, wavelength: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    What independent atoms scatter.

    Parameters
    ----------
    composition : mapping
        Of elements to their numbers.
    s : ndarray (n,)
        1/d, 1/Angstrom.
    wavelength : float
        Angstrom.

    Returns
    -------
    coherent, incoherent : ndarray (n,)
        Electrons^2 of all atoms together.
    """
    from cctbx.eltbx import xray_scattering

    x = 0.5 * s
    f_squared, compton = np.zeros_like(x), np.zeros_like(x)
    for element, number in composition.items():
        gaussian = xray_scattering.wk1995(element, True).fetch()
        f_squared += number * np.array([gaussian.at_stol(float(one)) for one in x]) ** 2
        compton += number * incoherent(element, x)
    return f_squared, compton / (1.0 + 2.0 * COMPTON * wavelength * x * x) ** 2
