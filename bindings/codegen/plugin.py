"""The doors of the generator: ``generate`` for Python programs, ``main`` for protoc.

As a plugin it reads a CodeGeneratorRequest from standard input. Its parameter names the targets and the version of the
package, such as ``target=c,target=swift,version=0.2.0``; without targets it runs all of them. A fault of the definition
goes to protoc as its error text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import BinaryIO

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2

from bindings.codegen.model import DefinitionError, Package, load
from bindings.codegen.targets import targets

__all__ = ["generate", "main", "render"]


def render(package: Package, names: Iterable[str] = ()) -> dict[str, bytes]:
    """Path under the project -> content, of every file of the named targets (all if none is named).

    Raises DefinitionError for what a target cannot express, ValueError for an unknown target.
    """
    known = targets()
    chosen = list(names) or sorted(known)
    files: dict[str, bytes] = {}
    for name in chosen:
        if name not in known:
            raise ValueError(f"there is no target {name!r}; there are: {', '.join(sorted(known))}")
        for path, content in known[name].render(package).items():
            if path in files:
                raise ValueError(f"two targets write {path}")
            files[path] = content
    return files


def generate(
    files: Iterable[descriptor_pb2.FileDescriptorProto],
    to_generate: Iterable[str],
    names: Iterable[str] = (),
    version: str = "",
) -> dict[str, bytes]:
    """Renders the definition that the descriptors hold; see :func:`bindings.codegen.model.load` and :func:`render`."""
    return render(load(files, to_generate, version), names)


def main(source: BinaryIO | None = None, sink: BinaryIO | None = None) -> int:
    """Answers one request of protoc. Returns the exit status, always 0: protoc reads errors from the answer."""
    request = plugin_pb2.CodeGeneratorRequest.FromString((source or sys.stdin.buffer).read())
    answer = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    try:
        written = generate(request.proto_file, request.file_to_generate, *_parameters(request.parameter))
    except (DefinitionError, ValueError) as error:
        answer.error = str(error)
    else:
        for path, content in sorted(written.items()):
            answer.file.add(name=path, content=content.decode())
    (sink or sys.stdout.buffer).write(answer.SerializeToString())
    return 0


def _parameters(parameter: str) -> tuple[list[str], str]:
    names: list[str] = []
    version = ""
    for part in filter(None, parameter.split(",")):
        key, _, value = part.partition("=")
        if key not in ("target", "version") or not value:
            raise ValueError(f"unknown parameter {part!r}; write target=NAME or version=X.Y.Z")
        if key == "target":
            names.append(value)
        else:
            version = value
    return names, version
