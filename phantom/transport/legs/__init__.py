"""The I/O: one module a leg, all under the contract of ``base``."""
