#!/usr/bin/env bash
# Starts a one-node Kubernetes cluster in mount, net, pid, uts, ipc and cgroup namespaces of its own, and returns when its node
# is Ready and pods can be made. Only $STATE and the cgroups noted there are changed outside of them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
PATH=$PATH:/usr/sbin:/sbin

for pair in containerd:containerd ctr:containerd runc:runc busybox:busybox-static ip:iproute2 openssl:openssl pgrep:procps \
  mkfs.xfs:xfsprogs nsenter:util-linux; do
  command -v "${pair%%:*}" >/dev/null || missing+=" ${pair##*:}"
done
[[ -z ${missing:-} ]] || die "packages are missing: apt-get install$missing"
((EUID == 0)) || die "needs root: it makes namespaces, mounts and cgroups"

"$HERE/down.sh"
[[ ! -e $STATE || -e $STATE/.tonnage-cluster ]] || die "$STATE exists and is not a cluster's: remove it or set TONNAGE_E2E_DIR"
rm -rf --one-file-system "$STATE"
mkdir -p "$STATE"/{pki,etcd,kubelet,containerd,cni,log,run}
touch "$STATE/.tonnage-cluster"
# containerd's overlay cannot lie on another overlay, and a tmpfs takes no cache of model size.
case $(stat -fc %T "$STATE") in
  tmpfs | overlayfs) die "$STATE is on a $(stat -fc %T "$STATE"): set TONNAGE_E2E_DIR to a directory on a disk" ;;
esac

"$HERE/pki.sh" "$STATE/pki"
"$HERE/images.sh" "$STATE/images"
(
  new_cgroup
  exec setsid unshare --mount --net --pid --uts --ipc --cgroup --fork --propagation private \
    bash "$HERE/init.sh" </dev/null >"$STATE/log/init.log" 2>&1
) &
outer=$!
until pid=$(pgrep -P "$outer"); do
  kill -0 "$outer" 2>/dev/null || { cat "$STATE/log/init.log" >&2; die "the namespaces could not be made"; }
  sleep 0.1
done
printf '%s\n' "$pid" >"$STATE/init.pid"
for _ in {1..600}; do
  if [[ -e $STATE/ready ]]; then exit 0; fi
  kill -0 "$outer" 2>/dev/null || break
  sleep 0.2
done
tail -n 30 "$STATE"/log/{init,kube-apiserver,kubelet}.log >&2 || true
die "the cluster did not come up; its logs are in $STATE/log"
