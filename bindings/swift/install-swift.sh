#!/bin/bash
# Brings the Swift toolchain and the gRPC C core: Debian trixie's packages, unpacked under a prefix of their own. Needs no root, no chroot and
# changes nothing else on the machine. Prints the prefix; `. PREFIX/env.sh` puts swift on PATH.
#
#   bindings/swift/install-swift.sh [PREFIX]    PREFIX is absolute and final, as its path is written into the programs in it.
#                                               Default: $PHANTOM_SWIFT_ROOT, else a folder in the user's cache.
#
# Does nothing where PREFIX is complete already. Status 0: it is there. 3: this machine cannot have it (not amd64, no apt, packages not to be
# had); the text says why, and the stages that need Swift are left out. Anything else: the script failed. About 560 MB down, 1.4 GB on disk.
set -euo pipefail

# These very versions, or none: another compiler or gRPC is a change to be made here, and tested.
PACKAGES=(swiftlang=6.0.3-2 libswiftlang=6.0.3-2 libgrpc-dev=1.51.1-6 libc6-dev libstdc++-14-dev patchelf)
SUITE=trixie
RECIPE=6.0.3-grpc-1.51.1-2 # names the folder: raise the last number with every change to what this script makes
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'install-swift: %s\n' "$*" >&2; }
cannot() {
  say "CANNOT: $*"
  exit 3
}

PREFIX=${1:-${PHANTOM_SWIFT_ROOT:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/phantom-swift/$RECIPE}}
[[ $PREFIX == /* ]] || {
  say "$PREFIX is not an absolute path"
  exit 2
}
if [[ -e $PREFIX/env.sh ]]; then
  echo "$PREFIX"
  exit
fi

[[ $(uname -sm) == "Linux x86_64" ]] || cannot "the packages are for Linux on x86_64; this is $(uname -sm). Take a toolchain of swift.org"
for tool in apt-get dpkg-deb tar flock; do
  command -v "$tool" >/dev/null || cannot "no $tool here: it takes a Debian or Ubuntu"
done
[[ -e $KEYRING ]] || cannot "no $KEYRING here: apt-get install debian-archive-keyring"
[[ -e /proc/self/exe ]] || cannot "/proc is not mounted, and the loader needs it"

mkdir -p "$PREFIX"
exec 9>"$PREFIX.lock"
flock 9 # two stages at once: the second finds what the first made
if [[ -e $PREFIX/env.sh ]]; then
  echo "$PREFIX"
  exit
fi
work=$(mktemp -d "$PREFIX.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# the mirror that this machine's apt uses
mirror=$(sed -n 's/^URIs:[[:space:]]*//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | awk 'NR == 1 { print $1 }')
[[ -n $mirror ]] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
[[ -n $mirror ]] || cannot "apt has no source that could be asked"

# apt with a state of its own: an empty status file makes it fetch everything that the packages need, and nothing of this machine's changes
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
: >"$work/status"
echo "deb [signed-by=$KEYRING] $mirror $SUITE main" >"$work/sources.list"
apt=(apt-get -q -y -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$work"
  -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
  -o APT::Sandbox::User= -o Debug::NoLocking=1 -o Acquire::Retries=2)
say "fetching Swift 6.0.3 and gRPC 1.51 into $PREFIX (about 560 MB)"
# apt calls a mirror that does not answer a warning: what counts is whether the packages are there
"${apt[@]}" update >"$work/log" 2>&1 || cannot "the package lists of $SUITE cannot be had: $(tail -n 3 "$work/log")"
"${apt[@]}" install --download-only --no-install-recommends "${PACKAGES[@]}" >"$work/log" 2>&1 ||
  cannot "the packages cannot be had: $(grep '^E:' "$work/log" | head -n 3)"

say "unpacking"
mkdir -p "$PREFIX"/usr/{bin,sbin,lib,lib64}
for folder in bin sbin lib lib64; do ln -sfn "usr/$folder" "$PREFIX/$folder"; done
# what is not needed to build and test: documentation, debugger, editors' servers, static and embedded libraries
printf './usr/%s\n' share/doc share/man share/locale 'libexec/swift/bin/lldb*' \
  libexec/swift/bin/{clangd,sourcekit-lsp,docc,swift-format} libexec/swift/lib/{'liblldb*','libsourcekitdInProc*','libLTO*'} \
  libexec/swift/lib/swift/embedded libexec/swift/lib/swift_static >"$work/skip"
for package in "$work"/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$PREFIX" --keep-directory-symlink --exclude-from="$work/skip"
  rm "$package"
done

# The programs take the loader and the libraries of the prefix instead of the machine's.
libraries=$PREFIX/usr/lib/x86_64-linux-gnu
programs=$PREFIX/usr/libexec/swift/bin
loader=$PREFIX/lib64/ld-linux-x86-64.so.2
patchelf() { "$loader" --library-path "$libraries" "$PREFIX/usr/bin/patchelf" "$@"; }
for file in "$programs"/*; do
  if [[ -L $file ]] || ! head -c 4 "$file" | grep -q ELF; then continue; fi
  patchelf --set-interpreter "$loader" --force-rpath \
    --set-rpath "\$ORIGIN/../lib/swift/linux:\$ORIGIN/../lib/swift/host:$libraries" "$file"
done
find "$PREFIX/usr/libexec/swift/lib" -type f -name '*.so*' | while read -r file; do
  before=$(patchelf --print-rpath "$file" 2>/dev/null) || continue
  patchelf --set-rpath "${before:+$before:}$libraries" "$file"
done
# Every link goes through clang, which reads this: what is built takes them, too. RPATH, not RUNPATH: it also holds for libraries of libraries.
# The linker is the toolchain's own: a machine without a compiler has none.
printf '%s\n' --sysroot="$PREFIX" -fuse-ld=lld -Wl,--dynamic-linker="$loader" -Wl,--disable-new-dtags -Wl,-rpath,"$libraries" \
  -Wno-unused-command-line-argument | tee "$programs/clang.cfg" >"$programs/clang++.cfg"

# shellcheck disable=SC1090,SC2016
printf 'export SDKROOT=%q PATH=%q:"$PATH"\n' "$PREFIX" "$programs" >"$work/env.sh"
(
  # shellcheck disable=SC1091
  . "$work/env.sh"
  HOME=$work swift --version >"$work/log" 2>&1
) || {
  say "the toolchain does not run: $(tail -n 3 "$work/log")"
  exit 1
}
mv "$work/env.sh" "$PREFIX/env.sh"
say "done: $(grep -m 1 "Swift version" "$work/log")"
echo "$PREFIX"
