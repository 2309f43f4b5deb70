"""The compiled loop that makes the normal equations of a term, intensities of orbits eliminated (fitting_terms.py)."""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.map.compiled import jit


@jit
def normal_equations(columns, values, state, orbit, full, normal):
    """
    J'wJ and N of (1) of fitting_terms.py, with J = slope times the design.

    Parameters
    ----------
    columns : (n, k) int32
        The coefficients that each record depends on.
    values : (n, k)
        The design there.
    state : tuple of three (n,)
        slope, dy / d(sum of the term), and w and g.
    orbit : (n,) int64
        In ascending order.
    full, normal : (p, p)
        Zeros, filled: J'wJ and N.
    """
    slope, weight, factor = state
    n, k = columns.shape
    p = len(full)
    shared, known = np.zeros(p), np.zeros(p, np.bool_)
    listed = np.empty(p, np.int64)
    start = 0
    while start < n:
        stop, total, m = start, 0.0, 0
        while stop < n and orbit[stop] == orbit[start]:
            w, g, slope_here = weight[stop], factor[stop], slope[stop]
            total += w * g * g
            for a in range(k):
                column = columns[stop, a]
                x = w * slope_here * values[stop, a]
                if not known[column]:
                    known[column] = True
                    listed[m] = column
                    m += 1
                shared[column] += x * g
                x *= slope_here
                for b in range(k):
                    full[column, columns[stop, b]] += x * values[stop, b]
            stop += 1
        for a in range(m):
            x = shared[listed[a]] / total
            for b in range(m):
                normal[listed[a], listed[b]] -= x * shared[listed[b]]
        for a in range(m):
            shared[listed[a]] = 0.0
            known[listed[a]] = False
        start = stop
    normal += full
