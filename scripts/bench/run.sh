#!/bin/bash
# Measures orch against its budgets: one figure a line on standard output, as JSON.
#
#   scripts/bench/run.sh [--profile release|quick] [--binary FILE] [GROUP...]
#
# Groups: size, start, idle, api, watch, node, pod (all when none is named). `node` and `pod` need root, and a machine
# without another node: they use the usual bridge and addresses. `node` waits some minutes for the node to be idle.
# Clients run on the same cores as the server, and what they cost is in the figures.
. "$(dirname "$0")/../lib.sh"

profile=release
binary=
groups=()
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a name} && shift 2 ;;
    --binary) binary=$(realpath "${2:?--binary needs a file}") && shift 2 ;;
    size | start | idle | api | watch | node | pod) groups+=("$1") && shift ;;
    *) fail "no such group or option: $1" ;;
  esac
done
[ ${#groups[@]} -gt 0 ] || groups=(size start idle api watch node pod)
wants() { [[ " ${groups[*]} " == *" $1 "* ]]; }

# Objects behind which the second start is measured.
objects=10000
# Seconds over which idle CPU and writes are counted: the clock's ticks make 0.02 % of a core of them.
idle_seconds=60
# Seconds after which nothing is left of the work before: events are told, memory is given back.
settle_seconds=20
port=16443

have curl || fail "curl not found; run: sudo scripts/deps.sh test"
if [ -z "$binary" ]; then
  if [ "$profile" = release ]; then
    binary=$("$ORCH_REPO/scripts/build.sh")
  else
    need_cargo
    binary=$(build_orch "$profile")
  fi
fi
work=$(mktemp -d /tmp/orch-bench.XXXXXX)
server=
trap 'stop; stop_containers "$work"; rm -rf "$work"' EXIT

figure() { printf '{"figure":"%s","value":%s,"unit":"%s","budget":%s}\n' "$1" "$2" "$3" "${4:-null}"; }
now_ms() { date +%s%3N; }
kubeconfig() { echo "$work/$1/server/admin.kubeconfig"; }

# start NAME FLAGS...: starts a server and waits for /readyz; sets $server and $took (ms).
start() {
  local name=$1 from code=
  shift
  from=$(now_ms)
  "$binary" server --data-dir "$work/$name" --https-listen-port $port --quiet "$@" >>"$work/$name.log" 2>&1 &
  server=$!
  # /readyz may be asked by anybody; what is measured is the time to the first yes.
  until [ "$code" = 200 ]; do
    kill -0 $server 2>/dev/null || fail "orch server has ended: $(tail -1 "$work/$name.log")"
    code=$(curl -sk -o /dev/null -w '%{http_code}' "https://127.0.0.1:$port/readyz" || true)
    [ $(($(now_ms) - from)) -lt 60000 ] || fail "orch server is not ready after a minute"
  done
  took=$(($(now_ms) - from))
}
stop() {
  [ -n "$server" ] || return 0
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}
# Memory of processes, MB; what they share with others is divided among them.
pss_of() {
  local files=() pid
  for pid; do files+=("/proc/$pid/smaps_rollup"); done
  awk '/^Pss:/ {kb += $2} END {printf "%.1f", kb / 1000}' "${files[@]}"
}
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{print $12 + $13}'; }
written() { awk '/^write_bytes:/ {print $2}' "/proc/$1/io"; }
# idle WHAT [BUDGET]: what the server uses while nothing happens: percent of one core, and bytes written, MB in a day.
idle() {
  local ticks bytes
  sleep $settle_seconds
  ticks=$(ticks "$server") bytes=$(written "$server")
  sleep $idle_seconds
  figure "idle CPU, $1" "$(awk -v t=$(($(ticks "$server") - ticks)) -v hz="$(getconf CLK_TCK)" -v s=$idle_seconds \
    'BEGIN {printf "%.2f", 100 * t / hz / s}')" "% of a core" "${2:-}"
  figure "idle writes, $1" "$(awk -v b=$(($(written "$server") - bytes)) -v s=$idle_seconds \
    'BEGIN {printf "%.0f", b * 86400 / s / 1e6}')" MB/day
}
# ready_nodes, ready_pods, left_pods: how many there are.
ready_nodes() { orch_ctl get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}' 2>/dev/null | grep -o True | wc -l; }
left_pods() { orch_ctl get pods -o name | wc -l; }
ready_pods() { orch_ctl get deployment idle -o 'jsonpath={.status.readyReplicas}' 2>/dev/null || true; }
# until_is WANTED COMMAND: waits a minute.
until_is() {
  local from
  from=$(now_ms)
  until [ "$("$2")" = "$1" ]; do
    [ $(($(now_ms) - from)) -lt 60000 ] || fail "$2: not $1 after a minute"
    sleep 0.05
  done
}
# idle_pods COUNT: a Deployment of pods that only sleep.
idle_pods() {
  orch_ctl apply -f - >/dev/null <<EOF
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: $1
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: sleeper, image: "localhost/orch/web:v1", command: [sleep, "1000000"]}]
EOF
}
bench_api() { "$binary" bench api --kubeconfig "$(kubeconfig "$1")" --server-pid "$server" "${@:2}"; }

if wants size; then
  figure "binary size" "$(awk -v b="$(stat -c %s "$binary")" 'BEGIN {printf "%.1f", b / 1e6}')" MB 40
fi

if wants start; then
  step "Start, fresh"
  start fresh --disable-agent
  figure "start to /readyz, fresh" "$took" ms 300
  stop
fi

if wants idle; then
  step "Idle control plane, $idle_seconds s"
  start idle --disable-agent
  idle "no node"
  figure "idle memory, no node (PSS)" "$(pss_of "$server")" MB
  stop
fi

if wants api || wants start; then
  step "Requests on 32 connections"
  start api --disable-agent
  bench_api api create get patch
  if wants start; then
    stop
    start api --disable-agent
    figure "start to /readyz, $objects objects" "$took" ms 1000
  fi
fi
stop
if wants api; then
  # A server of their own: its memory is that of the pods.
  start pods --disable-agent
  bench_api pods pods list
  sleep $settle_seconds
  figure "memory with 10,000 pods (PSS)" "$(pss_of "$server")" MB 200
  stop
fi
if wants watch; then
  step "1,000 watchers"
  start watch --disable-agent
  bench_api watch watch
  stop
fi

if wants node || wants pod; then
  need_root
  need_cgroups
  "$ORCH_REPO/scripts/deps.sh" node
  orch_ctl() { "$client" --kubeconfig "$(kubeconfig node)" "$@"; }
  client=$("$ORCH_REPO/scripts/deps.sh" kubectl)
  step "A node"
  from=$(now_ms)
  start node
  until_is 1 ready_nodes
  figure "start to node Ready" $(($(now_ms) - from)) ms 2000
  socket=$work/node/agent/containerd/run/containerd.sock
  "$ORCH_REPO/scripts/demo/image.sh" v1 "$work/web.tar"
  ctr --address "$socket" --namespace k8s.io images import "$work/web.tar" >/dev/null
  if wants node; then
    idle "with a node, no pods"
    figure "idle memory, with a node (PSS)" "$(pss_of "$server")" MB 48
    figure "idle memory of its containerd (PSS)" "$(pss_of "$(grep -oE '[0-9]+' -m 1 "$work/node/agent/containerd/run/containerd.pid" | head -1)")" MB
    idle_pods 10
    until_is 10 ready_pods
    idle "with a node and 10 pods" 0.5
    figure "memory, with a node and 10 pods (PSS)" "$(pss_of "$server")" MB
    orch_ctl delete deployment idle >/dev/null
    # What they take to end is no part of what follows.
    until_is 0 left_pods
  fi
  if wants pod; then
    step "Pods beside the bare calls of the runtime"
    "$binary" bench pod --kubeconfig "$(kubeconfig node)" --runtime "$socket" --image localhost/orch/web:v1
  fi
  stop
fi
