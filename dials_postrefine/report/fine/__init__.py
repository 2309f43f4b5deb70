"""The report of dials.fine_refine."""
