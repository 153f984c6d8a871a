"""TARGET and its pins."""

from __future__ import annotations

from pathlib import Path

import pytest

from phantom import HybridSigningKey, HybridVerifyingKey
from phantom.cli.failures import UsageError
from phantom.cli.targets import Target, read_pin_file, target_of
from phantom.crypto.pins import PinSet

PIN = "phantom1:" + "a" * 52


def of(target: str | None = None, host: str | None = None, port: int | None = None, leg: str | None = None) -> Target:
    return target_of(target, host, port, leg, None, None, None)


@pytest.mark.parametrize(
    ("target", "url"),
    [
        (of("tcp://a:1"), "tcp://a:1"),
        (of(host="a", port=1), "tcp://a:1"),
        (of(host="::1", port=1), "tcp://[::1]:1"),
        (of(host="[::1]", port=1, leg="udp"), "udp://[::1]:1"),
    ],
)
def test_urls(target: Target, url: str) -> None:
    assert target == Target(url, None)


@pytest.mark.parametrize(
    "arguments",
    [
        (None, None, None, None),
        (None, "a", None, None),
        (None, None, 1, None),
        (None, None, None, "tcp"),
        ("a:1", "a", 1, None),
        ("a:1", None, 1, None),
        ("a:1", None, None, "tcp"),
    ],
)
def test_what_does_not_fit(arguments: tuple[str | None, str | None, int | None, str | None]) -> None:
    with pytest.raises(UsageError, match="--host and --port"):
        of(*arguments)


def test_pins_of_every_option_are_put_together(tmp_path: Path, key: HybridSigningKey) -> None:
    path = tmp_path / "server.pub"
    path.write_bytes(key.verifying_key().to_bytes())
    target = target_of("a:1", None, None, None, [PIN], [key.verifying_key().to_hex()], [path])
    assert target.pins is not None
    assert PinSet.parse(target.pins).fingerprints() == (PIN, key.verifying_key().fingerprint())


class TestPinFiles:
    def forms(self, key: HybridVerifyingKey) -> dict[str, bytes]:
        return {
            "raw": key.to_bytes(),
            "hex": key.to_hex().encode(),
            "hex-line": f"{key.to_hex()}\n".encode(),
            "fingerprint": key.fingerprint().encode(),
            "fingerprint-line": f"  {key.fingerprint()}\r\n".encode(),
            "what pubkey prints": f"{key.fingerprint()}\n{key.to_hex()}\n".encode(),
        }

    @pytest.mark.parametrize(
        "form", ["raw", "hex", "hex-line", "fingerprint", "fingerprint-line", "what pubkey prints"]
    )
    def test_the_form_is_told_by_the_content(self, tmp_path: Path, key: HybridSigningKey, form: str) -> None:
        path = tmp_path / "pin"
        path.write_bytes(self.forms(key.verifying_key())[form])
        assert PinSet.parse(read_pin_file(path)).fingerprints() == (key.verifying_key().fingerprint(),)

    def test_text_of_the_length_of_a_key_is_text(self, tmp_path: Path) -> None:
        """32 fingerprints, one a line, have 1984 bytes: as many as a raw key."""
        path = tmp_path / "pins"
        path.write_text(f"{PIN}\n" * 32)
        assert path.stat().st_size == 1984
        assert read_pin_file(path) == [PIN] * 32

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"", "it is empty"),
            (b" \n", "neither text nor"),
            (bytes(range(100, 164)), "looks like a signing key, which is secret"),
            (b"\xff" * 1983, "neither text nor the 1984 bytes"),
        ],
    )
    def test_what_is_no_pin_file(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        path = tmp_path / "pin"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=complaint):
            read_pin_file(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read: No such file"):
            read_pin_file(tmp_path / "gone")
