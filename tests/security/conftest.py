"""The identities and the echo server of the API tests."""

from tests.api.conftest import echo_server, other_key, server_key

__all__ = ["echo_server", "other_key", "server_key"]
