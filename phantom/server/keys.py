"""The server's signing key: loaded, or made on the first start; never replaced (surface §6)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.errors import ConfigError

__all__ = ["SYSTEM_KEY_FILE", "load_or_create", "state_key_file"]

logger = logging.getLogger("phantom.server")

SYSTEM_KEY_FILE: Final = Path("/etc/phantom-server/signing.key")


def state_key_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the key lives for a user who may not write ``SYSTEM_KEY_FILE``: ``$XDG_STATE_HOME/phantom/signing.key``."""
    base = environ.get("XDG_STATE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return home / "phantom" / "signing.key"


def load_or_create(path: Path | None, *, system: Path = SYSTEM_KEY_FILE, state: Path | None = None) -> HybridSigningKey:
    """The key in ``path``, made there (0600, with its parents) if there is no such file.

    Without ``path``: the key in ``system``; if that neither exists nor can be made, the one in ``state``, with a
    notice in the log. ConfigError for a key file that cannot be used or made: it is never replaced.
    """
    if path is not None:
        return _load(path) if _present(path) else _create(path)
    if _present(system):
        return _load(system)
    try:
        return _create(system)
    except ConfigError as refusal:
        fallback = state or state_key_file()
        logger.warning("%s; using %s (--signing-key-file chooses another)", refusal, fallback)
        return load_or_create(fallback)


def _present(path: Path) -> bool:
    """Whether something is there. What cannot be looked at counts: a key that is not seen must not be shadowed."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _load(path: Path) -> HybridSigningKey:
    key = HybridSigningKey.from_file(path)
    logger.info("signing key read from %s", path)
    return key


def _create(path: Path) -> HybridSigningKey:
    key = HybridSigningKey.generate()
    try:
        key.write_file(path)
    except ConfigError:
        key.close()
        if _present(path):  # another server was faster
            return _load(path)
        raise
    logger.warning("new signing key written to %s; keep a copy: clients pin it", path)
    return key
