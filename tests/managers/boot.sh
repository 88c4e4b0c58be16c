#!/bin/sh
# From a root file system to systemd as its first process: boot.sh CGROUP ROOT NAME
#
# Called in the machine's mount and network namespace, it starts itself again as the first process of the others.
set -eu
cgroup=$1 root=$2 name=$3
if [ $$ -ne 1 ]; then
    echo $$ >"$cgroup/cgroup.procs"
    exec unshare --mount --propagation private --pid --uts --ipc --cgroup --fork --kill-child sh "$0" "$@"
fi
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t bpf -o mode=700 bpf "$root/sys/fs/bpf"
for folder in run tmp dev; do
    mount -t tmpfs -o mode=755 tmpfs "$root/$folder"
done
chmod 1777 "$root/tmp"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
hostname "$name"
cd "$root"
mkdir -p run/old
pivot_root . run/old
umount -l /run/old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=azure-vnet-tests /lib/systemd/systemd </dev/null >/dev/null 2>&1
