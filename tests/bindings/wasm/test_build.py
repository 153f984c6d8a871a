"""The build of the package, as far as it needs neither Node nor a browser."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import phantom
from bindings.wasm import build, wheel


def test_the_same_sources_give_the_same_wheel(tmp_path: Path) -> None:
    first, second = wheel.write(tmp_path / "a"), wheel.write(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_the_wheel_has_what_a_page_can_use_and_no_more(tmp_path: Path) -> None:
    names = zipfile.ZipFile(wheel.write(tmp_path)).namelist()
    assert {"phantom/__init__.py", "phantom/transport/legs/browser.py", "phantom_browser/settled.py"} <= {*names}
    assert [name for name in names if name.split("/")[1] in wheel.LEFT_OUT] == []
    assert f"phantom_browser-{phantom.__version__}.dist-info/RECORD" in names


def test_the_versions_agree() -> None:
    for name in ("package.json", "package-lock.json"):
        assert json.loads((build.HERE / name).read_text())["version"] == phantom.__version__


def test_every_dependency_is_exact() -> None:
    package = json.loads((build.HERE / "package.json").read_text())
    versions = [*package["dependencies"].values(), *package["devDependencies"].values()]
    assert [version for version in versions if not version[0].isdigit()] == []


def test_the_lock_names_no_host() -> None:
    assert "resolved" not in (build.HERE / "package-lock.json").read_text()


def test_a_file_that_grew_is_over_budget() -> None:
    budget = {"a": [100, 50]}
    assert build.over_budget({"a": (100, 50)}, budget) == []
    assert build.over_budget({"a": (101, 50)}, budget) == ["a: 101 B, 50 B gzip; the budget is 100, 50"]
    assert build.over_budget({"a": (100, 51)}, budget) == ["a: 100 B, 51 B gzip; the budget is 100, 50"]
    assert build.over_budget({"b": (1, 1)}, budget) == ["b: no budget in size-budget.json"]
