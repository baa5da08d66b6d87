#!/bin/bash
# Measures `orch agent`: how long a machine takes to become a node, and what the agent uses while nothing happens. One
# figure a line on standard output, as JSON.
#
#   scripts/bench/agent.sh [--profile release|quick] [--binary FILE] [ROUNDS]
#
# Server and agent are network namespaces of this machine, joined by a wire; needs root. Each round is a fresh machine.
. "$(dirname "$0")/../lib.sh"

profile=release binary= rounds=3
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a name} && shift 2 ;;
    --binary) binary=$(realpath "${2:?--binary needs a file}") && shift 2 ;;
    [1-9]*) rounds=$1 && shift ;;
    *) fail "no such option: $1" ;;
  esac
done
need_root
need_cgroups
if [ -z "$binary" ]; then
  if [ "$profile" = release ]; then
    binary=$("$ORCH_REPO/scripts/build.sh")
  else
    need_cargo
    binary=$(build_orch "$profile")
  fi
fi

# Seconds over which idle CPU is counted, and after which nothing is left of the work before.
idle_seconds=60 settle_seconds=20
work=$(mktemp -d /tmp/orch-bench.XXXXXX)
tag=orch-bench-$$
server='' agent=''
finish() {
  kill $agent $server 2>/dev/null || true
  wait 2>/dev/null || true
  stop_containers "$work"
  ip netns del $tag-a 2>/dev/null || true
  ip netns del $tag-s 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
figure() { printf '{"figure":"%s","value":%s,"unit":"%s","budget":%s}\n' "$1" "$2" "$3" "${4:-null}"; }
now_ms() { date +%s%3N; }
on() { nsenter --net="/var/run/netns/$tag-$1" "${@:2}"; }
ctl() { on s "$binary" ctl --kubeconfig "$work/server/server/admin.kubeconfig" "$@"; }
ready() { ctl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null || true; }
# wait_for WHAT COMMAND...: until the command says True, a minute at most.
wait_for() {
  local what=$1 from
  shift
  from=$(now_ms)
  until [ "$("$@")" = True ]; do
    [ $(($(now_ms) - from)) -lt 60000 ] || fail "$what: not within a minute; $(tail -3 "$work"/agent*.log 2>/dev/null)"
    sleep 0.02
  done
}
answers() { ctl get --raw /readyz >/dev/null 2>&1 && echo True; }

# machine SIDE NUMBER: an address and a way for one end of the wire.
machine() {
  ip -n "$tag-$1" link set lo up
  ip -n "$tag-$1" addr add "198.51.100.$2/24" dev up0
  ip -n "$tag-$1" link set up0 up
  ip -n "$tag-$1" route add default dev up0
}
# fresh_agent: a machine that was never a node.
fresh_agent() {
  ip netns del $tag-a 2>/dev/null || true
  ip netns add $tag-a
  ip -n $tag-s link del up0 2>/dev/null || true
  ip -n $tag-s link add up0 type veth peer name up0 netns $tag-a
  machine s 1
  machine a 2
}
ip netns add $tag-s
fresh_agent

step "A server without a node"
# The process is orch itself, not a shell around it.
nsenter --net="/var/run/netns/$tag-s" "$binary" server --data-dir "$work/server" --disable-agent --node-ip 198.51.100.1 --quiet >"$work/server.log" 2>&1 &
server=$!
wait_for "the server is ready" answers
token=$(cat "$work/server/server/token")
# Machines share no memory: pages of a file that both run would count half for each.
program=$work/orch-agent
cp "$binary" "$program"

for ((round = 1; round <= rounds; round++)); do
  step "Join, round $round"
  [ "$round" -eq 1 ] || fresh_agent
  from=$(now_ms)
  nsenter --net="/var/run/netns/$tag-a" "$program" agent --data-dir "$work/agent-$round" --node-name "n$round" --node-ip 198.51.100.2 --quiet \
    --join https://198.51.100.1:6443 --token "$token" >"$work/agent.log" 2>&1 &
  agent=$!
  wait_for "node n$round is Ready" ready "n$round"
  figure "agent --join to node Ready" $(($(now_ms) - from)) ms
  [ "$round" -eq "$rounds" ] && break
  kill $agent
  wait $agent 2>/dev/null || true
  stop_containers "$work/agent-$round"
done

step "Idle agent, $idle_seconds s"
sleep $settle_seconds
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{print $12 + $13}'; }
before=$(ticks $agent)
sleep $idle_seconds
figure "idle CPU, agent without pods" "$(awk -v t=$(($(ticks $agent) - before)) -v hz="$(getconf CLK_TCK)" \
  -v s=$idle_seconds 'BEGIN {printf "%.2f", 100 * t / hz / s}')" "% of a core"
figure "idle memory, agent (PSS)" "$(awk '/^Pss:/ {printf "%.1f", $2 / 1000}' "/proc/$agent/smaps_rollup")" MB 20
