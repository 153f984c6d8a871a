"""Every generated codec and Python protobuf say the same of the same bytes: the same message, or both refuse.

Each codec gets 10 000 valid messages (joined ones and unknown fields among them) and 10 000 damaged ones, for the toy,
which has every kind of field, and for the definition. What a codec read is judged by what it writes again.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bindings.codegen.model import Package
from bindings.codegen.plugin import render
from bindings.codegen.wire import inner_name
from tests.bindings.codegen import toolchains
from tests.bindings.codegen.corpus import Case, Corpus
from tests.bindings.codegen.support import HERE, TOY, compiled, real, toy
from tools import generate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COUNT = 10_000
SEED = 20261124
Answers = list[bytes | None]


def through(command: list[str | Path], names: list[str], cases: list[Case]) -> Answers:
    """What the program makes of the cases."""
    data = b"".join(struct.pack("<HI", names.index(case.message), len(case.data)) + case.data for case in cases)
    done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    answers: Answers = []
    at = 0
    while at < len(done.stdout):
        taken, length = struct.unpack_from("<BI", done.stdout, at)
        at += 5 + length
        answers.append(done.stdout[at - length : at] if taken else None)
    assert len(answers) == len(cases)
    return answers


def typescript(package: Package, names: list[str], folder: Path) -> list[str | Path]:
    """The program around the generated TypeScript."""
    source = folder / "source"
    source.mkdir()
    for path, content in render(package, ["typescript", "errors"]).items():
        if path.endswith(".ts"):
            (source / Path(path).name).write_bytes(content)
    toolchains.tsc(source, folder / "out")
    exported = ["".join(inner_name(package, name)) for name in names]
    return ["node", HERE / "ts" / "codec.mjs", folder / "out" / "messages.js", *exported]


def swift(package: Package, names: list[str], folder: Path) -> list[str | Path]:
    """The program around the generated Swift."""
    files = [folder / "main.swift", folder / "Types.swift"]
    files[0].write_text((HERE / "swift" / "Codec.swift").read_text())
    types = ", ".join(f"V1.{'.'.join(inner_name(package, name))}.self" for name in names)
    files[1].write_text(f"let types: [any WireMessage.Type] = [{types}]\n")
    for path, content in render(package, ["swift", "errors"]).items():
        if path.endswith(".swift"):
            files.append(folder / Path(path).name)
            files[-1].write_bytes(content)
    toolchains.swiftc("-O", "-wmo", "-o", folder / "codec", *files)
    return [folder / "codec"]


@pytest.mark.parametrize("build", [typescript, swift])
@pytest.mark.parametrize("which", ["toy", "real"])
def test_agrees_with_python_protobuf(
    which: str, build: Callable[[Package, list[str], Path], list[str | Path]], tmp_path: Path
) -> None:
    package = toy() if which == "toy" else real()
    descriptors = compiled(HERE / "toy", TOY) if which == "toy" else generate.descriptors()
    names = [message.full_name for message in package.wire_messages()]
    corpus = Corpus(descriptors, names, SEED)
    cases = corpus.valid(COUNT) + corpus.damaged(COUNT)
    expected = [corpus.expected(case) for case in cases]
    # The corpus asks something: no valid message is refused, of the damaged ones many are and many are not.
    assert None not in expected[:COUNT]
    assert COUNT // 10 < expected.count(None) < COUNT * 9 // 10

    answers = through(build(package, names, tmp_path), names, cases)
    for case, wanted, answer in zip(cases, expected, answers, strict=True):
        got = None if answer is None else corpus.expected(Case(case.message, answer))
        assert got == wanted, (case.message, case.data.hex())
    # Apart from maps, whose order is open, and NaN the bytes themselves are the same.
    exact = [
        answer == wanted
        for case, wanted, answer in zip(cases, expected, answers, strict=True)
        if wanted is not None and not corpus.maps(case.message) and b"\xc0\x7f" not in wanted
    ]
    assert len(exact) > COUNT // 2
    assert all(exact)


def test_the_corpus_is_the_same_every_time() -> None:
    names = [message.full_name for message in toy().wire_messages()]
    first, second = (Corpus(compiled(HERE / "toy", TOY), names, SEED) for _ in range(2))
    assert first.valid(50) + first.damaged(50) == second.valid(50) + second.damaged(50)
