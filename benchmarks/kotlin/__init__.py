"""Phantom for Kotlin against the Python client of the sidecar."""
