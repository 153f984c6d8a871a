"""Phantom for Swift against the Python client of the same sidecar."""
