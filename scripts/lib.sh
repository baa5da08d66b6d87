# Shared by the scripts beside it: source it, do not run it. Everything it says goes to standard error, so that a
# script's standard output is its result.

set -euo pipefail

ORCH_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What is fetched or built once and kept, outside of the clone.
ORCH_CACHE=${ORCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/orch}

# --- words ----------------------------------------------------------------------------------------------------------

if [ -t 2 ]; then
  _bold=$'\e[1m' _dim=$'\e[2m' _red=$'\e[31m' _green=$'\e[32m' _off=$'\e[0m'
else
  _bold='' _dim='' _red='' _green='' _off=''
fi
_start=$SECONDS

# A step that follows; the time since the start stands in front.
step() { printf '%s[%3d s]%s %s%s%s\n' "$_dim" $((SECONDS - _start)) "$_off" "$_bold" "$*" "$_off" >&2; }
# A detail of the step.
info() { printf '        %s\n' "$*" >&2; }
# A detail that was checked and is true.
good() { printf '     %s✓%s  %s\n' "$_green" "$_off" "$*" >&2; }
# The end: one line that says what is missing and what to do.
fail() {
  printf '%serror:%s %s\n' "$_red" "$_off" "$*" >&2
  exit 1
}

# --- what must be there ---------------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

need_root() { [ "$(id -u)" -eq 0 ] || fail "must be root to run containers; run: sudo $0${1:+ $1}"; }

need_cgroups() {
  grep -qE '^cgroup2? ' <(cut -d' ' -f3- /proc/mounts) ||
    fail "no cgroups are mounted below /sys/fs/cgroup; containers cannot run in this environment"
}

# rustup keeps cargo in the home of whoever installed it, and sudo's PATH does not have it.
need_cargo() {
  local home candidate
  if ! have cargo; then
    home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)
    for candidate in "$HOME/.cargo/bin" "$home/.cargo/bin" /usr/local/cargo/bin; do
      if [ -x "$candidate/cargo" ]; then
        PATH=$candidate:$PATH
        # A cargo of somebody else's rustup needs that rustup's toolchains.
        [ "$candidate" = "$HOME/.cargo/bin" ] || export RUSTUP_HOME=${RUSTUP_HOME:-${candidate%/.cargo/bin}/.rustup}
        break
      fi
    done
  fi
  have cargo || fail "cargo not found; install Rust (rustup) and run this again"
}

# --- building -------------------------------------------------------------------------------------------------------

# Where cargo puts what it builds.
target_dir() { echo "${CARGO_TARGET_DIR:-$ORCH_REPO/target}"; }

# Builds `orch` with a profile and prints the binary's path. Says nothing when there is nothing to do.
build_orch() {
  local profile=$1
  step "Building orch (profile $profile; the first build takes minutes)"
  (cd "$ORCH_REPO" && cargo build --quiet --locked --profile "$profile" --bin orch >&2 & wait_showing $! "building") ||
    fail "orch does not build; the compiler's messages are above"
  echo "$(target_dir)/$profile/orch"
}

# Waits for a process and shows every half minute that it is still at work.
wait_showing() {
  local pid=$1 what=$2 since=$SECONDS shown=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if ((SECONDS - since >= shown + 30)); then
      shown=$((SECONDS - since))
      info "still $what after $shown s"
    fi
  done
  wait "$pid"
}

# --- waiting --------------------------------------------------------------------------------------------------------

# until_true SECONDS WHAT COMMAND...: asks until the command succeeds; fails with WHAT when the time is over, or at once
# with $why when the command sets it: it can never succeed. Where there is a function `hindrance`, what it prints is told, too.
until_true() {
  local limit=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  why=
  until "$@" >/dev/null 2>&1; do
    [ -z "$why" ] || fail "$why"
    ((SECONDS < end)) || fail "$what: not within $limit s$(hindrance 2>/dev/null || true)"
    sleep 0.2
  done
}

# --- a node's remains -----------------------------------------------------------------------------------------------

# Processes whose command line names a path below DIR.
_processes_of() {
  local dir=$1 file
  for file in /proc/[0-9]*/cmdline; do
    # A process may end while it is looked at.
    if { tr '\0' '\n' <"$file"; } 2>/dev/null | grep -qF -- "$dir/"; then
      file=${file%/cmdline}
      [ "${file#/proc/}" = "$$" ] || echo "${file#/proc/}"
    fi
  done
}

_children_of() {
  local pid child
  for pid; do
    for child in $(cat "/proc/$pid/task/"*/children 2>/dev/null); do
      echo "$child"
      _children_of "$child"
    done
  done
}

# stop_containers DIR...: ends the private containerd that works below the directories, its containers and their
# network namespaces and mounts. Nothing else is touched.
stop_containers() {
  local dir pids children pid ns mount
  for dir; do
    pids=$(_processes_of "$dir")
    # shellcheck disable=SC2086 # lists of numbers
    children=$(_children_of $pids)
    local namespaces=()
    for pid in $children; do
      for ns in /run/netns/cni-*; do
        [ -e "$ns" ] && [ "$(stat -Lc %i "$ns")" = "$(stat -Lc %i "/proc/$pid/ns/net" 2>/dev/null)" ] && namespaces+=("$ns")
      done
    done
    # shellcheck disable=SC2086
    [ -z "$pids$children" ] || kill -9 $pids $children 2>/dev/null || true
    for ns in "${namespaces[@]}"; do
      umount -l "$ns" 2>/dev/null || true
      rm -f "$ns"
    done
    # The kernel names mounts by their real places.
    awk -v d="$(realpath -m -- "$dir")/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | tac | while read -r mount; do
      umount -l "$(printf '%b' "$mount")" 2>/dev/null || true
    done
  done
}
