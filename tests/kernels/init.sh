#!/bin/busybox sh
# The first process: mounts what programs expect, loads the modules, runs the steps, turns the machine off.
/bin/busybox --install -s /bin
# iproute2's, not busybox's.
rm -f /bin/ip
export PATH=/usr/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir /run/netns
ln -s /run /var/run
ip link set lo up
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "module $module was not loaded"
done
rm -rf /modules
# The firmware has left its cursor in the first line.
echo
echo "@release $(uname -r)"
export AZURE_VNET_BIN_DIR=/t CI=true
. /steps
poweroff -f
