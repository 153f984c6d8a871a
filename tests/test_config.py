"""PhantomConfig: its defaults, its presets, and that no bad value gets past it (surface §2)."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom import config as module
from phantom import limits
from phantom.config import PhantomConfig
from phantom.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "keepalive_interval": 15.0,
    "connect_timeout": 10.0,
    "handshake_timeout": 10.0,
    "close_timeout": None,
    "silence_floor": 30.0,
    "send_segments": 32768,
    "recv_segments": 32768,
    "offer_version": 2,
    "accept_versions": frozenset({2}),
    "suite": "auto",
    "provider": "auto",
    "bulk_chunk": 65536,
    "frame_cap": 4 << 20,
    "max_message": 16 << 20,
    "recv_window": 16 << 20,
    "session_recv_window": 64 << 20,
    "recv_memory": None,
    "padding": "none",
    "jitter": 0.0,
    "cover_interval": 0.0,
    "faketls_sni": "www.google.com",
    "faketls_version": 0x0303,
    "max_sessions": 1024,
    "max_sessions_per_ip": 64,
    "max_inflight_handshakes": 1024,
    "max_inflight_per_source": 32,
    "cookie": "auto",
    "load_tiers": ((500, 4), (2000, 8), (6000, 12), (15000, 16)),
    "qlog_dir": None,
}
BOUNDS: dict[str, tuple[float, float]] = {
    "keepalive_interval": (1, 86400),
    "connect_timeout": (0.1, 3600),
    "handshake_timeout": (0.1, 3600),
    "close_timeout": (0, 86400),
    "silence_floor": (0.1, 3600),
    "jitter": (0, 1),
    "cover_interval": (0, 3600),
    "send_segments": (32, 32768),
    "recv_segments": (32, 32768),
    "bulk_chunk": (1024, 1 << 20),
    "frame_cap": (65536, 16 << 20),
    "max_message": (1, 1 << 30),
    "recv_window": (65536, 64 << 20),
    "session_recv_window": (65536, 1 << 30),
    "recv_memory": (1 << 20, 1 << 40),
    "faketls_version": (0x0301, 0x0304),
    "max_sessions": (0, 1 << 20),
    "max_sessions_per_ip": (0, 1 << 20),
    "max_inflight_handshakes": (1, 65536),
    "max_inflight_per_source": (1, 65536),
}
TIMES = {
    "keepalive_interval",
    "connect_timeout",
    "handshake_timeout",
    "close_timeout",
    "silence_floor",
    "jitter",
    "cover_interval",
}
MAY_BE_NONE = {"keepalive_interval", "close_timeout", "recv_memory"}


def test_the_defaults_are_those_of_the_specification() -> None:
    assert dataclasses.asdict(PhantomConfig()) == DEFAULTS


@pytest.mark.parametrize(
    ("preset", "changed"),
    [
        ("mobile", {"keepalive_interval": 30, "connect_timeout": 5, "send_segments": 4096, "recv_segments": 8192}),
        ("server", {"keepalive_interval": 60, "connect_timeout": 2}),
        ("iot", {"keepalive_interval": 120, "connect_timeout": 10, "send_segments": 32, "recv_segments": 256}),
    ],
)
def test_presets_change_what_the_table_says_and_take_changes(preset: str, changed: dict[str, Any]) -> None:
    make = getattr(PhantomConfig, preset)
    assert dataclasses.asdict(make()) == DEFAULTS | changed
    assert make(connect_timeout=3, suite="aes-256-gcm").connect_timeout == 3
    with pytest.raises(ConfigError, match="unknown configuration field: no_such"):
        make(no_such=1)


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_have_bounds(name: str) -> None:
    low, high = BOUNDS[name]
    fits = {"bulk_chunk": {"frame_cap": 16 << 20}, "frame_cap": {"bulk_chunk": 1024}}.get(name, {})
    for good in (low, high):
        assert getattr(PhantomConfig(**{name: good}, **fits), name) == good
    step = 0.01 if name in TIMES else 1
    for bad in (low - step, high + step, -1, math.nan, math.inf, True, "5", [5]):
        with pytest.raises(ConfigError, match=rf"^{name} must be a"):
            PhantomConfig(**{name: bad}, **fits)


@pytest.mark.parametrize("version", [0, 3, "2", 2.0, True, None])
def test_a_client_offers_version_2_or_1(version: Any) -> None:
    assert PhantomConfig(offer_version=1).offer_version == 1
    with pytest.raises(ConfigError, match="offer_version"):
        PhantomConfig(offer_version=version)


@pytest.mark.parametrize("versions", [frozenset(), frozenset({1}), frozenset({2, 3}), {1, 2}, 2, None])
def test_a_listener_accepts_version_2_and_1_by_name(versions: Any) -> None:
    assert PhantomConfig(accept_versions=frozenset({1, 2})).accept_versions == {1, 2}
    with pytest.raises(ConfigError, match="accept_versions"):
        PhantomConfig(accept_versions=versions)


def test_cover_traffic_is_no_flood() -> None:
    assert PhantomConfig(cover_interval=0.01).cover_interval == 0.01
    with pytest.raises(ConfigError, match="cover_interval"):
        PhantomConfig(cover_interval=0.001)


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - TIMES))
def test_sizes_and_counts_are_whole_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number"):
        PhantomConfig(**{name: BOUNDS[name][1] / 2 + 0.5})


@pytest.mark.parametrize("name", BOUNDS)
def test_none_means_something_for_three_fields_only(name: str) -> None:
    if name in MAY_BE_NONE:
        assert getattr(PhantomConfig(**{name: None}), name) is None
    else:
        with pytest.raises(ConfigError, match=name):
            PhantomConfig(**{name: None})


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("suite", ("auto", "aes-256-gcm", "chacha20-poly1305")),
        ("provider", ("auto", "openssl", "pqcrypto")),
        ("cookie", ("auto", "always")),
    ],
)
def test_names_are_among_the_known(name: str, good: tuple[str, ...]) -> None:
    for value in good:
        assert getattr(PhantomConfig(**{name: value}), name) == value
    for bad in ("", "AUTO", "none", None, 1):
        with pytest.raises(ConfigError, match=f"{name} must be one of auto"):
            PhantomConfig(**{name: bad})


@pytest.mark.parametrize("good", [(), ((0, 0),), ((0, 24),), ((1, 9), (2, 3)), ((5, 1), (5, 2))])
def test_load_tiers(good: Any) -> None:
    assert PhantomConfig(load_tiers=good).load_tiers == good


@pytest.mark.parametrize(
    "bad",
    [
        5,
        None,
        [(1, 2)],
        ((1,),),
        ((1, 2, 3),),
        ([1, 2],),
        ((1, 25),),
        ((1, -1),),
        ((-1, 1),),
        ((2, 1), (1, 2)),
        ((1.0, 2),),
        ((1, True),),
        (("1", 2),),
        "12",
    ],
)
def test_bad_load_tiers_were_accepted_or_a_type_error(bad: Any) -> None:
    with pytest.raises(ConfigError, match="load_tiers"):
        PhantomConfig(load_tiers=bad)


def test_a_frame_must_hold_a_chunk() -> None:
    with pytest.raises(ConfigError, match="frame_cap must hold"):
        PhantomConfig(frame_cap=1 << 20, bulk_chunk=1 << 20)
    needed = (1 << 17) + 64 + 73
    assert PhantomConfig(frame_cap=needed, bulk_chunk=1 << 17).frame_cap == needed
    with pytest.raises(ConfigError):
        PhantomConfig(frame_cap=needed - 1, bulk_chunk=1 << 17)


@pytest.mark.parametrize("bad", ["", 5, b"logs", Path("logs")])
def test_a_folder_for_event_logs_is_a_text(bad: Any) -> None:
    with pytest.raises(ConfigError, match="qlog_dir must be the path of a folder"):
        PhantomConfig(qlog_dir=bad)


def test_the_configured_folder_for_event_logs_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHANTOM_QLOG_DIR", raising=False)
    assert PhantomConfig().effective_qlog_dir() is None
    monkeypatch.setenv("PHANTOM_QLOG_DIR", "")
    assert PhantomConfig().effective_qlog_dir() is None
    monkeypatch.setenv("PHANTOM_QLOG_DIR", "/one")
    assert PhantomConfig().effective_qlog_dir() == "/one"
    assert PhantomConfig(qlog_dir="/two").effective_qlog_dir() == "/two"


def test_it_is_a_value() -> None:
    config = PhantomConfig(suite="aes-256-gcm")
    assert config == PhantomConfig(suite="aes-256-gcm")
    assert hash(config) == hash(PhantomConfig(suite="aes-256-gcm"))
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.suite = "auto"  # type: ignore[misc]
    with pytest.raises(TypeError):
        PhantomConfig(15.0)  # type: ignore[misc]
    assert phantom.PhantomConfig is PhantomConfig


def test_replace_checks_names_and_values() -> None:
    config = PhantomConfig().replace(max_sessions=5, cookie="always")
    assert (config.max_sessions, config.cookie, config.bulk_chunk) == (5, "always", 65536)
    with pytest.raises(ConfigError, match="unknown configuration field: a, b"):
        config.replace(b=1, max_sessions=3, a=2)
    with pytest.raises(ConfigError, match="max_sessions"):
        config.replace(max_sessions=-1)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 256 << 20),
        ({"memory.max": "max\n"}, 256 << 20),
        ({"memory.max": f"{400 << 20}\n"}, 100 << 20),
        ({"memory.max": f"{8 << 30}\n"}, 256 << 20),
        ({"memory.max": "1000\n"}, 1 << 20),
        ({"memory/memory.limit_in_bytes": f"{40 << 20}"}, 10 << 20),
        ({"memory.max": f"{80 << 20}", "memory/memory.limit_in_bytes": f"{40 << 20}"}, 10 << 20),
        ({"memory.max": "\xff"}, 256 << 20),
        ({"memory.max": "-5"}, 256 << 20),
    ],
)
def test_receive_memory_follows_the_memory_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="latin-1")
    monkeypatch.setattr(module, "Path", lambda text: tmp_path / text.removeprefix("/sys/fs/cgroup/"))
    assert PhantomConfig().effective_recv_memory() == expected
    assert PhantomConfig(recv_memory=3 << 20).effective_recv_memory() == 3 << 20


def test_receive_memory_has_a_value_on_this_machine() -> None:
    assert limits.MiB <= PhantomConfig().effective_recv_memory() <= limits.RECV_MEMORY


@pytest.mark.parametrize("name", ["example.org", "a", "x" * 63 + ".b", "xn--bcher-kva.example", "a-b.c1"])
def test_a_host_name_may_be_shown(name: str) -> None:
    assert PhantomConfig(faketls_sni=name).faketls_sni == name


@pytest.mark.parametrize(
    "bad", ["", ".", "a.", "a..b", "x" * 64, "a." * 130, "bücher.example", "a b", "-a.b", "a\n", None, b"a"]
)
def test_what_is_no_host_name_is_not_shown(bad: Any) -> None:
    with pytest.raises(ConfigError, match="faketls_sni must be a host name"):
        PhantomConfig(faketls_sni=bad)
