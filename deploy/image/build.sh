#!/usr/bin/env bash
# Makes the operator's image from this repository alone, for the architecture of this machine: target/image/prefect-sync.tar
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fail() { echo "image: $*" >&2; exit 1; }
certificates=/etc/ssl/certs/ca-certificates.crt
[ -s "$certificates" ] || fail "$certificates is missing: install the Debian package ca-certificates"
command -v buildah >/dev/null || fail "buildah is missing: install the Debian package buildah"
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64 | arm64) architecture=arm64 ;;
    *) fail "there is no image for $(uname -m): amd64 or arm64" ;;
esac
version=$(sed -n '/^\[package\]/,/^\[dependencies\]/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The last commit that changed the program, not one of documents: the same program keeps its name, and isn't built again.
program=(Cargo.toml Cargo.lock src deploy/image)
commit=$(git log -1 --format=%H -- "${program[@]}")
git diff --quiet HEAD -- "${program[@]}" || commit+=-dirty
folder=$PWD/target/image context=$PWD/target/image/context/$architecture
rm -rf "$folder/context"
mkdir -p "$context"
PREFECT_SYNC_COMMIT=$commit bash deploy/image/compile.sh "$architecture" "$context/prefect-sync"
cp "$certificates" "$context/"
name=localhost/prefect-sync:$version
# The same program makes the same image: the time in it is the commit's.
bash deploy/image/buildah.sh "$folder/prefect-sync.tar" "$name" "$folder/context" -f deploy/image/Dockerfile \
    --timestamp "$(git log -1 --format=%ct -- "${program[@]}")" --build-arg SOURCE=prebuilt \
    --build-arg BUILDARCH="$architecture" --build-arg TARGETARCH="$architecture" \
    --build-arg VERSION="$version" --build-arg COMMIT="$commit"
size() { stat -c %s "$1" | numfmt --to iec; }
echo "image: $name for linux/$architecture: $(size "$folder/prefect-sync.tar") as registries keep it, of which the program" \
    "unpacked is $(size "$context/prefect-sync"); target/image/prefect-sync.tar"
