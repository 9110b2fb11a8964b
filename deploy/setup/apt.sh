#!/bin/sh
# Installs Debian packages, with sudo when not root; where it cannot, names them:
#   apt.sh PACKAGE...
set -eu

by_hand() {
    echo "stent: $1: install these packages and try again: $packages" >&2
    exit 1
}
packages=$*
command -v apt-get >/dev/null || by_hand "this system has no apt-get"
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || by_hand "you are not root and there is no sudo"
    sudo=sudo
fi
echo "stent: installing $packages"
$sudo apt-get update -q || by_hand "apt-get update failed"
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
    by_hand "apt-get install failed"
