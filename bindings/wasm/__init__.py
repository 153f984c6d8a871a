"""Phantom for web pages: its build."""
