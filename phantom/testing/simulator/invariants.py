"""What must hold after every step of a simulation, whatever the network did (wire-native, Appendix A).

Each invariant is a function of a :class:`View` by its name in :data:`INVARIANTS`; it raises InvariantViolationError.
Others are checked where they happen: ``nonce`` at every seal (:mod:`.seal_watch`), ``order`` and ``twice`` at every
read (:mod:`.workload`), ``timers`` also at every timer call (:mod:`.endpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import lt
from typing import Any, Final

from phantom import limits
from phantom.testing.simulator.endpoint import Endpoint
from phantom.testing.simulator.errors import InvariantViolationError
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import PacketProtection
from phantom.transport.session.connection import Connection, SessionSettings
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.states import Phase

__all__ = ["INVARIANTS", "View", "check"]

_NEVER: Final = ("wrong_version", "path_gated", "protocol_violation", "unknown_control")
_RISING: Final = (
    "send limit",
    "window limit",
    "count of bytes sent",
    "count of bytes received",
    "cursor",
    "lowest segment held",
)
_BY_DAMAGE: Final = ("malformed", "wrong_session", "unencrypted_dropped", "decrypt_failed")


class View:
    """One end as the invariants see it, with what they remember of it from step to step.

    ``damage`` tells that the network turns bits over, ``copies`` that it doubles or delays datagrams, ``epochs`` that
    packets may arrive for an epoch that is gone.
    """

    __slots__ = (
        "conn",
        "copies",
        "counters",
        "damage",
        "end",
        "epochs",
        "marks",
        "memory",
        "other",
        "protection",
        "settings",
        "stream_marks",
        "windows",
    )

    def __init__(
        self,
        end: Endpoint,
        protection: PacketProtection,
        memory: ReceiveMemory,
        settings: SessionSettings,
        *,
        damage: bool = False,
        copies: bool = False,
        epochs: bool = False,
    ) -> None:
        self.end = end
        self.conn: Connection = end.conn
        self.protection = protection
        self.counters: DropCounters = end.conn.counters
        self.memory = memory
        self.settings = settings
        self.other: View = self
        self.damage = damage
        self.copies = copies
        self.windows = protection.supports_rekey  # version 1 has neither
        self.epochs = epochs
        self.marks: dict[object, int] = {}  # the highest value seen of whatever must not fall
        self.stream_marks: dict[int, tuple[int, ...]] = {}  # the same of each stream, in the order of _RISING

    def streams(self) -> Iterator[Any]:
        """Every stream that the engine holds, the control stream (0) and stream 1 included."""
        yield from self.conn.channels()

    def fail(self, name: str, text: str) -> None:
        """Raises the violation."""
        raise InvariantViolationError(name, f"{self.end.name} at {self.end.clock.now:.6f} s: {text}")

    def rises(self, name: str, what: object, value: int) -> None:
        """``value`` must not be less than it was."""
        before = self.marks.get(what)
        if before is not None and value < before:
            self.fail(name, f"{what} fell from {before} to {value}")
        self.marks[what] = value


def conservation(view: View) -> None:
    """Every byte that the application handed over is queued, outstanding or acknowledged, and nothing is acknowledged
    that the peer does not have."""
    conn = view.conn
    if conn.phase in (Phase.ESTABLISHED, Phase.CLOSING):
        own = [stream for stream in view.streams() if stream.id]
        outstanding = sum(stream.outstanding.bytes for stream in own)
        beside = sum(sum(map(len, stream.unreliable)) for stream in own if stream.unreliable)
        beside += conn.control.unsent if conn.control is not None else 0
        if conn.queued - beside + outstanding != conn.unacknowledged:
            view.fail(
                "conservation",
                f"{conn.queued} bytes queued, {outstanding} outstanding, {conn.unacknowledged} unacknowledged",
            )
    stream, peer = conn.session_stream, view.other.conn.session_stream
    if view.windows and stream.outstanding.base > peer.reassembly.next_index and not view.other.conn.phase.over:
        view.fail(
            "conservation",
            f"segments up to {stream.outstanding.base} are acknowledged, the peer has {peer.reassembly.next_index}",
        )
    if conn.session_stream.outstanding.ahead < 0 or (not conn.streams and conn.flushed > conn.acked):
        view.fail("conservation", f"{conn.flushed} bytes flushed of {conn.acked} acknowledged")


def bounds(view: View) -> None:
    """Queues, windows and stores keep to their bytes (§14.3, §14.6, §14.9, §14.10)."""
    conn, settings = view.conn, view.settings
    for stream in view.streams():
        outstanding, credit = stream.outstanding, stream.send_limit
        if len(outstanding.segments) > settings.send_segments or outstanding.bytes > limits.MAX_PENDING_BYTES:
            view.fail(
                "bounds",
                f"stream {stream.id}: {len(outstanding.segments)} segments, {outstanding.bytes} bytes outstanding",
            )
        if view.windows and credit.sent > credit.limit:
            view.fail("bounds", f"stream {stream.id}: {credit.sent} bytes sent over the limit of {credit.limit}")
        store = stream.reassembly.store
        if stream.reassembly.stored > limits.MAX_REORDER_BYTES or len(store or ()) > settings.recv_segments:
            view.fail("bounds", f"stream {stream.id}: {stream.reassembly.stored} bytes in its reorder store")
        if (
            view.windows
            and not conn.phase.over
            and stream.received + stream.reassembly.stored > stream.window.limit + settings.bulk_chunk
        ):
            view.fail(
                "bounds",
                f"stream {stream.id}: {stream.received} bytes received and {stream.reassembly.stored} stored"
                f" over the window of {stream.window.limit}",
            )
        if view.windows and stream.window.limit - stream.received > limits.RECV_WINDOW_CEILING:
            view.fail("bounds", f"stream {stream.id}: {stream.window.limit - stream.received} bytes of window")


def peer_limit(view: View) -> None:
    """No end believes in more credit than the other has given (§14.6)."""
    if not view.windows:
        return
    mine, theirs = view.conn.session_stream, view.other.conn.session_stream
    if mine.send_limit.limit > max(limits.INITIAL_STREAM_WINDOW, theirs.window.limit):
        view.fail("peer limit", f"a limit of {mine.send_limit.limit}, where the peer gave {theirs.window.limit}")


def monotone(view: View) -> None:
    """Limits, cursors and counts only rise."""
    conn, rises = view.conn, view.rises
    rises("monotone", "acknowledged bytes", conn.acked)
    rises("monotone", "written bytes", conn.written)
    marks = view.stream_marks
    for stream in view.streams():
        credit = stream.send_limit
        values = (
            credit.limit,
            stream.window.limit,
            credit.sent,
            stream.received,
            stream.reassembly.next_index,
            stream.outstanding.base,
        )
        before = marks.get(stream.id, values)
        if values is not before and any(map(lt, values, before)):
            for what, old, new in zip(_RISING, before, values, strict=True):
                if new < old:
                    view.fail("monotone", f"{what} of stream {stream.id} fell from {old} to {new}")
        marks[stream.id] = values


def epochs(view: View) -> None:
    """Epochs rise, stay within their byte, and no end is more than the catch-up ahead (§16)."""
    epoch = view.protection.epoch
    view.rises("epochs", "the epoch", epoch)
    if not 0 <= epoch <= limits.MAX_EPOCH:
        view.fail("epochs", f"epoch {epoch}")
    if epoch != view.marks.get("changed epoch", 0):
        view.marks["changed epoch"] = epoch
        steps = view.protection.rekeys_local + view.protection.rekeys_peer
        if steps > epoch:
            view.fail("epochs", f"{steps} rekeys at epoch {epoch}")


def timers(view: View) -> None:
    """A live session has its next timer in the future, once what was due has been done."""
    due = None if view.conn.phase.over else view.conn.next_timer()
    if due is not None and not due < float("inf"):
        view.fail("timers", f"a timer at {due}")
    if view.conn.phase.over and not view.conn.lingering and view.conn.next_timer() is not None:
        view.fail("timers", "a session that is over has a timer")


def counters(view: View) -> None:
    """Nothing counts below zero, and nothing is dropped that the network gave no reason for."""
    conn, memory = view.conn, view.memory
    if (
        conn.queued < 0
        or conn.queued_messages < 0
        or conn.unacknowledged < 0
        or conn.session_stream.outstanding.ahead < 0
    ):
        view.fail("counters", f"queued {conn.queued}, unacknowledged {conn.unacknowledged}")
    if memory.charged < 0 or memory.credit < 0:
        view.fail("counters", f"memory charged {memory.charged}, credit {memory.credit}")
    for stream in view.streams():
        if stream.outstanding.bytes < 0 or stream.reassembly.stored < 0 or stream.pending_acks < 0:
            view.fail("counters", f"stream {stream.id}: {stream.outstanding.bytes} bytes outstanding")
    drops = view.counters
    for name in _NEVER:
        if getattr(drops, name):
            view.fail("drops", f"{getattr(drops, name)} packets dropped as {name} between two honest ends")
    if not view.damage:
        for name in _BY_DAMAGE:
            if getattr(drops, name) and not (name == "decrypt_failed" and view.epochs):
                view.fail("drops", f"{getattr(drops, name)} packets dropped as {name} on a link that damages nothing")
    if drops.replay_rejected and not view.copies:
        view.fail("drops", f"{drops.replay_rejected} packets refused as replays on a link that doubles nothing")


def memory_account(view: View) -> None:
    """The account of receive memory is the sum of its entries and stays below its hard bound (§14.11)."""
    memory = view.memory
    accounts = memory._accounts.values()
    if memory.charged != sum(charge for charge, _ in accounts) or memory.credit != sum(
        credit for _, credit in accounts
    ):
        view.fail("memory", f"charged {memory.charged} and credit {memory.credit} are not the sums of the accounts")
    if memory.charged * 8 >= memory.capacity * 9:
        view.fail("memory", f"charged {memory.charged} of {memory.capacity}")
    if view.conn.phase.over and view.conn in memory._accounts:
        view.fail("memory", "a session that is over is still charged")


INVARIANTS: Final[dict[str, Callable[[View], None]]] = {
    "conservation": conservation,
    "bounds": bounds,
    "peer limit": peer_limit,
    "monotone": monotone,
    "epochs": epochs,
    "timers": timers,
    "counters": counters,
    "memory": memory_account,
}


def check(view: View) -> None:
    """All of them, for one end."""
    for invariant in INVARIANTS.values():
        invariant(view)
