"""The first signal asks, the second one does not."""

from __future__ import annotations

import asyncio
import signal

import pytest

from phantom.server.signals import hangup, termination

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", BOTH)
async def test_the_first_signal_sets_the_event(number: int) -> None:
    before = [signal.getsignal(each) for each in BOTH]
    with termination() as asked:
        assert not asked.is_set()
        signal.raise_signal(number)
        await asyncio.wait_for(asked.wait(), 30)
    assert [signal.getsignal(each) for each in BOTH] == before


@pytest.mark.parametrize("number", BOTH)
async def test_the_second_ends_the_process(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    left: list[int] = []
    monkeypatch.setattr("phantom.server.signals.os._exit", left.append)
    with termination() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert left == []
        signal.raise_signal(number)
        assert left == [128 + number]
        await asyncio.wait_for(asked.wait(), 30)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
async def test_a_mask_that_was_handed_down_does_not_keep_the_signals_out() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)
    try:
        with termination() as asked:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(asked.wait(), 30)
        assert set(BOTH) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), termination():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_hangup_reads_files_again_and_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGHUP)
    reread = asyncio.Event()
    with hangup(reread.set):
        signal.raise_signal(signal.SIGHUP)
        await asyncio.wait_for(reread.wait(), 30)
    assert signal.getsignal(signal.SIGHUP) is before


async def test_where_there_is_no_hangup_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("phantom.server.signals.signal.SIGHUP")
    with hangup(lambda: None):
        await asyncio.sleep(0)
