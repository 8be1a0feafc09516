#!/usr/bin/env bash
# Runs a command on a Kubernetes of one real node: kubelet, containerd, runc, Services, DNS, pods.
#   with-node.sh COMMAND [ARGUMENT]...        for example: bash tests/node/with-node.sh bash
# All of it is in network, mount and process namespaces of its own and ends with the command, with Ctrl-C, and with this
# script however it ends. The command finds the cluster in KUBECONFIG; images are those of target/tools/node/images and
# target/image. Nothing in here reaches any other network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bin=$PWD/target/tools/bin config=$PWD/tests/node/config
fail() { echo "node: $*" >&2; exit 1; }
say() { echo "node: $* (${SECONDS} s)" >&2; }

# --- Outside: namespaces, and what is left when they are gone ---------------------------------------------------------
cgroups() { # Of the name, one in each hierarchy (version 1) or the one (version 2).
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo "/sys/fs/cgroup/$1"
    else
        local hierarchy
        for hierarchy in /sys/fs/cgroup/*/; do echo "$hierarchy$1"; done
    fi
}
# The processes are gone by now, so the cgroups are empty, or will be in a moment.
remove_cgroups() {
    local folders left folder
    mapfile -t folders < <(cgroups "$1")
    for _ in {1..50}; do
        left=0
        for folder in "${folders[@]}"; do
            [ -d "$folder" ] || continue
            find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
        done
        [ "$left" = 1 ] || return 0
        sleep 0.1
    done
    echo "node: cgroups named $1 are left under /sys/fs/cgroup" >&2
}
if [ -z "${PREFECT_SYNC_NODE:-}" ]; then
    [ "$(id -u)" = 0 ] || fail "this needs root"
    [ $# -gt 0 ] || fail "which command is to run on the node?"
    mkdir -p target/tmp
    # What runs that were killed left behind.
    for state in target/tmp/node-*; do
        pid=${state##*-}
        if [ -d "$state" ] && [ ! -d "/proc/$pid" ]; then
            remove_cgroups "prefect-sync-node-$pid"
            rm -rf "$state"
        fi
    done
    state=$PWD/target/tmp/node-$$
    mkdir "$state"
    # shellcheck disable=SC2317 # called by the trap
    clean_up() {
        trap '' INT TERM
        kill -KILL "$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
        remove_cgroups "prefect-sync-node-$$"
        if [ "${NODE_KEEP:-}" = 1 ]; then say "its logs are kept in $state"; else rm -rf "$state"; fi
    }
    # unshare itself ignores signals, and setpriv has the kernel end it with this script. Its first child is the first
    # process of a process namespace: with it the kernel ends all others.
    PREFECT_SYNC_NODE=$$ setpriv --pdeathsig KILL \
        unshare --net --mount --pid --fork --mount-proc --kill-child=KILL -- bash "${BASH_SOURCE[0]}" "$@" <&0 &
    node=$!
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    code=0
    wait "$node" || code=$?
    exit "$code"
fi

# --- Inside ---------------------------------------------------------------------------------------------------------
cgroup=prefect-sync-node-$PREFECT_SYNC_NODE
state=$PWD/target/tmp/node-$PREFECT_SYNC_NODE
root=$PWD
# A short and fixed place, as sockets' paths are limited; and sockets and locks of containers' programs are under /run.
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/node
mount --bind "$state" /run/node
cd /run/node
mkdir logs pki cni sysctl
cp "$config"/*.kubeconfig "$config"/kube-proxy.yaml "$config"/containerd.toml "$config"/Corefile .
cp "$config/bridge.conflist" cni/10-bridge.conflist
sed "s/@CGROUP@/$cgroup/" "$config/kubelet.yaml" >kubelet.yaml

# The kubelet sets these for the whole machine: it gets files instead.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=sysctl/${setting//\//.} file=${file%=*}
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

address=172.30.0.1
ip link set lo up
ip link add node0 type bridge
ip address add "$address/24" dev node0
ip link set node0 up
# The kubelet and the API server look for the address of the default route.
ip route add default dev node0
sysctl -q -w net.ipv4.ip_forward=1

key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2)
openssl req -x509 "${key[@]}" -keyout pki/ca.key -out pki/ca.crt -subj /CN=node-ca 2>/dev/null
issue() { # NAME SUBJECT SUBJECT-ALTERNATIVE-NAMES
    openssl req -x509 -CA pki/ca.crt -CAkey pki/ca.key "${key[@]}" -keyout "pki/$1.key" -out "pki/$1.crt" -subj "$2" \
        -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth \
        -addext "subjectAltName=$3" 2>/dev/null
}
issue apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$address"
issue admin /O=system:masters/CN=admin DNS:admin
issue kubelet /O=system:nodes/CN=system:node:node "DNS:node,IP:$address"
openssl ecparam -name prime256v1 -genkey -noout -out pki/service-accounts.key

declare -A part
start() { # NAME COMMAND [ARGUMENT]...
    local name=$1
    shift
    "$@" >"logs/$name.log" 2>&1 </dev/null &
    part[$name]=$!
}
# Waits for a command to succeed; says which part ended, or what the part that is waited for has logged.
wait_for() { # PART COMMAND [ARGUMENT]...
    local awaited=$1 name
    shift
    for _ in {1..900}; do
        if "$@" >/dev/null 2>&1; then return; fi
        for name in "${!part[@]}"; do
            if ! kill -0 "${part[$name]}" 2>/dev/null; then
                tail -n 20 "logs/$name.log" >&2
                fail "$name ended; its last lines are above"
            fi
        done
        sleep 0.1
    done
    tail -n 20 "logs/$awaited.log" >&2
    fail "$awaited is not ready after 90 s; its last lines are above"
}
export KUBECONFIG=/run/node/admin.kubeconfig PATH=$bin:$PATH:/usr/sbin:/sbin

start etcd etcd --data-dir etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
start kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 6443 --bind-address 0.0.0.0 \
    --advertise-address "$address" --tls-cert-file pki/apiserver.crt --tls-private-key-file pki/apiserver.key \
    --client-ca-file pki/ca.crt --kubelet-certificate-authority pki/ca.crt --kubelet-client-certificate pki/admin.crt \
    --kubelet-client-key pki/admin.key --kubelet-preferred-address-types InternalIP \
    --service-account-key-file pki/service-accounts.key --service-account-signing-key-file pki/service-accounts.key \
    --service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.96.0.0/16 \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction
start containerd containerd --config containerd.toml
for folder in $(cgroups "$cgroup"); do
    mkdir "$folder"
    # In version 1 a group without processors and memory can hold no process.
    if [ -e "$folder/cpuset.cpus" ] && [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
        for file in cpuset.cpus cpuset.mems; do cat "${folder%/*}/$file" >"$folder/$file"; done
    fi
done
containerd_ctr() { ctr --address /run/node/containerd.sock --namespace k8s.io "$@"; }
wait_for containerd containerd_ctr version
for archive in "$root"/target/tools/node/images/*.tar "$root"/target/image/prefect-sync.tar; do
    [ -e "$archive" ] || fail "$archive is missing: run 'make test-node'"
    containerd_ctr images import "$archive" >>logs/import.log
done
wait_for kube-apiserver kubectl get --raw /readyz
controller=(--kubeconfig "$KUBECONFIG" --authentication-kubeconfig "$KUBECONFIG" --authorization-kubeconfig "$KUBECONFIG"
    --leader-elect=false --bind-address 127.0.0.1)
start kube-controller-manager kube-controller-manager "${controller[@]}" --root-ca-file pki/ca.crt \
    --service-account-private-key-file pki/service-accounts.key --use-service-account-credentials
start kube-scheduler kube-scheduler "${controller[@]}"
start kubelet kubelet --config kubelet.yaml --kubeconfig kubelet.kubeconfig --hostname-override node \
    --node-ip "$address" --root-dir /run/node/kubelet --cert-dir /run/node/kubelet-pki
start kube-proxy kube-proxy --config kube-proxy.yaml
start coredns coredns -conf Corefile
wait_for kubelet kubectl wait node/node --for=condition=Ready --timeout=1s
say "node $(kubectl get node node -o jsonpath='{.status.nodeInfo.kubeletVersion}') is Ready"

cd "$root"
code=0
"$@" || code=$?
exit "$code"
