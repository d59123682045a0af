#!/usr/bin/env bash
# Adds a second node to the running cluster, or takes it away: node2.sh start|stop. It is one more containerd and kubelet in
# namespaces of their own, with a disk of its own for the cache. A wire (veth) leads to the first node, and over it to the API
# server, the store and the first node's pods. Its images are those that the first node has. `down.sh` takes it away as well;
# its logs stay beside the first node's.
set -euo pipefail
export TONNAGE_E2E_NODE=node2
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
. "$HERE/launch.sh"
PATH=$PATH:/usr/sbin:/sbin

on_first() { TONNAGE_E2E_NODE=node1 "$HERE/in.sh" "$@"; }

# In the first node's network only: there the second one's pid is still known.
first_ip() { nsenter --target "$(cat "$CLUSTER/init.pid")" --net ip "$@"; }

# Nothing of the cluster's keys but its own: what a node may do is part of what is looked at.
credentials() {
  "$HERE/pki.sh" "$CLUSTER/pki" node2 /O=system:nodes/CN=system:node:node2
  cp "$CLUSTER/pki/ca.crt" "$STATE/pki/"
  mv "$CLUSTER/pki/node2.kubeconfig" "$STATE/pki/kubelet.kubeconfig"
  rm "$CLUSTER"/pki/node2.{crt,key}
}

# As docker.io/…: the others are the same images by their digests.
images() {
  local names
  mapfile -t names < <(on_first ctr -n k8s.io images list --quiet | grep '^docker\.io/')
  on_first ctr -n k8s.io images export /var/lib/cluster/node2/images/all.tar "${names[@]}"
}

wire() {
  first_ip link add to-node2 type veth peer name to-node1 netns "$(init_pid)"
  first_ip link set to-node2 up
  first_ip route add "$ADDRESS/32" dev to-node2 src 10.10.0.1
  first_ip route add "$PODS" via "$ADDRESS" dev to-node2 onlink src 10.10.0.1
}

start() {
  on_first test -e /var/lib/cluster/ready || die "there is no cluster to add a node to: up.sh starts one"
  if init_pid >/dev/null; then die "node2 runs already"; fi
  "$HERE/down.sh" --remove
  make_state
  credentials
  images
  spawn
  wire
  wait_until_started
  # shellcheck disable=SC2016 # the inner shell's words
  on_first bash -c '. /var/lib/conf/components.sh; wait_for kubectl wait --for=condition=Ready node/node2 --timeout=1s'
}

stop() {
  # With the other end's namespace it would go as well, at some time.
  first_ip link delete to-node2 2>/dev/null || true
  "$HERE/down.sh" --remove
}

case ${1:-} in
  start | stop) "$1" ;;
  *) die "usage: node2.sh start|stop" ;;
esac
