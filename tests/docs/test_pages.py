"""The pages as a whole: links, names, the index, and what the README says of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import phantom
import phantom.blocking
import phantom.testing
from phantom import errors
from phantom.server.handlers import GROUP
from tests.docs.support import PAGES, ROOT, blocks, named_tests, symbols, table
from tools import state_diagrams, tree

README = ROOT / "README.md"
DOCS = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
OWN = [page for page in DOCS if "adr" not in page.parts] + [README]
NAME = re.compile(
    r"(?<!`)`([A-Z]\w*[a-z]\w*(?:\.\w+)+|_[a-z]\w+|phantom(?:\.\w+)+"
    r"|(?:phantom|tests|tools|docs|proto)/[\w./-]*(?:/|\.py|\.md|\.proto))`(?!`)"
)
SPAN = re.compile(r"```.*?```", re.DOTALL)


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_no_link_is_dead(page: Path) -> None:
    assert list(tree.dead_links(page)) == []


def exists(name: str) -> bool:
    """Whether the repository, the package or the interface definition has what a page names."""
    if "/" in name:
        return (ROOT / name).exists()
    if name == GROUP or re.fullmatch(r"phantom\.v\d", name):
        return True  # an entry-point group; a package of the interface definition
    if name.startswith("phantom."):
        found: object = phantom
        for part in name.split(".")[1:]:
            if not hasattr(found, part):
                return (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
            found = getattr(found, part)
        return True
    if name in symbols() or any(known.endswith(f".{name}") for known in symbols()):
        return True
    first, _, rest = name.partition(".")
    proto = "".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto"))
    return re.search(rf"^(?:service|message|enum) {first} ", proto, re.MULTILINE) is not None and rest in proto


@pytest.mark.parametrize("page", OWN, ids=ids)
def test_every_name_exists(page: Path) -> None:
    text = SPAN.sub("", page.read_text())
    assert sorted({name for name in NAME.findall(text) if not exists(name)}) == []


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {
        (ROOT / "docs" / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)]+)\)", index)
    } | {ROOT / "docs" / "README.md"}
    assert [ids(page) for page in DOCS if page not in linked and "adr" not in page.parts] == [], (
        "add it to docs/README.md"
    )


def test_the_state_machines_are_drawn_as_they_are() -> None:
    """python -m tools.state_diagrams writes the page anew."""
    assert state_diagrams.main(["--check"]) == 0


def test_every_row_of_every_table_is_drawn() -> None:
    page = state_diagrams.page()
    for machine in state_diagrams.machines():
        assert machine.rows
        for state, event, after, _ in machine.rows:
            assert f"| {state.name} | {event.value} | {after.name} |" in page
            assert f"    {state.name} --> {after.name}: " in page


def test_stale_drawings_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_diagrams, "PAGE", tmp_path / "states.md")
    assert state_diagrams.main(["--check"]) == 1
    assert state_diagrams.main([]) == 0
    assert state_diagrams.main(["--check"]) == 0
    assert state_diagrams.main(["--help"]) == 2


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    names = {*phantom.__all__, *phantom.blocking.__all__, *phantom.testing.__all__} - set(errors.__all__)
    assert sorted(name for name in names if f"`{name}`" not in text) == []


@pytest.mark.parametrize(
    "cls", [phantom.PhantomSession, phantom.PhantomStream, phantom.PhantomListener], ids=lambda cls: cls.__name__
)
def test_every_member_is_in_the_reference(cls: type) -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    members = {name for name in vars(cls) if not name.startswith("_")}
    assert members == set(re.findall(rf"`{cls.__name__}\.(\w+)`", text))


# --- the README -------------------------------------------------------------------------------------------------------


def test_the_readme_shows_python_then_the_command_line_then_the_sidecar() -> None:
    headings = re.findall(r"^### (From .*)$", README.read_text(), re.MULTILINE)
    assert headings == ["From Python", "From the command line", "From another language"]


def test_the_commands_exist_and_the_important_ones_run_in_ci() -> None:
    rows = table(README, "for")
    targets = [re.fullmatch(r"`make ([a-z-]+)`", row["command"])[1] for row in rows]  # type: ignore[index]
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    by_purpose = {row["for"]: target for row, target in zip(rows, targets, strict=True) if row["for"]}
    assert {"test", "lint", "format", "build", "integration"} <= set(by_purpose)
    for purpose in ("test", "lint", "build", "integration"):
        assert f"make {by_purpose[purpose]}\n" in ci


def test_the_number_of_tests_is_true() -> None:
    said = int(re.search(r"more than (\d+) test functions", README.read_text())[1])  # type: ignore[index]
    there = sum(map(len, named_tests().values()))
    assert said < there < 2 * said


def test_the_tree_shows_what_is_there() -> None:
    (drawn,) = (block.text for block in blocks(README, "text"))
    shown = re.findall(r"^([\w.-]+)/", drawn, re.MULTILINE)
    assert [name for name in shown if not (ROOT / name).is_dir()] == []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {name.partition("/")[0] for name in listed.splitlines() if "/" in name and not name.startswith(".")}
    assert folders <= set(shown)
    rooms = {path.name for path in (ROOT / "phantom").iterdir() if (path / "__init__.py").exists()}
    assert [room for room in rooms if f"{room}/" not in drawn] == []


def test_no_badges_and_no_boast() -> None:
    text = README.read_text()
    assert "badge" not in text
    assert "![" not in text
    assert "Pre-1.0" in text
    assert "accepts everyone who knows its address" in text


def test_the_version_is_the_same_everywhere() -> None:
    assert f"## {phantom.__version__}" in (ROOT / "CHANGELOG.md").read_text()
