"""Plain counters beside the data path, and their snapshot (surface §5.2)."""
