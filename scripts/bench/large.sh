#!/bin/bash
# What the measurements of large clusters share; sourced by them. Reads their options, makes $binary and $work, and starts a
# control plane whose range of pod addresses is large enough for thousands of nodes. The caller sets $port, and the defaults
# of $nodes and $pods.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

profile=release binary=
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a name} && shift 2 ;;
    --binary) binary=$(realpath "${2:?--binary needs a file}") && shift 2 ;;
    --nodes) nodes=${2:?--nodes needs a number} && shift 2 ;;
    --pods) pods=${2:?--pods needs a number} && shift 2 ;;
    *) fail "no such option: $1" ;;
  esac
done
have curl || fail "curl not found; run: sudo scripts/deps.sh test"
if [ -z "$binary" ]; then
  need_cargo
  binary=$(build_orch "$profile")
fi
work=$(mktemp -d /tmp/orch-bench.XXXXXX)
# Processes to end, the last one first.
started=()
stop() {
  local i
  for ((i = ${#started[@]} - 1; i >= 0; i--)); do
    { kill "${started[i]}" && wait "${started[i]}" || true; } 2>/dev/null
  done
  started=()
}
trap 'stop; rm -rf "$work"' EXIT

# start_server FLAGS...: an empty control plane, ready; sets $server, and exports KUBECONFIG.
start_server() {
  local code=
  rm -rf "$work/data"
  "$binary" server --data-dir "$work/data" --https-listen-port "$port" --disable-agent --disable coredns \
    --cluster-cidr 100.64.0.0/10 --quiet "$@" >>"$work/log" 2>&1 &
  server=$!
  started+=($server)
  until [ "$code" = 200 ]; do
    kill -0 $server 2>/dev/null || fail "orch server has ended: $(tail -1 "$work/log")"
    code=$(curl -sk -o /dev/null -w '%{http_code}' "https://127.0.0.1:$port/readyz" || true)
    [ "$code" = 200 ] || sleep 0.1
  done
  export KUBECONFIG=$work/data/server/admin.kubeconfig
}
