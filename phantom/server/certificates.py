"""The certificate of ``wss://`` addresses (surface §6)."""

from __future__ import annotations

import ssl
from pathlib import Path

from phantom.errors import ConfigError

__all__ = ["server_context"]


def server_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """A context that offers ``certificate`` (a PEM chain, key in ``key`` or in the same file); None without one.

    Raises ConfigError, which names the file that does not do.
    """
    if certificate is None:
        if key is not None:
            raise ConfigError("--tls-key belongs to a --tls-cert, and there is none")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never asks a terminal
    except ssl.SSLError as error:
        names = str(certificate) if key is None else f"{certificate} and {key}"
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        raise ConfigError(f"cannot use the certificate in {names}: {reason}") from None
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {certificate} or its key: {error.strerror}") from error
    return context
