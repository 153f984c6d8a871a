"""Who may come in: policies, and lists of clients that follow their file (surface §1.3, §1.4)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.api import clients
from phantom.api.clients import AuthorizedClients, ClientPolicy
from phantom.transport.session.client_auth import ClientAuthPolicy


@pytest.fixture(scope="module")
def keys() -> list[phantom.HybridVerifyingKey]:
    return [phantom.generate_signing_key().verifying_key() for _ in range(3)]


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets every file be as old as it likes: what it looks like then decides."""

    def age() -> None:
        monkeypatch.setattr(clients.time, "time_ns", lambda: 1 << 62)

    return age


FORMS: dict[str, Callable[[phantom.HybridVerifyingKey], str]] = {
    "fingerprint": lambda key: key.fingerprint(),
    "hex": lambda key: key.to_hex(),
    "with a comment": lambda key: f"{key.fingerprint()} alice's laptop # since May",
    "indented": lambda key: f"\t {key.fingerprint()}\t",
    "among comments": lambda key: f"# who\n\n   \n  # not phantom1:x\n{key.fingerprint()}",
    "with a byte order mark": lambda key: f"\ufeff{key.fingerprint()}",
    "with other line ends": lambda key: f"# who\r\n{key.fingerprint()}\r\n",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_line_is_a_pin_and_perhaps_a_comment(
    tmp_path: Path, keys: list[phantom.HybridVerifyingKey], form: Callable[[phantom.HybridVerifyingKey], str]
) -> None:
    path = tmp_path / "clients"
    path.write_bytes(form(keys[0]).encode())
    listed = AuthorizedClients.from_file(path)
    assert [listed.allows(key) for key in keys] == [True, False, False]
    assert (len(listed), listed.path) == (1, path)
    assert repr(listed) == f"<AuthorizedClients 1 from {path}>"


def test_an_empty_file_lets_nobody_in(tmp_path: Path, keys: list[phantom.HybridVerifyingKey]) -> None:
    path = tmp_path / "clients"
    path.write_text("# nobody yet\n")
    assert not AuthorizedClients.from_file(str(path)).allows(keys[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"phantom1:short", r"line 1: a fingerprint"),
        (b"# ok\n\nsecret-word", r"line 3: a pin in text is"),
        (b"ab" * 1983, r"line 1: a pin in text is"),
        (b"\xff\xfe\x00", "is not a text"),
    ],
    ids=["fingerprint", "word", "hex", "binary"],
)
def test_a_malformed_file_at_the_start_is_a_configuration_error(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "clients"
    path.write_bytes(content)
    with pytest.raises(phantom.ConfigError, match=says) as caught:
        AuthorizedClients.from_file(path)
    assert "secret-word" not in str(caught.value), "what stands there by mistake may be a secret"


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_file_that_is_not_there_is_one_too(tmp_path: Path, kind: str) -> None:
    with pytest.raises(phantom.ConfigError, match="cannot be read"):
        AuthorizedClients.from_file(tmp_path if kind == "a folder" else tmp_path / "no")


def test_pins_make_a_list_that_stays(keys: list[phantom.HybridVerifyingKey]) -> None:
    one, two, three = keys
    listed = AuthorizedClients.from_pins([one, two.fingerprint(), two.to_bytes()])
    assert [listed.allows(key) for key in (one, two, three)] == [True, True, False]
    assert (len(listed), listed.version, repr(listed)) == (2, 0, "<AuthorizedClients 2 from pins>")
    assert listed.fingerprints() == sorted([one.fingerprint(), two.fingerprint()])
    assert listed.path is None
    assert len(AuthorizedClients.from_pins(one.fingerprint())) == 1, "one pin is a list of one"
    assert not AuthorizedClients.from_pins(iter(())).allows(one)
    with pytest.raises(phantom.ValidationError):
        AuthorizedClients.from_pins(["phantom1:x"])


def test_edits_of_the_file_take_effect(tmp_path: Path, keys: list[phantom.HybridVerifyingKey]) -> None:
    path = tmp_path / "clients"
    path.write_text(keys[0].fingerprint())
    listed = AuthorizedClients.from_file(path)
    path.write_text(keys[1].fingerprint())  # same length, perhaps the same instant
    assert [listed.allows(key) for key in keys] == [False, True, False]
    other = tmp_path / "new"
    other.write_text(f"{keys[1].fingerprint()}\n{keys[2].fingerprint()}")
    other.replace(path)
    assert [listed.allows(key) for key in keys] == [False, True, True]
    assert listed.version == 2
    listed.refresh()
    assert listed.version == 2, "the same list is no change"


def test_a_file_that_has_settled_is_read_again_only_when_it_looks_different(
    tmp_path: Path, keys: list[phantom.HybridVerifyingKey], monkeypatch: pytest.MonkeyPatch, old: Callable[[], None]
) -> None:
    old()
    path = tmp_path / "clients"
    path.write_text(keys[0].fingerprint())
    reads: list[Path] = []
    read = clients._read
    monkeypatch.setattr(clients, "_read", lambda where: reads.append(where) or read(where))
    listed = AuthorizedClients.from_file(path)
    assert listed.allows(keys[0])
    assert not listed.allows(keys[1])
    assert len(reads) == 1
    os.utime(path, ns=(5, 5))
    assert listed.allows(keys[0])
    assert listed.allows(keys[0])
    assert len(reads) == 2


@pytest.mark.parametrize(("age", "looks"), [(0, 3), (1_999_999_999, 3), (2_000_000_000, 1)])
def test_a_file_that_was_changed_just_now_is_read_every_time(
    tmp_path: Path,
    keys: list[phantom.HybridVerifyingKey],
    monkeypatch: pytest.MonkeyPatch,
    age: int,
    looks: int,
) -> None:
    """Its times are as coarse as the kernel's tick: another edit need not show in them."""
    path = tmp_path / "clients"
    path.write_text(keys[0].fingerprint())
    changed = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    monkeypatch.setattr(clients.time, "time_ns", lambda: changed + age)
    reads: list[Path] = []
    read = clients._read
    monkeypatch.setattr(clients, "_read", lambda where: reads.append(where) or read(where))
    listed = AuthorizedClients.from_file(path)
    assert listed.allows(keys[0])
    assert listed.allows(keys[0])
    assert len(reads) == looks


@pytest.mark.parametrize("edit", ["broken", "gone"])
def test_a_broken_edit_takes_no_effect_and_is_logged_once(
    tmp_path: Path,
    keys: list[phantom.HybridVerifyingKey],
    caplog: pytest.LogCaptureFixture,
    old: Callable[[], None],
    edit: str,
) -> None:
    old()
    path = tmp_path / "clients"
    path.write_text(keys[0].fingerprint())
    listed = AuthorizedClients.from_file(path)
    if edit == "gone":
        path.unlink()
    else:
        path.write_text("phantom1:oops")
    with caplog.at_level(logging.INFO, "phantom"):
        assert [listed.allows(key) for key in keys] == [True, False, False]
        assert [listed.allows(key) for key in keys] == [True, False, False]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith("the last good list of clients stays")
    path.write_text(keys[1].fingerprint())
    caplog.clear()
    with caplog.at_level(logging.INFO, "phantom"):
        assert [listed.allows(key) for key in keys] == [False, True, False]
    assert [record.getMessage() for record in caplog.records] == [
        "the list of authorised clients has changed; identities on it: 1"
    ]
    assert listed.version == 1


def test_the_policies(keys: list[phantom.HybridVerifyingKey]) -> None:
    assert ClientPolicy.none() == ClientPolicy()
    assert ClientPolicy.none().kind is ClientAuthPolicy.NONE
    assert ClientPolicy.optional().kind is ClientAuthPolicy.OPTIONAL
    assert ClientPolicy.optional().judge(keys[0]) is True
    listed = AuthorizedClients.from_pins([keys[0]])
    required = ClientPolicy.required(listed)
    assert (required.kind, required.authorized) == (ClientAuthPolicy.REQUIRED, listed)
    assert [required.judge(key) for key in keys] == [True, False, False]


@pytest.mark.parametrize("answer", [True, False, None, 1, "yes"], ids=repr)
def test_only_true_lets_somebody_in(keys: list[phantom.HybridVerifyingKey], answer: Any) -> None:
    asked: list[phantom.HybridVerifyingKey] = []
    policy = ClientPolicy.required(lambda key: asked.append(key) or answer)
    assert policy.judge(keys[0]) is (answer is True)
    assert asked == [keys[0]]


async def test_an_awaitable_is_handed_on(keys: list[phantom.HybridVerifyingKey]) -> None:
    async def ask(key: phantom.HybridVerifyingKey) -> bool:
        return key == keys[0]

    policy = ClientPolicy.required(ask)
    answers = [policy.judge(key) for key in keys]
    assert [await answer for answer in answers if not isinstance(answer, bool)] == [True, False, False]


@pytest.mark.parametrize("bad", [None, "clients.txt", [], 5], ids=repr)
def test_a_policy_asks_a_list_or_a_function(bad: Any) -> None:
    with pytest.raises(phantom.ValidationError, match="AuthorizedClients or a function"):
        ClientPolicy.required(bad)
