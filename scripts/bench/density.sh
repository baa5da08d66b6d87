#!/bin/bash
# Measures a large cluster on this machine: nodes that run nothing (real kubelets over a runtime that is only a list), and
# pods on all of them. Time until all run, what requests take meanwhile by verb, what the server has in memory.
#
#   scripts/bench/density.sh [--profile release|quick] [--binary FILE] [--nodes N] [--pods N]
#
# Server, kubelets and clients share the machine's cores. One line of JSON each.
. "$(dirname "$0")/../lib.sh"

profile=release binary= nodes=5000 pods=150000
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a name} && shift 2 ;;
    --binary) binary=$(realpath "${2:?--binary needs a file}") && shift 2 ;;
    --nodes) nodes=${2:?--nodes needs a number} && shift 2 ;;
    --pods) pods=${2:?--pods needs a number} && shift 2 ;;
    *) fail "no such option: $1" ;;
  esac
done
port=16449
have curl || fail "curl not found; run: sudo scripts/deps.sh test"
if [ -z "$binary" ]; then
  need_cargo
  binary=$(build_orch "$profile")
fi
work=$(mktemp -d /tmp/orch-bench.XXXXXX)
server= hollow=
stop() {
  for pid in $hollow $server; do { kill "$pid" && wait "$pid" || true; } 2>/dev/null; done
}
trap 'stop; rm -rf "$work"' EXIT
ulimit -n "$(ulimit -Hn)"

# memory PID NAME: what a process has for itself, and its share of what it shares.
memory() {
  awk -v what="$2" '/^Pss:/ { printf "{\"workload\":\"%s\",\"pss_mb\":%d}\n", what, $2 / 1024 }' "/proc/$1/smaps_rollup"
}

"$binary" server --data-dir "$work/data" --https-listen-port $port --disable-agent --disable coredns \
  --cluster-cidr 100.64.0.0/10 --quiet >>"$work/log" 2>&1 &
server=$!
code=
until [ "$code" = 200 ]; do
  kill -0 $server 2>/dev/null || fail "orch server has ended: $(tail -1 "$work/log")"
  code=$(curl -sk -o /dev/null -w '%{http_code}' "https://127.0.0.1:$port/readyz" || true)
  [ "$code" = 200 ] || sleep 0.1
done
export KUBECONFIG=$work/data/server/admin.kubeconfig
"$binary" bench hollow-nodes --data-dir "$work/hollow" "$nodes" >"$work/ready" 2>>"$work/log" &
hollow=$!
until [ -s "$work/ready" ]; do
  kill -0 $hollow 2>/dev/null || fail "the hollow nodes have ended: $(tail -1 "$work/log")"
  sleep 0.5
done
cat "$work/ready"
memory $server density-server-with-nodes
"$binary" bench density --pods "$pods"
memory $server density-server-with-pods
memory $hollow density-hollow-nodes
