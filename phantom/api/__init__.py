"""What users call (surface §14). The public names are re-exported by ``phantom``."""
