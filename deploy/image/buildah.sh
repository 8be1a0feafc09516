#!/usr/bin/env bash
# Builds an image into an OCI archive with buildah alone: no daemon, no registry, and nothing is left but the archive.
#   buildah.sh ARCHIVE NAME:TAG CONTEXT [ARGUMENT OF buildah bud]...
set -euo pipefail
command -v buildah >/dev/null || { echo "image: buildah is missing: install the Debian package buildah" >&2; exit 1; }
archive=$1 name=$2 context=$3
shift 3
work=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
# vfs needs no kernel support, and chroot no namespaces of containers.
storage=(--storage-driver vfs --root "$work/store" --runroot "$work/run")
buildah "${storage[@]}" bud --isolation chroot --format oci --pull-never --quiet --tag "$name" "$@" "$context" >/dev/null
buildah "${storage[@]}" push --quiet "$name" "oci-archive:$work/archive.tar:$name"
mv -f "$work/archive.tar" "$archive"
