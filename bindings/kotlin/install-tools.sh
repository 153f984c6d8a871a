#!/bin/sh
# Installs what Phantom for Kotlin is built with, on Debian and Ubuntu, as root: a JDK 17 and Maven. Does nothing where both are there; the
# compiler and the libraries come from Maven Central by Maven itself.
set -eu

wanted=""
# a JDK that is too old does not count, and neither does a runtime without a compiler
version=$( (javac -version 2>&1 || true) | sed -n 's/^javac \(1\.\)\{0,1\}\([0-9]*\).*/\2/p')
[ "${version:-0}" -ge 17 ] || wanted="openjdk-17-jdk-headless"
command -v mvn >/dev/null 2>&1 || wanted="$wanted maven"

[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "install-tools: missing: $wanted; as root: apt-get install $wanted" >&2
    exit 1
fi
echo "install-tools: installing $wanted"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # several words are meant
apt-get install -y -qq --no-install-recommends $wanted >/dev/null
# certificates that were put on this machine by hand: the JDK keeps a list of its own
if command -v update-ca-certificates >/dev/null 2>&1; then update-ca-certificates --fresh >/dev/null 2>&1 || true; fi
