"""The lock of the C structs: what every released struct holds, and that it only ever grows.

A program that was built with an older header hands over shorter structs, one built with a newer header longer ones.
That works only while no member moves. The committed file holds struct, field number and declaration of each member; the
generator refuses whatever is not a member with a higher number than those that are there.
"""

from __future__ import annotations

from typing import Final

from bindings.codegen.c import Library, lock_lines
from bindings.codegen.model import DefinitionError, Location
from bindings.codegen.targets import MARKER

__all__ = ["PATH", "check", "text"]

PATH: Final = "bindings/c/structs.lock"


def text(library: Library) -> str:
    """The content of the lock file."""
    lines = [f"{struct} {number} {declaration}" for struct, number, declaration, _ in lock_lines(library)]
    return "\n".join([f"# {MARKER}", "# struct, field number, member; only ever appended to", *lines]) + "\n"


def check(library: Library, committed: str) -> None:
    """Raises DefinitionError if the library has not exactly the members of the committed file and later ones."""
    locked: dict[str, dict[str, int]] = {}
    for line in committed.splitlines():
        if line and not line.startswith("#"):
            struct, digits, declaration = line.split(" ", 2)
            locked.setdefault(struct, {})[declaration] = int(digits)
    now: dict[str, dict[str, tuple[int, Location]]] = {}
    for struct, number, declaration, location in lock_lines(library):
        now.setdefault(struct, {})[declaration] = (number, location)
    places = {struct.c_type: struct.message.location for struct in library.structs}
    start = Location(library.package.files[0], 1)
    for struct, members in locked.items():
        present = now.get(struct, {})
        place = places.get(struct, start)
        highest = max(members.values())
        for declaration, number in members.items():
            found = present.get(declaration)
            if found is None:
                others = [(other, at) for other, (at_number, at) in present.items() if at_number == number]
                raise DefinitionError(
                    others[0][1] if others else place,
                    f"{struct} had `{declaration}` (field {number})"
                    + (f", now it has `{others[0][0]}`" if others else ", now it has not"),
                    "put it back, and add a field with a new number instead; programs are out there that rely on it",
                )
            if found[0] != number:
                raise DefinitionError(
                    found[1],
                    f"`{declaration}` of {struct} had field number {number}, now {found[0]}",
                    "put the number back; members are in the order of numbers",
                )
        for declaration, (number, location) in present.items():
            if declaration not in members and number <= highest:
                raise DefinitionError(
                    location,
                    f"{struct} gets `{declaration}` (field {number}) in front of field {highest}",
                    f"give it a number above {highest}: structs grow at their end only",
                )
