"""Event log of a session in qlog's sequential form, for viewers such as qvis (architecture §2, surface §5).

The form is qlog 0.3 (draft-ietf-quic-qlog-main-schema-03 and -quic-events-03, JSON text sequences of RFC 7464): viewers
read this version; later drafts have renamed every event, and none is an RFC yet. Where Phantom has what QUIC has not,
the frame type is ``unknown`` and names the flag word. A packet number counts the packets of its direction, as QUIC's
does; Phantom's own, which begins anew on each stream and in each epoch, is the event's ``sequence``.

A log holds numbers, states and reasons: no payload, no key, no token. The session's loop only formats a line;
one thread writes the lines of all logs, looks every half second, and ends with the last log. A log that has
``limits.QLOG_BUFFER`` bytes waiting drops events and says how many.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from phantom import limits
from phantom.observability.log import logger

__all__ = ["SessionLog", "drain"]

_TICK: Final = 0.5  # s between two looks of the writing thread
_WAKE_AT: Final = limits.QLOG_BUFFER // 8  # bytes waiting that wake it earlier
_LINGER: Final = 2.0  # s that a log stays open after its session ended: the last packets leave after the last state
_TRACKED: Final = 65536  # segments whose packet number is kept until they are acknowledged
_SUFFIXES: Final = 100  # files of one name before a log gives up

# Flag words (wire-native §10.4): this room is below the one that defines them; a test compares.
_ACK: Final = 0x0002
_FIN: Final = 0x0004
_CONTROL: Final = 0x0080
_PATH: Final = 0x0200
_COALESCED: Final = 0x0400
_WINDOW: Final = 0x0800
_KEEPALIVE: Final = 0x1000
_COVER: Final = 0x4000
_RELIABLE: Final = 0x0001

_STATES: Final = {
    "established": "handshake_confirmed",
    "migrating": "handshake_confirmed",  # QUIC has no state for it; the reason says it
    "closing": "closing",
    "draining": "draining",
    "closed": "closed",
    "dead": "closed",
}
_DROPS: Final = {
    "malformed": "header_parse_error",
    "wrong_version": "unexpected_version",
    "wrong_session": "unknown_connection_id",
    "unencrypted_dropped": "unexpected_packet",
    "decrypt_failed": "payload_decrypt_error",
    "replay_rejected": "duplicate",
    "path_gated": "unexpected_packet",
    "protocol_violation": "protocol_violation",
    "backlog": "dos_prevention",
    "unknown_control": "unexpected_packet",
}
_METRICS: Final = (
    ("min_rtt", 1e3),
    ("smoothed_rtt", 1e3),
    ("latest_rtt", 1e3),
    ("rtt_variance", 1e3),
    ("congestion_window", 0.0),
    ("bytes_in_flight", 0.0),
    ("packets_in_flight", 0.0),
    ("pacing_rate", 0.0),
)


class _Half:
    """What one direction of one stream needs for QUIC's numbers: byte offsets, and packet numbers of segments."""

    __slots__ = ("cause", "following", "offset", "packets")

    def __init__(self) -> None:
        self.cause = "retransmit_timeout"  # of the next retransmission
        self.following = 0  # segment index
        self.offset = 0
        self.packets: dict[int, tuple[int, int]] = {}  # segment -> (packet number, byte offset)


class SessionLog:
    """The log of one session: `PREFIX-ROLE.sqlog` in ``folder``, PREFIX = 16 digits of the session id.

    Implements ``SessionObserver`` (transport/session/events.py): all calls in the session's thread, ``now`` is the
    engine's clock. Nothing is raised: a file that cannot be written ends the log and is logged once.
    """

    __slots__ = (
        "_ack_delay",
        "_acked",
        "_began",
        "_closed",
        "_closing",
        "_dropped",
        "_ended",
        "_file",
        "_folder",
        "_last",
        "_lines",
        "_metrics",
        "_name",
        "_put",
        "_received",
        "_received_count",
        "_role",
        "_sent",
        "_sent_count",
        "_taken",
        "_tracked",
    )

    def __init__(self, folder: str | Path, session_id: bytes, role: str, now: float, handshake: float = 0.0) -> None:
        """``role`` is client or server; ``handshake``: seconds it took until ``now``."""
        self._folder = Path(folder)
        self._name = f"{session_id[:8].hex()}-{role}"
        self._role = role
        self._began = now - handshake
        self._last = 0.0  # ms; viewers want times that only grow, and the engine names some moments late
        self._lines: deque[str] = deque()
        self._put = 0  # bytes ever queued, counted by the session; what the thread took is counted by the thread
        self._taken = 0
        self._dropped = 0
        self._closed = self._ended = False
        self._closing = 0.0
        self._file: FileIO | None = None
        self._acked: list[int] = []  # packets that the acknowledgement now at work is the first to cover
        self._ack_delay = 0
        self._metrics: list[float] = [0.0] * len(_METRICS)
        self._sent: dict[int, _Half] = {}
        self._received: dict[int, _Half] = {}
        self._sent_count = self._received_count = 0
        self._tracked = 0
        self._head(session_id, time.time() - handshake)
        self.connection_state(self._began, None, "attempted")
        self.connection_state(now, "attempted", "handshake_complete")
        _writer.open(self)

    # --- the session's calls ------------------------------------------------------------------------------------------

    def packet_sent(
        self,
        now: float,
        path_id: int,
        sequence: int,
        word: int,
        stream_id: int,
        index: int,
        size: int,
        wire: int,
        sends: int,
    ) -> None:
        """One packet was sealed; ``index`` and ``size`` of its segment if it carries data, ``sends`` of it so far."""
        number = self._sent_count
        self._sent_count += 1
        frame = self._frame(self._sent, number, word, stream_id, index, size, wire)
        trigger = f',"trigger":"{self._sent[stream_id].cause}"' if sends > 1 and stream_id in self._sent else ""
        self._packet(now, path_id, "packet_sent", number, stream_id, sequence, frame, wire, trigger)

    def packet_received(
        self, now: float, path_id: int, sequence: int, word: int, stream_id: int, index: int, size: int, wire: int
    ) -> None:
        """One packet was opened."""
        number = self._received_count
        self._received_count += 1
        if word & (_ACK | _KEEPALIVE | _PATH) == _ACK:
            frame = self._ack_frame()
        else:
            frame = self._frame(self._received, None, word, stream_id, index, size, wire)
        self._packet(now, path_id, "packet_received", number, stream_id, sequence, frame, wire, "")

    def packets_acked(self, now: float, stream_id: int, ranges: Sequence[tuple[int, int]], ack_delay_us: int) -> None:
        """The acknowledgement whose packet is told next covers these segments, first and last of each range."""
        self._ack_delay = ack_delay_us
        half = self._sent.get(stream_id)
        if half is None:
            return
        packets = half.packets
        for first, last in ranges:
            if last - first < len(packets):
                found = [index for index in range(first, last + 1) if index in packets]
            else:  # cumulative ranges only grow; what is still there is little
                found = [index for index in packets if first <= index <= last]
            self._acked += [packets.pop(index)[0] for index in found]
            self._tracked -= len(found)

    def packet_lost(self, now: float, stream_id: int, index: int, trigger: str) -> None:
        """A segment is due again: ``reordering_threshold``, ``time_threshold``, ``pto_expired`` or ``refused``."""
        half = self._sent.get(stream_id)
        if half is None:
            return
        half.cause = "retransmit_timeout" if trigger == "pto_expired" else "retransmit_reordered"
        number = half.packets.get(index)
        if number is not None:
            header = f'"header":{{"packet_type":"1RTT","packet_number":{number[0]}}},'
            known = trigger if trigger != "refused" else "reordering_threshold"  # QUIC knows no refusals
            self._event(now, "recovery:packet_lost", f'{header}"trigger":"{known}"')

    def packet_dropped(self, now: float, counter: str) -> None:
        """A packet was dropped; ``counter`` is the reason of wire-native §23."""
        self._event(
            now,
            "transport:packet_dropped",
            f'"header":{{"packet_type":"unknown"}},"trigger":"{_DROPS.get(counter, "unexpected_packet")}"',
        )

    def metrics_updated(
        self,
        now: float,
        min_rtt: float,
        srtt: float,
        latest_rtt: float,
        rttvar: float,
        cwnd: int,
        in_flight: int,
        packets_in_flight: int,
        pacing_rate: float,
    ) -> None:
        """Measurements: seconds, bytes, bytes a second; 0 means unknown. Only what changed is written."""
        values = [min_rtt, srtt, latest_rtt, rttvar, cwnd, in_flight, packets_in_flight, pacing_rate * 8]
        parts = [
            f'"{name}":{value * scale:.3f}' if scale else f'"{name}":{int(value)}'
            for (name, scale), value, before in zip(_METRICS, values, self._metrics, strict=True)
            if value != before
        ]
        if parts:
            self._metrics = values
            self._event(now, "recovery:metrics_updated", ",".join(parts))

    def congestion_state_updated(self, now: float, old: str, new: str) -> None:
        """The congestion controller changed its state."""
        self._event(now, "recovery:congestion_state_updated", f'"old":"{old}","new":"{new}"')

    def key_updated(self, now: float, epoch: int, by_peer: bool) -> None:
        """A new epoch began. The schema wants the key: it gets the empty string."""
        trigger = "remote_update" if by_peer else "local_update"
        for side in ("client", "server"):
            data = f'"key_type":"{side}_1rtt_secret","new":"","generation":{epoch},"trigger":"{trigger}"'
            self._event(now, "security:key_updated", data)

    def state_changed(self, now: float, old: str, new: str, reason: str) -> None:
        """The session went from one phase to another; a final one closes the log a little later."""
        was, becomes = _STATES[old], _STATES[new]
        if was != becomes:
            self.connection_state(now, was, becomes)
        self._event(now, "generic:info", f'"message":{json.dumps(f"{new}: {reason}")}')
        if becomes == "closed":
            self.close()

    def stream_changed(self, now: float, stream_id: int, old: str, new: str) -> None:
        """A stream went from one state to another."""
        data = f'"stream_id":{stream_id},"stream_type":"bidirectional","old":"{old}","new":"{new}"'
        self._event(now, "transport:stream_state_updated", data)
        if new == "closed":
            gone = self._sent.pop(stream_id, None)
            self._tracked -= len(gone.packets) if gone is not None else 0
            self._received.pop(stream_id, None)

    def connection_state(self, now: float, old: str | None, new: str) -> None:
        """``connection_state_updated`` by qlog's names."""
        before = f'"old":"{old}",' if old else ""
        self._event(now, "connectivity:connection_state_updated", f'{before}"new":"{new}"')

    def close(self) -> None:
        """The session is over: the file is closed two seconds later, or by :func:`drain`; idempotent."""
        if not self._ended:
            self._closing = time.monotonic() + _LINGER
            self._ended = True

    # --- lines --------------------------------------------------------------------------------------------------------

    def _head(self, session_id: bytes, began: float) -> None:
        head = {
            "qlog_version": "0.3",
            "qlog_format": "JSON-SEQ",
            "title": "phantom session",
            "trace": {
                "title": self._name,
                "vantage_point": {"name": f"phantom {self._role}", "type": self._role},
                "common_fields": {
                    "protocol_type": ["PHANTOM"],
                    "group_id": session_id[:8].hex(),
                    "time_format": "relative",
                    "reference_time": round(began * 1e3, 3),
                },
            },
        }
        self._line(f"\x1e{json.dumps(head)}\n")

    def _event(self, now: float, name: str, data: str, more: str = "") -> None:
        if self._closed:
            return
        if self._put - self._taken > limits.QLOG_BUFFER:
            self._dropped += 1
            return
        at = self._last = max(self._last, (now - self._began) * 1e3)
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            self._line(
                f'\x1e{{"time":{at:.3f},"name":"generic:warning","data":{{"message":"{lost} events were not written: '
                f'the disk did not keep up"}}}}\n'
            )
        self._line(f'\x1e{{"time":{at:.3f},"name":"{name}"{more},"data":{{{data}}}}}\n')

    def _line(self, line: str) -> None:
        self._lines.append(line)
        self._put += len(line)
        if self._put - self._taken > _WAKE_AT:
            _writer.wake.set()

    def _packet(
        self,
        now: float,
        path_id: int,
        name: str,
        number: int,
        stream_id: int,
        sequence: int,
        frame: str,
        wire: int,
        trigger: str,
    ) -> None:
        data = (
            f'"header":{{"packet_type":"1RTT","packet_number":{number}}},"raw":{{"length":{wire}}},'
            f'"frames":[{frame}]{trigger}'
        )
        path = f',"path_id":{path_id}' if path_id else ""
        self._event(now, f"transport:{name}", data, f',"sequence":[{stream_id},{sequence}]{path}')

    def _frame(
        self,
        halves: dict[int, _Half],
        number: int | None,
        word: int,
        stream_id: int,
        index: int,
        size: int,
        wire: int,
    ) -> str:
        if word & _RELIABLE:
            return self._stream_frame(halves, number, word, stream_id, index, size)
        if word & _KEEPALIVE and not word & _ACK:
            return '{"frame_type":"ping"}'
        if word & _PATH and not word & _COVER:
            return f'{{"frame_type":"{"path_response" if word & _ACK else "path_challenge"}"}}'
        if word & _ACK and not word & _KEEPALIVE:
            return '{"frame_type":"ack"}'
        if word & _WINDOW and size:
            return f'{{"frame_type":"max_stream_data","stream_id":{stream_id},"maximum":{size}}}'
        if word & _CONTROL:
            return '{"frame_type":"connection_close"}'
        if word & _COVER:
            return f'{{"frame_type":"padding","payload_length":{wire}}}'
        return f'{{"frame_type":"unknown","raw_frame_type":{word},"raw_length":{size}}}'

    def _stream_frame(
        self, halves: dict[int, _Half], number: int | None, word: int, stream_id: int, index: int, size: int
    ) -> str:
        half = halves.get(stream_id)
        if half is None:
            half = halves[stream_id] = _Half()
        known = half.packets.get(index)
        offset = half.offset if known is None else known[1]
        if known is None and index >= half.following:
            half.following = index + 1
            half.offset += size
        if number is not None and (known is not None or self._tracked < _TRACKED):
            self._tracked += known is None
            half.packets[index] = (number, offset)
        fin = ',"fin":true' if word & _FIN else ""
        return (
            f'{{"frame_type":"stream","stream_id":{stream_id},"offset":{offset},"length":{size},'
            f'"segment_index":{index}{fin}}}'
        )

    def _ack_frame(self) -> str:
        """The acknowledgement, with the packet numbers that it is the first to cover."""
        numbers, self._acked = self._acked, []
        ranges = f',"acked_ranges":[{_ranges(sorted(numbers))}]' if numbers else ""
        return f'{{"frame_type":"ack","ack_delay":{self._ack_delay / 1e3:.3f}{ranges}}}'

    # --- the writing thread -------------------------------------------------------------------------------------------

    def _write(self, *, finish: bool) -> bool:
        """Writes what waits; False if the log is closed now. Called by one thread at a time."""
        lines = self._lines
        finish = self._ended and (finish or time.monotonic() >= self._closing)
        taken: list[str] = []
        while lines:
            taken.append(lines.popleft())
        try:
            if taken:
                if self._file is None:
                    self._file = self._create()
                data = "".join(taken).encode("ascii")
                self._file.write(data)
                self._taken += len(data)
        except OSError as error:
            logger.warning("the event log of a session cannot be written: %s", error.strerror)
            finish = True
        if finish:
            self._closed = True
            lines.clear()
            if self._file is not None:
                self._file.close()
        return not finish

    def _create(self) -> FileIO:
        """The file, readable by its owner alone; an older log of the same name stays."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(_SUFFIXES):
            name = f"{self._name}-{number}.sqlog" if number else f"{self._name}.sqlog"
            try:
                return FileIO(self._folder / name, "xb", opener=_private)
            except FileExistsError:
                continue
        raise FileExistsError(17, f"there are {_SUFFIXES} logs of this name")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ranges(numbers: list[int]) -> str:
    """``[1,3],[7]`` of 1, 2, 3, 7."""
    parts: list[str] = []
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == last + 1:
            last = number
            continue
        parts.append(f"[{first},{last}]" if last > first else f"[{first}]")
        first = last = number
    return ",".join(parts)


class _Writer:
    """The thread that writes for all logs of the process; it is there while one is open."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._logs: set[SessionLog] = set()
        self._registry = threading.Lock()  # held for moments only: sessions open their logs under it
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def open(self, log: SessionLog) -> None:
        """Writes ``log`` from now on."""
        with self._registry:
            self._logs.add(log)
            if self._thread is None or not self._thread.is_alive():  # a forked child has the object and no thread
                self._thread = threading.Thread(target=self._run, name="phantom-qlog", daemon=True)
                self._thread.start()

    def drain(self, *, finish: bool) -> None:
        """Writes what waits in every log; with ``finish`` logs of ended sessions are closed at once."""
        with self._writing:
            with self._registry:
                logs = list(self._logs)
            closed = {log for log in logs if not log._write(finish=finish)}
            with self._registry:
                self._logs -= closed

    def _run(self) -> None:
        while True:
            self.wake.wait(_TICK)
            self.wake.clear()
            self.drain(finish=False)
            with self._registry:
                if not self._logs:
                    self._thread = None
                    return


_writer = _Writer()


def drain() -> None:
    """Writes what waits in the logs of this process, and closes those of ended sessions; may block on the disk."""
    _writer.drain(finish=True)


atexit.register(drain)
