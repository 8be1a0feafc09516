//! A control plane with objects in it, a watch that knows when targets are there, and the bare loop.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::measure::Audit;
use crate::root;
use crate::support::control_plane::{ControlPlane, ControlPlaneOptions};

/// The identity under which the operator's roles are bound.
pub const OPERATOR: &str = "system:serviceaccount:prefect-sync:prefect-sync";
/// Requests in flight while objects are made; nothing is measured then.
const MAKING: usize = 32;

/// A fresh control plane with the CRDs and the roles of `deploy/`.
pub struct Cluster {
    pub control_plane: ControlPlane,
    pub admin: Client,
}

impl Cluster {
    pub async fn start() -> Self {
        let control_plane = ControlPlane::start_with(ControlPlaneOptions { audit_reads: true, large: true }).await;
        for path in ["crds", "deploy/manifests-optional/00-namespace.yaml", "deploy/manifests/10-rbac.yaml"] {
            control_plane.kubectl_ok(&["apply", "-f", &root().join(path).display().to_string()]);
        }
        control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        let admin = control_plane.admin().await;
        Self { control_plane, admin }
    }

    pub fn audit(&self) -> Audit {
        Audit { log: self.control_plane.logs().join("audit.log"), user: Some(OPERATOR.to_owned()) }
    }

    pub async fn namespaces(&self, prefix: &str, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(self.control_plane.namespace(prefix).await);
        }
        names
    }

    /// Makes the workspace `default` in each namespace.
    pub async fn workspaces(&self, namespaces: &[String], url: &str, interval: &str) {
        for namespace in namespaces {
            let spec = json!({"api": {"url": url}, "refreshInterval": interval});
            self.apply(namespace, "PrefectWorkspace", "default", json!({"spec": spec})).await;
        }
    }

    /// Makes object number `n` of `size` in its namespace.
    pub async fn objects(&self, namespaces: &[String], size: usize, manifest: &(dyn Fn(&str, &str) -> Value + Sync)) {
        let made = (0..size).map(async |n| {
            let (namespace, name) = place(namespaces, n);
            self.create(manifest(namespace, &name)).await;
        });
        futures::stream::iter(made).buffer_unordered(MAKING).collect::<Vec<()>>().await;
    }

    pub async fn create(&self, manifest: Value) {
        let object: DynamicObject = serde_json::from_value(manifest).expect("a manifest");
        let types = object.types.clone().expect("a kind");
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let namespace = object.namespace().expect("a namespace");
        let api: Api<DynamicObject> = Api::namespaced_with(self.admin.clone(), &namespace, &resource);
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{}: {error}", types.kind));
    }

    pub async fn apply(&self, namespace: &str, kind: &str, name: &str, mut patch: Value) {
        patch["apiVersion"] = json!("prefect-sync.dev/v1alpha1");
        patch["kind"] = json!(kind);
        patch["metadata"] = json!({"name": name});
        let parameters = PatchParams::apply("bench").force();
        let api = api(&self.admin, namespace, kind);
        api.patch(name, &parameters, &Patch::Apply(&patch))
            .await
            .unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// How long it takes a loop that does nothing else to create the targets of `size` objects that exist, and to
    /// write each a status, with `width` of them in flight.
    pub async fn bare_loop(&self, size: usize, width: usize) -> f64 {
        let namespaces = self.namespaces(&format!("bare{width}"), 10.min(size)).await;
        self.objects(&namespaces, size, &prefect_secret).await;
        // The same client as the operator's, in the same group, so that what it costs is the same.
        let client = self.control_plane.client_for_service_account("prefect-sync", "prefect-sync").await;
        let mut uids = HashMap::new();
        for namespace in &namespaces {
            for object in api(&self.admin, namespace, "PrefectSecret").list(&Default::default()).await.expect("a list")
            {
                uids.insert((namespace.clone(), object.name_any()), object.uid().unwrap_or_default());
            }
        }
        let started = Instant::now();
        let done = (0..size).map(async |n| {
            let (namespace, name) = place(&namespaces, n);
            let uid = &uids[&(namespace.clone(), name.clone())];
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            secrets.create(&PostParams::default(), &target(namespace, &name, uid)).await.expect("creating a target");
            let status: json_patch::Patch = serde_json::from_value(json!([
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "add", "path": "/status", "value": status(namespace, &name)},
            ]))
            .expect("a patch");
            let objects = api(&client, namespace, "PrefectSecret");
            let patch = Patch::<()>::Json(status);
            objects.patch_status(&name, &PatchParams::default(), &patch).await.expect("writing a status");
        });
        futures::stream::iter(done).buffer_unordered(width).collect::<Vec<()>>().await;
        started.elapsed().as_secs_f64()
    }
}

fn api(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("prefect-sync.dev", "v1alpha1", kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Where object number `n` is, and what it is called; its key is called so too.
pub fn place(namespaces: &[String], n: usize) -> (&String, String) {
    (&namespaces[n % namespaces.len()], format!("k{n:05}"))
}

/// The manifest of an object of one key, which is called as it is.
pub fn prefect_secret(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"data": [{"secretKey": "VALUE", "remoteRef": {"key": name}}]}})
}

/// The target that the operator would write.
fn target(namespace: &str, name: &str, uid: &str) -> Secret {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace,
            "labels": {"prefect-sync.dev/owned-by": "PrefectSecret"},
            "annotations": {"prefect-sync.dev/owner": format!("PrefectSecret/{name}")},
            "ownerReferences": [{"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "name": name,
                "uid": uid, "controller": true, "blockOwnerDeletion": true}]},
        "type": "Opaque", "stringData": {"VALUE": format!("{name}-{}", "x".repeat(33))}}))
    .expect("a Secret")
}

/// The status that the operator would write.
fn status(namespace: &str, name: &str) -> Value {
    json!({"observedGeneration": 1, "keys": "1/1", "lastChangeTime": "2026-01-01T00:00:00Z",
        "workspace": {"kind": "PrefectWorkspace", "name": "default"}, "target": {"name": name},
        "entries": [{"key": "VALUE", "state": "Synced", "source": "Api"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "Synced", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "message": format!("1 of 1 keys synced to Secret {namespace}/{name}")}]})
}

/// By namespace and name: the value, and when it was first seen.
type Seen = HashMap<(String, String), (Vec<u8>, Instant)>;

/// What a watch has seen of targets.
#[derive(Clone)]
pub struct Targets(Arc<Mutex<Seen>>);

impl Targets {
    /// Watches all Secrets whose names are those of objects.
    pub fn watch(client: Client) -> Self {
        let seen = Self(Arc::default());
        let record = seen.clone();
        tokio::spawn(async move {
            let config = watcher::Config::default().fields("type=Opaque");
            let mut events = std::pin::pin!(watcher(Api::<Secret>::all(client), config));
            while let Ok(Some(event)) = events.try_next().await {
                let now = Instant::now();
                match event {
                    Event::Apply(secret) | Event::InitApply(secret) => record.note(secret, now),
                    _ => {}
                }
            }
        });
        seen
    }

    fn note(&self, secret: Secret, now: Instant) {
        let place = (secret.namespace().unwrap_or_default(), secret.name_any());
        let data: BTreeMap<String, ByteString> = secret.data.unwrap_or_default();
        let Some((_, ByteString(value))) = data.into_iter().next() else { return };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get(&place).is_none_or(|(before, _)| *before != value) {
            seen.insert(place, (value, now));
        }
    }

    /// How many are there, and when the last of them came.
    pub fn count(&self, prefix: &str) -> (usize, Option<Instant>) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = || seen.iter().filter(|((_, name), _)| name.starts_with(prefix));
        (ours().count(), ours().map(|(_, (_, at))| *at).max())
    }

    /// When the target was first seen to hold a value that begins so.
    pub fn held(&self, namespace: &str, name: &str, begin: &str) -> Option<Instant> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, at) = seen.get(&(namespace.to_owned(), name.to_owned()))?;
        value.starts_with(begin.as_bytes()).then_some(*at)
    }
}

/// Waits until `done` says so, which it must within `limit`.
pub async fn until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    loop {
        let Err(last) = done() else { return };
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}, in vain: {last}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
