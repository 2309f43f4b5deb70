"""
Anomalous differences for a structure that has none: every N_th atom is given the same f'' (electrons).

The differences of intensities are all but proportional to it, so that the one that leads to a given Bijvoet ratio,
mean |I+ - I-| / mean I of the acentric reflections, is found in N_ROUNDS.
"""

from __future__ import annotations

import numpy as np

N_TH = 60
N_ROUNDS = 3


def anomalous_structure_factors(structure, d_min: float, bijvoet_ratio: float):
    """Structure factors to d_min (Angstrom), Friedel pairs apart (a miller.array); the structure has its f'' then."""
    scatterers, fdp = structure.scatterers(), 1.0
    for _ in range(N_ROUNDS):
        for i in range(0, scatterers.size(), N_TH):
            scatterers[i].fdp = fdp
            scatterers[i].flags.set_use_fp_fdp(True)
        f_calc = structure.structure_factors(d_min=d_min, algorithm="fft", anomalous_flag=True).f_calc()
        intensity = f_calc.select(~f_calc.centric_flags().data()).as_intensity_array()
        plus, minus = intensity.hemispheres_acentrics()
        differences = np.abs(np.array(plus.data()) - np.array(minus.data()))
        fdp *= bijvoet_ratio / (np.mean(differences) / np.mean(np.array(intensity.data())))
    return f_calc
