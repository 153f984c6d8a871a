"""The digests of a page are those of the native libraries, and leave nothing behind."""

from __future__ import annotations

import pytest

from phantom.crypto import bridge
from phantom.crypto.digests import browser, native
from tests.crypto.page import Bridge, secret

KEY = secret()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Bridge:
    made = Bridge()
    monkeypatch.setattr(bridge, "_found", [made])
    monkeypatch.setattr(browser, "_held", [])
    return made


@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 20])
def test_blake3(page: Bridge, data: bytes) -> None:
    assert browser.blake3_hash(data) == native.blake3_hash(data)
    assert browser.blake3_keyed_hash(KEY, bytearray(data)) == native.blake3_keyed_hash(KEY, data)
    assert browser.blake3_derive_key("a context", memoryview(data)) == native.blake3_derive_key("a context", data)
    assert page.secrets_left == 0
    assert not any(any(one.data) for one in page.made)


@pytest.mark.usefixtures("page")
def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        browser.blake3_keyed_hash(KEY[1:], b"")


@pytest.mark.parametrize("length", [1, 31, 32, 33, 96, 8160])
def test_hkdf(length: int) -> None:
    for salt in (None, b"", b"salt"):
        ours, theirs = bytearray(length), bytearray(length)
        browser.extract_expand_into(salt, KEY, b"info", ours)
        native.extract_expand_into(salt, KEY, b"info", theirs)
        assert ours == theirs
    ours, theirs = bytearray(length), bytearray(length)
    browser.expand_into(KEY, b"info", ours)
    native.expand_into(KEY, b"info", theirs)
    assert ours == theirs


@pytest.mark.parametrize("length", [0, 8161])
def test_hkdf_has_bounds(length: int) -> None:
    with pytest.raises(ValueError, match="8160"):
        browser.expand_into(KEY, b"", bytearray(length))
    with pytest.raises(ValueError, match="8160"):
        browser.extract_expand_into(None, KEY, b"", bytearray(length))


def test_a_keyed_hmac_is_copied_and_used() -> None:
    ours, theirs = browser.keyed_hmac(KEY), native.keyed_hmac(KEY)
    for message in (b"one", b"two"):
        one, other = ours.copy(), theirs.copy()
        one.update(message)
        other.update(message)
        assert one.finalize() == other.finalize()


@pytest.mark.parametrize("start", [0, (1 << 32) - 100, 1 << 40])
@pytest.mark.usefixtures("page")
def test_search(start: int) -> None:
    found = native.search(KEY, 6, start, start + 5000)
    assert found is not None
    assert browser.search(KEY, 6, start, start + 5000) == found
    assert browser.search(KEY, 6, start, found) is native.search(KEY, 6, start, found) is None
    assert browser.search(KEY, 0, start, start) is None
