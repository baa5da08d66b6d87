#!/bin/bash
# Builds the static binary and prints its path, after it was checked to be static.
#
#   scripts/build.sh [--profile NAME] [--target TRIPLE]
#
# The default is the stripped release for this machine; another target needs its linker (Debian:
# gcc-aarch64-linux-gnu) and standard library (rustup target add).
. "$(dirname "$0")/lib.sh"

profile=release
target=
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a name} && shift 2 ;;
    --target) target=${2:?--target needs a triple} && shift 2 ;;
    *) fail "no such option: $1 (--profile NAME, --target TRIPLE)" ;;
  esac
done

# Most that a release may weigh, bytes.
budget=$((40 * 1000 * 1000))

need_cargo
"$ORCH_REPO/scripts/deps.sh" build
host=$(rustc -vV | sed -n 's/^host: //p')
target=${target:-${host%%-*}-unknown-linux-gnu}
linker=${target%%-*}-linux-gnu-gcc
# With a target named, build scripts and procedural macros stay dynamic: flags are the target's alone.
export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
if [ "$target" != "$host" ]; then
  have "$linker" || fail "no linker for $target; run: sudo apt-get install gcc-${target%%-*}-linux-gnu"
  export "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=$linker"
fi

# Without AES for AVX-512, 0.7 MB of unrolled code: AVX2 and AES-NI are as fast as any network.
export AWS_LC_SYS_CFLAGS="${AWS_LC_SYS_CFLAGS:-} -DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX"
# Equal functions are kept once, where the linker can do that: LLD, which rustc brings for some targets.
fold='-C link-arg=-Wl,--icf=all'
probe=$(mktemp)
if echo 'fn main() {}' | rustc --target "$target" $RUSTFLAGS $fold -o "$probe" - 2>/dev/null; then
  RUSTFLAGS="$RUSTFLAGS $fold"
fi
rm -f "$probe"

step "Building a static orch for $target (profile $profile)"
cd "$ORCH_REPO"
cargo build --quiet --locked --profile "$profile" --target "$target" --bin orch >&2 &
wait_showing $! building || fail "orch does not build; the compiler's messages are above"

binary=$(target_dir)/$target/$profile/orch
{ LC_ALL=C ldd "$binary" 2>&1 || true; } | grep -qE 'statically linked|not a dynamic executable' ||
  fail "$binary is not static: $(ldd "$binary" | head -3 | tr -s '\n\t ' ' ')"
size=$(stat -c %s "$binary")
good "$((size / 1000000)).$((size / 100000 % 10)) MB, static"
if [ "$profile" = release ] && [ "$size" -gt $budget ]; then
  info "that is over the budget of $((budget / 1000000)) MB"
fi
echo "$binary"
