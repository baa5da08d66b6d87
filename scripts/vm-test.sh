#!/bin/bash
# Installs, runs and removes orch on a fresh Debian with systemd and cgroup v2, in an emulated machine, and compares the
# machine before and after. Software emulation: slow (ten minutes and more), and the same everywhere. Not a part of
# scripts/test.sh.
#
#   sudo scripts/vm-test.sh BINARY       a static one is best: scripts/build.sh prints its path
#   sudo scripts/vm-test.sh BINARY HALF  of the two halves this one only: bundle, package
#
# Needs qemu-system-x86_64, debootstrap and mke2fs, and once the network for the packages; the machine's disk is kept in
# the cache and copied for each run. What the guest does is in scripts/vm/guest.sh.
. "$(dirname "$0")/lib.sh"

binary=$(realpath "${1:?usage: scripts/vm-test.sh BINARY [bundle|package]}")
half=${2:-}
case $half in '' | bundle | package) ;; *) fail "no such half: $half (bundle, package)" ;; esac
need_root "$binary"
for tool in qemu-system-x86_64 debootstrap mke2fs busybox; do
  PATH=$PATH:/usr/sbin:/sbin have $tool ||
    fail "$tool not found; run: sudo apt-get install qemu-system-x86 debootstrap e2fsprogs busybox-static"
done
limit=${ORCH_VM_LIMIT:-3000}
suite=bookworm
packages=linux-image-cloud-amd64,initramfs-tools,systemd-sysv,dbus,procps,iproute2,nftables,curl,ca-certificates,containerd,runc,busybox-static

cache=$ORCH_CACHE/vm
root=$cache/$suite
mkdir -p "$cache"
if [ "$(cat "$root.done" 2>/dev/null)" != "$packages" ]; then
  step "Making a fresh Debian ($suite)"
  rm -rf "$root"
  debootstrap --variant=minbase --include=$packages $suite "$root" >"$cache/debootstrap.log" 2>&1 ||
    fail "debootstrap failed: $(tail -1 "$cache/debootstrap.log")"
  rm -f "$root"/var/cache/apt/archives/*.deb
  # The address that the emulator's network gives, and a name; the distribution's containerd would run beside orch's.
  printf '[Match]\nName=e*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/10-all.network"
  echo vm >"$root/etc/hostname"
  # As every installer of Debian writes it; containerd starts no pod without.
  printf '127.0.0.1 localhost\n127.0.1.1 vm\n' >"$root/etc/hosts"
  chroot "$root" systemctl enable systemd-networkd >/dev/null 2>&1
  chroot "$root" systemctl disable containerd >/dev/null 2>&1
  cat >"$root/etc/systemd/system/guest.service" <<'UNIT'
[Unit]
Description=What the test does
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /mnt/t && mount /dev/vdb /mnt/t && /bin/bash /mnt/t/guest.sh; poweroff'
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
TimeoutStartSec=infinity
KillMode=process
[Install]
WantedBy=multi-user.target
UNIT
  chroot "$root" systemctl enable guest >/dev/null 2>&1
  echo "$packages" >"$root.done"
fi

tmp=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
step "Packing $binary"
stripped=$tmp/orch
cp "$binary" "$stripped"
if have strip; then strip "$stripped"; fi
"$ORCH_REPO/packaging/build.sh" "$stripped" --out "$tmp/t" >/dev/null
rm "$stripped"
version=$(cat "$tmp/t/latest")
# What is not needed only makes the disk larger.
rm "$tmp/t/$version"/orch-*-amd64.tar.gz
install -m 755 "$ORCH_REPO/scripts/vm/guest.sh" "$tmp/t/guest.sh"
echo "${half:-bundle package}" >"$tmp/t/half"

# A login prompt would hang the console up, and what the guest has to say with it.
step "Booting (the log is $cache/console.log)"
size=$(du -sm "$tmp/t" | cut -f1)
PATH=$PATH:/usr/sbin:/sbin
mke2fs -q -t ext4 -d "$root" "$tmp/disk.img" 4G
mke2fs -q -t ext4 -d "$tmp/t" "$tmp/t.img" $((size + size / 4 + 64))M
timeout "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -display none -no-reboot \
  -kernel "$(ls "$root"/boot/vmlinuz-*)" -initrd "$(ls "$root"/boot/initrd.img-*)" \
  -append "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 systemd.mask=serial-getty@ttyS0.service" \
  -drive "file=$tmp/disk.img,format=raw,if=virtio,cache=unsafe" -drive "file=$tmp/t.img,format=raw,if=virtio,cache=unsafe" \
  -netdev user,id=n -device virtio-net,netdev=n -serial "file:$cache/console.log" -monitor none </dev/null &
wait_showing $! "emulating" || fail "the machine did not end within $limit s; see $cache/console.log"

tr -d '\r' <"$cache/console.log" | grep -aE '^(ok|not ok|#) ' >&2 || true
grep -aq '^all done' "$cache/console.log" || fail "the guest did not come to its end; see $cache/console.log"
if grep -aq '^not ok' "$cache/console.log"; then fail "something is not as it should be; see $cache/console.log"; fi
step "Everything is as it should be"
