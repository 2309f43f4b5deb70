"""The only door between DIALS/cctbx objects and numpy.  Nothing here decides anything scientific."""
