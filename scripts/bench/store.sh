#!/bin/sh
# Measures the durable store on the disk that holds DIRECTORY (default: the temporary directory).
# usage: scripts/bench/store.sh [DIRECTORY]
set -eu
cd "$(dirname "$0")/../.."
exec cargo run --profile "${ORCH_BENCH_PROFILE:-release}" --quiet --example bench_store -- "$@"
