#!/bin/bash
# Makes the demo's image of the machine's own busybox: an OCI archive, with nothing but tar, gzip and sha256sum.
#
#   scripts/demo/image.sh VERSION FILE       localhost/orch/web:VERSION in FILE
. "$(dirname "$0")/../lib.sh"
[ $# -eq 2 ] || fail "usage: $0 VERSION FILE"
version=$1
file=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
busybox=$(command -v busybox) || fail "busybox not found; run: sudo scripts/deps.sh node"

case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) fail "no image for the architecture $(uname -m)" ;;
esac
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# The root: busybox, its programs as links, a user, the web server.
root=$dir/root
mkdir -p "$root"/{bin,etc/web,tmp,www/cgi-bin}
chmod 1777 "$root/tmp"
install -m 755 "$busybox" "$root/bin/busybox"
for program in $("$busybox" --list); do
  [ "$program" = busybox ] || ln -s busybox "$root/bin/$program"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
echo 'web:x:1000:1000:web:/:/bin/sh' >>"$root/etc/passwd"
install -m 755 "$here/web" "$root/bin/web"
install -m 755 "$here/index.cgi" "$root/www/cgi-bin/index.cgi"

# The same files give the same bytes: no times, no owners, sorted.
pack() { (cd "$1" && tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - -- *); }
blobs=$dir/image/blobs/sha256
mkdir -p "$blobs"
digest() { sha256sum "$1" | cut -d' ' -f1; }
# Puts a file among the blobs; prints its descriptor's digest and size.
blob() { local d; d=$(digest "$1") && mv "$1" "$blobs/$d" && echo "\"digest\":\"sha256:$d\",\"size\":$(stat -c %s "$blobs/$d")"; }

pack "$root" >"$dir/layer"
diff_id=$(digest "$dir/layer")
gzip -n -1 "$dir/layer"
layer=$(blob "$dir/layer.gz")
cat >"$dir/config" <<JSON
{"architecture":"$architecture","os":"linux","config":{"Cmd":["web"],"Env":["PATH=/bin","VERSION=$version"],"User":"1000"},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]}}
JSON
config=$(blob "$dir/config")
type=application/vnd.oci.image
cat >"$dir/manifest" <<JSON
{"schemaVersion":2,"mediaType":"$type.manifest.v1+json","config":{"mediaType":"$type.config.v1+json",$config},"layers":[{"mediaType":"$type.layer.v1.tar+gzip",$layer}]}
JSON
manifest=$(blob "$dir/manifest")
cat >"$dir/image/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"$type.manifest.v1+json",$manifest,"annotations":{"io.containerd.image.name":"localhost/orch/web:$version","org.opencontainers.image.ref.name":"$version"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/image/oci-layout"
pack "$dir/image" >"$file"
