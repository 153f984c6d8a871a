"""Bytes to decode, made from a seed: valid messages, messages joined and with unknown fields, damaged ones, and noise.

``expected`` is what Python protobuf says of them: the message again, fields in order, or None where it refuses.
"""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SFIXED64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
}
_FLOATS = (0.0, -0.0, 1.0, -1.5, 1e300, 5e-324, float("inf"), float("-inf"))
_TEXTS = ("", "a", "pin", "Grüße", "日本語", "\x00", "𝄞 music", "ab" * 100)


@dataclass(frozen=True)
class Case:
    """Bytes for the decoder of one message."""

    message: str
    data: bytes


class Corpus:
    """Messages of the packages of a definition that a codec has."""

    def __init__(self, compiled: descriptor_pb2.FileDescriptorSet, names: list[str], seed: int) -> None:
        pool = DescriptorPool()
        for file in compiled.file:
            pool.AddSerializedFile(file.SerializeToString())
        self._classes: dict[str, type[Message]] = {
            name: GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
        }
        self._names = names
        self._random = random.Random(seed)

    def valid(self, count: int) -> list[Case]:
        """What some program could have sent, unknown fields included."""
        return [self._case(self._valid) for _ in range(count)]

    def damaged(self, count: int) -> list[Case]:
        """What nobody should have sent."""
        return [self._case(self._damaged) for _ in range(count)]

    def expected(self, case: Case) -> bytes | None:
        """The message as Python protobuf writes what it read, None if it refuses the bytes."""
        try:
            message = self._classes[case.message].FromString(case.data)
        except DecodeError:
            return None
        _calm(message)
        return message.SerializeToString(deterministic=True)

    def maps(self, name: str) -> bool:
        """Whether the message can hold a map, whose order protobuf leaves open."""
        pending, seen = [self._classes[name].DESCRIPTOR], set()
        while pending:
            descriptor = pending.pop()
            if descriptor.GetOptions().map_entry:
                return True
            if descriptor.full_name not in seen:
                seen.add(descriptor.full_name)
                pending += [field.message_type for field in descriptor.fields if field.message_type is not None]
        return False

    def _case(self, make: Any) -> Case:
        name = self._random.choice(self._names)
        return Case(name, make(self._classes[name]))

    # --- values ------------------------------------------------------------------------------------------------------

    def _valid(self, cls: type[Message]) -> bytes:
        pick = self._random.random()
        data = self._message(cls).SerializeToString()
        if pick < 0.2:  # two messages in a row are one, merged
            data += self._message(cls).SerializeToString()
        if pick < 0.4:
            data += self._unknown()
        return data

    def _message(self, cls: type[Message], depth: int = 0) -> Message:
        made = cls()
        self._fill(made, cls.DESCRIPTOR, depth)
        return made

    def _fill(self, message: Any, descriptor: Descriptor, depth: int) -> None:
        for field in descriptor.fields:
            if self._random.random() < (0.3 if depth < 4 else 0.8):
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._fill_map(getattr(message, field.name), field.message_type, depth)
            elif field.is_repeated:
                values = getattr(message, field.name)
                for _ in range(self._random.choice((0, 1, 2, 5))):
                    if field.message_type is not None:
                        self._fill(values.add(), field.message_type, depth + 1)
                    else:
                        values.append(self._value(field))
            elif field.message_type is not None:
                inner = getattr(message, field.name)
                inner.SetInParent()
                self._fill(inner, field.message_type, depth + 1)
            else:
                setattr(message, field.name, self._value(field))

    def _fill_map(self, values: Any, entry: Descriptor, depth: int) -> None:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self._random.choice((0, 1, 3))):
            if value.message_type is not None:
                self._fill(values[self._value(key)], value.message_type, depth + 1)
            else:
                values[self._value(key)] = self._value(value)

    def _value(self, field: FieldDescriptor) -> Any:
        pick = self._random
        if field.type in _INTEGERS:
            low, high = _INTEGERS[field.type]
            return pick.choice((0, 1, low, high, pick.randint(low, high), min(high, pick.getrandbits(14))))
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return pick.random() < 0.5
            case FieldDescriptor.TYPE_FLOAT:
                return struct.unpack("<f", struct.pack("<f", pick.choice((0.0, -0.0, 1.5, float("inf")))))[0]
            case FieldDescriptor.TYPE_DOUBLE:
                return pick.choice((*_FLOATS, pick.uniform(-1e9, 1e9)))
            case FieldDescriptor.TYPE_STRING:
                return pick.choice(_TEXTS)
            case FieldDescriptor.TYPE_BYTES:
                return pick.randbytes(pick.choice((0, 1, 32, 300)))
            case FieldDescriptor.TYPE_ENUM:
                known = [value.number for value in field.enum_type.values]  # type: ignore[union-attr]
                return pick.choice((*known, 99, -1, 2**31 - 1))
        raise AssertionError(field.type)

    def _unknown(self, depth: int = 0) -> bytes:
        """Fields that no message has, of every type, groups included."""
        pick = self._random
        made = b""
        for _ in range(pick.randint(1, 3)):
            number = pick.choice((1000, 99, 2**29 - 1, pick.randint(60, 5000)))
            match pick.randrange(5):
                case 0:
                    made += varint(number << 3) + varint(pick.getrandbits(pick.choice((7, 32, 64))))
                case 1:
                    made += varint(number << 3 | 1) + pick.randbytes(8)
                case 2:
                    content = pick.randbytes(pick.randrange(20))
                    made += varint(number << 3 | 2) + varint(len(content)) + content
                case 3 if depth < 5:
                    made += varint(number << 3 | 3) + self._unknown(depth + 1) + varint(number << 3 | 4)
                case _:
                    made += varint(number << 3 | 5) + pick.randbytes(4)
        return made

    # --- damage ------------------------------------------------------------------------------------------------------

    def _damaged(self, cls: type[Message]) -> bytes:
        pick = self._random
        data = bytearray(self._valid(cls))
        if pick.random() < 0.1 or not data:
            return self._noise(cls)
        for _ in range(pick.choice((1, 1, 1, 2, 5))):
            at = pick.randrange(len(data) + 1)
            match pick.randrange(7):
                case 0:
                    del data[at:]
                case 1:
                    del data[at : at + pick.randint(1, 4)]
                case 2:
                    data[at:at] = pick.randbytes(pick.randint(1, 6))
                case 3:
                    data[at:at] = bytes([0x80 | pick.getrandbits(7)]) * pick.randint(1, 10) + bytes(
                        [pick.getrandbits(8)]
                    )
                case 4:
                    data[at:at] = self._unknown()
                case _ if data:
                    at = pick.randrange(len(data))
                    data[at] ^= 1 << pick.randrange(8) if pick.random() < 0.5 else pick.getrandbits(8)
        return bytes(data)

    def _noise(self, cls: type[Message]) -> bytes:
        """No message at all, or one that is nested too deep or almost so."""
        pick = self._random
        if pick.random() < 0.5:
            return pick.randbytes(pick.randrange(64))
        number = pick.choice([field.number for field in cls.DESCRIPTOR.fields] or [7])
        depth = pick.choice((90, 98, 99, 100, 101, 102, 150))
        if pick.random() < 0.5:
            return varint(number << 3 | 3) * depth + varint(number << 3 | 4) * depth
        data = b""
        for _ in range(depth):
            data = varint(number << 3 | 2) + varint(len(data)) + data
        return data


def _calm(message: Message) -> None:
    """Makes every NaN the same one: languages may change its other bits."""
    for field, value in message.ListFields():
        if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
            if math.isnan(value):
                setattr(message, field.name, float("nan"))
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else (value,):
                _calm(inner)


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
