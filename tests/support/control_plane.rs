//! A real Kubernetes control plane: etcd, kube-apiserver (RBAC on) and kube-controller-manager.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use super::wait::eventually;
use super::{Leashed, Proxy, Scratch, install_crypto_provider, ports, tools};

/// Everything in a control plane is thrown away, so nothing is lost by not waiting for its tidy
/// end.
const GRACE: Duration = Duration::from_secs(1);
/// A machine busy with a build is slow; a healthy start takes a few seconds.
const START_UP: Duration = Duration::from_secs(90);

/// How a control plane is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlPlaneOptions {
    /// Whether the audit log has all requests of the operator's service accounts, not only writes.
    pub audit_reads: bool,
    /// Whether there is room for a gigabyte of objects.
    pub large: bool,
}

/// A running control plane. Stops when dropped: first the controller manager, then the API server,
/// then etcd (an API server whose etcd is gone takes long to stop), which is the order of the
/// fields.
#[derive(Debug)]
pub struct ControlPlane {
    controller_manager: Leashed,
    apiserver: Leashed,
    etcd: Leashed,
    url: String,
    kubeconfig: PathBuf,
    scratch: Scratch,
}

impl ControlPlane {
    /// Starts one on free ports and waits until it serves requests and its controllers work.
    pub async fn start() -> Self {
        Self::start_with(ControlPlaneOptions::default()).await
    }

    /// The same with options.
    pub async fn start_with(options: ControlPlaneOptions) -> Self {
        install_crypto_provider();
        let scratch = Scratch::new("control-plane");
        let folder = scratch.path();

        let (mut etcd, etcd_url) = start_etcd(folder, options);
        let token = uuid::Uuid::new_v4().to_string();
        let (mut apiserver, url) = start_apiserver(folder, &etcd_url, &token, options);

        // Both come up side by side; looking at etcd first puts the blame right when it fails.
        let address = etcd_url.trim_start_matches("http://");
        etcd.until_ready(START_UP, async || {
            let connection = tokio::net::TcpStream::connect(address).await;
            connection.map(drop).map_err(|e| format!("{address}: {e}"))
        })
        .await;
        // The API server makes its own certificate on its way up, and writes the key after it: until then the
        // certificate may be half there.
        let (ca, key) = (folder.join("certs/apiserver.crt"), folder.join("certs/apiserver.key"));
        apiserver
            .until_ready(START_UP, async || key.exists().then_some(()).ok_or_else(|| "no certificate yet".to_owned()))
            .await;
        let kubeconfig = folder.join("admin.kubeconfig");
        write_kubeconfig(&kubeconfig, &url, &ca, &token, "default");
        let client = client(&kubeconfig).await;
        apiserver.until_ready(START_UP, async || get_text(&client, "/readyz").await.map(drop)).await;

        let mut controller_manager = start_controller_manager(folder, &kubeconfig, &ca);
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        controller_manager
            .until_ready(START_UP, async || accounts.get("default").await.map(drop).map_err(|e| e.to_string()))
            .await;

        Self { controller_manager, apiserver, etcd, url, kubeconfig, scratch }
    }

    /// A client with all rights. Made anew each time: a client works only in the async runtime that
    /// made it, and each test has its own.
    pub async fn admin(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every write that a service account asked for, and its reads of Secrets, oldest first: the audit log's events,
    /// one JSON value each. An event stands there once its request was answered.
    pub fn requests_of(&self, user: &str) -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(self.scratch.path().join("audit.log")).unwrap_or_default();
        let events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.filter(|event| event["user"]["username"] == user).collect()
    }

    /// The folder with the logs of the three parts.
    pub fn logs(&self) -> &Path {
        self.scratch.path()
    }

    /// Creates a namespace `PREFIX-RANDOM`, with its default service account, and returns its name.
    pub async fn namespace(&self, prefix: &str) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{prefix}-{}", &id[..8]);
        let client = self.admin().await;
        let namespace =
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
                .unwrap();
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap_or_else(|e| panic!("cannot create namespace {name}: {e}"));
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
        eventually(&format!("the default service account of {name}"), Duration::from_secs(60), async || {
            accounts.get("default").await.map(drop).map_err(|e| e.to_string())
        })
        .await;
        name
    }

    /// Writes a kubeconfig with a fresh token of a service account (which must exist) and returns
    /// its path.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(6 * 3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let token = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .unwrap_or_else(|e| panic!("no token for service account {namespace}/{name}: {e}"))
            .status
            .expect("a TokenRequest's answer has a status")
            .token;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = self.scratch.path().join(format!("{namespace}-{name}-{}.kubeconfig", &id[..8]));
        write_kubeconfig(&path, &self.url, &self.scratch.path().join("certs/apiserver.crt"), &token, namespace);
        path
    }

    /// A proxy in front of the API server, and a kubeconfig that leads through it and is like `kubeconfig` else.
    pub async fn behind_proxy(&self, kubeconfig: &Path) -> (Proxy, PathBuf) {
        let pem = std::fs::read(self.scratch.path().join("certs/apiserver.crt")).expect("the certificate");
        let address: SocketAddr = self.url.trim_start_matches("https://").parse().expect("an address");
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("a certificate")])
            .resolve("kubernetes", address)
            .build()
            .expect("a client");
        let proxy = Proxy::start_with(client, &format!("https://kubernetes:{}", address.port())).await;
        let path = self.kubeconfig_by_way_of(kubeconfig, &format!("http://{}", proxy.host()));
        (proxy, path)
    }

    /// A kubeconfig that leads to `url` and is like `kubeconfig` else.
    pub fn kubeconfig_by_way_of(&self, kubeconfig: &Path, url: &str) -> PathBuf {
        // KUBECONFIG may be a list, whose separator is the colon.
        let name = url.rsplit([':', '/']).next().expect("a port");
        let path = self.scratch.path().join(format!("{name}.kubeconfig"));
        let text = std::fs::read_to_string(kubeconfig).expect("a kubeconfig");
        std::fs::write(&path, text.replace(&self.url, url)).expect("a kubeconfig");
        path
    }

    /// A client that is a service account (which must exist).
    pub async fn client_for_service_account(&self, namespace: &str, name: &str) -> Client {
        client(&self.kubeconfig_for_service_account(namespace, name).await).await
    }

    /// Runs kubectl as administrator, in the repository's root folder.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(tools::kubectl());
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            // kubectl caches what the server can do, per address, and ports are used again.
            .env("KUBECACHEDIR", self.scratch.path().join("kubectl-cache"))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        command.output().unwrap_or_else(|e| panic!("cannot run kubectl: {e}"))
    }

    /// Runs kubectl, panics when it fails, and returns what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {} failed: {stderr}", args.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Stops the three in order. Dropping does the same.
    pub fn stop(self) {
        drop(self);
    }
}

/// A client from a kubeconfig, without retries: a test wants to see a refusal at once (kube's
/// default is to retry a 503 for minutes).
pub async fn client(kubeconfig: &Path) -> Client {
    install_crypto_provider();
    let parsed = Kubeconfig::read_from(kubeconfig).expect("the harness writes valid kubeconfigs");
    let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .expect("the harness writes complete kubeconfigs");
    config.default_retry = false;
    Client::try_from(config).expect("the harness writes usable kubeconfigs")
}

/// The body of a GET of any path of the API server.
pub async fn get_text(client: &Client, path: &str) -> Result<String, String> {
    let request = kube::core::Request::new(path).list(&ListParams::default()).map_err(|e| e.to_string())?;
    client.request_text(request).await.map_err(|e| e.to_string())
}

/// Who wrote what, and read Secrets, without bodies; all reads would make the log large.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
"rules": [
    {"level": "Metadata", "userGroups": ["system:serviceaccounts:prefect-sync"],
     "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
    {"level": "Metadata", "userGroups": ["system:serviceaccounts:prefect-sync"],
     "verbs": ["get", "list"], "resources": [{"group": "", "resources": ["secrets"]}]},
    {"level": "None"}
]}"#;

/// Whatever the operator or an administrator asks for.
const AUDIT_ALL: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
"rules": [
    {"level": "Metadata", "userGroups": ["system:serviceaccounts:prefect-sync", "system:masters"]},
    {"level": "None"}
]}"#;

fn start_etcd(folder: &Path, options: ControlPlaneOptions) -> (Leashed, String) {
    let url = format!("http://127.0.0.1:{}", ports::free());
    let peer = format!("http://127.0.0.1:{}", ports::free());
    let mut command = Command::new(tools::etcd());
    command.arg("--data-dir").arg(folder.join("etcd")).arg("--unsafe-no-fsync");
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    if options.large {
        command.args(["--quota-backend-bytes", "8000000000"]);
    }
    (Leashed::spawn(&command, &folder.join("etcd.log"), GRACE), url)
}

fn start_apiserver(folder: &Path, etcd_url: &str, token: &str, options: ControlPlaneOptions) -> (Leashed, String) {
    let port = ports::free();
    let tokens = folder.join("tokens.csv");
    std::fs::write(&tokens, format!("{token},admin,admin,\"system:masters\"\n")).expect("the scratch folder is ours");
    let key = tools::service_account_key();
    let mut command = Command::new(tools::kube_apiserver());
    command.args(["--etcd-servers", etcd_url, "--bind-address", "127.0.0.1", "--secure-port", &port.to_string()]);
    command.arg("--cert-dir").arg(folder.join("certs"));
    command.arg("--token-auth-file").arg(tokens);
    command.arg("--service-account-key-file").arg(&key).arg("--service-account-signing-key-file").arg(&key);
    command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
    command.args(["--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16"]);
    let policy = folder.join("audit-policy.yaml");
    let text = if options.audit_reads { AUDIT_ALL } else { AUDIT_POLICY };
    std::fs::write(&policy, text).expect("the scratch folder is ours");
    // In one file, whatever its size in MB.
    command.args(["--audit-log-maxsize", "100000"]);
    command.arg("--audit-policy-file").arg(policy).arg("--audit-log-path").arg(folder.join("audit.log"));
    (Leashed::spawn(&command, &folder.join("kube-apiserver.log"), GRACE), format!("https://127.0.0.1:{port}"))
}

fn start_controller_manager(folder: &Path, kubeconfig: &Path, ca: &Path) -> Leashed {
    let mut command = Command::new(tools::kube_controller_manager());
    for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
        command.arg(flag).arg(kubeconfig);
    }
    command.arg("--service-account-private-key-file").arg(tools::service_account_key());
    command.arg("--root-ca-file").arg(ca);
    command.arg("--cert-dir").arg(folder.join("controller-manager-certs"));
    command.args(["--bind-address", "127.0.0.1", "--secure-port", &ports::free().to_string()]);
    command.args(["--use-service-account-credentials", "--leader-elect=false"]);
    // Its own limits on requests (20 a second) are most of its start-up time.
    command.args(["--kube-api-qps", "1000", "--kube-api-burst", "1000"]);
    Leashed::spawn(&command, &folder.join("kube-controller-manager.log"), GRACE)
}

/// Writes a kubeconfig as JSON, which is YAML too.
fn write_kubeconfig(path: &Path, url: &str, ca: &Path, token: &str, namespace: &str) {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        // The certificate that the API server makes for itself is for names like this one, not for
        // 127.0.0.1.
        "clusters": [{"name": "test", "cluster": {
            "server": url,
            "certificate-authority": ca,
            "tls-server-name": "kubernetes",
        }}],
        "users": [{"name": "test", "user": {"token": token}}],
    });
    std::fs::write(path, format!("{kubeconfig:#}\n"))
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}
