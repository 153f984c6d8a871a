"""Between the messages of proto/ and the objects of the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from phantom.api.clients import AuthorizedClients, ClientPolicy
from phantom.api.session import HandshakeInfo, Negotiated, PhantomSession
from phantom.config import PhantomConfig
from phantom.crypto.aead import CipherSuite
from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.crypto.pins import Pins
from phantom.errors import ConfigError, UnsupportedError, ValidationError
from phantom.observability.metrics import MetricsSnapshot
from phantom.sidecar._generated.v1 import common_pb2, listener_pb2, session_pb2
from phantom.sidecar.handles import SessionHandle
from phantom.sidecar.status import to_detail
from phantom.transport.session.client_auth import ClientAuthPolicy
from phantom.transport.session.states import ConnectionState

__all__ = [
    "config_of",
    "duration",
    "handshake_of",
    "metrics_message",
    "metrics_of",
    "negotiated_of",
    "pins_of",
    "policy_message",
    "policy_of",
    "seconds",
    "session_message",
    "state_of",
    "state_value",
    "verifying_key",
]

_PRESETS: Final = {
    common_pb2.CONFIG_PRESET_UNSPECIFIED: PhantomConfig,
    common_pb2.CONFIG_PRESET_MOBILE: PhantomConfig.mobile,
    common_pb2.CONFIG_PRESET_SERVER: PhantomConfig.server,
    common_pb2.CONFIG_PRESET_IOT: PhantomConfig.iot,
}
_SUITES: Final = {
    common_pb2.CIPHER_SUITE_AES_256_GCM: "aes-256-gcm",
    common_pb2.CIPHER_SUITE_CHACHA20_POLY1305: "chacha20-poly1305",
}
_COOKIES: Final = {common_pb2.COOKIE_POLICY_AUTO: "auto", common_pb2.COOKIE_POLICY_ALWAYS: "always"}
_PADDING: Final = {common_pb2.PADDING_POLICY_NONE: "none", common_pb2.PADDING_POLICY_PADE: "pade"}
_CHOICES: Final[dict[str, tuple[dict[Any, str], str]]] = {
    "suite": (_SUITES, "cipher suite"),
    "cookie": (_COOKIES, "cookie policy"),
    "padding": (_PADDING, "padding policy"),
}
_POLICIES: Final = {
    listener_pb2.CLIENT_AUTHENTICATION_UNSPECIFIED: ClientAuthPolicy.NONE,
    listener_pb2.CLIENT_AUTHENTICATION_NONE: ClientAuthPolicy.NONE,
    listener_pb2.CLIENT_AUTHENTICATION_OPTIONAL: ClientAuthPolicy.OPTIONAL,
    listener_pb2.CLIENT_AUTHENTICATION_REQUIRED: ClientAuthPolicy.REQUIRED,
}
_LEGS: Final = {"tcp": common_pb2.LEG_TCP}


def seconds(message: Duration) -> float:
    """A duration as seconds; ValidationError if it is negative."""
    value = message.seconds + message.nanos / 1e9
    if value < 0:
        raise ValidationError("a duration is negative")
    return value


def duration(value: float) -> Duration:
    """Seconds as a duration, to the nanosecond."""
    nanos = round(value * 1e9)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def config_of(message: common_pb2.PhantomConfig) -> PhantomConfig:
    """The preset with the fields that are present; ConfigError for a bad value, ValidationError for an unknown enum."""
    changes: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "preset":
            continue
        if isinstance(value, Duration):
            changes[field.name] = seconds(value)
        elif field.name in _CHOICES:
            changes[field.name] = _known(_CHOICES[field.name][0], value, _CHOICES[field.name][1])
        elif field.name == "accept_versions":
            changes["accept_versions"] = frozenset(value)
        elif field.name == "load_tiers":
            changes["load_tiers"] = tuple((tier.hellos, tier.difficulty) for tier in value)
        else:
            changes[field.name] = value
    if changes.get("keepalive_interval") == 0:
        changes["keepalive_interval"] = None
    preset: Callable[..., PhantomConfig] = _known(_PRESETS, message.preset, "preset")
    return preset(**changes)


def config_message(config: PhantomConfig) -> common_pb2.PhantomConfig:
    """The inverse of :func:`config_of`: every field that has a value, and no preset."""
    message = common_pb2.PhantomConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "keepalive_interval":
            message.keepalive_interval.CopyFrom(duration(value or 0))
        elif field.name == "load_tiers":
            message.load_tiers.extend(common_pb2.LoadTier(hellos=low, difficulty=bits) for low, bits in value)
        elif field.name == "accept_versions":
            message.accept_versions.extend(sorted(value))
        elif field.name in _CHOICES:
            setattr(
                message, field.name, next((key for key, name in _CHOICES[field.name][0].items() if name == value), 0)
            )
        elif value is None:
            continue
        elif message.DESCRIPTOR.fields_by_name[field.name].message_type is not None:
            getattr(message, field.name).CopyFrom(duration(value))
        else:
            setattr(message, field.name, value)
    return message


def _known(table: dict[Any, Any], value: object, what: str) -> Any:
    try:
        return table[value]
    except KeyError:
        raise ValidationError(f"this sidecar does not know the {what} {value}") from None


def pin_messages(pins: Pins | None) -> list[common_pb2.Pin]:
    """The inverse of :func:`pins_of`; ValidationError for what is no pin."""
    if pins is None:
        return []
    if isinstance(pins, str | bytes | bytearray | memoryview) or not isinstance(pins, Sequence):
        pins = [pins]
    messages = []
    for pin in pins:
        if isinstance(pin, str):
            messages.append(common_pb2.Pin(fingerprint=pin))
        elif isinstance(pin, bytes | bytearray | memoryview):
            messages.append(common_pb2.Pin(key=bytes(pin)))
        elif isinstance(pin, HybridVerifyingKey):
            messages.append(common_pb2.Pin(key=pin.to_bytes()))
        else:
            raise ValidationError(f"a pin is text, bytes or a verifying key, not a {type(pin).__name__}")
    return messages


def pins_of(messages: Sequence[common_pb2.Pin]) -> list[str | bytes] | None:
    """The pins, None if there are none; ConfigError for one that is empty."""
    pins: list[str | bytes] = []
    for message in messages:
        if message.WhichOneof("pin") is None:
            raise ConfigError("a pin has neither a key nor a fingerprint")
        pins.append(message.key if message.WhichOneof("pin") == "key" else message.fingerprint)
    return pins or None


def policy_of(message: listener_pb2.ClientPolicy) -> ClientPolicy:
    """Which clients a listener takes; reads the file of authorised clients. ConfigError, ValidationError."""
    kind = _known(_POLICIES, message.authentication, "client authentication")
    if kind is not ClientAuthPolicy.REQUIRED:
        if message.authorized or message.authorized_file:
            raise ConfigError("authorised clients go with a required identity only")
        return ClientPolicy(kind)
    if bool(message.authorized) == bool(message.authorized_file):
        raise ConfigError("a required identity needs either pins of authorised clients or a file of them")
    if message.authorized_file:
        if not PurePath(message.authorized_file).is_absolute():
            raise ValidationError("the path of a file of authorised clients must be absolute")
        return ClientPolicy.required(AuthorizedClients.from_file(message.authorized_file))
    return ClientPolicy.required(AuthorizedClients.from_pins(pins_of(message.authorized) or ()))


def policy_message(policy: ClientPolicy) -> listener_pb2.ClientPolicy:
    """The inverse of :func:`policy_of`; UnsupportedError for a function, which cannot go elsewhere."""
    message = listener_pb2.ClientPolicy(
        authentication=next(key for key, kind in _POLICIES.items() if key and kind is policy.kind)
    )
    clients = policy.authorized
    if isinstance(clients, AuthorizedClients):
        if clients.path is not None:
            message.authorized_file = str(clients.path.absolute())
        else:
            message.authorized.extend(common_pb2.Pin(fingerprint=text) for text in clients.fingerprints())
    elif clients is not None:
        raise UnsupportedError("a function cannot judge clients in the sidecar; give it a list or a file of them")
    return message


def verifying_key(key: HybridVerifyingKey) -> common_pb2.VerifyingKey:
    """A public half."""
    return common_pb2.VerifyingKey(key=key.to_bytes(), fingerprint=key.fingerprint())


def state_value(state: ConnectionState) -> common_pb2.ConnectionState.ValueType:
    """A state; the values of proto/ are those of the API plus one."""
    return common_pb2.ConnectionState.ValueType(state + 1)


def state_of(value: common_pb2.ConnectionState.ValueType) -> ConnectionState:
    """The inverse of :func:`state_value`."""
    return ConnectionState(value - 1)


def session_message(handle: SessionHandle) -> session_pb2.Session:
    """A session as it is now."""
    session: PhantomSession = handle.session
    negotiated, handshake = session.negotiated, session.handshake
    message = session_pb2.Session(
        ref=session_pb2.SessionRef(handle=handle.number),
        id=session.id,
        peer_addr=session.peer_addr,
        state=state_value(session.state),
        queued=session.queued_count(),
        negotiated=session_pb2.Negotiated(
            version=negotiated.version,
            suite=common_pb2.CipherSuite.ValueType(negotiated.suite),
            receive_suite=common_pb2.CipherSuite.ValueType(negotiated.receive_suite or 0),
            leg=_LEGS.get(negotiated.leg, common_pb2.LEG_UNSPECIFIED),
            epoch=negotiated.epoch,
        ),
        handshake=session_pb2.HandshakeInfo(
            duration=duration(handshake.seconds),
            bytes_sent=handshake.bytes_sent,
            bytes_received=handshake.bytes_received,
            retries=handshake.retries,
            algorithms=handshake.algorithms,
        ),
    )
    peer, error = session.peer_identity(), session.last_error()
    if peer is not None:
        message.peer_identity.CopyFrom(verifying_key(peer))
    if error is not None:
        message.last_error.CopyFrom(to_detail(error))
    return message


def metrics_message(snapshot: MetricsSnapshot) -> common_pb2.MetricsSnapshot:
    """A snapshot of counters."""
    message = common_pb2.MetricsSnapshot(uptime=duration(snapshot.uptime_secs), dropped_total=snapshot.dropped_total)
    for field in fields(snapshot):
        if field.name not in ("uptime_secs", "dropped_total"):
            setattr(message, field.name, getattr(snapshot, field.name))
    return message


def metrics_of(message: common_pb2.MetricsSnapshot) -> MetricsSnapshot:
    """The inverse of :func:`metrics_message`."""
    snapshot = MetricsSnapshot(uptime_secs=seconds(message.uptime), dropped_total=dict(message.dropped_total))
    for field in fields(snapshot):
        if field.name not in ("uptime_secs", "dropped_total"):
            setattr(snapshot, field.name, getattr(message, field.name))
    return snapshot


def negotiated_of(message: session_pb2.Negotiated) -> Negotiated:
    """What the two sides of a session agreed on; the leg is empty if this client does not know its name."""
    return Negotiated(
        version=message.version,
        suite=CipherSuite(message.suite),
        receive_suite=CipherSuite(message.receive_suite) if message.receive_suite else None,
        leg=next((name for name, value in _LEGS.items() if value == message.leg), ""),
        epoch=message.epoch,
    )


def handshake_of(message: session_pb2.HandshakeInfo) -> HandshakeInfo:
    """What a handshake took."""
    return HandshakeInfo(
        seconds(message.duration),
        message.bytes_sent,
        message.bytes_received,
        message.retries,
        tuple(message.algorithms),
    )
