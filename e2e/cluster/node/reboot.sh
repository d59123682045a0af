#!/usr/bin/env bash
# The node's power, inside the cluster's namespaces; the control plane and the store count as other machines:
#   reboot.sh down    a power cut: kubelet, the runtime and every container end at once, and no mount or cgroup of theirs is left
#   reboot.sh up      starts it again: fresh mounts, the same disks, and the boot id that /var/lib/cluster/boot_id holds
#   reboot.sh back    runtime and kubelet start once more with the machine's own boot id; containers live on
# The kernel has one boot id, and every container a /proc of its own: the runtime is started with reboot/ before its PATH, where
# a runc lies that puts the file over the id in each container.
set -euo pipefail
. /var/lib/conf/components.sh
readonly BOOT_ID=/proc/sys/kernel/random/boot_id

# Processes of containers, and what holds them.
of_pods() {
  grep -ls /kubepods /proc/[0-9]*/cgroup | cut -d/ -f3 || true
  pgrep -x containerd-shim || true
}

end_pods() {
  local pids
  for _ in {1..100}; do
    pids=$(of_pods)
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  printf 'processes of pods do not end: %s\n' "$pids"
  return 1
}

# With the machine's memory its cgroups go. Kubelet asks the runtime for the container of each that it finds when it starts, 3 s for
# each that is none, before it says anything of its node.
remove_cgroups() {
  for _ in {1..100}; do
    if find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  printf 'cgroups of pods are still in use\n'
  return 1
}

unmount_all() {
  awk '$5 ~ "^/var/lib/kubelet/" || $5 ~ "^/run/(containerd|netns)/" {print $5}' /proc/self/mountinfo | tac | xargs --no-run-if-empty umount
}

own_boot_id() {
  ! grep -q " $BOOT_ID " /proc/self/mountinfo || umount "$BOOT_ID"
}

case ${1:-} in
  down)
    stop kubelet
    stop containerd
    end_pods
    remove_cgroups
    unmount_all
    rm -rf /run/containerd /run/netns/*
    umount /var/lib/tonnage
    ;;
  up)
    mount -o loop /var/lib/cluster/cache.xfs /var/lib/tonnage
    mount --make-rshared /var/lib/tonnage
    own_boot_id
    mount --bind /var/lib/cluster/boot_id "$BOOT_ID"
    PATH=/var/lib/conf/reboot:$PATH start containerd
    wait_for ctr -n k8s.io version
    start kubelet
    ;;
  back)
    own_boot_id
    stop kubelet
    stop containerd
    start containerd
    wait_for ctr -n k8s.io version
    start kubelet
    ;;
  *)
    printf 'usage: reboot.sh down|up|back\n' >&2
    exit 2
    ;;
esac
