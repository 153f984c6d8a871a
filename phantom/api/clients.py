"""Which clients may come in (surface §1.3, §1.4; wire-native §15.7): the policy of a listener and the list it asks.

The exchange itself is sans-IO in ``phantom.transport.session.client_auth``; this room reads files and asks users' code.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from phantom.crypto.fingerprint import format_fingerprint
from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.crypto.pins import Pin, PinSet, parse_fingerprint
from phantom.errors import ConfigError, PhantomError, ValidationError
from phantom.observability.log import logger
from phantom.transport.session.client_auth import ClientAuthPolicy

__all__ = ["Authorized", "AuthorizedClients", "ClientPolicy"]

# A file changed this lately may change again without its times showing it: they are as coarse as the kernel's tick.
_SETTLED_NS: Final = 2_000_000_000


class AuthorizedClients:
    """The identities that a listener lets in, from a file or from pins; safe to share between listeners and threads.

    A file has one fingerprint (``phantom1:…``) or verifying key (3968 hex digits) a line, then an optional comment;
    empty lines and lines that begin with ``#`` mean nothing. It is looked at whenever somebody asks, and read again
    when it has changed. An edit that cannot be read is logged as an error, once, and the last good list stays.
    """

    __slots__ = ("_digests", "_seen", "path", "version")

    def __init__(self, digests: frozenset[bytes], path: Path | None = None, seen: object = None) -> None:
        """For the library: lists come from :meth:`from_file` and :meth:`from_pins`."""
        self._digests = digests
        self.path = path
        """The file, None for a list of pins."""
        self._seen = seen  # what the file looked like when it was last read; None: read it again
        self.version = 0
        """Goes up by one whenever the list has changed."""

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> AuthorizedClients:
        """The list in ``path``, now and after every change. ConfigError, with the line, if it cannot be read."""
        where = Path(path)
        seen = _look(where)
        return cls(_read(where), where, seen)

    @classmethod
    def from_pins(cls, pins: Iterable[Pin]) -> AuthorizedClients:
        """A list that stays as it is; nobody is on an empty one. ValidationError for a malformed pin."""
        known = [pins] if isinstance(pins, (str, bytes, bytearray, memoryview)) else list(pins)
        return cls(frozenset(_digests(PinSet.parse(known))) if known else frozenset())

    def allows(self, key: HybridVerifyingKey) -> bool:
        """Whether the holder of ``key`` may come in, by the file as it is now."""
        self.refresh()
        return key.fingerprint_digest() in self._digests

    def fingerprints(self) -> list[str]:
        """Who is on the list, as it was last read; sorted."""
        return sorted(map(format_fingerprint, self._digests))

    def refresh(self) -> None:
        """Reads the file again if it has changed, or may have."""
        path = self.path
        if path is None:
            return
        try:
            seen = _look(path)
            if seen is not None and seen == self._seen:
                return
            digests = _read(path)
        except ConfigError as error:
            if self._seen != str(error):
                self._seen = str(error)
                logger.error("%s; the last good list of clients stays", error)
            return
        self._seen = seen
        if digests != self._digests:
            self._digests = digests
            self.version += 1
            logger.info("the list of authorised clients has changed; identities on it: %d", len(digests))

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        source = "pins" if self.path is None else str(self.path)
        return f"<AuthorizedClients {len(self._digests)} from {source}>"


Authorized: TypeAlias = AuthorizedClients | Callable[[HybridVerifyingKey], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What a listener asks of its clients; made by :meth:`none`, :meth:`optional` and :meth:`required`."""

    kind: ClientAuthPolicy = ClientAuthPolicy.NONE
    authorized: Authorized | None = None

    @classmethod
    def none(cls) -> ClientPolicy:
        """Everybody who knows the address comes in, and shows no identity. Pins are public: they keep nobody out."""
        return cls()

    @classmethod
    def optional(cls) -> ClientPolicy:
        """Everybody comes in; an identity is verified and shown if one comes."""
        return cls(ClientAuthPolicy.OPTIONAL)

    @classmethod
    def required(cls, authorized: Authorized) -> ClientPolicy:
        """Only who has proved an identity that ``authorized`` accepts reaches the application.

        ``authorized`` is a list, or a function of the key that returns True or False, or an awaitable of it. It is
        asked once a session, in the listener's loop; whatever it raises refuses. ValidationError for anything else.
        """
        if not isinstance(authorized, AuthorizedClients) and not callable(authorized):
            raise ValidationError("authorized is an AuthorizedClients or a function of the client's verifying key")
        return cls(ClientAuthPolicy.REQUIRED, authorized)

    def judge(self, key: HybridVerifyingKey) -> bool | Awaitable[bool]:
        """The verdict on a verified ``key``, or an awaitable of it; raises what the user's function raises."""
        if self.authorized is None:
            return True
        if isinstance(self.authorized, AuthorizedClients):
            return self.authorized.allows(key)
        answer = self.authorized(key)
        return answer if inspect.isawaitable(answer) else answer is True


def _look(path: Path) -> tuple[int, ...] | None:
    """What tells one content of the file from another; None if that cannot be told yet. ConfigError: no such file."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"the list of clients {path} cannot be read: {error.strerror}") from error
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED_NS:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _read(path: Path) -> frozenset[bytes]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"the list of clients {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"the list of clients {path} is not a text") from None
    digests: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        try:
            digests.update(_digests(PinSet.parse(words[0])))
        except PhantomError as error:
            raise ConfigError(f"the list of clients {path}, line {number}: {error}") from error
    return frozenset(digests)


def _digests(pins: PinSet) -> list[bytes]:
    return [parse_fingerprint(text) for text in pins.fingerprints()]
