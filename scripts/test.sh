#!/bin/bash
# Passes every test of orch: installs what they need, then format and lints where their tools are there, units, components,
# and real containers end to end.
#
#   sudo scripts/test.sh
#
# The end-to-end tests have network namespaces and directories of their own and leave nothing behind; an orch that runs
# on this machine is not disturbed.
. "$(dirname "$0")/lib.sh"
cd "$ORCH_REPO"

need_root
need_cgroups
need_cargo
scripts/deps.sh test
ORCH_KUBECTL=$(scripts/deps.sh kubectl)
export ORCH_KUBECTL

if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then
  scripts/check
else
  echo "no rustfmt or no clippy here: format and lints are not checked (rustup component add rustfmt clippy)"
  scripts/check --tests
fi

step "End-to-end tests: building (profile quick)"
cargo test --quiet --locked --profile quick --test e2e --no-run &
wait_showing $! "building" || fail "the end-to-end tests do not build; the compiler's messages are above"
step "End-to-end tests: real processes, real containers"
cargo test --locked --profile quick --test e2e || fail "an end-to-end test has failed, see above"
step "Every test has passed"
