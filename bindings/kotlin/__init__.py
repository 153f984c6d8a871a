"""Phantom for Kotlin: its build."""
