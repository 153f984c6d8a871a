"""Between the messages of proto/ and the objects of the API."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.config import PhantomConfig
from phantom.errors import ConfigError, UnsupportedError, ValidationError
from phantom.observability.metrics import MetricsSnapshot
from phantom.sidecar._generated.v1 import common_pb2, listener_pb2
from phantom.sidecar.convert import (
    config_message,
    config_of,
    duration,
    metrics_message,
    pin_messages,
    pins_of,
    policy_message,
    policy_of,
    seconds,
    state_value,
)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.5, 3600.0, 1e-9])
def test_durations(value: float) -> None:
    assert seconds(duration(value)) == pytest.approx(value, abs=1e-9)


def test_negative_duration() -> None:
    with pytest.raises(ValidationError, match="negative"):
        seconds(duration(-0.5))


def test_absent_configuration_is_the_default() -> None:
    assert config_of(common_pb2.PhantomConfig()) == PhantomConfig()


@pytest.mark.parametrize("preset", ["mobile", "server", "iot"])
def test_presets(preset: str) -> None:
    value = common_pb2.ConfigPreset.Value(f"CONFIG_PRESET_{preset.upper()}")
    assert config_of(common_pb2.PhantomConfig(preset=value)) == getattr(PhantomConfig, preset)()


def test_field_that_is_present_beats_the_preset() -> None:
    message = common_pb2.PhantomConfig(preset=common_pb2.CONFIG_PRESET_IOT, send_segments=64)
    assert config_of(message) == PhantomConfig.iot(send_segments=64)


@pytest.mark.parametrize(
    "config",
    [
        PhantomConfig(),
        PhantomConfig.iot(),
        PhantomConfig(
            keepalive_interval=None,
            connect_timeout=1.5,
            handshake_timeout=2.25,
            close_timeout=0.5,
            silence_floor=7.0,
            send_segments=33,
            recv_segments=34,
            suite="chacha20-poly1305",
            provider="openssl",
            bulk_chunk=4096,
            frame_cap=1 << 20,
            max_message=1 << 30,
            recv_window=1 << 20,
            session_recv_window=1 << 21,
            recv_memory=1 << 30,
            max_sessions=0,
            max_sessions_per_ip=3,
            max_inflight_handshakes=5,
            max_inflight_per_source=6,
            cookie="always",
            load_tiers=((10, 4), (20, 9)),
        ),
    ],
    ids=["default", "preset", "everything changed"],
)
def test_every_field_survives(config: PhantomConfig) -> None:
    assert config_of(config_message(config)) == config


def test_bad_value_names_the_field() -> None:
    with pytest.raises(ConfigError, match="send_segments"):
        config_of(common_pb2.PhantomConfig(send_segments=1))


@pytest.mark.parametrize(
    ("field", "text"), [("preset", "preset"), ("suite", "cipher suite"), ("cookie", "cookie policy")]
)
def test_enum_value_of_a_newer_client(field: str, text: str) -> None:
    message = common_pb2.PhantomConfig()
    number = message.DESCRIPTOR.fields_by_name[field].number
    message.MergeFromString(
        bytes([(number << 3) & 0x7F | (0x80 if number > 15 else 0)] + ([number >> 4] if number > 15 else []) + [99])
    )
    with pytest.raises(ValidationError, match=f"the {text} 99"):
        config_of(message)


def test_every_field_of_the_configuration_has_its_message_field_and_back() -> None:
    declared = {field.name for field in common_pb2.PhantomConfig.DESCRIPTOR.fields}
    assert declared - {"preset"} == {field.name for field in fields(PhantomConfig)}


def test_every_metric_has_its_message_field_and_back() -> None:
    declared = {field.name for field in common_pb2.MetricsSnapshot.DESCRIPTOR.fields}
    assert declared - {"uptime"} == {field.name for field in fields(MetricsSnapshot)} - {"uptime_secs"}
    snapshot = MetricsSnapshot(packets_sent=7, dropped_total={"malformed": 2}, uptime_secs=1.5)
    message = metrics_message(snapshot)
    assert (message.packets_sent, dict(message.dropped_total)) == (7, {"malformed": 2})
    assert seconds(message.uptime) == 1.5


def test_every_state_has_its_value() -> None:
    names = {state: common_pb2.ConnectionState.Name(state_value(state)) for state in phantom.ConnectionState}
    assert names == {state: f"CONNECTION_STATE_{state.name}" for state in phantom.ConnectionState}
    assert len(common_pb2.ConnectionState.values()) == len(phantom.ConnectionState) + 1


def test_pins_of_every_form(server_key: phantom.HybridSigningKey) -> None:
    key = server_key.verifying_key()
    flat, text = key.to_bytes(), key.fingerprint()
    assert pins_of(pin_messages(None)) is None
    for pin in (text, key.to_hex()):
        assert pins_of(pin_messages(pin)) == [pin]
    for raw in (flat, bytearray(flat), memoryview(flat), key):
        assert pins_of(pin_messages(raw)) == [flat]
    assert pins_of(pin_messages([text, flat, key])) == [text, flat, flat]


def test_every_field_there_and_back() -> None:
    config = PhantomConfig(
        offer_version=1,
        accept_versions=frozenset({1, 2}),
        padding="pade",
        jitter=0.005,
        cover_interval=1.5,
        qlog_dir="/somewhere",
    )
    assert config_of(config_message(config)) == config


def test_what_is_no_pin() -> None:
    with pytest.raises(ValidationError, match="not a int"):
        pin_messages([7])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="neither a key nor a fingerprint"):
        pins_of([common_pb2.Pin()])


def test_policies_there_and_back(server_key: phantom.HybridSigningKey, tmp_path: Path) -> None:
    key = server_key.verifying_key()
    file = tmp_path / "clients"
    file.write_text(f"{key.fingerprint()} a client\n")
    pins = phantom.AuthorizedClients.from_pins([key])
    listed = phantom.AuthorizedClients.from_file(file)
    required = phantom.ClientPolicy.required
    for policy in (phantom.ClientPolicy.none(), phantom.ClientPolicy.optional()):
        assert policy_of(policy_message(policy)) == policy
    assert policy_of(listener_pb2.ClientPolicy()) == phantom.ClientPolicy.none()
    message = policy_message(required(pins))
    assert [pin.fingerprint for pin in message.authorized] == [key.fingerprint()]
    assert policy_message(required(listed)).authorized_file == str(file)
    for policy in (required(pins), required(listed)):
        assert policy_of(policy_message(policy)).judge(key) is True
    by_key = listener_pb2.ClientPolicy(
        authentication=listener_pb2.CLIENT_AUTHENTICATION_REQUIRED, authorized=[common_pb2.Pin(key=key.to_bytes())]
    )
    assert policy_of(by_key).judge(key) is True
    with pytest.raises(UnsupportedError, match="function"):
        policy_message(required(lambda _key: True))


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"authorized_file": "/x"}, ConfigError, "required identity only"),
        ({"authentication": 2, "authorized": [{"fingerprint": "x"}]}, ConfigError, "required identity only"),
        ({"authentication": 3}, ConfigError, "either pins"),
        (
            {"authentication": 3, "authorized_file": "/x", "authorized": [{"fingerprint": "x"}]},
            ConfigError,
            "either pins",
        ),
        ({"authentication": 3, "authorized_file": "clients"}, ValidationError, "absolute"),
        ({"authentication": 3, "authorized_file": "/nowhere/clients"}, ConfigError, "/nowhere/clients"),
        ({"authentication": 3, "authorized": [{"fingerprint": "x"}]}, ValidationError, "fingerprint"),
        ({"authentication": 3, "authorized": [{}]}, ConfigError, "neither"),
    ],
    ids=["none", "optional", "nobody", "both", "relative", "no-file", "malformed", "empty-pin"],
)
def test_policies_that_cannot_be(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        policy_of(listener_pb2.ClientPolicy(**fields))


def test_a_policy_of_a_newer_client() -> None:
    with pytest.raises(ValidationError, match="client authentication 9"):
        policy_of(listener_pb2.ClientPolicy.FromString(b"\x08\x09"))
