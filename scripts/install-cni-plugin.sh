#!/bin/sh
# Installs azure-vnet on a node: the plugins into /opt/cni/bin, their configuration into /etc/cni/net.d. It works after that.
#
#   install-cni-plugin.sh [azure-cni-plugin-version] [cni-plugin-version]
#   install-cni-plugin.sh --uninstall
#
# With a version, the archive azure-vnet-cni-linux-<arch>-<version>.tgz and its .sha256 are taken from AZURE_VNET_SOURCE. Without one, the
# plugins beside this script are installed: an archive that was unpacked by hand. Running it again changes nothing; running it
# with another version is the upgrade, or the way back. Pods keep running, and a configuration that was edited is kept.
#
# portmap and loopback, which the configuration needs, stay as they are where they are installed. Where they are not, they come from
# cni-plugins-linux-<arch>-<cni-plugin-version>.tgz in CNI_PLUGINS_SOURCE, or else from Debian's or Ubuntu's package.
#
# Environment:
#   AZURE_VNET_SOURCE   folder, or http(s) address of a folder, with the archives (the folder of this script)
#   CNI_PLUGINS_SOURCE  likewise, with the archives of containernetworking/plugins
#   AZURE_VNET_KEY      public key (minisign) of who makes the archives (/etc/azure-vnet/release.pub, if it is there). With a key nothing
#                       of an archive is unpacked unless the .minisig beside it is the key's
#   DESTDIR             installs below this folder instead of /
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-/}
plugins=${root%/}/opt/cni/bin
debian_plugins=/usr/lib/cni

fail() {
    echo "install-cni-plugin.sh: $*" >&2
    exit 1
}

usage() {
    sed -n '2,21s/^# \{0,1\}//p' "$0"
}

architecture() {
    case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) fail "there are no archives for $(uname -m): build the plugins from source" ;;
    esac
}

# fetch SOURCE NAME: puts the file into the working folder, whole or not at all.
fetch() {
    case $1 in
    http://* | https://*)
        if command -v curl >/dev/null; then
            curl --fail --silent --show-error --location --max-time 300 --output "$work/$2" "$1/$2"
        elif command -v wget >/dev/null; then
            wget --quiet --timeout=300 --output-document="$work/$2" "$1/$2"
        else
            fail "neither curl nor wget is installed, so nothing can be downloaded"
        fi || fail "cannot download $1/$2: is the version right?"
        ;;
    *)
        [ -e "$1/$2" ] || fail "$1 has no $2: set the folder, and check the version"
        cp "$1/$2" "$work/$2"
        ;;
    esac
}

# verify NAME: ends it all unless the archive is signed with the key. By what is on the node already: a program out of the archive would
# say yes of itself.
verify() {
    fetch "${AZURE_VNET_SOURCE:-$here}" "$1.minisig"
    if command -v minisign >/dev/null; then
        comment=$(minisign -V -Q -p "$key" -m "$work/$1") || fail "$1 is not what the owner of $key has signed: do not install it"
        case $(printf '%s' "$comment" | tr '\t' '\n' | grep '^file:') in
        "file:$1") ;;
        *) fail "$1 is signed as another file ($comment): do not install it" ;;
        esac
    elif "$plugins/azure-vnet" verify --help >/dev/null 2>&1; then
        "$plugins/azure-vnet" verify --key "$key" "$work/$1" || fail "$1 is not what the owner of $key has signed: do not install it"
    else
        fail "there is a key, $key, and nothing here that verifies with it: install minisign"
    fi
}

# unpack SOURCE NAME FILE...: fetches an archive, checks its sum, and unpacks it, or these files of it.
unpack() {
    source=$1 archive=$2
    shift 2
    fetch "$source" "$archive"
    fetch "$source" "$archive.sha256"
    expected=$(cut -d ' ' -f 1 "$work/$archive.sha256")
    actual=$(sha256sum "$work/$archive" | cut -d ' ' -f 1)
    [ "$expected" = "$actual" ] ||
        fail "$archive is not what $archive.sha256 says ($actual, not $expected): download both again"
    case $archive in
    azure-vnet-*) [ -z "$key" ] || verify "$archive" ;;
    esac
    mkdir -p "$work/unpacked"
    tar -xzf "$work/$archive" -C "$work/unpacked" "$@"
}

# The reference plugins that are not there yet.
missing_plugins() {
    for plugin in portmap loopback; do
        [ -x "$plugins/$plugin" ] || [ -x "$from/$plugin" ] || echo "$plugin"
    done
}

# bring_plugins VERSION: puts the reference plugins beside ours, from where they are installed.
bring_plugins() {
    [ -n "$(missing_plugins)" ] || return 0
    if [ -n "${CNI_PLUGINS_SOURCE:-}" ]; then
        [ -n "$1" ] || fail "CNI_PLUGINS_SOURCE is set, so name the version of the CNI plugins, for example v1.0.1"
        unpack "$CNI_PLUGINS_SOURCE" "cni-plugins-linux-$(architecture)-$1.tgz" ./portmap ./loopback
        [ "$from" = "$work/unpacked" ] || cp "$work/unpacked/portmap" "$work/unpacked/loopback" "$from/"
        return
    fi
    if [ ! -x "$debian_plugins/portmap" ]; then
        command -v apt-get >/dev/null ||
            fail "portmap and loopback are missing, and this is no Debian or Ubuntu: install the CNI plugins of your" \
                "distribution into $plugins, or set CNI_PLUGINS_SOURCE"
        echo "installing the package containernetworking-plugins (portmap, loopback)"
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends containernetworking-plugins >/dev/null
    fi
    cp "$debian_plugins/portmap" "$debian_plugins/loopback" "$from/"
}

# Network managers that run read what was put there for them; the others will when they start.
tell_managers() {
    [ "$root" = / ] && command -v systemctl >/dev/null || return 0
    if systemctl --quiet is-active systemd-networkd.service 2>/dev/null; then
        networkctl reload || echo "note: networkd did not reload; it leaves the pods' links alone from its next start on"
    fi
    if systemctl --quiet is-active NetworkManager.service 2>/dev/null; then
        nmcli general reload conf || echo "note: NetworkManager did not reload; it leaves the pods' links alone from its next start on"
    fi
}

# What the node needs beside; nothing of it keeps the plugins from being installed.
look_around() {
    command -v nft >/dev/null ||
        echo "note: nft is not installed; where the kernel refuses eBPF, the plugin needs it (package nftables)"
}

version=
cni_version=
case ${1:-} in
-h | --help)
    usage
    exit
    ;;
--uninstall)
    [ "$#" -eq 1 ] || fail "--uninstall takes no versions"
    [ -x "$plugins/azure-vnet" ] || fail "$plugins has no azure-vnet: nothing to uninstall"
    exec "$plugins/azure-vnet" uninstall --root "$root"
    ;;
-*) fail "there is no option $1: --help shows what there is" ;;
*)
    version=${1:-}
    cni_version=${2:-}
    ;;
esac
[ "$#" -le 2 ] || fail "two versions at most, $# were given"
[ "$(id -u)" -eq 0 ] || fail "this writes to $plugins: run it as root"

key=${AZURE_VNET_KEY:-}
if [ -z "$key" ] && [ -e "${root%/}/etc/azure-vnet/release.pub" ]; then
    key=${root%/}/etc/azure-vnet/release.pub
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
from=$work/unpacked
mkdir -p "$from"
if [ -n "$version" ]; then
    unpack "${AZURE_VNET_SOURCE:-$here}" "azure-vnet-cni-linux-$(architecture)-$version.tgz"
else
    [ -x "$here/azure-vnet" ] || fail "there are no plugins beside this script: name the version to install"
    cp "$here/azure-vnet" "$from/"
fi
bring_plugins "$cni_version"
"$from/azure-vnet" install --root "$root" --from "$from"
tell_managers
look_around
"$plugins/azure-vnet" --version
