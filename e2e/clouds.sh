#!/usr/bin/env bash
# The command line against every store that nobody here wrote: Versity gateway and SeaweedFS (S3), fake-gcs-server
# (GCS), Azurite (Azure), and local files. For each: a tree uploaded with the cloud's own client is pulled, equals the
# originals byte for byte, is fetched once and never again, and a changed file changes the revision, costs only itself,
# and is refused under the old pin by a cache that lacks the old bytes. Bytes on the wire are read from the
# kernel's counters of the server process. Needs no root.
#
# usage: e2e/clouds.sh [NAME]...       NAME: versity seaweed fake-gcs azurite local (default: all)
# TONNAGE_BIN, KUBELET_BIN: use these binaries instead of building them.
set -euo pipefail

# What a listing, a probe or a heartbeat may cost.
readonly SMALL=$((192 * 1024))
# Exit code where the source shows another revision than the one asked for.
readonly CONFLICT=76

case ${1:-} in -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit ;; esac
# shellcheck source=e2e/services.sh
source "$(dirname "${BASH_SOURCE[0]}")/services.sh"
open_work clouds
find_binaries

tree=$work/tree
mkdir -p "$tree/tokenizer" "$tree/many"
head -c 5242897 /dev/urandom >"$tree/model-00001-of-00002.safetensors"
head -c 1048576 /dev/urandom >"$tree/model-00002-of-00002.safetensors"
head -c 4097 /dev/urandom >"$tree/tokenizer/with space, +plus & ünïcode.json"
: >"$tree/empty"
for i in {1..40}; do printf 'small file %s\n' "$i" >"$tree/many/$i.txt"; done
size=$(find "$tree" -type f -printf '%s\n' | awk '{sum += $1} END {print sum}')

# Bytes that the server process has written so far: answers, its log, its own disk.
written() {
  if [[ -z ${pid:-} ]]; then echo 0; return; fi
  awk '$1 == "wchar:" {print $2}' "/proc/$pid/io"
}

pull() { # OPTION...
  "$tonnage" pull "$url" "${options[@]}" --cache-dir "$work/cache-$name" "$@"
}

resolve() {
  "$tonnage" resolve "$url" "${options[@]}" --quiet
}

upload() { # DIRECTORY
  if [[ $name == local ]]; then return; fi
  "$repository/e2e/servers.sh" put "$name" hub models/tiny "$1"
}

connect() {
  options=() pid=
  if [[ $name == local ]]; then
    url=file://$tree
    return
  fi
  start_server "$name"
  pid=$(server_value "$name" PID)
  local endpoint access secret
  endpoint=$(server_value "$name" ENDPOINT)
  access=$(server_value "$name" ACCESS_KEY)
  secret=$(server_value "$name" SECRET_KEY)
  case $(server_value "$name" KIND) in
    s3)
      url=s3://hub/models/tiny
      export AWS_ACCESS_KEY_ID=$access AWS_SECRET_ACCESS_KEY=$secret
      options=(--endpoint "$endpoint" --region "$(server_value "$name" REGION)")
      ;;
    gcs)
      url=gs://hub/models/tiny
      options=(--endpoint "$endpoint" --anonymous)
      ;;
    azure)
      url=az://$access/hub/models/tiny
      export AZURE_STORAGE_KEY=$secret
      options=(--endpoint "${endpoint%/"$access"}")
      ;;
  esac
}

try() { # NAME
  name=$1
  local before cold warm changed view pin later status
  connect
  upload "$tree"
  before=$(written)
  view=$(pull --quiet)
  cold=$(($(written) - before))
  diff -r "$tree" "$view"

  before=$(written)
  [[ $(pull --quiet) == "$view" ]] || die "$name: the second pull names another view"
  warm=$(($(written) - before))

  pin=$(resolve)
  pull --quiet --revision "$pin" >/dev/null
  printf 'changed\n' >"$tree/many/1.txt"
  install -D "$tree/many/1.txt" "$work/changed/many/1.txt"
  upload "$work/changed"
  later=$(resolve)
  [[ $later != "$pin" ]] || die "$name: a changed file left the revision as it was: $pin"
  # The pin still means the old bytes: a cache that has them serves them, one that has not refuses what is there now.
  [[ $(pull --quiet --revision "$pin") == "$view" ]] || die "$name: the pin no longer names its view"
  [[ $(<"$view/many/1.txt") == "small file 1" ]] || die "$name: a view changed"
  status=0
  "$tonnage" pull "$url" "${options[@]}" --cache-dir "$work/empty-$name" --revision "$pin" \
    >/dev/null 2>"$work/refused.log" || status=$?
  ((status == CONFLICT)) || die "$name: a changed source under its old pin ended with $status, not $CONFLICT"
  before=$(written)
  diff -r "$tree" "$(pull --quiet)"
  changed=$(($(written) - before))

  if [[ -n $pid ]]; then
    ((cold >= size)) || die "$name: the server wrote $cold bytes for a tree of $size: the counter does not see it"
    ((warm < SMALL)) || die "$name: the second pull cost $warm bytes"
    ((changed < SMALL)) || die "$name: one changed file of 8 bytes cost $changed bytes"
  fi
  say "$name: $size bytes in $(find "$tree" -type f | wc -l) files are equal;" \
    "on the wire: first pull $cold, second $warm, after a change $changed"
  if [[ -n $pid ]]; then "$repository/e2e/servers.sh" stop "$name"; fi
}

if (($# == 0)); then set -- versity seaweed fake-gcs azurite local; fi
for one in "$@"; do
  printf 'small file 1\n' >"$tree/many/1.txt"
  try "$one"
done
