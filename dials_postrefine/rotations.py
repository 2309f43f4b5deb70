"""
Rotations of a crystal and their derivatives, from scitbx.

A misoriented lattice is the indexed one turned about the laboratory x axis and then about y:

    A = R(theta_x, theta_y) A_ref,    R = R_y(theta_y) R_x(theta_x),

right-handed, angles in radians.  This is the one room outside `files/` and `stills/minimise.py` that knows scitbx: the
rotation matrices must be those that the rest of cctbx uses, while `stills/` and `electron/` see arrays only.
"""

from __future__ import annotations

import numpy as np

from scitbx import matrix

X_AXIS = matrix.col((1.0, 0.0, 0.0))
Y_AXIS = matrix.col((0.0, 1.0, 0.0))


def _as_array(m) -> np.ndarray:
    return np.array(m.elems).reshape(3, 3)


def rotate(theta_x: float, theta_y: float) -> np.ndarray:
    """R = R_y(theta_y) R_x(theta_x), shape (3, 3); angles in radians (postrefinement.md, Model)."""
    return _as_array(Y_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_y)) @ _as_array(
        X_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_x)
    )


def rotate_with_derivatives(theta_x: float, theta_y: float) -> np.ndarray:
    """
    R, dR/dtheta_x = R_y (dR_x/dtheta_x) and dR/dtheta_y = (dR_y/dtheta_y) R_x, stacked: shape (3, 3, 3).

    Angles in radians (postrefinement.md, Model).
    """
    r_x = _as_array(X_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_x))
    r_y = _as_array(Y_AXIS.axis_and_angle_as_r3_rotation_matrix(theta_y))
    d_x = _as_array(X_AXIS.axis_and_angle_as_r3_derivative_wrt_angle(theta_x))
    d_y = _as_array(Y_AXIS.axis_and_angle_as_r3_derivative_wrt_angle(theta_y))
    return np.stack((r_y @ r_x, r_y @ d_x, d_y @ r_x))
