"""Experiments, tables and scaled columns as DIALS has them."""
