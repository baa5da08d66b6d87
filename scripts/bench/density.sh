#!/bin/bash
# Measures a large cluster on this machine: nodes that run nothing (real kubelets over a runtime that is only a list), and
# pods on all of them. Time until all run, what requests take meanwhile by verb, what the server has in memory.
#
#   scripts/bench/density.sh [--profile release|quick] [--binary FILE] [--nodes N] [--pods N]
#
# Server, kubelets and clients share the machine's cores, so that heartbeats of nodes are late: the server has patience with
# them, or it would take pods from nodes that live. One line of JSON each.
nodes=5000 pods=150000 port=16449
. "$(dirname "$0")/large.sh"
ulimit -n "$(ulimit -Hn)"

# memory PID NAME: what a process has for itself, and its share of what it shares.
memory() {
  awk -v what="$2" '/^Pss:/ { printf "{\"workload\":\"%s\",\"pss_mb\":%d}\n", what, $2 / 1024 }' "/proc/$1/smaps_rollup"
}

start_server --kube-controller-manager-arg node-monitor-grace-period=1h
"$binary" bench hollow-nodes --data-dir "$work/hollow" "$nodes" >"$work/ready" 2>>"$work/log" &
hollow=$!
started+=($hollow)
until [ -s "$work/ready" ]; do
  kill -0 $hollow 2>/dev/null || fail "the hollow nodes have ended: $(tail -1 "$work/log")"
  sleep 0.5
done
cat "$work/ready"
memory "$server" density-server-with-nodes
"$binary" bench density --pods "$pods"
memory "$server" density-server-with-pods
memory $hollow density-hollow-nodes
