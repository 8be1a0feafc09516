#!/usr/bin/env bash
# Installs the real parts that the tests and the demo run against, into target/tools and nowhere else:
#   bin/      etcd, kubectl and Kubernetes' own programs, built from tests/controlplane; helm, coredns, promtool and
#             health from tests/tools
#   prefect3/ prefect2/ prefect1/  virtual environments with the pins of tests/prefect
#   previous/            the operator and CRDs of the version before, named in tests/upgrade/previous
#   prefect3.db          a migrated, empty Prefect database; service-account.key
# Does nothing when all is there; a changed pin rebuilds what depends on it. Each part is made beside its place and
# renamed into it, so an interrupted run leaves no half of anything.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD tools=$PWD/target/tools
step_log=$tools/last-step.log
# shellcheck source=tests/steps.sh
source tests/steps.sh
need flock "install util-linux"
need sha256sum "install coreutils"
need cargo "install Rust with rustup"
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(cargo --version | cut -d' ' -f2)
at_least "$have" "$want" || fail "Rust $want or later is needed, cargo is $have: run 'rustup update'"

mkdir -p "$tools/bin"
lock "$tools/.lock"
# What an interrupted run left; nobody else is in here now.
rm -rf "$tools"/.new-*

# --- What is built from Go modules --------------------------------------------------------------------------------------
kubernetes=$(sed -n 's|.*k8s.io/kubernetes \(v[0-9.]*\).*|\1|p' tests/controlplane/go.mod | head -n1)
minor=${kubernetes#v1.} minor=${minor%%.*}
# Without the stamped version the servers would call themselves v0.0.0-master and clients would refuse them.
versions="-X k8s.io/component-base/version.gitVersion=$kubernetes"
versions+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor"
declare -A package=(
    [etcd]=go.etcd.io/etcd/server/v3
    [helm]=helm.sh/helm/v4/cmd/helm
    [promtool]=github.com/prometheus/prometheus/cmd/promtool
    [coredns]=.
    [health]=.
)
for name in kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
    package[$name]=k8s.io/kubernetes/cmd/$name
done

build_from() {
    local module=$1 new=$2 name
    shift 2
    for name in "$@"; do
        # One at a time: two of these links at once need more memory than small machines have.
        (cd "$module" && GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -v -trimpath -o "$new/$name" \
            -ldflags "-s -w $versions" "${package[$name]}")
    done
}
# Builds those of the named programs that are missing, or older than the module's pins.
programs() {
    local module=$1 minutes=$2 name stamp files build=() new=$tools/.new-bin
    shift 2
    mapfile -t files < <(find "$module" -type f | sort)
    stamp=$module-$(hash_of "${files[@]}")
    for name in "$@"; do
        [ -x "$tools/bin/$name" ] && [ "$(cat "$tools/bin/.$name.stamp" 2>/dev/null)" = "$stamp" ] || build+=("$name")
    done
    [ ${#build[@]} -gt 0 ] || return 0
    local want have
    want=$(sed -n 's/^go \(.*\)/\1/p' "$module/go.mod")
    need go "install Go $want or later"
    have=$(cd / && GOTOOLCHAIN=local go env GOVERSION) have=${have#go}
    at_least "$have" "$want" || fail "Go $want or later is needed, go is $have"
    mkdir "$new"
    step "building ${build[*]}; the first time this takes about $minutes" build_from "$module" "$new" "${build[@]}"
    for name in "${build[@]}"; do
        rm -f "$tools/bin/.$name.stamp"
        mv -f "$new/$name" "$tools/bin/$name"
        echo "$stamp" >"$tools/bin/.$name.stamp"
    done
    rm -rf "$new"
}

kube=(kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for name in etcd kube-apiserver; do
        [ -x "$KUBEBUILDER_ASSETS/$name" ] ||
            fail "KUBEBUILDER_ASSETS is set, but $KUBEBUILDER_ASSETS/$name is no program: put one there, or unset it"
    done
else
    kube+=(etcd kube-apiserver)
fi
programs tests/controlplane "5 minutes" "${kube[@]}"
programs tests/tools/helm "2 minutes" helm
programs tests/tools/coredns "a minute" coredns
programs tests/tools/promtool "3 minutes" promtool
programs tests/tools/health "a minute" health

# --- Prefect ----------------------------------------------------------------------------------------------------------
make_venv() {
    local python=$1 new=$2 place=$3 pins=$4 script
    "$python" -m venv "$new"
    "$new/bin/python" -m pip install --disable-pip-version-check --no-input -r "$pins"
    "$new/bin/python" -m pip check
    # The scripts name the interpreter by its full path, which is another after the rename.
    for script in "$new"/bin/*; do
        if [ -f "$script" ] && [ ! -L "$script" ]; then sed -i "s|$new|$place|g" "$script"; fi
    done
}
for name in prefect3 prefect2 prefect1; do
    pins=tests/prefect/$name.txt
    stamp=$(hash_of "$pins")
    if ! { [ "$(cat "$tools/$name/.stamp" 2>/dev/null)" = "$stamp" ] && "$tools/$name/bin/python" -c ''; } 2>/dev/null; then
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python can't make virtual environments: install python3-venv (python3.11-venv)"
        new=$tools/.new-$name
        step "installing $(grep '^prefect==' "$pins") with its $(grep -c == "$pins") pins; about a minute" \
            make_venv "$python" "$new" "$tools/$name" "$root/$pins"
        echo "$stamp" >"$new/.stamp"
        rm -rf "${tools:?}/$name"
        mv "$new" "$tools/$name"
    fi
done

# --- The previous version ---------------------------------------------------------------------------------------------
# The operator and the CRDs that tests upgrade from and go back to. Where there is a release it is the last one.
previous=$(cat tests/upgrade/previous)
build_previous() {
    local new=$1
    mkdir -p "$new/source"
    git archive "$previous" | tar -x -C "$new/source"
    mv "$new/source/crds" "$new/crds"
    # In our own target folder, where its dependencies are built anyway. Ours takes its place again when it is built.
    (cd "$new/source" && cargo build --locked --bin prefect-sync --target-dir "$root/target")
    cp "$root/target/debug/prefect-sync" "$new/prefect-sync"
    rm -rf "$new/source"
}
if ! { [ -x "$tools/previous/prefect-sync" ] && [ "$(cat "$tools/previous/.stamp" 2>/dev/null)" = "$previous" ]; }; then
    need git "install git"
    git cat-file -e "$previous^{commit}" 2>/dev/null ||
        fail "the previous version (commit $previous) is not in this clone: run 'git fetch --unshallow', or clone all of it"
    new=$tools/.new-previous
    step "building the previous version of prefect-sync; the first time about 3 minutes" build_previous "$new"
    echo "$previous" >"$new/.stamp"
    rm -rf "$tools/previous"
    mv "$new" "$tools/previous"
fi

prefect3_python() { # Sees no settings of whoever runs this.
    env -i PATH="$PATH" HOME="$tools/.new-home" PREFECT_HOME="$tools/.new-home" DO_NOT_TRACK=1 \
        "$tools/prefect3/bin/python" "$@"
}
stamp=$(hash_of tests/prefect/prefect3.txt tests/prefect/make_database.py)
if ! { [ -f "$tools/prefect3.db" ] && [ "$(cat "$tools/prefect3.db.stamp" 2>/dev/null)" = "$stamp" ]; }; then
    mkdir -p "$tools/.new-home"
    step "making the empty Prefect database that test servers start from" \
        prefect3_python tests/prefect/make_database.py "$tools/.new-prefect3.db"
    rm -rf "$tools/.new-home"
    mv -f "$tools/.new-prefect3.db" "$tools/prefect3.db"
    echo "$stamp" >"$tools/prefect3.db.stamp"
fi
if [ ! -s "$tools/service-account.key" ]; then
    step "making the key that signs service account tokens" \
        prefect3_python tests/prefect/make_signing_key.py "$tools/.new-service-account.key"
    mv -f "$tools/.new-service-account.key" "$tools/service-account.key"
fi
echo "tools: ready in target/tools ($kubernetes, $(grep -h '^prefect==' tests/prefect/*.txt | xargs))"
