#!/bin/bash
# Runs in the emulated machine of scripts/vm-test.sh, as root under systemd: installs orch from the bundle beside it, runs
# pods, restarts, kills and hangs it, removes it, and compares the machine before and after; then the same with the
# Debian package. The file `half` beside it says which of the two. A line for each thing that was looked at.
cd "$(dirname "$0")" || exit 1
export KUBECONFIG=/etc/orch/orch.yaml

check() { # check WHAT COMMAND...
  local what=$1
  shift
  if "$@" >/tmp/check.out 2>&1; then echo "ok $what ($SECONDS s)"; else
    echo "not ok $what ($SECONDS s)"
    sed 's/^/# /' /tmp/check.out | tail -60
  fi
}
same() { [ "$1" = "$2" ] || { echo "$1"; echo "is not"; echo "$2"; return 1; }; }
patiently() { # patiently SECONDS COMMAND...: until it succeeds; an emulator that shares its processors is slower still
  local end=$((SECONDS + $1 * 3))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { "$@"; return 1; }
    sleep 2
  done
}
k() { orch ctl "$@"; }
node_ready() { k get node vm -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
ids() { k get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}'; }
main_pid() { systemctl show -p MainPID --value orch; }

# What a person would look at. Logs and caches of the system itself change all the time, and the private directories of its
# services have another name each time that one is started: on a busy machine systemd's watchdog restarts some of them.
snapshot() {
  echo "--- files"
  find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log/journal -o -path /var/cache \
    -o -path /mnt -o -path /var/lib/systemd -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/log/apt \
    -o -path /var/log/dpkg.log -o -path /root -o -path /var/lib/private -o -path '/var/tmp/systemd-private-*' \) -prune -o -printf '%M %u %p %l\n' | sort
  echo "--- run"
  find /run \( -path /run/systemd -o -path /run/log -o -path /run/udev -o -path /run/credentials -o -path '/run/user*' \) -prune -o -printf '%M %p %l\n' | sort
  echo "--- units"
  ls -lR /etc/systemd/system | awk '{print $1, $9, $10, $11}'
  systemctl list-units --all --no-legend --plain 'orch*'
  echo "--- processes"
  ps -eo args= | grep -E 'orch|containerd|runc|pause|shim' | grep -v grep
  echo "--- mounts"
  awk '{print $5, $9}' /proc/self/mountinfo | sort
  echo "--- network"
  ip -br link | awk '{print $1}'
  ip -br address | awk '{print $1, $3}'
  ip route show table all | grep -v -E 'expires|fe80|multicast'
  nft list ruleset
  ls /run/netns 2>&1
  echo "--- cgroups"
  find /sys/fs/cgroup -maxdepth 2 -type d | grep -E 'kubepods|orch'
}

bundle() {
  mkdir -p /tmp/b && tar -xzf */orch-*-airgap.tar.gz -C /tmp/b && mv /tmp/b/orch-* /tmp/bundle
}

pods() {
  cat <<'Y'
apiVersion: v1
kind: Pod
metadata: {name: limits, labels: {app: limits}}
spec:
  volumes: [{name: d, emptyDir: {medium: Memory}}]
  containers:
  - name: main
    image: localhost/orch/web:v1
    resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts: [{name: d, mountPath: /work}]
---
apiVersion: v1
kind: Pod
metadata: {name: effort}
spec:
  containers: [{name: main, image: "localhost/orch/web:v1", command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "localhost/orch/web:v1", command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=200M count=5"], resources: {limits: {memory: 16Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: limits}
spec: {selector: {app: limits}, ports: [{port: 80, targetPort: 8080}]}
Y
}

in_cgroup() { # in_cgroup FILE VALUE: the container of pod limits
  local uid
  uid=$(k get pod limits -o jsonpath={.metadata.uid})
  local id
  id=$(k get pod limits -o 'jsonpath={.status.containerStatuses[0].containerID}')
  [ -n "$id" ] || { echo "it has no container"; return 1; }
  same "$(cat "/sys/fs/cgroup/kubepods/burstable/pod$uid/${id#containerd://}/$1")" "$2" &&
    same "$(cat "/sys/fs/cgroup/kubepods/burstable/pod$uid/${3:-$1}")" "$2"
}

answers() { curl -sS -m 20 "http://$(k get service limits -o jsonpath={.spec.clusterIP})/" | grep -q v1; }
oom_killed() { k get pod hog -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason}' | grep -qx OOMKilled; }

# What there is to know when pods do not run.
explain() {
  k get pods -o wide
  k get events
  uptime
  journalctl -u orch -n 25 --no-pager
  return 1
}

# Restarts it in some way, and looks whether pods were disturbed.
survives() { # survives WHAT COMMAND...
  local what=$1 before pid
  shift
  before=$(ids)
  pid=$(main_pid)
  "$@"
  check "$what: another process" patiently 240 eval "[ \$(main_pid) != $pid ] && [ \$(main_pid) != 0 ]"
  check "$what: the service is ready" patiently 240 systemctl is-active --quiet orch
  check "$what: the node is Ready" patiently 240 node_ready
  check "$what: no container was touched" same "$(ids)" "$before"
  check "$what: the Service answers" patiently 60 answers
}

run_pods() {
  check "the demo's image of the bundle is there" patiently 120 import_web
  check "pods are created" patiently 60 eval 'pods | k apply -f -'
  check "pods are Ready" eval 'patiently 300 k wait --for=condition=Ready pod/limits pod/effort --timeout=20s || explain'
  check "the Service answers" patiently 60 answers
}
# From the directory of images; by hand where this orch does not read it yet.
import_web() {
  k image ls 2>/dev/null | grep -q 'orch/web' || k image import /tmp/bundle/images/orch-demo-v1.tar
}

from_bundle() {
  : >/tmp/check.out
  snapshot >/tmp/before
  echo "# installing"
  check "orch check finds nothing bad" /tmp/bundle/orch check
  check "installed, and ready when the installer ends" sh /tmp/bundle/install.sh server
  check "the service is active" systemctl is-active --quiet orch
  check "the manager knows how it is" eval 'systemctl show -p StatusText orch | grep "serving the API"'
  check "the node is Ready" patiently 240 node_ready
  pid=$(main_pid)
  check "installed again" sh /tmp/bundle/install.sh server
  check "the same settings restart nothing" same "$(main_pid)" "$pid"
  run_pods
  check "memory.max" in_cgroup memory.max 67108864
  check "cpu.max" in_cgroup cpu.max "50000 100000"
  check "what takes too much memory is killed" patiently 120 oom_killed
  # The pod that was killed has its share no more.
  weights() { same "$(cat /sys/fs/cgroup/kubepods/besteffort/cpu.weight) $(cat /sys/fs/cgroup/kubepods/burstable/cpu.weight)" "1 10"; }
  check "weights of classes" patiently 30 weights
  check "pods are not in the service's cgroup" eval '! systemd-cgls --no-pager -u orch.service | grep -E "pause|httpd"'
  echo "# restarting"
  survives "restart" systemctl restart orch
  survives "kill -9" systemctl kill -s KILL --kill-who=main orch
  survives "hang" systemctl kill -s STOP --kill-who=main orch
  survives "other settings" sh /tmp/bundle/install.sh server --node-label=a=b
  systemctl daemon-reload
  check "a reload of the manager keeps the weights" same "$(cat /sys/fs/cgroup/kubepods/besteffort/cpu.weight)" 1
  check "a clean stop" eval 'systemctl stop orch && same "$(systemctl show -p Result --value orch)" success'
  check "pods go on without it" eval '[ $(pgrep -c -x httpd) = 1 ]'
  systemctl start orch
  echo "# removing"
  check "what would be removed is told" eval 'orch-uninstall.sh --dry-run >/tmp/told && grep -q "^would " /tmp/told && ! grep -v "^would " /tmp/told'
  check "and telling does nothing" eval 'node_ready && answers'
  check "removed" orch-uninstall.sh
  check "removed again" sh /tmp/bundle/uninstall.sh
  snapshot >/tmp/after
  check "the machine is as it was" diff /tmp/before /tmp/after
}

from_package() {
  echo "# Debian package"
  # The shell remembers where programs were, and this one is somewhere else.
  hash -r
  : >/tmp/check.out
  snapshot >/tmp/before
  check "the package is installed" dpkg -i */orch_*.deb
  systemctl enable -q --now orch
  check "the node is Ready" patiently 240 node_ready
  run_pods
  before=$(ids)
  check "installed over itself" dpkg -i */orch_*.deb
  check "the node is Ready again" patiently 240 node_ready
  check "no container was touched" same "$(ids)" "$before"
  check "removed, its state kept" eval 'dpkg -r orch && [ -d /var/lib/orch/server ] && ! pgrep -f containerd-shim'
  check "purged" dpkg -P orch
  snapshot >/tmp/after
  check "the machine is as it was" diff /tmp/before /tmp/after
}

check "cgroup v2" same "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
bundle
for half in $(cat half); do "from_$half"; done
echo "all done"
