//! Install, upgrade, rollback, uninstall, install again: what users wrote and what was synced outlives all of it.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::fixture::{CHART, Helm, root};
use crate::support::{ControlPlane, eventually};

const WORKSPACE: &str = "prefectworkspace/default";
const PRINTER_COLUMN: &str = "jsonpath={.spec.versions[0].additionalPrinterColumns[0].name}";
const CRD: &str = "crd/prefectworkspaces.prefect-sync.dev";

/// A release named `sync` in a namespace `ops` of its own cluster.
struct Release {
    control_plane: ControlPlane,
    helm: Helm,
    /// Whether Helm merges as its former versions did.
    flags: &'static [&'static str],
}

impl Release {
    async fn new(flags: &'static [&'static str]) -> Self {
        let control_plane = ControlPlane::start().await;
        let helm = Helm::of(&control_plane);
        Self { control_plane, helm, flags }
    }

    fn run(&self, verb: &str, args: &[&str]) {
        let mut all = vec![verb, "sync"];
        all.extend(args);
        all.extend(["--namespace", "ops"]);
        if verb != "uninstall" {
            all.extend(self.flags);
        }
        self.helm.ok(&all);
    }

    /// Installs or upgrades with the default workspace at this address.
    fn apply(&self, verb: &str, chart: &str, url: &str) {
        let workspace = json!({"enabled": true, "spec": {"api": {"url": url}}});
        let values = self.helm.values(&json!({"defaultWorkspace": workspace}));
        let mut args = vec![chart, "--values", &values];
        if verb == "install" {
            args.push("--create-namespace");
        }
        self.run(verb, &args);
    }

    fn get(&self, what: &str, format: &str) -> String {
        self.control_plane.kubectl_ok(&["get", what, "-n", "ops", "-o", format])
    }

    fn uid(&self, what: &str) -> String {
        let uid = self.get(what, "jsonpath={.metadata.uid}");
        assert_eq!(uid.len(), 36, "{what}");
        uid
    }

    fn url(&self) -> String {
        self.get(WORKSPACE, "jsonpath={.spec.api.url}")
    }

    /// What a user writes, and the Secret of the same name that it owns, as the operator would make it.
    async fn something_synced(&self, name: &str) {
        let object = json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "metadata": {"name": name},
            "spec": {"data": [{"secretKey": "A", "remoteRef": {"key": "a"}}]}});
        let file = self.helm.write("psec", "json", &object.to_string());
        self.control_plane.kubectl_ok(&["apply", "-n", "ops", "-f", &file]);
        let owner = self.uid(&format!("prefectsecret/{name}"));
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": [{
            "apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "name": name, "uid": owner,
            "controller": true, "blockOwnerDeletion": true,
        }]}, "stringData": {"A": "one"}}))
        .unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.control_plane.admin().await, "ops");
        secrets.create(&PostParams::default(), &secret).await.expect("a Secret");
    }

    /// Waits until Kubernetes has collected a Secret whose owner is gone.
    async fn collected(&self, name: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.control_plane.admin().await, "ops");
        eventually("the Secret to go with its owner", Duration::from_secs(90), async || {
            match secrets.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{:?}", other.map(|secret| secret.map(|secret| secret.metadata)))),
            }
        })
        .await;
    }
}

/// A copy of the chart in which the CRDs are as an earlier version may have had them: a column is missing.
fn earlier_chart(helm: &Helm) -> String {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let place = helm.write("earlier", "chart", "");
    std::fs::remove_file(&place).unwrap();
    copy(&root().join(CHART), Path::new(&place));
    let path = Path::new(&place).join("files/crds/prefectworkspaces.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let column =
        "    - jsonPath: .status.conditions[?(@.type==\"Ready\")].status\n      name: Ready\n      type: string\n";
    assert!(text.contains(column), "the CRD has another first column now: change this test");
    std::fs::write(&path, text.replacen(column, "", 1)).unwrap();
    place
}

/// The whole life of a release; `follows` says whether Helm changes a workspace that it takes over.
async fn live(flags: &'static [&'static str], follows: bool) {
    let release = Release::new(flags).await;
    let earlier = earlier_chart(&release.helm);

    // The first install, where the API server does not know the kind of the workspace.
    release.apply("install", &earlier, "http://one/api");
    let workspace = release.uid(WORKSPACE);
    let crd = release.uid(CRD);
    assert_eq!(release.url(), "http://one/api");
    assert_eq!(release.get(CRD, PRINTER_COLUMN), "Reason");
    release.something_synced("etl").await;
    let (object, secret) = (release.uid("prefectsecret/etl"), release.uid("secret/etl"));
    let same = |when: &str| {
        let now = [WORKSPACE, CRD, "prefectsecret/etl", "secret/etl"].map(|what| release.uid(what));
        assert_eq!(now, [workspace.clone(), crd.clone(), object.clone(), secret.clone()], "after {when}");
    };

    // The workspace is an ordinary object from now on, and the CRDs are the new chart's.
    release.apply("upgrade", CHART, "http://two/api");
    same("the first upgrade");
    assert_eq!(release.get(CRD, PRINTER_COLUMN), "Ready");
    assert_eq!(release.url(), if follows { "http://two/api" } else { "http://one/api" });
    release.apply("upgrade", CHART, "http://three/api");
    same("the second upgrade");
    assert_eq!(release.url(), "http://three/api");

    // Revision 1 had no such object in its manifest, only the hook.
    release.run("rollback", &["1"]);
    same("a rollback to the first install");
    assert_eq!(release.get(CRD, PRINTER_COLUMN), "Reason");
    release.apply("upgrade", CHART, "http://four/api");
    same("the upgrade after it");
    release.run("rollback", &["3"]);
    same("a rollback to an upgrade");
    assert_eq!(release.url(), "http://three/api");
    // The workspace is in the values no more.
    release.run("upgrade", &[CHART]);
    same("an upgrade that disables the workspace");
    release.apply("upgrade", CHART, "http://five/api");
    same("an upgrade that enables it again");

    release.run("uninstall", &[]);
    let deployments = release.control_plane.kubectl_ok(&["get", "deployments", "-n", "ops", "-o", "name"]);
    assert_eq!(deployments, "");
    let roles = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let left = release.control_plane.kubectl_ok(&["get", roles, "-o", "name"]);
    assert!(!left.contains("prefect-sync"), "{left}");
    same("the uninstall");

    release.apply("install", CHART, "http://six/api");
    same("the second install");
    assert_eq!(release.url(), if follows { "http://six/api" } else { "http://five/api" });
    release.apply("upgrade", CHART, "http://seven/api");
    same("an upgrade of it");
    assert_eq!(release.url(), "http://seven/api");
}

#[tokio::test]
async fn nothing_that_users_need_is_deleted_from_the_first_install_to_the_second() {
    live(&[], true).await;
}

#[tokio::test]
async fn nor_where_helm_merges_by_itself_as_its_former_versions_did() {
    // What it takes over it does not change until the next upgrade; deploy/docs/upgrade.md says so.
    live(&["--server-side=false"], false).await;
}

#[tokio::test]
async fn an_uninstall_without_kept_crds_deletes_what_they_describe() {
    // So that the caution in the values and in the notes is true.
    let release = Release::new(&[]).await;
    release.run("install", &[CHART, "--create-namespace", "--set", "crds.keep=false"]);
    release.control_plane.kubectl_ok(&["wait", "--for=condition=Established", CRD, "--timeout=30s"]);
    // The garbage collector looks for new kinds every half minute: one that it has collected it knows.
    release.something_synced("first").await;
    release.control_plane.kubectl_ok(&["delete", "prefectsecret/first", "-n", "ops"]);
    release.collected("first").await;
    release.something_synced("etl").await;
    release.run("uninstall", &[]);
    release.collected("etl").await;
    let crds = release.control_plane.kubectl_ok(&["get", "crd", "-o", "json"]);
    let crds: Value = serde_json::from_str(&crds).unwrap();
    assert_eq!(crds["items"], json!([]));
}

#[tokio::test]
async fn an_upgrade_that_would_delete_the_crds_is_refused() {
    let release = Release::new(&[]).await;
    release.run("install", &[CHART, "--create-namespace", "--set", "crds.keep=false"]);
    release.control_plane.kubectl_ok(&["wait", "--for=condition=Established", CRD, "--timeout=30s"]);
    release.something_synced("etl").await;
    let (crd, object) = (release.uid(CRD), release.uid("prefectsecret/etl"));
    let without = ["--set", "crds.install=false"];
    let refused = |more: &[&str]| {
        let upgrade = ["upgrade", "sync", CHART, "--namespace", "ops"];
        let said = release.helm.refused(&[upgrade.as_slice(), without.as_slice(), more].concat());
        assert!(
            said.contains("crds.install=false would delete the CRD clusterprefectworkspaces.prefect-sync.dev"),
            "{more:?}: {said}"
        );
        assert!(said.contains("upgrade with crds.install=true and crds.keep=true first"), "{said}");
    };
    // Whatever keep says: it does not reach CRDs that are not rendered.
    refused(&["--set", "crds.keep=false"]);
    refused(&["--set", "crds.keep=true"]);
    // Under its next name there is no Deployment.
    refused(&["--set", "fullnameOverride=renamed"]);
    refused(&["--set", "nameOverride=renamed"]);
    // A version that did not say it yet.
    let deployment = ["deployment/sync-prefect-sync", "-n", "ops"];
    let change = |verb: &str, more: &[&str]| {
        release.control_plane.kubectl_ok(&[&[verb], deployment.as_slice(), more].concat());
    };
    change("annotate", &["prefect-sync.dev/installs-crds-"]);
    refused(&[]);
    change("delete", &[]);
    refused(&[]);
    assert_eq!((release.uid(CRD), release.uid("prefectsecret/etl")), (crd.clone(), object.clone()));
    // The way that the message names.
    release.run("upgrade", &[CHART, "--set", "crds.keep=true"]);
    release.run("upgrade", &[&[CHART], without.as_slice()].concat());
    // They are another's from now on, and no longer looked at.
    release.control_plane.kubectl_ok(&["annotate", "crd", "--all", "helm.sh/resource-policy-"]);
    release.run("upgrade", &[&[CHART], without.as_slice()].concat());
    release.run("uninstall", &[]);
    assert_eq!((release.uid(CRD), release.uid("prefectsecret/etl")), (crd, object));
}

#[tokio::test]
async fn a_release_without_crds_of_its_own_asks_for_none() {
    // Another release's, which does not keep them: that is its own affair.
    let release = Release::new(&[]).await;
    let other = ["install", "other", CHART, "--namespace", "other", "--create-namespace", "--set", "crds.keep=false"];
    release.helm.ok(&other);
    let limited = ["--set", "crds.install=false", "--set", "namespaces={ops}"];
    // Who installs it may read no CRD.
    let groups = ["", "apps", "policy", "rbac.authorization.k8s.io", "admissionregistration.k8s.io"];
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "installer"},
        "rules": [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}]});
    release.control_plane.kubectl_ok(&["create", "-f", &release.helm.write("role", "json", &role.to_string())]);
    let bind = ["create", "clusterrolebinding", "installer", "--clusterrole=installer", "--user=installer"];
    release.control_plane.kubectl_ok(&bind);
    let may = ["auth", "can-i", "get", "customresourcedefinitions", "--as=installer"];
    assert!(!release.control_plane.kubectl(&may).status.success());
    let as_installer = [limited.as_slice(), &["--kube-as-user", "installer"]].concat();
    release.run("install", &[&[CHART, "--create-namespace"], as_installer.as_slice()].concat());
    release.run("upgrade", &[&[CHART], as_installer.as_slice()].concat());
    // Without the Deployment they are looked at, and are not this release's.
    release.control_plane.kubectl_ok(&["delete", "deployment", "--all", "-n", "ops"]);
    release.run("upgrade", &[&[CHART], limited.as_slice()].concat());
    assert_eq!(release.get("deployments", "name"), "deployment.apps/sync-prefect-sync\n");
}

#[tokio::test]
async fn kubectl_takes_crds_over_from_helm_when_told() {
    let release = Release::new(&[]).await;
    release.run("install", &[CHART, "--create-namespace"]);
    let crd = release.uid(CRD);
    let text = std::fs::read_to_string(root().join("crds/prefectworkspaces.yaml")).unwrap();
    let changed = text.replacen("How to reach one", "How to get to one", 1);
    assert_ne!(text, changed, "the CRD has no description there now: change this test");
    let file = release.helm.write("newer", "yaml", &changed);
    let apply = ["apply", "--server-side", "-f", &file];
    let output = release.control_plane.kubectl(&apply);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("Apply failed with"), "{said}");
    release.control_plane.kubectl_ok(&[apply.as_slice(), &["--force-conflicts"]].concat());
    let described = || release.get(CRD, "jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}");
    assert_eq!((described().starts_with("How to get to one"), release.uid(CRD)), (true, crd));
    // They stay kubectl's, and Helm goes on with the rest.
    release.run("upgrade", &[CHART, "--set", "crds.install=false"]);
    assert!(described().starts_with("How to get to one"), "{}", described());
}

#[tokio::test]
async fn crds_that_kubectl_applied_are_taken_over_when_told() {
    let release = Release::new(&[]).await;
    release.control_plane.kubectl_ok(&["apply", "-f", "crds"]);
    let file = release.helm.values(&json!({}));
    let args = ["install", "sync", CHART, "--namespace", "ops", "--create-namespace", "--values", &file];
    let said = release.helm.refused(&args);
    assert!(said.contains("invalid ownership metadata"), "{said}");
    release.run("install", &[CHART, "--create-namespace", "--take-ownership"]);
    assert_eq!(release.get(CRD, PRINTER_COLUMN), "Ready");
}
