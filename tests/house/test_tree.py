"""The files of the repository, and the tool that looks at them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import tree


def test_this_tree_has_no_dead_link_and_no_foreign_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "index-url = https://" + "pypi" + ".org/simple",
        "https://files." + "pythonhosted" + ".org/packages/x.whl",
        "https://registry." + "npmjs" + ".org/x",
        "https://" + "crates" + ".io/crates/x",
        "GOPROXY=https://proxy." + "golang" + ".org",
        "https://repo1." + "maven" + ".org/maven2",
        "https://repo." + "maven" + ".apache.org/maven2",
        "http://deb." + "debian" + ".org/debian",
        "cp x /" + "work/main/phantom",
        "cp x '/" + "root/.cache'",
    ],
)
def test_a_foreign_name_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "file.txt").write_text(f"fine\n{line}\n")
    assert len(list(tree.foreign_names(tmp_path / "file.txt", tmp_path))) == 1


@pytest.mark.parametrize(
    "line", ["./work/main/x", "the root/ of the tree", "$HOME/work/main", "crates.iodine", "https://example.org/root/x"]
)
def test_an_ordinary_name_is_not(tmp_path: Path, line: str) -> None:
    (tmp_path / "file.txt").write_text(line)
    assert list(tree.foreign_names(tmp_path / "file.txt", tmp_path)) == []


def test_a_binary_file_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"\xff\xfe\x00")
    assert list(tree.foreign_names(tmp_path / "file.bin", tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("[a](there.md)", 0),
        ("[a](there.md#the-heading)", 0),
        ("[a](there.md#the-heading-1)", 0),
        ("[a](there.md#placed)", 0),
        ("[a](#own)\n# Own", 0),
        ("[a](sub/)", 0),
        ("[a](https://example.org/x) [b](mailto:a@example.org)", 0),
        ("`[a](gone.md)`", 0),
        ("```\n[a](gone.md)\n```", 0),
        ("![picture](gone.png)", 1),
        ("[a](gone.md)", 1),
        ("[a](there.md#no-heading)", 1),
        ("[a](#none)", 1),
        ("[a](../outside.md)", 1),
        ("[a](/there.md)", 1),
        ('[a](gone.md "with a title")', 1),
        ("[a][b]\n\n[b]: gone.md", 1),
    ],
)
def test_links(tmp_path: Path, text: str, complaints: int) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "there.md").write_text('# The `heading`\n# The heading\n```\n# no heading\n```\n<a id="placed"></a>\n')
    (tmp_path / "page.md").write_text(text)
    assert len(list(tree.dead_links(tmp_path / "page.md", tmp_path))) == complaints


def test_what_git_ignores_is_not_looked_at(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("ignored\n")
    (tmp_path / "ignored").write_text("")
    (tmp_path / "new").write_text("")
    assert sorted(path.name for path in tree.tracked(tmp_path)) == [".gitignore", "new"]
