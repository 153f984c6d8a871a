"""Client authentication in a session (wire-native §15.7): what the exchange of ``client_auth`` sends, withholds, ends.

A session made without an exchange has the one of a peer that asks for nothing and shows nothing.
"""

from __future__ import annotations

from phantom.errors import ClientAuthError, PhantomError
from phantom.transport.packet import flags as flag
from phantom.transport.session.client_auth import (
    ClientAuthentication,
    ClientAuthInitiator,
    ClientAuthPolicy,
    ClientAuthResponder,
)
from phantom.transport.session.control import AuthResult, ClientAuth
from phantom.transport.session.core import CONTROL_STREAM, WRITABLE, SessionCore
from phantom.transport.session.events import ClientAuthenticated
from phantom.transport.session.states import Trigger

__all__ = ["begin", "expire", "first_packet", "on_close", "on_message", "on_withheld", "settle"]


def begin(core: SessionCore, now: float) -> None:
    """The session is established: CLIENT_AUTH leaves first, and nothing is shown before the verdict."""
    auth = core.auth
    if auth is None:
        return
    core.admitted = auth.admitted
    core.withheld = not auth.takes_data
    core.first_awaited = core.withheld and not core.path.profile.datagram
    settle(core, now)


def exchange(core: SessionCore, now: float) -> ClientAuthentication:
    """The exchange, made now where there was no need for it before."""
    if core.auth is None:
        if core.initiator:
            core.auth = ClientAuthInitiator(None, None, now=now)
        else:
            core.auth = ClientAuthResponder(None, ClientAuthPolicy.NONE, now=now)
    return core.auth


def on_message(core: SessionCore, message: ClientAuth | AuthResult, now: float) -> None:
    """A message of the exchange; raises what ends the session."""
    exchange(core, now).on_message(message, now)
    settle(core, now)


def first_packet(core: SessionCore, word: int, stream_id: int, now: float) -> None:
    """The first packet of the peer on a byte pipe: a client with an identity would begin with it."""
    core.first_awaited = False
    if core.auth is not None and not (word & flag.RELIABLE and stream_id == CONTROL_STREAM):
        core.auth.on_first_packet(now)
        settle(core, now)


def on_withheld(core: SessionCore, now: float) -> bool:
    """Data on a stream other than 0 before anybody was admitted; True if it may be taken after all."""
    if core.auth is not None:
        core.auth.on_data(now)
        settle(core, now)
    return not core.withheld


def on_close(core: SessionCore, code: int, now: float) -> None:
    """CLOSE has arrived; with code 43 it may stand for a refusal."""
    if core.auth is not None or (core.initiator and code == ClientAuthError.code):
        error = exchange(core, now).on_close(code)
        if error is not None:
            core.error = error


def settle(core: SessionCore, now: float) -> None:
    """Does what the exchange has decided."""
    auth = core.auth
    if auth is None or core.phase.over:
        return
    outgoing = auth.take_outgoing()
    if outgoing:
        core.send_control(outgoing)
    request = auth.next_request()
    if request is not None:
        core.add_event(request)
        core.progress = True
    core.withheld = not auth.takes_data
    if auth.identity is not None and not core.authenticated:
        core.authenticated = True
        core.add_event(ClientAuthenticated(auth.identity))
    if auth.admitted and not core.admitted:
        core.admitted = True
        core.progress = True
        core.gated = False
        core.open_session_window(now)
    if auth.error is not None and core.phase in WRITABLE:  # Migrating too: the refusal must not get lost
        _refuse(core, auth.error, now)


def _refuse(core: SessionCore, error: ClientAuthError, now: float) -> None:
    """CLOSE with code 43 leaves when AUTH_RESULT is acknowledged."""
    core.error = error
    core.close_code = error.code
    core.acked_at = now
    core.move(Trigger.LOCAL_CLOSE, str(error))
    core.ping_asked = True
    core.check_flushed()


def expire(core: SessionCore, now: float) -> bool:
    """The deadline of the exchange may have come; True if that ended the session."""
    auth = core.auth
    due = auth.deadline() if auth is not None else None
    if auth is None or due is None or now < due:
        return False
    try:
        auth.expire(now)
    except PhantomError as error:
        core.fail(error)
        return True
    settle(core, now)
    return core.phase.over
