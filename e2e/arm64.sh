#!/usr/bin/env bash
# The driver on arm64, from a machine that is none: cross-compiled with Debian's compiler and run by QEMU. Content is hashed by other
# instructions there (NEON), and system calls have other numbers and structures: so the cache's own tests run, and the command line pulls
# from a real S3 server and from local files (e2e/clouds.sh). Needs a rustup toolchain, and root only to install what is missing.
#
# usage: e2e/arm64.sh            about ten minutes on two cores
# Output: ${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu (safe to delete)
set -euo pipefail

readonly TARGET=aarch64-unknown-linux-gnu SYSROOT=/usr/aarch64-linux-gnu

case ${1:-} in -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64-static >/dev/null || [[ ! -e $SYSROOT/lib/libc.so.6 ]]; then
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static >/dev/null
fi
rustup target add "$TARGET"

export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L $SYSROOT"
cargo test --locked --target "$TARGET" --package tonnage-cache --lib
cargo build --locked --target "$TARGET" --package tonnage-csi --bin tonnage

# What runs the program as if it were this machine's.
built=$(cargo metadata --format-version 1 --no-deps --locked \
  | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/$TARGET/debug
printf '#!/bin/sh\nexec qemu-aarch64-static -L %q %q "$@"\n' "$SYSROOT" "$built/tonnage" >"$built/tonnage-in-qemu"
chmod 0755 "$built/tonnage-in-qemu"
TONNAGE_BIN=$built/tonnage-in-qemu KUBELET_BIN=/bin/false e2e/clouds.sh versity local
