"""The native vectors: that the copy is the original, and that what is built passes them with every provider."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from phantom.crypto.providers import get_provider
from phantom.testing.vectors import run_directory, run_document

NATIVE = Path(__file__).parent / "native"
SUMS = NATIVE / "SHA256SUMS"
# Where the specification lies beside the project; a checkout alone has only the copy.
ORIGINALS = Path(__file__).parents[2].parent / "shared" / "spec" / "vectors"

NOT_BUILT = {"udp_kcp.json"}
FILES = sorted(path.name for path in NATIVE.glob("*.json"))


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path != SUMS}


def test_the_sums_are_those_of_the_files() -> None:
    lines = SUMS.read_text().splitlines()
    assert dict(reversed(line.split("  ")) for line in lines) == digests(NATIVE)


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the specification is not beside this checkout")
def test_the_copy_is_the_original() -> None:
    assert digests(NATIVE) == digests(ORIGINALS)


@pytest.mark.parametrize("provider", ["openssl", "pqcrypto"])
@pytest.mark.parametrize("file", FILES)
def test_a_file_passes_or_is_not_built(file: str, provider: str) -> None:
    document = json.loads((NATIVE / file).read_bytes())
    report = run_document(document, get_provider(provider), file)
    assert report.failures == {}
    entries = len(document["vectors"]) + len(document["negative"])
    if file in NOT_BUILT:
        assert report.verdict == "not implemented"
        assert report.passed == 0
        assert report.missing.total() == entries
    else:
        assert report.verdict == "pass"
        assert report.passed == entries


def test_a_run_of_the_directory_leaves_no_file_out() -> None:
    reports = run_directory(NATIVE, get_provider())
    assert [report.file for report in reports] == FILES
    assert sum(report.passed for report in reports) == 799
