"""The vector runner: nothing that is wrong, unknown or malformed is ever a pass."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phantom.crypto.providers import get_provider
from phantom.errors import UnsupportedError
from phantom.testing import vectors
from phantom.testing.vectors import main, run_document

NATIVE = Path(__file__).parent / "native"
DOCUMENTS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_bytes()) for path in NATIVE.glob("*.json")}
BUILT = sorted(vectors._SUBJECTS)
PROVIDER = get_provider()

# Labels, and inputs that rightly make no difference: half of an ML-KEM seed shows in implicit rejection only, what is
# refused stays refused when it is damaged further, a cookie is valid a second later too, and the like.
LABELS = {"id", "comment", "why", "what"}
WITHOUT_EFFECT = {
    ("client_auth", "input"),  # policy none reads nothing; derivation and signature have a test of their own
    ("control_stream", "steps", "stream_id"),  # 3 and 4 are both wrong where a drop is expected
    ("control_stream", "steps", "plaintext"),  # a reset discards what was buffered; assemblers have a test of their own
    ("cookie_pow", "input"),
    ("cookie_pow", "expect", "valid_at"),
    ("frames", "input"),
    ("handshake_traces", "client", "ml_kem_seed"),
    ("handshake_traces", "server", "unix_seconds"),
    ("handshake_traces", "server", "pow_salt"),
    ("handshake_traces", "server", "master"),
    ("handshake_traces", "server", "client_address"),
    ("handshake_traces", "server", "difficulty"),
    ("handshake_traces", "server", "fresh_package_ml_kem_seed"),
    ("hybrid_kem", "input", "ml_kem_seed"),
    ("reassembly", "stream_id"),
    ("reassembly", "steps", "plaintext"),
    ("rekey", "steps", "frame"),
    ("rekey", "steps", "at_seconds"),
    ("replay", "input"),
}


def document(subject: str, **changes: Any) -> dict[str, Any]:
    return {**DOCUMENTS[subject], **changes}


def one(subject: str, entry: dict[str, Any], *, positive: bool = True) -> dict[str, Any]:
    """A document of this entry alone (and of the trace that a negative one of a handshake refers to)."""
    others = [v for v in DOCUMENTS[subject]["vectors"] if v["id"] == entry.get("trace")]
    return document(subject, vectors=[entry] if positive else others, negative=[] if positive else [entry])


def shape(value: Any) -> Any:
    return tuple(sorted((k, shape(v)) for k, v in value.items())) if isinstance(value, dict) else type(value).__name__


def kinds(subject: str, kind: str) -> list[dict[str, Any]]:
    """One entry of each kind."""
    found: dict[Any, dict[str, Any]] = {}
    for entry in DOCUMENTS[subject][kind]:
        names = tuple(entry.get(name) for name in ("op", "message", "reject", "stage"))
        found.setdefault((names, shape(entry)), entry)
    return list(found.values())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(below, (*path, key))
    else:
        yield path, value


def other(value: Any) -> Any:
    """The same with one hex digit, character, bit or unit changed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if not value:
        return "00"
    at = len(value) // 2
    return value[:at] + ("0" if value[at] != "0" else "1") + value[at + 1 :]


def changed(entry: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    result = copy.deepcopy(entry)
    below: Any = result
    for key in path[:-1]:
        below = below[key]
    below[path[-1]] = other(below[path[-1]])
    return result


def matters(subject: str, path: tuple[Any, ...]) -> bool:
    names = (subject, *(name for name in path if isinstance(name, str)))
    return path[-1] not in LABELS and not any(names[: len(prefix)] == prefix for prefix in WITHOUT_EFFECT)


@pytest.mark.parametrize("subject", BUILT)
def test_every_changed_value_of_a_positive_entry_is_noticed(subject: str) -> None:
    for entry in kinds(subject, "vectors"):
        assert run_document(one(subject, entry), PROVIDER).verdict == "pass"
        for path, _ in leaves(entry):
            if matters(subject, path):
                report = run_document(one(subject, changed(entry, path)), PROVIDER)
                assert report.verdict != "pass", (entry["id"], path)


def test_every_changed_byte_of_a_control_stream_is_noticed() -> None:
    entry = next(v for v in DOCUMENTS["control_stream"]["vectors"] if v["id"] == "assembler-1")
    segments = [step["plaintext"] for step in entry["steps"]]
    for i in range(len(segments)):
        if segments[i] in segments[:i]:
            continue  # a copy: what it says does not matter
        damaged = changed(entry, ("steps", i, "plaintext"))
        assert run_document(one("control_stream", damaged), PROVIDER).verdict != "pass", i


def test_every_changed_input_of_a_client_authentication_is_noticed() -> None:
    entry = DOCUMENTS["client_auth"]["vectors"][0]
    for path, _ in leaves(entry["input"]):
        assert run_document(one("client_auth", changed(entry, ("input", *path))), PROVIDER).verdict != "pass", path


def test_a_client_that_is_listed_is_let_in_and_others_are_not() -> None:
    entry = next(v for v in DOCUMENTS["client_auth"]["vectors"] if v["id"] == "policy-required-stranger")
    report = run_document(one("client_auth", {**entry, "input": {**entry["input"], "authorized": None}}), PROVIDER)
    assert report.verdict == "fail"


@pytest.mark.parametrize("subject", BUILT)
def test_every_changed_expectation_of_a_negative_entry_is_noticed(subject: str) -> None:
    for entry in kinds(subject, "negative"):
        assert run_document(one(subject, entry, positive=False), PROVIDER).verdict == "pass"
        for path, _ in leaves(entry):
            if path[-1] in ("reject", "result", "server_reply") or (path[:1] == ("steps",) and path[-1] == "plaintext"):
                report = run_document(one(subject, changed(entry, path), positive=False), PROVIDER)
                assert report.failures.keys() == {entry["id"]}, (entry["id"], path)


@pytest.mark.parametrize("subject", BUILT)
def test_a_negative_entry_that_is_really_fine_is_noticed(subject: str) -> None:
    """Each rejection is looked for, not assumed: what must be accepted does not pass as rejected."""
    good = {
        "cookie_pow": lambda e: e["input"].update(cookie=DOCUMENTS[subject]["vectors"][0]["expect"]["cookie"]),
        "early_data": lambda e: e["input"].update(
            DOCUMENTS[subject]["vectors"][0]["input"], blob=DOCUMENTS[subject]["vectors"][0]["expect"]["blob"]
        ),
        "frames": lambda e: e.update(plaintext=DOCUMENTS[subject]["vectors"][0]["expect"]["plaintext"]),
        "handshake_messages": lambda e: e.update(frame=DOCUMENTS[subject]["vectors"][0]["frame"]),
        "handshake_traces": lambda e: e.update(
            server_frame=DOCUMENTS[subject]["vectors"][0]["frames"][-1]["frame"],
            pinned_key_flat=DOCUMENTS[subject]["vectors"][0]["server"]["pinned_key_flat"],
        ),
        "hybrid_kem": lambda e: e["input"].update(DOCUMENTS[subject]["vectors"][0]["input"]),
        "hybrid_sign": lambda e: e["input"].update(DOCUMENTS[subject]["vectors"][0]["input"]),
        "kdf": lambda e: e["input"].update(label="78", length=1),
        "packets_v2": lambda e: e.update(frame=DOCUMENTS[subject]["vectors"][0]["frame"], receiver="responder"),
        "reassembly": lambda e: e.update(segments=[[0, "61", False]]),
    }
    if subject in good:
        entry = copy.deepcopy(DOCUMENTS[subject]["negative"][0])
        good[subject](entry)
        if subject == "cookie_pow":
            entry["input"]["unix_seconds"] = DOCUMENTS[subject]["vectors"][0]["input"]["unix_seconds"]
        report = run_document(one(subject, entry, positive=False), PROVIDER)
        assert report.failures.keys() == {entry["id"]}


@pytest.mark.parametrize("subject", BUILT)
def test_an_expectation_more_or_less_is_noticed(subject: str) -> None:
    for entry in kinds(subject, "vectors"):
        if "expect" in entry:
            more = {**entry, "expect": {**entry["expect"], "unheard_of": "00"}}
            less = {**entry, "expect": dict(list(entry["expect"].items())[1:])}
            assert run_document(one(subject, more), PROVIDER).verdict == "fail"
            assert run_document(one(subject, less), PROVIDER).verdict == "fail"
            assert run_document(one(subject, {**entry, "expect": {}}), PROVIDER).verdict == "fail"


# --- not built -------------------------------------------------------------------------------------------------------


# The subjects that have several kinds of entries, told apart by one field.
@pytest.mark.parametrize(
    ("subject", "key"),
    [
        *(
            (name, "op")
            for name in (
                "client_auth",
                "control_stream",
                "cookie_pow",
                "frames",
                "hybrid_kem",
                "hybrid_sign",
                "kdf",
                "rekey",
                "replay",
            )
        ),
        ("handshake_messages", "message"),
    ],
)
def test_an_unknown_kind_of_entry_is_not_implemented(subject: str, key: str) -> None:
    entry = {**DOCUMENTS[subject]["vectors"][0], key: "from the future"}
    report = run_document(one(subject, entry), PROVIDER)
    assert report.verdict == "not implemented"
    assert "from the future" in next(iter(report.missing))


def test_an_unknown_stage_or_rule_is_not_implemented() -> None:
    stage = {**DOCUMENTS["handshake_messages"]["negative"][0], "stage": "later"}
    assert run_document(one("handshake_messages", stage, positive=False), PROVIDER).verdict == "not implemented"
    rule = copy.deepcopy(next(v for v in DOCUMENTS["early_data"]["vectors"] if "plaintext_rule" in v["input"]))
    script = copy.deepcopy(
        next(v for v in DOCUMENTS["control_stream"]["vectors"] if v["id"] == "receiver-stop-after-fin")
    )
    script["steps"][1]["do"] = "dance"
    assert run_document(one("control_stream", script), PROVIDER).verdict == "not implemented"
    rule["input"]["plaintext_rule"] = "byte k = k squared"
    assert run_document(one("early_data", rule), PROVIDER).verdict == "not implemented"


@pytest.mark.parametrize(
    "change", [{"schema": "phantom-native-vectors/2"}, {"schema": None}, {"file": "quantum"}, {"file": 7}]
)
def test_an_unknown_schema_or_subject_is_not_implemented(change: dict[str, Any]) -> None:
    report = run_document(document("kdf", **change), PROVIDER)
    assert report.verdict == "not implemented"
    assert (report.passed, report.missing.total()) == (0, 23)


def test_one_entry_that_is_not_built_keeps_a_file_from_passing() -> None:
    future = {**DOCUMENTS["replay"]["vectors"][0], "id": "future", "op": "other"}
    report = run_document(document("replay", vectors=[*DOCUMENTS["replay"]["vectors"], future]), PROVIDER)
    assert report.verdict == "not implemented"
    assert (report.passed, dict(report.missing)) == (13, {"op 'other'": 1})


def test_what_a_provider_cannot_do_is_not_implemented(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise UnsupportedError("no seeds here")

    monkeypatch.setattr(vectors.hybrid_kem.HybridKemKeyPair, "from_seeds", refuse)
    report = run_document(one("hybrid_kem", DOCUMENTS["hybrid_kem"]["vectors"][0]), PROVIDER)
    assert report.verdict == "not implemented"
    assert dict(report.missing) == {"no seeds here": 1}


# --- malformed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "text",
        {},
        document("kdf", vectors=None),
        document("kdf", vectors=["entry"]),
        document("kdf", negative={}),
        document("kdf", vectors=[], negative=[]),
        document("kdf", vectors=[{"input": {}}]),
        document("kdf", vectors=[{"id": 1}]),
        document("kdf", vectors=[{"id": "a"}, {"id": "a"}]),
    ],
)
def test_a_malformed_document_fails(bad: object) -> None:
    report = run_document(bad, PROVIDER)
    assert report.verdict == "fail"
    assert report.failures.keys() == {"(file)"}


@pytest.mark.parametrize("subject", BUILT)
@pytest.mark.parametrize("positive", [True, False])
def test_a_malformed_entry_fails_alone(subject: str, positive: bool) -> None:
    kind = "vectors" if positive else "negative"
    for entry in [{"id": "x"}, *({**e, "id": "x"} for e in kinds(subject, kind))]:
        for key in set(entry) - {"id", "comment", "why", "op", "record", "stream_id", "stage"}:
            for value in (None, "zz", 1.5, {}, [None]):
                broken = {**entry, key: value}
                report = run_document(one(subject, broken, positive=positive), PROVIDER)
                assert "x" in report.failures or report.verdict == "not implemented", (key, value)
        if len(entry) == 1:
            report = run_document(document(subject, **{kind: [entry]}), PROVIDER)
            assert "x" in report.failures or report.verdict == "not implemented"


@pytest.mark.parametrize(
    ("subject", "change"),
    [
        ("rekey", {"steps": []}),
        ("handshake_traces", {"packets": []}),
        ("packets_v1", {"steps": []}),
        ("reassembly", {"steps": [], "messages": [], "reliable_bytes": 0}),
        ("handshake_traces", {"frames": []}),
        ("packets_v2", {"sender": "both"}),
    ],
)
def test_an_empty_script_is_no_pass(subject: str, change: dict[str, Any]) -> None:
    entry = {**DOCUMENTS[subject]["vectors"][0], **change}
    assert run_document(one(subject, entry), PROVIDER).verdict == "fail"


@pytest.mark.parametrize("epochs", [{}, {"256": {}}, {"-1": {}}])
def test_a_schedule_needs_epochs_that_exist(epochs: dict[str, Any]) -> None:
    entry = copy.deepcopy(DOCUMENTS["kdf"]["vectors"][0])
    entry["expect"]["epochs"] = epochs
    assert run_document(one("kdf", entry), PROVIDER).verdict == "fail"


@pytest.mark.parametrize("stream_id", [1, 3])
def test_only_the_last_segment_may_be_refused(stream_id: int) -> None:
    segments = [[0, "61", False], [1, "", False], [1, "62", False]]
    entry = {"id": "x", "stream_id": stream_id, "segments": segments, "reject": "protocol_violation"}
    report = run_document(one("reassembly", entry, positive=False), PROVIDER)
    assert report.failures == {"x": "refused before the last one"}


def test_a_trace_that_does_not_come_to_an_end_is_noticed() -> None:
    trace = copy.deepcopy(DOCUMENTS["handshake_traces"]["vectors"][0])
    del trace["frames"][-1]
    negative = next(e for e in DOCUMENTS["handshake_traces"]["negative"] if e["trace"] == trace["id"])
    report = run_document(document("handshake_traces", vectors=[trace], negative=[negative]), PROVIDER)
    assert report.failures.keys() == {trace["id"], negative["id"]}
    assert report.failures[negative["id"]] == "not established"


def test_work_beyond_the_clients_limit_is_refused() -> None:
    entry = copy.deepcopy(next(v for v in DOCUMENTS["cookie_pow"]["vectors"] if v["op"] == "pow"))
    entry["expect"]["lowest_solution"] = {"25": 1}
    assert run_document(one("cookie_pow", entry), PROVIDER).verdict == "fail"
    entry["expect"] |= {"lowest_solution": {}, "valid_at": []}
    assert run_document(one("cookie_pow", entry), PROVIDER).verdict == "fail"


def test_work_without_a_solution_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "solve", lambda *args: None)
    entry = next(v for v in DOCUMENTS["cookie_pow"]["vectors"] if v["op"] == "pow")
    assert run_document(one("cookie_pow", entry), PROVIDER).failures == {entry["id"]: "no solution"}


def test_a_lenient_decoder_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = DOCUMENTS["handshake_messages"]["vectors"][-1]
    strict = vectors.messages.decode_reply
    whole = bytes.fromhex(entry["frame"])
    monkeypatch.setattr(vectors.messages, "decode_reply", lambda frame: strict(whole))
    report = run_document(one("handshake_messages", entry), PROVIDER)
    assert report.failures == {entry["id"]: "a frame of 7 bytes decodes with 0"}


def test_a_packet_that_opens_and_counts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = vectors.ProtectionV2.open

    def counting(self: Any, *args: Any) -> int:
        word = opened(self, *args)
        self._counters.backlog += word >= 0
        return word

    monkeypatch.setattr(vectors.ProtectionV2, "open", counting)
    entry = DOCUMENTS["packets_v2"]["vectors"][0]
    assert run_document(one("packets_v2", entry), PROVIDER).failures == {entry["id"]: "opened, but counted ['backlog']"}


# --- the command -----------------------------------------------------------------------------------------------------


def write(directory: Path, **documents: object) -> None:
    for name, content in documents.items():
        (directory / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def run(directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[dict[str, Any]]]:
    code = main([str(directory), *options])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, [json.loads(line) for line in captured.out.splitlines()]


def test_a_file_of_another_name_is_known_by_its_subject(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, renamed=DOCUMENTS["replay"])
    code, lines = run(tmp_path, capsys, "--provider", "openssl")
    assert code == 0
    assert lines[0] == {
        "file": "renamed.json",
        "verdict": "pass",
        "passed": 13,
        "failed": 0,
        "not_implemented": 0,
        "failures": [],
        "why": {},
        "reasons": {},
    }
    assert lines[1] == {
        "total": {
            "files": 1,
            "pass": 1,
            "fail": 0,
            "not implemented": 0,
            "entries_passed": 13,
            "entries_failed": 0,
            "entries_not_implemented": 0,
        }
    }


def test_the_verdicts_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no vectors")
    write(tmp_path, a=DOCUMENTS["replay"], b=DOCUMENTS["udp_kcp"])
    code, lines = run(tmp_path, capsys)
    assert code == 0
    assert [line["verdict"] for line in lines[:-1]] == ["pass", "not implemented"]
    assert lines[1]["reasons"] == {"subject 'udp_kcp'": 36}

    wrong = copy.deepcopy(DOCUMENTS["replay"])
    wrong["vectors"][3]["expect"]["result"] = other(wrong["vectors"][3]["expect"]["result"])
    write(tmp_path, c=wrong, d="{", e="[" * 100_000, f="\ud800".encode("utf-8", "surrogatepass").decode("latin-1"))
    code, lines = run(tmp_path, capsys)
    assert code == 1
    assert [line["verdict"] for line in lines[:-1]] == ["pass", "not implemented", "fail", "fail", "fail", "fail"]
    assert (lines[2]["passed"], lines[2]["failures"]) == (12, ["replay-3"])
    assert lines[3]["failures"] == ["(file)"]
    assert lines[-1]["total"]["fail"] == 4


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    write(tmp_path, a=DOCUMENTS["replay"])
    command = [sys.executable, "-m", "phantom.testing.vectors", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["total"]["entries_passed"] == 13
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["", "absent"])
def test_nothing_to_run_is_an_error_of_its_own(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(tmp_path) in captured.err
