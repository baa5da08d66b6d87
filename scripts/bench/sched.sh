#!/bin/bash
# Measures the scheduler: pods that get their nodes in a second, at 5,000 nodes: plain, by node affinity, spread over zones,
# each keeping the others away, each taking the place of another.
#
#   scripts/bench/sched.sh [--profile release|quick] [--binary FILE] [--nodes N] [--pods N]
#
# Nodes are objects without kubelets. Server, clients and scheduler share the machine's cores, and making the pods is in
# the figures: 32 requests at a time, eight on each HTTP/2 connection, as client programs send them. One line of JSON each;
# budgets: 5000, 3000, 2000, 1000 and 1000 in a second.
nodes=5000 pods=5000 port=16448
. "$(dirname "$0")/large.sh"

# measure FLAGS...: a new server with new nodes, so that one run does not carry the pods of another.
measure() {
  # Nobody speaks for the nodes.
  start_server --kube-controller-manager-arg node-monitor-grace-period=1h
  "$binary" bench sched --nodes "$nodes" "$@"
  stop
}
apart=$((pods < nodes ? pods : nodes))
measure --pods "$pods"
measure --pods "$pods" --workload node-affinity
measure --pods "$pods" --workload spread
measure --pods "$apart" --workload anti-affinity
measure --pods "$apart" --workload preemption
