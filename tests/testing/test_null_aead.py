"""The AEAD that encrypts nothing: it notices what an AEAD must notice, and only simulations get one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phantom.api.handshaking import Engine
from phantom.config import PhantomConfig
from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.providers import get_provider
from phantom.errors import ConfigError
from phantom.runtime import AsyncioRuntime
from phantom.testing import SimulatedRuntime, run_virtual
from phantom.testing.null_aead import NullAead, null_aead_provider
from phantom.testing.virtual_time import VirtualTime
from phantom.transport.session.memory import ReceiveMemory

AES, CHACHA = CipherSuite.AES_256_GCM, CipherSuite.CHACHA20_POLY1305
KEY, NONCE = b"k" * 32, b"n" * 12


def test_what_was_sealed_opens() -> None:
    aead = NullAead(AES, KEY)
    for data in (b"", b"x", b"data" * 500):
        sealed = aead.encrypt(NONCE, data, b"aad")
        assert len(sealed) == len(data) + 16
        assert aead.decrypt(NONCE, sealed, b"aad") == data
        assert aead.decrypt(NONCE, aead.encrypt(NONCE, data, None), None) == data


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"K" + KEY[1:]},
        {"suite": CHACHA},
        {"nonce": NONCE[:-1] + b"m"},
        {"aad": b"aae"},
        {"aad": b""},
        {"flip": 0},
        {"flip": 40},
        {"flip": 41},
        {"flip": 50},
        {"cut": True},
    ],
    ids=str,
)
def test_what_was_changed_does_not(change: dict[str, Any]) -> None:
    sealed = bytearray(NullAead(AES, KEY).encrypt(NONCE, b"some bytes to carry from here to there..", b"aad"))
    if "flip" in change:
        sealed[change["flip"]] ^= 4
    if "cut" in change:
        del sealed[3:]
    other = NullAead(change.get("suite", AES), change.get("key", KEY))
    with pytest.raises(AEAD_FAILURE):
        other.decrypt(change.get("nonce", NONCE), bytes(sealed), change.get("aad", b"aad"))


def test_it_works_in_place_as_the_engine_wants_it() -> None:
    buf = bytearray(b"head" + b"plain text" + bytes(16))
    view, aead = memoryview(buf), NullAead(AES, KEY)
    assert aead.encrypt_into(NONCE, view[4:14], view[:4], view[4:30]) == 26
    assert aead.decrypt_into(NONCE, view[4:30], view[:4], view[4:14]) == 10
    assert buf[4:14] == b"plain text"


def test_lengths_are_checked() -> None:
    aead = NullAead(AES, KEY)
    with pytest.raises(ValueError, match="wrong length"):
        aead.encrypt_into(NONCE, b"four", b"", bytearray(19))
    with pytest.raises(ValueError, match="wrong length"):
        aead.encrypt_into(NONCE[:8], b"four", b"", bytearray(20))


def test_the_provider_takes_the_rest_from_a_real_one() -> None:
    provider = null_aead_provider(VirtualTime())
    assert isinstance(new_aead(AES, KEY, provider), NullAead)
    assert provider.name == "null-aead"
    assert provider.seeded == get_provider().seeded
    sk = provider.x25519_private(b"s" * 32)
    assert provider.x25519_public(sk) == get_provider().x25519_public(get_provider().x25519_private(b"s" * 32))


async def test_a_runtime_that_is_not_simulated_gets_none() -> None:
    with pytest.raises(ConfigError, match="AsyncioRuntime"):
        null_aead_provider(AsyncioRuntime())
    with pytest.raises(ConfigError, match="object"):
        null_aead_provider(object())


async def test_the_engine_of_the_api_refuses_one_on_a_real_runtime() -> None:
    smuggled = null_aead_provider(VirtualTime())
    with pytest.raises(ConfigError, match="simulated"):
        Engine(PhantomConfig(), smuggled, AsyncioRuntime(), ReceiveMemory())
    Engine(PhantomConfig(), get_provider(), AsyncioRuntime(), ReceiveMemory())


def test_the_engine_of_the_api_takes_one_on_simulated_time() -> None:
    async def main() -> None:
        runtime = SimulatedRuntime()
        Engine(PhantomConfig(), null_aead_provider(runtime), runtime, ReceiveMemory())
        await asyncio.sleep(0)

    run_virtual(main())


def test_it_cannot_be_configured() -> None:
    with pytest.raises(ConfigError):
        get_provider("null-aead")
    with pytest.raises(ConfigError):
        get_provider("null")


@pytest.mark.parametrize("loop", ["asyncio"])
def test_a_simulated_runtime_on_a_real_clock_gets_none(loop: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="clock"):
            null_aead_provider(SimulatedRuntime())
        await asyncio.sleep(0)

    asyncio.run(main())
