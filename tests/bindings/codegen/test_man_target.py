"""The man pages: golden files, clean for groff and man where they are at hand, every call and every parameter told."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bindings.codegen.c import lower
from bindings.codegen.plugin import render
from bindings.codegen.targets.man import roff
from tests.bindings.codegen.support import check_golden, package_of, real, toy

PAGES = {"toy": toy, "real": real}


def written(folder: Path, which: str) -> list[Path]:
    made = []
    for path, content in render(PAGES[which](), ["man"]).items():
        made.append(folder / path.removeprefix("bindings/c/man/"))
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        made[-1].write_bytes(content)
    return made


def plain(text: str) -> str:
    """A page as a reader has it, on one line."""
    text = re.sub(r"^\.(?:PP|TP)$|^\.\w+ |\\f[BP]|\\&", "", text, flags=re.MULTILINE)
    return " ".join(text.replace("\\-", "-").replace("\\e", "\\").split())


def test_golden() -> None:
    check_golden("man")


def test_a_package_without_c_calls_has_no_pages(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, 'syntax = "proto3"; package x.v1; message M { }'), ["man"]) == {}


def test_every_exported_function_has_a_page() -> None:
    files = render(real(), ["man"])
    version_script = render(real(), ["c"])["bindings/c/generated/phantom.map"].decode()
    exported = re.findall(r"^\s+(phantom_\w+);", version_script, re.MULTILINE)
    assert len(exported) > 50
    for name in exported:
        assert f"bindings/c/man/man3/{name}.3" in files
    for path, content in files.items():
        if content.decode().splitlines()[1].startswith(".so "):
            assert content.decode().splitlines()[1] == ".so man7/phantom.7", path


def test_every_text_is_there() -> None:
    files = {path.rpartition("/")[2]: plain(text.decode()) for path, text in render(real(), ["man"]).items()}
    for call in lower(real()).calls:
        page = files[f"{call.name}.3"]
        assert plain(roff(call.text)) in page
        for parameter in call.parameters:
            assert plain(f"{parameter.name}\n{roff(parameter.text)}") in page
        assert f"{call.name} (3)" in files["phantom.7"]
    for error in real().errors:
        assert plain(roff(error.comment)) in files["phantom.7"]


@pytest.mark.parametrize("which", ["toy", "real"])
def test_groff_has_nothing_to_say(which: str, tmp_path: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("NOT RUN: no groff on PATH, so the man pages were not formatted")
    pages = [str(page) for page in written(tmp_path, which)]
    done = subprocess.run(
        ["groff", "-ww", "-z", "-man", "-Tutf8", *pages], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("which", ["toy", "real"])
def test_mandoc_has_no_errors_and_one_known_warning(which: str, tmp_path: Path) -> None:
    if not shutil.which("mandoc"):
        pytest.skip("NOT RUN: no mandoc on PATH, so the man pages were not linted by it")
    pages = [str(page) for page in written(tmp_path, which)]
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages], cwd=tmp_path, capture_output=True, text=True
    )
    # A page that is the same every day has no date; links to pages do not survive every installer.
    known = r"missing date|\.so is fragile"
    assert [line for line in (done.stdout + done.stderr).splitlines() if not re.search(known, line)] == []


def test_a_page_reads_well(tmp_path: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("NOT RUN: no man on PATH, so no page was shown")
    written(tmp_path, "real")
    page = tmp_path / "man3" / "phantom_session_send.3"
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, env={"MANWIDTH": "100", "PATH": "/usr/bin:/bin"})
    assert done.stderr == ""
    shown = re.sub(r".\x08", "", done.stdout)
    assert "phantom_session_send - queues one message" in shown
    assert re.search(r"phantom_status phantom_session_send\(phantom_session session,\n +const void \*data,\n", shown)


def test_texts_are_not_requests() -> None:
    assert roff(".so evil\n\n'tis a \\ and `a-b` é") == "\\&.so evil\n.PP\n\\&'tis a \\e and \\fBa\\-b\\fP \\[u00E9]"
