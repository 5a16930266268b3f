"""The page on which a reader checks what was tracked: `tlt review`."""
