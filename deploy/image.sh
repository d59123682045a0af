#!/bin/bash
# Makes a container image of a binary without a container engine: an OCI image layout as one tar file.
#
#   deploy/image.sh OUTPUT.tar NAME:TAG                  the driver: $TONNAGE_BIN, or target/release/tonnage
#   deploy/image.sh --binary PATH OUTPUT.tar NAME:TAG    any other binary
#
# The image holds the binary as /<its name>, which is the entry point, the shared libraries and the interpreter that it
# needs, each at its own path, the certificate authorities of this machine, and the user nonroot (65532). The same input gives
# the same bytes. The driver's labels say the workspace's version and the commit that is checked out; VERSION and REVISION say
# otherwise. Load it with `ctr -n k8s.io images import OUTPUT.tar`, or copy it with `skopeo copy oci-archive:OUTPUT.tar …`.
set -euo pipefail
export LC_ALL=C
umask 022

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 64
}

fail() {
  echo "image.sh: $*" >&2
  exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=${TONNAGE_BIN:-$here/target/release/tonnage}
while [ $# -gt 0 ]; do
  case $1 in
    --binary) [ $# -ge 2 ] || usage; binary=$2; shift 2 ;;
    --) shift; break ;;
    -*) usage ;;
    *) break ;;
  esac
done
[ $# -eq 2 ] || usage
output=$1 name=$2

[ -f "$binary" ] || fail "$binary is not there; build it with: cargo build --release --bin tonnage"
[[ ${name##*/} == *:* ]] || fail "$name has no tag; write NAME:TAG"
tag=${name##*:}
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] || fail "$tag is not a tag"

# Container runtimes know images by the full name, so `tonnage:1` is docker.io/library/tonnage:1 to them.
full_name() {
  local first=${1%%/*}
  if [[ $1 != */* ]]; then
    echo "docker.io/library/$1"
  elif [[ $first == *.* || $first == *:* || $first == localhost ]]; then
    echo "$1"
  else
    echo "docker.io/$1"
  fi
}

# e_machine of the ELF header (bytes 18 and 19).
architecture() {
  case $(od -An -tx1 -j18 -N2 "$1" | tr -d ' \n') in
    3e00) echo amd64 ;;
    b700) echo arm64 ;;
    *) fail "$1 is neither an x86-64 nor an AArch64 binary" ;;
  esac
}

# number FILE OFFSET BYTES: an unsigned number there.
number() { od -An "-tu$3" "-j$2" "-N$3" "$1" | tr -d ' \n'; }

# Whether a program header is PT_INTERP (3). Where they are, how long and how many: bytes 32, 54 and 56 of the ELF header.
is_dynamic() {
  local at length count
  at=$(number "$1" 32 8) length=$(number "$1" 54 2) count=$(number "$1" 56 2)
  for ((; count > 0; count--, at += length)); do
    [ "$(number "$1" "$at" 4)" -ne 3 ] || return 0
  done
  return 1
}

# Paths of the shared libraries and of the interpreter; none for a static binary. What ldd says of a foreign binary is the same.
libraries() {
  local said
  if ! said=$(ldd "$1" 2>&1); then
    [[ $said == *"not a dynamic executable"* || $said == *"statically linked"* ]] || fail "ldd $1: $said"
    if is_dynamic "$1"; then
      fail "$1 needs shared libraries of another machine or C library ($arch), which are not here: run this where it was built, build it static, or use deploy/Dockerfile"
    fi
    return 0
  fi
  [[ $said != *"not found"* ]] || fail "a library of $1 is missing here: $(grep 'not found' <<<"$said" | head -1 | xargs)"
  awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' <<<"$said" | sort -u
}

sha() { sha256sum "$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }

# Sorted, of one time and owner: the bytes depend on nothing but names and contents.
pack() {
  tar --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" .
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root layout=$work/layout
program=$(basename "$binary")
arch=$(architecture "$binary")
full=$(full_name "$name")

mkdir -p "$root"/{etc/ssl/certs,home/nonroot,tmp} "$layout/blobs/sha256"
install -m 0755 "$binary" "$root/$program"
libraries "$binary" >"$work/libraries"
while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  install -m 0755 "$(realpath "$library")" "$root$library"
done <"$work/libraries"
environment='"PATH=/"'
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
  environment+=',"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"'
  install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
END
cat >"$root/etc/group" <<'END'
root:x:0:
nonroot:x:65532:
END
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chmod 0755 "$root" "$root/home/nonroot"
chmod 1777 "$root/tmp"

# The same labels as in deploy/Dockerfile. Of another project's binary only the name is known.
labels='"org.opencontainers.image.title":"'$program'"'
if [ "$program" = tonnage ]; then
  of_workspace() { sed -n "/^\[workspace.package\]/,/^\$/s/^$1 = \"\(.*\)\"\$/\1/p" "$here/Cargo.toml"; }
  version=${VERSION:-$(of_workspace version)}
  revision=${REVISION:-$(git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)}
  for word in "$version" "$revision"; do
    [[ $word =~ ^[A-Za-z0-9._+-]+$ ]] || fail "'$word' is neither a version nor a revision"
  done
  labels+=',"org.opencontainers.image.description":"CSI driver that stages model weights from object storage on local disk"'
  labels+=',"org.opencontainers.image.source":"'$(of_workspace repository)'"'
  labels+=',"org.opencontainers.image.licenses":"'$(of_workspace license)'"'
  labels+=',"org.opencontainers.image.version":"'$version'","org.opencontainers.image.revision":"'$revision'"'
fi

# put FILE: moves it into the layout under its digest and prints the digest.
put() {
  local digest
  digest=$(sha "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  echo "$digest"
}

pack "$root" "$work/layer.tar"
diff_id=$(sha "$work/layer.tar")
gzip -n -6 "$work/layer.tar"
layer_size=$(size "$work/layer.tar.gz")
layer=$(put "$work/layer.tar.gz")

cat >"$work/config.json" <<END
{"architecture":"$arch","os":"linux","created":"1970-01-01T00:00:00Z","config":{"User":"65532:65532","Env":[$environment],"Entrypoint":["/$program"],"WorkingDir":"/","Labels":{$labels}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"deploy/image.sh"}]}
END
config_size=$(size "$work/config.json")
config=$(put "$work/config.json")

cat >"$work/manifest.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
END
manifest_size=$(size "$work/manifest.json")
manifest=$(put "$work/manifest.json")

echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
cat >"$layout/index.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"$arch","os":"linux"},"annotations":{"io.containerd.image.name":"$full","org.opencontainers.image.ref.name":"$tag"}}]}
END

# oci-layout stands first, for readers that guess the format from the first entry.
mkdir -p "$(dirname "$output")"
tar --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --sort=name -C "$layout" -cf "$work/image.tar" oci-layout index.json blobs
mv "$work/image.tar" "$output"
echo "$full $arch sha256:$manifest $output"
