"""The API without ``await``: the same names on a private loop thread (surface §14)."""

from phantom.api.blocking.calls import (
    AcceptOutcome,
    PhantomListener,
    PhantomSession,
    PhantomStream,
    connect,
    connect_pinned,
    listen,
)

__all__ = ["AcceptOutcome", "PhantomListener", "PhantomSession", "PhantomStream", "connect", "connect_pinned", "listen"]
