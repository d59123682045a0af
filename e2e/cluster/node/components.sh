# Starts and ends components inside a node's namespaces; logs are in /var/log, pids in /var/lib/cluster/run. NODE and ADDRESS come
# from env.sh.
# shellcheck shell=bash
P=/var/lib/cluster/pki
export KUBECONFIG=$P/admin.kubeconfig HOME=/var/lib/cluster

wait_for() { # COMMAND...
  for _ in {1..600}; do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  printf 'gave up waiting for: %s\n' "$*"
  return 1
}

start() { # NAME [COMMAND...]
  local name=$1 command
  shift
  command=("$@")
  (($# > 0)) || case $name in
    etcd)
      # Nothing here must outlive a power cut, and its syncs would wait behind the cache's writes.
      command=(etcd --data-dir /var/lib/cluster/etcd --unsafe-no-fsync --log-level warn
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
        --listen-peer-urls http://127.0.0.1:2380) ;;
    kube-apiserver)
      command=(kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 --secure-port 443
        --advertise-address 10.10.0.1 --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC
        --enable-admission-plugins NodeRestriction --allow-privileged=true
        --client-ca-file "$P/ca.crt" --tls-cert-file "$P/apiserver.crt" --tls-private-key-file "$P/apiserver.key"
        --kubelet-client-certificate "$P/admin.crt" --kubelet-client-key "$P/admin.key"
        --kubelet-preferred-address-types InternalIP
        --service-account-issuer https://kubernetes.default.svc
        --service-account-signing-key-file "$P/sa.key" --service-account-key-file "$P/sa.pub") ;;
    kube-controller-manager)
      # It throttles itself otherwise: with these, a namespace's default service account is there after 0.7 s and not 5.5 s.
      command=(kube-controller-manager --kubeconfig "$P/kcm.kubeconfig" --leader-elect=false
        --use-service-account-credentials --service-account-private-key-file "$P/sa.key" --root-ca-file "$P/ca.crt"
        --cluster-signing-cert-file "$P/ca.crt" --cluster-signing-key-file "$P/ca.key" --bind-address 127.0.0.1
        --kube-api-qps 500 --kube-api-burst 1000) ;;
    kube-scheduler)
      command=(kube-scheduler --kubeconfig "$P/scheduler.kubeconfig" --leader-elect=false --bind-address 127.0.0.1) ;;
    containerd) command=(containerd --config /var/lib/conf/config/containerd.toml) ;;
    kubelet)
      command=(kubelet --config /var/lib/conf/config/kubelet.yaml --kubeconfig "$P/kubelet.kubeconfig"
        --hostname-override "$NODE" --node-ip "$ADDRESS" --cert-dir "$P/kubelet" --v 2) ;;
    *)
      printf 'no component is called %s\n' "$name" >&2
      return 1
      ;;
  esac
  setsid "${command[@]}" </dev/null >>"/var/log/$name.log" 2>&1 &
  printf '%s\n' "$!" >"/var/lib/cluster/run/$name.pid"
}

stop() { # NAME [SIGNAL]
  local pid
  pid=$(<"/var/lib/cluster/run/$1.pid")
  kill -"${2:-KILL}" "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}
