#!/bin/sh
# Installs what the C library is built and tested with, on Debian and Ubuntu, as root: compilers, CMake, pkg-config, valgrind, and, where the
# Python that builds is Debian's own, its header files and shared library. Does nothing where everything is there. PYTHON=... names the Python.
set -eu
PYTHON=${PYTHON:-python3}

wanted=""
need() { # command, package
    command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
}
need cc gcc
need c++ g++
need make make
need cmake cmake
need pkg-config pkg-config
need valgrind valgrind
need readelf binutils
echo '#include <pthread.h>' | cc -fsyntax-only -x c - 2>/dev/null || wanted="$wanted libc6-dev"

# "yes" where this Python brings header files and a shared library; else the Debian packages for it, if it is Debian's
python=$("$PYTHON" - <<'END'
import os, sys, sysconfig
variable = sysconfig.get_config_var
header = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
names = [(variable("LIBDIR"), variable("LDLIBRARY")), (variable("LIBPL"), variable("LDLIBRARY"))]
names.append((f"/usr/lib/{variable('MULTIARCH')}", f"libpython{sysconfig.get_python_version()}.so"))
shared = any(f and n and n.endswith(".so") and os.path.exists(os.path.join(f, n)) for f, n in names)
if header and shared:
    print("yes")
elif sys.base_prefix == "/usr":
    print("python3-dev python3-venv libpython3-dev")
else:
    print("no")
END
)
case $python in
yes) ;;
no)
    echo "install-tools: $PYTHON brings no shared library or header files (it must be built with --enable-shared)" >&2
    echo "install-tools: name another one, for instance Debian's: make c PYTHON=/usr/bin/python3" >&2
    exit 1
    ;;
*) wanted="$wanted $python" ;;
esac

[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "install-tools: missing:$wanted; as root: apt-get install$wanted" >&2
    exit 1
fi
echo "install-tools: installing$wanted"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # several words are meant
apt-get install -y -qq --no-install-recommends $wanted >/dev/null
