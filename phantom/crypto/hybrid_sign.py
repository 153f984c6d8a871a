"""Identities: the hybrid signature Ed25519 + ML-DSA-65 and its key files (wire-native §§2.3-2.5, 2.7-2.9).

Both algorithms sign the same message and both must verify, so forging takes breaking both.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from phantom.crypto.fingerprint import fingerprint_digest, format_fingerprint
from phantom.crypto.providers import Handle, Provider, get_provider
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.crypto.wipe import BytesLike, wipe
from phantom.errors import ConfigError, CryptoError, SerializationError, ValidationError
from phantom.limits import (
    ED25519_PK_LEN,
    ED25519_SIG_LEN,
    ML_DSA_PK_LEN,
    SIGNATURE_LEN,
    SIGNING_SEED_LEN,
    VERIFYING_KEY_LEN,
)

__all__ = ["HybridSigningKey", "HybridVerifyingKey", "app_signed_input"]

_PK_LEN_FIELD: Final = ML_DSA_PK_LEN.to_bytes(4, "little")
_ENCODED_LEN: Final = VERIFYING_KEY_LEN + len(_PK_LEN_FIELD)
_SEED_HALF: Final = SIGNING_SEED_LEN // 2
_MAX_CONTEXT: Final = 255
_POSIX: Final = os.name == "posix"
# Not on every platform: not following a link that someone planted, not blocking on a FIFO.
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)


def app_signed_input(context: BytesLike, message: BytesLike) -> bytes:
    """What is really signed when an application signs ``message`` (wire-native §2.9); never a transcript hash.

    ValidationError if ``context`` has more than 255 bytes.
    """
    if len(context) > _MAX_CONTEXT:
        raise ValidationError(f"a signature context has at most {_MAX_CONTEXT} bytes, this one {len(context)}")
    return b"".join((b"phantom-app-sig-v1", bytes((len(context),)), context, message))


class HybridVerifyingKey:
    """A public key: immutable, hashable, equal by its bytes; safe to share between threads."""

    __slots__ = ("_ed25519", "_flat", "_ml_dsa", "_provider")

    def __init__(self, flat: BytesLike, provider: Provider | None = None) -> None:
        """From the flat form, ed25519 32 B || ml_dsa 1952 B = 1984 B; ValidationError for another length."""
        if len(flat) != VERIFYING_KEY_LEN:
            raise ValidationError(f"a verifying key has {VERIFYING_KEY_LEN} bytes, this one {len(flat)}")
        self._flat = bytes(flat)
        self._provider = provider
        self._ed25519: Handle = None
        self._ml_dsa: Handle = None

    @classmethod
    def from_bytes(cls, flat: BytesLike, provider: Provider | None = None) -> HybridVerifyingKey:
        """From the flat form (1984 B); ValidationError for another length."""
        return cls(flat, provider)

    @classmethod
    def from_encoded(cls, encoded: BytesLike, provider: Provider | None = None) -> HybridVerifyingKey:
        """From the form in handshake messages (1988 B, with the ML-DSA length), else SerializationError."""
        view = memoryview(encoded)
        ml_dsa = ED25519_PK_LEN + len(_PK_LEN_FIELD)
        if len(view) != _ENCODED_LEN or view[ED25519_PK_LEN:ml_dsa] != _PK_LEN_FIELD:
            raise SerializationError(
                f"an encoded verifying key has {_ENCODED_LEN} bytes and the inner length {ML_DSA_PK_LEN}"
            )
        return cls(b"".join((view[:ED25519_PK_LEN], view[ml_dsa:])), provider)

    @classmethod
    def from_hex(cls, text: str, provider: Provider | None = None) -> HybridVerifyingKey:
        """From 3968 hex digits; ValidationError for anything else, white space included."""
        try:
            flat = bytes.fromhex(text)
        except ValueError:
            flat = b""
        if len(text) != 2 * VERIFYING_KEY_LEN or len(flat) != VERIFYING_KEY_LEN:
            raise ValidationError(f"a verifying key in hex has {2 * VERIFYING_KEY_LEN} digits, without white space")
        return cls(flat, provider)

    def to_bytes(self) -> bytes:
        """The flat form, 1984 B."""
        return self._flat

    def to_hex(self) -> str:
        """The flat form as 3968 lower-case hex digits."""
        return self._flat.hex()

    @property
    def encoded(self) -> bytes:
        """The form in handshake messages, 1988 B."""
        return self._flat[:ED25519_PK_LEN] + _PK_LEN_FIELD + self._flat[ED25519_PK_LEN:]

    def fingerprint_digest(self) -> bytes:
        """The 32 bytes that the fingerprint spells."""
        return fingerprint_digest(self._flat)

    def fingerprint(self) -> str:
        """The short form of the pin, ``phantom1:`` and 52 characters."""
        return format_fingerprint(self.fingerprint_digest())

    def verify(self, message: BytesLike, signature: BytesLike, *, context: BytesLike) -> bool:
        """Whether ``signature`` (flat, 3373 B) is one of ``HybridSigningKey.sign`` for this key, message and context.

        ValidationError if ``context`` has more than 255 bytes.
        """
        return self._verify_raw(app_signed_input(context, message), signature)

    def _verify_raw(self, message: BytesLike, signature: BytesLike) -> bool:
        if len(signature) != SIGNATURE_LEN:
            return False
        provider = self._provider
        if provider is None:
            provider = self._provider = get_provider()
        if self._ml_dsa is None:
            self._ed25519 = provider.ed25519_verifier(self._flat[:ED25519_PK_LEN])
            self._ml_dsa = provider.ml_dsa_verifier(self._flat[ED25519_PK_LEN:])
        halves = memoryview(signature)
        classical = provider.ed25519_verify(self._ed25519, message, halves[:ED25519_SIG_LEN])
        post_quantum = provider.ml_dsa_verify(self._ml_dsa, message, halves[ED25519_SIG_LEN:])
        return classical and post_quantum  # both are known by now: time does not tell which half failed

    def __eq__(self, other: object) -> bool:
        return self._flat == other._flat if isinstance(other, HybridVerifyingKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._flat)

    def __repr__(self) -> str:
        return f"HybridVerifyingKey({self.fingerprint()!r})"


class HybridSigningKey:
    """A private key: a seed of 64 bytes (ed25519 32 || ml_dsa 32) and the keys expanded from it.

    A context manager; ``close`` wipes it. Signing is safe from several threads, closing while another one signs is not.
    """

    __slots__ = ("_ed25519", "_ml_dsa", "_provider", "_seed", "_verifying_key")

    def __init__(self, seed: BytesLike, provider: Provider | None = None) -> None:
        """From the 64-byte seed, which is copied.

        ValidationError for another length; UnsupportedError where the provider cannot derive keys from seeds.
        """
        if len(seed) != SIGNING_SEED_LEN:
            raise ValidationError(f"the seed of a signing key has {SIGNING_SEED_LEN} bytes, this one {len(seed)}")
        self._provider = get_provider() if provider is None else provider
        self._seed = bytearray(seed)
        with memoryview(self._seed) as halves:
            self._ed25519: Handle = self._provider.ed25519_private(halves[:_SEED_HALF])
            self._ml_dsa: Handle = self._provider.ml_dsa_private(halves[_SEED_HALF:])
        flat = self._provider.ed25519_public(self._ed25519) + self._provider.ml_dsa_public(self._ml_dsa)
        self._verifying_key = HybridVerifyingKey(flat, self._provider)

    @classmethod
    def generate(cls, rng: RngProvider | None = None, provider: Provider | None = None) -> HybridSigningKey:
        """A new key. It has signed and verified a message before it is returned; CryptoError if that failed."""
        key = cls((SYSTEM_RNG if rng is None else rng).fill_bytes(SIGNING_SEED_LEN), provider)
        probe = b"phantom key consistency check"
        if not key._verifying_key._verify_raw(probe, key._sign_raw(probe)):
            key.close()
            raise CryptoError("a new key failed its consistency check and was destroyed; this installation is unsafe")
        return key

    @classmethod
    def from_bytes(cls, seed: BytesLike, provider: Provider | None = None) -> HybridSigningKey:
        """From the 64-byte seed, which is copied; ValidationError for another length."""
        return cls(seed, provider)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], provider: Provider | None = None) -> HybridSigningKey:
        """From a key file: a regular file of exactly 64 bytes that, on POSIX, nobody but its owner may read or write.

        A symbolic link is followed and the file behind it checked. ConfigError, saying what to do, for everything else.
        """
        name = repr(os.fspath(path))
        seed = bytearray(SIGNING_SEED_LEN + 1)
        try:
            descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ConfigError(f"the key file {name} is not a regular file")
                if _POSIX and status.st_mode & 0o077:
                    mode = stat.S_IMODE(status.st_mode)
                    raise ConfigError(
                        f"the key file {name} is open to other users (mode {mode:04o}); run 'chmod 600' on it, and"
                        " replace the key if someone may have read it"
                    )
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    length = file.readinto(seed)
            finally:
                os.close(descriptor)
            if length != SIGNING_SEED_LEN:
                raise ConfigError(
                    f"the key file {name} does not hold exactly {SIGNING_SEED_LEN} bytes and is no signing key;"
                    " restore it from a backup, or make a new one with 'phantom keygen'"
                )
            with memoryview(seed) as view:
                return cls(view[:SIGNING_SEED_LEN], provider)
        except OSError as exc:
            raise ConfigError(f"the key file {name} cannot be read: {exc.strerror}") from exc
        finally:
            wipe(seed)

    def write_file(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the seed to a new file of mode 0600, flushed to disk; missing parent directories are made.

        Without ``overwrite`` an existing file (or link) is never touched; with it, it is replaced in one step.
        ConfigError if the file exists or cannot be written.
        """
        self._require_open()
        target = written = Path(path)
        if overwrite:
            written = target.with_name(f".{target.name}.{SYSTEM_RNG.fill_bytes(8).hex()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY, 0o600)
            try:
                with open(descriptor, "wb", buffering=0) as file:
                    if file.write(self._seed) != SIGNING_SEED_LEN:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(descriptor)
                if overwrite:
                    os.replace(written, target)
            except BaseException:
                written.unlink()
                raise
            _sync_directory(target.parent)
        except FileExistsError as exc:
            raise ConfigError(f"{os.fspath(exc.filename)!r} exists and is not overwritten") from exc
        except OSError as exc:
            raise ConfigError(f"the key file {str(target)!r} cannot be written: {exc.strerror}") from exc

    def to_bytes(self) -> bytearray:
        """A copy of the 64-byte seed, for the caller to wipe."""
        self._require_open()
        return bytearray(self._seed)

    def verifying_key(self) -> HybridVerifyingKey:
        """The public half; usable after ``close``."""
        return self._verifying_key

    def sign(self, message: BytesLike, *, context: BytesLike) -> bytes:
        """Sign for an application (wire-native §2.9): 3373 bytes, which no handshake accepts as its own.

        ``context`` separates the uses of one key; ValidationError if it has more than 255 bytes.
        """
        return self._sign_raw(app_signed_input(context, message))

    def _sign_raw(self, message: BytesLike) -> bytes:
        self._require_open()
        provider = self._provider
        return provider.ed25519_sign(self._ed25519, message) + provider.ml_dsa_sign(self._ml_dsa, message)

    def close(self) -> None:
        """Wipe the seed and release the expanded keys. Idempotent."""
        wipe(self._seed)
        self._ed25519 = self._ml_dsa = None

    def _require_open(self) -> None:
        if self._ed25519 is None:
            raise ValidationError("this signing key is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HybridSigningKey({self._verifying_key.fingerprint()!r})"


def _sync_directory(directory: Path) -> None:
    """Make the new name survive a power failure; only POSIX lets a directory be opened for that."""
    if _POSIX:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
