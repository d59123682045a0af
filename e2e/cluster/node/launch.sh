# Starts a node: its directories, and init.sh as the first process of namespaces of their own. Sourced after env.sh.
# shellcheck shell=bash

# Makes $STATE and $LOG anew.
make_state() {
  rm -rf --one-file-system "$STATE" "$LOG"
  mkdir -p "$STATE"/{pki,etcd,kubelet,containerd,cni,images,run} "$LOG"
  touch "$STATE/.tonnage-cluster"
}

# Starts the first process in mount, net, pid, uts, ipc and cgroup namespaces of its own, and notes its pid.
spawn() {
  local outer pid
  (
    new_cgroup
    exec setsid unshare --mount --net --pid --uts --ipc --cgroup --fork --propagation private \
      bash "$HERE/init.sh" </dev/null >"$LOG/init.log" 2>&1
  ) &
  outer=$!
  # Before it is replaced, the subshell has other children, which are gone a moment later.
  until pid=$(pgrep -P "$outer" -f 'init\.sh$'); do
    kill -0 "$outer" 2>/dev/null || { cat "$LOG/init.log" >&2; die "the namespaces could not be made"; }
    sleep 0.1
  done
  printf '%s\n' "$pid" >"$STATE/init.pid"
}

# Returns when init.sh has started everything.
wait_until_started() {
  for _ in {1..600}; do
    if [[ -e $STATE/ready ]]; then return; fi
    init_pid >/dev/null || break
    sleep 0.2
  done
  tail -n 30 "$LOG"/{init,kube*}.log >&2 || true
  die "$NODE did not come up; its logs are in $LOG"
}
