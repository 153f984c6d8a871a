"""BLAKE3, HKDF and HMAC of this process; the providers of :mod:`phantom.crypto.providers` have the rest.

The libraries ``blake3`` and ``cryptography`` everywhere but in a page, where neither exists: there noble through the
bridge, and the HMAC that Python has compiled in.
"""

import sys

if sys.platform == "emscripten":
    from phantom.crypto.digests.browser import (
        blake3_derive_key,
        blake3_hash,
        blake3_keyed_hash,
        expand_into,
        extract_expand_into,
        keyed_hmac,
        search,
    )
else:
    from phantom.crypto.digests.native import (
        blake3_derive_key,
        blake3_hash,
        blake3_keyed_hash,
        expand_into,
        extract_expand_into,
        keyed_hmac,
        search,
    )

__all__ = [
    "blake3_derive_key",
    "blake3_hash",
    "blake3_keyed_hash",
    "expand_into",
    "extract_expand_into",
    "keyed_hmac",
    "search",
]
