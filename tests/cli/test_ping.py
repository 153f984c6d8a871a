"""ping: every way it can end."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phantom import AuthorizedClients, ClientPolicy, HybridSigningKey, PhantomSession
from tests.cli.conftest import Invoke, OnTerminal, Serving, host_port

PIN = "phantom1:" + "a" * 52


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def talking_server(answer: bytes) -> Iterator[str]:
    """Takes one connection, says ``answer`` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=talk)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(30)


class TestSuccess:
    def test_it_prints_the_round_trip_and_the_reply(self, invoke: Invoke, url: str) -> None:
        outcome = invoke("ping", url)
        assert (outcome.code, outcome.err) == (0, "")
        rtt, reply = outcome.out.splitlines()
        assert re.fullmatch(r"rtt: \d+\.\d\d ms", rtt)
        assert reply == f"reply (4 bytes): {b'ping'.hex()}"

    @pytest.mark.parametrize("message", ["", "hello", "grüße"])
    def test_the_message(self, invoke: Invoke, url: str, message: str) -> None:
        outcome = invoke("ping", url, "--msg", message)
        sent = message.encode()
        assert outcome.out.splitlines()[1] == f"reply ({len(sent)} bytes): {sent.hex()}"

    def test_an_identity_is_proved(
        self, invoke: Invoke, serving: Serving, stranger: HybridSigningKey, tmp_path: Path
    ) -> None:
        stranger.write_file(tmp_path / "client.key")
        policy = ClientPolicy.required(AuthorizedClients.from_pins([stranger.verifying_key()]))
        with serving(clients=policy) as url:
            assert invoke("ping", url, "--identity", str(tmp_path / "client.key")).code == 0

    def test_json(self, invoke: Invoke, url: str, key: HybridSigningKey) -> None:
        found = json.loads(invoke("ping", url, "--json").out)
        assert found["reply_hex"] == b"ping".hex()
        assert found["reply_bytes"] == 4
        assert found["server"] == key.verifying_key().fingerprint()
        assert found["address"] == host_port(url)
        assert (found["leg"], found["version"]) == ("tcp", 2)
        assert found["algorithms"] == ["X25519", "ML-KEM-768", "Ed25519", "ML-DSA-65"]
        assert 0 < found["rtt_ms"] < 60_000
        assert 0 < found["handshake_ms"] < 60_000

    def test_every_way_to_name_the_server(
        self, invoke: Invoke, url: str, key: HybridSigningKey, stranger: HybridSigningKey, tmp_path: Path
    ) -> None:
        public, other = key.verifying_key(), stranger.verifying_key()
        raw = tmp_path / "server.pub"
        raw.write_bytes(public.to_bytes())
        host, _, port = host_port(url).partition(":")
        ways = [
            [host_port(url), "--pin", public.fingerprint()],
            [f"tcp://{host_port(url)}", "--pinned-key-hex", public.to_hex()],
            ["--host", host, "--port", port, "--leg", "tcp", "--pinned-key-file", str(raw)],
            [url, "--pin", public.fingerprint()],
            [host_port(url), "--pin", other.fingerprint(), "--pinned-key-file", str(raw)],
            [host_port(url), "--pin", other.fingerprint(), "--pin", public.fingerprint()],
        ]
        for way in ways:
            outcome = invoke("ping", *way)
            assert outcome.code == 0, (way, outcome.err)

    def test_on_a_terminal_it_shows_more(self, invoke: Invoke, url: str, key: HybridSigningKey) -> None:
        outcome = invoke("ping", url, FORCE_COLOR="1", TERM="xterm-256color")
        assert outcome.code == 0
        assert "\x1b[" in outcome.out
        assert key.verifying_key().fingerprint() in outcome.out
        assert "X25519 + ML-KEM-768 + Ed25519 + ML-DSA-65" in outcome.out
        assert "waiting for the server" in outcome.err

    @pytest.mark.slow
    def test_on_a_real_terminal(self, on_terminal: OnTerminal, url: str) -> None:
        colored = on_terminal("ping", url)
        assert colored.code == 0
        assert "\x1b[1m" in colored.out
        assert "reply (4 bytes): 70696e67" in colored.out

    @pytest.mark.slow
    def test_no_color_is_respected(self, on_terminal: OnTerminal, url: str) -> None:
        outcome = on_terminal("ping", url, NO_COLOR="1")
        assert outcome.code == 0
        assert re.findall(r"\x1b\[(?:\d+;)*(?:3|4|9)\d(?:;\d+)*m", outcome.out) == []

    @pytest.mark.slow
    def test_a_dumb_terminal_gets_plain_lines(self, on_terminal: OnTerminal, url: str) -> None:
        outcome = on_terminal("ping", url, TERM="dumb")
        assert outcome.code == 0
        assert "\x1b" not in outcome.out
        assert len(outcome.out.splitlines()) == 2


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["127.0.0.1:1"], "a pin is required"),
            (["tcp://127.0.0.1:1"], "a pin is required"),
            (["nonsense", "--pin", PIN], "is not HOST:PORT"),
            (["phantom://127.0.0.1:1"], "fingerprint before the host"),
            (["phantom://phantom1:short@127.0.0.1:1"], "a fingerprint is"),
            (["gopher://127.0.0.1:1", "--pin", PIN], "unknown scheme 'gopher'"),
            (["udp://127.0.0.1:1", "--pin", PIN], "the udp leg is not in this version"),
            (["127.0.0.1:1", "--pin", "nonsense"], "a pin in text is"),
            (["127.0.0.1:1", "--pinned-key-hex", "zz" * 1984], "hex"),
            (["127.0.0.1:1", "--pinned-key-file", "no-such-file"], "cannot be read"),
            ([f"phantom://{PIN}@127.0.0.1:1", "--pin", "phantom1:" + "b" * 51 + "a"], "not among those"),
            (["127.0.0.1:1", "--pin", PIN, "--timeout-secs", "0"], "positive"),
            (["127.0.0.1:1", "--pin", PIN, "--timeout-secs", "-1"], "positive"),
            (["127.0.0.1:1", "--pin", PIN, "--timeout-secs", "nan"], "positive"),
            (["127.0.0.1:1", "--host", "a", "--port", "1", "--pin", PIN], "not both"),
            ([], "where to?"),
        ],
    )
    def test_it_is_told_before_anything_is_sent(self, invoke: Invoke, arguments: list[str], complaint: str) -> None:
        outcome = invoke("ping", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert complaint in outcome.err
        assert outcome.err.count("\n") == 1


class TestRefusals:
    def test_a_wrong_pin(self, invoke: Invoke, url: str, key: HybridSigningKey, stranger: HybridSigningKey) -> None:
        pin = stranger.verifying_key().fingerprint()
        outcome = invoke("ping", host_port(url), "--pin", pin)
        assert (outcome.code, outcome.out) == (3, "")
        assert key.verifying_key().fingerprint() in outcome.err
        assert pin in outcome.err
        assert "do not connect until you know why" in outcome.err

    def test_a_wrong_pin_as_json(self, invoke: Invoke, url: str, stranger: HybridSigningKey) -> None:
        outcome = invoke("ping", host_port(url), "--pin", stranger.verifying_key().fingerprint(), "--json")
        error = json.loads(outcome.err)["error"]
        assert (outcome.code, error["code"], error["retryable"]) == (3, 20, False)
        assert error["name"] == "ServerIdentityMismatchError"

    def test_a_dead_port(self, invoke: Invoke) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        outcome = invoke("ping", f"127.0.0.1:{port}", "--pin", PIN)
        assert outcome.code == 4
        assert f"cannot connect to 127.0.0.1:{port}" in outcome.err

    def test_a_host_that_is_not_there(self, invoke: Invoke) -> None:
        outcome = invoke("ping", "no-such-host.invalid:1", "--pin", PIN, "--timeout-secs", "20")
        assert outcome.code == 4
        assert "cannot resolve no-such-host.invalid" in outcome.err

    def test_a_server_that_says_nothing(self, invoke: Invoke) -> None:
        with silent_server() as address:
            outcome = invoke("ping", address, "--pin", PIN, "--timeout-secs", "0.2")
        assert (outcome.code, outcome.out) == (5, "")
        assert "within 0.2 s" in outcome.err

    def test_a_server_that_is_something_else(self, invoke: Invoke) -> None:
        with talking_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
            outcome = invoke("ping", address, "--pin", PIN)
        assert outcome.code == 4
        assert outcome.err.count("\n") == 1

    def test_a_server_that_hangs_up(self, invoke: Invoke) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=lambda: server.accept()[0].close())
            thread.start()
            outcome = invoke("ping", f"127.0.0.1:{server.getsockname()[1]}", "--pin", PIN)
            thread.join(30)
        assert outcome.code == 4

    def test_a_server_that_does_not_reply(self, invoke: Invoke, serving: Serving) -> None:
        async def mute(session: PhantomSession) -> None:
            await session.recv()
            await session.recv()

        with serving(mute) as url:
            outcome = invoke("ping", url, "--timeout-secs", "0.5")
        assert outcome.code == 5
        assert "proved its key and did not reply within 0.5 s" in outcome.err

    def test_a_server_that_closes_the_session(self, invoke: Invoke, serving: Serving) -> None:
        async def rude(session: PhantomSession) -> None:
            await session.recv()
            await session.disconnect(7)

        with serving(rude) as url:
            outcome = invoke("ping", url)
        assert outcome.code == 4
        assert "with code 7" in outcome.err


class TestIdentity:
    """What a client that is not let in is told."""

    def test_a_refused_identity(
        self, invoke: Invoke, serving: Serving, key: HybridSigningKey, key_file: Path, stranger: HybridSigningKey
    ) -> None:
        policy = ClientPolicy.required(AuthorizedClients.from_pins([stranger.verifying_key()]))
        with serving(clients=policy) as url:
            outcome = invoke("ping", url, "--identity", str(key_file))
            assert outcome.code == 6
            assert "refused this client's identity" in outcome.err
            assert json.loads(invoke("ping", url, "--identity", str(key_file), "--json").err)["error"]["code"] == 43

    def test_none_where_one_is_required(self, invoke: Invoke, serving: Serving) -> None:
        with serving(clients=ClientPolicy.required(AuthorizedClients.from_pins([]))) as url:
            outcome = invoke("ping", url)
            assert outcome.code == 6
            assert "requires a client identity" in outcome.err

    def test_a_key_file_that_cannot_be_used_is_usage(self, invoke: Invoke, tmp_path: Path) -> None:
        outcome = invoke("ping", f"phantom://{PIN}@127.0.0.1:1", "--identity", str(tmp_path / "no.key"))
        assert outcome.code == 2
        assert "no.key" in outcome.err
