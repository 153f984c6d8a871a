"""The time limits of the sidecar's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from phantom.errors import PhantomTimeoutError

__all__ = ["time_limit"]


@asynccontextmanager
async def time_limit(timeout: float | None, what: str) -> AsyncGenerator[None, None]:
    """Ends the block after ``timeout`` seconds with PhantomTimeoutError saying ``what`` did not happen."""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise  # one of the sidecar's own
        raise PhantomTimeoutError(f"{what} within {timeout:g} s") from None
