"""
Rotations about the laboratory x axis and then about y, and their derivatives:

    A = R(theta_x, theta_y) A_ref,    R = R_y(theta_y) R_x(theta_x),

right-handed, angles in radians.  One rotation comes from scitbx.matrix, so that it is what the rest of cctbx uses; for
many at once the same matrices are written out, and a test holds the two together.
"""

from __future__ import annotations

import math

import numpy as np

from scitbx import matrix

X_AXIS = matrix.col((1.0, 0.0, 0.0))
Y_AXIS = matrix.col((0.0, 1.0, 0.0))


def _as_array(m) -> np.ndarray:
    return np.array(m.elems).reshape(3, 3)


def rotate(theta_x: float, theta_y: float) -> np.ndarray:
    """
    R = R_y(theta_y) R_x(theta_x).

    Parameters
    ----------
    theta_x, theta_y : float
        Radians.

    Returns
    -------
    ndarray, shape (3, 3)
    """
    return _as_array(Y_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_y)) @ _as_array(
        X_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_x)
    )


def rotate_with_derivatives(theta_x: float, theta_y: float) -> np.ndarray:
    """
    R, dR/dtheta_x = R_y (dR_x/dtheta_x) and dR/dtheta_y = (dR_y/dtheta_y) R_x.

    Parameters
    ----------
    theta_x, theta_y : float
        Radians.

    Returns
    -------
    ndarray, shape (3, 3, 3)
        The three matrices, stacked.
    """
    r_x = _as_array(X_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_x))
    r_y = _as_array(Y_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_y))
    d_x = _as_array(X_AXIS.axis_and_angle_as_r3_derivative_wrt_angle(theta_x))
    d_y = _as_array(Y_AXIS.axis_and_angle_as_r3_derivative_wrt_angle(theta_y))
    return np.stack((r_y @ r_x, r_y @ d_x, d_y @ r_x))


def rotate_many_with_derivatives(theta_x: np.ndarray, theta_y: np.ndarray) -> np.ndarray:
    """
    The same for n pairs of angles.

    Parameters
    ----------
    theta_x, theta_y : ndarray, shape (n,)
        Radians.

    Returns
    -------
    ndarray, shape (n, 3, 3, 3)
        The three matrices of each.
    """
    # math and not numpy, whose sines differ in the last digit from run to run, by where the array lies in memory
    cos_x, sin_x, cos_y, sin_y = (
        np.array([function(angle) for angle in theta])
        for theta in (theta_x.tolist(), theta_y.tolist())
        for function in (math.cos, math.sin)
    )
    zero, one = np.zeros_like(cos_x), np.ones_like(cos_x)

    def about_x(c, s, unit):
        return np.moveaxis(np.array([[unit, zero, zero], [zero, c, -s], [zero, s, c]]), 2, 0)

    def about_y(c, s, unit):
        return np.moveaxis(np.array([[c, zero, s], [zero, unit, zero], [-s, zero, c]]), 2, 0)

    r_x = about_x(cos_x, sin_x, one)
    d_x = about_x(-sin_x, cos_x, zero)
    r_y = about_y(cos_y, sin_y, one)
    d_y = about_y(-sin_y, cos_y, zero)
    return np.stack((r_y @ r_x, r_y @ d_x, d_y @ r_x), axis=1)
