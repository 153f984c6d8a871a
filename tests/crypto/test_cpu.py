from __future__ import annotations

from pathlib import Path

import pytest

from phantom.crypto import cpu
from phantom.crypto.aead import CipherSuite

X86 = "model name : any\nflags\t\t: fpu {} sse2\n\n"
ARM = "Features\t: fp asimd {}\nCPU part : 0xd0c\n\n"


@pytest.mark.parametrize(
    ("text", "accelerated"),
    [
        (X86.format("aes pclmulqdq"), True),
        (X86.format("pclmulqdq aes vaes") * 4, True),
        (X86.format("aes"), False),
        (X86.format("vaes pclmulqdq"), False),
        (X86.format("aes pclmulqdq") + X86.format("pclmulqdq"), False),  # one core lacks it
        (ARM.format("aes pmull sha2"), True),
        (ARM.format("aes"), False),
        (ARM.format("pclmulqdq pmull"), False),
        ("isa : rv64imafdc\n", None),
        ("", None),
    ],
)
def test_flags(text: str, accelerated: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert cpu._read_acceleration(path) is accelerated


def test_no_such_file_is_unknown(tmp_path: Path) -> None:
    assert cpu._read_acceleration(tmp_path / "missing") is None


def test_this_host_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(cpu, "_read_acceleration", lambda path: reads.append(path))
    cpu.aes_accelerated.cache_clear()
    assert [cpu.aes_accelerated(), cpu.aes_accelerated()] == [None, None]
    assert reads == [Path("/proc/cpuinfo")]
    cpu.aes_accelerated.cache_clear()


@pytest.mark.parametrize(
    ("accelerated", "provider", "suite"),
    [
        (True, "openssl", CipherSuite.AES_256_GCM),
        (True, "pqcrypto", CipherSuite.AES_256_GCM),
        (False, "openssl", CipherSuite.CHACHA20_POLY1305),
        (False, "browser", CipherSuite.CHACHA20_POLY1305),
        (None, "openssl", CipherSuite.AES_256_GCM),
        (None, "pqcrypto", CipherSuite.CHACHA20_POLY1305),
    ],
)
def test_the_default_suite(
    accelerated: bool | None, provider: str, suite: CipherSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "aes_accelerated", lambda: accelerated)
    assert cpu.default_suite(provider) is suite
