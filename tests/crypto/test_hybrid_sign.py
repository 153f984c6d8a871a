from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from phantom.crypto import hybrid_sign
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey, app_signed_input
from phantom.crypto.providers import Handle, Provider, get_provider
from phantom.crypto.providers.openssl import OpenSslProvider
from phantom.errors import ConfigError, CryptoError, RngError, SerializationError, ValidationError
from tests.crypto.vectors import native, unhex

SEED = b"\1" * 32 + b"\2" * 32
FLAT_SHA256 = "9aad8f27c2490811bde1cecb81bd9be91220d70c02d6f8c0e0bd19f09f4096fd"  # Appendix B.2
# The gate for these is Linux; Windows has neither modes nor FIFOs, and links only for the privileged.
posix = pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
L = 2**252 + 27742317777372353535851937790883648493  # the order of Ed25519's group


class SpyProvider(OpenSslProvider):
    """Counts verifications, and can be told to sign badly."""

    def __init__(self, spoil: str = "") -> None:
        self.calls: list[str] = []
        self.spoil = spoil

    def ed25519_sign(self, key: Handle, message: Any) -> bytes:
        signature = super().ed25519_sign(key, message)
        return bytes(64) if self.spoil == "ed25519" else signature

    def ml_dsa_sign(self, key: Handle, message: Any) -> bytes:
        if self.spoil == "raise":
            raise ValueError("the library failed")
        signature = super().ml_dsa_sign(key, message)
        return bytes(3309) if self.spoil == "ml_dsa" else signature

    def ed25519_verify(self, key: Handle, message: Any, signature: Any) -> bool:
        self.calls.append("ed25519")
        return super().ed25519_verify(key, message, signature)

    def ml_dsa_verify(self, key: Handle, message: Any, signature: Any) -> bool:
        self.calls.append("ml_dsa")
        return super().ml_dsa_verify(key, message, signature)


def signing_key(provider: Provider | None = None) -> HybridSigningKey:
    return HybridSigningKey.from_bytes(SEED, provider)


# --- the vector file and Appendix B.2 -------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", native("hybrid_sign"), ids=lambda entry: entry["id"])
def test_signatures(entry: dict[str, Any], provider: Provider) -> None:
    seed, message, signature = unhex(entry["input"], "seed", "message", "signature_flat")
    expect = entry["expect"]
    key = HybridSigningKey.from_bytes(seed, provider)
    verifying = key.verifying_key()
    assert (verifying.to_hex(), verifying.encoded.hex()) == (
        expect["verifying_key_flat"],
        expect["verifying_key_borsh"],
    )
    assert HybridVerifyingKey.from_encoded(bytes.fromhex(expect["verifying_key_borsh"])) == verifying
    assert verifying._verify_raw(message, signature) is expect["valid"]
    own = key._sign_raw(message)
    assert len(own) == 3373
    assert own[:64].hex() == expect["ed25519_sig"]
    assert verifying._verify_raw(message, own)
    assert signature.hex() == expect["signature_borsh"][:128] + expect["signature_borsh"][136:]


@pytest.mark.parametrize("entry", native("hybrid_sign", op="app_sign"), ids=lambda entry: entry["id"])
def test_application_signatures(entry: dict[str, Any], provider: Provider) -> None:
    seed, message, context, signature = unhex(entry["input"], "seed", "message", "context", "signature_flat")
    expect = entry["expect"]
    key = HybridSigningKey.from_bytes(seed, provider)
    assert app_signed_input(context, message).hex() == expect["signed_input"]
    assert key.verifying_key().verify(message, signature, context=context) is expect["valid"]
    own = key.sign(message, context=context)
    assert own[:64].hex() == expect["ed25519_sig"]
    assert key.verifying_key().verify(message, own, context=context)


@pytest.mark.parametrize("entry", native("hybrid_sign", "negative", "verify"), ids=lambda entry: entry["id"])
def test_bad_signatures(entry: dict[str, Any], provider: Provider) -> None:
    flat, message, signature = unhex(entry["input"], "verifying_key_flat", "message", "signature_flat")
    assert entry["reject"] == "SignatureInvalid"
    assert HybridVerifyingKey.from_bytes(flat, provider)._verify_raw(message, signature) is False


@pytest.mark.parametrize("entry", native("hybrid_sign", "negative", "app_verify"), ids=lambda entry: entry["id"])
def test_bad_application_signatures(entry: dict[str, Any], provider: Provider) -> None:
    fields = ("verifying_key_flat", "message", "signature_flat", "context")
    flat, message, signature, context = unhex(entry["input"], *fields)
    assert HybridVerifyingKey.from_bytes(flat, provider).verify(message, signature, context=context) is False


def test_known_key(provider: Provider) -> None:
    flat = signing_key(provider).verifying_key().to_bytes()
    assert hashlib.sha256(flat).hexdigest() == FLAT_SHA256


def test_known_application_input() -> None:
    expected = "7068616e746f6d2d6170702d7369672d76310363747868656c6c6f"
    assert app_signed_input(b"ctx", b"hello").hex() == expected
    assert app_signed_input(memoryview(b"ctx"), bytearray(b"hello")).hex() == expected


# --- verifying ------------------------------------------------------------------------------------------------------


def test_every_wrong_half_fails(provider: Provider) -> None:
    key = signing_key(provider)
    public = key.verifying_key()
    one, two = key._sign_raw(b"one"), key._sign_raw(b"two")
    assert public._verify_raw(b"one", one)
    scalar = int.from_bytes(one[32:64], "little") + L
    wrong = {
        "ed25519 bit": bytes((one[0] ^ 1,)) + one[1:],
        "ml-dsa bit": one[:-1] + bytes((one[-1] ^ 1,)),
        "ed25519 of another message": two[:64] + one[64:],
        "ml-dsa of another message": one[:64] + two[64:],
        "halves swapped": one[64:] + one[:64],
        "S + L": one[:32] + scalar.to_bytes(32, "little") + one[64:],
        "short": one[:-1],
        "long": one + b"\0",
        "empty": b"",
        "classical only": one[:64] + bytes(3309),
        "post-quantum only": bytes(64) + one[64:],
    }
    assert [name for name, signature in wrong.items() if public._verify_raw(b"one", signature)] == []
    assert not public._verify_raw(b"two", one)


def test_both_halves_are_always_evaluated() -> None:
    spy = SpyProvider()
    key = signing_key(spy)
    good = key._sign_raw(b"message")
    for signature in (good, bytes(64) + good[64:], good[:64] + bytes(3309), bytes(3373)):
        spy.calls.clear()
        key.verifying_key()._verify_raw(b"message", signature)
        assert spy.calls == ["ed25519", "ml_dsa"]


def test_keys_of_another_half_do_not_verify() -> None:
    one, two = signing_key(), HybridSigningKey.from_bytes(bytes(64))
    a, b = one.verifying_key().to_bytes(), two.verifying_key().to_bytes()
    signature = one._sign_raw(b"m")
    for mixed in (a[:32] + b[32:], b[:32] + a[32:], b):
        assert not HybridVerifyingKey.from_bytes(mixed)._verify_raw(b"m", signature)


def test_parsed_keys_are_kept() -> None:
    public = signing_key().verifying_key()
    signature = signing_key()._sign_raw(b"m")
    assert public._verify_raw(b"m", signature)
    handles = (public._ed25519, public._ml_dsa)
    assert public._verify_raw(b"m", memoryview(signature))
    assert (public._ed25519, public._ml_dsa) == handles


def test_forms_of_a_verifying_key() -> None:
    public = signing_key().verifying_key()
    flat, encoded = public.to_bytes(), public.encoded
    assert (len(flat), len(encoded), len(public.to_hex())) == (1984, 1988, 3968)
    same = [
        HybridVerifyingKey.from_bytes(bytearray(flat)),
        HybridVerifyingKey.from_encoded(memoryview(encoded)),
        HybridVerifyingKey.from_hex(flat.hex()),
        HybridVerifyingKey.from_hex(flat.hex().upper()),
    ]
    assert set(same) == {public}
    assert public != flat
    assert public != HybridVerifyingKey.from_bytes(bytes(1984))
    assert public.fingerprint().startswith("phantom1:")
    assert repr(public) == f"HybridVerifyingKey({public.fingerprint()!r})"


def test_malformed_verifying_keys() -> None:
    flat = signing_key().verifying_key().to_bytes()
    encoded = signing_key().verifying_key().encoded
    for bad in (b"", flat[:-1], flat + b"\0", encoded):
        with pytest.raises(ValidationError, match="1984 bytes"):
            HybridVerifyingKey.from_bytes(bad)
    wrong_length = encoded[:32] + (1951).to_bytes(4, "little") + encoded[36:]
    for bad in (b"", flat, encoded[:-1], encoded + b"\0", wrong_length):
        with pytest.raises(SerializationError, match="1988 bytes"):
            HybridVerifyingKey.from_encoded(bad)
    digits = flat.hex()
    for text in ("", digits[:-1], digits[:-2], digits + "00", "g" + digits[1:], digits[:-2] + " 0", " " * 3968):
        with pytest.raises(ValidationError, match="3968 digits"):
            HybridVerifyingKey.from_hex(text)


# --- the public form (wire-native §2.9) -----------------------------------------------------------------------------


def test_public_signing_is_no_oracle_for_handshakes(provider: Provider) -> None:
    """Appendix A row 52."""
    key = signing_key(provider)
    public = key.verifying_key()
    for message in (b"t" * 32, b"phantom-client-auth-v1" + bytes(64)):
        signature = key.sign(message, context=b"")
        assert public.verify(message, signature, context=b"")
        assert not public._verify_raw(message, signature)
        assert not public.verify(message, key._sign_raw(message), context=b"")


def test_contexts_separate(provider: Provider) -> None:
    key = signing_key(provider)
    signature = key.sign(b"message", context=b"a")
    assert not key.verifying_key().verify(b"message", signature, context=b"b")
    assert not key.verifying_key().verify(b"amessage", signature, context=b"")
    assert len(key.sign(b"", context=bytes(255))) == 3373


def test_contexts_of_more_than_255_bytes_are_refused() -> None:
    key = signing_key()
    for call in (
        lambda: key.sign(b"m", context=bytes(256)),
        lambda: key.verifying_key().verify(b"m", bytes(3373), context=bytes(256)),
    ):
        with pytest.raises(ValidationError, match="255"):
            call()


# --- making and destroying keys -------------------------------------------------------------------------------------


def test_generated_keys_differ_and_work(provider: Provider) -> None:
    one, two = (HybridSigningKey.generate(provider=provider) for _ in range(2))
    assert one.verifying_key() != two.verifying_key()
    assert one.to_bytes() != two.to_bytes()
    again = HybridSigningKey.from_bytes(one.to_bytes(), provider)
    assert again.verifying_key() == one.verifying_key()


def test_an_injected_source_decides_the_key() -> None:
    class Rng:
        def fill_bytes(self, n: int) -> bytes:
            return SEED[:n]

    assert HybridSigningKey.generate(Rng()).verifying_key() == signing_key().verifying_key()


def test_a_failing_source_makes_no_key() -> None:
    class Rng:
        def fill_bytes(self, n: int) -> bytes:
            raise RngError

    with pytest.raises(RngError):
        HybridSigningKey.generate(Rng())


@pytest.mark.parametrize("spoil", ["ed25519", "ml_dsa"])
def test_a_key_that_fails_its_consistency_check_is_destroyed(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(HybridSigningKey, "close", lambda self: closed.append(self))
    with pytest.raises(CryptoError, match="consistency check"):
        HybridSigningKey.generate(provider=SpyProvider(spoil))
    assert len(closed) == 1


def test_a_library_that_raises_makes_no_key_either() -> None:
    with pytest.raises(ValueError, match="library failed"):
        HybridSigningKey.generate(provider=SpyProvider("raise"))


@pytest.mark.parametrize("length", [0, 32, 63, 65, 128])
def test_seeds_of_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValidationError, match="64 bytes"):
        HybridSigningKey.from_bytes(bytes(length))


def test_closing_wipes() -> None:
    seed = bytearray(SEED)
    with HybridSigningKey.from_bytes(seed) as key:
        copy = key.to_bytes()
        held = key._seed
        assert (copy, held) == (SEED, SEED)
        assert copy is not held
    assert held == bytes(64)
    assert (seed, copy) == (SEED, SEED)  # the caller's buffers are the caller's
    assert (key._ed25519, key._ml_dsa) == (None, None)
    key.close()
    assert hashlib.sha256(key.verifying_key().to_bytes()).hexdigest() == FLAT_SHA256
    for use in (key.to_bytes, lambda: key.sign(b"m", context=b""), lambda: key.write_file("/nowhere")):
        with pytest.raises(ValidationError, match="closed"):
            use()


def test_no_secret_is_printed(tmp_path: Path) -> None:
    seed = bytes(range(64))
    key = HybridSigningKey.from_bytes(seed)
    shown = f"{key!r} {key} {key.verifying_key()!r}"
    assert repr(key) == f"HybridSigningKey({key.verifying_key().fingerprint()!r})"
    path = tmp_path / "key"
    path.write_bytes(seed[:63])
    path.chmod(0o600)
    for call in (lambda: HybridSigningKey.from_bytes(seed[:63]), lambda: HybridSigningKey.from_file(path)):
        with pytest.raises((ValidationError, ConfigError)) as failure:
            call()
        shown += f"{failure.value!r} {failure.value}"
    assert seed[:4].hex() not in shown
    assert seed[32:36].hex() not in shown
    assert "\\x01\\x02\\x03" not in shown


# --- key files ------------------------------------------------------------------------------------------------------


def key_file(path: Path, content: bytes = SEED, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@posix
def test_a_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "signing.key"
    signing_key().write_file(path)
    assert path.read_bytes() == SEED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert HybridSigningKey.from_file(str(path)).verifying_key() == signing_key().verifying_key()
    assert os.listdir(path.parent) == ["signing.key"]


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_modes_that_are_private(mode: int, tmp_path: Path) -> None:
    assert HybridSigningKey.from_file(key_file(tmp_path / "key", mode=mode)).to_bytes() == SEED


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o601, 0o610, 0o666, 0o777])
def test_modes_that_are_open(mode: int, tmp_path: Path) -> None:
    path = key_file(tmp_path / "key", mode=mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        HybridSigningKey.from_file(path)


def test_modes_mean_nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid_sign, "_POSIX", False)
    path = tmp_path / "key"
    signing_key().write_file(path)
    path.chmod(0o644)
    assert HybridSigningKey.from_file(path).to_bytes() == SEED


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 1984, 100_000])
def test_files_of_other_lengths(length: int, tmp_path: Path) -> None:
    path = key_file(tmp_path / "key", bytes(length))
    with pytest.raises(ConfigError, match=r"exactly 64 bytes.*phantom keygen"):
        HybridSigningKey.from_file(path)
    assert path.stat().st_size == length  # never replaced


@posix
def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "fifo", tmp_path / "folder", Path(os.devnull)):
        with pytest.raises(ConfigError, match="not a regular file"):
            HybridSigningKey.from_file(path)


@posix
def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    key_file(tmp_path / "key")
    for name in ("missing", "dangling", "circle", "key/inside"):
        with pytest.raises(ConfigError, match=f"{name}.*cannot be read: "):
            HybridSigningKey.from_file(tmp_path / name)


@posix
def test_a_link_is_judged_by_what_it_points_to(tmp_path: Path) -> None:
    """Mounted secrets are links; what counts is who may read the file behind them."""
    target = key_file(tmp_path / "target")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert HybridSigningKey.from_file(link).to_bytes() == SEED
    target.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        HybridSigningKey.from_file(link)


@posix
def test_reading_leaves_nothing_open_and_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[bytearray] = []
    monkeypatch.setattr(hybrid_sign, "wipe", lambda *buffers: wiped.extend(buffers))
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    HybridSigningKey.from_file(key_file(tmp_path / "key"))
    for content, mode in ((bytes(63), 0o600), (SEED, 0o644)):
        with pytest.raises(ConfigError):
            HybridSigningKey.from_file(key_file(tmp_path / "key", content, mode))
    with pytest.raises(ConfigError):
        HybridSigningKey.from_file(tmp_path)
    assert [len(buffer) for buffer in wiped] == [65] * 4
    assert wiped[0] == SEED + b"\0"
    assert before == (len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0)


@posix
def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = key_file(tmp_path / "key", b"precious", 0o640)
    with pytest.raises(ConfigError, match=r"key.*not overwritten"):
        signing_key().write_file(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"precious", 0o640)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not overwritten"):
        signing_key().write_file(link)
    assert not (tmp_path / "elsewhere").exists()
    signing_key().write_file(path, overwrite=True)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (SEED, 0o600)
    assert sorted(os.listdir(tmp_path)) == ["key", "link"]


@posix
def test_overwriting_a_link_replaces_the_link(tmp_path: Path) -> None:
    target = key_file(tmp_path / "target", b"precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    signing_key().write_file(link, overwrite=True)
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"precious", SEED, False)


@posix
def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    parent = key_file(tmp_path / "parent")
    with pytest.raises(ConfigError, match="parent"):
        signing_key().write_file(parent / "key")
    with pytest.raises(ConfigError, match="cannot be written: "):
        signing_key().write_file(parent / "folder" / "key")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_write_leaves_nothing_behind(overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space"):
        signing_key().write_file(tmp_path / "key", overwrite=overwrite)
    assert os.listdir(tmp_path) == []


def test_a_short_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid_sign, "SIGNING_SEED_LEN", 65)
    with pytest.raises(ConfigError, match="cannot be written: No space"):
        signing_key_before_patch.write_file(tmp_path / "key")
    assert os.listdir(tmp_path) == []


signing_key_before_patch = signing_key()


@posix
def test_the_file_and_its_folder_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_IFMT(os.fstat(descriptor).st_mode)))
    signing_key().write_file(tmp_path / "key")
    assert synced == [stat.S_IFREG, stat.S_IFDIR]


def test_the_default_provider_is_found_on_first_use() -> None:
    key = HybridSigningKey.from_bytes(SEED, get_provider("openssl"))
    public = HybridVerifyingKey.from_bytes(key.verifying_key().to_bytes())
    assert public._provider is None
    assert public._verify_raw(b"m", key._sign_raw(b"m"))
    assert public._provider is get_provider()
