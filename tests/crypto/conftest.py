from __future__ import annotations

import pytest

from phantom.crypto.providers import Provider, get_provider


@pytest.fixture(params=["openssl", "pqcrypto"])
def provider(request: pytest.FixtureRequest) -> Provider:
    return get_provider(request.param)
