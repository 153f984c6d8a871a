"""The reference pages: golden files, no dead link, everything of the definition told, nothing taken for markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bindings.codegen.c import lower
from bindings.codegen.model import DefinitionError
from bindings.codegen.plugin import render
from bindings.codegen.targets.markdown import cell, page, prose
from tests.bindings.codegen.support import check_golden, package_of, real, toy
from tools import tree

CALLS = 'syntax = "proto3"; package x.v1; %s message Request { } message Response { }'


def squeezed(text: str) -> str:
    return " ".join(text.replace("\\", "").split())


def test_golden() -> None:
    check_golden("markdown")


def test_a_package_that_grpc_serves_nothing_of_has_no_pages(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, CALLS % ""), ["markdown"]) == {}


def test_a_package_without_errors_and_c_has_a_page_of_each_service(tmp_path: Path) -> None:
    text = CALLS % "service OldBoxService { rpc Put(Request) returns (Response); }"
    assert sorted(render(package_of(tmp_path, text), ["markdown"])) == [
        "docs/reference/api/README.md",
        "docs/reference/api/messages.md",
        "docs/reference/api/old-box-service.md",
    ]


def test_a_service_whose_page_is_taken_is_refused(tmp_path: Path) -> None:
    text = CALLS % "service Messages { rpc Put(Request) returns (Response); }"
    with pytest.raises(DefinitionError, match=r"^x\.proto:1: its page .* rename the service$"):
        render(package_of(tmp_path, text), ["markdown"])


def test_no_link_is_dead(tmp_path: Path) -> None:
    pages = []
    for path, content in render(real(), ["markdown"]).items():
        pages.append(tmp_path / path)
        pages[-1].parent.mkdir(parents=True, exist_ok=True)
        pages[-1].write_bytes(content)
    assert [link for found in pages for link in tree.dead_links(found, tmp_path)] == []


def test_everything_of_the_definition_is_told() -> None:
    files = {
        path.rpartition("reference/")[2]: squeezed(text.decode()) for path, text in render(real(), ["markdown"]).items()
    }
    api = " ".join(text for path, text in files.items() if path.startswith("api/"))
    for message in real().wire_messages():
        for element in (message, *message.fields):
            assert squeezed(element.comment) in api, element
    for service in real().served:
        text = files[f"api/{page(service)}"]
        for element in (service, *service.operations):
            assert squeezed(element.comment) in text, element
    for error in real().errors:
        assert squeezed(error.comment) in files["api/errors.md"]
    for call in lower(real()).calls:
        assert f"### {call.name} ```c" in files["c/README.md"]
        assert squeezed(call.text) in files["c/README.md"]
        for parameter in call.parameters:
            assert squeezed(parameter.text) in files["c/README.md"]


def test_every_table_has_as_many_cells_as_its_head() -> None:
    for package in (toy(), real()):
        for path, content in render(package, ["markdown"]).items():
            width = 0
            for line in content.decode().splitlines():
                cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
                assert not (cells and width) or cells == width, (path, line)
                width = cells


def test_secrets_are_named_as_such() -> None:
    text = render(toy(), ["markdown"])["docs/reference/api/messages.md"].decode()
    for name in ("secret", "password"):
        assert re.search(rf"^\| `{name}` .* A secret: no dump and no log shows it\. \|$", text, re.MULTILINE)


def test_texts_are_not_markup(tmp_path: Path) -> None:
    package = package_of(
        tmp_path,
        'syntax = "proto3"; package x.v1;\n// A *star*, a|b, [x](y), `a*b` and <i>, SNAKE_CASE.\nmessage M { }',
    )
    (message,) = package.messages
    assert prose(message.comment) == r"A \*star\*, a|b, \[x\](y), `a*b` and \<i>, SNAKE_CASE."
    assert cell(message).startswith(r"A \*star\*, a\|b")
