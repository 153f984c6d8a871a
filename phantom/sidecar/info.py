"""What this installation is. Imports nothing outside the standard library, so that the command line can ask too."""

from __future__ import annotations

from importlib import metadata, util
from typing import Final

__all__ = ["installed_extras", "package_version"]

# extra -> the module whose presence means that it is installed
_MODULES: Final = {"cli": "typer", "pqcrypto": "pqcrypto", "sidecar": "grpc", "uvloop": "uvloop"}


def package_version() -> str:
    """The version of the package, such as 0.2.0."""
    return metadata.version("phantom")


def installed_extras() -> list[str]:
    """The optional parts that are installed, by the names of their extras."""
    return [extra for extra, module in _MODULES.items() if util.find_spec(module) is not None]
