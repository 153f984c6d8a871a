"""The error tables: one file a language, each with every code, its name, branch, base, flags and default text."""

from __future__ import annotations

from typing import Final

from bindings.codegen.model import Package
from bindings.codegen.targets import Target, environment

__all__ = ["FILES", "TARGET", "render"]

FILES: Final = {
    "errors.py.j2": "tests/bindings/error_table.py",
    "errors.c.j2": "bindings/c/generated/{prefix}_status_names.c",
    "ErrorCode.swift.j2": "bindings/swift/Sources/Phantom/Generated/ErrorCode.swift",
    "ErrorCode.kt.j2": "bindings/kotlin/src/main/kotlin/{folder}/ErrorCode.kt",
    "errors.ts.j2": "bindings/wasm/src/generated/errors.ts",
}
"""Template -> path of what it makes."""


def render(package: Package) -> dict[str, bytes]:
    """The tables; none for a package without error codes."""
    if not package.errors:
        return {}
    templates = environment("errors")
    prefix = package.prefix
    return {
        path.format(prefix=prefix, folder=package.name.replace(".", "/")): templates.get_template(name)
        .render(errors=package.errors, package=package, prefix=prefix)
        .encode()
        for name, path in FILES.items()
    }


TARGET = Target("errors", "the error tables of every language", render)
