"""Every program in the documents runs, and every command in them exists."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from phantom.cli.app import app
from tests.docs.conftest import environment, running
from tests.docs.support import PAGES, ROOT, Block, blocks

PROGRAMS = [block for page in PAGES for block in blocks(page, "python")]
SESSIONS = [block for page in PAGES for block in blocks(page, "console")]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def run(block: Block, folder: Path, *arguments: str, **variables: str) -> str:
    """Runs a program as a stranger would who pasted it into a file; its output."""
    (folder / "program.py").write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, f"{block.id}\n{done.stdout}{done.stderr}"
    assert not done.stderr, f"{block.id}\n{done.stderr}"
    return done.stdout


def expected(text: str) -> list[str]:
    """What a program says it prints: ``print(…)  # value``."""
    return [found.strip() for found in re.findall(r"\bprint\(.*\)  # (b?'[^']*')$", text, re.MULTILINE)]


@pytest.mark.parametrize("block", [block for block in PROGRAMS if not block.needs], ids=lambda block: block.id)
def test_a_program_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    output = run(block, tmp_path)
    for value in expected(block.text):
        assert value in output


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in PROGRAMS if block.needs], ids=lambda block: block.id)
def test_a_program_that_needs_a_server_runs(block: Block, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "sidecar" in block.needs and sys.platform == "win32":
        pytest.skip("the sidecar of this test has a unix socket")
    assert block.needs <= {"server", "sidecar"}
    url = [request.getfixturevalue("server")] if "server" in block.needs else []
    variables = request.getfixturevalue("sidecar") if "sidecar" in block.needs else {}
    output = run(block, tmp_path, *url, **variables)
    for value in expected(block.text):
        assert value in output


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.id)
def test_a_program_imports_only_what_is_public(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("phantom"):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]


def commands() -> list[tuple[str, list[str]]]:
    """Each ``$ command`` of the documents, with where it stands."""
    found = []
    for block in SESSIONS:
        for line in re.findall(r"^\$ (.*)", block.text, re.MULTILINE):
            words = shlex.split(line.partition(" #")[0].partition(" | ")[0].partition(" > ")[0].rstrip("& "))
            found.append((block.id, words))
    return found


@pytest.mark.parametrize(
    ("where", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_a_command_and_its_options_exist(where: str, words: list[str]) -> None:
    if words[0] == "make":
        assert set(words[1:2]) <= TARGETS
    if words[0] != "phantom":
        return
    if words[1].startswith("-"):
        assert words[1] in ("--version", "--help", "-h")
        return
    command = COMMANDS[words[1]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"}
    assert [word for word in words[2:] if word.startswith("-") and word not in known] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are written for a POSIX shell")
def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    """Its command line section, line by line: keygen, serve in the background, ping by the URL that serve printed."""
    text = (ROOT / "README.md").read_text()
    (block,) = [block for block in blocks(ROOT / "README.md", "console") if "phantom keygen" in block.text]
    assert text.index("phantom.blocking") < text.index("phantom keygen") < text.index("SidecarClient")
    lines = block.text.splitlines()
    keygen, serve, ping = (shlex.split(line[2:].rstrip("& ")) for line in lines if line.startswith("$ phantom"))
    assert (keygen[1], serve[1], ping[1]) == ("keygen", "serve", "ping")
    made = subprocess.run(
        [sys.executable, "-m", "phantom", *keygen[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprint = made.stdout.split()[0]
    serve = ["127.0.0.1:0" if word == "127.0.0.1:4242" else word for word in serve]
    with running(tmp_path, *serve[1:]) as url:
        assert url.startswith(f"phantom://{fingerprint}@127.0.0.1:")
        ping = [url if word.startswith("phantom://") else word for word in ping]
        pinged = subprocess.run(
            [sys.executable, "-m", "phantom", *ping[1:]], env=environment(), capture_output=True, text=True, check=True
        )
    shown = [re.sub(r"\d+\.\d+ ms", "… ms", line) for line in pinged.stdout.splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("$ phantom ping"))
    assert shown == [re.sub(r"\d+\.\d+ ms", "… ms", line) for line in lines[at + 1 : at + 3]]
