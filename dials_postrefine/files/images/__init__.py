"""Images: readers, masks, background, exposure times, Bragg peaks."""
