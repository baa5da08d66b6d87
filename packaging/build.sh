#!/bin/bash
# Packs a built binary: a release, an air-gap bundle with images, a Debian package, checksums. What comes out is a mirror
# that scripts/install.sh installs from.
#
#   packaging/build.sh BINARY [--out DIR] [--image FILE.tar]...
#
#   DIR/VERSION/orch-VERSION-linux-ARCH.tar.gz           program, installer
#   DIR/VERSION/orch-VERSION-linux-ARCH-airgap.tar.gz    and images, those of the demo beside the named ones; orch itself
#                                                        needs none, its pause image is in the program
#   DIR/VERSION/orch_VERSION_ARCH.deb
#   DIR/VERSION/SHA256SUMS, DIR/latest, DIR/install.sh
. "$(dirname "$0")/../scripts/lib.sh"

binary=
out=$ORCH_REPO/target/packages
images=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a directory} && shift 2 ;;
    --image) images+=("$(realpath "${2:?--image needs a file}")") && shift 2 ;;
    -*) fail "no such option: $1 (--out DIR, --image FILE)" ;;
    *) binary=$(realpath "$1") && shift ;;
  esac
done
[ -x "$binary" ] || fail "usage: $0 BINARY [--out DIR] [--image FILE]... (scripts/build.sh prints the binary's path)"
for tool in tar gzip sha256sum dpkg-deb od; do have $tool || fail "$tool not found"; done

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$ORCH_REPO/Cargo.toml" | head -1)
# The machine of an ELF file: two bytes at 18.
case $(od -An -tx1 -j18 -N2 "$binary" | tr -d ' ') in
  3e00) arch=amd64 ;;
  b700) arch=arm64 ;;
  *) fail "$binary is no program for x86_64 or aarch64" ;;
esac
# Completions and man pages are printed by the program, so it must run here.
said=$("$binary" --version) || fail "$binary does not run on this machine"
[ "$said" = "orch $version" ] || fail "$binary is $said, Cargo.toml says $version: build it again"

dest=$out/$version
name=orch-$version-linux-$arch
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$dest"
dest=$(realpath "$dest")
# The same inputs give the same bytes.
date=@${SOURCE_DATE_EPOCH:-$(git -C "$ORCH_REPO" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH=${date#@}
pack() { # pack DIR FILE
  (cd "$(dirname "$1")" && tar --sort=name --mtime="$date" --owner=0 --group=0 --numeric-owner -cf - "$(basename "$1")") |
    gzip -n >"$2.new" && mv "$2.new" "$2"
}
sums() { (cd "$1" && find . -type f ! -name SHA256SUMS | sed 's|^\./||' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS); }

step "Release $name"
release=$tmp/$name
mkdir "$release"
install -m 755 "$binary" "$release/orch"
install -m 755 "$ORCH_REPO/scripts/install.sh" "$ORCH_REPO/scripts/uninstall.sh" "$release/"
install -m 644 "$ORCH_REPO/LICENSE" "$ORCH_REPO/README.md" "$release/"
sums "$release"
pack "$release" "$dest/$name.tar.gz"

step "Bundle $name-airgap"
bundle=$tmp/$name-airgap
cp -a "$release" "$bundle"
mkdir "$bundle/images"
for tag in v1 v2; do "$ORCH_REPO/scripts/demo/image.sh" $tag "$bundle/images/orch-demo-$tag.tar"; done
for image in "${images[@]}"; do install -m 644 "$image" "$bundle/images/"; done
sums "$bundle"
pack "$bundle" "$dest/$name-airgap.tar.gz"

step "Debian package orch_${version}_$arch.deb"
deb=$tmp/deb
mkdir -p "$deb"/{DEBIAN,usr/bin,lib/systemd/system,etc/orch,usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d,man/man1,doc/orch}}
install -m 755 "$binary" "$deb/usr/bin/orch"
for role in server:orch agent:orch-agent; do
  "$binary" unit "${role%:*}" --binary /usr/bin/orch >"$deb/lib/systemd/system/${role#*:}.service"
done
"$binary" completion bash >"$deb/usr/share/bash-completion/completions/orch"
"$binary" completion zsh >"$deb/usr/share/zsh/vendor-completions/_orch"
"$binary" completion fish >"$deb/usr/share/fish/vendor_completions.d/orch.fish"
"$binary" man "$deb/usr/share/man/man1"
gzip -n9 "$deb"/usr/share/man/man1/*
install -m 644 "$ORCH_REPO/README.md" "$deb/usr/share/doc/orch/"
install -m 644 "$ORCH_REPO/LICENSE" "$deb/usr/share/doc/orch/copyright"
install -m 644 "$ORCH_REPO/packaging/debian/config.yaml" "$deb/etc/orch/config.yaml"
echo /etc/orch/config.yaml >"$deb/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 755 "$ORCH_REPO/packaging/debian/$script" "$deb/DEBIAN/"; done
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$(du -sk --apparent-size "$deb" | cut -f1)/" \
  "$ORCH_REPO/packaging/debian/control" >"$deb/DEBIAN/control"
find "$deb" -newermt "$date" -exec touch -h -d "$date" {} +
dpkg-deb --root-owner-group --build "$deb" "$dest/orch_${version}_$arch.deb.new" >/dev/null
mv "$dest/orch_${version}_$arch.deb.new" "$dest/orch_${version}_$arch.deb"

sums "$dest"
echo "$version" >"$out/latest"
install -m 755 "$ORCH_REPO/scripts/install.sh" "$out/install.sh"
good "$(cd "$dest" && du -h -- *.tar.gz *.deb | tr '\n\t' ', ')"
echo "$out"
