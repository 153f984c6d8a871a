"""keygen and pubkey."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from phantom import HybridSigningKey, HybridVerifyingKey
from tests.cli.conftest import Invoke, OnTerminal


def public(path: Path) -> HybridVerifyingKey:
    with HybridSigningKey.from_file(path) as key:
        return key.verifying_key()


class TestKeygen:
    def test_it_writes_a_key_and_prints_what_to_pin(self, invoke: Invoke, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "signing.key"
        outcome = invoke("keygen", "--out", str(path))
        assert outcome.code == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size == 64
        assert outcome.out.splitlines() == [public(path).fingerprint(), public(path).to_hex()]
        assert outcome.err == f"signing key written to {path}; keep it secret\n"

    def test_json(self, invoke: Invoke, tmp_path: Path) -> None:
        path = tmp_path / "signing.key"
        outcome = invoke("keygen", "-o", str(path), "--json")
        assert json.loads(outcome.out) == {
            "fingerprint": public(path).fingerprint(),
            "verifying_key": public(path).to_hex(),
            "path": str(path),
        }
        assert outcome.err == ""

    def test_it_refuses_to_overwrite(self, invoke: Invoke, tmp_path: Path) -> None:
        path = tmp_path / "signing.key"
        path.write_bytes(b"precious")
        outcome = invoke("keygen", "-o", str(path))
        assert (outcome.code, outcome.out) == (1, "")
        assert "is not overwritten; --force replaces it" in outcome.err
        assert path.read_bytes() == b"precious"

    def test_force_replaces(self, invoke: Invoke, tmp_path: Path) -> None:
        path = tmp_path / "signing.key"
        path.write_bytes(b"old")
        path.chmod(0o644)
        outcome = invoke("keygen", "-o", str(path), "--force")
        assert outcome.code == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert outcome.out.startswith(public(path).fingerprint())

    def test_a_place_that_cannot_be_written_is_an_error(self, invoke: Invoke, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        outcome = invoke("keygen", "-o", str(tmp_path / "file" / "signing.key"))
        assert outcome.code == 1
        assert "--force" not in outcome.err

    def test_two_keys_differ(self, invoke: Invoke, tmp_path: Path) -> None:
        first, second = (invoke("keygen", "-o", str(tmp_path / name)).out for name in "ab")
        assert first != second


class TestPubkey:
    def test_both_forms(self, invoke: Invoke, key_file: Path) -> None:
        outcome = invoke("pubkey", "--in", str(key_file))
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.splitlines() == [public(key_file).fingerprint(), public(key_file).to_hex()]

    def test_one_form(self, invoke: Invoke, key_file: Path) -> None:
        key = public(key_file)
        assert invoke("pubkey", "-i", str(key_file), "--format", "fingerprint").out == f"{key.fingerprint()}\n"
        assert invoke("pubkey", "-i", str(key_file), "--format", "hex").out == f"{key.to_hex()}\n"
        assert invoke("pubkey", "-i", str(key_file), "--format", "raw").raw == key.to_bytes()

    def test_json(self, invoke: Invoke, key_file: Path) -> None:
        outcome = invoke("pubkey", "-i", str(key_file), "--format", "hex", "--json")
        assert json.loads(outcome.out) == {
            "fingerprint": public(key_file).fingerprint(),
            "verifying_key": public(key_file).to_hex(),
        }

    def test_raw_bytes_are_no_json(self, invoke: Invoke, key_file: Path) -> None:
        assert invoke("pubkey", "-i", str(key_file), "--format", "raw", "--json").code == 2

    @pytest.mark.slow
    def test_raw_bytes_are_not_for_a_terminal(self, on_terminal: OnTerminal, key_file: Path) -> None:
        outcome = on_terminal("pubkey", "-i", str(key_file), "--format", "raw")
        assert outcome.code == 2
        assert "a file or a pipe" in outcome.out

    @pytest.mark.parametrize(
        ("content", "mode", "complaint"),
        [
            (bytes(63), 0o600, "does not hold exactly 64 bytes"),
            (bytes(65), 0o600, "does not hold exactly 64 bytes"),
            (b"", 0o600, "does not hold exactly 64 bytes"),
            (bytes(64), 0o644, "chmod 600"),
            (bytes(64), 0o640, "chmod 600"),
        ],
        ids=["short", "long", "empty", "world-readable", "group-readable"],
    )
    def test_a_bad_file_is_a_clean_error(
        self, invoke: Invoke, tmp_path: Path, content: bytes, mode: int, complaint: str
    ) -> None:
        path = tmp_path / "signing.key"
        path.write_bytes(content)
        path.chmod(mode)
        outcome = invoke("pubkey", "-i", str(path))
        assert (outcome.code, outcome.out) == (1, "")
        assert complaint in outcome.err

    def test_no_file(self, invoke: Invoke, tmp_path: Path) -> None:
        outcome = invoke("pubkey", "-i", str(tmp_path / "gone"))
        assert outcome.code == 1
        assert "No such file" in outcome.err

    def test_a_folder(self, invoke: Invoke, tmp_path: Path) -> None:
        assert invoke("pubkey", "-i", str(tmp_path)).code == 1

    def test_the_secret_is_never_printed(self, invoke: Invoke, key_file: Path) -> None:
        outcome = invoke("pubkey", "-i", str(key_file))
        assert key_file.read_bytes().hex() not in outcome.out + outcome.err

    @pytest.mark.parametrize("form", ["nope", "RAW"])
    def test_an_unknown_form_is_usage(self, invoke: Invoke, key_file: Path, form: str) -> None:
        assert invoke("pubkey", "-i", str(key_file), "--format", form).code == 2


def test_the_key_file_is_shared_with_the_server(key_file: Path) -> None:
    assert os.path.getsize(key_file) == 64
