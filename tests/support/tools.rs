//! Where the programs are that `make tools` installs.

use std::path::{Path, PathBuf};

/// A file under `target/tools`; panics with what to run when it isn't there.
fn tool(path: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    installed(tools.join(path), "run `make tools`")
}

/// etcd and kube-apiserver: from `KUBEBUILDER_ASSETS` where set, as other Kubernetes test suites
/// do.
fn asset(name: &str) -> PathBuf {
    match std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()) {
        Some(folder) => installed(
            Path::new(&folder).join(name),
            "KUBEBUILDER_ASSETS must name a folder with etcd and kube-apiserver; or unset it and run `make tools`",
        ),
        None => tool(&format!("bin/{name}")),
    }
}

fn installed(path: PathBuf, remedy: &str) -> PathBuf {
    assert!(path.exists(), "{} is missing: {remedy}", path.display());
    path
}

/// The etcd server.
pub fn etcd() -> PathBuf {
    asset("etcd")
}

/// The API server.
pub fn kube_apiserver() -> PathBuf {
    asset("kube-apiserver")
}

/// The controller manager.
pub fn kube_controller_manager() -> PathBuf {
    tool("bin/kube-controller-manager")
}

/// The command line client.
pub fn kubectl() -> PathBuf {
    tool("bin/kubectl")
}

/// Helm.
pub fn helm() -> PathBuf {
    tool("bin/helm")
}

/// What checks and tests Prometheus' rules.
pub fn promtool() -> PathBuf {
    tool("bin/promtool")
}

/// What says how GitOps tools see an object's health.
pub fn health() -> PathBuf {
    tool("bin/health")
}

/// The pins of `tests/prefect/worker.txt`, as a folder for `PYTHONPATH`.
pub fn prefect_worker() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/node/worker");
    installed(folder, "run `make test-node`")
}

/// The key with which test control planes sign service account tokens.
pub fn service_account_key() -> PathBuf {
    tool("service-account.key")
}

/// The interpreter that has Prefect 3.
pub fn prefect3_python() -> PathBuf {
    tool("prefect3/bin/python")
}

/// The interpreter that has Prefect 2.
pub fn prefect2_python() -> PathBuf {
    tool("prefect2/bin/python")
}

/// A migrated, empty Prefect 3 database; copying it saves each server the migrations.
pub fn prefect3_database() -> PathBuf {
    tool("prefect3.db")
}

/// The interpreter that has Prefect 1.
pub fn prefect1_python() -> PathBuf {
    tool("prefect1/bin/python")
}

/// The operator of the version before.
pub fn previous_operator() -> PathBuf {
    tool("previous/prefect-sync")
}

/// The CRDs of the version before.
pub fn previous_crds() -> PathBuf {
    tool("previous/crds")
}
