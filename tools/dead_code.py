"""Finds code that nothing uses: python -m tools.dead_code

vulture looks at every Python file of the repository together, so what only a test, a benchmark or an example calls
counts as used, and what nobody calls is dead. USED_ELSEWHERE lists the names that somebody outside the repository
calls, with the reason; an entry that no longer hides anything is an error, which keeps the list true.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parent.parent
PATHS = ("phantom", "bindings", "tools", "tests", "benchmarks", "examples")
# What they use counts as used, but they are not asked themselves: generated code; the benchmarks, whose peers are
# named on command lines; the glue that C calls; the generator's model and the views of its targets, which templates
# read; and the tables that mirror the specification whole, whether or not this version needs a line.
ASKED = re.compile(r"^(phantom|tools|tests|bindings/codegen)/")
NOT_ASKED = re.compile(
    r"/_?generated/|/golden/|^bindings/codegen/(model\.py$|targets/)"
    r"|^phantom/limits\.py$|^phantom/transport/packet/flags\.py$"
)
# pytest and hypothesis find these by name or by decorator, and the conformance drivers their commands (do_*); the three
# arguments of __exit__ are Python's.
IGNORED_NAMES = [
    "test_*",
    "Test*",
    "pytest_*",
    "pytestmark",
    "do_*",
    "teardown",
    "exc_type",
    "exc_value",
    "traceback",
    "__cause__",
]
IGNORED_DECORATORS = ["@pytest.fixture*", "@pytest.hookimpl*", "@*.command*", "@*.callback*", "@rule*", "@invariant*"]
# reason -> names
USED_ELSEWHERE: dict[str, set[str]] = {
    "attributes of a library's objects, and choices that it reads": {"HEX", "_clock_resolution", "overflow"},
    "named in a string": {"not_a_coroutine"},
    "states of the specification that later features enter": {
        *("CLASSICAL_READY", "PQC_READY", "PQC_UPGRADING"),
    },
    "counters that snapshots read by iteration": {
        *("path_gated", "wrong_session", "wrong_version"),
    },
}


def dead() -> list[str]:
    """What nothing uses, and the entries of the list that hide nothing."""
    vulture = Vulture(ignore_names=IGNORED_NAMES, ignore_decorators=IGNORED_DECORATORS)
    vulture.scavenge([str(ROOT / path) for path in PATHS if (ROOT / path).is_dir()])
    hidden = {name for names in USED_ELSEWHERE.values() for name in names}
    complaints, needed = [], set()
    for item in vulture.get_unused_code(min_confidence=60):
        path = Path(item.filename).relative_to(ROOT).as_posix()
        if not ASKED.search(path) or NOT_ASKED.search(path):
            continue
        if item.name in hidden:
            needed.add(item.name)
        else:
            complaints.append(f"{path}:{item.first_lineno}: {item.message}")
    return complaints + [f"tools/dead_code.py: {name} needs no entry" for name in sorted(hidden - needed)]


def main() -> int:
    complaints = dead()
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
