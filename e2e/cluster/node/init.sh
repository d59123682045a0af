#!/usr/bin/env bash
# The first process of the node that env.sh has set. Of the machine it uses $HERE, $BIN, $STATE and $LOG, the programs and the network
# of none; whatever it mounts, binds and starts ends with it. Inside, on every node alike, the scripts are /var/lib/conf, the node's
# state is /var/lib/cluster and its logs are /var/log.
set -euo pipefail

mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/c/{state,bin,here,log} /run/netns /run/lock
mount --bind "$STATE" /run/c/state
mount --bind "$BIN" /run/c/bin
mount --bind "$HERE" /run/c/here
mount --bind "$LOG" /run/c/log
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/{cluster,bin,conf,kubelet,containerd,cni,tonnage}
mount --bind /run/c/state /var/lib/cluster
mount --bind /run/c/bin /var/lib/bin
mount --bind /run/c/here /var/lib/conf
for name in kubelet containerd cni; do mount --bind "/var/lib/cluster/$name" "/var/lib/$name"; done
mount --bind /run/c/log /var/log

# A disk of its own for the driver's cache, as on a node that is to serve models: the driver refuses kubelet's file system. The
# device goes with its mount.
truncate --size 16G /var/lib/cluster/cache.xfs
mkfs.xfs -q /var/lib/cluster/cache.xfs
mount -o loop /var/lib/cluster/cache.xfs /var/lib/tonnage

# Bidirectional and HostToContainer propagation need shared mounts. Only these two are shared: shared as a whole, every mount
# below kubelet's directory would also appear below the directory that it is bound from.
mount --make-rshared /var/lib/kubelet
mount --make-rshared /var/lib/tonnage

# kubelet writes these settings, which no namespace holds: it gets files of its own in their place.
for setting in vm/overcommit_memory:1 vm/panic_on_oom:0 kernel/panic:10 kernel/panic_on_oops:1; do
  file=/run/sysctl/${setting%:*}
  mkdir -p "${file%/*}"
  printf '%s\n' "${setting#*:}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%:*}"
done

# In a user namespace the kernel mounts a /proc only where another is seen that nothing lies over.
mkdir /run/c/proc
mount -t proc proc /run/c/proc

# A cgroup tree whose root is our own cgroup.
if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
  mount -t sysfs sysfs /sys
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  cd /sys/fs/cgroup
  # Controllers pass to children only from a cgroup without processes. One may end between two lines here.
  mkdir init
  for process in $(<cgroup.procs); do printf '%s\n' "$process" >init/cgroup.procs || true; done
  for controller in $(<cgroup.controllers); do printf '+%s' "$controller" >cgroup.subtree_control; done
  cd /
else
  controllers=$(cd /sys/fs/cgroup && ls)
  mount -t sysfs sysfs /sys
  mount -t tmpfs tmpfs /sys/fs/cgroup
  for controller in $controllers; do
    options=$controller
    if [[ $controller == systemd ]]; then options=none,name=systemd; fi
    if [[ $controller == unified ]]; then continue; fi
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$controller"
  done
fi

export PATH=/var/lib/bin:$PATH
. /var/lib/conf/components.sh

# Addresses: the node, and on the first one the service "kubernetes": the API server listens on 443, so pods reach it at the
# service's address without kube-proxy. There is no default route: nothing can leave.
hostname "$NODE"
ip link set lo up
ip addr add "$ADDRESS/32" dev lo
printf '1\n' >/proc/sys/net/ipv4/ip_forward

# Each node's pods have a network of their own.
mkdir /run/cni
sed "s|10\.244\.0\.0/24|$PODS|" /var/lib/conf/config/cni/10-bridge.conflist >/run/cni/10-bridge.conflist

import_images() {
  wait_for ctr -n k8s.io version
  for archive in /var/lib/cluster/images/*.tar; do ctr -n k8s.io images import "$archive" >/dev/null; done
}

first_node() {
  ip addr add 10.96.0.1/32 dev lo
  start etcd
  start containerd
  start kube-apiserver
  wait_for kubectl get --raw /readyz
  start kube-controller-manager
  start kube-scheduler
  start kubelet
  import_images
  wait_for kubectl wait --for=condition=Ready node/node1 --timeout=1s
  wait_for kubectl get serviceaccount default
}

# node2.sh lays the wire and asks the first node whether this one is Ready. The images come before kubelet, so that no pod misses one.
second_node() {
  local network
  start containerd
  wait_for ip link show to-node1
  ip link set to-node1 up
  ip route add 10.10.0.1/32 dev to-node1 src "$ADDRESS"
  for network in 10.96.0.1/32 10.244.0.0/24; do
    ip route add "$network" via 10.10.0.1 dev to-node1 onlink src "$ADDRESS"
  done
  import_images
  start kubelet
}

case $NODE in
  node1) first_node ;;
  node2) second_node ;;
esac
touch /var/lib/cluster/ready
# Orphans of the node are reaped here.
while :; do
  sleep 3600 &
  wait
done
