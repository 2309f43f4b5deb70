"""What all reports share: the page, plots, remarks, provenance."""
