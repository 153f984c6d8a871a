"""What ``--tls-cert`` and ``--tls-key`` make, and what they say when they cannot."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from phantom.errors import ConfigError
from phantom.server.certificates import server_context
from tests.tls import write_certificate


def test_a_certificate_with_its_key_in_one_file_or_two(tmp_path: Path) -> None:
    both = write_certificate(tmp_path / "both.pem")
    head, _, key = both.read_text().partition("-----BEGIN PRIVATE KEY-----")
    (tmp_path / "cert.pem").write_text(head)
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----" + key)
    for context in (server_context(both, None), server_context(tmp_path / "cert.pem", tmp_path / "key.pem")):
        assert isinstance(context, ssl.SSLContext)
        assert context.protocol is ssl.PROTOCOL_TLS_SERVER
    assert server_context(None, None) is None


def test_what_does_not_do_is_named(tmp_path: Path) -> None:
    both = write_certificate(tmp_path / "both.pem")
    (tmp_path / "cert.pem").write_text(both.read_text().partition("-----BEGIN PRIVATE KEY-----")[0])
    (tmp_path / "nonsense.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"cannot read the certificate .*missing.pem or its key: No such file"):
        server_context(tmp_path / "missing.pem", None)
    with pytest.raises(ConfigError, match=r"cannot use the certificate in .*nonsense.pem"):
        server_context(tmp_path / "nonsense.pem", None)
    with pytest.raises(ConfigError, match=r"cannot use the certificate in .*cert.pem"):
        server_context(tmp_path / "cert.pem", None)
    other = write_certificate(tmp_path / "other.pem")
    with pytest.raises(ConfigError, match=r"cert.pem and .*other.pem: key values mismatch"):
        server_context(tmp_path / "cert.pem", other)
    with pytest.raises(ConfigError, match=r"--tls-key belongs to a --tls-cert"):
        server_context(None, both)
