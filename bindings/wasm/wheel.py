"""The wheel that the worker unpacks: the rooms of ``phantom`` that a page can use, and ``phantom_browser``.

``write(folder)`` makes it. Same sources, same bytes: names are sorted and times are fixed.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import phantom

ROOT = Path(__file__).resolve().parents[2]
# Rooms for hosts with sockets, processes and files.
LEFT_OUT = ("cli", "server", "sidecar", "testing")
_TIME = (2020, 1, 1, 0, 0, 0)


def _sources() -> dict[str, bytes]:
    """Path in the wheel -> content."""
    found: dict[str, bytes] = {}
    for base, package in ((ROOT, "phantom"), (ROOT / "bindings/wasm/python", "phantom_browser")):
        for file in sorted((base / package).rglob("*.py")):
            name = file.relative_to(base)
            if package != "phantom" or name.parts[1] not in LEFT_OUT:
                found[name.as_posix()] = file.read_bytes()
    return found


def write(folder: Path) -> Path:
    """Writes the wheel into ``folder``; its path."""
    name = f"phantom_browser-{phantom.__version__}"
    info = f"{name}.dist-info"
    files = _sources()
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: phantom-browser\nVersion: {phantom.__version__}\nLicense: Apache-2.0\n".encode()
    )
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: phantom\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()

    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in files.items():
            member = zipfile.ZipInfo(path, _TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
    return wheel
