"""Shared buffers: few are kept, and an idle session owns none."""

from __future__ import annotations

import threading

from phantom import limits
from phantom.transport.legs.buffers import BATCH, WINDOW, BufferPool


def test_a_buffer_is_of_the_pools_size_and_comes_back() -> None:
    pool = BufferPool(1000)
    buf, view = pool.take()
    assert len(buf) == len(view) == 1000
    assert view.obj is buf
    pool.give((buf, view))
    assert pool.take()[0] is buf
    assert pool.take()[0] is not buf


def test_only_some_are_kept() -> None:
    pool = BufferPool(10)
    taken = [pool.take() for _ in range(20)]
    for buffer in taken:
        pool.give(buffer)
    again = [pool.take()[0] for _ in range(20)]
    assert sum(any(buf is old for old, _ in taken) for buf in again) == 8


def test_buffers_of_other_sizes_are_dropped() -> None:
    pool = BufferPool(10)
    foreign = bytearray(11)
    pool.give((foreign, memoryview(foreign)))
    assert len(pool.take()[0]) == 10


def test_the_sizes_are_those_of_the_data_path() -> None:
    assert WINDOW.size == limits.READ_WINDOW
    assert BATCH.size >= limits.SEND_BATCH + limits.BULK_CHUNK


def test_threads_never_share_a_buffer() -> None:
    pool = BufferPool(64)
    troubles: list[str] = []

    def work(mark: int) -> None:
        for _ in range(2000):
            buf, view = pool.take()
            view[:] = bytes([mark]) * 64
            if buf != bytes([mark]) * 64:
                troubles.append(f"{mark} found another's bytes")
            pool.give((buf, view))

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
