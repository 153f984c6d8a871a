"""The C library measured from C programs, beside the Python API in the same run."""
