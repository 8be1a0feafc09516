//! Objects that the API server took, and that only the operator can see to be wrong: conditions say so, and everything
//! else goes on.

use std::path::{Path, PathBuf};

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, prefect, root};
use crate::support::{ControlPlane, Operator, OperatorOptions, eventually, ports};

#[tokio::test]
async fn what_only_the_operator_can_see_becomes_a_condition_that_says_what_to_write() {
    let world = World::with_prefect("conditions").await;
    let json_block = world.name("json");
    prefect().await.set_secret(&json_block, json!({"a": "hunter2"})).await;

    let paths = [
        ("a..b", "a name is missing at character 3"),
        ("a.", "a name is missing at character 3"),
        ("a[x]", "an index is a number from 0 at character 3"),
        ("a[0", "']' is missing at character 2"),
        ("a]", "this character needs quotes at character 2"),
        ("a[0]b", "'.' or '[' is missing at character 5"),
    ];
    let entries: Vec<Value> = paths
        .iter()
        .enumerate()
        .map(|(n, (property, _))| json!({"secretKey": format!("K{n}"), "remoteRef": {"key": json_block, "property": property}}))
        .collect();
    let object = |name: &str, spec: Value| {
        json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    world.apply(&object("paths", json!({"data": entries}))).await;
    world.eventually_reason("PrefectSecret", "paths", "PropertyInvalid").await;
    let status = world.get("PrefectSecret", "paths").await["status"].clone();
    for (entry, (property, problem)) in status["entries"].as_array().unwrap().iter().zip(paths) {
        assert_eq!(
            entry["message"],
            format!("property {property:?} is no path: {problem}; write a.b[0].c, or a[\"b.c\"] for names with dots")
        );
    }

    // The operator leaves the details of labels to the API server, and hands its words on.
    let good = json!([{"secretKey": "A", "remoteRef": {"key": json_block, "property": "a"}}]);
    let template = json!({"metadata": {"labels": {"team": "data and more"}}});
    world.apply(&object("refused", json!({"data": good, "target": {"template": template}}))).await;
    let ready = world.eventually_reason("PrefectSecret", "refused", "TargetRefused").await;
    assert_eq!(
        ready.message,
        format!(
            "the API server refused Secret {}/refused: metadata.labels: Invalid value: \"data and more\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            world.namespace
        )
    );

    // Addresses that begin like one. Credentials in one are not repeated.
    for (name, url, message) in [
        (
            "spaces",
            "http://prefect server/api",
            "the API address is not a URL; give what PREFECT_API_URL holds, such as http://prefect:4200/api",
        ),
        (
            "nothing",
            "http://",
            "the API address is not a URL; give what PREFECT_API_URL holds, such as http://prefect:4200/api",
        ),
        (
            "password",
            "http://admin:hunter2@prefect:4200/api",
            "the API address holds a user name or password; leave it out and set authString instead",
        ),
        (
            "cloud",
            "https://api.prefect.cloud/api",
            "Prefect Cloud needs accountId and workspaceId; both are in the browser's address",
        ),
    ] {
        world
            .apply(&json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectWorkspace", "metadata": {"name": name}, "spec": {"api": {"url": url}}}).to_string())
            .await;
        let reason = if name == "cloud" { "CloudNeedsWorkspace" } else { "WorkspaceInvalid" };
        let ready = world.eventually_reason("PrefectWorkspace", name, reason).await;
        assert_eq!(ready.message.split(". Not ready since").next(), Some(message), "{url}");
        let status = world.get("PrefectWorkspace", name).await["status"].to_string();
        assert!(!status.contains("hunter2"), "{status}");
    }
    // None of these stands in the way of an object that is right.
    world.apply(&object("good", json!({"data": good}))).await;
    world.eventually_secret("good", &[("A", "hunter2")]).await;
    assert!(!world.stop_operator().await.contains("hunter2"));
}

/// A control plane of its own, since here the CRDs themselves change.
struct Cluster {
    control_plane: ControlPlane,
    namespace: String,
    kubeconfig: PathBuf,
}

impl Cluster {
    fn operator(&self) -> Operator {
        let options = OperatorOptions {
            kubeconfig: self.kubeconfig.clone(),
            args: vec!["--health-address".into(), format!("127.0.0.1:{}", ports::free())],
            env: vec![("PREFECT_SYNC_LOG_FORMAT".into(), "text".into())],
        };
        Operator::start(Path::new(env!("CARGO_BIN_EXE_prefect-sync")), &options)
    }

    /// Applies the CRDs as they are, or so that any `spec` can be stored, as one from another version could.
    fn install(&self, lax: bool) {
        for entry in std::fs::read_dir(root().join("crds")).unwrap() {
            let path = entry.unwrap().path();
            let mut definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            if lax {
                definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
                    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            }
            let file = self.control_plane.logs().join("crd.json");
            std::fs::write(&file, definition.to_string()).unwrap();
            // Into a cluster that never saw them: the first time there is nothing that kubectl could warn of.
            let file = file.display().to_string();
            let output = self.control_plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
            assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        self.control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
    }

    async fn api(&self, kind: &str) -> Api<DynamicObject> {
        let group = if matches!(kind, "Secret" | "ConfigMap") { ("", "v1") } else { ("prefect-sync.dev", "v1alpha1") };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group.0, group.1, kind));
        Api::namespaced_with(self.control_plane.admin().await, &self.namespace, &resource)
    }

    async fn patch(&self, kind: &str, name: &str, patch: Value) -> Result<(), String> {
        let patched = self.api(kind).await.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|error| error.to_string())
    }

    async fn apply(&self, kind: &str, name: &str, mut object: Value) {
        let version = if kind == "Secret" { "v1" } else { "prefect-sync.dev/v1alpha1" };
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        let parameters = PatchParams::apply("test").force();
        self.api(kind).await.patch(name, &parameters, &Patch::Apply(&object)).await.unwrap();
    }

    async fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::to_value(self.api(kind).await.get(name).await.unwrap()).unwrap()
    }

    /// Waits for the reason of `Ready`, and returns its message.
    async fn reason(&self, operator: &Operator, kind: &str, name: &str, reason: &str) -> String {
        eventually(&format!("{kind} {name} to be {reason}"), SOON, async || {
            let object = self.get(kind, name).await;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            match conditions.iter().find(|condition| condition["type"] == "Ready") {
                Some(ready) if ready["reason"] == reason => Ok(ready["message"].as_str().unwrap().to_owned()),
                other => Err(format!("it is {other:?}\noperator's log:\n{}", operator.log())),
            }
        })
        .await
    }

    /// Waits until each of [`INVALID`] has the condition, and what depends on one too.
    async fn says_what_is_wrong(&self, operator: &Operator) {
        let whole = |kind: &str, name: &str, problem: &str| {
            format!(
                "{kind} {}/{name} as it is stored does not fit the types of prefect-sync {} and is left alone: {problem}; mend it, or run the version that it was written for",
                self.namespace,
                env!("CARGO_PKG_VERSION")
            )
        };
        for ((kind, name), problem) in INVALID.into_iter().zip([
            "spec.target.creationPolicy: unknown variant `Shared`, expected one of `Owner`, `Merge`, `Orphan`",
            "spec.target.deletionPolicy: unknown variant `Archive`, expected `Retain` or `Delete`",
            "spec.refreshInterval: invalid floating-point number: cannot parse float from empty string",
        ]) {
            let message = self.reason(operator, kind, name, "ObjectInvalid").await;
            assert_eq!(message, whole(kind, name, problem));
        }
        let message = self.reason(operator, "PrefectSecret", "elsewhere", "ObjectInvalid").await;
        assert!(
            message.starts_with(&format!("PrefectWorkspace {}/other as it is stored", self.namespace)),
            "{message}"
        );
    }

    /// Changes the local secrets, and waits until they arrive in Secret `good`.
    async fn goes_on(&self, operator: &Operator, value: &str) {
        self.patch("Secret", "config", json!({"stringData": {"config.toml": local(value)}})).await.unwrap();
        let expected = json!({"A": base64(value)});
        eventually(&format!("{value:?} in Secret good"), SOON, async || {
            match self.api("Secret").await.get_opt("good").await.unwrap() {
                Some(secret) if secret.data["data"] == expected => Ok(()),
                other => Err(format!("{other:?}\noperator's log:\n{}", operator.log())),
            }
        })
        .await;
    }
}

/// What is made unparsable.
const INVALID: [(&str, &str); 3] = [("PrefectSecret", "bad"), ("PrefectKV", "bad"), ("PrefectWorkspace", "other")];

fn local(value: &str) -> String {
    format!("[context.secrets]\nA = \"{value}\"\n")
}

fn base64(value: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(value)
}

#[tokio::test]
async fn promise_9_an_object_that_cannot_be_parsed_says_so_and_everything_else_goes_on() {
    let control_plane = ControlPlane::start().await;
    control_plane.kubectl_ok(&["apply", "-f", "deploy/manifests-optional/00-namespace.yaml"]);
    control_plane.kubectl_ok(&["apply", "-f", "deploy/manifests/10-rbac.yaml"]);
    let namespace = control_plane.namespace("stored").await;
    let kubeconfig = control_plane.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await;
    let cluster = Cluster { control_plane, namespace, kubeconfig };

    // Before anyone has installed the CRDs.
    let mut operator = cluster.operator();
    let code =
        eventually("the operator to give up", SOON, async || operator.exit_code().ok_or_else(|| operator.log())).await;
    assert_eq!(code, 1);
    assert_eq!(
        operator.log().trim_end(),
        format!(
            "prefect-sync: cluster {}/: the API server does not serve PrefectWorkspace, PrefectSecret, PrefectKV (prefect-sync.dev/v1alpha1): install the CRDs first, kubectl apply -f crds/",
            cluster.control_plane.url()
        )
    );

    cluster.install(false);
    let operator = cluster.operator();
    let workspace = json!({"spec": {"local": {"configToml": {"secretKeyRef": {"name": "config"}}}}});
    let reads_a = json!({"spec": {"data": [{"secretKey": "A", "remoteRef": {"key": "A"}}]}});
    let config = json!({"metadata": {"labels": {"prefect-sync.dev/offer": "workspace"}}, "stringData": {"config.toml": local("one")}});
    cluster.apply("Secret", "config", config).await;
    cluster.apply("PrefectWorkspace", "default", workspace.clone()).await;
    cluster.apply("PrefectWorkspace", "other", workspace).await;
    for name in ["good", "bad"] {
        cluster.apply("PrefectSecret", name, reads_a.clone()).await;
        cluster.reason(&operator, "PrefectSecret", name, "Synced").await;
    }
    let reads_variable =
        json!({"spec": {"workspaceRef": {"name": "none"}, "data": [{"configMapKey": "A", "remoteRef": {"key": "a"}}]}});
    cluster.apply("PrefectKV", "bad", reads_variable).await;
    let mut elsewhere = reads_a.clone();
    elsewhere["spec"]["workspaceRef"] = json!({"name": "other"});
    cluster.apply("PrefectSecret", "elsewhere", elsewhere).await;
    cluster.reason(&operator, "PrefectSecret", "elsewhere", "Synced").await;
    let target = cluster.get("Secret", "bad").await;

    // What another version might have stored, before someone went back to this one.
    cluster.install(true);
    let later = json!({"spec": {"target": {"creationPolicy": "Shared"}}});
    for (kind, name, patch) in [
        ("PrefectSecret", "bad", later.clone()),
        ("PrefectWorkspace", "other", json!({"spec": {"refreshInterval": "soon"}})),
        ("PrefectKV", "bad", json!({"spec": {"target": {"deletionPolicy": "Archive"}}})),
    ] {
        // The API server takes a moment to use the lax schema.
        eventually("the object to be stored", SOON, async || cluster.patch(kind, name, patch.clone()).await).await;
    }
    cluster.says_what_is_wrong(&operator).await;
    cluster.goes_on(&operator, "two").await;

    // The same from the first list of an operator that starts, and where the API server has strict CRDs again.
    operator.stop().await;
    cluster.install(false);
    eventually("strict CRDs", SOON, async || {
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        match cluster.api("PrefectSecret").await.patch("good", &parameters, &Patch::Merge(&later)).await {
            Err(kube::Error::Api(refused)) if refused.message.contains("Unsupported value") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for (kind, name) in INVALID {
        let none = Patch::Merge(json!({"status": {"conditions": null}}));
        cluster.api(kind).await.patch_status(name, &PatchParams::default(), &none).await.unwrap();
    }
    let operator = cluster.operator();
    cluster.says_what_is_wrong(&operator).await;
    cluster.goes_on(&operator, "three").await;
    assert_eq!(cluster.get("Secret", "bad").await, target, "the target of an object that can't be parsed");

    // Mended, it goes on too.
    let mended = json!({"spec": {"target": {"creationPolicy": "Owner"}}});
    cluster.patch("PrefectSecret", "bad", mended).await.unwrap();
    cluster.reason(&operator, "PrefectSecret", "bad", "Synced").await;
    assert_eq!(cluster.get("Secret", "bad").await["data"], json!({"A": base64("three")}));
    cluster.patch("PrefectWorkspace", "other", json!({"spec": {"refreshInterval": "30s"}})).await.unwrap();
    cluster.reason(&operator, "PrefectSecret", "elsewhere", "Synced").await;
    operator.stop().await;
}
