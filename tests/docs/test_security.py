"""The pages on security name things that exist, and the two audits leave nothing out."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.docs import support
from tests.docs.support import ROOT, code, named_tests, shown, sources, symbols, table

SECURITY = ROOT / "docs" / "security"
INVARIANTS = SECURITY / "invariants.md"
PANICS = SECURITY / "panic-sites.md"
CANCELS = SECURITY / "cancel-safety-audit.md"
AUDITED = ("api", "transport/legs", "sidecar")
VERDICTS = {"safe", "ends", "bounded", "owner only"}


def rows() -> list[tuple[str, dict[str, str]]]:
    numbered = [(row["no."], row) for row in table(INVARIANTS, "no.")]
    return numbered + [(row["rule"], row) for row in table(INVARIANTS, "rule")]


def test_the_public_invariants_are_there_by_their_numbers() -> None:
    assert [row["no."] for row in table(INVARIANTS, "no.")] == [str(number) for number in range(1, 15)]


@pytest.mark.parametrize(("name", "row"), rows(), ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_an_invariant_names_code_and_tests_that_exist(name: str, row: dict[str, str]) -> None:
    assert [word for word in code(row["enforced by"]) if word not in symbols() and word != "Unsupported"] == []
    if not row["tests"]:
        assert "not built" in row["enforced by"]
        return
    known: set[str] = set()
    for word in code(row["tests"]):
        if word.startswith("tests/"):
            assert word in named_tests(), f"{word} is not there"
            known = named_tests()[word]
        else:
            assert word in known, f"{word} is not a test of the file named before it"


def documented(first: str, second: str) -> Counter[tuple[str, str]]:
    """Rows of the tables of panic-sites.md that have a column ``second``: (first column, code of the second)."""
    found: Counter[tuple[str, str]] = Counter()
    for row in table(PANICS, first):
        if second in row:
            (value,) = code(row[second])
            found[row[first].replace("`", "").replace("\\", ""), value] += 1
    return found


@pytest.mark.parametrize(
    ("first", "second", "inventory"),
    [
        ("site", "expression", support.asserts),
        ("site", "catches", support.broad_excepts),
        ("site", "suppresses", support.suppressed_errors),
        ("site", "raises", support.internal_raises),
        ("module", "comment", support.silenced_tools),
    ],
    ids=["asserts", "broad excepts", "suppressions", "internal errors", "silenced tools"],
)
def test_panic_sites_are_exactly_those_of_the_code(first: str, second: str, inventory: object) -> None:
    written, there = documented(first, second), inventory()  # type: ignore[operator]
    assert sorted((there - written).elements()) == [], "add these to docs/security/panic-sites.md"
    assert sorted((written - there).elements()) == [], "these are in docs/security/panic-sites.md and not in the code"


def audited() -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for row in table(CANCELS, "where"):
        module, *functions = code(row["where"])
        assert row["verdict"] in VERDICTS, row
        assert functions, row
        for function in functions:
            found[module, function] += 1
    return found


def test_every_place_that_can_be_cancelled_is_audited_once() -> None:
    there = Counter((shown(path), name) for path in sources(*AUDITED) for name in support.awaits(path))
    written = audited()
    assert sorted((there - written).elements()) == [], "add these to docs/security/cancel-safety-audit.md"
    assert sorted((written - there).elements()) == [], "these are in the audit and not in the code, or twice"


def test_the_inventories_see_what_they_look_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that finds nothing would be worth nothing."""
    source = """
import contextlib
class A:
    def f(self):
        assert 1 + 1
        try:
            raise NotImplementedError
        except (ValueError, Exception):  # noqa: BLE001
            pass
        with contextlib.suppress(OSError, KeyError):
            raise errors.InternalError("x")
    async def g(self):
        await x
async def h():
    async with y:
        pass
"""
    (tmp_path / "m.py").write_text(source)
    monkeypatch.setattr(support, "PACKAGE", tmp_path)
    assert support.asserts() == Counter({("m.py A.f", "1 + 1"): 1})
    assert support.broad_excepts() == Counter({("m.py A.f", "(ValueError, Exception)"): 1})
    assert support.suppressed_errors() == Counter({("m.py A.f", "OSError, KeyError"): 1})
    assert support.internal_raises() == Counter(
        {("m.py A.f", "NotImplementedError"): 1, ("m.py A.f", "InternalError"): 1}
    )
    assert support.silenced_tools() == Counter({("m.py", "noqa: BLE001"): 1})
    assert support.awaits(tmp_path / "m.py") == {"A.g", "h"}


def test_the_threat_model_says_what_is_not_built() -> None:
    text = (SECURITY / "threat-model.md").read_text()
    assert "accepts every client that knows its address" in text
    assert re.search(r"^## Not in this version$", text, re.MULTILINE)
