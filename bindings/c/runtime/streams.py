"""Streams of libphantom."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from phantom.errors import UnsupportedError

__all__ = ["StreamOperations"]

_LATER: Final = "this library does not have it yet"


class StreamOperations:
    """What the calls on streams do, and those on sessions that came with them."""

    def session_open_stream(self, session: Any, priority: int, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def session_accept_stream(self, session: Any, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def session_rekey(self, session: Any, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def session_export_keying_material(self, session: Any, label: str, length: int) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def session_next_event_ex(self, session: Any, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def outcome_client_identity(self, outcome: Any) -> None:
        """None: no client proves an identity yet."""

    def stream_id(self, stream: Any) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_priority(self, stream: Any) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_max_unreliable_size(self, stream: Any) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_send_reliable(self, stream: Any, data: memoryview, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_send_unreliable(self, stream: Any, data: memoryview, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_recv(self, stream: Any, timeout: float | None) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_reset_code(self, stream: Any) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_set_priority(self, stream: Any, priority: int) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_finish(self, stream: Any) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_reset(self, stream: Any, code: int) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_stop(self, stream: Any, code: int) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    def stream_release(self, stream: Any) -> None:
        """There is none."""
