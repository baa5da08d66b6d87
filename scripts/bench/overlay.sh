#!/bin/bash
# Measures what the overlay costs: one TCP connection from node to node over the bare link, vxlan and host-gw; one figure a
# line on standard output, as JSON. Two machines are network namespaces here, and share the cores of this one.
#
#   scripts/bench/overlay.sh [--binary FILE]
#
# Needs root, containerd and runc.
. "$(dirname "$0")/../lib.sh"

binary=
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=$(realpath "${2:?--binary needs a file}") && shift 2 ;;
    *) fail "no such option: $1" ;;
  esac
done
[ "$(id -u)" = 0 ] || fail "network namespaces need root"
[ -n "$binary" ] || binary=$("$ORCH_REPO/scripts/build.sh")

seconds=5
port=9999
first=192.0.2.1 second=192.0.2.2
work=$(mktemp -d /tmp/orch-bench.XXXXXX)
one=orch-bench-$$-1 two=orch-bench-$$-2
pids=()
cleanup() {
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
  stop_containers "$work"
  ip netns del $one 2>/dev/null
  ip netns del $two 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

# on NAMESPACE COMMAND...: without `ip netns exec`, which hides the cgroups.
on() { nsenter --net="/var/run/netns/$1" "${@:2}"; }

# machines: two namespaces and a wire between them.
machines() {
  ip netns add $one && ip netns add $two
  ip -n $one link add eth0 type veth peer name eth0 netns $two
  ip -n $one addr add $first/24 dev eth0 && ip -n $two addr add $second/24 dev eth0
  local ns
  for ns in $one $two; do
    ip -n $ns link set lo up && ip -n $ns link set eth0 up
  done
  ip -n $one route add default via $second && ip -n $two route add default via $first
}

# carry NAME ADDRESS: sends from the first machine to the second, once that is reached.
carry() {
  on $two "$binary" bench wire receive "0.0.0.0:$port" &
  local receiver=$! tries=0
  until on $one "$binary" bench wire send "$2:$port" --seconds $seconds --figure "$1" 2>>"$work/wire.log"; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || fail "$2 is not reached: $(tail -1 "$work/wire.log")"
    sleep 0.2
  done
  wait $receiver
}

# cluster BACKEND: a server and an agent; sets $address, the second machine's in the pods' network.
cluster() {
  local dir=$work/$1 range= tries=0
  local ctl=(on $one "$binary" ctl --kubeconfig "$dir/server/server/admin.kubeconfig")
  on $one "$binary" server --data-dir "$dir/server" --node-name one --flannel-backend "$1" --quiet >"$work/$1-1.log" 2>&1 &
  pids+=($!)
  until [ -s "$dir/server/server/token" ] && "${ctl[@]}" get nodes >/dev/null 2>&1; do
    kill -0 "${pids[-1]}" 2>/dev/null || fail "orch server has ended: $(tail -1 "$work/$1-1.log")"
    sleep 0.1
  done
  on $two "$binary" agent --data-dir "$dir/agent" --node-name two --quiet --server https://$first:6443 \
    --token "$(cat "$dir/server/server/token")" >"$work/$1-2.log" 2>&1 &
  pids+=($!)
  until [ -n "$range" ]; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || fail "the second machine is no node: $(tail -1 "$work/$1-2.log")"
    range=$("${ctl[@]}" get node two -o jsonpath='{.spec.podCIDR}' 2>/dev/null || true)
    sleep 0.2
  done
  address=${range%0/*}1
}

machines
carry bare_link $second
for backend in vxlan host-gw; do
  cluster $backend
  carry "overlay_$backend" "$address"
  for pid in "${pids[@]}"; do kill "$pid" && wait "$pid" 2>/dev/null; done
  pids=()
  stop_containers "$work"
done
