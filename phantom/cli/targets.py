"""TARGET and its pins, as commands that connect take them (surface §1.4, §1.7, §7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phantom.api.endpoint import Address
from phantom.cli.failures import UsageError, as_usage
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.pins import Pin
from phantom.limits import SIGNING_SEED_LEN, VERIFYING_KEY_LEN, MiB

__all__ = ["Target", "identity_of", "read_pin_file", "target_of"]


@dataclass(frozen=True, slots=True)
class Target:
    """What ``phantom.connect`` needs; not checked yet."""

    url: str
    pins: list[Pin] | None


def target_of(
    target: str | None,
    host: str | None,
    port: int | None,
    leg: str | None,
    pins: Sequence[str] | None,
    hex_keys: Sequence[str] | None,
    files: Sequence[Path] | None,
) -> Target:
    """Puts the options together. UsageError if they do not fit or a pin file cannot be used."""
    if target is not None:
        if host is not None or port is not None or leg is not None:
            raise UsageError.of("give TARGET, or --host and --port (and --leg), not both")
        url = target
    elif host is not None and port is not None:
        url = Address(leg or "tcp", host.removeprefix("[").removesuffix("]"), port).url()
    else:
        raise UsageError.of("where to? Give a URL such as 'phantom serve' prints, or --host and --port")
    found: list[Pin] = [*(pins or ()), *(hex_keys or ())]
    for path in files or ():
        found += read_pin_file(path)
    return Target(url, found or None)


@contextmanager
def identity_of(path: Path | None) -> Iterator[HybridSigningKey | None]:
    """The key that --identity names, wiped afterwards. UsageError if the file cannot be used."""
    if path is None:
        yield None
        return
    with as_usage():
        key = HybridSigningKey.from_file(path)
    with key:
        yield key


def read_pin_file(path: Path) -> list[Pin]:
    """The pins in a file: one verifying key as it is (1984 bytes), or text: fingerprints and hex keys, one a line.

    UsageError, saying what the file seems to be, for anything else. Text is told apart by being nothing but that.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MiB)
    except OSError as error:
        raise UsageError.of(f"the pin file {str(path)!r} cannot be read: {error.strerror}") from error
    if content.isascii() and (words := content.decode("ascii").split()):
        return list(words)
    if len(content) == VERIFYING_KEY_LEN:
        return [HybridVerifyingKey.from_bytes(content)]
    what = "it is empty"
    if len(content) == SIGNING_SEED_LEN:
        what = "it looks like a signing key, which is secret: pin what 'phantom pubkey' prints of it"
    elif content:
        what = f"it holds neither text nor the {VERIFYING_KEY_LEN} bytes of a verifying key"
    raise UsageError.of(f"the pin file {str(path)!r} cannot be used: {what}")
