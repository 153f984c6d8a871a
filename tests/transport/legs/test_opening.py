"""The owner of a leg that is not open yet."""

from __future__ import annotations

import pytest

from phantom.errors import NetworkError, PhantomTimeoutError
from phantom.transport.legs.opening import Opening


async def test_the_owner_of_an_opening_takes_and_says_nothing() -> None:
    opening = Opening(64, "gone")
    assert opening.read_size == opening.batch_size == 64
    opening.leg_blocked(True)
    assert opening.leg_received(bytearray(4), memoryview(b""), 1, 4) == 1
    assert opening.leg_fill(bytearray(4), memoryview(b""), 0, 4) == 0
    opening.opened()
    opening.leg_lost(None)  # too late
    assert opening.done.result() is None


async def test_the_end_of_an_opening_says_why() -> None:
    opening = Opening(64, "gone")
    opening.leg_lost(None)
    opening.opened()  # too late
    with pytest.raises(NetworkError, match="gone"):
        await opening.done
    opening = Opening(64, "gone")
    opening.leg_lost(PhantomTimeoutError("in vain"))
    with pytest.raises(PhantomTimeoutError, match="in vain"):
        await opening.done
