"""Phantom for Swift: how it is built and tested."""
