#!/usr/bin/env bash
# Runs a command inside the cluster's namespaces: in.sh kubectl get nodes
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
pid=$(init_pid) || die "the cluster is not running"
join_cgroup
exec nsenter -t "$pid" -m -n -p -u -i -C -W /var/lib/cluster \
  env PATH="/var/lib/bin:$PATH:/usr/sbin:/sbin" KUBECONFIG=/var/lib/cluster/pki/admin.kubeconfig HOME=/var/lib/cluster "$@"
