"""Handlers by name: the built-in echo, those of other packages, and what is wrong with one that cannot be had."""

from __future__ import annotations

import asyncio
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from phantom import PhantomSession, connect, listen
from phantom.errors import ConfigError
from phantom.server import handlers


def offer(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Pretends that other packages offer handlers: name -> module:attribute."""
    entries = [EntryPoint(name, value, handlers.GROUP) for name, value in values.items()]
    monkeypatch.setattr(handlers, "entry_points", lambda group: entries if group == handlers.GROUP else [])


async def answer(session: PhantomSession) -> None:
    await session.send(b"42")


def not_a_coroutine(session: PhantomSession) -> None:
    raise AssertionError


async def test_echo_sends_back_every_message_as_it_came() -> None:
    messages = [b"", b"a", bytes(300_000)]
    async with listen("127.0.0.1:0") as listener:
        serving = asyncio.create_task(_serve_one(listener))
        async with connect(listener.urls[0]) as session:
            for message in messages:
                await session.send(message)
            assert [await session.recv(30) for _ in messages] == messages
        await serving


async def _serve_one(listener: Any) -> None:
    outcome = await listener.accept(30)
    async with outcome.session as session:
        await handlers.echo(session)


def test_echo_is_built_in() -> None:
    assert handlers.load_handler("echo") is handlers.echo
    assert "echo" in handlers.handler_names()


def test_a_handler_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, answer=f"{__name__}:answer")
    assert handlers.load_handler("answer") is answer
    assert handlers.handler_names() == ["answer", "echo"]


def test_a_built_in_name_cannot_be_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, echo=f"{__name__}:answer")
    assert handlers.load_handler("echo") is handlers.echo


def test_an_unknown_name_is_told_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, answer=f"{__name__}:answer")
    with pytest.raises(ConfigError, match=r"no handler 'nope'; installed are answer, echo"):
        handlers.load_handler("nope")


@pytest.mark.parametrize("value", ["phantom.no_such_module:answer", "phantom.errors:no_such_name"])
def test_a_handler_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    offer(monkeypatch, broken=value)
    with pytest.raises(ConfigError, match=r"'broken' \(.*\) cannot be loaded: .*no_such"):
        handlers.load_handler("broken")


def test_a_handler_is_a_coroutine_function(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, plain=f"{__name__}:not_a_coroutine")
    with pytest.raises(ConfigError, match="not a coroutine function"):
        handlers.load_handler("plain")
