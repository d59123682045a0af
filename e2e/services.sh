# Sourced by the end-to-end scripts: builds the binaries, starts the real node and controller services in a
# private mount namespace with a real S3 server behind them, and checks at the end that nothing is left.
#
# Every script works in its own directory below ${TONNAGE_E2E_DIR:-<repository>/.e2e}, removed when it ends well
# and kept, with the logs, when it does not. Only processes started here are ended, each by its pid.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
base=${TONNAGE_E2E_DIR:-$repository/.e2e}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tonnage-e2e
# shellcheck disable=SC2034 # read by the scripts that source this
readonly repository base cache

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Runs the calling script again in a mount namespace of its own, so that whatever goes wrong, no mount is left
# on the machine. The bytes on disk are in $work either way.
enter_private_namespace() { # ARGUMENT...
  if [[ ${TONNAGE_E2E_NAMESPACE:-} == private ]]; then return; fi
  ((EUID == 0)) || die "needs root: it makes real mounts (in a private mount namespace)"
  export TONNAGE_E2E_NAMESPACE=private
  exec unshare --mount --propagation private -- "$0" "$@"
}

# Makes $work and sets the trap that takes everything down.
open_work() { # NAME
  work=$base/$1.$$
  mkdir -p "$work"
  export TONNAGE_E2E_DIR=$work
  pids=() servers=()
  trap close_work EXIT
  trap 'exit 130' INT TERM
}

close_work() {
  local status=$? pid name
  trap - EXIT
  for pid in "${pids[@]}"; do end "$pid"; done
  for name in "${servers[@]}"; do "$repository/e2e/servers.sh" stop "$name"; done
  if ((status == 0)); then
    rm -rf "$work"
    if [[ -d $base ]]; then rmdir --ignore-fail-on-non-empty "$base"; fi
  else
    show_logs >&2
    say "$(basename "$0"): failed; logs are kept in $work" >&2
  fi
  exit "$status"
}

show_logs() {
  local log
  for log in "$work"/*.log; do
    if [[ -s $log ]]; then
      say "--- the last lines of $(basename "$log"):"
      tail -n 25 "$log"
    fi
  done
}

# Ends a process of ours: TERM, then KILL after 20 s.
end() { # PID
  if ! kill -0 "$1" 2>/dev/null; then return 0; fi
  kill -TERM "$1"
  for _ in {1..200}; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  say "pid $1 did not stop within 20 s" >&2
  kill -KILL "$1"
}

# Sets $tonnage and $kubelet; TONNAGE_BIN and KUBELET_BIN name binaries that are built already.
find_binaries() {
  tonnage=${TONNAGE_BIN:-} kubelet=${KUBELET_BIN:-}
  if [[ -z $tonnage || -z $kubelet ]]; then
    local target
    target=$(cd "$repository" && cargo metadata --format-version 1 --no-deps \
      | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    (cd "$repository" && cargo build --quiet --release --workspace --bin tonnage --bin kubelet)
    tonnage=${tonnage:-$target/release/tonnage}
    kubelet=${kubelet:-$target/release/kubelet}
  fi
  [[ -x $tonnage && -x $kubelet ]] || die "no binary at $tonnage or $kubelet"
}

start_server() { # NAME
  "$repository/e2e/servers.sh" start "$1"
  servers+=("$1")
}

server_value() { # NAME KEY
  "$repository/e2e/servers.sh" env "$1" | sed -n "s/^$2=//p"
}

# Starts node and controller with the source "models" in BUCKET of the running server NAME.
start_services() { # NAME BUCKET
  local kubelet_dir=$work/kubelet
  mkdir -p "$kubelet_dir" "$work/run" "$work/cache" "$work/volumes" "$work/secret"
  # As on a node: kubelet's directory is a shared mount, so that mounts made below it are seen by others.
  mount --bind "$kubelet_dir" "$kubelet_dir"
  mount --make-shared "$kubelet_dir"
  server_value "$1" ACCESS_KEY >"$work/secret/access-key"
  server_value "$1" SECRET_KEY >"$work/secret/secret-key"
  chmod 0600 "$work"/secret/*
  cat >"$work/sources.toml" <<EOF
[[source]]
name = "models"
url = "s3://$2"
endpoint = "$(server_value "$1" ENDPOINT)"
region = "$(server_value "$1" REGION)"
addressing = "path"
auth = "files"
access_key_file = "$work/secret/access-key"
secret_key_file = "$work/secret/secret-key"
allow_http = true
allow_loopback = true
EOF
  "$tonnage" controller --endpoint "unix://$work/run/controller.sock" --sources "$work/sources.toml" \
    --volumes-dir "$work/volumes" >"$work/controller.log" 2>&1 &
  controller_pid=$!
  "$tonnage" node --endpoint "unix://$work/run/node.sock" --sources "$work/sources.toml" \
    --cache-dir "$work/cache" --kubelet-dir "$kubelet_dir" --node-id "node-$$" >"$work/node.log" 2>&1 &
  node_pid=$!
  pids+=("$controller_pid" "$node_pid")
  "$kubelet" wait --socket "$work/run/controller.sock" >/dev/null
  "$kubelet" wait --socket "$work/run/node.sock" >/dev/null
}

# Stops the services as a node would, then fails if a mount, a target, a volume record or a temporary file is left.
stop_services_and_check() {
  local left
  left=$(awk -v below="$work/kubelet/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo)
  [[ -z $left ]] || die "still mounted: $left"
  left=$(find "$work/kubelet" "$work/volumes" -mindepth 1 -type f -o -mindepth 1 -path "$work/kubelet/*")
  [[ -z $left ]] || die "left behind: $left"
  end "$node_pid"
  end "$controller_pid"
  wait "$node_pid" || die "node ended with status $?"
  wait "$controller_pid" || die "controller ended with status $?"
  pids=()
  umount "$work/kubelet"
  left=$(awk -v below="$work" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo)
  [[ -z $left ]] || die "still mounted: $left"
  # What the cache keeps is content: objects, part tables, manifests, views. Nothing half done.
  left=$(find "$work"/cache/{tmp,trash,partial,quarantine} -type f)
  [[ -z $left ]] || die "temporary files are left in the cache: $left"
}
