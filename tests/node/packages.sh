#!/usr/bin/env bash
# Prints the Debian packages that the node and its images need and this machine lacks, one a line.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
lacks() { # PACKAGE FILE-OR-COMMAND
    case $2 in
        /*) [ -e "$2" ] || echo "$1" ;;
        *) command -v "$2" >/dev/null || echo "$1" ;;
    esac
}
lacks buildah buildah
lacks busybox-static busybox
lacks ca-certificates /etc/ssl/certs/ca-certificates.crt
lacks containerd containerd
lacks containernetworking-plugins /usr/lib/cni/bridge
lacks gcc cc
lacks iproute2 ip
# What a static program is linked with.
[ -e "$(cc -print-file-name=libc.a 2>/dev/null)" ] || echo libc6-dev
lacks mmdebstrap mmdebstrap
lacks nftables nft
lacks openssl openssl
lacks procps sysctl
lacks runc runc
lacks util-linux unshare
