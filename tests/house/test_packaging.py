"""What pyproject.toml, requirements/, the Makefile and the documents say of each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import phantom

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "dev"}
NEEDED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def pinned(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }


def test_the_extras_and_commands() -> None:
    assert set(PROJECT["optional-dependencies"]) == {"cli", "sidecar", "websocket", "pqcrypto", "uvloop", "dev"}
    assert PROJECT["scripts"] == {
        "phantom": "phantom.cli:main",
        "phantom-cli": "phantom.cli:main",
        "phantom-server": "phantom.cli:server_main",
        "phantom-sidecar": "phantom.cli:sidecar_main",
    }


def test_the_package_knows_its_version() -> None:
    assert phantom.__version__ == PROJECT["version"]


def test_the_bare_package_needs_less_than_ten() -> None:
    assert len(PROJECT["dependencies"]) < 10


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest.group(1) == PROJECT["version"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_pins_and_hashes_everything_and_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert " @ " not in text
    entries = re.split(r"^(?=[\w.-]+)", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [
        entry.partition("\n")[0] for entry in entries if not re.match(r"[\w.-]+==\S+.*\\\n.*--hash=sha256:", entry)
    ] == []


@pytest.mark.parametrize("lock", ["test", "lint", "minpy"])
def test_a_lock_holds_what_the_package_needs(lock: str) -> None:
    versions = pinned(lock)
    for requirement in NEEDED:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_minpy_has_the_lowest_versions() -> None:
    """Each lower bound of pyproject.toml is a version that the environment minpy really tests."""
    versions = pinned("minpy")
    for requirement in NEEDED:
        lowest = next(bound.version for bound in requirement.specifier if bound.operator == ">=")
        version = versions[canonicalize_name(requirement.name)]
        assert re.sub(r"(\.0)+$", "", version).startswith(re.sub(r"(\.0)+$", "", lowest)), requirement


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    assert [requirement.name for requirement in NEEDED if f"`{requirement.name}`" not in reasons] == []


def test_no_dependency_comes_from_anywhere_but_the_index() -> None:
    every = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]] + NEEDED
    assert [requirement.name for requirement in every if requirement.url] == []


def test_ci_runs_targets_that_exist() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "test-fast", "check", "bench", "generate"} <= set(targets)
    stages = re.findall(r'^  "([a-z-]+) \d+"$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert {"check", "test"} <= set(stages) <= set(targets)


def test_ci_stays_within_its_time() -> None:
    budgets = re.findall(r'^  "[a-z-]+ (\d+)"$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert sum(map(int, budgets)) <= 40


def test_every_make_target_has_its_environment() -> None:
    used = set(re.findall(r"\$\(TOX\) -e (\w+)", (ROOT / "Makefile").read_text()))
    used |= set(re.findall(r"bootstrap\.py run -e (\w+)", (ROOT / ".github/workflows/ci.yml").read_text()))
    there = set(re.findall(r"^\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text(), re.MULTILINE))
    assert used <= there


def test_the_lower_bounds_admit_the_committed_stubs() -> None:
    """Generated code refuses a library that is older than its generator."""
    stubs = ROOT / "phantom" / "sidecar" / "_generated" / "v1"
    wrote = {
        "protobuf": re.findall(
            r"^# Protobuf Python Version: ([\d.]+)", (stubs / "session_pb2.py").read_text(), re.MULTILINE
        ),
        "grpcio": re.findall(
            r"^GRPC_GENERATED_VERSION = '([\d.]+)'", (stubs / "session_pb2_grpc.py").read_text(), re.MULTILINE
        ),
    }
    for requirement in NEEDED:
        if requirement.name in wrote:
            (version,) = wrote[requirement.name]
            assert [bound.version for bound in requirement.specifier if bound.operator == ">="] == [version]
