//! Helm with a home of its own, and what it renders.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{ControlPlane, Scratch, tools};

/// The chart, seen from the repository's root folder.
pub const CHART: &str = "deploy/helm/prefect-sync";

/// Where an operator that is limited to some namespaces works, in tests that only render.
pub const TEAMS: [&str; 2] = ["team-a", "team-b"];

/// The folder of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the chart.
pub fn chart_file(path: &str) -> String {
    let path = root().join(CHART).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All documents of a YAML text.
pub fn documents(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The only object of a kind; `None` when there is none.
pub fn find<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next();
    assert!(found.next().is_none(), "there is more than one {kind}");
    first
}

/// Helm, with its caches in a scratch folder and with a cluster where it was given one.
#[derive(Debug)]
pub struct Helm {
    scratch: Scratch,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Knows no cluster.
    pub fn offline() -> Self {
        let scratch = Scratch::new("helm");
        let kubeconfig = scratch.path().join("none");
        Self { scratch, kubeconfig }
    }

    /// Is the administrator of a cluster.
    pub fn of(control_plane: &ControlPlane) -> Self {
        Self { scratch: Scratch::new("helm"), kubeconfig: control_plane.kubeconfig().to_owned() }
    }

    /// A shell command that finds this Helm, kubectl and the cluster, in the repository's root folder.
    pub fn shell(&self, script: &str) -> Output {
        let mut command = self.command(Path::new("sh"));
        let programs = tools::helm().parent().expect("a folder").to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.display())).args(["-ec", script]);
        command.output().unwrap_or_else(|e| panic!("cannot run sh: {e}"))
    }

    /// Runs Helm in the repository's root folder.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(&tools::helm()).args(args).output().unwrap_or_else(|e| panic!("cannot run helm: {e}"))
    }

    /// Runs Helm, panics when it fails, and returns what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        succeeded(&self.run(args), &format!("helm {}", args.join(" ")))
    }

    /// Runs Helm, panics when it succeeds, and returns its words.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "helm {} succeeded", args.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Writes values for `--values`.
    pub fn values(&self, values: &Value) -> String {
        self.write("values", "json", &values.to_string())
    }

    /// Writes a file into the scratch folder and returns its path.
    pub fn write(&self, prefix: &str, extension: &str, text: &str) -> String {
        let path = self.scratch.path().join(format!("{prefix}-{}.{extension}", uuid::Uuid::new_v4().simple()));
        std::fs::write(&path, text).expect("the scratch folder is ours");
        path.display().to_string()
    }

    /// What `helm template` prints for a release of this name in this namespace.
    #[track_caller]
    pub fn template(&self, release: &str, namespace: &str, values: &Value) -> String {
        self.ok(&["template", release, CHART, "--namespace", namespace, "--values", &self.values(values)])
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(root()).env("KUBECONFIG", &self.kubeconfig);
        // Nothing of whoever runs this.
        for name in ["HELM_NAMESPACE", "HELM_KUBECONTEXT", "HELM_DRIVER", "HELM_PLUGINS", "HELM_DEBUG"] {
            command.env_remove(name);
        }
        let folders = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECACHEDIR"];
        command.envs(folders.map(|name| (name, self.scratch.path().join(name))));
        command
    }
}

/// What a program printed; panics with its complaint when it failed.
#[track_caller]
pub fn succeeded(output: &Output, what: &str) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what} failed: {stderr}\n{stdout}");
    stdout.into_owned()
}

/// Runs kubectl, panics when it fails or warns, and returns what it printed.
#[track_caller]
pub fn quiet(control_plane: &ControlPlane, args: &[&str]) -> String {
    let output = control_plane.kubectl(args);
    let what = format!("kubectl {}", args.join(" "));
    let printed = succeeded(&output, &what);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{what} warns");
    printed
}

/// A control plane with the chart's CRDs, those of the Prometheus operator, and the teams' namespaces.
pub async fn new_control_plane() -> ControlPlane {
    let control_plane = ControlPlane::start().await;
    let helm = Helm::offline();
    let crds = helm.ok(&["template", CHART, "--show-only", "templates/crds.yaml"]);
    control_plane.kubectl_ok(&["apply", "-f", &helm.write("crds", "yaml", &crds)]);
    control_plane.kubectl_ok(&["apply", "-f", "tests/chart/prometheus-crds.yaml"]);
    control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
    for team in TEAMS {
        control_plane.kubectl_ok(&["create", "namespace", team]);
    }
    control_plane
}

/// Makes a namespace that warns of every pod that is not `restricted`.
pub async fn restricted_namespace(control_plane: &ControlPlane, prefix: &str) -> String {
    let name = control_plane.namespace(prefix).await;
    for mode in ["enforce", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}=restricted");
        control_plane.kubectl_ok(&["label", "namespace", &name, &label]);
    }
    name
}

/// Every feature at once, for the whole cluster.
pub fn everything() -> Value {
    json!({
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": format!("sha256:{}", "0".repeat(64)), "pullPolicy": "Always"},
        "allowedApiHosts": ["api.prefect.cloud", "*.example.com", "prefect-server.prefect.svc:4200"],
        "log": {"level": "info,prefect_sync=debug", "format": "json"},
        "restarts": {"enabled": true},
        "defaultWorkspace": {"enabled": true, "spec": {"api": {"url": "http://prefect-server.prefect.svc:4200/api"}}},
        "serviceAccount": {"annotations": {"example.com/team": "platform"}},
        "podAnnotations": {"example.com/note": "true"},
        "podLabels": {"example.com/tier": "platform"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 1, "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "prefect-sync"}}},
        }]}},
        "priorityClassName": "system-cluster-critical",
        "podDisruptionBudget": {"minAvailable": "50%"},
        "networkPolicy": {
            "enabled": true,
            "ingress": {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
            "egress": {
                "restricted": true,
                "apiServer": {"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}], "ports": [6443]},
                "prefect": {"to": [{"namespaceSelector": {}}], "ports": [4200]},
                "extra": [{"to": [{"ipBlock": {"cidr": "192.0.2.20/32"}}], "ports": [{"port": 3128, "protocol": "TCP"}]}],
            },
        },
        "metricsService": {"annotations": {"example.com/note": "metrics"}},
        "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}, "annotations": {"example.com/a": "b"},
            "relabelings": [{"action": "labeldrop", "regex": "endpoint"}],
            "metricRelabelings": [{"action": "labeldrop", "regex": "endpoint"}]},
        "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}, "annotations": {"example.com/a": "b"},
            "runbookBaseUrl": "https://runbooks.example.com/prefect-sync", "alertLabels": {"team": "platform"}},
        "dashboard": {"enabled": true, "annotations": {"grafana_folder": "Platform"}},
        "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
        "extraArgs": ["--lease-namespace=default"],
        "proxy": {"http": "http://proxy.example.com:3128", "https": "http://proxy.example.com:3128"},
        "caBundle": {"configMap": "corp-ca"},
    })
}
