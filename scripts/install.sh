#!/bin/sh
# Installs orch: program, service, completion, man pages. It may be run again at any time: with the same settings
# nothing changes and nothing is restarted, with others the difference is installed and the service restarted. Pods go
# on in any case.
#
#   curl -fsSL https://MIRROR/install.sh | INSTALL_ORCH_ARTIFACT_URL=https://MIRROR sh -
#   curl -fsSL https://MIRROR/install.sh | ORCH_URL=https://SERVER:6443 ORCH_TOKEN=TOKEN sh -s - agent
#   ./install.sh [server|agent] [FLAGS]          from an unpacked release or bundle; needs no network
#
# Flags are those of `orch server` or `orch agent`; /etc/orch/config.yaml may hold them, too. A --token goes into a file
# that only root reads.
#
# Environment:
#   ORCH_*                        kept for the service; ORCH_URL makes the role agent
#   INSTALL_ORCH_EXEC             role and flags, in front of the arguments; words are separated by blanks
#   INSTALL_ORCH_ARTIFACT_URL     where releases are: URL/VERSION/orch-VERSION-linux-ARCH.tar.gz, URL/VERSION/SHA256SUMS,
#                                 and URL/latest with a version in it
#   INSTALL_ORCH_VERSION          which release; the latest when not given
#   INSTALL_ORCH_SHA256           the release's checksum from somewhere else than the mirror
#   INSTALL_ORCH_BUNDLE           a release or bundle that is here: a directory, or its tar.gz
#   INSTALL_ORCH_BINARY           a program that was built here
#   INSTALL_ORCH_SKIP_DOWNLOAD    true: the program in BIN_DIR is the one to use
#   INSTALL_ORCH_SKIP_CHECK       true: go on when `orch check` finds errors
#   INSTALL_ORCH_SKIP_ENABLE      true: the service is not started at boot, and not now
#   INSTALL_ORCH_SKIP_START       true: the service is not started now
#   INSTALL_ORCH_FORCE_RESTART    true: the service is restarted even if nothing changed
#   INSTALL_ORCH_SYMLINK          skip: no kubectl; force: even if there is another; else where there is none
#   INSTALL_ORCH_NAME             the service is orch-NAME
#   INSTALL_ORCH_BIN_DIR          /usr/local/bin
#   INSTALL_ORCH_SHARE_DIR        /usr/local/share
#   INSTALL_ORCH_SYSTEMD_DIR      /etc/systemd/system
set -efu
umask 022

CONFIG_DIR=/etc/orch
MANIFEST=$CONFIG_DIR/install.manifest
BIN_DIR=${INSTALL_ORCH_BIN_DIR:-/usr/local/bin}
SHARE_DIR=${INSTALL_ORCH_SHARE_DIR:-/usr/local/share}
SYSTEMD_DIR=${INSTALL_ORCH_SYSTEMD_DIR:-/etc/systemd/system}

say() { printf '%s\n' "orch: $*"; }
warn() { printf '%s\n' "orch: warning: $*" >&2; }
fatal() {
  printf '%s\n' "orch: error: $*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_true() { [ "${1:-}" = true ] || [ "${1:-}" = 1 ]; }

# --- settings -------------------------------------------------------------------------------------------------------

# Sets role, unit, flags (one a line) and token from the words of the command line.
read_settings() {
  role=
  case ${1:-} in
    server | agent) role=$1 && shift ;;
    -* | '') ;;
    *) fatal "no such role: $1 (server or agent)" ;;
  esac
  [ -n "$role" ] || if [ -n "${ORCH_URL:-}" ]; then role=agent; else role=server; fi
  token=${ORCH_TOKEN:-}
  url=${ORCH_URL:-}
  flags= data_dir= check=
  while [ $# -gt 0 ]; do
    case $1 in *"
"*) fatal "a flag has a line's end in it" ;; esac
    case $1 in
      --token | -t) [ $# -gt 1 ] || fatal "$1 needs a value"; token=$2; shift 2; continue ;;
      --token=*) token=${1#*=}; shift; continue ;;
      --server | --join) [ $# -gt 1 ] || fatal "$1 needs a value"; url=$2 ;;
      --server=* | --join=*) url=${1#*=} ;;
      --data-dir | -d) [ $# -gt 1 ] || fatal "$1 needs a value"; data_dir=$2; check="$check--data-dir
$2
" ;;
      --data-dir=*) data_dir=${1#*=}; check="$check$1
" ;;
      --https-listen-port=* | --node-name=* | --disable-agent) check="$check$1
" ;;
      --https-listen-port | --node-name) [ $# -gt 1 ] || fatal "$1 needs a value"; check="$check$1
$2
" ;;
    esac
    flags="$flags$1
"
    shift
  done
  own_data_dir=$data_dir
  # Where else it may be said is for orch itself to read; this is where the images of a bundle go.
  [ -n "$data_dir" ] || data_dir=$(sed -n 's/^data-dir: *"\{0,1\}\([^"#]*[^"# ]\).*/\1/p' $CONFIG_DIR/config.yaml 2>/dev/null || true)
  data_dir=${data_dir:-/var/lib/orch}
  name=orch
  [ "$role" = server ] || name=orch-agent
  [ -z "${INSTALL_ORCH_NAME:-}" ] || name=orch-$INSTALL_ORCH_NAME
  case $name in *[!A-Za-z0-9_.@-]*) fatal "the name $name has characters that a unit's name may not have" ;; esac
  unit=$name.service
  env_file=$CONFIG_DIR/$name.env
  if [ "$role" = agent ]; then
    case $url in
      '') [ -e "$env_file" ] || grep -qsE '^(server|join):' $CONFIG_DIR/config.yaml ||
        fatal "an agent needs a server to join: set ORCH_URL=https://SERVER:6443 and ORCH_TOKEN" ;;
      https://*) ;;
      *) fatal "ORCH_URL must begin with https:// (it is $url)" ;;
    esac
    if [ -n "$url" ] && [ -z "$token" ] && [ -z "${ORCH_TOKEN_FILE:-}" ] && [ ! -e "$env_file" ] &&
      ! grep -qsE '^token(-file)?:' $CONFIG_DIR/config.yaml; then
      fatal "an agent needs a token: set ORCH_TOKEN or ORCH_TOKEN_FILE (on the server: orch ctl token create)"
    fi
  fi
}

# One installation at a time. The lock is on a directory that is there anyway, so nothing of it is left.
take_lock() {
  mkdir -p "$BIN_DIR" || fatal "cannot make $BIN_DIR"
  if have flock; then
    exec 9<"$BIN_DIR"
    flock -n 9 || fatal "another installation of orch runs on this machine; wait for its end"
  else
    lock=$BIN_DIR/.orch-install.lock
    mkdir "$lock" 2>/dev/null || fatal "another installation runs, or was killed; if none does: rmdir $lock"
  fi
}

# --- where the program comes from -----------------------------------------------------------------------------------

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

fetch() {
  case $1 in
    https://* | file://*) ;;
    http://*) [ -n "${INSTALL_ORCH_SHA256:-}" ] ||
      fatal "$1 is not encrypted: use https, or give INSTALL_ORCH_SHA256 that you have from elsewhere" ;;
    *) fatal "$1 is no address of a mirror (https://...)" ;;
  esac
  if have curl; then
    curl -fsSL --retry 3 -o "$2" "$1"
  elif have wget; then
    wget -qO "$2" "$1"
  else
    fatal "neither curl nor wget is here; install one, or use a bundle (INSTALL_ORCH_BUNDLE)"
  fi || fatal "cannot fetch $1"
}

download() {
  base=${INSTALL_ORCH_ARTIFACT_URL:-}
  [ -n "$base" ] || fatal "where from? set INSTALL_ORCH_ARTIFACT_URL, or INSTALL_ORCH_BUNDLE for a release that is here"
  base=${base%/}
  case $(uname -m) in
    x86_64 | amd64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) fatal "there is no release for the architecture $(uname -m)" ;;
  esac
  version=${INSTALL_ORCH_VERSION:-}
  if [ -z "$version" ]; then
    fetch "$base/latest" "$tmp/latest"
    version=$(head -n 1 "$tmp/latest")
  fi
  case $version in '' | */* | *[!A-Za-z0-9.+_-]*) fatal "no such version: $version" ;; esac
  file=orch-$version-linux-$arch.tar.gz
  want=${INSTALL_ORCH_SHA256:-}
  if [ -z "$want" ]; then
    fetch "$base/$version/SHA256SUMS" "$tmp/SHA256SUMS"
    want=$(sed -n "s/^\([0-9a-f]\{64\}\)  $file\$/\1/p" "$tmp/SHA256SUMS")
    [ -n "$want" ] || fatal "$base/$version/SHA256SUMS says nothing of $file"
  fi
  say "fetching $base/$version/$file"
  fetch "$base/$version/$file" "$tmp/$file"
  [ "$(sha256_of "$tmp/$file")" = "$want" ] || fatal "$file is not what its checksum says; nothing was changed"
  unpack "$tmp/$file"
}

unpack() {
  mkdir "$tmp/bundle"
  tar -xzf "$1" -C "$tmp/bundle" 2>"$tmp/tar.log" ||
    fatal "$1 cannot be unpacked ($(tail -n 1 "$tmp/tar.log")): damaged, half copied, or the disk of $tmp is full"
  set +f
  for dir in "$tmp"/bundle/*/; do bundle=${dir%/}; done
  set -f
}

# Every file of a bundle is as its maker left it.
verify_bundle() {
  [ -f "$bundle/SHA256SUMS" ] || fatal "$bundle has no SHA256SUMS: it is no release of orch, or was copied in part"
  grep -q '  orch$' "$bundle/SHA256SUMS" || fatal "$bundle/SHA256SUMS says nothing of the program: it is damaged"
  (cd "$bundle" && sha256sum -c SHA256SUMS >"$tmp/sums" 2>&1) ||
    fatal "$bundle is damaged or was copied in part: $(grep -v ': OK$' "$tmp/sums" | head -n 1); copy it again"
}

# Sets program, and bundle where there is one.
find_program() {
  bundle=
  here=
  case $0 in */*) here=$(cd "$(dirname "$0")" && pwd) ;; esac
  if is_true "${INSTALL_ORCH_SKIP_DOWNLOAD:-}"; then
    program=$BIN_DIR/orch
    [ -x "$program" ] || fatal "INSTALL_ORCH_SKIP_DOWNLOAD is set, but there is no $program"
    return
  elif [ -n "${INSTALL_ORCH_BINARY:-}" ]; then
    program=$INSTALL_ORCH_BINARY
    [ -x "$program" ] || fatal "$program is no program"
    return
  elif [ -d "${INSTALL_ORCH_BUNDLE:-}" ]; then
    bundle=$INSTALL_ORCH_BUNDLE
  elif [ -n "${INSTALL_ORCH_BUNDLE:-}" ]; then
    [ -f "$INSTALL_ORCH_BUNDLE" ] || fatal "there is no $INSTALL_ORCH_BUNDLE"
    unpack "$INSTALL_ORCH_BUNDLE"
  elif [ -n "$here" ] && [ -f "$here/orch" ]; then
    bundle=$here
  else
    download
  fi
  [ -n "$bundle" ] || fatal "the release has no directory in it: it is damaged"
  verify_bundle
  program=$bundle/orch
}

# --- files: all are written beside their places first, then all are renamed -----------------------------------------

# make_dirs DIR: makes it and those above it; those that were not there are written down.
make_dirs() {
  [ ! -d "$1" ] || return 0
  make_dirs "$(dirname "$1")"
  mkdir "$1" || fatal "cannot make $1"
  printf 'dir %s\n' "$1" >>"$tmp/dirs"
}

# stage SOURCE PLACE MODE: nothing when the same is there already.
stage() {
  make_dirs "$(dirname "$2")"
  printf 'file %s\n' "$2" >>"$tmp/manifest"
  if cmp -s "$1" "$2" && [ "$(stat -c %a "$2")" = "$3" ]; then return; fi
  new=$(dirname "$2")/.$(basename "$2").orch-new
  printf '%s\n' "$new" >>"$tmp/staged"
  rm -f "$new"
  # The mode first: what is secret is never for others, not for a moment.
  (umask 077 && : >"$new") && chmod "$3" "$new" && cat "$1" >"$new" && cmp -s "$1" "$new" ||
    fatal "cannot write $2 (is the disk full?); nothing was changed"
}

commit() {
  [ -s "$tmp/staged" ] || return 0
  # What is renamed is whole on the disk, whatever happens next.
  sync
  while read -r new; do
    place=$(dirname "$new")/$(basename "$new" .orch-new | cut -c2-)
    mv -f "$new" "$place" || fatal "cannot replace $place"
  done <"$tmp/staged"
  : >"$tmp/staged"
}

clean_up() {
  code=$?
  trap - EXIT
  if [ -s "$tmp/staged" ]; then
    while read -r new; do rm -f "$new"; done <"$tmp/staged"
  fi
  # Directories that were made for nothing.
  if [ "$code" -ne 0 ] && [ -z "${committed:-}" ] && [ -s "$tmp/dirs" ]; then
    sed -n 's/^dir //p' "$tmp/dirs" | sort -r | while read -r dir; do rmdir "$dir" 2>/dev/null || true; done
  fi
  [ -z "${lock:-}" ] || rmdir "$lock"
  rm -rf "$tmp"
  exit "$code"
}

# A value as systemd reads it from an EnvironmentFile.
env_line() {
  case $2 in *"
"*) fatal "$1 has a line's end in it" ;; esac
  printf '%s="%s"\n' "$1" "$(printf '%s' "$2" | sed 's/[\\"$`]/\\&/g')"
}

# What of the environment is the service's.
write_env() {
  for key in $(env | sed -n 's/^\(ORCH_[A-Z0-9_]*\)=.*/\1/p;s/^\([Hh][Tt][Tt][Pp][Ss]\{0,1\}_[Pp][Rr][Oo][Xx][Yy]\)=.*/\1/p;s/^\([Nn][Oo]_[Pp][Rr][Oo][Xx][Yy]\)=.*/\1/p' | sort); do
    [ "$key" = ORCH_TOKEN ] || eval "env_line $key \"\$$key\""
  done
  [ -z "$token" ] || env_line ORCH_TOKEN "$token"
}

# as_lines COMMAND...: runs it with the lines of standard input as more arguments.
as_lines() {
  while IFS= read -r word; do set -- "$@" "$word"; done
  "$@"
}

stage_all() {
  # The program first, and what it says of itself from there: a place for temporary files may forbid programs.
  stage "$program" "$BIN_DIR/orch" 755
  run=$BIN_DIR/.orch.orch-new
  [ -e "$run" ] || run=$BIN_DIR/orch
  "$run" --version >"$tmp/version" 2>&1 || fatal "$program does not run on this machine: $(head -n 1 "$tmp/version")"
  printf %s "$check" | as_lines "$run" check "$role" >"$tmp/check" 2>&1 || {
    cat "$tmp/check" >&2
    is_true "${INSTALL_ORCH_SKIP_CHECK:-}" ||
      fatal "this machine is not ready for orch, see above; INSTALL_ORCH_SKIP_CHECK=true goes on all the same"
  }
  grep -A1 '^warning' "$tmp/check" >&2 || true

  write_env >"$tmp/env"
  # A run that says nothing of it keeps what is there.
  if [ -s "$tmp/env" ] || [ ! -e "$env_file" ]; then
    stage "$tmp/env" "$env_file" 600
  else
    printf 'file %s\n' "$env_file" >>"$tmp/manifest"
  fi
  if [ -n "$systemd" ]; then
    printf %s "$flags" | as_lines "$run" unit "$role" --binary "$BIN_DIR/orch" --environment "$env_file" -- >"$tmp/unit" ||
      fatal "cannot make the unit"
    stage "$tmp/unit" "$SYSTEMD_DIR/$unit" 644
    printf 'unit %s\n' "$unit" >>"$tmp/manifest"
  fi
  for shell in bash:bash-completion/completions/orch zsh:zsh/site-functions/_orch fish:fish/vendor_completions.d/orch.fish; do
    "$run" completion "${shell%%:*}" >"$tmp/completion"
    stage "$tmp/completion" "$SHARE_DIR/${shell#*:}" 644
  done
  mkdir "$tmp/man" && "$run" man "$tmp/man"
  for page in $(ls "$tmp/man"); do stage "$tmp/man/$page" "$SHARE_DIR/man/man1/$page" 644; done
  printf '#!/bin/sh\n# Leaves the machine as it was before orch.\nexec %s uninstall "$@"\n' "$BIN_DIR/orch" >"$tmp/uninstall"
  stage "$tmp/uninstall" "$BIN_DIR/orch-uninstall.sh" 755
  if [ -n "$bundle" ] && [ -d "$bundle/images" ]; then
    # Below the data directory, which goes as a whole.
    for image in $(ls "$bundle/images"); do
      umask 077
      make_dirs "$data_dir/agent/images"
      umask 022
      listed=$(cat "$tmp/manifest")
      stage "$bundle/images/$image" "$data_dir/agent/images/$image" 644
      printf '%s\n' "$listed" >"$tmp/manifest"
    done
  fi
  link_kubectl
  stage_manifest
}

# A kubectl for those who have none.
link_kubectl() {
  link=$BIN_DIR/kubectl
  case ${INSTALL_ORCH_SYMLINK:-} in
    skip) return ;;
    force) make_link=true ;;
    *) if [ "$(readlink "$link" 2>/dev/null)" = orch ] || { [ ! -e "$link" ] && ! have kubectl; }; then make_link=true; else return 0; fi ;;
  esac
  printf 'link %s -> orch\n' "$link" >>"$tmp/manifest"
}

stage_manifest() {
  # What an earlier run made and this one does not is still orch's to remove.
  cat "$MANIFEST" "$tmp/dirs" "$tmp/manifest" 2>/dev/null | grep -v -e '^#' -e '^data ' | sort -u >"$tmp/all" || true
  {
    echo '# What the installer of orch put here; orch uninstall reads it.'
    [ -z "$own_data_dir" ] || printf 'data %s\n' "$data_dir"
    cat "$tmp/all"
  } >"$tmp/full"
  stage "$tmp/full" "$MANIFEST" 644
}

# --- the service ----------------------------------------------------------------------------------------------------

# Two orchs cannot share a data directory.
refuse_other_role() {
  [ -n "$systemd" ] || return 0
  for other in orch.service orch-agent.service; do
    if [ "$other" != "$unit" ] && systemctl is-active --quiet "$other"; then
      fatal "$other runs on this machine; remove it first: orch-uninstall.sh (with --keep-data its state stays)"
    fi
  done
}

start_service() {
  if [ -z "$systemd" ]; then
    say "installed; there is no systemd here, so nothing starts orch at boot"
    say "start it with: $BIN_DIR/orch $role $(printf %s "$flags" | tr '\n' ' ')"
    if [ -x /sbin/openrc-run ]; then
      say "OpenRC: a service with supervisor=supervise-daemon, command=$BIN_DIR/orch and command_args=$role does that;"
      say "  the settings in $env_file go into /etc/conf.d"
    fi
    return
  fi
  systemctl daemon-reload
  ! is_true "${INSTALL_ORCH_SKIP_ENABLE:-}" || return 0
  systemctl enable --quiet "$unit"
  ! is_true "${INSTALL_ORCH_SKIP_START:-}" || return 0
  if [ -z "$changed" ] && ! is_true "${INSTALL_ORCH_FORCE_RESTART:-}" && systemctl is-active --quiet "$unit"; then
    say "nothing has changed; $unit runs on"
    return
  fi
  say "starting $unit"
  systemctl restart "$unit" || fatal "$unit does not start; see: journalctl -u $unit"
  if [ "$role" = server ]; then
    say "ready: systemctl status $unit; kubeconfig: $CONFIG_DIR/orch.yaml"
  else
    say "ready: systemctl status $unit"
  fi
}

main() {
  # shellcheck disable=SC2086 # words
  set -- ${INSTALL_ORCH_EXEC:-} "$@"
  read_settings "$@"
  [ "$(id -u)" -eq 0 ] || fatal "must be root (curl ... | sudo sh -, or sudo ./install.sh)"
  systemd=
  if [ -d /run/systemd/system ] && have systemctl; then systemd=yes; fi
  take_lock
  tmp=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT TERM HUP
  : >"$tmp/staged" && : >"$tmp/dirs" && : >"$tmp/manifest" || fatal "cannot write to $tmp (is the disk full?)"
  refuse_other_role
  find_program
  make_link= changed=
  stage_all
  [ ! -s "$tmp/staged" ] || changed=yes
  commit
  committed=yes
  [ -z "$make_link" ] || [ "$(readlink "$BIN_DIR/kubectl" 2>/dev/null)" = orch ] || ln -sf orch "$BIN_DIR/kubectl"
  say "$(cat "$tmp/version") is in $BIN_DIR"
  start_service
}

# Read whole before anything happens: a download that breaks off runs nothing.
main "$@"
