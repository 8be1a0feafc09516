//! One control plane and one Prefect server for all tests of this binary; a namespace and an operator for each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::support::{
    self, ControlPlane, Operator, OperatorOptions, Prefect, PrefectOptions, Proxy, eventually, ports,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const SOON: Duration = Duration::from_secs(60);

/// The folder of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The manifests of a folder of the repository.
pub fn manifests(folder: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")).collect()
}

/// The control plane of most tests, whose operators are limited to a namespace each.
pub async fn control_plane() -> &'static ControlPlane {
    static CELL: OnceCell<ControlPlane> = OnceCell::const_new();
    CELL.get_or_init(installed).await
}

/// A control plane with the CRDs and the roles of `deploy/` applied as a user would.
async fn installed() -> ControlPlane {
    support::install_crypto_provider();
    let control_plane = ControlPlane::start().await;
    let path = |relative: &str| root().join(relative).display().to_string();
    control_plane.kubectl_ok(&["apply", "-f", &path("crds")]);
    control_plane.kubectl_ok(&["apply", "-f", &path("deploy/manifests-optional/00-namespace.yaml")]);
    control_plane.kubectl_ok(&["apply", "-f", &path("deploy/manifests/10-rbac.yaml")]);
    // All tests run under it, so that it stands in the way of nothing.
    control_plane.kubectl_ok(&["apply", "-f", &path("deploy/manifests/12-admission-policy.yaml")]);
    control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
    control_plane
}

/// A control plane of its own with an operator that works in all of it: it would take part in all other tests.
pub struct WholeCluster {
    pub control_plane: ControlPlane,
    operator: Operator,
    options: OperatorOptions,
}

/// Held by a test that has a ClusterPrefectWorkspace `default`: there is one for all.
pub static CLUSTER_DEFAULT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The cluster that tests of ClusterPrefectWorkspaces share.
pub async fn whole_cluster() -> &'static WholeCluster {
    static CELL: OnceCell<WholeCluster> = OnceCell::const_new();
    CELL.get_or_init(|| async {
        let control_plane = installed().await;
        let kubeconfig = control_plane.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await;
        // All servers of the tests are at this address; whoever calls it otherwise may not.
        let options = operator_options(kubeconfig, &["--allowed-api-hosts", "127.0.0.1"]);
        let operator = Operator::start(Path::new(env!("CARGO_BIN_EXE_prefect-sync")), &options);
        WholeCluster { control_plane, operator, options }
    })
    .await
}

pub fn operator_options(kubeconfig: PathBuf, args: &[&str]) -> OperatorOptions {
    let mut all = vec!["--health-address".to_owned(), format!("127.0.0.1:{}", ports::free())];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    OperatorOptions { kubeconfig, args: all, env: vec![("PREFECT_SYNC_LOG".into(), "info,prefect_sync=debug".into())] }
}

/// The operator's identity: the service account of `deploy/`, never an administrator.
pub async fn operator_kubeconfig() -> PathBuf {
    static CELL: OnceCell<PathBuf> = OnceCell::const_new();
    CELL.get_or_init(|| async {
        control_plane().await.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await
    })
    .await
    .clone()
}

/// The Prefect server that tests share; names in it must carry the namespace.
pub async fn prefect() -> &'static Prefect {
    static CELL: OnceCell<Prefect> = OnceCell::const_new();
    CELL.get_or_init(|| async {
        support::install_crypto_provider();
        Prefect::start(PrefectOptions::default()).await
    })
    .await
}

/// Waits until the workspace behind `proxy` was refreshed `count` times from start to end.
pub async fn passes(proxy: &Proxy, count: usize) {
    let seen = || {
        let requests = proxy.requests();
        let of = |path: &str| requests.iter().filter(|request| request.ends_with(path)).count();
        of("/block_documents/filter").max(of("/variables/filter"))
    };
    // The refresh under way may have begun before.
    let enough = seen() + count + 1;
    let patience = SOON * u32::try_from(count.div_ceil(8)).expect("a few");
    eventually(&format!("{count} refreshes"), patience, async || {
        let now = seen();
        if now >= enough { Ok(()) } else { Err(format!("{now} of {enough} requests")) }
    })
    .await;
}

/// The `Ready` condition of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// A namespace with an operator of its own.
pub struct World {
    /// Unique to the test; also the prefix of the test's names in Prefect.
    pub namespace: String,
    /// Talks to the API server as its administrator.
    pub client: Client,
    options: OperatorOptions,
    operator: Mutex<Option<Operator>>,
    cluster: Option<&'static WholeCluster>,
}

impl World {
    /// A namespace with these labels in the cluster where an operator works everywhere.
    pub async fn in_whole_cluster(name: &str, labels: Value) -> Self {
        let cluster = whole_cluster().await;
        let namespace = cluster.control_plane.namespace(name).await;
        let client = cluster.control_plane.admin().await;
        let options = cluster.options.clone();
        let world = Self { namespace, client, options, operator: Mutex::default(), cluster: Some(cluster) };
        world.label(labels).await;
        world
    }

    /// The same in another namespace, which a manifest has made.
    pub fn elsewhere(&self, namespace: &str) -> Self {
        let (client, options) = (self.client.clone(), self.options.clone());
        Self { namespace: namespace.to_owned(), client, options, operator: Mutex::default(), cluster: self.cluster }
    }

    /// Puts labels on the namespace; `null` takes one off.
    pub async fn label(&self, labels: Value) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let patch = Patch::Merge(serde_json::json!({"metadata": {"labels": labels}}));
        namespaces.patch(&self.namespace, &PatchParams::default(), &patch).await.expect("labels");
    }

    /// A namespace of a cluster of the test's own, without an operator.
    pub fn in_namespace(namespace: String, client: Client) -> Self {
        Self { namespace, client, options: OperatorOptions::default(), operator: Mutex::default(), cluster: None }
    }

    /// A namespace and an operator limited to it, with no workspace.
    pub async fn new(name: &str) -> Self {
        Self::with_args(name, &[]).await
    }

    /// The same with further arguments for the operator.
    pub async fn with_args(name: &str, args: &[&str]) -> Self {
        let world = Self::without_operator(name, args).await;
        world.start_operator();
        world
    }

    /// The same without the operator.
    pub async fn without_operator(name: &str, args: &[&str]) -> Self {
        let control_plane = control_plane().await;
        let namespace = control_plane.namespace(name).await;
        let args: Vec<&str> = ["--namespaces", &namespace].iter().chain(args).copied().collect();
        let options = operator_options(operator_kubeconfig().await, &args);
        let client = control_plane.admin().await;
        Self { namespace, client, options, operator: Mutex::default(), cluster: None }
    }

    /// A namespace and an operator limited to it, which asks the API server through a proxy; and that.
    pub async fn behind_proxy(name: &str) -> (Self, Proxy) {
        let mut world = Self::without_operator(name, &[]).await;
        let (proxy, kubeconfig) = control_plane().await.behind_proxy(&world.options.kubeconfig).await;
        world.options.kubeconfig = kubeconfig;
        world.start_operator();
        (world, proxy)
    }

    /// With the workspace `default`, which leads to the shared Prefect server and is refreshed each second.
    pub async fn with_prefect(name: &str) -> Self {
        let world = Self::new(name).await;
        world.workspace(prefect().await.url()).await;
        world.connected().await;
        world
    }

    /// Waits until a workspace says that it hears of changes in this way; `status.events`.
    pub async fn eventually_mode(&self, workspace: &str, mode: &str) -> Value {
        eventually(&format!("{workspace} to be {mode}"), SOON + SOON, async || {
            let events = self.get("PrefectWorkspace", workspace).await["status"]["events"].clone();
            if events["mode"] == mode { Ok(events) } else { Err(format!("{events}; {}", self.log())) }
        })
        .await
    }

    /// Waits until the workspace `default` is connected: objects that come before it may say that they wait for it.
    pub async fn connected(&self) {
        self.eventually_reason("PrefectWorkspace", "default", "Connected").await;
    }

    /// The workspace `default`, leading to `url`, without credentials.
    pub async fn workspace(&self, url: &str) {
        self.apply(&format!(
            "{{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectWorkspace, metadata: {{name: default}}, spec: {{api: {{url: '{url}'}}, refreshInterval: 1s}}}}"
        ))
        .await;
    }

    /// A workspace of this name whose `spec` is this (YAML or JSON).
    pub async fn workspace_spec(&self, name: &str, spec: &str) {
        self.apply(&format!(
            "{{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectWorkspace, metadata: {{name: {name}}}, spec: {spec}}}"
        ))
        .await;
    }

    /// A name in Prefect that no other test uses.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Starts the operator, which must not be running.
    pub fn start_operator(&self) {
        self.start_operator_with(&[]);
    }

    /// The same with further variables in its environment.
    pub fn start_operator_with(&self, env: &[(&str, &Path)]) {
        let mut options = self.options.clone();
        options.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), value.display().to_string())));
        let started = Operator::start(Path::new(env!("CARGO_BIN_EXE_prefect-sync")), &options);
        let before = self.operator.lock().unwrap_or_else(PoisonError::into_inner).replace(started);
        assert!(before.is_none(), "the operator is running already");
    }

    /// Stops the operator as Kubernetes would; returns its log.
    pub async fn stop_operator(&self) -> String {
        let operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (code, log) = operator.expect("the operator is running").stop().await;
        assert_eq!(code, 0, "the operator did not stop cleanly:\n{log}");
        log
    }

    /// Kills the operator at once.
    pub fn kill_operator(&self) {
        let operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner).take();
        operator.expect("the operator is running").kill_now();
    }

    /// What the operator's metrics say, one line each.
    pub async fn metrics(&self) -> String {
        let address = self.options.args.iter().skip_while(|arg| *arg != "--health-address").nth(1).expect("an address");
        let answer = reqwest::get(format!("http://{address}/metrics")).await.expect("metrics");
        answer.text().await.expect("text")
    }

    /// The resident memory of the running operator, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        operator.as_ref().expect("the operator is running").rss_kib()
    }

    /// Every write in this namespace that the operator asked the API server for, `VERB URI CODE` each.
    pub async fn writes(&self) -> Vec<String> {
        let all = self.requests().await;
        all.into_iter().filter(|request| !request.starts_with("get ") && !request.starts_with("list ")).collect()
    }

    /// Every GET and LIST of Secrets in this namespace that the operator asked for, `VERB URI CODE` each.
    pub async fn reads_of_secrets(&self) -> Vec<String> {
        let all = self.requests().await;
        all.into_iter().filter(|request| request.starts_with("get ") || request.starts_with("list ")).collect()
    }

    async fn requests(&self) -> Vec<String> {
        let events = control_plane().await.requests_of("system:serviceaccount:prefect-sync:prefect-sync");
        let here = events.iter().filter(|event| event["objectRef"]["namespace"] == self.namespace.as_str());
        here.map(|event| {
            let uri = event["requestURI"].as_str().unwrap_or_default();
            format!("{} {uri} {}", event["verb"].as_str().unwrap_or_default(), event["responseStatus"]["code"])
        })
        .collect()
    }

    /// The Events on an object, oldest first: type, reason, note.
    pub async fn events(&self, kind: &str, name: &str) -> Vec<(String, String, String)> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = api.list(&ListParams::default()).await.expect("listing Events").items;
        events.sort_by_key(|event| event.event_time.clone());
        let about = |event: &Event| {
            event.regarding.as_ref().is_some_and(|regarding| {
                regarding.kind.as_deref() == Some(kind) && regarding.name.as_deref() == Some(name)
            })
        };
        let events = events.into_iter().filter(about);
        events
            .map(|event| {
                let text = |field: Option<String>| field.unwrap_or_default();
                (text(event.type_), text(event.reason), text(event.note))
            })
            .collect()
    }

    /// What the running operator has logged.
    pub fn log(&self) -> String {
        let operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        operator.as_ref().or(self.cluster.map(|cluster| &cluster.operator)).map(Operator::log).unwrap_or_default()
    }

    /// Applies manifests as a user would; fails the test when the API server refuses one.
    pub async fn apply(&self, yaml: &str) {
        if let Err(refused) = self.try_apply(yaml).await {
            panic!("the API server refused {yaml}: {refused}");
        }
    }

    /// Applies manifests; the API server's words when it refuses one.
    pub async fn try_apply(&self, yaml: &str) -> Result<(), String> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the test's manifests are YAML");
        for document in documents {
            let kind = document["kind"].as_str().expect("kind").to_owned();
            let name = document["metadata"]["name"].as_str().expect("name").to_owned();
            // A little strict: an unknown field is a mistake in the test.
            let parameters = PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..PatchParams::apply("test").force()
            };
            let applied = self.api(&kind).patch(&name, &parameters, &Patch::Apply(&document)).await;
            match applied {
                Ok(_) => {}
                Err(kube::Error::Api(status)) => return Err(status.message.clone()),
                Err(error) => panic!("applying {kind} {name}: {error}"),
            }
        }
        Ok(())
    }

    /// Any of the kinds that tests use, in this namespace.
    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "Secret" | "ConfigMap" => ("", "v1"),
            _ => ("prefect-sync.dev", "v1alpha1"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if kind.starts_with("Cluster") {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Secrets of this namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// ConfigMaps of this namespace.
    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Secret's data as text; `None` when there is no such Secret.
    pub async fn secret_data(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let secret = self.secrets().get_opt(name).await.expect("reading a Secret")?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Some(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value.0))).collect())
    }

    /// Waits until the Secret holds exactly this.
    #[track_caller]
    pub fn eventually_secret<'a>(
        &'a self,
        name: &'a str,
        expected: &'a [(&'a str, &'a str)],
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let expected: BTreeMap<String, String> =
                expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            eventually(&format!("Secret {name} to hold {expected:?} ({caller})"), SOON, async || {
                match self.secret_data(name).await {
                    Some(data) if data == expected => Ok(()),
                    other => Err(format!("it holds {other:?}\noperator's log:\n{}", self.log())),
                }
            })
            .await;
        }
    }

    /// The object as it is stored.
    pub async fn get(&self, kind: &str, name: &str) -> Value {
        let object = self.api(kind).get(name).await.unwrap_or_else(|error| panic!("reading {kind} {name}: {error}"));
        serde_json::to_value(object).expect("JSON")
    }

    /// The `Ready` condition.
    pub async fn ready(&self, kind: &str, name: &str) -> Option<Ready> {
        let object = self.get(kind, name).await;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
        let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        Some(Ready { status: text("status"), reason: text("reason"), message: text("message") })
    }

    /// Waits until `Ready` has this reason, and returns it.
    #[track_caller]
    pub fn eventually_reason<'a>(
        &'a self,
        kind: &'a str,
        name: &'a str,
        reason: &'a str,
    ) -> impl Future<Output = Ready> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            eventually(&format!("{kind} {name} to be {reason} ({caller})"), SOON, async || {
                match self.ready(kind, name).await {
                    Some(ready) if ready.reason == reason => Ok(ready),
                    other => Err(format!("it is {other:?}\noperator's log:\n{}", self.log())),
                }
            })
            .await
        }
    }

    /// Waits until `Ready` has this reason, and returns its message with TIME for every time in it.
    #[track_caller]
    pub fn eventually_message<'a>(
        &'a self,
        kind: &'a str,
        name: &'a str,
        reason: &'a str,
    ) -> impl Future<Output = String> + 'a {
        let ready = self.eventually_reason(kind, name, reason);
        async move { timeless(&ready.await.message) }
    }

    /// The same once the message has this near name: it is looked for after the answer, and may come later.
    pub async fn eventually_hint(&self, kind: &str, name: &str, near: &str) -> String {
        let hint = format!("did you mean {near:?}?");
        let message =
            eventually(&format!("{kind} {name} to ask {hint}"), SOON, async || match self.ready(kind, name).await {
                Some(ready) if ready.reason == "KeyNotFound" && ready.message.contains(&hint) => Ok(ready.message),
                other => Err(format!("{other:?}")),
            })
            .await;
        timeless(&message)
    }

    /// The resource version, which changes with every write.
    pub async fn version(&self, kind: &str, name: &str) -> String {
        self.api(kind).get(name).await.expect("reading").resource_version().expect("a version")
    }
}

/// The text with TIME for every time in it, so that whole messages can be compared.
pub fn timeless(text: &str) -> String {
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").expect("a pattern");
    time.replace_all(text, "TIME").into_owned()
}

/// The manifest of one of our kinds. JSON is YAML too.
pub fn object(kind: &str, name: &str, spec: Value) -> String {
    serde_json::json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// The manifest of a PrefectSecret.
pub fn psec(name: &str, spec: Value) -> String {
    object("PrefectSecret", name, spec)
}
