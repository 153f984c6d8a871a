"""Builds libphantom into a prefix of its own: ``python -m bindings.c.build --prefix DIR`` (``make c PREFIX=DIR``).

The prefix holds everything but the standard library of the Python that built it: ``bin/python3`` with Phantom in it,
the library, header, pkg-config file, CMake package, man pages and examples. It may be moved, as a whole; what is built
from it finds the rest by its own place. It is made beside its final place and takes that place in one step.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "bindings" / "c"
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "phantom" / "__init__.py").read_text(), re.MULTILINE)[1]  # type: ignore[index]
SONAME = f"libphantom.so.{VERSION.partition('.')[0]}"
LIBRARY = f"libphantom.so.{VERSION}"
MARK = "share/phantom/build.json"
INSTALL_TOOLS = "sh bindings/c/install-tools.sh"

PKG_CONFIG = """\
prefix=${{pcfiledir}}/../..
libdir=${{prefix}}/lib
includedir=${{prefix}}/include

Name: phantom
Description: Post-quantum sessions to a pinned peer
Version: {version}
Libs: -L${{libdir}} -lphantom
Cflags: -I${{includedir}}
"""

CMAKE_CONFIG = """\
# phantom::phantom, wherever the prefix lies
get_filename_component(_phantom_prefix "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
if(NOT TARGET phantom::phantom)
  add_library(phantom::phantom SHARED IMPORTED)
  set_target_properties(phantom::phantom PROPERTIES
    IMPORTED_LOCATION "${{_phantom_prefix}}/lib/{library}"
    IMPORTED_SONAME "{soname}"
    INTERFACE_INCLUDE_DIRECTORIES "${{_phantom_prefix}}/include")
endif()
unset(_phantom_prefix)
"""

# before 1.0 a new minor version may change the interface
CMAKE_VERSION = """\
set(PACKAGE_VERSION "{version}")
set(PACKAGE_VERSION_COMPATIBLE FALSE)
if(PACKAGE_FIND_VERSION_MAJOR EQUAL {major} AND PACKAGE_FIND_VERSION_MINOR EQUAL {minor}
   AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""

INIT_CODE = """
from _phantom_c import ffi, lib
import phantom_c_runtime
phantom_c_runtime.start(ffi, lib, phantom_c_runtime.lend)
"""


def libpython() -> Path | None:
    """The shared library of the Python that runs this, as the linker finds it; None if it has none."""
    name = sysconfig.get_config_var("LDLIBRARY")
    for folder in (sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL")):
        if name and folder and name.endswith(".so") and Path(folder, name).exists():
            return Path(folder, name)
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    debian = Path("/usr/lib", multiarch, f"libpython{sysconfig.get_python_version()}.so")
    return debian if debian.exists() and sys.base_prefix == "/usr" else None


def missing() -> list[str]:
    """What the machine lacks to build, one line each."""
    lacks = []
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        lacks.append(f"a C compiler ({compiler})")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacks.append(f"the header files of Python {sysconfig.get_python_version()} (Python.h)")
    if libpython() is None:
        lacks.append(f"a shared library of Python {sysconfig.get_python_version()} (libpython, --enable-shared)")
    try:
        metadata.version("cffi")
    except metadata.PackageNotFoundError:
        lacks.append("the Python package cffi")
    return lacks


def closure(names: list[str]) -> list[metadata.Distribution]:
    """The installed distributions of ``names`` and of what they need."""
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return list(found.values())


def copy_distribution(distribution: metadata.Distribution, site: Path) -> None:
    """Its files below site-packages; scripts name their interpreter by its place and stay behind."""
    for file in distribution.files or ():
        if ".." in file.parts or file.suffix == ".pyc" or file.name in ("direct_url.json", "RECORD"):
            continue
        target = site.joinpath(*file.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.locate(), target)


def install_python(prefix: Path) -> Path:
    """An environment without pip and scripts, and with Phantom and the runtime in it; its site-packages."""
    venv.EnvBuilder(symlinks=False, with_pip=False).create(prefix)
    for path in (prefix / "bin").iterdir():
        if not path.name.startswith("python"):
            path.unlink()  # activation scripts name the place of the environment
    config = prefix / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("command")]
    config.write_text("\n".join(lines) + "\n")
    site = Path(next((prefix / "lib").glob("python3*")), "site-packages")
    for distribution in closure(["cryptography", "blake3", "cffi"]):
        copy_distribution(distribution, site)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "phantom", site / "phantom", ignore=ignored)
    about = site / f"phantom-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: phantom\nVersion: {VERSION}\n")
    shutil.copy2(ROOT / "LICENSE", about)
    (site / "phantom_c_runtime").mkdir()
    for source, target in [
        (HERE / "generated" / "phantom_c.py", site / "phantom_c.py"),
        *((path, site / "phantom_c_runtime" / path.name) for path in (HERE / "runtime").glob("*.py")),
    ]:
        text = source.read_text(encoding="utf-8").replace("bindings.c.runtime", "phantom_c_runtime")
        target.write_text(
            text.replace("bindings.c.generated.phantom_c", "phantom_c").replace(
                "from bindings.c.generated import", "import"
            ),
            encoding="utf-8",
        )
    # Not checked against their sources: a copy of the prefix may have other times of change.
    compileall.compile_dir(
        site,
        quiet=1,
        workers=0,
        stripdir=str(prefix),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return site


def install_library(prefix: Path, final: Path) -> None:
    """Compiles the library."""
    from cffi import FFI  # type: ignore[import-untyped]

    library = libpython()
    assert library is not None
    ffi = FFI()
    ffi.embedding_api("")
    ffi.cdef((HERE / "generated" / "phantom_cdef.h").read_text())
    ffi.cdef('extern "Python" int32_t phantom_rt_py_fini(int64_t timeout_ms);')
    ffi.embedding_init_code(INIT_CODE)
    ffi.set_source(
        "_phantom_c",
        '#include "runtime.c"\n#include "phantom_shims.c"\n',
        include_dirs=[str(HERE / "include"), str(HERE / "runtime"), str(HERE / "generated")],
        define_macros=[
            ("PHANTOM_BUILD", "1"),
            ("PHANTOM_PYTHON_DEFAULT", json.dumps(str(final / "bin" / "python3"))),
            ("PHANTOM_LIBPYTHON", json.dumps(os.path.basename(os.path.realpath(library)))),
        ],
        libraries=["dl", "pthread"],
        extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-fstack-protector-strong"],
        extra_link_args=[
            f"-Wl,-soname,{SONAME}",
            f"-Wl,--version-script={HERE / 'generated' / 'phantom.map'}",
            "-Wl,-z,nodelete,-z,defs,-z,relro,-z,now",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        ffi.compile(tmpdir=folder, target=LIBRARY)
        shutil.copy2(Path(folder, LIBRARY), prefix / "lib" / LIBRARY)
    (prefix / "lib" / SONAME).symlink_to(LIBRARY)
    (prefix / "lib" / "libphantom.so").symlink_to(SONAME)


def install_rest(prefix: Path) -> None:
    """Header, pkg-config file, CMake package, man pages, guide and examples."""
    major, minor = VERSION.split(".")[:2]
    values = {"version": VERSION, "library": LIBRARY, "soname": SONAME, "major": major, "minor": minor}
    for path, text in {
        "lib/pkgconfig/phantom.pc": PKG_CONFIG,
        "lib/cmake/phantom/phantomConfig.cmake": CMAKE_CONFIG,
        "lib/cmake/phantom/phantomConfigVersion.cmake": CMAKE_VERSION,
    }.items():
        target = prefix / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.format_map(values))
    shutil.copy2(HERE / "include" / "phantom.h", prefix / "include")
    if (HERE / "man").is_dir():
        shutil.copytree(HERE / "man", prefix / "share" / "man")
    shutil.copytree(
        HERE / "examples", prefix / "share" / "phantom" / "examples", ignore=shutil.ignore_patterns("build")
    )
    (prefix / "share" / "doc" / "phantom").mkdir(parents=True)
    for document in (HERE / "README.md", ROOT / "LICENSE"):
        shutil.copy2(document, prefix / "share" / "doc" / "phantom")
    (prefix / MARK).write_text(
        json.dumps({"version": VERSION, "python": sys.version.split()[0], "libpython": str(libpython())}, indent=2)
        + "\n"
    )


def build(final: Path) -> None:
    """Builds the prefix and lets it take the place of an older one."""
    if final.exists() and not (final / MARK).exists() and any(final.iterdir()):
        sys.exit(f"{final} is not empty and no prefix of Phantom's; it needs a folder of its own")
    final.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        new.chmod(0o755)
        install_python(new)
        install_library(new, final)
        install_rest(new)
        tried = subprocess.run([new / "bin" / "python3", "-I", "-c", "import phantom_c_runtime"], check=False)  # noqa: S603
        if tried.returncode:
            sys.exit("the runtime cannot be imported from the new prefix")
        if final.exists():
            shutil.rmtree(final)
        new.rename(final)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bindings.c.build", description="Builds libphantom into a prefix.")
    parser.add_argument("--prefix", type=Path, default=ROOT / "build" / "c", help="a folder of its own (build/c)")
    prefix = Path(os.path.abspath(parser.parse_args(arguments).prefix))
    if sys.platform != "linux":
        sys.exit("libphantom is built on Linux; elsewhere use Phantom from Python, or through the sidecar")
    if lacks := missing():
        sys.exit(
            "the C library cannot be built here. This machine lacks:\n  "
            + "\n  ".join(lacks)
            + f"\nOn Debian and Ubuntu: {INSTALL_TOOLS}"
        )
    build(prefix)
    print(f"built: {prefix}")  # noqa: T201


if __name__ == "__main__":
    main()
