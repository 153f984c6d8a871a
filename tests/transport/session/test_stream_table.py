"""Ids, limits, tombstones and retired ids without an engine (wire-native §14.1, §14.8)."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import StreamLimitError
from phantom.transport.session.flow_control import ReceiveWindow
from phantom.transport.session.reassembly import Reassembly
from phantom.transport.session.stream_states import STREAM_TRANSITIONS, StreamState, StreamTrigger
from phantom.transport.session.stream_table import Claim, StreamTable
from phantom.transport.session.streams import Stream


def stream(stream_id: int, *, own: bool = False) -> Stream:
    return Stream(stream_id, budget=1024, reassembly=Reassembly(), window=ReceiveWindow(), opened_here=own)


@pytest.mark.parametrize(("initiator", "own", "peer"), [(True, [3, 5, 7], [2, 4]), (False, [2, 4, 6], [3, 5])])
def test_parities(initiator: bool, own: list[int], peer: list[int]) -> None:
    table = StreamTable(initiator=initiator)
    for expected in own:
        assert table.claim(expected) is Claim.FOREIGN
        assert table.next_id() == expected
        table.add_own(stream(expected, own=True))
    assert [table.claim(stream_id) for stream_id in peer] == [Claim.NEW, Claim.NEW]
    table.close(table.streams[own[0]], 0.0)
    assert table.claim(own[0]) is Claim.OVER
    assert table.claim(own[2] + 2) is Claim.FOREIGN


def test_ids_of_the_peer_may_come_in_any_order_and_never_come_back() -> None:
    table = StreamTable(initiator=False)
    for stream_id in (65535, 7, 3, 4001):
        assert table.claim(stream_id) is Claim.NEW
        one = stream(stream_id)
        table.add_peer(one)
        table.peer_half_ended(one)
        table.close(one, 0.0)
    table.forget(limits.STREAM_TOMBSTONE)
    for stream_id in (65535, 7, 3, 4001):
        assert table.tombstone(stream_id, 60.0) is None
        assert table.claim(stream_id) is Claim.OVER
    for stream_id in (5, 9, 4003, 65533):
        assert table.claim(stream_id) is Claim.NEW
    assert (table.peer_listed, table.peer_speaking) == (0, 0)


def test_both_limits_of_the_receiver() -> None:
    table = StreamTable(initiator=False, most=2)
    made = [stream(stream_id) for stream_id in (3, 5)]
    for one in made:
        table.add_peer(one)
    assert table.claim(7) is Claim.FULL
    table.peer_half_ended(made[0])
    table.peer_half_ended(made[1])
    assert table.claim(7) is Claim.NEW
    for stream_id in (7, 9):
        one = stream(stream_id)
        table.add_peer(one)
        table.peer_half_ended(one)
    assert table.claim(11) is Claim.FULL  # nobody speaks, but four are not Closed
    table.close(made[0], 0.0)
    assert table.claim(11) is Claim.NEW


def test_the_limit_of_the_opener_and_the_end_of_the_ids() -> None:
    table = StreamTable(initiator=True, most=1)
    table.add_own(stream(3, own=True))
    assert not table.may_open
    with pytest.raises(StreamLimitError, match="finish or reset"):
        table.next_id()
    table.close(table.streams[3], 0.0)
    assert table.may_open
    table.add_own(stream(65535, own=True))
    assert table.may_open
    with pytest.raises(StreamLimitError, match="used all"):
        table.next_id()


def test_tombstones_end_in_the_order_they_began() -> None:
    table = StreamTable(initiator=False)
    for number, stream_id in enumerate((9, 3)):
        one = stream(stream_id)
        table.add_peer(one)
        one.reassembly.segment(0, b"x", room=100, fin=True)
        table.close(one, float(number))
    assert [table.tombstone(stream_id, 59.9) for stream_id in (9, 3, 5)] == [1, 1, None]
    table.forget(60.5)
    assert [table.tombstone(stream_id, 60.5) for stream_id in (9, 3)] == [None, 1]
    table.drop()
    assert table.tombstone(3, 60.5) is None


def test_the_transitions() -> None:
    one = stream(3)
    assert not one.move(StreamTrigger.SETTLED)
    assert one.move(StreamTrigger.PEER_ENDED)
    assert one.state is StreamState.HALF_CLOSED_REMOTE
    assert not one.move(StreamTrigger.OWN_ENDED)
    assert one.move(StreamTrigger.SETTLED)
    assert one.state is StreamState.CLOSED
    assert not any(state is StreamState.CLOSED for state, _ in STREAM_TRANSITIONS)
