"""Every published number, measured against its peers in the same run: ``python -m benchmarks.run``."""
