#!/bin/sh
# Installs what Phantom for web pages is built and tested with, on Debian and Ubuntu, as root: Node 20 or newer with npm, and Chromium.
# Does nothing where all are there; the libraries come from the npm registry by npm itself.
set -eu

wanted=""
# Debian 12 packages Node 18, which is too old: a newer one has to be there already
version=$( (node --version 2>/dev/null || true) | sed -n 's/^v\([0-9]*\).*/\1/p')
[ -n "$version" ] || wanted="nodejs"
command -v npm >/dev/null 2>&1 || wanted="$wanted npm"
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 ||
    wanted="$wanted chromium"

if [ -n "$wanted" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "install-tools: missing: $wanted; as root: apt-get install $wanted" >&2
        exit 1
    fi
    echo "install-tools: installing $wanted"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # several words are meant
    apt-get install -y -qq --no-install-recommends $wanted >/dev/null
fi
version=$(node --version | sed -n 's/^v\([0-9]*\).*/\1/p')
if [ "$version" -lt 20 ]; then
    echo "install-tools: Node 20 or newer is needed, and this is $version" >&2
    exit 1
fi
