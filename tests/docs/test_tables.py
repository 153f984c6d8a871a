"""The tables of the documents say what the code says: errors, configuration, constants, flags, labels, sizes."""

from __future__ import annotations

import dataclasses
import re

import pytest

import phantom
from phantom import config, errors, limits
from phantom.cli import failures
from phantom.config import PhantomConfig
from phantom.crypto.providers import PROVIDER_NAMES
from phantom.testing import session_pair
from phantom.transport.handshake import messages
from phantom.transport.packet import flags, frames
from phantom.transport.packet.protection import ProtectionV2
from tests.docs.support import PACKAGE, ROOT, code, sources, table

ERRORS = ROOT / "docs" / "how-to" / "errors.md"
CONFIGURATION = ROOT / "docs" / "how-to" / "configuration.md"
PROTOCOL = ROOT / "docs" / "protocol" / "PROTOCOL.md"

# --- errors -----------------------------------------------------------------------------------------------------------

LEAVES = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, errors.PhantomError)
}
LEAVES = {name: cls for name, cls in LEAVES.items() if cls.code}
BRANCHES = ("LocalError", "RemoteError", "TransportError")


def test_the_table_of_errors_is_the_tree() -> None:
    written = {
        row["error"]: (row["code"], row["branch"], row["retryable"], row["final"]) for row in table(ERRORS, "code")
    }
    there = {
        name: (
            str(cls.code),
            next(branch for branch in BRANCHES if issubclass(cls, getattr(errors, branch))),
            "yes" if cls.retryable else "no",
            "yes" if cls.final else "no",
        )
        for name, cls in LEAVES.items()
    }
    assert written == there
    assert {row["branch"] for row in table(ERRORS, "branch")} == set(BRANCHES)


def test_the_table_of_errors_is_in_the_order_of_their_codes_and_says_what_to_do() -> None:
    rows = table(ERRORS, "code")
    assert [int(row["code"]) for row in rows] == sorted(cls.code for cls in LEAVES.values())
    assert [row["error"] for row in rows if not row["what to do"]] == []


@pytest.mark.parametrize("row", table(ERRORS, "code"), ids=lambda row: row["error"])
def test_an_error_said_not_to_be_raised_is_not(row: dict[str, str]) -> None:
    name = row["error"]
    made = re.compile(rf"\b{name}\b\(|raise {name}\b")
    makers = [path for path in sources() if path.name != "errors.py" and made.search(path.read_text())]
    if "not raised in this version" in row["what to do"] or "never raised" in row["what to do"]:
        assert makers == []
    elif "not raised by sessions" not in row["what to do"]:
        # The tables of the sidecar's client make an error out of any code; a class of its own code must be named.
        inside = [
            path for path in sources() if path.name != "errors.py" and re.search(rf"\b{name}\b", path.read_text())
        ]
        assert makers or inside


def test_exit_codes_of_the_command_line() -> None:
    """The numbers that the how-tos name."""
    mismatch = errors.ServerIdentityMismatchError("")
    assert failures.exit_code(mismatch) == 3
    assert "exit code 3" in (ROOT / "docs" / "how-to" / "pins.md").read_text()


# --- configuration ----------------------------------------------------------------------------------------------------


def value(text: str) -> object:
    """A number with its unit, None, a list of tiers, or a word."""
    text = text.strip()
    if text == "None":
        return None
    if re.fullmatch(r"\{\d+(, \d+)*\}", text):
        return frozenset(map(int, re.findall(r"\d+", text)))
    if re.fullmatch(r"\d+: \d+(, \d+: \d+)*", text):
        return tuple(tuple(map(int, pair.split(":"))) for pair in text.split(","))
    number = re.fullmatch(r"(?:(\d+)\^)?(\d+(?:\.\d+)?) ?(s|ms|KiB|MiB|%)?", text)
    if not number:
        return text
    base, digits, unit = number.groups()
    scale = {None: 1, "s": 1.0, "ms": 0.001, "KiB": 1024, "MiB": 1 << 20, "%": 0.01}[unit]
    plain = int(base) ** int(digits) if base else float(digits) if "." in digits else int(digits)
    return plain * scale


def test_the_table_of_configuration_has_every_field_with_its_default() -> None:
    written = {row["field"]: value(row["default"]) for row in table(CONFIGURATION, "field")}
    assert list(written) == [field.name for field in dataclasses.fields(PhantomConfig)]
    assert written == {name: getattr(PhantomConfig(), name) for name in written}


@pytest.mark.parametrize("row", table(CONFIGURATION, "field"), ids=lambda row: row["field"])
def test_a_range_is_that_of_the_code(row: dict[str, str]) -> None:
    name, text = row["field"], row["range"]
    bounded = re.fullmatch(r"(.+?) … (.+?)(, or None)?", text)
    if bounded:
        low, high = value(bounded[1]), value(bounded[2])
        for inside in (low, high):
            # A frame must hold a chunk, so the two bounds cannot be tried one without the other.
            extra = {"frame_cap": limits.ABSOLUTE_FRAME_CAP} if name == "bulk_chunk" else {}
            extra |= {"bulk_chunk": limits.BULK_CHUNK_MIN} if name == "frame_cap" else {}
            PhantomConfig(**{name: inside} | extra)
        for outside in (low - 1, high + 1):  # type: ignore[operator]
            with pytest.raises(phantom.ConfigError):
                PhantomConfig(**{name: outside})
        if bounded[3]:
            PhantomConfig(**{name: None})
        else:
            with pytest.raises(phantom.PhantomError):
                PhantomConfig(**{name: None})
    elif name == "faketls_sni":
        assert text == "a host name"
    elif name == "load_tiers":
        with pytest.raises(phantom.ConfigError):
            PhantomConfig(load_tiers=((10, limits.MAX_CLIENT_POW_DIFFICULTY + 1),))
        assert str(limits.MAX_CLIENT_POW_DIFFICULTY) in text
    elif name == "qlog_dir":
        with pytest.raises(phantom.ConfigError):
            PhantomConfig(qlog_dir="")
    elif name.endswith(("_version", "_versions")):
        for choice in text.split(" or "):
            PhantomConfig(**{name: value(choice)})
        with pytest.raises(phantom.ConfigError):
            PhantomConfig(**{name: limits.VERSION_3})
    else:
        for word in text.split(", "):
            PhantomConfig(**{name: word})
        with pytest.raises(phantom.ConfigError):
            PhantomConfig(**{name: "another"})


def test_the_providers_are_those_there_are() -> None:
    (row,) = (row for row in table(CONFIGURATION, "field") if row["field"] == "provider")
    assert row["range"] == ", ".join(PROVIDER_NAMES)
    assert config.__doc__


@pytest.mark.parametrize("preset", ["mobile", "server", "iot"])
def test_a_preset_changes_what_the_table_says(preset: str) -> None:
    made, plain = getattr(PhantomConfig, preset)(), PhantomConfig()
    changed = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if getattr(made, field.name) != getattr(plain, field.name)
    }
    written = {}
    for row in table(CONFIGURATION, "field"):
        for part in filter(None, row["preset"].split(", ")):
            name, _, text = part.partition(" ")
            if name == preset:
                written[row["field"]] = value(text)
    assert {name: new for name, new in written.items() if new != getattr(plain, name)} == changed


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_the_constants_are_those_of_the_code() -> None:
    written = {
        code(row["constant"])[0]: value(row["value"]) for row in table(PROTOCOL, "constant") if code(row["constant"])
    }
    there = {name: found for name, found in vars(limits).items() if name.isupper()}
    for name, found in written.items():
        assert found == pytest.approx(there[name]) if isinstance(found, float) else found == there[name], name
    text = (PACKAGE / "limits.py").read_text()
    documented, _, of_the_sidecar = text.partition("# --- sidecar")
    names = re.findall(r"^([A-Z][A-Z0-9_]+): Final", documented, re.MULTILINE)
    assert [name for name in names if name not in written] == [], "add these to docs/protocol/PROTOCOL.md §16"
    assert of_the_sidecar


def test_the_flags_are_those_of_the_code() -> None:
    written = {code(row["flag"])[0]: int(row["bit"], 16) for row in table(PROTOCOL, "flag")}
    there = {name: bit for name, bit in vars(flags).items() if name.isupper() and bit & (bit - 1) == 0}
    assert written == there


def test_every_label_is_one_of_the_code() -> None:
    labels = [label for row in table(PROTOCOL, "label") for label in code(row["label"])]
    text = "".join(path.read_text() for path in sources("crypto"))
    assert [label for label in labels if f'"{label}"' not in text] == []
    assert set(re.findall(r'b?"(phantom-[a-z0-9-]+-v\d)"', text)) <= {
        *labels,
        *re.findall(r"phantom-[a-z0-9-]+-v\d", PROTOCOL.read_text()),
    }


async def test_the_sizes_are_those_of_a_real_handshake() -> None:
    sizes = {row["what"]: [int(part) for part in row["bytes"].split(", ")] for row in table(PROTOCOL, "what")}
    pair = await session_pair()
    handshake = pair.client.handshake
    assert [handshake.bytes_sent] == sizes["hello frame: least, most"][:1]
    assert [handshake.bytes_received] == sizes["server hello frame"]
    assert [handshake.bytes_sent + handshake.bytes_received] == sizes["whole handshake, no cookie demanded"]
    await pair.close()
    assert sizes["key package, ciphertext"] == [limits.KEY_PACKAGE_LEN, limits.CIPHERTEXT_LEN]
    assert sizes["verifying key: flat, encoded"] == [limits.VERIFYING_KEY_LEN, limits.VERIFYING_KEY_LEN + 4]
    assert sizes["signature: flat, encoded"] == [limits.SIGNATURE_LEN, messages.ENCODED_SIGNATURE_LEN]
    challenge = messages.PowChallenge(bytes(32), 4)
    retries = [(None, bytes(32)), (challenge, None), (challenge, bytes(32))]
    assert sizes["retry frame: cookie, challenge, both"] == [
        len(messages.HelloRetryRequest(*retry).encode()) for retry in retries
    ]
    reject = messages.ServerReject(messages.REJECT_BUSY, 2)
    assert sizes["reject frame, `Unsupported` frame"] == [len(reject.encode()), len(messages.UNSUPPORTED_FRAME)]
    overhead = ProtectionV2.overhead
    assert sizes["packet beyond its plaintext"] == [overhead]
    assert sizes["reliable segment beyond its data"] == [overhead + 4]
    assert sizes["WINDOW_UPDATE, PING"] == [overhead + len(frames.encode_window(0)), overhead]
    one, two = frames.encode_sack(1, [], 0), frames.encode_sack(1, [(3, 3)], 0)
    assert sizes["SACK of one range; each further range"] == [overhead + len(one), len(two) - len(one)]


def test_section_12_is_version_3() -> None:
    assert re.search(r"^## 12\. Version 3: resumption and early data$", PROTOCOL.read_text(), re.MULTILINE)


def test_every_section_that_the_source_cites_is_in_the_concordance() -> None:
    covered = {int(number) for row in table(PROTOCOL, "wire-native") for number in re.findall(r"§(\d+)", str(row))}
    cited: set[int] = set()
    for path in sources():
        for numbers in re.findall(r"wire-native §+([\d., §to-]+)", path.read_text()):
            cited |= {int(number) for number in re.findall(r"(?<![\d.])(\d+)", numbers)}
    assert cited <= covered
