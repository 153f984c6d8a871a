"""What this installation is."""

from __future__ import annotations

import subprocess
import sys

import phantom
from phantom.sidecar import info


def test_version() -> None:
    assert info.package_version() == phantom.__version__


def test_extras_are_those_whose_modules_are_there() -> None:
    assert "sidecar" in info.installed_extras()
    assert set(info.installed_extras()) <= {"cli", "pqcrypto", "sidecar", "uvloop"}


def test_asking_imports_no_extra() -> None:
    code = "import sys, phantom.sidecar.info; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
