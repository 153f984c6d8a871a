"""The interface definition: lint, its agreement with the error tree, and the rules of proto/README.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor

from phantom import errors
from phantom.errors import PhantomError
from phantom.sidecar._generated.v1 import (
    common_pb2,
    errors_pb2,
    identity_pb2,
    listener_pb2,
    session_pb2,
    sidecar_pb2,
    stream_pb2,
)
from phantom.sidecar.services import SERVICES

ROOT = Path(__file__).resolve().parents[2]
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (common_pb2, errors_pb2, identity_pb2, listener_pb2, session_pb2, sidecar_pb2, stream_pb2)
]


def _upper_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Error").removeprefix("Phantom")).upper()


def test_error_codes_are_those_of_the_error_tree_exactly() -> None:
    tree = {
        f"ERROR_CODE_{_upper_snake(name)}": cls.code
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, PhantomError) and cls.code
    }
    declared = dict(errors_pb2.ErrorCode.items())
    assert declared.pop("ERROR_CODE_UNSPECIFIED") == 0
    assert declared == tree


@pytest.mark.parametrize("arguments", [["lint"], ["format", "--diff", "--exit-code"]], ids=["lint", "format"])
def test_buf_has_nothing_to_say(arguments: list[str]) -> None:
    buf = Path(sys.executable).with_name("buf")
    done = subprocess.run([buf, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_call_has_messages_of_its_own() -> None:
    used = [
        message.full_name
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
        for message in (method.input_type, method.output_type)
    ]
    assert len(used) == len(set(used)) > 0


def test_every_service_is_served() -> None:
    assert set(SERVICES) == {service.full_name for file in FILES for service in file.services_by_name.values()}


def test_secrets_are_marked() -> None:
    marked = {
        field.full_name
        for file in FILES
        for message in file.message_types_by_name.values()
        for field in message.fields
        if field.GetOptions().debug_redact
    }
    named = {
        field.full_name
        for file in FILES
        for message in file.message_types_by_name.values()
        for field in message.fields
        if field.name in ("seed", "secret", "keying_material") and field.type == FieldDescriptor.TYPE_BYTES
    }
    assert marked == named != set()
