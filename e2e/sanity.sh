#!/usr/bin/env bash
# csi-sanity 5.6.0 against the real binary: node and controller services on UNIX sockets, real mounts in a
# private mount namespace, a real S3 server (Versity gateway). Needs root, Go, Python 3, Cargo.
#
# usage: e2e/sanity.sh
# TONNAGE_BIN, KUBELET_BIN: use these binaries instead of building them.
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit ;; esac
# shellcheck source=e2e/services.sh
source "$(dirname "${BASH_SOURCE[0]}")/services.sh"
enter_private_namespace "$@"
open_work sanity
find_binaries
"$repository/e2e/servers.sh" build csi-sanity
start_server versity

model=$work/model
mkdir -p "$model/tokenizer"
head -c 5242897 /dev/urandom >"$model/model-00001-of-00002.safetensors"
head -c 1048576 /dev/urandom >"$model/model-00002-of-00002.safetensors"
printf '{"model_type": "generated"}\n' >"$model/config.json"
printf '{}\n' >"$model/tokenizer/tokenizer.json"
"$repository/e2e/servers.sh" put versity sanity model "$model"
start_services versity sanity

printf 'source: models\npath: model\n' >"$work/parameters.yaml"
# csi-sanity looks at a published target through this: it answers only for a target that is what it must be.
cat >"$work/check-path" <<EOF
#!/usr/bin/env bash
set -euo pipefail
if [[ ! -e \$1 ]]; then echo not_found; exit; fi
options=\$(awk -v target="\$1" '\$5 == target {print \$6}' /proc/self/mountinfo)
for option in ro nosuid nodev; do
  [[ ,\$options, == *,\$option,* ]] || { echo "\$1 is not mounted \$option: \$options" >&2; exit 1; }
done
diff -r "$model" "\$1" >&2
echo directory
EOF
chmod +x "$work/check-path"

# Its own exit status is not taken for an answer: the report below is judged, and a run that failed fails there.
status=0
"$cache/bin/csi-sanity" --csi.endpoint "unix://$work/run/node.sock" \
  --csi.controllerendpoint "unix://$work/run/controller.sock" \
  --csi.mountdir "$work/kubelet/sanity" --csi.stagingdir "" \
  --csi.checkpathcmd "$work/check-path" \
  --csi.testvolumeparameters "$work/parameters.yaml" \
  --csi.testvolumesize 10737418240 \
  --ginkgo.no-color --ginkgo.json-report "$work/report.json" >"$work/csi-sanity.log" 2>&1 || status=$?
python3 "$repository/e2e/sanity_report.py" "$work/report.json"
((status == 0)) || die "csi-sanity ended with status $status"
tail -n 5 "$work/csi-sanity.log"
stop_services_and_check
say "sanity: nothing is mounted and nothing is left"
