#!/usr/bin/env bash
# Compiles the operator as one static program for an image, and puts it at OUTPUT.
#   compile.sh ARCHITECTURE OUTPUT        ARCHITECTURE as images name it: amd64 or arm64
# glibc rather than musl: it is Rust's best tested target and its allocator is faster; names are resolved without shared
# libraries since glibc 2.34, which has the resolver's files and dns parts inside.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fail() { echo "image: $*" >&2; exit 1; }
case $1 in
    amd64) cpu=x86_64 ;;
    arm64) cpu=aarch64 ;;
    *) fail "there is no image for the architecture $1: amd64 or arm64" ;;
esac
output=$2 target=$cpu-unknown-linux-gnu
if [ "$(uname -m)" != "$cpu" ]; then
    compiler=$cpu-linux-gnu-gcc
    command -v "$compiler" >/dev/null ||
        fail "$compiler is missing: install gcc-${cpu/_/-}-linux-gnu and libc6-dev-$1-cross, and run 'rustup target add $target'"
    export "CC_${target//-/_}=$compiler"
    name=${target//-/_}
    export "CARGO_TARGET_${name^^}_LINKER=$compiler"
fi
# With --target these flags are not those of build scripts and procedural macros, which can't be static.
RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --release --bin prefect-sync --target "$target" --message-format short
mkdir -p "$(dirname "$output")"
install -m 0755 "${CARGO_TARGET_DIR:-target}/$target/release/prefect-sync" "$output"
