#!/usr/bin/env bash
# One authority; client certificates as kubeconfig files; the API server's certificate; the key pair of service account tokens:
#   pki.sh DIRECTORY                  all that the first node needs
#   pki.sh DIRECTORY NAME SUBJECT     one more client of the authority that is there
set -euo pipefail
mkdir -p "$1"
cd "$1"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

certificate() { # NAME SUBJECT [EXTENSION]
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
    -out "$1.crt" -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:-}") 2>/dev/null
}

client() { # NAME SUBJECT
  certificate "$1" "$2"
  cat >"$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.10.0.1:443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
EOF
}

if (($# > 1)); then
  client "$2" "$3"
  exit
fi
key ca
openssl req -x509 -new -key ca.key -subj /CN=ca -days 3650 -out ca.crt
certificate apiserver /CN=apiserver "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,\
DNS:kubernetes.default.svc,DNS:node1,IP:127.0.0.1,IP:10.10.0.1,IP:10.96.0.1"
client admin /O=system:masters/CN=admin
client kcm /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client kubelet /O=system:nodes/CN=system:node:node1
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
