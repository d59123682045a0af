#!/usr/bin/env bash
# Images where there is no registry, as docker archives of local static files:
#   images.sh DIRECTORY                      what the cluster needs first: the sandbox's, and one with busybox
#   images.sh DIRECTORY NAME:TAG PROGRAM     one with busybox and a program
set -euo pipefail
out=$1
mkdir -p "$out"

image() { # NAME ENTRYPOINT-JSON [PROGRAM]
  local work applet
  work=$(mktemp -d)
  mkdir -p "$work"/root/{bin,tmp,etc}
  chmod 1777 "$work/root/tmp"
  cp "$(command -v busybox)" "${@:3}" "$work/root/bin/"
  # The list names busybox itself: linked to itself it would be a loop.
  for applet in $("$work/root/bin/busybox" --list | grep -vx busybox); do ln -s busybox "$work/root/bin/$applet"; done
  printf 'root:x:0:0::/:/bin/sh\n' >"$work/root/etc/passwd"
  tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$work/root" -cf "$work/layer.tar" .
  printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Entrypoint":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$2" "$(sha256sum "$work/layer.tar" | cut -d' ' -f1)" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" >"$work/manifest.json"
  tar -C "$work" -cf "$out/${1//[\/:]/-}.tar" manifest.json config.json layer.tar
  rm -rf "$work"
}

# busybox of the package "busybox" is linked to the C library, which is not in the image.
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
  printf 'images.sh: busybox is not static: apt-get install busybox-static\n' >&2
  exit 1
fi
if (($# > 1)); then
  if ldd "$3" >/dev/null 2>&1; then
    printf 'images.sh: %s is not static, and nothing of what it is linked to is in the image\n' "$3" >&2
    exit 1
  fi
  image "$2" "[\"/bin/$(basename "$3")\"]" "$3"
else
  image local/pause:1 '["/bin/busybox","sleep","infinity"]'
  image local/busybox:1 '["/bin/sh"]'
fi
