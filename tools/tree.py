"""What holds for the files themselves: python -m tools.tree

- A relative link in a Markdown file leads to a file that is there, and its #anchor to a heading of that file.
- No tracked file names a package registry's host or a folder of the machine it was written on: both make it true in one
  place only.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

# Written in pieces, since this file is searched too.
REGISTRIES = (
    "pypi" + r"\.org",
    "pythonhosted" + r"\.org",
    "npmjs" + r"\.(?:org|com)",
    "registry\\.yarnpkg" + r"\.com",
    "crates" + r"\.io",
    "proxy\\.golang" + r"\.org",
    "(?:repo\\d?|central)\\.(?:maven|sonatype)" + r"\.(?:apache\.)?(?:org|com)",
    "deb(?:ian)?\\.debian" + r"\.org",
)
MACHINE_PATHS = r"(?<![\w.}~-])/(?:wor" + r"k/(?:main|shared|scratch|\.library)|roo" + r"t/[\w.]|opt/whe" + r"els)"
FORBIDDEN = re.compile(rf"(?:{'|'.join(REGISTRIES)})\b|{MACHINE_PATHS}")

FENCE = re.compile(r"^\s{0,3}(```|~~~).*?^\s{0,3}\1[^\n]*$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()<>\s]+(?:\([^()\s]*\)[^()<>\s]*)?)>?(?:\s+[\"'][^)]*)?\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]^]+\]:\s*<?([^\s>]+)", re.MULTILINE)
HEADING = re.compile(r"^\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)")


def tracked(root: Path = ROOT) -> list[Path]:
    """The files that are, or would be, committed."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, check=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := root / name).is_file()]


def anchors(text: str) -> set[str]:
    """The #names that a Markdown file offers, as GitHub forms them from its headings."""
    names: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = 0
        while (name := slug if not count else f"{slug}-{count}") in names:
            count += 1
        names.add(name)
    return names | set(ANCHOR.findall(text))


def dead_links(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Each link of the Markdown file `path` that leads nowhere within `root`."""
    text = CODE_SPAN.sub("", FENCE.sub("", path.read_text("utf-8")))
    for target in LINK.findall(text) + REFERENCE.findall(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        there = (path.parent / name).resolve() if name else path
        if target.startswith("/") or not there.is_relative_to(root):
            yield f"{path.relative_to(root)}: {target} leads out of the tree"
        elif not there.exists():
            yield f"{path.relative_to(root)}: {target} is not there"
        elif anchor and there.suffix == ".md" and anchor not in anchors(there.read_text("utf-8")):
            yield f"{path.relative_to(root)}: {target} has no such heading"


def foreign_names(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Each line of the text file `path` that names a registry's host or a machine's folder."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        if found := FORBIDDEN.search(line):
            yield f"{path.relative_to(root)}:{number}: {found.group()}"


def main() -> int:
    complaints: list[str] = []
    for path in tracked():
        complaints += foreign_names(path)
        if path.suffix == ".md":
            complaints += dead_links(path)
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
