#!/usr/bin/env bash
# Makes the images of the node's pods in target/tools/node/images, without any registry of images:
#   pause.tar, busybox.tar   one static program each
#   prefect.tar              Debian's Python with the pins of tests/prefect/worker.txt and the flow of the test
# and target/tools/node/worker, those pins as a folder for PYTHONPATH. Like tests/tools.sh it does nothing when all is
# there, makes again what depends on a changed file, and leaves no half of anything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools=$PWD/target/tools/node
step_log=$tools/last-step.log
# shellcheck source=tests/steps.sh
source tests/steps.sh

[ "$(uname -s)" = Linux ] || fail "the node needs Linux"
[ "$(id -u)" = 0 ] || fail "the node needs root: its programs make namespaces, mounts and cgroups"
mapfile -t packages < <(bash tests/node/packages.sh)
[ ${#packages[@]} = 0 ] || fail "install these Debian packages first: ${packages[*]}"
need flock "install util-linux"

mkdir -p "$tools/images"
lock "$tools/.lock"
rm -rf "$tools"/.new-* "$tools"/images/*.tar.??????
work=$tools/.new-work

# Whether this part must be made: its stamp is another, or it is missing.
stale() {
    [ ! -e "$tools/$1" ] || [ "$(cat "$tools/$1.stamp" 2>/dev/null)" != "$2" ]
}
# Makes a part under a temporary name and then puts it in place with its stamp.
make_part() { # NAME STAMP WHAT FUNCTION
    local name=$1 stamp=$2 what=$3 function=$4
    stale "$name" "$stamp" || return 0
    rm -rf "$work"
    mkdir -p "$work"
    step "$what" "$function" "$work/part"
    rm -rf "${tools:?}/$name" "$tools/$name.stamp"
    mv "$work/part" "$tools/$name"
    echo "$stamp" >"$tools/$name.stamp"
    rm -rf "$work"
}
image() { # ARCHIVE NAME, Dockerfile on standard input, context in $work/context
    cat >"$work/Dockerfile"
    bash deploy/image/buildah.sh "$1" "localhost/$2" "$work/context" -f "$work/Dockerfile"
}

pause() {
    mkdir "$work/context"
    cc -Os -static -o "$work/context/pause" tests/node/pause.c
    image "$1" pause:1 <<'DOCKERFILE'
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
DOCKERFILE
}
make_part images/pause.tar "$(hash_of tests/node/pause.c tests/node/tools.sh)" "making the image pause" pause

busybox_image() {
    mkdir -p "$work/context/bin"
    cp "$(command -v busybox)" "$work/context/bin/busybox"
    local applet
    for applet in $("$work/context/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$work/context/bin/$applet"
    done
    image "$1" busybox:1 <<'DOCKERFILE'
FROM scratch
COPY bin /bin
DOCKERFILE
}
make_part images/busybox.tar "$(hash_of "$(command -v busybox)" tests/node/tools.sh)" "making the image busybox" \
    busybox_image

# The Python that the pins were resolved with is the one of this Debian.
debian() {
    mmdebstrap --variant=essential --include=python3 --mode=root --format=tar \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' bookworm "$1"
}
make_part debian.tar "bookworm python3 1" "making a Debian with Python; about a minute" debian

worker() {
    local python
    python=$(find_python)
    "$python" -m pip install --disable-pip-version-check --no-input --target "$1" -r tests/prefect/worker.txt
}
pins=$(hash_of tests/prefect/worker.txt tests/prefect/prefect3.txt)
make_part worker "$pins" "installing $(grep '^prefect-kubernetes==' tests/prefect/worker.txt) with its pins; about a minute" \
    worker

prefect() {
    mkdir -p "$work/context/bin"
    # Hard links: nothing is written to them.
    cp -al "$tools/worker" "$work/context/prefect"
    ln "$tools/debian.tar" "$work/context/debian.tar"
    cp tests/node/flow.py "$work/context/flow.py"
    # pip's own names the interpreter of this machine.
    printf '#!/bin/sh\nexec python3 -m prefect "$@"\n' >"$work/context/bin/prefect"
    chmod 0755 "$work/context/bin/prefect"
    image "$1" prefect:1 <<'DOCKERFILE'
FROM scratch
ADD debian.tar /
COPY prefect /opt/prefect
COPY bin /usr/local/bin
COPY flow.py /opt/flows/flow.py
ENV PATH=/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/prefect PYTHONDONTWRITEBYTECODE=1 DO_NOT_TRACK=1
DOCKERFILE
}
make_part images/prefect.tar "$(hash_of "$tools/debian.tar.stamp" "$tools/worker.stamp" tests/node/flow.py tests/node/tools.sh)" \
    "making the image of a Prefect worker" prefect
sizes=$(cd "$tools/images" && for archive in *.tar; do echo "${archive%.tar} $(du -h "$archive" | cut -f1)"; done)
echo "tools: ready in target/tools/node (${sizes//$'\n'/, })"
