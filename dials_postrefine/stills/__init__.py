"""Postrefinement of stills: numpy only, but for the minimiser of scitbx.lstbx in minimise.py."""
