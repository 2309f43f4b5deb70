"""
Structure factors and reference intensities from an atomic model.  cctbx and mmtbx do the work.

form_factors -> structure_factors (F_calc, F_mask) -> bulk_solvent (the model of the intensities) -> scaling (its fit to
merged data) -> compare (agreement and model error by shell, indexing operation, hand).
"""
