"""The leg over a page's WebSocket, against a socket that does what the test says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from phantom import limits
from phantom.errors import (
    FrameTooLargeError,
    NetworkError,
    PhantomError,
    PhantomTimeoutError,
    ProtocolViolationError,
)
from phantom.transport.legs import browser
from phantom.transport.legs.browser import HELD_CAP, HIGH_WATER, LOW_WATER, BrowserLeg, open_browser_leg, page_socket
from tests.crypto.page import Array, array
from tests.transport.legs.support import Owner, TurnedClock, frame

CONNECTING, OPEN, CLOSED = 0, 1, 3


class Proxy:
    def __init__(self, handler: Callable[[Any], None]) -> None:
        self.handler = handler
        self.destroyed = False

    def __call__(self, event: Any) -> None:
        assert not self.destroyed
        self.handler(event)

    def destroy(self) -> None:
        assert not self.destroyed
        self.destroyed = True


class Socket:
    """Its handlers are attributes, its buffer drains when the test says so."""

    def __init__(self, state: int = OPEN) -> None:
        self.readyState = state
        self.bufferedAmount = 0
        self.binaryType = "blob"
        self.sent: list[bytes] = []
        self.closes: list[int] = []
        self.onopen: Any = None
        self.onmessage: Any = None
        self.onclose: Any = None
        self.onerror: Any = None

    def send(self, data: Array) -> None:
        self.sent.append(data.to_bytes())
        self.bufferedAmount += data.length

    def close(self, code: int) -> None:
        self.closes.append(code)
        self.readyState = CLOSED

    def arrive(self, data: bytes | str) -> None:
        self.onmessage(SimpleNamespace(data=data if isinstance(data, str) else array(data)))

    def end(self, code: int) -> None:
        self.readyState = CLOSED
        self.onclose(SimpleNamespace(code=code))


class Page:
    """A leg with everything around it."""

    def __init__(self, state: int = OPEN, *, start: bool = True, **owner: Any) -> None:
        self.clock = TurnedClock()
        self.socket = Socket(state)
        self.proxies: list[Proxy] = []
        self.arrays: list[Array] = []
        self.leg = BrowserLeg(self.socket, self.clock, "page", proxy=self._proxy, new_array=self._array)
        self.owner = Owner(**owner)
        if start:
            self.leg.start(self.owner)

    def _proxy(self, handler: Callable[[Any], None]) -> Proxy:
        self.proxies.append(Proxy(handler))
        return self.proxies[-1]

    def _array(self, length: int) -> Array:
        self.arrays.append(array(length))
        return self.arrays[-1]

    def gone(self) -> bool:
        socket = self.socket
        handlers = (socket.onopen, socket.onmessage, socket.onclose, socket.onerror)
        return self.leg.closed and handlers == (None,) * 4 and all(proxy.destroyed for proxy in self.proxies)


def page_test(test: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@page_test
async def test_messages_are_frames_in_both_directions() -> None:
    page = Page()
    assert page.socket.binaryType == "arraybuffer"
    for data in (b"one", b"x" * 70000, bytes(limits.READ_WINDOW)):
        page.socket.arrive(data)
    assert page.owner.frames == [b"one", b"x" * 70000, bytes(limits.READ_WINDOW)]
    page.owner.out.extend((frame(b"three"), frame(b"four")))
    page.leg.flush()
    assert page.socket.sent == [b"three", b"four"]


@page_test
async def test_arrays_for_sending_are_reused() -> None:
    page = Page()
    for size in (*range(1, 200), 100000, 10):
        page.owner.batch_size = size + 4
        page.owner.out.append(frame(bytes(size)))
        page.leg.flush()
    assert [len(data) for data in page.socket.sent] == [*range(1, 200), 100000, 10]
    assert len(page.arrays) == 2
    assert len(page.leg._views) <= 64


@page_test
async def test_nothing_leaves_before_the_socket_is_open() -> None:
    page = Page(CONNECTING)
    page.owner.out.append(frame(b"hello"))
    page.leg.flush()
    assert page.socket.sent == []
    page.socket.readyState = OPEN
    page.socket.onopen(None)
    assert page.socket.sent == [b"hello"]


@page_test
async def test_a_full_browser_holds_back_the_owner() -> None:
    page = Page(batch_size=65540)
    page.owner.out.extend(frame(bytes(65536)) for _ in range(40))
    page.leg.flush()
    assert HIGH_WATER < page.socket.bufferedAmount <= HIGH_WATER + 65536 * 4
    sent = len(page.socket.sent)
    assert page.owner.blocked == [True]
    page.leg.flush()
    page.socket.bufferedAmount = LOW_WATER + 1
    page.clock.turn(0.005)
    assert (len(page.socket.sent), page.owner.blocked) == (sent, [True])
    assert min(page.clock.armed) > 0.002  # what is sooner is no timer in Pyodide
    page.socket.bufferedAmount = LOW_WATER
    page.clock.turn(0.1)
    assert page.owner.blocked[:2] == [True, False]
    assert len(page.socket.sent) > sent


@page_test
async def test_what_arrives_during_a_pause_is_held_in_order() -> None:
    page = Page()
    page.leg.pause()
    page.socket.arrive(b"one")
    page.socket.arrive(b"two")
    assert page.owner.frames == []
    page.owner.on_frame = lambda data: page.leg.pause() if data == b"one" else None
    page.leg.resume()
    assert page.owner.frames == [b"one"]
    page.socket.arrive(b"three")
    page.leg.resume()
    assert page.owner.frames == [b"one", b"two", b"three"]
    assert (page.leg._held_bytes, len(page.leg._held)) == (0, 0)


@page_test
async def test_what_the_owner_leaves_is_handed_again() -> None:
    page = Page(start=False)
    taken: list[bytes] = []

    class Busy(Owner):
        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            return start

    page.leg.start(Busy())
    page.socket.arrive(b"one")
    page.socket.arrive(b"two")
    page.leg.resume()
    assert len(page.leg._held) == 2
    page.leg.start(page.owner)
    assert page.owner.frames == [b"one", b"two"]
    assert taken == []


@page_test
async def test_before_there_is_an_owner_everything_is_held() -> None:
    page = Page(start=False)
    page.leg.flush()
    page.socket.arrive(b"early")
    page.leg.start(page.owner)
    assert page.owner.frames == [b"early"]


@page_test
async def test_a_peer_that_ignores_its_credit_loses_the_leg() -> None:
    page = Page()
    page.leg.pause()
    block = bytes(limits.ABSOLUTE_FRAME_CAP)
    for _ in range(HELD_CAP // len(block) + 1):
        if page.owner.lost:
            break
        page.socket.arrive(block)
    assert [type(error) for error in page.owner.lost] == [ProtocolViolationError]
    assert page.leg._held_bytes == 0
    assert page.gone()


@page_test
async def test_text_is_ignored_but_not_for_ever() -> None:
    page = Page()
    for _ in range(3):
        for _ in range(limits.MAX_WEBSOCKET_TEXTS):
            page.socket.arrive("text")
        page.socket.arrive(b"data")
    assert (page.owner.frames, page.owner.lost) == ([b"data"] * 3, [])
    for _ in range(limits.MAX_WEBSOCKET_TEXTS + 1):
        page.socket.arrive("text")
    assert [type(error) for error in page.owner.lost] == [ProtocolViolationError]
    assert page.gone()


@pytest.mark.parametrize(
    ("size", "kind"), [(0, ProtocolViolationError), (limits.ABSOLUTE_FRAME_CAP + 1, FrameTooLargeError)]
)
def test_a_message_of_a_bad_size_ends_the_leg(size: int, kind: type[PhantomError]) -> None:
    async def main() -> None:
        page = Page()
        page.socket.arrive(bytes(size))
        assert [type(error) for error in page.owner.lost] == [kind]
        assert page.socket.closes == [1000]
        assert page.gone()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, type(None)),
        (1001, type(None)),
        (1005, type(None)),
        (1006, NetworkError),
        (1009, FrameTooLargeError),
        (1011, NetworkError),
    ],
)
def test_close_codes_have_their_meaning(code: int, kind: type) -> None:
    async def main() -> None:
        page = Page()
        page.socket.onerror(None)  # says nothing
        page.socket.end(code)
        assert [type(error) for error in page.owner.lost] == [kind]
        assert page.gone()
        page.leg.close(linger=True)
        await page.leg.wait_closed()

    asyncio.run(main())


@page_test
async def test_closing_gives_the_browser_what_is_left() -> None:
    page = Page()
    page.socket.bufferedAmount = 2 * HIGH_WATER
    page.owner.out.append(frame(b"last"))
    page.leg.close(linger=True)
    assert (page.socket.sent, page.socket.closes, page.leg.closed) == ([b"last"], [1000], False)
    page.socket.arrive = None  # type: ignore[assignment]
    page.socket.onmessage(SimpleNamespace(data=array(b"late")))
    assert page.owner.frames == []
    page.socket.onclose(SimpleNamespace(code=1000))
    await page.leg.wait_closed()
    assert (page.owner.lost, page.gone()) == ([], True)
    assert page.clock.armed == []


@page_test
async def test_a_peer_that_does_not_answer_the_close_is_left_to_the_browser() -> None:
    page = Page()
    page.leg.close(linger=True)
    page.leg.close(linger=True)
    page.clock.turn(limits.LINGER)
    assert page.gone()
    assert page.socket.closes == [1000]


@page_test
async def test_closing_at_once_sends_nothing_more() -> None:
    page = Page(batch_size=65540)
    page.owner.out.extend(frame(bytes(65536)) for _ in range(40))
    page.leg.flush()
    sent = len(page.socket.sent)
    page.leg.close(linger=False)
    assert page.gone()
    page.leg.flush()
    page.leg._look()
    page.leg._hold(bytearray(5))
    assert (len(page.socket.sent), page.clock.armed, len(page.leg._held)) == (sent, [], 0)


@page_test
async def test_an_owner_that_closes_while_it_takes_a_frame() -> None:
    page = Page()
    page.leg.pause()
    page.socket.arrive(b"one")
    page.socket.arrive(b"two")
    page.owner.on_frame = lambda _: page.leg.close(linger=False)
    page.leg.resume()
    assert page.owner.frames == [b"one"]
    assert page.gone()


@pytest.mark.parametrize("linger", [False, True])
def test_an_owner_that_closes_when_it_hears_of_the_end(linger: bool) -> None:
    async def main() -> None:
        page = Page()
        page.owner.on_lost = lambda: page.leg.close(linger=linger)
        page.socket.end(1006)
        assert page.gone()
        assert page.clock.armed == []

    asyncio.run(main())


@page_test
async def test_opening() -> None:
    page = Page(CONNECTING, start=False)
    opening = asyncio.ensure_future(open_browser_leg(page.leg, 5.0))
    await asyncio.sleep(0)
    page.leg.flush()
    page.socket.readyState = OPEN
    page.socket.onopen(None)
    page.socket.onopen(None)
    page.socket.arrive(b"early")
    assert await opening is page.leg
    page.leg.start(page.owner)
    assert page.owner.frames == [b"early"]


@page_test
async def test_opening_what_is_open() -> None:
    page = Page(start=False)
    assert await open_browser_leg(page.leg, 5.0) is page.leg


@pytest.mark.parametrize(("code", "words"), [(1006, "could not be opened"), (1000, "at once")])
def test_opening_fails(code: int, words: str) -> None:
    async def main() -> None:
        page = Page(CONNECTING, start=False)
        opening = asyncio.ensure_future(open_browser_leg(page.leg, 5.0))
        await asyncio.sleep(0)
        page.socket.end(code)
        with pytest.raises(NetworkError, match=words):
            await opening
        assert page.gone()

    asyncio.run(main())


@page_test
async def test_opening_has_a_limit() -> None:
    page = Page(CONNECTING, start=False)
    with pytest.raises(PhantomTimeoutError, match="page did not take the WebSocket"):
        await open_browser_leg(page.leg, 0.001)
    assert page.gone()


@page_test
async def test_opening_can_be_abandoned() -> None:
    page = Page(CONNECTING, start=False)
    opening = asyncio.ensure_future(open_browser_leg(page.leg, 5.0))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert page.gone()


def test_the_functions_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    js, ffi = ModuleType("js"), ModuleType("pyodide.ffi")
    js.WebSocket = SimpleNamespace(new=lambda *given: given)  # type: ignore[attr-defined]
    js.Uint8Array = SimpleNamespace(new=array)  # type: ignore[attr-defined]
    ffi.to_js = tuple  # type: ignore[attr-defined]
    ffi.create_proxy = Proxy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "js", js)
    monkeypatch.setitem(sys.modules, "pyodide", ModuleType("pyodide"))
    monkeypatch.setitem(sys.modules, "pyodide.ffi", ffi)
    assert page_socket("ws://host:1/phantom") == ("ws://host:1/phantom", ("phantom-core",))
    assert browser._new_array(3).length == 3
    assert isinstance(browser._proxy(print), Proxy)

    def refuse(*_: Any) -> None:
        raise RuntimeError("SecurityError: mixed content")

    js.WebSocket = SimpleNamespace(new=refuse)  # type: ignore[attr-defined]
    with pytest.raises(NetworkError, match="mixed content"):
        page_socket("ws://host:1/phantom")
