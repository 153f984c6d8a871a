"""Runs deterministic test vectors (schema ``phantom-native-vectors/1``) against this implementation.

    python -m phantom.testing.vectors DIR [--provider openssl|pqcrypto]

prints one JSON verdict for each file of the directory and a total, and exits with 1 if anything does not match. What is
not built is reported as ``not implemented`` with the reason, never as passed. Vectors of wire-native Appendix B come
with the source (``tests/vectors/native``); a file is known by its ``file`` field, whatever it is called.

Every value of a positive entry is recomputed, in both directions where there are two, and compared with what the entry
holds; of a negative entry the class of the refusal is, and that nothing else changed. Entries come from anywhere, so
whatever an entry makes the code raise is that entry's failure, not the runner's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from phantom.crypto import hybrid_kem, kdf
from phantom.crypto.aead import CipherSuite, new_aead
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey, app_signed_input
from phantom.crypto.pins import PinSet
from phantom.crypto.pow import leading_zero_bits, solve
from phantom.crypto.providers import PROVIDER_NAMES, Provider, get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import (
    ClientAuthError,
    ConfigError,
    HandshakeError,
    PhantomError,
    ProtocolViolationError,
    SerializationError,
    StreamResetError,
    UnsupportedError,
)
from phantom.limits import (
    COOKIE_BUCKET,
    FAKETLS_MAX_RECORD,
    INITIAL_SRTT,
    INITIAL_STREAM_WINDOW,
    LENGTH_PREFIX,
    MAX_ACK_DELAY,
    MAX_CLIENT_POW_DIFFICULTY,
    MAX_EPOCH,
    MAX_SHAPED_WIRE_PIPE,
    POW_MIN_TIER,
    SECRET_ROTATION,
    VERSION_1,
    VERSION_2,
    VERSION_3,
)
from phantom.security.replay import ReplayWindow, ReplayWindows
from phantom.transport.handshake import messages
from phantom.transport.handshake.events import Established, HandshakeResult, Send, SolveChallenge
from phantom.transport.handshake.gate import Gate, PowVerdict, Source, client_id
from phantom.transport.handshake.initiator import Initiator
from phantom.transport.handshake.responder import Responder
from phantom.transport.handshake.resumption import Resumption, open_early_data, seal_early_data
from phantom.transport.handshake.transcript import transcript_hash
from phantom.transport.legs.faketls_records import OVERHEAD as FAKETLS_OVERHEAD
from phantom.transport.legs.faketls_records import RecordOpener, RecordSealer
from phantom.transport.packet import flags, frames, header
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import ProtectionLimits, ProtectionV1, ProtectionV2, nonce_v1, nonce_v2
from phantom.transport.session import control
from phantom.transport.session.client_auth import (
    ClientAuthentication,
    ClientAuthInitiator,
    ClientAuthPolicy,
    ClientAuthRequested,
    ClientAuthResponder,
)
from phantom.transport.session.connection import Connection, SessionSettings
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.messages import MessageAssembler
from phantom.transport.session.paths import Path as SessionPath
from phantom.transport.session.reassembly import Reassembly, Verdict
from phantom.transport.session.streams import Stream

__all__ = ["SCHEMA", "Report", "main", "run_directory", "run_document"]

SCHEMA: Final = "phantom-native-vectors/1"

OK: Final = "pass"
FAIL: Final = "fail"
NOT_IMPLEMENTED: Final = "not implemented"

Entry = dict[str, Any]
Protection = ProtectionV1 | ProtectionV2

_ALL_CUTS: Final = 2048  # bytes of a frame up to which every prefix is tried
_unhex = bytes.fromhex


class _Mismatch(Exception):  # noqa: N818 - the finding of a runner
    """An entry and this implementation disagree."""


class _NotBuilt(Exception):  # noqa: N818 - the finding of a runner
    """An entry needs something that is not there; the text is the reason."""


@dataclass
class Report:
    """The verdict on one file. ``failures`` maps the ids of failed entries to what is wrong with them."""

    file: str
    passed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        """``pass``, ``fail`` or ``not implemented``; a file of which nothing passed is never a pass."""
        if self.failures:
            return FAIL
        if self.missing:
            return NOT_IMPLEMENTED
        return OK if self.passed else FAIL

    def as_dict(self) -> dict[str, Any]:
        """The line that is printed."""
        return {
            "file": self.file,
            "verdict": self.verdict,
            "passed": self.passed,
            "failed": len(self.failures),
            "not_implemented": self.missing.total(),
            "failures": list(self.failures),
            "why": self.failures,
            "reasons": dict(self.missing),
        }


class _Bench:
    """What the runners share while they work on one file."""

    def __init__(self, provider: Provider, positive: Iterable[Entry]) -> None:
        self.provider = provider
        self.by_id = {entry["id"]: entry for entry in positive}

    def protection(self, version: int, initiator: bool, entry: Entry, **limits: int) -> Protection:
        """A fresh end of the session that a packet entry describes."""
        cls = ProtectionV1 if version == VERSION_1 else ProtectionV2
        return cls(
            initiator,
            _unhex(entry["session_id"]),
            bytearray.fromhex(entry["traffic_secret_0"]),
            send_suite=CipherSuite(entry.get("suite", CipherSuite.AES_256_GCM)),
            provider=self.provider,
            counters=DropCounters(),
            limits=ProtectionLimits(**limits),
        )


# --- comparing --------------------------------------------------------------------------------------------------------


def _same(what: str, actual: object, expected: object) -> None:
    if actual != expected or type(actual) is not type(expected):
        raise _Mismatch(f"{what} differs")


def _expect(entry: Entry, actual: Entry) -> None:
    """Every value of ``expect`` and no other."""
    expected = entry["expect"]
    if set(expected) != set(actual):
        raise _Mismatch(f"expect: other keys than {sorted(actual)}")
    for key, value in actual.items():
        _same(key, value, expected[key])


def _refused(entry: Entry, names: Iterable[str]) -> None:
    if entry["reject"] not in names:
        raise _Mismatch(f"rejected as {' / '.join(names)}, not as {entry['reject']}")


def _error_of(call: Callable[[], object]) -> tuple[str, ...]:
    """The names of the error that a call ends with."""
    try:
        call()
    except PhantomError as error:
        name = type(error).__name__
        return (name, name.removesuffix("Error"), *(["fatal"] if type(error) is HandshakeError else []))
    return ("accepted",)


def _name_of(error: PhantomError) -> str:
    return type(error).__name__.removesuffix("Error")


def _cuts(size: int) -> Iterable[int]:
    return range(size) if size <= _ALL_CUTS else sorted({*range(128), *range(0, size, 97), *range(size - 128, size)})


def _only_whole(frame: bytes, decoder: Callable[[bytes], object], error: type[Exception]) -> None:
    """No proper prefix decodes, nor the frame with a byte appended."""
    for other in (*(frame[:n] for n in _cuts(len(frame))), frame + b"\0"):
        try:
            decoder(other)
        except error:
            continue
        raise _Mismatch(f"a frame of {len(frame)} bytes decodes with {len(other)}")


def _is_initiator(role: str) -> bool:
    return ("responder", "initiator").index(role) == 1


def _op(entry: Entry, *known: str, default: str = "") -> str:
    op = str(entry.get("op", default))
    if op not in known:
        raise _NotBuilt(f"op {op!r}")
    return op


def _script(entry: Entry, name: str) -> list[Entry]:
    """The steps of an entry; there must be some, or it would show nothing."""
    steps = entry[name]
    if not isinstance(steps, list) or not steps:
        raise _Mismatch(f"{name}: no steps")
    return steps


# --- kdf --------------------------------------------------------------------------------------------------------------


def _epoch_keys(secret: bytes | bytearray) -> Entry:
    aes = kdf.traffic_keys(secret, CipherSuite.AES_256_GCM)
    cc20 = kdf.traffic_keys(secret, CipherSuite.CHACHA20_POLY1305)
    _same("prefix of both suites", aes.prefix, cc20.prefix)
    return {
        "traffic_secret": secret.hex(),
        "aes_send": aes.send.hex(),
        "aes_recv": aes.recv.hex(),
        "cc20_send": cc20.send.hex(),
        "cc20_recv": cc20.recv.hex(),
        "nonce_prefix": aes.prefix.hex(),
        "transport_key": kdf.session_key(secret).hex(),
    }


def _traffic_secret(secret: bytes | bytearray, epoch: int) -> bytearray:
    if not 0 <= epoch <= MAX_EPOCH:
        raise _Mismatch(f"epoch {epoch}")
    result = bytearray(secret)
    for _ in range(epoch):
        result = kdf.next_traffic_secret(result)
    return result


def _run_kdf(entry: Entry, bench: _Bench, positive: bool) -> None:
    given = entry["input"]
    if _op(entry, "schedule", "exporter", default="schedule" if positive else "exporter") == "exporter":
        label, length = _unhex(given["label"]), given["length"]
        if not positive:
            _refused(entry, _error_of(lambda: kdf.export(bytes(32), label, length)))
            return
        root = kdf.session_key(_unhex(given["traffic_secret_0"]))
        out = kdf.export(root, label, length)
        if "exported" in entry["expect"]:
            shown = {"exported": out.hex()}
        else:
            shown = {"exported_sha256": hashlib.sha256(out).hexdigest(), "exported_tail": out[-32:].hex()}
        _expect(entry, {"session_key_0": root.hex(), **shown})
        return
    nonce = _unhex(given["client_nonce"])
    secret = kdf.combine(_unhex(given["ss_x"]), _unhex(given["ss_pq"]))
    resumption = kdf.resumption_secret(secret)
    if not entry["expect"]["epochs"]:
        raise _Mismatch("no epochs")
    early_key, early_nonce = kdf.early_key_nonce(resumption, nonce)
    _expect(
        entry,
        {
            "shared_secret": secret.hex(),
            "session_id": kdf.session_id(secret, nonce).hex(),
            "resumption_secret": resumption.hex(),
            "early_key": early_key.hex(),
            "early_nonce": early_nonce.hex(),
            "epochs": {e: _epoch_keys(_traffic_secret(secret, int(e))) for e in entry["expect"]["epochs"]},
        },
    )


# --- hybrid KEM and signature -----------------------------------------------------------------------------------------


def _run_hybrid_kem(entry: Entry, bench: _Bench, positive: bool) -> None:
    provider, given = bench.provider, entry["input"]
    if _op(entry, "decapsulate", "encapsulate", default="decapsulate") == "encapsulate":
        package = _unhex(given["key_package"])
        _refused(entry, _error_of(lambda: hybrid_kem.encapsulate(provider, package, SYSTEM_RNG)))
        return
    sk, seed, ciphertext = _unhex(given["x25519_sk"]), _unhex(given["ml_kem_seed"]), _unhex(given["ciphertext"])
    pair = hybrid_kem.HybridKemKeyPair.from_seeds(provider, sk, seed)
    if not positive:
        _refused(entry, _error_of(lambda: pair.decapsulate(ciphertext)))
        return
    if "record" in entry:
        ephemeral = provider.x25519_private(_unhex(entry["record"]["ephemeral_sk"]))
        _same("record", provider.x25519_public(ephemeral), ciphertext[:32])
    ss_x = provider.x25519_exchange(provider.x25519_private(sk), ciphertext[:32])
    ss_pq = provider.ml_kem_decapsulate(provider.ml_kem_keypair(seed)[0], ciphertext[36:])
    secret = pair.decapsulate(ciphertext)
    _same("combiner", hybrid_kem.combine(ss_x, ss_pq), secret)
    _expect(
        entry,
        {
            "key_package": pair.public.hex(),
            "ss_x": ss_x.hex(),
            "ss_pq": ss_pq.hex(),
            "shared_secret": secret.hex(),
        },
    )
    fresh, ours = hybrid_kem.encapsulate(provider, pair.public, SYSTEM_RNG)
    _same("round trip", pair.decapsulate(fresh), ours)


def _run_hybrid_sign(entry: Entry, bench: _Bench, positive: bool) -> None:
    given = entry["input"]
    op = _op(entry, "sign", "verify", "app_sign", "app_verify", default="sign")
    message, signature = _unhex(given["message"]), _unhex(given["signature_flat"])
    key = HybridVerifyingKey.from_hex(given["verifying_key_flat"], bench.provider)
    context = _unhex(given["context"]) if op.startswith("app") else b""

    def verify(signed: bytes) -> bool:
        if op.startswith("app"):
            return key.verify(message, signed, context=context)
        return key._verify_raw(message, signed)

    if not positive:
        _refused(entry, ("accepted",) if verify(signature) else ("SignatureInvalid",))
        return
    with HybridSigningKey.from_bytes(_unhex(given["seed"]), bench.provider) as signing:
        _same("verifying key", signing.verifying_key(), key)
        own = signing.sign(message, context=context) if op == "app_sign" else signing._sign_raw(message)
    _same("round trip", verify(own), True)
    _same("Ed25519 half", own[:64], signature[:64])
    shown: Entry = {"ed25519_sig": own[:64].hex(), "valid": verify(signature)}
    if op == "app_sign":
        shown["signed_input"] = app_signed_input(context, message).hex()
    else:
        shown["verifying_key_flat"] = key.to_hex()
        shown["verifying_key_borsh"] = key.encoded.hex()
        shown["signature_borsh"] = _vec(signature[:64], signature[64:]).hex()
    _expect(entry, shown)


# --- handshake messages -----------------------------------------------------------------------------------------------


def _vec(head: bytes, body: bytes) -> bytes:
    return head + len(body).to_bytes(4, "little") + body


def _encoded(fields: Entry, head: str, body: str) -> bytes:
    return _vec(_unhex(fields[head]), _unhex(fields[body]))


def _structured(encoded: bytes, at: int, head: str, body: str) -> Entry:
    return {head: encoded[:at].hex(), body: encoded[at + 4 :].hex()}


def _optional(value: str | None) -> bytes | None:
    return None if value is None else _unhex(value)


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


_PACKAGE: Final = ("x25519_pk", "ml_kem_ek")
_CIPHERTEXT: Final = ("x25519_ephemeral_pk", "ml_kem_ct")
_VERIFY_KEY: Final = ("ed25519_pk", "ml_dsa_pk")
_SIGNATURE: Final = ("ed25519_sig", "ml_dsa_sig")


def _hello(fields: Entry) -> messages.ClientHello:
    solution = fields["pow_solution"]
    return messages.ClientHello(
        _encoded(fields["client_key_package"], *_PACKAGE),
        _encoded(fields["client_verify_key"], *_VERIFY_KEY),
        _unhex(fields["nonce"]),
        fields["version"],
        _optional(fields["cookie"]),
        None if solution is None else messages.PowSolution(_unhex(solution["nonce"]), int(solution["solution"])),
        _optional(fields["resume_session_id"]),
        _optional(fields.get("early_data")),
        ("V12", "V3").index(fields["envelope"]),
    )


def _hello_fields(hello: messages.ClientHello) -> Entry:
    solution = hello.pow_solution
    fields: Entry = {
        "envelope": ("V12", "V3")[hello.envelope],
        "client_key_package": _structured(hello.client_key_package, 32, *_PACKAGE),
        "client_verify_key": _structured(hello.client_verify_key, 32, *_VERIFY_KEY),
        "nonce": hello.nonce.hex(),
        "version": hello.version,
        "cookie": _shown(hello.cookie),
        "pow_solution": solution and {"nonce": solution.nonce.hex(), "solution": str(solution.solution)},
        "resume_session_id": _shown(hello.resume_session_id),
    }
    if hello.envelope == messages.ENVELOPE_V3:
        fields["early_data"] = _shown(hello.early_data)
    return fields


def _reply(fields: Entry) -> messages.Reply:
    kind = fields["kind"]
    if kind == messages.KIND_RETRY:
        challenge = fields["challenge"]
        return messages.HelloRetryRequest(
            None if challenge is None else messages.PowChallenge(_unhex(challenge["nonce"]), challenge["difficulty"]),
            _optional(fields["cookie"]),
        )
    if kind == messages.KIND_REJECT:
        return messages.ServerReject(fields["code"], fields["supported_version"])
    if fields["envelope"] == "Unsupported":
        return messages.Unsupported()
    return messages.ServerHello(
        _encoded(fields["server_key_package"], *_PACKAGE),
        _encoded(fields["ciphertext"], *_CIPHERTEXT),
        _encoded(fields["server_verify_key"], *_VERIFY_KEY),
        _encoded(fields["signature"], *_SIGNATURE),
        _unhex(fields["session_id"]),
        fields["early_data_accepted"],
    )


def _reply_fields(reply: messages.Reply) -> Entry:
    if isinstance(reply, messages.HelloRetryRequest):
        challenge = reply.challenge
        return {
            "kind": messages.KIND_RETRY,
            "challenge": challenge and {"nonce": challenge.nonce.hex(), "difficulty": challenge.difficulty},
            "cookie": _shown(reply.cookie),
        }
    if isinstance(reply, messages.ServerReject):
        return {"kind": messages.KIND_REJECT, "code": reply.code, "supported_version": reply.supported_version}
    if isinstance(reply, messages.Unsupported):
        return {"kind": messages.KIND_HELLO, "envelope": "Unsupported"}
    return {
        "kind": messages.KIND_HELLO,
        "envelope": "V12" if reply.early_data_accepted is None else "V3",
        "server_key_package": _structured(reply.server_key_package, 32, *_PACKAGE),
        "ciphertext": _structured(reply.ciphertext, 32, *_CIPHERTEXT),
        "server_verify_key": _structured(reply.server_verify_key, 32, *_VERIFY_KEY),
        "signature": _structured(reply.signature, 64, *_SIGNATURE),
        "session_id": reply.session_id.hex(),
        "early_data_accepted": reply.early_data_accepted,
    }


def _run_handshake_messages(entry: Entry, bench: _Bench, positive: bool) -> None:
    frame = _unhex(entry["frame"])
    if entry["message"] not in ("ClientHelloEnvelope", "reply"):
        raise _NotBuilt(f"message {entry['message']!r}")
    of_client = entry["message"] == "ClientHelloEnvelope"
    decoder: Callable[[bytes], Any] = messages.ClientHello.decode if of_client else messages.decode_reply
    if not positive:
        stage = entry.get("stage")
        if stage is None:
            _refused(entry, _error_of(lambda: decoder(frame)))
        elif stage == "client-semantics":
            initiator = Initiator(PinSet([bytes(32)]), provider=bench.provider, rng=SYSTEM_RNG)
            initiator.start(0.0)
            _refused(entry, _error_of(lambda: initiator.receive(frame, 0.0)))
        elif stage == "server-S3":
            _refuse_version(entry, frame, bench)
        else:
            raise _NotBuilt(f"stage {stage!r}")
        return
    fields = entry["fields"]
    value = _hello(fields) if of_client else _reply(fields)
    _same("frame", value.encode(), frame)
    _same("decoded value", decoder(frame), value)
    _same("fields", _hello_fields(decoder(frame)) if of_client else _reply_fields(decoder(frame)), fields)
    _same("length", len(frame), entry["length"])
    _same("sha256", hashlib.sha256(frame).hexdigest(), entry["sha256"])
    _only_whole(frame, decoder, SerializationError)


def _refuse_version(entry: Entry, frame: bytes, bench: _Bench) -> None:
    reply = messages.decode_reply(_unhex(entry["server_reply"]))
    assert isinstance(reply, messages.ServerReject)
    with HybridSigningKey.generate(provider=bench.provider) as key:
        responder = Responder(
            key,
            Gate(bytes(32)),
            Source("192.0.2.1"),
            provider=bench.provider,
            rng=SYSTEM_RNG,
            supported_version=reply.supported_version,
        )
        responder.start(0.0)
        responder.receive(frame, 0.0, 0.0)
        event = responder.next_event()
        responder.close()
    assert isinstance(event, Send)
    _same("server_reply", event.frame.hex(), entry["server_reply"])
    _refused(entry, (f"ServerReject {reply.code}",))


def _run_transcripts(entry: Entry, bench: _Bench, positive: bool) -> None:
    client, server = _unhex(entry["input"]["client_frame"]), _unhex(entry["input"]["server_frame"])
    messages.walk_client_hello(client)
    messages.decode_reply(server)
    _expect(entry, {"sha256": transcript_hash(client, server).hex()})


# --- gate -------------------------------------------------------------------------------------------------------------


def _run_cookie_pow(entry: Entry, bench: _Bench, positive: bool) -> None:
    given = entry["input"]
    op = _op(entry, "cookie", "pow", "pow_bits")
    if op == "pow_bits":
        nonce = _unhex(given["nonce"])
        _expect(entry, {"leading_zero_bits": [leading_zero_bits(nonce, int(s)) for s in given["solutions"]]})
        return
    master = _unhex(given["master"])
    gate = Gate(master)
    source = Source(client_id(given["address"]) if op == "cookie" else given["client_id"])
    if not positive:
        if op == "cookie":
            accepted = gate.check_cookie(source, _unhex(given["cookie"]), given["unix_seconds"])
        else:
            solution = messages.PowSolution(_unhex(given["nonce"]), int(given["solution"]))
            verdict = gate.check_pow(source, solution, given["difficulty"], given["unix_seconds"])
            accepted = verdict is PowVerdict.ACCEPTED
        _refused(entry, ("accepted",) if accepted else (op,))
        return
    seconds = given["unix_seconds"] if op == "cookie" else given["ts"]
    hour = seconds // SECRET_ROTATION
    times = entry["expect"]["valid_at"]
    shown: Entry = {"hour_secret": kdf.hour_secret(master, hour).hex()}
    if op == "cookie":
        cookie = gate.issue_cookie(source, seconds)
        shown |= {"client_id": source.client_id, "hour": hour, "bucket": seconds // COOKIE_BUCKET}
        shown |= {"cookie": cookie.hex(), "valid_at": [t for t in times if gate.check_cookie(source, cookie, t)]}
    else:
        challenge = gate.issue_challenge(source, 1, seconds, _unhex(given["salt"]))
        lowest = {bits: _lowest(challenge.nonce, int(bits)) for bits in entry["expect"]["lowest_solution"]}
        worked = [
            (int(b), messages.PowSolution(challenge.nonce, s)) for b, s in lowest.items() if int(b) >= POW_MIN_TIER
        ]
        shown |= {
            "nonce": challenge.nonce.hex(),
            "lowest_solution": lowest,
            "valid_at": [
                t for t in times if all(gate.check_pow(source, s, bits, t) is PowVerdict.ACCEPTED for bits, s in worked)
            ],
        }
    if not times:
        raise _Mismatch("valid_at is empty")
    _expect(entry, shown)


def _lowest(nonce: bytes, difficulty: int) -> int:
    if difficulty > MAX_CLIENT_POW_DIFFICULTY:
        raise _Mismatch(f"difficulty {difficulty}")
    solution = solve(nonce, difficulty, 0, 64 << difficulty)
    if solution is None:
        raise _Mismatch("no solution")
    return solution


# --- early data -------------------------------------------------------------------------------------------------------


def _run_early_data(entry: Entry, bench: _Bench, positive: bool) -> None:
    given = entry["input"]
    names = ("resumption_secret", "resume_session_id", "client_nonce", "client_key_package", "client_verify_key")
    secret, session, nonce, package, verify_key = (_unhex(given[name]) for name in names)
    version = given["version"]

    def opened(blob: bytes) -> bytearray | None:
        return open_early_data(bench.provider, secret, session, nonce, package, verify_key, version, blob)

    if not positive:
        _refused(entry, ("verdict true",) if opened(_unhex(given["blob"])) else ("verdict false",))
        return
    _same("version", version, VERSION_3)
    plaintext = _by_rule(given["plaintext_rule"]) if "plaintext_rule" in given else _unhex(given["plaintext"])
    blob = seal_early_data(bench.provider, Resumption(session, secret, plaintext), nonce, package, verify_key)
    binding = kdf.early_binding(package, verify_key, version)
    shown: Entry = {"early_binding": binding.hex(), "aad": (session + nonce + binding).hex()}
    if "blob" in entry["expect"]:
        shown["blob"] = blob.hex()
    else:
        shown |= {"blob_sha256": hashlib.sha256(blob).hexdigest(), "blob_tail": blob[-16:].hex()}
    surfaced = opened(blob)
    _same("opened blob", surfaced, bytearray(plaintext))
    _expect(entry, shown | {"verdict": bool(surfaced)})


def _by_rule(rule: str) -> bytes:
    found = re.fullmatch(r"byte k = \(k \+ (\d+)\) mod 256, (\d+) bytes", rule)
    if found is None:
        raise _NotBuilt(f"plaintext_rule {rule!r}")
    start, size = map(int, found.groups())
    return bytes((k + start) % 256 for k in range(size))


# --- packets ----------------------------------------------------------------------------------------------------------


def _feed(protection: Protection, frame: bytes, now: float = 0.0) -> tuple[str, bytes]:
    """The counter that a frame moved, or ``ok``; and the plaintext."""
    before = protection._counters.snapshot()
    buffer = bytearray(frame)
    word = protection.open(buffer, memoryview(buffer), 0, len(buffer), 0, now)
    after = protection._counters.snapshot()
    moved = [name for name, n in after.items() for _ in range(n - before[name])]
    if word < 0:
        return " + ".join(moved) or "nothing", b""
    if moved != ([] if protection.fresh else ["replay_rejected"]):  # a V1 duplicate is counted and yet opened (§13.4)
        raise _Mismatch(f"opened, but counted {moved}")
    return "ok", bytes(buffer[protection.plain_start : protection.plain_end])


def _receive_state(protection: Protection) -> tuple[object, ...]:
    state = protection._receiving
    windows = {key: (window.high, window.gaps) for key, window in state.windows.table.items()}
    return protection.epoch, protection.receive_suite, protection.unconfirmed, protection.rekeys_peer, windows


def _packet(fields: Entry, session_id: bytes, payload: bytes) -> header.Packet:
    values = {**fields, "extensions": _unhex(fields["extensions"])}
    return header.Packet(session_id=session_id, payload=payload, **values)


def _image(entry: Entry, packet: header.Packet, nonce: bytes, key: bytearray, suite: int, bench: _Bench) -> bytes:
    """Container, AAD, nonce and sealed payload of one packet entry; the frame."""
    image = header.encode_header(packet)
    aad = image + packet.extensions
    aead = new_aead(CipherSuite(suite), key, bench.provider)
    _same("header", image.hex(), entry["header"])
    _same("aad", aad.hex(), entry["aad"])
    _same("nonce", nonce.hex(), entry["nonce"])
    _same("payload", aead.encrypt(nonce, _unhex(entry["plaintext"]), aad), packet.payload)
    frame = header.encode(packet)
    _same("frame", frame.hex(), entry["frame"])
    _same("decoded frame", header.decode(frame), packet)
    _only_whole(frame, header.decode, header.MalformedPacket)
    return frame


def _run_packets_v2(entry: Entry, bench: _Bench, positive: bool) -> None:
    if not positive:
        receiver = bench.protection(VERSION_2, _is_initiator(entry["receiver"]), entry)
        before = _receive_state(receiver)
        _refused(entry, (_feed(receiver, _unhex(entry["frame"]))[0],))
        _same("state", _receive_state(receiver), before)
        return
    fields, plaintext = entry["fields"], _unhex(entry["plaintext"])
    initiator = _is_initiator(entry["sender"])
    packet = _packet(fields, _unhex(entry["session_id"]), _unhex(entry["payload"]))
    secret = _traffic_secret(_unhex(entry["traffic_secret_0"]), packet.epoch)
    keys = kdf.traffic_keys(secret, CipherSuite(entry["suite"]))
    prefix = int.from_bytes(keys.prefix, "big")
    nonce = nonce_v2(prefix, packet.epoch, packet.stream_id, packet.sequence, packet.path_id)
    frame = _image(entry, packet, nonce, keys.send if initiator else keys.recv, entry["suite"], bench)

    receiver = bench.protection(VERSION_2, not initiator, entry)
    sender = bench.protection(VERSION_2, initiator, entry)
    assert isinstance(receiver, ProtectionV2)
    assert isinstance(sender, ProtectionV2)
    for _ in range(packet.epoch):
        receiver._advance()
        sender._advance()
    for n in _cuts(len(frame)):
        _same("a prefix", _feed(receiver, frame[:n]), ("malformed", b""))
    _same("opened", _feed(receiver, frame), ("ok", plaintext))
    found = (receiver.stream_id, receiver.sequence, receiver.path_id, receiver.ack_delay)
    _same("header fields", found, (packet.stream_id, packet.sequence, packet.path_id, packet.ack_delay))
    _same("a copy", _feed(receiver, frame), ("replay_rejected", b""))
    if not packet.extensions:  # no sender emits any
        sender._sequences[packet.stream_id] = packet.sequence
        sender._pairs.add(packet.stream_id << 8 | packet.path_id)
        sender._rekey_bit = packet.flags & flags.REKEY
        buffer = bytearray(len(frame))
        end = sender.seal(
            buffer,
            memoryview(buffer),
            0,
            packet.stream_id,
            packet.flags & ~flags.REKEY,
            packet.path_id,
            plaintext,
            len(plaintext),
            packet.ack_delay,
        )
        _same("sealed", bytes(buffer[:end]), frame)


def _seal_v1(sender: ProtectionV1, packet: header.Packet, plaintext: bytes, fresh: bool) -> bytes:
    buffer = bytearray(len(plaintext) + sender.overhead)
    view, size, delay = memoryview(buffer), len(plaintext), packet.ack_delay
    if fresh:
        sender.seal(buffer, view, 0, packet.stream_id, packet.flags, 0, plaintext, size, delay)
    else:
        sender.seal_again(buffer, view, 0, packet.stream_id, packet.flags, plaintext, size, packet.sequence, delay)
    return bytes(buffer)


def _run_packets_v1(entry: Entry, bench: _Bench, positive: bool) -> None:
    if not positive:
        receiver = bench.protection(VERSION_1, _is_initiator(entry["receiver"]), entry)
        for step in _script(entry, "steps"):
            result, plaintext = _feed(receiver, _unhex(step["frame"]))
            _same(step["what"], result, step["result"])
            _same(step["what"], plaintext, _unhex(step.get("plaintext", "")))
        return
    initiator = _is_initiator(entry["sender"])
    receiver = bench.protection(VERSION_1, not initiator, entry)
    sender = bench.protection(VERSION_1, initiator, entry)
    assert isinstance(sender, ProtectionV1)
    keys = kdf.traffic_keys(_unhex(entry["traffic_secret_0"]), CipherSuite(entry["suite"]))
    for counter, step in enumerate(_script(entry, "steps")):
        _same("counter", counter, step["counter"])
        plaintext = _unhex(step["plaintext"])
        packet = _packet(step["fields"], _unhex(entry["session_id"]), _unhex(step["payload"]))
        nonce = nonce_v1(int.from_bytes(keys.prefix, "big"), counter)
        frame = _image(step, packet, nonce, keys.send if initiator else keys.recv, entry["suite"], bench)
        _same("sealed", _seal_v1(sender, packet, plaintext, step["fresh"]), frame)
        _same("opened", _feed(receiver, frame), ("ok", plaintext))
        _same("fresh", receiver.fresh, step["fresh"])
        _same("header fields", (receiver.stream_id, receiver.sequence), (packet.stream_id, packet.sequence))


def _run_rekey(entry: Entry, bench: _Bench, positive: bool) -> None:
    _op(entry, "timed", "")
    if "sent" in entry:
        _run_watermark(entry, bench)
        return
    receiver = bench.protection(VERSION_2, _is_initiator(entry["receiver"]), entry)
    receiver.set_srtt(INITIAL_SRTT)
    for _ in range(entry["start_epoch"]):
        assert isinstance(receiver, ProtectionV2)
        receiver._advance()
    for step in _script(entry, "steps"):
        what = step["what"]
        result, plaintext = _feed(receiver, _unhex(step["frame"]), step.get("at_seconds", 0.0))
        _same(what, result, step["result"])
        _same(what, plaintext, _unhex(step.get("plaintext", "")))
        _same(f"epoch after {what}", receiver.epoch, step["epoch_after"])
        if "unconfirmed_after" in step:
            _same(f"unconfirmed after {what}", receiver.unconfirmed, step["unconfirmed_after"])


def _run_watermark(entry: Entry, bench: _Bench) -> None:
    initiator = _is_initiator(entry["sender"])
    sender = bench.protection(VERSION_2, initiator, entry, sequence_watermark=entry["watermark"])
    receiver = bench.protection(VERSION_2, not initiator, entry)
    for sent in _script(entry, "sent"):
        frame = _unhex(sent["frame"])
        packet = header.decode(frame)
        result, plaintext = _feed(receiver, frame)
        _same("opened", result, "ok")
        buffer = bytearray(len(frame))
        word = packet.flags & ~flags.REKEY
        size = len(plaintext)
        sender.seal(buffer, memoryview(buffer), 0, entry["stream_id"], word, packet.path_id, plaintext, size)
        _same("frame", bytes(buffer), frame)
        _same("sequence", packet.sequence, sent["sequence"])
        _same("epoch", sender.epoch, sent["epoch"])
        _same("rekey_flag", bool(packet.flags & flags.REKEY), sent["rekey_flag"])


# --- frames -----------------------------------------------------------------------------------------------------------


def _sack(cursor_and_islands: Sequence[Sequence[int]], delay: int) -> bytes:
    islands = [(low, high) for low, high in cursor_and_islands]
    if islands and islands[0][0] == 0:
        return frames.encode_sack(islands[0][1] + 1, islands[1:], delay)
    return frames.encode_sack(0, islands, delay)


def _frame_sack(given: Entry) -> Entry:
    raw = _sack(given["islands"], given["ack_delay_us"])
    delay, ranges = frames.decode_sack(raw, 0, len(raw))
    _same("decoded delay", delay, given["ack_delay_us"])
    return {"plaintext": raw.hex(), "ranges_sent": [list(pair) for pair in reversed(ranges)]}


def _frame_coalesced(given: Entry) -> Entry:
    raw = frames.encode_coalesced([_unhex(part) for part in given["parts"]])
    return {"plaintext": raw.hex(), "delivered": [part.hex() for part in frames.decode_coalesced(raw, 0, len(raw))]}


def _frame_window(given: Entry) -> Entry:
    raw = frames.encode_window(int(given["limit"]))
    _same("decoded limit", frames.decode_window(raw, 0, len(raw)), int(given["limit"]))
    return {"plaintext": raw.hex()}


def _frame_pad(given: Entry) -> Entry:
    inner = _unhex(given["inner"]) if "inner" in given else bytes(given["inner_length"])
    padded = frames.pad(inner, given["max_shaped_wire"])
    if padded is not None:
        _same("unpadded", padded[: frames.unpad(padded, 0, len(padded))], inner)
    if "inner" in given:
        wire = frames.V2_OVERHEAD + len(inner if padded is None else padded)
        return {"padded": _shown(padded), "wire_length": wire}
    if padded is None:
        return {"padded_length": None, "pad_n": None}
    return {"padded_length": len(padded), "pad_n": int.from_bytes(padded[-2:], "big")}


def _frame_unpad(given: Entry) -> Entry:
    padded = _unhex(given["padded"])
    return {"inner": padded[: frames.unpad(padded, 0, len(padded))].hex()}


def _frame_control(given: Entry) -> Entry:
    raw = _unhex(given["plaintext"])
    code = frames.decode_control(raw, 0, len(raw))
    return {"effect": "drop"} if code == frames.IGNORED else {"effect": "CLOSE", "code": code}


def _frame_close(given: Entry) -> Entry:
    raw = frames.encode_close(given["code"])
    _same("decoded code", frames.decode_control(raw, 0, len(raw)), given["code"])
    return {"plaintext": raw.hex(), "padded": _shown(frames.pad(raw, MAX_SHAPED_WIRE_PIPE))}


def _frame_pade(given: Entry) -> Entry:
    table = b"".join(frames.pade(n).to_bytes(4, "big") for n in range(4097))
    digest = hashlib.sha256(table).hexdigest()
    return {"values": [frames.pade(n) for n in given["values"]], "table_0_4096_u32be_sha256": digest}


_FRAMES: Final[dict[str, Callable[[Entry], Entry]]] = {
    "sack": _frame_sack,
    "coalesced": _frame_coalesced,
    "window": _frame_window,
    "pad": _frame_pad,
    "unpad": _frame_unpad,
    "control": _frame_control,
    "close": _frame_close,
    "pade": _frame_pade,
}
_FRAME_DECODERS: Final[dict[str, Callable[[bytes, int, int], object]]] = {
    "sack": frames.decode_sack,
    "coalesced": frames.decode_coalesced,
    "window": frames.decode_window,
    "unpad": frames.unpad,
}


def _run_frames(entry: Entry, bench: _Bench, positive: bool) -> None:
    if positive:
        op = _op(entry, *_FRAMES)
        _expect(entry, _FRAMES[op](entry["input"]))
        return
    raw = _unhex(entry["plaintext"])
    try:
        _FRAME_DECODERS[_op(entry, *_FRAME_DECODERS)](raw, 0, len(raw))
    except frames.MalformedFrame:
        _refused(entry, ("malformed",))
        return
    raise _Mismatch("accepted")


# --- replay windows ---------------------------------------------------------------------------------------------------


def _run_replay(entry: Entry, bench: _Bench, positive: bool) -> None:
    given = entry["input"]
    if _op(entry, "sequence", "windows", default="sequence") == "sequence":
        window = ReplayWindow()
        verdicts = [window.accept(sequence) for sequence in given["sequences"]]
    else:
        epochs: dict[int, ReplayWindows] = {}

        def accept(epoch: int, stream_id: int, path_id: int, sequence: int) -> bool:
            return epochs.setdefault(epoch, ReplayWindows()).accept(stream_id, path_id, sequence)

        first = given.get("first", {"epoch": 0, "streams": 0, "paths": 0, "sequence": 0})
        for stream_id in range(first["streams"]):
            for path_id in range(first["paths"]):
                _same("first", accept(first["epoch"], stream_id, path_id, first["sequence"]), True)
        verdicts = [accept(*packet) for packet in given["packets"]]
    _expect(entry, {"result": "".join("ra"[verdict] for verdict in verdicts)})


# --- reassembly -------------------------------------------------------------------------------------------------------

_SEGMENT: Final = 4  # bytes of stream_offset


def _run_reassembly(entry: Entry, bench: _Bench, positive: bool) -> None:
    if not positive:
        _refuse_segments(entry, bench)
        return
    stream_id = entry["stream_id"]
    reassembly = Reassembly(announcements=stream_id != 1)
    assembler = MessageAssembler()
    delivered_bytes = 0
    for step in _script(entry, "steps"):
        plaintext = _unhex(step["plaintext"])
        index = int.from_bytes(plaintext[:_SEGMENT], "big")
        _same("index", index, step["index"])
        verdict = reassembly.segment(index, plaintext[_SEGMENT:], room=INITIAL_STREAM_WINDOW)
        _same("acknowledged", verdict.acknowledged, True)
        _same("duplicate", verdict is Verdict.DUPLICATE, step["duplicate"])
        delivered = b"".join(reassembly.take())
        _same("delivered", delivered, _unhex(step["delivered"]))
        delivered_bytes += len(delivered)
        prefix = [[0, reassembly.next_index - 1]] if reassembly.next_index else []
        islands = prefix + [list(pair) for pair in reassembly.islands()]
        _same("islands", islands, step["islands"])
        _same("SACK", reassembly.sack(0), _unhex(step["sack_plaintext_delay0"]))
        if stream_id == 1:
            assembler.feed_bytes(delivered)
            assembler.split()
    _same("messages", [message.hex() for message in assembler.messages], entry["messages"])
    _same("reliable_bytes", delivered_bytes, entry["reliable_bytes"])


def _refuse_segments(entry: Entry, bench: _Bench) -> None:
    """Segments of an initiator as sealed packets for a session of the responder; the last one is refused."""
    given = [(_unhex(entry["plaintext"]), False)] if "plaintext" in entry else []
    if "stream_bytes" in entry:
        given = [(bytes(_SEGMENT) + _unhex(entry["stream_bytes"]), False)]
    for index, data, fin in entry.get("segments", []):
        given.append((index.to_bytes(_SEGMENT, "big") + _unhex(data), fin))
    stream_id = entry.get("stream_id", 1 if "stream_bytes" in entry or "plaintext" in entry else 3)
    session = _Session(bench, False, _ANY_SESSION)
    for plaintext, fin in given:
        if session.conn.error is not None or session.counted():
            raise _Mismatch("refused before the last one")
        session.give(stream_id, flags.DATA_FIN if fin else flags.DATA, plaintext)
    error = session.conn.error
    _refused(entry, (" + ".join(session.counted()),) if error is None else (_name_of(error),))


# --- the control stream -----------------------------------------------------------------------------------------------

_MESSAGES: Final[dict[str, tuple[int, Callable[[Entry], bytes], Callable[[Entry], control.ControlMessage]]]] = {
    "STREAM_RESET": (
        control.STREAM_RESET,
        lambda e: control.encode_stream_reset(e["stream_id"], e["final_index"], e["code"]),
        lambda e: control.StreamReset(e["stream_id"], e["final_index"], e["code"]),
    ),
    "STREAM_STOP": (
        control.STREAM_STOP,
        lambda e: control.encode_stream_stop(e["stream_id"], e["code"]),
        lambda e: control.StreamStop(e["stream_id"], e["code"]),
    ),
    "AUTH_RESULT": (
        control.AUTH_RESULT,
        lambda e: control.encode_auth_result(e["code"]),
        lambda e: control.AuthResult(e["code"]),
    ),
}
_KINDS: Final = {
    control.StreamReset: control.STREAM_RESET,
    control.StreamStop: control.STREAM_STOP,
    control.ClientAuth: control.CLIENT_AUTH,
    control.AuthResult: control.AUTH_RESULT,
}


class _Session:
    """One engine whose peer is the packets of an entry; nothing of the peer's answers is its own."""

    def __init__(self, bench: _Bench, initiator: bool, entry: Entry, **options: Any) -> None:
        self._sender = bench.protection(VERSION_2, not initiator, entry)
        receiver = bench.protection(VERSION_2, initiator, entry)
        self.counters = receiver._counters
        self._opener = bench.protection(VERSION_2, not initiator, entry)
        self.conn = Connection(
            receiver,
            initiator=initiator,
            path=SessionPath(0, "memory", now=0.0),
            settings=SessionSettings(),
            memory=ReceiveMemory(),
            counters=self.counters,
            now=0.0,
            **options,
        )
        self.conn.reader_waits = True
        self.drain()

    def give(self, stream_id: int, word: int, plaintext: bytes) -> None:
        """A packet of the peer."""
        size = LENGTH_PREFIX + self._sender.overhead + len(plaintext)
        buffer = bytearray(size)
        view = memoryview(buffer)
        buffer[:LENGTH_PREFIX] = (size - LENGTH_PREFIX).to_bytes(LENGTH_PREFIX, "big")
        word |= flags.ENCRYPTED
        self._sender.seal(buffer, view, LENGTH_PREFIX, stream_id, word, 0, plaintext, len(plaintext))
        self.conn.receive(0, buffer, view, 0, size, 0.0)

    def drain(self) -> list[tuple[int, int, bytes]]:
        """What the engine sends, acknowledgements at once: (stream, flags, plaintext)."""
        self.conn.handle_timer(MAX_ACK_DELAY)
        buffer = bytearray(1 << 17)
        view = memoryview(buffer)
        sent = []
        while end := self.conn.fill(0, buffer, view, 0, len(buffer), MAX_ACK_DELAY):
            at = 0
            while at < end:
                stop = at + LENGTH_PREFIX + int.from_bytes(buffer[at : at + LENGTH_PREFIX], "big")
                opener = self._opener
                word = opener.open(buffer, view, at + LENGTH_PREFIX, stop, 0, 0.0)
                _same("a packet of the engine opens", word >= 0, True)
                sent.append((opener.stream_id, word, bytes(buffer[opener.plain_start : opener.plain_end])))
                at = stop
        return sent

    def counted(self) -> list[str]:
        """The drop counters, a name for each time."""
        return [name for name, n in self.counters.snapshot().items() for _ in range(n)]


def _control_messages(sent: Iterable[tuple[int, int, bytes]]) -> list[str]:
    """What was sent on the control stream, message by message."""
    stream = b"".join(plain[_SEGMENT:] for stream, word, plain in sent if not stream and word & flags.RELIABLE)
    found, at = [], 0
    while at < len(stream):
        stop = at + LENGTH_PREFIX + int.from_bytes(stream[at : at + LENGTH_PREFIX], "big")
        found.append(stream[at:stop].hex())
        at = stop
    return found


_ANY_SESSION: Final = {"session_id": "00" * 32, "traffic_secret_0": "00" * 32}


def _run_control_stream(entry: Entry, bench: _Bench, positive: bool) -> None:
    op = _op(entry, "message", "assembler", "stream", "stream_bytes", "segment")
    if op == "message":
        kind, encode, make = _MESSAGES[entry["input"]["name"]]
        message = encode(entry["input"])
        _same("type", message[LENGTH_PREFIX], kind)
        _same("type", kind, entry["input"]["type"])
        _expect(entry, {"message": message.hex()})
        _same("decoded", control.ControlAssembler(DropCounters()).feed(message), [make(entry["input"])])
    elif op == "assembler":
        _run_assembler(entry)
    elif op == "stream":
        _run_stream_script(entry, bench)
    else:
        session = _Session(bench, False, _ANY_SESSION)
        if op == "stream_bytes":
            session.give(0, flags.RELIABLE, bytes(_SEGMENT) + _unhex(entry["stream_bytes"]))
            error = session.conn.error
            _refused(entry, ("accepted",) if error is None else (_name_of(error),))
            _same("CLOSE", session.conn.close_code, ProtocolViolationError.code)
            return
        session.give(entry["stream_id"], entry["flags"], _unhex(entry["plaintext"]))
        _refused(entry, (" + ".join(session.counted()),))
        _same("error", session.conn.error, None)
        _same("acknowledged", [word for _, word, _ in session.drain() if word & flags.ACK], [])


def _run_assembler(entry: Entry) -> None:
    """Segments in any order through reassembly and assembler; skipped types are told by their count."""
    _same("receiver", entry["input"], {"receiver": "responder", "policy": "none"})  # nobody else is asked
    counters = DropCounters()
    reassembly, assembler = Reassembly(), control.ControlAssembler(counters)
    completed: list[int] = []
    delivered = b""
    for step in _script(entry, "steps"):
        plaintext = _unhex(step["plaintext"])
        index, data = int.from_bytes(plaintext[:_SEGMENT], "big"), plaintext[_SEGMENT:]
        reassembly.segment(index, data, room=INITIAL_STREAM_WINDOW)
        pieces = b"".join(reassembly.take())
        delivered += pieces
        done = [_KINDS[type(message)] for message in assembler.feed(pieces)]
        _same("completes", done, [kind for kind in step["completes"] if kind in _KINDS.values()])
        completed += step["completes"]
    _same("types", completed, [_unhex(message)[LENGTH_PREFIX] for message in entry["messages"]])
    _same("charged", assembler.charged, 0)
    _same("messages", delivered, b"".join(map(_unhex, entry["messages"])))
    _expect(entry, {"unknown_control": counters.unknown_control, "stream_bytes": assembler.consumed})


class _Reader:
    """The application of a stream script: accepts what the peer opens and reads it at once."""

    def __init__(self, session: _Session) -> None:
        self._conn = session.conn
        self.streams: dict[int, Stream] = {}
        self.got: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}

    def read(self) -> None:
        """Everything that is there."""
        while (stream := self._conn.accept_stream(0.0)) is not None:
            self.streams[stream.id] = stream
            self.got[stream.id] = b""
        for stream in self.streams.values():
            try:
                while stream.readable and (piece := self._conn.read(stream, 0.0)):
                    self.got[stream.id] += piece
            except StreamResetError as error:
                self.resets[stream.id] = error.reset_code
                self.got[stream.id] = b""  # what was read and what was not: the script counts neither any more


def _run_stream_script(entry: Entry, bench: _Bench) -> None:
    session = _Session(bench, _is_initiator(entry["input"]["receiver"]), _ANY_SESSION)
    reader = _Reader(session)
    for step in _script(entry, "steps"):
        before = session.counted()
        if step.get("do") == "finish":
            session.conn.finish(reader.streams[step["stream_id"]])
        elif "do" in step:
            raise _NotBuilt(f"do {step['do']!r}")
        else:
            session.give(step["stream_id"], step["flags"], _unhex(step["plaintext"]))
        reader.read()
        _check_step(step, session, reader, session.counted()[len(before) :], session.drain())


def _check_step(
    step: Entry, session: _Session, reader: _Reader, dropped: list[str], sent: list[tuple[int, int, bytes]]
) -> None:
    named = step["stream_id"] or 3  # a step of the control stream is about the one stream of these scripts
    shown: Entry = {
        "sack": "".join(p.hex() for i, w, p in sent if w & flags.ACK and i == step["stream_id"]),
        "readable": reader.got.get(named, b"").hex(),
        "reset": reader.resets.get(named),
        "ended": named in reader.streams and reader.streams[named].peer_ended,
        "streams": session.conn.active_streams,
        "sent": _control_messages(sent),
        "drop": " + ".join(dropped),
    }
    for key, value in step["expect"].items():
        actual = shown[key]
        if key == "sack":  # delay 0: the field says how long the acknowledgement waited
            actual = actual[:8] + "00000000" + actual[16:]
        _same(key, actual, value)
    if "drop" not in step["expect"]:
        _same("drop", dropped, [])


# --- client authentication --------------------------------------------------------------------------------------------


def _auth_binding(given: Entry) -> tuple[bytearray, bytearray]:
    root = kdf.session_key(_unhex(given["traffic_secret_0"]))
    return root, bytearray(_unhex(given["transcript_sha256"])) + kdf.auth_context(root)


def _verdict(responder: ClientAuthResponder, authorized: list[str] | None) -> None:
    """The policy of an entry: anybody, or the fingerprints it names."""
    request = responder.next_request()
    if request is not None:
        responder.verdict(authorized is None or request.key.fingerprint_digest().hex() in authorized, 0.0)


def _run_client_auth(entry: Entry, bench: _Bench, positive: bool) -> None:
    op = _op(entry, "auth", "policy", "sequence")
    given = entry["input"]
    root, binding = _auth_binding(given)
    if op == "policy":
        _run_policy(entry, bench, binding)
    elif op == "sequence":
        _run_auth_sequence(entry, bench, binding)
    elif positive:
        _run_auth(entry, bench, root, binding)
    else:
        for policy in (ClientAuthPolicy.OPTIONAL, ClientAuthPolicy.REQUIRED):
            responder = ClientAuthResponder(bytearray(binding), policy, now=0.0, provider=bench.provider)
            for message in _auth_messages(_unhex(given["message"])):
                responder.on_message(message, 0.0)
            _verdict(responder, None)
            answer = control.ControlAssembler(DropCounters()).feed(responder.take_outgoing())
            _refused(
                entry, [f"AUTH_RESULT {message.code}" for message in answer if isinstance(message, control.AuthResult)]
            )
            _same("CLOSE", responder.error is not None and responder.error.code, ClientAuthError.code)
            _same("identity", responder.identity, None)


def _auth_messages(stream: bytes) -> list[control.ClientAuth | control.AuthResult]:
    messages = control.ControlAssembler(DropCounters()).feed(stream)
    return [message for message in messages if isinstance(message, control.ClientAuth | control.AuthResult)]


def _run_auth(entry: Entry, bench: _Bench, root: bytearray, binding: bytearray) -> None:
    given = entry["input"]
    signed, signature = b"phantom-client-auth-v1" + binding, _unhex(given["signature_flat"])
    with HybridSigningKey.from_bytes(_unhex(given["signing_seed"]), bench.provider) as key:
        own = _auth_messages(ClientAuthInitiator(bytearray(binding), key, now=0.0).take_outgoing())[0]
        verifying = key.verifying_key()
    assert isinstance(own, control.ClientAuth)
    _same("round trip", verifying._verify_raw(signed, own.signature), True)
    message = control.encode_client_auth(verifying.to_bytes(), signature)
    sender = bench.protection(VERSION_2, True, given)
    plaintext = bytes(_SEGMENT) + message
    packet = bytearray(len(plaintext) + sender.overhead)
    sender.seal(packet, memoryview(packet), 0, 0, flags.DATA, 0, plaintext, len(plaintext))
    _expect(
        entry,
        {
            "session_key_0": root.hex(),
            "auth_context": kdf.auth_context(root).hex(),
            "signed_message": signed.hex(),
            "verifying_key_flat": own.verifying_key.hex(),
            "fingerprint": verifying.fingerprint_digest().hex(),
            "fingerprint_text": verifying.fingerprint(),
            "ed25519_sig": own.signature[:64].hex(),
            "message": message.hex(),
            "packet": packet.hex(),
            "valid": verifying._verify_raw(signed, signature),
        },
    )


def _run_policy(entry: Entry, bench: _Bench, binding: bytearray) -> None:
    given = entry["input"]
    auth = ClientAuthResponder(binding, ClientAuthPolicy(given["policy"]), now=0.0, provider=bench.provider)
    session = _Session(bench, False, given, auth=auth)
    for packet in _script(given, "receives"):
        session.give(packet["stream_id"], packet["flags"], _unhex(packet["plaintext"]))
        while (event := session.conn.next_event()) is not None:
            if isinstance(event, ClientAuthRequested):
                authorized = given["authorized"]
                session.conn.client_verdict(
                    authorized is None or event.key.fingerprint_digest().hex() in authorized, 0.0
                )
    answers = [message[2 * LENGTH_PREFIX + 2 :] for message in _control_messages(session.drain())]
    _expect(
        entry,
        {
            "auth_result": int(answers[0], 16) if answers else None,
            "close_code": session.conn.close_code or None,
            "identity": None if auth.identity is None else auth.identity.fingerprint_digest().hex(),
            "surfaced": session.conn.admitted,
        },
    )


def _run_auth_sequence(entry: Entry, bench: _Bench, binding: bytearray) -> None:
    given = entry["input"]
    initiator = _is_initiator(given["receiver"])
    if initiator:
        with HybridSigningKey.generate(provider=bench.provider) as key:
            sent = given["client_auth_sent"]
            auth: ClientAuthentication = ClientAuthInitiator(binding, key if sent else None, now=0.0)
    else:
        auth = ClientAuthResponder(binding, ClientAuthPolicy(given["policy"]), now=0.0, provider=bench.provider)
    session = _Session(bench, initiator, given, auth=auth)
    session.give(0, flags.RELIABLE, bytes(_SEGMENT) + _unhex(given["stream_bytes"]))
    error = session.conn.error
    _refused(entry, ("accepted",) if error is None else (_name_of(error),))
    _same("CLOSE", session.conn.close_code, ProtocolViolationError.code)


# --- FakeTLS ----------------------------------------------------------------------------------------------------------


def _run_faketls(entry: Entry, bench: _Bench, positive: bool) -> None:
    given = entry["input"]
    seed = kdf.faketls_seed(given["sni"], given["version"])
    c2s, s2c, prefix = kdf.faketls_keys(seed)
    direction = given["direction"] if not positive else entry["id"].rpartition("-")[2]
    key = (c2s, s2c)[("c2s", "s2c").index(direction)]

    def opened(record: bytes, counter: int) -> bytes:
        opener = RecordOpener(key, prefix, bench.provider, counter)
        out = bytearray(FAKETLS_MAX_RECORD)
        size = opener.length(record, 0, len(record))
        if size != len(record):
            raise _Mismatch(f"a record of {len(record)} bytes is read as one of {size}")
        return bytes(out[: opener.open(memoryview(record), 0, size, memoryview(out), 0)])

    if not positive:
        names = _error_of(lambda: opened(_unhex(given["record"]), given["counter"]))
        _refused(entry, ("leg failure",) if "NetworkError" in names else names)
        return
    shown = []
    for item in entry["expect"]["records"]:
        counter = int(item["counter"])
        rule = item.get("chunk_rule")
        if rule not in (None, "16384 zero bytes"):
            raise _NotBuilt(f"chunk_rule {rule!r}")
        chunk = _unhex(item["chunk"]) if rule is None else bytes(16384)
        out = bytearray(len(chunk) + FAKETLS_OVERHEAD)
        sealer = RecordSealer(key, prefix, given["version"], bench.provider, counter)
        end = sealer.seal(memoryview(bytearray(chunk + b"\0")), 0, len(chunk), memoryview(out), 0)
        _same("record length", end, len(out))
        _same("opened chunk", opened(bytes(out), counter), chunk)
        if rule is None:
            shown.append({"counter": str(counter), "chunk": chunk.hex(), "record": out.hex()})
        else:
            digest = hashlib.sha256(out).hexdigest()
            shown.append(
                {"counter": str(counter), "chunk_rule": rule, "record_header": out[:5].hex(), "record_sha256": digest}
            )
    _expect(entry, {"outer_seed": seed.hex(), "key": key.hex(), "prefix": prefix.hex(), "records": shown})


# --- traces -----------------------------------------------------------------------------------------------------------


def _from_server(sent: Entry) -> bool:
    return ("c2s", "s2c").index(sent["direction"]) == 1


def _replay_client(trace: Entry, bench: _Bench, pinned: bytes, instead: bytes | None = None) -> HandshakeResult:
    """The client of a trace with its randomness: its frames are compared, the server's are fed to it.

    ``instead`` takes the place of the ServerHello, the last frame. Raises what the handshake raises.
    """
    client, resume = trace["client"], trace["client"]["resume"]
    with HybridSigningKey.from_bytes(_unhex(client["verify_key_seed"]), bench.provider) as key:
        verify_key = key.verifying_key().encoded
    resumption = resume and Resumption(
        _unhex(resume["session_id"]), _unhex(resume["resumption_secret"]), _unhex(resume["early_plaintext"])
    )
    initiator = Initiator(
        PinSet.parse(pinned),
        provider=bench.provider,
        rng=SYSTEM_RNG,
        version=VERSION_1 if trace["version"] == VERSION_1 else VERSION_2,
        resumption=resumption,
        key_pair=hybrid_kem.HybridKemKeyPair.from_seeds(
            bench.provider, _unhex(client["x25519_sk"]), _unhex(client["ml_kem_seed"])
        ),
        verify_key=verify_key,
        nonce=_unhex(client["nonce"]),
    )
    initiator.start(0.0)
    last = len(trace["frames"]) - 1
    for i, sent in enumerate(trace["frames"]):
        frame = _unhex(sent["frame"])
        if _from_server(sent):
            initiator.receive(frame if instead is None or i < last else instead, 0.0)
            continue
        event = initiator.next_event()
        if isinstance(event, SolveChallenge):
            initiator.solved(_lowest(event.nonce, event.difficulty), 0.0)
            event = initiator.next_event()
        _same(sent["what"], isinstance(event, Send) and event.frame, frame)
    event = initiator.next_event()
    if not isinstance(event, Established):
        raise _Mismatch("not established")
    return event.result


def _check_server(trace: Entry, bench: _Bench, hello: messages.ServerHello) -> bytes:
    """What a trace says of its server: keys, recorded outcomes, retries. The pinned key."""
    server, client, provider = trace["server"], trace["client"], bench.provider
    with HybridSigningKey.from_bytes(_unhex(server["signing_seed"]), provider) as key:
        pinned = key.verifying_key().to_bytes()
    package = hybrid_kem.HybridKemKeyPair.from_seeds(
        provider, _unhex(server["fresh_package_x25519_sk"]), _unhex(server["fresh_package_ml_kem_seed"])
    ).public
    ephemeral = provider.x25519_public(provider.x25519_private(_unhex(server["ephemeral_x25519_sk"])))
    decapsulation, _ = provider.ml_kem_keypair(_unhex(client["ml_kem_seed"]))
    ss_pq = provider.ml_kem_decapsulate(decapsulation, hello.ciphertext[36:])
    _same("pinned_key_flat", pinned.hex(), server["pinned_key_flat"])
    _same("pinned_key_flat_sha256", hashlib.sha256(pinned).hexdigest(), client["pinned_key_flat_sha256"])
    _same("fresh package", hello.server_key_package, package)
    _same("ephemeral", hello.ciphertext[:32], ephemeral)
    _same("recorded_ss_pq", ss_pq.hex(), server["recorded_ss_pq"])
    _same("recorded_ciphertext", hello.ciphertext.hex(), server["recorded_ciphertext"])
    _same("recorded_signature", hello.signature.hex(), server["recorded_signature"])
    gate, source = Gate(_unhex(server["master"])), Source(client_id(server["client_address"]))
    salt, difficulty, seconds = _unhex(server["pow_salt"]), server["difficulty"], server["unix_seconds"]
    for sent in trace["frames"]:
        frame = _unhex(sent["frame"])
        if _from_server(sent) and isinstance(messages.decode_reply(frame), messages.HelloRetryRequest):
            challenge = gate.issue_challenge(source, difficulty, seconds, salt) if difficulty else None
            retry = messages.HelloRetryRequest(challenge, gate.issue_cookie(source, seconds))
            _same("retry", retry.encode(), frame)
    return pinned


def _run_handshake_traces(entry: Entry, bench: _Bench, positive: bool) -> None:
    if not positive:
        trace = bench.by_id[entry["trace"]]
        pinned, instead = _unhex(entry["pinned_key_flat"]), _unhex(entry["server_frame"])
        _refused(entry, _error_of(lambda: _replay_client(trace, bench, pinned, instead)))
        return
    for sent in _script(entry, "frames"):
        _same("sha256", hashlib.sha256(_unhex(sent["frame"])).hexdigest(), sent["sha256"])
    hello = messages.decode_reply(_unhex(entry["frames"][-1]["frame"]))
    assert isinstance(hello, messages.ServerHello)
    result = _replay_client(entry, bench, _check_server(entry, bench, hello))
    _same("version", result.version, entry["version"])
    secret = result.shared_secret
    x25519 = bench.provider.x25519_private(_unhex(entry["client"]["x25519_sk"]))
    shown: Entry = {
        "transcript_sha256": result.transcript_hash.hex(),
        "ss_x": bench.provider.x25519_exchange(x25519, hello.ciphertext[:32]).hex(),
        "shared_secret": secret.hex(),
        "session_id": result.session_id.hex(),
        "resumption_secret": result.resumption_secret.hex(),
        "verdict": result.early_data_accepted,
        "epoch0": _epoch_keys(secret),
    }
    if result.packet_version == VERSION_2:
        shown["epoch1"] = _epoch_keys(kdf.next_traffic_secret(secret))
    _expect(entry, shown)
    _replay_packets(entry, bench, result)


def _replay_packets(entry: Entry, bench: _Bench, result: HandshakeResult) -> None:
    session = {"session_id": result.session_id.hex(), "traffic_secret_0": result.shared_secret.hex()}
    ends = (
        bench.protection(result.packet_version, True, session | {"suite": entry["client"]["suite"]}),
        bench.protection(result.packet_version, False, session | {"suite": entry["server"]["suite"]}),
    )
    for sent in _script(entry, "packets"):
        sender, receiver = ends[_from_server(sent)], ends[not _from_server(sent)]
        frame, plaintext = _unhex(sent["frame"]), _unhex(sent["plaintext"])
        packet = header.decode(frame)
        if packet.epoch > sender.epoch:
            sender.rekey(0.0)
        buffer = bytearray(len(plaintext) + sender.overhead)
        end = sender.seal(
            buffer,
            memoryview(buffer),
            0,
            packet.stream_id,
            packet.flags & ~flags.REKEY,
            packet.path_id,
            plaintext,
            len(plaintext),
            packet.ack_delay,
        )
        _same(sent["what"], bytes(buffer[:end]), frame)
        _same(sent["what"], _feed(receiver, frame), ("ok", plaintext))


# --- the run ----------------------------------------------------------------------------------------------------------

_SUBJECTS: Final[dict[str, Callable[[Entry, _Bench, bool], None]]] = {
    "kdf": _run_kdf,
    "hybrid_kem": _run_hybrid_kem,
    "hybrid_sign": _run_hybrid_sign,
    "handshake_messages": _run_handshake_messages,
    "transcripts": _run_transcripts,
    "cookie_pow": _run_cookie_pow,
    "early_data": _run_early_data,
    "packets_v1": _run_packets_v1,
    "packets_v2": _run_packets_v2,
    "rekey": _run_rekey,
    "frames": _run_frames,
    "replay": _run_replay,
    "reassembly": _run_reassembly,
    "control_stream": _run_control_stream,
    "client_auth": _run_client_auth,
    "handshake_traces": _run_handshake_traces,
    "faketls": _run_faketls,
}


def _check_entry(
    report: Report, entry: Entry, run: Callable[[Entry, _Bench, bool], None], bench: _Bench, positive: bool
) -> None:
    name = entry["id"]
    try:
        run(entry, bench, positive)
    except _NotBuilt as reason:
        report.missing[str(reason)] += 1
    except UnsupportedError as error:  # what this provider cannot do on this host
        report.missing[str(error)] += 1
    except Exception as error:  # noqa: BLE001 - an entry may hold anything, and whatever it causes is its own failure
        report.failures[name] = str(error) if isinstance(error, _Mismatch) else f"{type(error).__name__}: {error}"
    else:
        report.passed += 1


def _entries(document: Entry) -> tuple[list[Entry], list[Entry]]:
    """Both lists of a document; ValueError says what is wrong with it."""
    lists = []
    for kind in ("vectors", "negative"):
        entries = document.get(kind)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{kind!r} is no list of objects")
        lists.append(entries)
    ids = [entry.get("id") for entry in (*lists[0], *lists[1])]
    if not ids or not all(isinstance(name, str) for name in ids) or len(set(ids)) != len(ids):
        raise ValueError("every entry needs an id of its own, and there must be one")
    return lists[0], lists[1]


def run_document(document: object, provider: Provider, file: str = "") -> Report:
    """Run one parsed vector file; raises nothing, whatever it holds. ``file`` names it in the report."""
    report = Report(file)
    try:
        if not isinstance(document, dict):
            raise ValueError("no vector file: the top level is no object")  # noqa: TRY004 - a verdict, not a type bug
        vectors, negative = _entries(document)
    except ValueError as error:
        report.failures["(file)"] = str(error)
        return report
    schema, subject = document.get("schema"), document.get("file")
    run = _SUBJECTS.get(str(subject))
    if schema != SCHEMA or run is None:
        reason = f"schema {schema!r}" if schema != SCHEMA else f"subject {subject!r}"
        report.missing[reason] = len(vectors) + len(negative)
        return report
    bench = _Bench(provider, vectors)
    for entries, positive in ((vectors, True), (negative, False)):
        for entry in entries:
            _check_entry(report, entry, run, bench, positive)
    return report


def run_directory(directory: Path, provider: Provider) -> list[Report]:
    """Run every ``*.json`` of a directory, in the order of their names; raises OSError if it cannot be listed."""
    reports = []
    for path in sorted(entry for entry in directory.iterdir() if entry.suffix == ".json"):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            reports.append(Report(path.name, failures={"(file)": f"unreadable: {error}"}))
        else:
            reports.append(run_document(document, provider, path.name))
    return reports


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 if nothing mismatched, 1 if something did, 2 if there was nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m phantom.testing.vectors", description="Run test vectors.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of *.json files of the schema " + SCHEMA)
    parser.add_argument("--provider", choices=PROVIDER_NAMES, default="auto", help="crypto provider (default: auto)")
    options = parser.parse_args(arguments)
    try:
        reports = run_directory(options.directory, get_provider(options.provider))
    except (OSError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not reports:
        sys.stderr.write(f"no *.json in {options.directory}\n")
        return 2
    for report in reports:
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
    verdicts = Counter(report.verdict for report in reports)
    total = {
        "files": len(reports),
        **{verdict: verdicts[verdict] for verdict in (OK, FAIL, NOT_IMPLEMENTED)},
        "entries_passed": sum(report.passed for report in reports),
        "entries_failed": sum(len(report.failures) for report in reports),
        "entries_not_implemented": sum(report.missing.total() for report in reports),
    }
    sys.stdout.write(json.dumps({"total": total}) + "\n")
    return 1 if verdicts[FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
