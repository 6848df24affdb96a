"""Pages about what was trained and compared: one file each, to be read by people."""
