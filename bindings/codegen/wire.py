"""What languages that write their own codec, client or error table ask of the model, and the rules that they share.

Names that a language cannot have twice are claimed in a :class:`Names`, whose complaint names both places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bindings.codegen.model import (
    DefinitionError,
    Element,
    Enum,
    ErrorCode,
    Field,
    Kind,
    Message,
    Operation,
    Package,
    Service,
)

__all__ = ["BARE_STATUSES", "STATUSES", "BareStatus", "Names", "enums", "failures", "inner_name", "recurs", "tag"]

_WIRE_TYPES: Final = {
    "double": 1,
    "fixed64": 1,
    "sfixed64": 1,
    "string": 2,
    "bytes": 2,
    "message": 2,
    "float": 5,
    "fixed32": 5,
    "sfixed32": 5,
}
_LENGTH: Final = 2

STATUSES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""The statuses of gRPC, at the index of their numbers."""


@dataclass(frozen=True, slots=True)
class BareStatus:
    """What a status of gRPC means that comes without an error detail: gRPC says it, not the sidecar."""

    status: str
    """Its name, ``""`` for any other."""
    error: str
    """Name of the error."""
    text: str


BARE_STATUSES: Final = (
    BareStatus("UNAVAILABLE", "NETWORK", "the sidecar cannot be reached; is it running?"),
    BareStatus("DEADLINE_EXCEEDED", "TIMEOUT", "the sidecar did not answer in time"),
    BareStatus("CANCELLED", "NETWORK", "the call was cancelled"),
    BareStatus("UNAUTHENTICATED", "ACCESS_DENIED", "the sidecar does not accept this token"),
    BareStatus("UNIMPLEMENTED", "UNSUPPORTED", "the sidecar does not offer this call; is it too old?"),
    BareStatus("RESOURCE_EXHAUSTED", "FRAME_TOO_LARGE", "more than one call to the sidecar can carry"),
    BareStatus("", "INTERNAL", "the sidecar failed; its log says why"),
)


class Names:
    """The names given away in one scope of one language."""

    def __init__(self, scope: str, reserved: Iterable[str] = ()) -> None:
        self._scope = scope
        self._taken: dict[str, Element | None] = dict.fromkeys(reserved)

    def claim(self, name: str, element: Element) -> str:
        """The name; DefinitionError if it is taken, or reserved."""
        if name in self._taken:
            other = self._taken[name]
            where = f"is that of {other.name} at {other.location}" if other else "is taken by what is generated"
            raise DefinitionError(
                element.location, f"the name {name} of {element.name} in {self._scope} {where}", "choose another name"
            )
        self._taken[name] = element
        return name


def tag(member: Field, *, packed: bool | None = None) -> int:
    """What stands before the field on the wire: its number and wire type. ``packed`` overrides the definition."""
    packed = member.packed if packed is None else packed
    delimited = packed or member.map_key is not None
    return member.number << 3 | (_LENGTH if delimited else _WIRE_TYPES.get(member.proto_type, 0))


def enums(package: Package) -> tuple[Enum, ...]:
    """The enums that messages on the wire have, in the order of declaration."""
    used = {member.type_name for message in package.wire_messages() for member in message.fields}
    return tuple(found for found in package.enums if found.full_name in used)


def inner_name(package: Package, full_name: str) -> tuple[str, ...]:
    """The parts of a full name behind that of the package: ``("Everything", "Inner")``."""
    return tuple(full_name.removeprefix(f"{package.name}.").split("."))


def recurs(package: Package, message: Message, member: Field) -> bool:
    """Whether a message can contain itself through this field, without a list or a map between."""
    pending, seen = [member], {message.full_name: False}
    while pending:
        at = pending.pop()
        if at.kind is not Kind.MESSAGE or at.repeated or at.map_key:
            continue
        if at.type_name == message.full_name:
            return True
        if at.type_name not in seen:
            seen[at.type_name] = True
            pending += package.message(at.type_name).fields
    return False


def failures(package: Package, language: str) -> tuple[Message, tuple[tuple[BareStatus, ErrorCode], ...]]:
    """The error detail, and the error of each bare status, the rest last; errors that the package lacks fall to it.

    Raises DefinitionError for a package whose calls could not say why they fail.
    """
    place: Service | Operation = package.served[0]
    detail = next((found for found in package.messages if found.name == "ErrorDetail" and not found.parent), None)
    fields = {member.name: member.kind for member in detail.fields} if detail else {}
    if detail is None or fields.get("code") is not Kind.ENUM or fields.get("message") is not Kind.STRING:
        raise DefinitionError(
            place.location,
            f"a client in {language} needs a message ErrorDetail with code and message",
            "declare it, with an enum of errors",
        )
    known = {error.name: error for error in package.errors}
    if "INTERNAL" not in known:
        raise DefinitionError(place.location, f"a client in {language} needs an error INTERNAL", "declare it")
    return detail, tuple((bare, known[bare.error]) for bare in BARE_STATUSES if bare.error in known)
