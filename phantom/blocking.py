"""``phantom.blocking``: the API without ``await`` (surface §14)."""

from phantom.api.blocking import (
    AcceptOutcome,
    PhantomListener,
    PhantomSession,
    PhantomStream,
    connect,
    connect_pinned,
    listen,
)

__all__ = ["AcceptOutcome", "PhantomListener", "PhantomSession", "PhantomStream", "connect", "connect_pinned", "listen"]
