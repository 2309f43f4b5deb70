"""What dials.diffuse_model says: summary (JSON), text (log) and page."""
