#!/bin/bash
# From a machine with Rust and nothing else to containers that answer behind a Service, with every step shown.
#
#   sudo scripts/quickstart.sh [--release] [--data-dir DIR] [--port PORT]    build, start, show
#   sudo scripts/quickstart.sh stop  [--data-dir DIR]                        stop orch and its containers
#   sudo scripts/quickstart.sh clean [--data-dir DIR]                        stop, and remove all state
#
# A second run uses what the first one left: the build, the server (started again when the binary changed), the demo.
. "$(dirname "$0")/lib.sh"
here=$ORCH_REPO/scripts

command=run
profile=quick
data_dir=/var/lib/orch
port=6443
while [ $# -gt 0 ]; do
  case $1 in
    stop | clean) command=$1 && shift ;;
    --release) profile=release && shift ;;
    --data-dir) data_dir=$(realpath -m "${2:?--data-dir needs a directory}") && shift 2 ;;
    --port) port=${2:?--port needs a number} && shift 2 ;;
    *) fail "no such option: $1 (stop, clean, --release, --data-dir DIR, --port PORT)" ;;
  esac
done

need_root
run_dir=$data_dir/agent/containerd/run
kubeconfig=$data_dir/server/admin.kubeconfig
if [ "$data_dir" = /var/lib/orch ]; then
  run_dir=/run/orch/containerd
  kubeconfig=/etc/orch/orch.yaml
fi
pid_file=$data_dir/quickstart.pid
log=$data_dir/quickstart.log
namespace=demo

# --- the server -----------------------------------------------------------------------------------------------------

# The pid of the server that we started, when it runs: pid and start time must both be what they were.
server_pid() {
  local pid started
  [ -e "$pid_file" ] && read -r pid started _ <"$pid_file" || return 1
  [ "$(process_start "$pid")" = "$started" ] && echo "$pid"
}
# When a process started, in ticks since boot; nothing when it does not run (any more).
process_start() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" {print $20}'; }

stop_server() {
  local pid
  pid=$(server_pid) || { rm -f "$pid_file" && return 0; }
  kill "$pid"
  for _ in $(seq 300); do
    [ -n "$(process_start "$pid")" ] || break
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$pid_file"
}

start_server() {
  local binary=$1 pid ran
  if pid=$(server_pid); then
    read -r _ _ ran <"$pid_file"
    if [ "$ran" = "$(binary_id "$binary")" ]; then
      step "orch server runs already (pid $pid)"
      return
    fi
    step "Starting orch server again: the binary has changed; pods go on meanwhile"
    stop_server
  else
    step "Starting orch server"
  fi
  mkdir -p "$data_dir"
  setsid "$binary" server --data-dir "$data_dir" --https-listen-port "$port" </dev/null >"$log" 2>&1 &
  pid=$!
  disown
  echo "$pid $(process_start "$pid") $(binary_id "$binary")" >"$pid_file"
}
binary_id() { stat -Lc %i.%Y "$1"; }

# Tells until_true of a server that has ended, with its last words.
server_lives() {
  server_pid >/dev/null && return
  why="orch server has ended: $(grep -v '^$' "$log" | tail -1)"
  return 1
}
server_ready() {
  server_lives || return
  [ -e "$kubeconfig" ] && kube get --raw /readyz
}
node_ready() {
  server_lives || return
  kube get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}' | grep -q True
}

# --- the demo -------------------------------------------------------------------------------------------------------

kube() { $client --kubeconfig "$kubeconfig" "$@"; }
demo() { kube -n "$namespace" "$@"; }
field() { demo get "$1" "$2" -o "jsonpath=$3"; }
# The pods that are not on their way out.
pods() { demo get pods -l app=web -o 'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.deletionTimestamp}{"\n"}{end}' | awk 'NF == 1 {print $1}'; }
ready_replicas() { [ "$(field deployment web '{.status.readyReplicas}')" = "$1" ]; }
# For until_true: what the cluster warned of last, as of a full disk or an image that is not there.
hindrance() {
  demo get events --field-selector type=Warning --sort-by .lastTimestamp -o 'jsonpath={range .items[*]}{.message}{"\n"}{end}' |
    sed -n '$s/^/; the last warning: /p'
  kube get nodes -o 'jsonpath={.items[*].spec.taints[*].key}' | sed -n 's/^/; the node is tainted: /p'
}
answer() { curl -fsS --max-time 5 "http://$1/"; }

import_image() {
  local version=$1 file=$data_dir/demo-$1.tar
  "$here/demo/image.sh" "$version" "$file"
  if "$orch" ctl image --help >/dev/null 2>&1; then
    "$orch" ctl image import --data-dir "$data_dir" "$file" >&2 ||
      fail "the image localhost/orch/web:$version could not be imported"
  else
    ctr --address "$run_dir/containerd.sock" --namespace k8s.io images import "$file" >/dev/null ||
      fail "the image localhost/orch/web:$version could not be imported"
  fi
  rm -f "$file"
}

# Asks the Service again and again until told to stop; counts answers and failures.
ask_constantly() {
  local url=$1 counts=$2 answered=0 failed=0
  trap 'echo "$answered $failed" >"$counts"; exit 0' TERM
  while :; do
    if answer "$url" >/dev/null 2>>"$counts.errors"; then answered=$((answered + 1)); else failed=$((failed + 1)); fi
  done
}

show() {
  local address pod uid before counts asker answered failed node node_port name file
  step "Building the demo's image from this machine's busybox, versions v1 and v2"
  import_image v1
  import_image v2

  step "Deploying the demo: a ConfigMap, three web servers, a Service"
  kube get namespace "$namespace" >/dev/null 2>&1 || kube create namespace "$namespace" >/dev/null
  for file in configmap service deployment; do
    demo apply -f "$here/demo/$file.yaml" | sed 's/^/        /' >&2
  done
  until_true 60 "the Deployment's controller has seen it" generation_seen
  until_true 120 "three pods Ready" ready_replicas 3
  demo rollout status deployment/web --timeout 120s >/dev/null || fail "the Deployment does not settle"
  demo get pods -o wide | sed 's/^/        /' >&2
  good "three pods are Ready"

  step "Asking the Service"
  address=$(field service web '{.spec.clusterIP}')
  node_port=$(field service web '{.spec.ports[0].nodePort}')
  until_true 10 "the Service answering at $address" answer "$address"
  good "by its address      http://$address/ : $(answer "$address")"
  node=$(kube get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
  good "by the node's port  http://$node:$node_port/ : $(answer "$node:$node_port")"
  pod=$(pods | head -1)
  name=web.$namespace.svc.cluster.local
  good "by name, in a pod   http://$name/ : $(demo exec "$pod" -- wget -qO- "http://$name/")"

  step "Killing the container of $pod"
  before=$(restarts "$pod")
  uid=$(field pod "$pod" '{.metadata.uid}')
  # The end of a container's first process kills the rest of it, so this may well end with 137 instead of 0.
  code=0
  demo exec "$pod" -- kill 1 2>/dev/null || code=$?
  [ "$code" -eq 0 ] || [ "$code" -eq 137 ] || fail "kill 1 in $pod ended with $code"
  until_true 60 "the container started again" restarted "$pod" "$before"
  until_true 60 "three pods Ready" ready_replicas 3
  [ "$(field pod "$pod" '{.metadata.uid}')" = "$uid" ] || fail "$pod is another pod now"
  good "healed: the same pod, $(restarts "$pod") restart(s)"

  step "Scaling to five"
  demo scale deployment/web --replicas 5 >/dev/null
  until_true 60 "five pods Ready" ready_replicas 5
  good "five pods are Ready"

  step "Rolling out v2 while the Service is asked without a pause"
  counts=$(mktemp)
  ask_constantly "$address" "$counts" &
  asker=$!
  demo set image deployment/web web=localhost/orch/web:v2 >/dev/null
  demo rollout status deployment/web --timeout 180s >/dev/null || fail "the rollout does not end"
  until_true 60 "the old pods gone" pods_are 5
  kill "$asker"
  wait "$asker" || true
  read -r answered failed <"$counts"
  [ "$failed" -eq 0 ] || fail "$failed of $((answered + failed)) requests failed: $(head -1 "$counts.errors")"
  rm -f "$counts" "$counts.errors"
  good "$answered requests, none failed; now: $(answer "$address")"

  step "Rolling back"
  demo rollout undo deployment/web >/dev/null
  demo rollout status deployment/web --timeout 180s >/dev/null || fail "the rollback does not end"
  until_true 60 "the newer pods gone" pods_are 5
  [[ $(answer "$address") == *"(v1)"* ]] || fail "after the rollback it is not v1 that answers"
  good "$(answer "$address")"
}
generation_seen() { [ "$(field deployment web '{.status.observedGeneration}')" = "$(field deployment web '{.metadata.generation}')" ]; }
restarts() { field pod "$1" '{.status.containerStatuses[0].restartCount}'; }
restarted() { [ "$(restarts "$1")" -gt "$2" ]; }
pods_are() { [ "$(demo get pods -l app=web -o name | wc -l)" -eq "$1" ]; }

# --- the commands ---------------------------------------------------------------------------------------------------

case $command in
  stop | clean)
    step "Stopping orch and its containers"
    stop_server
    stop_containers "$data_dir" "$run_dir"
    if [ "$command" = clean ]; then
      step "Removing $data_dir"
      rm -rf "$data_dir" "$run_dir"
      [ "$data_dir" != /var/lib/orch ] || rm -f "$kubeconfig"
    fi
    exit 0
    ;;
esac

need_cgroups
need_cargo
"$here/deps.sh" build
"$here/deps.sh" node
if [ "$profile" = release ]; then
  orch=$("$here/build.sh")
else
  orch=$(build_orch "$profile")
fi
if "$orch" ctl --help >/dev/null 2>&1; then client="$orch ctl"; else client=$("$here/deps.sh" kubectl); fi

start_server "$orch"
until_true 30 "the API server ready (log: $log)" server_ready
good "the Kubernetes API serves on port $port"
until_true 60 "the node Ready (log: $log)" node_ready
good "the node is Ready"
show

step "Done: the demo goes on running"
cat >&2 <<TEXT

  Go on:    export KUBECONFIG=$kubeconfig
            $client -n $namespace get all
            $client -n $namespace scale deployment/web --replicas 2
            curl http://$(field service web '{.spec.clusterIP}')/
  Log:      $log
  Stop:     sudo scripts/quickstart.sh stop$([ "$data_dir" = /var/lib/orch ] || echo " --data-dir $data_dir")
            sudo scripts/quickstart.sh clean$([ "$data_dir" = /var/lib/orch ] || echo " --data-dir $data_dir")   (and remove all state)
TEXT
