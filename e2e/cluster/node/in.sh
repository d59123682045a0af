#!/usr/bin/env bash
# Runs a command inside a node's namespaces: in.sh kubectl get nodes
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
pid=$(init_pid) || die "$NODE is not running"
join_cgroup
exec nsenter -t "$pid" -m -n -p -u -i -C -W /var/lib/cluster \
  env PATH="/var/lib/bin:$PATH:/usr/sbin:/sbin" KUBECONFIG=/var/lib/cluster/pki/admin.kubeconfig HOME=/var/lib/cluster "$@"
