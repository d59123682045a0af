#!/usr/bin/env bash
# Starts a one-node Kubernetes cluster in mount, net, pid, uts, ipc and cgroup namespaces of its own, and returns when its node
# is Ready and pods can be made. Only $STATE and the cgroups noted there are changed outside of them.
set -euo pipefail
export TONNAGE_E2E_NODE=node1
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
. "$HERE/launch.sh"
PATH=$BIN:$PATH:/usr/sbin:/sbin

for pair in containerd:containerd ctr:containerd runc:runc busybox:busybox-static ip:iproute2 openssl:openssl pgrep:procps \
  mkfs.xfs:xfsprogs nsenter:util-linux; do
  command -v "${pair%%:*}" >/dev/null || missing+=" ${pair##*:}"
done
[[ -z ${missing:-} ]] || die "packages are missing: apt-get install$missing"
((EUID == 0)) || die "needs root: it makes namespaces, mounts and cgroups"

"$HERE/down.sh"
[[ ! -e $STATE || -e $STATE/.tonnage-cluster ]] || die "$STATE exists and is not a cluster's: remove it or set TONNAGE_E2E_DIR"
make_state
# containerd's overlay cannot lie on another overlay, and a tmpfs takes no cache of model size.
case $(stat -fc %T "$STATE") in
  tmpfs | overlayfs) die "$STATE is on a $(stat -fc %T "$STATE"): set TONNAGE_E2E_DIR to a directory on a disk" ;;
esac

"$HERE/pki.sh" "$STATE/pki"
"$HERE/images.sh" "$STATE/images"
spawn
wait_until_started
