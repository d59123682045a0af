# Directories of the cluster, and the cgroup that it lives in. Sourced by the scripts beside it. Each TONNAGE_E2E_DIR has a
# cluster of its own, and they run side by side.
# shellcheck shell=bash
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tonnage-e2e
BIN=$(realpath -m "$cache/cluster/bin")
STATE=$(realpath -m "${TONNAGE_E2E_DIR:-$HERE/../../../.e2e}/cluster") # up.sh makes it anew; on a real file system
CG=tonnage-e2e-$(printf '%s' "$STATE" | cksum | cut -d' ' -f1)         # the cgroup's name, below the caller's own
export HERE BIN STATE

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Makes the cluster's cgroup in every hierarchy, notes it in $STATE/cgroups and moves this shell there.
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

# Moves this shell into the cluster's cgroup. The noted paths are joined, not ones worked out again: a later shell may sit
# in another cgroup than the one that started the cluster. $$ in a subshell would be the parent.
join_cgroup() {
  local dir
  while read -r dir; do
    if [[ -d $dir/init ]]; then dir=$dir/init; fi
    printf '%s\n' "$BASHPID" >"$dir/cgroup.procs"
  done <"$STATE/cgroups"
}

# The cluster's first process, if it runs; a recycled pid is never taken for it.
init_pid() {
  local pid
  [[ -s $STATE/init.pid ]] || return 1
  pid=$(<"$STATE/init.pid")
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$HERE/init.sh" || return 1
  printf '%s\n' "$pid"
}
