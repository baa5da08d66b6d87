#!/bin/bash
# Measures the scheduler: pods that get their nodes in a second, at 5,000 nodes: plain, by node affinity, spread over zones,
# each keeping the others away, each taking the place of another.
#
#   scripts/bench/sched.sh [--profile release|quick] [--binary FILE] [--nodes N] [--pods N]
#
# Nodes are objects without kubelets. Server, clients and scheduler share the machine's cores, and making the pods is in
# the figures. One line of JSON each; budgets: 5000, 3000, 2000, 1000 and 1000 in a second.
. "$(dirname "$0")/../lib.sh"

profile=release binary= nodes=5000 pods=5000
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a name} && shift 2 ;;
    --binary) binary=$(realpath "${2:?--binary needs a file}") && shift 2 ;;
    --nodes) nodes=${2:?--nodes needs a number} && shift 2 ;;
    --pods) pods=${2:?--pods needs a number} && shift 2 ;;
    *) fail "no such option: $1" ;;
  esac
done
port=16448
have curl || fail "curl not found; run: sudo scripts/deps.sh test"
if [ -z "$binary" ]; then
  need_cargo
  binary=$(build_orch "$profile")
fi
work=$(mktemp -d /tmp/orch-bench.XXXXXX)
server=
stop() {
  [ -z "$server" ] || { kill "$server" && wait "$server" || true; } 2>/dev/null
  server=
}
trap 'stop; rm -rf "$work"' EXIT

# measure FLAGS...: a new server with new nodes, so that one run does not carry the pods of another.
measure() {
  local code=
  rm -rf "$work/data"
  "$binary" server --data-dir "$work/data" --https-listen-port $port --disable-agent --disable coredns \
    --cluster-cidr 100.64.0.0/10 --quiet >>"$work/log" 2>&1 &
  server=$!
  until [ "$code" = 200 ]; do
    kill -0 $server 2>/dev/null || fail "orch server has ended: $(tail -1 "$work/log")"
    code=$(curl -sk -o /dev/null -w '%{http_code}' "https://127.0.0.1:$port/readyz" || true)
    [ "$code" = 200 ] || sleep 0.1
  done
  "$binary" bench sched --kubeconfig "$work/data/server/admin.kubeconfig" --nodes "$nodes" "$@"
  stop
}
apart=$((pods < nodes ? pods : nodes))
measure --pods "$pods"
measure --pods "$pods" --workload node-affinity
measure --pods "$pods" --workload spread
measure --pods "$apart" --workload anti-affinity
measure --pods "$apart" --workload preemption
