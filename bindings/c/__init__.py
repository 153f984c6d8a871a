"""The C library: what is generated for it, its runtime, and its build."""
