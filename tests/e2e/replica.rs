//! One of several replicas, the Lease that they share, and the load that they are under.

use std::cell::Cell;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, operator_options, prefect, psec, root};
use crate::support::{Operator, eventually};

/// How many changes are under way at any time.
const KEYS: usize = 10;

/// A replica, and as whom it is known.
pub struct Replica {
    pub operator: Operator,
    pub identity: String,
    address: String,
    /// What tells its requests from those of others in the audit log.
    credential: String,
}

impl Replica {
    pub async fn start(world: &World, identity: &str) -> Self {
        Self::start_as(world, identity, ("prefect-sync", "prefect-sync")).await
    }

    pub async fn start_as(world: &World, identity: &str, (home, account): (&str, &str)) -> Self {
        let kubeconfig = control_plane().await.kubeconfig_for_service_account(home, account).await;
        let text = std::fs::read_to_string(&kubeconfig).unwrap();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        let token = parsed["users"][0]["user"]["token"].as_str().unwrap().to_owned();
        let claims = token.split('.').nth(1).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let credential = format!("JTI={}", claims["jti"].as_str().unwrap());
        let namespace = world.namespace.as_str();
        let args =
            ["--namespaces", namespace, "--leader-elect", "--lease-namespace", namespace, "--identity", identity];
        let options = operator_options(kubeconfig, &args);
        let address = options.args.iter().skip_while(|arg| *arg != "--health-address").nth(1).unwrap().clone();
        let operator = Operator::start(Path::new(env!("CARGO_BIN_EXE_prefect-sync")), &options);
        Self { operator, identity: identity.to_owned(), address, credential }
    }

    pub async fn ask(&self, path: &str) -> Result<(u16, String), String> {
        let answer = reqwest::get(format!("http://{}/{path}", self.address)).await.map_err(|e| e.to_string())?;
        let code = answer.status().as_u16();
        Ok((code, answer.text().await.map_err(|e| e.to_string())?))
    }

    /// Waits until it is ready, and works or not.
    pub async fn eventually_leads(&self, leads: bool) {
        let line = format!("prefect_sync_leader {}", u8::from(leads));
        eventually(&format!("{} to be ready with {line}", self.identity), SOON, async || {
            let (ready, _) = self.ask("readyz").await?;
            let (_, metrics) = self.ask("metrics").await?;
            if ready == 200 && metrics.lines().any(|found| found == line) {
                return Ok(());
            }
            Err(format!("/readyz answers {ready}\n{metrics}\n{}", self.operator.log()))
        })
        .await;
    }

    /// Waits until its log has this text.
    pub async fn eventually_says(&self, text: &str) {
        eventually(&format!("{} to say {text:?}", self.identity), SOON, async || {
            let log = self.operator.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Waits until it has seen a change, and was kept from writing it.
    pub async fn eventually_held_back(&self) {
        self.eventually_says("this replica may write no more").await;
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.operator.pid().to_string();
        let done = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(done.success(), "kill -{signal} {pid}");
    }

    /// Whether its memory holds this text.
    pub fn remembers(&self, text: &str) -> bool {
        let folder = format!("/proc/{}", self.operator.pid());
        let maps = std::fs::read_to_string(format!("{folder}/maps")).unwrap();
        let mut memory = std::fs::File::open(format!("{folder}/mem")).expect("the memory of a child may be read");
        maps.lines().filter(|line| line.contains(" rw")).any(|line| {
            let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            memory.seek(SeekFrom::Start(start)).is_ok()
                && memory.read_exact(&mut bytes).is_ok()
                && bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    }

    /// What it asked the API server to change: when, what, and the answer. Not the Lease.
    pub async fn writes(&self) -> Vec<(Timestamp, String)> {
        let events = control_plane().await.requests_of("system:serviceaccount:prefect-sync:prefect-sync");
        let is_its = |event: &&Value| {
            let ids = event["user"]["extra"]["authentication.kubernetes.io/credential-id"].as_array();
            ids.is_some_and(|ids| ids.iter().any(|id| *id == self.credential.as_str()))
        };
        let is_write = |event: &&Value| {
            !["get", "list", "watch"].contains(&event["verb"].as_str().unwrap())
                && event["objectRef"]["resource"] != "leases"
        };
        let told = |event: &Value| {
            let time = event["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap();
            let (verb, uri) = (event["verb"].as_str().unwrap(), event["requestURI"].as_str().unwrap());
            (time, format!("{verb} {uri} {}", event["responseStatus"]["code"]))
        };
        events.iter().filter(is_its).filter(is_write).map(told).collect()
    }
}

/// A namespace whose replicas may hold a Lease in it, as `deploy/` lets them in the operator's own, and its workspace
/// leads to `url`.
pub async fn world(name: &str, url: &str) -> World {
    let world = World::without_operator(name, &[]).await;
    let manifests = std::fs::read_to_string(root().join("deploy/manifests/10-rbac.yaml")).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&manifests).unwrap();
    let parameters = PostParams::default();
    for mut document in documents {
        document["metadata"]["namespace"] = json!(world.namespace);
        match document["kind"].as_str().unwrap() {
            "Role" => {
                let roles: Api<Role> = Api::namespaced(world.client.clone(), &world.namespace);
                roles.create(&parameters, &serde_json::from_value(document).unwrap()).await.unwrap();
            }
            "RoleBinding" => bindings(&world).create(&parameters, &binding(document)).await.map(drop).unwrap(),
            _ => {}
        }
    }
    world.workspace(url).await;
    world
}

fn binding(document: Value) -> RoleBinding {
    serde_json::from_value(document).unwrap()
}

fn bindings(world: &World) -> Api<RoleBinding> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

/// Takes the permission to hold a Lease from all replicas; returns what gives it back.
pub async fn take_permission(world: &World) -> RoleBinding {
    let all = bindings(world).list(&ListParams::default()).await.unwrap().items;
    let [binding] = all.as_slice() else { panic!("only that of leader election is expected: {all:?}") };
    let name = binding.metadata.name.clone().unwrap();
    bindings(world).delete(&name, &DeleteParams::default()).await.unwrap();
    // The API server's authorizer learns of it by a watch.
    let client = control_plane().await.client_for_service_account("prefect-sync", "prefect-sync").await;
    let leases: Api<Lease> = Api::namespaced(client, &world.namespace);
    eventually("the permission to be taken", SOON, async || match leases.get_opt("prefect-sync").await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
    RoleBinding { metadata, ..binding.clone() }
}

pub async fn give_permission(world: &World, binding: &RoleBinding) {
    bindings(world).create(&PostParams::default(), binding).await.unwrap();
}

pub async fn lease(world: &World) -> Lease {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    leases.get("prefect-sync").await.unwrap()
}

pub async fn eventually_holder(world: &World, holder: &str) -> Duration {
    let since = Instant::now();
    eventually(&format!("{holder} to hold the Lease"), SOON, async || {
        let lease = lease(world).await;
        let now = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        if now == holder { Ok(()) } else { Err(format!("{now} holds it")) }
    })
    .await;
    since.elapsed()
}

/// Objects that follow keys which change all the time.
pub struct Load {
    pub round: usize,
}

impl Load {
    pub async fn start(world: &World) -> Self {
        let mut load = Self { round: 0 };
        load.change(world).await;
        for key in 0..KEYS {
            let data = json!([{"secretKey": "V", "remoteRef": {"key": world.name(&format!("k{key}"))}}]);
            world.apply(&psec(&format!("k{key}"), json!({"data": data}))).await;
        }
        load
    }

    /// Changes every key, one after the other.
    pub async fn change(&mut self, world: &World) {
        self.round += 1;
        for key in 0..KEYS {
            prefect().await.set_secret(&world.name(&format!("k{key}")), self.value(key)).await;
        }
    }

    /// Waits until some target has a change that is newer than that round.
    pub async fn eventually_followed(world: &World, round: usize) {
        let is_newer = |value: &String| value.rsplit('-').next().and_then(|round| round.parse().ok()) > Some(round);
        eventually("a target to follow", SOON, async || {
            let data = world.secret_data("k0").await.unwrap_or_default();
            if data.values().any(is_newer) { Ok(()) } else { Err(format!("{data:?}")) }
        })
        .await;
    }

    fn value(&self, key: usize) -> Value {
        json!(format!("canary-{key}-{}", self.round))
    }

    /// Waits until every target has the last change, and every object is ready.
    pub async fn eventually_delivered(&self, world: &World) {
        for key in 0..KEYS {
            let name = format!("k{key}");
            let value = self.value(key);
            world.eventually_secret(&name, &[("V", value.as_str().unwrap())]).await;
            world.eventually_reason("PrefectSecret", &name, "Synced").await;
        }
    }

    /// Goes on changing until the Lease is that replica's; for how long it was not.
    pub async fn change_until_held(&mut self, world: &World, holder: &str) -> Duration {
        let held = Cell::new(None);
        let wait = async { held.set(Some(eventually_holder(world, holder).await)) };
        let changes = async {
            // The last round is finished, so that each key's last change is known.
            while held.get().is_none() {
                self.change(world).await;
            }
        };
        tokio::join!(wait, changes);
        held.get().unwrap()
    }
}
