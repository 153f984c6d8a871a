"""Who gets in: the private directory, the lock, the socket's mode and the bearer token (surface §15).

A unix socket is protected by its directory (0700) and its mode (0600); the token is on every call all the same,
because a port of the loopback interface has no other wall and because gRPC cannot tell which user called. The superuser
is out of scope. All functions block for a moment on the file system and are meant for start and stop; none is
thread-safe with itself on one path.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phantom.crypto.compare import constant_time_equal
from phantom.errors import AccessDeniedError, ConfigError, NetworkError, UnsupportedError
from phantom.limits import SIDECAR_TOKEN_LEN

__all__ = [
    "Token",
    "check_private_directory",
    "check_socket_path",
    "default_socket",
    "lock",
    "make_private_directory",
    "narrow_umask",
    "read_token",
    "remove_stale_socket",
    "token_path",
]

_PATH_MAX = 103 if sys.platform == "darwin" else 107  # sockaddr_un.sun_path without its terminator
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_POSIX = os.name == "posix"  # elsewhere the user's own temporary folder is private by its access list


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this user's sidecar lives: ``$XDG_RUNTIME_DIR/phantom``, else ``phantom-UID`` in the temporary folder."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):
        return Path(base, "phantom")
    return Path(tempfile.gettempdir(), f"phantom-{os.getuid()}" if _POSIX else "phantom")


def default_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """The path that sidecar and clients agree on without being told."""
    return runtime_directory(environ) / "sidecar.sock"


def token_path(address: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the token for ``unix:PATH`` or ``HOST:PORT`` lies unless told otherwise."""
    kind, _, rest = address.rpartition(":")
    if address.startswith("unix:"):
        return Path(address.removeprefix("unix:") + ".token")
    return runtime_directory(environ) / f"tcp-{rest}.token" if kind else runtime_directory(environ) / "sidecar.token"


def make_private_directory(path: Path) -> None:
    """Makes ``path`` (0700) if only its parent exists, then does :func:`check_private_directory`."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"the directory {path} cannot be made: {error.strerror}") from None
    check_private_directory(path)


def check_private_directory(path: Path) -> None:
    """ConfigError unless ``path`` is a real directory of this user alone, in one that nobody else can change."""
    try:
        found, parent = os.lstat(path), os.lstat(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a directory (links are not followed); remove it or choose another path")
    if not _POSIX:
        return
    if found.st_uid != os.getuid():
        raise ConfigError(f"the directory {path} belongs to another user; choose a path in one of your own")
    if found.st_mode & 0o077:
        raise ConfigError(f"other users can enter the directory {path}: chmod 700 {path}, or choose another path")
    others_write = parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX
    if others_write or parent.st_uid not in (0, os.getuid()):
        raise ConfigError(f"other users can write to {path.parent} and so rename {path}; choose another path")


@contextmanager
def lock(path: Path, served: str) -> Iterator[None]:
    """Holds an exclusive lock on the file ``path`` for what is ``served``.

    NetworkError if another process holds it, ConfigError if it cannot be opened. The file stays: removing it would let
    two processes lock two files of one name. The kernel frees the lock of a process that dies.
    """
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the lock file {path} cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            who = f" (pid {holder})" if holder.isdigit() else ""
            raise NetworkError(f"another sidecar{who} serves {served}; stop it or choose another --socket") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def check_socket_path(path: Path) -> None:
    """ConfigError for a path that is too long for a unix socket, UnsupportedError on a system without them."""
    if sys.platform == "win32":
        raise UnsupportedError("the sidecar has no unix sockets on this system; use --tcp-port")
    if len(os.fsencode(path)) > _PATH_MAX:
        raise ConfigError(f"the socket path {path} is longer than {_PATH_MAX} bytes; choose a shorter --socket")


def remove_stale_socket(path: Path) -> None:
    """Clears ``path`` for a bind: removes a socket that nobody listens on. The lock must be held.

    NetworkError if somebody listens, ConfigError for anything but a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is not a socket; remove it or choose another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(os.fspath(path))
    if answer != errno.ECONNREFUSED:
        raise NetworkError(f"another program listens on {path}; stop it or choose another --socket")
    path.unlink()


@contextmanager
def narrow_umask() -> Iterator[None]:
    """What is created inside is this user's alone. The mask is the process's: nothing else may run inside."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token of 32 bytes and the file that holds it as 64 hexadecimal characters."""

    path: Path
    value: bytes
    ours: bool

    @classmethod
    def create(cls, path: Path) -> Token:
        """Writes a fresh token to ``path`` (0600), in place of one that an earlier sidecar left there."""
        value = secrets.token_bytes(SIDECAR_TOKEN_LEN).hex().encode()
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, value + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)
            fresh.replace(path)
        except OSError as error:
            raise ConfigError(f"the token file {path} cannot be written: {error.strerror}") from None
        return cls(path, value, ours=True)

    @classmethod
    def use(cls, path: Path) -> Token:
        """The token kept in ``path``, checked as by :func:`read_token`; a fresh one if there is no file."""
        if os.path.lexists(path):
            return cls(path, read_token(path), ours=False)
        make_private_directory(path.parent)
        return cls.create(path)

    def allows(self, header: str | bytes) -> bool:
        """Whether ``header`` is ``Bearer TOKEN``, in constant time."""
        given = header.encode("utf-8", "surrogateescape") if isinstance(header, str) else header
        return constant_time_equal(given, b"Bearer " + self.value)

    def remove(self) -> None:
        """Removes the file if this process wrote it and nobody replaced it since."""
        if not self.ours:
            return
        try:
            if read_token(self.path) == self.value:
                self.path.unlink()
        except AccessDeniedError:
            return

    def __repr__(self) -> str:
        return f"Token({str(self.path)!r})"


def read_token(path: Path) -> bytes:
    """The content of a token file: 64 hexadecimal characters.

    AccessDeniedError, with what to do, if it is absent, is not a file of this user's alone (links are not followed), or
    holds something else. Clients check before they send anything, so that no other user can hand them a sidecar.
    """
    try:
        handle = os.open(path, _READ)
    except FileNotFoundError:
        raise AccessDeniedError(f"there is no token file {path}; is the sidecar running?") from None
    except OSError as error:
        raise AccessDeniedError(f"the token file {path} cannot be opened: {error.strerror}") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise AccessDeniedError(f"the token file {path} is not a regular file")
        if _POSIX and (found.st_uid != os.getuid() or found.st_mode & 0o077):
            raise AccessDeniedError(f"the token file {path} must belong to you and to nobody else: chmod 600 {path}")
        text = os.read(handle, 4 * SIDECAR_TOKEN_LEN).strip()
    finally:
        os.close(handle)
    if len(text) != 2 * SIDECAR_TOKEN_LEN or not set(text) <= set(b"0123456789abcdefABCDEF"):
        raise AccessDeniedError(f"the token file {path} does not hold {2 * SIDECAR_TOKEN_LEN} hexadecimal characters")
    return text
