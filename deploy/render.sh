#!/usr/bin/env bash
# Renders the plain manifests from the Helm chart into deploy/manifests and deploy/manifests-optional, or into folders of
# these names in the one that is given. They are named prefect-sync in the namespace prefect-sync, and have no marks of
# Helm's. manifests-optional is for what not everyone wants applied or deleted along with the rest; it stands beside, as
# GitOps tools take a folder with all that is below it. Its 00-namespace.yaml is written by hand: with Helm,
# --create-namespace makes the namespace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
helm=${HELM:-target/tools/bin/helm} output=${1:-deploy}
[ -x "$helm" ] || { echo "render: $helm is missing: run 'make tools', or set HELM" >&2; exit 1; }

# Writes FILE, seen from the output folder, from these templates; further arguments for Helm come first, after -- the templates.
render() {
    local file=$1 args=() templates=() template
    shift
    while [ "$1" != -- ]; do args+=("$1"); shift; done
    shift
    for template in "$@"; do templates+=(--show-only "templates/$template.yaml"); done
    {
        echo "# Rendered from deploy/helm/prefect-sync by 'make manifests': change it there."
        # One after another, as Helm would sort by kind and put rules apart from what they are for.
        for template in "${templates[@]}"; do
            [ "$template" != --show-only ] || continue
            "$helm" template prefect-sync deploy/helm/prefect-sync --namespace prefect-sync "${args[@]}" \
                --show-only "$template"
        done | sed -E \
            -e '/^# Source: /d' \
            -e '/^ *app\.kubernetes\.io\/managed-by: Helm$/d' \
            -e '/^ *app\.kubernetes\.io\/instance: "?prefect-sync"?$/d' \
            -e '/^ *helm\.sh\/chart: /d' \
            -e '/^  annotations:$/{N;N;/installs-crds/d}' \
            -e 's/^( *(- )?[A-Za-z./]*[nN]ame(space)?: )"(prefect-sync[a-z-]*)"$/\1\4/' \
            -e 's/[[:space:]]+$//' |
            # No empty lines, and no document mark before the first object.
            awk 'NF && !(/^---$/ && !n) {print; n++}'
    } >"$output/$file"
}

mkdir -p "$output/manifests" "$output/manifests-optional"
render manifests/10-rbac.yaml -- serviceaccount rbac-objects rbac-targets rbac-cluster-workspaces rbac-leader-election
render manifests/12-admission-policy.yaml -- admission-policy
render manifests/13-user-roles.yaml -- rbac-users
# Its CRDs are those of crds/.
render manifests/20-deployment.yaml --set crds.install=false -- deployment service pdb
render manifests-optional/11-restarts.yaml --set restarts.enabled=true -- rbac-restarts
