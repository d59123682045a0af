#!/usr/bin/env bash
# Ends the cluster, if it runs: its first process, and with it every process, mount, interface and address; before it the second
# node, if there is one. Then its cgroups, and with --remove its state.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [[ $NODE == node1 ]]; then TONNAGE_E2E_NODE=node2 "$HERE/down.sh" --remove; fi
if pid=$(init_pid); then
  kill -KILL "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi
rm -f "$STATE/init.pid" "$STATE/ready"

# The last processes leave a cgroup a moment after their end.
empty_cgroups() {
  local dir left=0
  while read -r dir; do
    [[ ! -d $dir ]] || find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
  done < <(sort -u "$STATE/cgroups")
  return "$left"
}
if [[ -s $STATE/cgroups ]]; then
  for _ in {1..100}; do
    if empty_cgroups; then break; fi
    sleep 0.1
  done
fi

if [[ ${1:-} == --remove && -e $STATE/.tonnage-cluster ]]; then rm -rf --one-file-system "$STATE"; fi
