#!/usr/bin/env bash
# Builds what the cluster is made of into $BIN, from the Go module proxy at pinned versions: Kubernetes, etcd, the network
# plugins and csi-provisioner as one module (it shares most packages: 509 s cold on two cores, 2.9 GB at most), helm
# and kubeconform each by itself. runc too, because the distribution's may be older than 1.2, from which on it takes `ro` off what a
# pod wants to write. containerd 2 too (155 s on two cores): with an older one no pod can have `hostUsers: false`. Prometheus comes from the
# distribution, unpacked only: its package would start it. What is built already is not built again.
# TONNAGE_E2E_CONTAINERD=distribution takes the distribution's containerd, unless another is built already; if it is older than 2,
# scenarios say what they do not judge.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

readonly HELM=helm.sh/helm/v4/cmd/helm@v4.3.1
readonly RUNC=github.com/opencontainers/runc@v1.4.3
readonly KUBECONFORM=github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0

# Runs COMMAND unless it has run to its end before with this stamp.
once() { # STAMP COMMAND...
  local stamp=$BIN/.$1 began=$SECONDS
  shift
  if [[ -e $stamp ]]; then return; fi
  "$@"
  touch "$stamp"
  printf 'built %s in %d s\n' "${stamp#"$BIN/."}" $((SECONDS - began)) >&2
}

kubernetes() {
  local version
  cd "$HERE/mods/all"
  version=$("$go" list -m -f '{{.Version}}' k8s.io/kubernetes)
  # Without the flag the binaries call themselves v0.0.0-master, which a chart's kubeVersion refuses.
  "$go" build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$BIN/" tool
  # go.etcd.io/etcd/server/v3 builds to a binary named so.
  mv "$BIN/server" "$BIN/etcd"
}

# With its shim and its client, in place of the distribution's: $BIN comes first inside the node.
containerd() {
  cd "$HERE/mods/containerd"
  "$go" build -ldflags "-s -w" -o "$BIN/" tool
}

# Its module replaces others, which `go install` does not allow; and it begins in C.
runc() {
  local source copy
  source=$("$go" mod download -json "$RUNC" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  copy=$(mktemp -d)
  cp -R "$source/." "$copy"
  chmod -R u+w "$copy"
  (cd "$copy" && CGO_ENABLED=1 "$go" build -tags seccomp -ldflags "-s -w -X main.version=${RUNC##*@v}" -o "$BIN/runc" .)
  rm -rf "$copy"
}

# With promtool.
prometheus() {
  local there
  there=$(mktemp -d)
  (cd "$there" && apt-get --quiet=2 -o APT::Sandbox::User=root download prometheus && dpkg-deb --extract prometheus_*.deb .)
  cp "$there"/usr/bin/{prometheus,promtool} "$BIN"
  rm -rf "$there"
}

install() { # PACKAGE@VERSION
  GOBIN=$BIN "$go" install -ldflags "-s -w" "$1"
}

mkdir -p "$BIN"
go=$("$HERE/../../servers.sh" go)
readonly go
# Static: csi-provisioner goes into an image that holds nothing else. Unset, a GOBIN or -mod of the caller's has no say.
export CGO_ENABLED=0 GOFLAGS=-trimpath
renice -n 10 $$ >/dev/null
once "kubernetes-$(cat "$HERE"/mods/all/go.{mod,sum} | cksum | cut -d' ' -f1)" kubernetes
once "runc-${RUNC##*@}" runc
case ${TONNAGE_E2E_CONTAINERD:-built} in
  built) once "containerd-$(cat "$HERE"/mods/containerd/go.{mod,sum} | cksum | cut -d' ' -f1)" containerd ;;
  distribution) ;;
  *) die "TONNAGE_E2E_CONTAINERD is $TONNAGE_E2E_CONTAINERD: built, or distribution" ;;
esac
once "helm-${HELM##*@}" install "$HELM"
once "kubeconform-${KUBECONFORM##*@}" install "$KUBECONFORM"
once prometheus-of-the-distribution prometheus
