# Directories of a node of the cluster, and the cgroup that it lives in. Sourced by the scripts beside it. Each TONNAGE_E2E_DIR has
# a cluster of its own, and they run side by side. TONNAGE_E2E_NODE says which node is meant: node1, which every cluster has, or
# node2 (node2.sh).
# shellcheck shell=bash
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tonnage-e2e
BIN=$(realpath -m "$cache/cluster/bin")
CLUSTER=$(realpath -m "${TONNAGE_E2E_DIR:-$HERE/../../../.e2e}/cluster") # up.sh makes it anew; on a real file system
NODE=${TONNAGE_E2E_NODE:-node1}

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Logs of all nodes are in one place, so that who keeps them keeps all.
case $NODE in
  node1) STATE=$CLUSTER LOG=$CLUSTER/log ADDRESS=10.10.0.1 PODS=10.244.0.0/24 ;;
  node2) STATE=$CLUSTER/node2 LOG=$CLUSTER/log/node2 ADDRESS=10.10.0.2 PODS=10.244.1.0/24 ;;
  *) die "TONNAGE_E2E_NODE is $NODE: the nodes are node1 and node2" ;;
esac
CG=tonnage-e2e-$(printf '%s' "$STATE" | cksum | cut -d' ' -f1) # the cgroup's name, below the caller's own
export HERE BIN STATE LOG NODE ADDRESS PODS

# Makes the node's cgroup in every hierarchy, notes it in $STATE/cgroups and moves this shell there.
new_cgroup() {
  local id controllers path dir control root=/sys/fs/cgroup
  if [[ $(stat -fc %T $root) == cgroup2fs ]]; then
    for control in $(<$root/cgroup.controllers); do printf '+%s' "$control" >$root/cgroup.subtree_control; done
    mkdir -p "$root/$CG"
    printf '%s\n' "$root/$CG" >"$STATE/cgroups"
  else
    # Version 1: below the caller's own. The list is read as a whole first: reading it line by line while moving garbles it.
    while IFS=: read -r id controllers path; do
      controllers=${controllers#name=}
      [[ -n $controllers && -d $root/$controllers ]] || continue
      dir=$root/$controllers${path%/}/$CG
      mkdir -p "$dir"
      printf '%s\n' "$dir" >>"$STATE/cgroups"
      # A new cpuset is empty, and nothing can move into an empty one.
      if [[ $controllers == cpuset ]]; then
        for control in cpuset.cpus cpuset.mems; do cat "$dir/../$control" >"$dir/$control"; done
      fi
    done <<<"$(</proc/self/cgroup)"
  fi
  join_cgroup
}

# Moves this shell into the node's cgroup. The noted paths are joined, not ones worked out again: a later shell may sit
# in another cgroup than the one that started the node. $$ in a subshell would be the parent.
join_cgroup() {
  local dir
  while read -r dir; do
    if [[ -d $dir/init ]]; then dir=$dir/init; fi
    printf '%s\n' "$BASHPID" >"$dir/cgroup.procs"
  done <"$STATE/cgroups"
}

# The node's first process, if it runs; a recycled pid is never taken for it.
init_pid() {
  local pid
  [[ -s $STATE/init.pid ]] || return 1
  pid=$(<"$STATE/init.pid")
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$HERE/init.sh" || return 1
  printf '%s\n' "$pid"
}
