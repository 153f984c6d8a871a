"""The reference server behind ``phantom serve``: key, listener, handlers, logs and an orderly end (surface §6)."""
