#!/bin/bash
# Installs a built binary and its systemd unit on this machine; an orch that runs is restarted, its pods go on.
#
#   sudo packaging/install.sh BINARY
. "$(dirname "$0")/../scripts/lib.sh"
binary=${1:?usage: packaging/install.sh BINARY (scripts/build.sh prints its path)}
need_root "$binary"
"$ORCH_REPO/scripts/deps.sh" node
# Replaced by renaming: the file of a running program cannot be written.
install -m 755 "$binary" /usr/local/bin/.orch.new
mv /usr/local/bin/.orch.new /usr/local/bin/orch
if [ -d /run/systemd/system ]; then
  install -m 644 "$ORCH_REPO/systemd/orch.service" /etc/systemd/system/orch.service
  systemctl daemon-reload
  systemctl enable --quiet orch
  systemctl restart orch
  good "orch runs as a service: systemctl status orch; kubeconfig: /etc/orch/orch.yaml"
else
  good "/usr/local/bin/orch is installed; there is no systemd here, start it with: orch server"
fi
