"""The C library: header, cdef of cffi, exported calls, Python glue, version script, and the lock of its structs."""

from __future__ import annotations

from typing import Final

from bindings.codegen import lock
from bindings.codegen.c import FORKED, GLUE_FAILED, NOT_STARTED, lower
from bindings.codegen.c_glue import GlueLayout, docstring
from bindings.codegen.c_header import HeaderLayout, doc, since
from bindings.codegen.c_shims import ShimLayout
from bindings.codegen.model import REDACTED, DefinitionError, Location, Package, pascal
from bindings.codegen.targets import Target, environment

__all__ = ["TARGET", "render"]

HEADER: Final = "bindings/c/include"
GENERATED: Final = "bindings/c/generated"
_NEEDED: Final = ("VALIDATION", "SESSION_NOT_FOUND", "TIMEOUT", "UNSUPPORTED")
"""The errors that the library itself reports."""


def render(package: Package) -> dict[str, bytes]:
    """The files of the C library; none for a package without C calls. Raises DefinitionError."""
    library = lower(package)
    if not library.calls:
        return {}
    known = {error.name for error in package.errors}
    for name in _NEEDED:
        if name not in known:
            raise DefinitionError(
                Location(package.files[0], 1), f"there is no error {name}, which the C library reports", "declare it"
            )
    templates = environment("c")
    templates.filters["doc"] = doc
    templates.filters["docstring"] = docstring
    templates.filters["boxed"] = "/*\n{}\n */".format
    prefix = package.prefix
    header, shims, glue = HeaderLayout(library), ShimLayout(library), GlueLayout(library)
    asked = (
        header.prototype,
        header.call_doc,
        header.settable,
        header.how_to_set,
        header.exported,
        shims.plain_members,
        shims.glue_parameters,
        shims.glue_arguments,
        shims.call_locals,
        shims.clears,
        shims.refusals,
        shims.member_refusals,
        shims.hand_overs,
        glue.python_type,
        glue.result_type,
        glue.results,
        glue.result_class,
        glue.methods,
        glue.has_secret,
        glue.has_secrets,
        glue.secret_names,
        glue.public_names,
        glue.suppressed,
        glue.glue_head,
        glue.taken,
        glue.views,
        glue.operation_call,
        glue.operation_head,
        glue.handle_of,
        glue.gives,
        glue.struct_gives,
        glue.python_field,
    )
    given = {
        "package": package,
        "library": library,
        "prefix": prefix,
        "title": f"The C interface of {prefix.capitalize()}.",
        "version": package.version,
        "version_parts": list(zip(("MAJOR", "MINOR", "PATCH"), package.version.split("."), strict=False)),
        "glue_failed": GLUE_FAILED,
        "not_started": NOT_STARTED,
        "forked": FORKED,
        "redacted": REDACTED,
        "since": since,
        "pascal": pascal,
        **{function.__name__: function for function in asked},
    }
    made = {
        f"{HEADER}/{prefix}.h": "header.h.j2",
        f"{GENERATED}/{prefix}_cdef.h": "cdef.h.j2",
        f"{GENERATED}/{prefix}_shims.c": "shims.c.j2",
        f"{GENERATED}/{prefix}_status_name.c": "status_name.c.j2",
        f"{GENERATED}/{prefix}.map": "version_script.map.j2",
        f"{GENERATED}/{prefix}_c.py": "glue.py.j2",
        f"{GENERATED}/__init__.py": "package.py.j2",
    }
    files = {path: templates.get_template(name).render(given) for path, name in made.items()}
    files[lock.PATH] = lock.text(library)
    return {path: (text.rstrip("\n") + "\n").encode() for path, text in files.items()}


TARGET = Target(
    "c", "the C library: header, cdef, exported calls, glue, version script, lock", render, (HEADER, GENERATED)
)
