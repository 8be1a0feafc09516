//! The node that the script brought up, the release on it, and a Prefect server outside of its pods.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, ListParams, LogParams};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock};

use crate::readme;
use crate::support::wait::try_eventually;
use crate::support::{Prefect, PrefectOptions, install_crypto_provider, tools};

/// Long enough for a pod to start on a loaded machine; a test that waits this long has failed.
pub const SOON: Duration = Duration::from_secs(60);

/// Where the chart is installed, and as what.
pub const RELEASE: &str = "prefect-sync";

/// The node's address, at which pods reach what runs outside of pods.
const ADDRESS: &str = "172.30.0.1";

/// The folder of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program to its end.
///
/// # Panics
/// When it fails, with what it said.
pub fn run(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads its input");
    let output = child.wait_with_output().expect("its output");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// kubectl as the administrator of the node's cluster.
pub fn kubectl(arguments: &[&str]) -> Command {
    let mut command = Command::new(tools::kubectl());
    command.args(arguments);
    command
}

/// What all tests of this binary share. The processes end with the node.
pub struct Node {
    prefect: Prefect,
}

/// The node with the release installed and its workspace leading to a running Prefect.
pub async fn node() -> &'static Node {
    static CELL: OnceCell<Node> = OnceCell::const_new();
    CELL.get_or_init(Node::install).await
}

impl Node {
    async fn install() -> Self {
        assert!(std::env::var_os("PREFECT_SYNC_NODE").is_some(), "this runs on a node only: run `make test-node`");
        // A cell whose making panicked is made again, by the next test.
        static TRIED: AtomicBool = AtomicBool::new(false);
        assert!(!TRIED.swap(true, Ordering::Relaxed), "the installation failed: another test's message says why");
        install_crypto_provider();
        let prefect = Prefect::start(PrefectOptions { everywhere: true, ..Default::default() }).await;
        let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "prefect-server", "namespace": "prefect"},
            "spec": {"ports": [{"name": "http", "port": 4200, "targetPort": prefect.port()}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "prefect-server", "namespace": "prefect",
                "labels": {"kubernetes.io/service-name": "prefect-server"}},
            "ports": [{"name": "http", "port": prefect.port()}],
            "endpoints": [{"addresses": [ADDRESS]}],
        });
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let objects = [namespace(RELEASE, restricted), namespace("prefect", json!({})), service, slice];
        apply(None, &objects);
        prefect.set_secret("db-password", json!(readme::DB_PASSWORD)).await;
        readme::follow();
        let mut helm = Command::new(tools::helm());
        helm.args(["upgrade", RELEASE, "--namespace", RELEASE]);
        helm.arg(root().join("deploy/helm/prefect-sync")).arg("--values").arg(root().join("tests/node/values.yaml"));
        // Its caches are below the home folder.
        helm.env("HOME", root().join("target/tmp"));
        run(&mut helm, "");
        let rollout = ["rollout", "status", "deployment", RELEASE, "--namespace", RELEASE, "--timeout=60s"];
        let rolled_out = kubectl(&rollout).output().expect("kubectl");
        assert!(rolled_out.status.success(), "the operator's pods do not become Ready\n{}", explain(RELEASE));
        Self { prefect }
    }

    /// The Prefect server that pods reach as `prefect-server.prefect.svc:4200`.
    pub fn prefect(&self) -> &Prefect {
        &self.prefect
    }
}

/// Written by the test that takes replicas away; the others read, so that nobody else's times are in question.
static REPLICAS: RwLock<()> = RwLock::const_new(());

/// A guard of either kind.
type Turn = Box<dyn std::any::Any>;

/// A namespace of a test.
pub struct Space {
    pub namespace: String,
    /// Of this test's runtime, which its connections end with.
    pub client: Client,
    _turn: Turn,
}

impl Space {
    /// A new namespace that may read the workspace `default` of the cluster.
    pub async fn new(name: &str) -> Self {
        Self::create(name, Box::new(REPLICAS.read().await)).await
    }

    /// The same for a test during which no other runs.
    pub async fn alone(name: &str) -> Self {
        Self::create(name, Box::new(REPLICAS.write().await)).await
    }

    /// The namespace that the README has its reader make.
    pub async fn of_the_readme() -> Self {
        Self::existing("flows", Box::new(REPLICAS.read().await)).await
    }

    /// The namespace of the release.
    pub async fn release() -> Self {
        Self::existing(RELEASE, Box::new(REPLICAS.read().await)).await
    }

    async fn create(name: &str, turn: Turn) -> Self {
        let space = Self::existing(name, turn).await;
        let metadata = json!({"name": name, "labels": {"prefect-sync": "team"}});
        apply(None, &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})]);
        space
    }

    async fn existing(name: &str, turn: Turn) -> Self {
        node().await;
        let client = Client::try_default().await.expect("KUBECONFIG names the node");
        Self { namespace: name.to_owned(), client, _turn: turn }
    }

    /// Applies manifests as a user would.
    pub fn apply(&self, objects: &[Value]) {
        apply(Some(&self.namespace), objects);
    }

    /// Applies a file of the repository.
    pub fn apply_file(&self, path: &str) {
        let path = root().join(path).display().to_string();
        self.kubectl(&["apply", "--server-side", "--validate=strict", "--filename", &path]);
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run(kubectl(&["--namespace", &self.namespace]).args(arguments), "")
    }

    /// Objects of a kind in this namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods with this label `app`, that are not ending.
    pub async fn pods(&self, app: &str) -> Vec<Pod> {
        let labels = ListParams::default().labels(&format!("app={app}"));
        let pods = self.all::<Pod>().list(&labels).await.expect("listing pods").items;
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// What a pod has printed; nothing while it has not started.
    pub async fn log(&self, pod: &str) -> String {
        self.all::<Pod>().logs(pod, &LogParams::default()).await.unwrap_or_default()
    }

    /// Waits for a condition; says why it does not hold with all that is known of this namespace and the operator.
    #[track_caller]
    pub fn eventually<'a, T>(
        &'a self,
        what: &'a str,
        timeout: Duration,
        probe: impl AsyncFnMut() -> Result<T, String> + 'a,
    ) -> impl Future<Output = T> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            match try_eventually(timeout, probe).await {
                Ok(value) => value,
                Err(reason) => {
                    let known = format!("{}{}", explain(&self.namespace), explain(RELEASE));
                    panic!("{caller}: waited {timeout:?} for {what}, in vain; last reason: {reason}\n{known}");
                }
            }
        }
    }

    /// Waits until the object of one of our kinds is Ready.
    #[track_caller]
    pub fn eventually_ready<'a>(&'a self, object: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            self.eventually(&format!("{object} to be Ready ({caller})"), SOON, async || {
                let object: Value = serde_json::from_str(&self.kubectl(&["get", object, "-o", "json"])).expect("JSON");
                let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
                match conditions.iter().find(|condition| condition["type"] == "Ready") {
                    Some(ready) if ready["status"] == "True" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }
}

fn apply(namespace: Option<&str>, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut command = kubectl(&["apply", "--server-side", "--validate=strict", "--filename", "-"]);
    command.args(namespace.map(|namespace| format!("--namespace={namespace}")));
    run(&mut command, &list.to_string());
}

/// Pods, events and logs of a namespace, for a message of failure.
fn explain(namespace: &str) -> String {
    let show = |arguments: &[&str]| {
        let output = kubectl(&["--namespace", namespace]).args(arguments).output().expect("kubectl");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let pods = show(&["get", "pods", "--output=name"]);
    let logs: String = pods
        .lines()
        .map(|pod| format!("--- log of {pod}\n{}", show(&["logs", "--all-containers", "--tail=40", pod])))
        .collect();
    format!(
        "--- pods in {namespace}\n{}--- events in {namespace}\n{}{logs}",
        show(&["get", "pods", "--output=wide"]),
        show(&["get", "events", "--sort-by=.lastTimestamp"]),
    )
}

/// The operator's pods that are Ready and not ending.
pub async fn operators(space: &Space) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(space.client.clone(), RELEASE);
    let labels = ListParams::default().labels("app.kubernetes.io/name=prefect-sync");
    let pods = pods.list(&labels).await.expect("listing pods").items;
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod)).collect()
}

/// A key of a Secret as text, if it is there.
pub async fn secret_text(space: &Space, name: &str, key: &str) -> Option<String> {
    let secret = space.all::<Secret>().get_opt(name).await.expect("reading a Secret")?;
    let value = secret.data.unwrap_or_default().remove(key)?;
    Some(String::from_utf8(value.0).expect("text"))
}

/// The manifest of a PrefectSecret.
pub fn prefect_secret(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "metadata": {"name": name}, "spec": spec})
}

/// A container of the busybox image.
pub fn busybox(script: &str) -> Value {
    json!({
        "name": "main", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
    })
}

/// Reads a file of the repository.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
