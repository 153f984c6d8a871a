"""Hybrid key exchange and signature, key schedule, AEAD suites, proof of work (wire-native §§2, 3, 8.5, 11.7).

No primitive is implemented here: ``phantom.crypto.providers`` binds libraries, the rest combines them. Everything
is synchronous and free of I/O (key files excepted), and safe to call from any thread unless a docstring says
otherwise.
"""
