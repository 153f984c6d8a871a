"""The private directory, the lock, the socket's place and the token (surface §15)."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from phantom.errors import AccessDeniedError, ConfigError, NetworkError
from phantom.sidecar import access


def test_runtime_directory_follows_the_session_manager() -> None:
    assert access.default_socket({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/phantom/sidecar.sock")


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_without_one_each_user_has_a_directory_of_their_own(value: str) -> None:
    expected = Path(tempfile.gettempdir(), f"phantom-{os.getuid()}")
    assert access.runtime_directory({"XDG_RUNTIME_DIR": value}) == expected


def test_runtime_directory_without_user_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_POSIX", False)
    assert access.runtime_directory({}) == Path(tempfile.gettempdir(), "phantom")


def test_token_lies_beside_the_socket() -> None:
    assert access.token_path("unix:/run/x/s.sock") == Path("/run/x/s.sock.token")
    assert access.token_path("127.0.0.1:81", {"XDG_RUNTIME_DIR": "/run"}) == Path("/run/phantom/tcp-81.token")


# --- the directory ----------------------------------------------------------------------------------------------------


def test_directory_is_made_private(home: Path) -> None:
    before = os.umask(0)
    try:
        access.make_private_directory(home / "run")
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
    access.make_private_directory(home / "run")


def test_directory_without_a_parent(home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made: No such file"):
        access.make_private_directory(home / "a" / "b")


def test_directory_that_is_absent(home: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        access.check_private_directory(home / "absent")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701, 0o740, 0o1777])
def test_directory_that_others_can_enter(home: Path, mode: int) -> None:
    path = home / "open"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        access.make_private_directory(path)


def test_symbolic_link_to_a_private_directory(home: Path) -> None:
    (home / "real").mkdir(mode=0o700)
    (home / "link").symlink_to(home / "real")
    with pytest.raises(ConfigError, match="not a directory"):
        access.make_private_directory(home / "link")


def test_file_in_place_of_the_directory(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        access.make_private_directory(home / "file")


def test_directory_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "theirs").mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        access.check_private_directory(home / "theirs")


def test_parent_that_others_can_write_to(home: Path) -> None:
    (home / "inner").mkdir(mode=0o700)
    home.chmod(0o777)
    with pytest.raises(ConfigError, match="can write to"):
        access.check_private_directory(home / "inner")
    home.chmod(0o1777)  # like /tmp: others may write, but not rename
    access.check_private_directory(home / "inner")


def test_modes_mean_nothing_where_there_are_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_POSIX", False)
    home.chmod(0o777)
    access.check_private_directory(home)


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_second_holder_is_told_who_has_it(home: Path) -> None:
    path = home / "s.sock.lock"
    with access.lock(path, "s.sock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with (
            pytest.raises(NetworkError, match=rf"another sidecar \(pid {os.getpid()}\) serves s\.sock"),
            access.lock(path, "s.sock"),
        ):
            pass
    with access.lock(path, "s.sock"):  # the file stayed and can be locked again
        pass


def test_holder_that_wrote_nothing(home: Path) -> None:
    path = home / "lock"
    with access.lock(path, "s.sock"):
        os.truncate(path, 0)
        with pytest.raises(NetworkError, match="another sidecar serves"), access.lock(path, "s.sock"):
            pass


@pytest.mark.slow
def test_lock_of_a_process_that_was_killed(home: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from phantom.sidecar import access\n"
        f"with access.lock(Path({str(home / 'lock')!r}), 's'):\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(NetworkError, match=f"pid {holder.pid}"), access.lock(home / "lock", "s"):
            pass
        holder.kill()
    with access.lock(home / "lock", "s"):
        pass


def test_lock_file_that_is_a_link(home: Path) -> None:
    (home / "lock").symlink_to(home / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be opened"), access.lock(home / "lock", "s.sock"):
        pass
    assert not (home / "elsewhere").exists()


# --- the place of the socket ------------------------------------------------------------------------------------------


def test_path_that_is_too_long() -> None:
    access.check_socket_path(Path("/tmp", "x" * 90))
    with pytest.raises(ConfigError, match="shorter"):
        access.check_socket_path(Path("/tmp", "x" * 110))


def test_stale_socket_is_removed(home: Path) -> None:
    path = home / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    access.remove_stale_socket(path)
    assert not path.exists()
    access.remove_stale_socket(path)  # nothing there: nothing to do


def test_socket_that_somebody_listens_on_is_left_alone(home: Path) -> None:
    path = home / "s.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(NetworkError, match="another program listens"):
            access.remove_stale_socket(path)
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo"])
def test_anything_but_a_socket_is_left_alone(home: Path, kind: str) -> None:
    path = home / "s.sock"
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(home / "target")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a socket"):
        access.remove_stale_socket(path)
    assert os.path.lexists(path)


def test_umask_is_narrow_inside_and_restored_after(home: Path) -> None:
    before = os.umask(0o022)
    try:
        with access.narrow_umask():
            (home / "inside").touch()
        (home / "outside").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "inside").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "outside").stat().st_mode) == 0o644


# --- the token --------------------------------------------------------------------------------------------------------


def test_token_is_fresh_private_and_removed(home: Path) -> None:
    path = home / "token"
    first = access.Token.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == first.value + b"\n"
    assert len(bytes.fromhex(first.value.decode())) == 32
    second = access.Token.create(path)
    assert second.value != first.value
    first.remove()  # a later sidecar wrote another: not ours to remove
    assert path.exists()
    second.remove()
    second.remove()
    assert list(home.iterdir()) == []


def test_token_is_not_in_its_repr(home: Path) -> None:
    token = access.Token.create(home / "token")
    assert token.value.decode() not in repr(token)


def test_token_that_cannot_be_written(home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        access.Token.create(home / "absent" / "token")


def test_header_must_be_exact(home: Path) -> None:
    token = access.Token.create(home / "token")
    text = token.value.decode()
    assert token.allows(f"Bearer {text}")
    assert token.allows(b"Bearer " + token.value)
    for wrong in (
        "",
        text,
        f"bearer {text}",
        f"Bearer {text} ",
        f"Bearer {text[:-1]}",
        "Bearer " + "0" * 64,
        "Bearer é",
    ):
        assert not token.allows(wrong)


def test_users_own_token_file_is_used_and_kept(home: Path) -> None:
    path = home / "run" / "token"
    made = access.Token.use(path)
    made.remove()
    assert not path.exists()
    path.write_text("aB" * 32)
    path.chmod(0o600)
    used = access.Token.use(path)
    assert used.value == b"aB" * 32
    used.remove()
    assert path.exists()


def _unusable(path: Path, kind: str) -> None:
    path.write_text("ab" * 32)
    path.chmod(0o600)
    if kind == "open to the group":
        path.chmod(0o640)
    elif kind == "open to all":
        path.chmod(0o604)
    elif kind == "a link":
        path.rename(path.with_name("real"))
        path.symlink_to(path.with_name("real"))
    elif kind == "a directory":
        path.unlink()
        path.mkdir()
    elif kind == "a fifo":
        path.unlink()
        os.mkfifo(path, 0o600)
    elif kind == "too short":
        path.write_text("ab" * 31)
    elif kind == "too long":
        path.write_text("ab" * 33)
    elif kind == "not hexadecimal":
        path.write_text("zz" * 32)
    elif kind == "absent":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("open to the group", "chmod 600"),
        ("open to all", "chmod 600"),
        ("a link", "cannot be opened"),
        ("a directory", "not a regular file"),
        ("a fifo", "not a regular file"),
        ("too short", "64 hexadecimal"),
        ("too long", "64 hexadecimal"),
        ("not hexadecimal", "64 hexadecimal"),
        ("absent", "is the sidecar running"),
    ],
)
def test_token_file_that_cannot_be_trusted(home: Path, kind: str, text: str) -> None:
    _unusable(home / "token", kind)
    with pytest.raises(AccessDeniedError, match=text) as caught:
        access.read_token(home / "token")
    assert "ab" * 31 not in str(caught.value)


def test_token_file_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access.Token.create(home / "token")
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(AccessDeniedError, match="must belong to you"):
        access.read_token(home / "token")
