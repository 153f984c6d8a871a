"""The leg over the WebSocket of a page (wire-native §21.7), in Pyodide.

One binary message is one frame; windows and batches add the length prefix here. The API of pages has no back-pressure:
what is sent waits in the browser, so nothing is filled while more than 1 MiB does; what arrives cannot be held back, so
only the credit that the session grants bounds it, and a peer that ignores it loses the leg.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from phantom import limits
from phantom.errors import FrameTooLargeError, NetworkError, PhantomError, PhantomTimeoutError, ProtocolViolationError
from phantom.transport.legs.base import LegOwner, LegRuntime, Timer
from phantom.transport.legs.buffers import BATCH, WINDOW, private
from phantom.transport.legs.http_upgrade import SUBPROTOCOL
from phantom.transport.legs.opening import Opening
from phantom.transport.legs.websocket import closing_error

__all__ = ["HELD_CAP", "HIGH_WATER", "LOW_WATER", "BrowserLeg", "open_browser_leg", "page_socket"]

HIGH_WATER: Final = limits.MiB
"""Bytes that may wait in the browser before nothing more is filled."""
LOW_WATER: Final = 256 * limits.KiB
"""Bytes in the browser below which filling goes on."""
HELD_CAP: Final = 2 * limits.RECV_WINDOW_CEILING
"""Bytes that may have arrived while the owner took nothing."""
_LOOK_AGAIN: Final = 0.004  # s; what Pyodide is asked to do sooner is no timer and would starve the socket
_CACHED_VIEWS: Final = 64
_OPEN, _NORMAL, _ABNORMAL = 1, 1000, 1006
_U32 = Struct(">I")
_EVENTS: Final = ("onopen", "onmessage", "onclose", "onerror")


def _proxy(handler: Callable[[Any], None]) -> Any:
    return importlib.import_module("pyodide.ffi").create_proxy(handler)


def _new_array(length: int) -> Any:
    return importlib.import_module("js").Uint8Array.new(length)


def page_socket(url: str) -> Any:
    """A WebSocket of the page to ``url``, connecting. NetworkError if the page does not allow it."""
    js = importlib.import_module("js")
    protocols = importlib.import_module("pyodide.ffi").to_js([SUBPROTOCOL])
    try:
        return js.WebSocket.new(url, protocols)
    except Exception as refused:  # a policy, mixed content, a bad URL
        raise NetworkError(f"the page may not open {url}: {refused}") from refused


class BrowserLeg:
    """One WebSocket of the page. All calls in the thread of its loop.

    ``socket`` is a JavaScript WebSocket, connecting or open; this leg sets its handlers and removes them at the end.
    ``proxy`` and ``new_array`` are how Python functions become JavaScript ones, and how a Uint8Array is made.
    """

    __slots__ = (
        "_array",
        "_blocked",
        "_closed",
        "_ended",
        "_held",
        "_held_bytes",
        "_lost",
        "_new_array",
        "_paused",
        "_proxies",
        "_runtime",
        "_socket",
        "_texts",
        "_timer",
        "_views",
        "name",
        "on_open",
        "owner",
        "peer_addr",
    )

    proves_address = True

    def __init__(
        self,
        socket: Any,
        runtime: LegRuntime,
        peer_addr: str,
        *,
        proxy: Callable[[Callable[[Any], None]], Any] = _proxy,
        new_array: Callable[[int], Any] = _new_array,
    ) -> None:
        self.name = "websocket"
        self.peer_addr = peer_addr
        self.owner: LegOwner | None = None
        self.on_open: Callable[[], None] | None = None
        self._socket = socket
        self._runtime = runtime
        self._new_array = new_array
        self._array: Any = None
        self._views: dict[int, Any] = {}
        self._held: deque[bytearray] = deque()  # whole frames that the owner has not taken
        self._held_bytes = 0
        self._paused = False
        self._blocked = False
        self._texts = 0
        self._timer: Timer | None = None
        self._lost = False  # the owner was told, or has closed
        self._ended = False  # the socket is closing
        self._closed = asyncio.Event()
        socket.binaryType = "arraybuffer"
        handlers = (self._opened, self._message, self._socket_closed, self._socket_failed)
        self._proxies = tuple(proxy(handler) for handler in handlers)
        for event, handler in zip(_EVENTS, self._proxies, strict=True):
            setattr(socket, event, handler)

    @property
    def closed(self) -> bool:
        """True once the socket is closed and its handlers are gone."""
        return self._closed.is_set()

    @property
    def buffered(self) -> int:
        """Bytes that wait in the browser."""
        return int(self._socket.bufferedAmount)

    def start(self, owner: LegOwner) -> None:
        """Hands what comes to ``owner``."""
        self.owner = owner
        self.resume()
        self.flush()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Holds what arrives until :meth:`resume`; a page cannot stop reading."""
        self._paused = True

    def resume(self) -> None:
        """Hands over what was held, then what comes."""
        self._paused = False
        while self._held and not self._paused and not self._lost:
            frame = self._held.popleft()
            self._held_bytes -= len(frame)
            if not self._hand(frame, memoryview(frame), len(frame)):
                self._hold(frame, first=True)
                return

    def _message(self, event: Any) -> None:
        if self._lost:
            return
        data = event.data
        if isinstance(data, str):
            self._texts += 1
            if self._texts > limits.MAX_WEBSOCKET_TEXTS:
                self._fail(
                    ProtocolViolationError(
                        f"the peer sent more than {limits.MAX_WEBSOCKET_TEXTS} text messages in a row"
                    )
                )
            return
        self._texts = 0
        size = int(data.byteLength)
        if size == 0 or size > limits.ABSOLUTE_FRAME_CAP:
            self._fail(_bad_size(size))
            return
        length = limits.LENGTH_PREFIX + size
        waits = self._paused or bool(self._held) or self.owner is None
        window = WINDOW.take() if length <= WINDOW.size and not waits else private(length)
        buf, view = window
        _U32.pack_into(buf, 0, size)
        data.assign_to(view[limits.LENGTH_PREFIX : length])
        if waits:
            self._hold(buf)
        elif not self._hand(buf, view, length):
            self._hold(bytearray(view[:length]))
        WINDOW.give(window)

    def _hand(self, buf: bytearray, view: memoryview, length: int) -> bool:
        """Whether the owner took the frame."""
        owner = self.owner
        return owner is None or owner.leg_received(buf, view, 0, length) == length

    def _hold(self, frame: bytearray, *, first: bool = False) -> None:
        if self._lost:
            return
        self._held.appendleft(frame) if first else self._held.append(frame)
        self._held_bytes += len(frame)
        if self._held_bytes > HELD_CAP:
            self._fail(ProtocolViolationError(f"the peer sent {self._held_bytes} bytes that nobody had room for"))

    # --- sending ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Takes batches from the owner and sends them, while less than the high-water mark waits in the browser."""
        owner = self.owner
        while owner is not None and not self._lost and not self._blocked and self._socket.readyState == _OPEN:
            if self.buffered > HIGH_WATER:
                self._block(owner)
            elif not self._fill(owner):
                return

    def _fill(self, owner: LegOwner) -> bool:
        size = owner.batch_size
        batch = BATCH.take() if size <= BATCH.size else private(size)
        buf, view = batch
        end = owner.leg_fill(buf, view, 0, len(buf))
        at = 0
        while at < end:
            stop = at + limits.LENGTH_PREFIX + _U32.unpack_from(buf, at)[0]
            self._send(view[at + limits.LENGTH_PREFIX : stop])
            at = stop
        BATCH.give(batch)
        return end > 0

    def _send(self, frame: memoryview) -> None:
        size = len(frame)
        array = self._views.get(size)
        if array is None:
            if self._array is None or size > int(self._array.length):
                self._array = self._new_array(max(limits.HANDSHAKE_FRAME_CAP, 1 << size.bit_length()))
                self._views.clear()
            elif len(self._views) >= _CACHED_VIEWS:
                self._views.clear()
            array = self._views[size] = self._array.subarray(0, size)
        array.assign(frame)
        self._socket.send(array)  # the browser takes a copy

    def _block(self, owner: LegOwner) -> None:
        self._blocked = True
        owner.leg_blocked(True)
        self._look_again()

    def _look_again(self) -> None:
        self._timer = self._runtime.call_at(self._runtime.monotonic() + _LOOK_AGAIN, self._look)

    def _look(self) -> None:
        """The page tells nobody that its buffer drains: it has to be asked."""
        self._timer = None
        if self._lost:
            return
        if self.buffered > LOW_WATER:
            self._look_again()
            return
        self._blocked = False
        if self.owner is not None:
            self.owner.leg_blocked(False)
        self.flush()

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, *, linger: bool) -> None:
        """Ends the leg; with ``linger`` what the owner still has is given to the browser, which sends it first."""
        already, self._lost = self._lost, True
        owner = self.owner
        if linger and not already and owner is not None and self._socket.readyState == _OPEN:
            while self._fill(owner):
                pass
        self._finish(linger=linger)

    async def wait_closed(self) -> None:
        """Returns when the socket is closed, or has not closed in time and was left to the browser."""
        await self._closed.wait()

    def _opened(self, _event: Any) -> None:
        if self.on_open is not None:
            self.on_open()
        self.flush()

    def _socket_failed(self, _event: Any) -> None:
        """Says nothing about what failed; the closing that follows says little more."""

    def _socket_closed(self, event: Any) -> None:
        code = int(event.code)
        if code == _ABNORMAL:
            error: PhantomError | None = NetworkError("the WebSocket broke, or could not be opened")
        else:
            error = closing_error(code)
        self._end(error)
        self._forget()

    def _fail(self, error: PhantomError) -> None:
        self._end(error)
        self._finish(linger=False)

    def _end(self, error: PhantomError | None) -> None:
        told, self._lost = self._lost, True
        if not told and self.owner is not None:
            self.owner.leg_lost(error)

    def _finish(self, *, linger: bool) -> None:
        if self._ended:
            return
        self._ended = True
        self._held.clear()
        self._held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._socket.close(_NORMAL)
        if linger:
            self._timer = self._runtime.call_at(self._runtime.monotonic() + limits.LINGER, self._forget)
        else:
            self._forget()

    def _forget(self) -> None:
        """Lets go of the page's socket."""
        if self._closed.is_set():
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for event in _EVENTS:
            setattr(self._socket, event, None)
        for handler in self._proxies:
            handler.destroy()
        self._held.clear()
        self._held_bytes = 0
        self._views.clear()
        self._array = None
        self._closed.set()


def _bad_size(size: int) -> PhantomError:
    if size:
        return FrameTooLargeError(f"a message of {size} bytes arrived; the limit is {limits.ABSOLUTE_FRAME_CAP}")
    return ProtocolViolationError("the peer sent an empty message")


async def open_browser_leg(leg: BrowserLeg, timeout: float) -> BrowserLeg:
    """Returns ``leg`` when its socket is open. Raises NetworkError, PhantomTimeoutError; the leg is closed then."""
    opening = Opening(limits.HANDSHAKE_FRAME_CAP, "the server closed the WebSocket at once")
    leg.on_open = opening.opened
    try:
        leg.owner = opening
        if leg._socket.readyState == _OPEN:
            opening.opened()
        async with leg._runtime.timeout(timeout):
            await opening.done
    except TimeoutError:
        leg.close(linger=False)
        raise PhantomTimeoutError(f"{leg.peer_addr} did not take the WebSocket within {timeout:g} s") from None
    except BaseException:
        leg.close(linger=False)
        raise
    finally:
        leg.on_open = None
    return leg
