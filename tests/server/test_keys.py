"""The server's key file: made once, read afterwards, never replaced."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.errors import ConfigError
from phantom.server import keys
from phantom.server.keys import load_or_create, state_key_file


def seed(key: HybridSigningKey) -> bytes:
    with key:
        return bytes(key.to_bytes())


def test_a_missing_key_is_made_with_its_parents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a" / "b" / "signing.key"
    made = seed(load_or_create(path))
    assert path.read_bytes() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_key_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    assert seed(load_or_create(path)) == seed(load_or_create(path))


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (b"", 0o600, "does not hold exactly 64 bytes"),
        (bytes(63), 0o600, "does not hold exactly 64 bytes"),
        (bytes(65), 0o600, "does not hold exactly 64 bytes"),
        (bytes(64), 0o644, "open to other users"),
        (bytes(64), 0o660, "open to other users"),
    ],
    ids=["empty", "short", "long", "world-readable", "group-writable"],
)
def test_a_bad_key_is_fatal_and_left_alone(tmp_path: Path, content: bytes, mode: int, complaint: str) -> None:
    path = tmp_path / "signing.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=complaint):
        load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_that_is_a_folder_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_or_create(tmp_path)


def test_a_dangling_link_is_fatal(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_or_create(path)
    assert not (tmp_path / "gone").exists()


def test_a_file_in_place_of_the_parent_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file. (exists|cannot be written)"):
        load_or_create(tmp_path / "file" / "signing.key")


def test_a_folder_that_cannot_be_searched_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key in it may be there: a new one beside it would be another identity."""

    def refuse(self: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    path = tmp_path / "signing.key"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_or_create(path)


def test_the_faster_of_two_servers_makes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "signing.key"
    theirs = HybridSigningKey.generate()
    real = HybridSigningKey.generate

    def generate() -> HybridSigningKey:
        theirs.write_file(path)
        return real()

    monkeypatch.setattr(keys.HybridSigningKey, "generate", generate)
    assert seed(load_or_create(path)) == seed(theirs)


class TestWithoutAPath:
    def test_the_system_key_comes_first(self, tmp_path: Path) -> None:
        system, state = tmp_path / "etc" / "signing.key", tmp_path / "state" / "signing.key"
        made = seed(load_or_create(None, system=system, state=state))
        assert system.read_bytes() == made
        assert seed(load_or_create(None, system=system, state=state)) == made
        assert not state.exists()

    def test_the_users_key_is_second_with_a_notice(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "etc").write_text("no folder")
        system, state = tmp_path / "etc" / "signing.key", tmp_path / "state" / "signing.key"
        with caplog.at_level(logging.INFO):
            made = seed(load_or_create(None, system=system, state=state))
        assert state.read_bytes() == made
        assert f"using {state}" in caplog.text
        assert seed(load_or_create(None, system=system, state=state)) == made

    def test_a_bad_system_key_is_fatal(self, tmp_path: Path) -> None:
        system, state = tmp_path / "signing.key", tmp_path / "state.key"
        system.write_bytes(b"short")
        system.chmod(0o600)
        with pytest.raises(ConfigError):
            load_or_create(None, system=system, state=state)
        assert not state.exists()

    def test_the_state_folder_is_the_users(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert state_key_file({"XDG_STATE_HOME": "/x"}) == Path("/x/phantom/signing.key")
        assert state_key_file({"XDG_STATE_HOME": "relative"}) == Path.home() / ".local/state/phantom/signing.key"
        assert state_key_file({}) == Path.home() / ".local/state/phantom/signing.key"

    def test_the_state_folder_is_found_by_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        (tmp_path / "etc").write_text("no folder")
        load_or_create(None, system=tmp_path / "etc" / "signing.key").close()
        assert (tmp_path / "phantom" / "signing.key").exists()


@pytest.mark.parametrize("path", [keys.SYSTEM_KEY_FILE])
def test_the_system_path_is_absolute(path: Path) -> None:
    assert path.is_absolute()
