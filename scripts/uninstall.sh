#!/bin/sh
# Leaves the machine as it was before orch: `orch uninstall`, wherever orch is.
#
#   sudo scripts/uninstall.sh [--dry-run] [--keep-data]
set -eu
for orch in "$(dirname "$0")/orch" "${INSTALL_ORCH_BIN_DIR:-/usr/local/bin}/orch" "$(command -v orch || true)"; do
  if [ -x "$orch" ] && [ ! -d "$orch" ]; then exec "$orch" uninstall "$@"; fi
done
echo "orch: error: there is no orch here to remove itself; put the program of your release into /usr/local/bin and run this again" >&2
exit 1
