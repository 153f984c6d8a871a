"""Runs in Pyodide: the self-tests, our own vectors and the published cases of our suite under provider ``browser``.

Prints one JSON object a file. Argument: ``native`` or ``external``.
"""

import gzip
import hashlib
import hmac
import json
import pathlib
from typing import Any

import host
from pyodide.ffi import JsException

from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.digests import blake3_hash, keyed_hmac
from phantom.crypto.kdf import blake3_derive, blake3_keyed, hkdf_expand, hkdf_extract_expand
from phantom.crypto.providers import get_provider
from phantom.errors import KemFailedError, KeyDerivationError
from phantom.testing.vectors import run_directory

EXTERNAL = pathlib.Path("/tree/tests/vectors/external")
BLAKE3_CONTEXT = "BLAKE3 2019-12-27 16:29:52 test vectors context"
REFUSALS = (AEAD_FAILURE, KemFailedError, KeyDerivationError, JsException)
PROVIDER = get_provider("browser")
Case = dict[str, Any]


def field(case, key):
    return bytes.fromhex(case.get(key, ""))


def aead(suite):
    def run(case):
        key, nonce, aad, sealed = (field(case, key) for key in ("key", "nonce", "aad", "ct"))
        sealed += field(case, "tag")
        box = new_aead(suite, key, PROVIDER)
        buffer = bytearray(sealed)
        with memoryview(buffer) as view:
            length = box.decrypt_into(nonce, view, aad, view[: len(sealed) - 16])  # in place, as packets are opened
        message = bytes(buffer[:length])
        assert box.decrypt(nonce, sealed, aad) == message == field(case, "msg")
        assert box.encrypt_into(nonce, message, aad, buffer) == len(sealed)
        assert box.encrypt(nonce, message, aad) == buffer == sealed
        return True

    return run


def hmac_sha_256(case):
    tag = field(case, "tag")
    mac = keyed_hmac(field(case, "key")).copy()
    mac.update(field(case, "msg"))
    return (
        mac.finalize()[: len(tag)] == tag == hmac.digest(field(case, "key"), field(case, "msg"), "sha256")[: len(tag)]
    )


def hkdf_sha_256(case):
    salt, ikm, info = field(case, "salt"), field(case, "ikm"), field(case, "info")
    okm = hkdf_extract_expand(salt, ikm, info, case["size"])
    if "prk" in case:
        assert hkdf_expand(field(case, "prk"), info, case["size"]) == okm
    return okm.hex() == case["okm"]


def blake3(case):
    data = bytes(i % 251 for i in range(case["input_len"]))
    assert blake3_hash(data).hex() == case["hash"][:64]
    assert blake3_keyed(field(case, "key"), data).hex() == case["keyed_hash"][:64]
    return blake3_derive(BLAKE3_CONTEXT, data).hex() == case["derive_key"][:64]


def x25519(case):
    private, public = field(case, "private"), field(case, "public")
    for _ in range(case.get("iterations", 1)):
        shared = bytes(PROVIDER.x25519_exchange(PROVIDER.x25519_private(private), public))
        private, public = shared, private
    return shared.hex() == case["shared"]


def ed25519_verify(case):
    verifier = PROVIDER.ed25519_verifier(field(case, "pk"))
    return PROVIDER.ed25519_verify(verifier, field(case, "msg"), field(case, "sig"))


def ed25519_sign(case):
    key = PROVIDER.ed25519_private(field(case, "seed"))
    assert PROVIDER.ed25519_public(key).hex() == case["pk"]
    assert PROVIDER.ed25519_sign(key, field(case, "msg")).hex() == case["sig"]
    return ed25519_verify(case)


def kem_keygen(case):
    seed = field(case, "seed") or field(case, "d") + field(case, "z")
    return PROVIDER.ml_kem_keypair(seed)[1].hex() == case["ek"]


def kem_encaps(case):
    ct, shared = PROVIDER.ml_kem_encapsulate(field(case, "ek"))
    return (len(ct), len(shared)) == (1088, 32)


def kem_decaps(case):
    key, ek = PROVIDER.ml_kem_keypair(field(case, "seed"))
    assert ek.hex() == case.get("ek", ek.hex())
    return PROVIDER.ml_kem_decapsulate(key, field(case, "c")).hex() == case["k"]


def dsa_keygen(case):
    return PROVIDER.ml_dsa_public(PROVIDER.ml_dsa_private(field(case, "seed"))).hex() == case["pk"]


def dsa_verify(case):
    return PROVIDER.ml_dsa_verify(PROVIDER.ml_dsa_verifier(field(case, "pk")), field(case, "msg"), field(case, "sig"))


def dsa_sign(case):
    """Signing is hedged, so no signature repeats: the key, the published signature and one of our own are checked."""
    key = PROVIDER.ml_dsa_private(field(case, "seed"))
    public = PROVIDER.ml_dsa_public(key)
    assert public.hex() == case.get("pk", public.hex())
    own = PROVIDER.ml_dsa_sign(key, field(case, "msg"))
    assert own != PROVIDER.ml_dsa_sign(key, field(case, "msg"))
    verifier = PROVIDER.ml_dsa_verifier(public)
    return PROVIDER.ml_dsa_verify(verifier, field(case, "msg"), own) and dsa_verify({**case, "pk": public.hex()})


RUNS = {
    "aes_256_gcm": aead(CipherSuite.AES_256_GCM),
    "blake3": blake3,
    "chacha20_poly1305": aead(CipherSuite.CHACHA20_POLY1305),
    "ed25519_sign": ed25519_sign,
    "ed25519_verify": ed25519_verify,
    "hkdf_sha_256": hkdf_sha_256,
    "hmac_sha_256": hmac_sha_256,
    "ml_dsa_keygen": dsa_keygen,
    "ml_dsa_sign": dsa_sign,
    "ml_dsa_verify": dsa_verify,
    "ml_kem_decaps": kem_decaps,
    "ml_kem_encaps": kem_encaps,
    "ml_kem_keygen": kem_keygen,
    "sha_256": lambda case: hashlib.sha256(field(case, "msg")).hexdigest() == case["digest"],
    "x25519": x25519,
}
# What the provider interface leaves out on purpose: other contexts than the empty one, digests instead of messages.
OUTSIDE = {"ml_dsa_verify": ("ctx", "mu"), "ml_dsa_sign": ("ctx", "mu")}


def verdict(run, case):
    try:
        return "valid" if run(case) else "invalid"
    except REFUSALS:
        return "invalid"


def native():
    for report in run_directory(EXTERNAL.parent / "native", PROVIDER):
        host.report(json.dumps(report.as_dict()))


def external():
    manifest = json.loads((EXTERNAL / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
    for name, entry in manifest.items():
        run = RUNS.get(entry["operation"])
        if run is None:  # expanded private keys, which no handle of ours is made of
            continue
        packed = EXTERNAL / f"{name}.json.gz"
        text = gzip.decompress(packed.read_bytes()) if packed.exists() else (EXTERNAL / f"{name}.json").read_bytes()
        wrong, ran = [], 0
        for case in json.loads(text)["cases"]:
            if any(case.get(key) for key in OUTSIDE.get(entry["operation"], ())):
                continue
            ran += 1
            expected = case.get("result", "valid")
            if expected == "acceptable":  # X25519 only: odd points are computed with, an all-zero secret is refused
                expected = "valid" if any(field(case, "shared")) else "invalid"
            if verdict(run, case) != expected:
                wrong.append(case["id"])
        host.report(json.dumps({"file": name, "ran": ran, "wrong": wrong}))


async def main():
    {"native": native, "external": external}[host.arguments[0]]()
