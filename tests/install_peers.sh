#!/usr/bin/env bash
# Install the programs that tests and benchmarks compare with or look through. Does nothing where all are there.
set -euo pipefail
programs="umoci skopeo bsdtar tar rsync igzip xz zstd setfattr setfacl setcap strace mkfs.ext4 mkfs.btrfs fakeroot mount unshare losetup dockerd containerd ctr fusermount3 qemu-system-x86_64 thin_check"
packages="umoci skopeo libarchive-tools tar rsync isal xz-utils zstd attr acl libcap2-bin strace e2fsprogs btrfs-progs fakeroot mount util-linux docker.io containerd fuse3 libfuse3-3 qemu-system-x86 thin-provisioning-tools"

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing() { for program in $programs; do command -v "$program" >/dev/null || printf '%s ' "$program"; done; }

[ -z "$(missing)" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o DPkg::Lock::Timeout=300 update
    # shellcheck disable=SC2086
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $packages
fi
absent=$(missing)
[ -z "$absent" ] && exit 0
echo "not here: $absent- the tests that need them are skipped; on Debian, as root: apt-get install $packages" >&2
[ "${LAMELLA_REQUIRE_ALL:-}" != 1 ]
