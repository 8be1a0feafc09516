//! Several replicas: one works, the others stand by. The real binary, killed, stopped and frozen under load.

use std::cell::Cell;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, operator_options, prefect, psec, root};
use crate::support::{Operator, Proxy, eventually};

/// The longest that nobody works after a leader died, as the README promises.
const TAKE_OVER: Duration = Duration::from_secs(15);
/// How many changes are under way at any time.
const KEYS: usize = 10;
/// Long enough for a session to begin and to look for changes, and less than a Lease lasts.
const WHILE: Duration = Duration::from_secs(4);

/// A replica, and as whom it is known.
struct Replica {
    operator: Operator,
    identity: String,
    address: String,
    /// What tells its requests from those of others in the audit log.
    credential: String,
}

impl Replica {
    async fn start(world: &World, identity: &str) -> Self {
        Self::start_as(world, identity, ("prefect-sync", "prefect-sync")).await
    }

    async fn start_as(world: &World, identity: &str, (home, account): (&str, &str)) -> Self {
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

    async fn ask(&self, path: &str) -> Result<(u16, String), String> {
        let answer = reqwest::get(format!("http://{}/{path}", self.address)).await.map_err(|e| e.to_string())?;
        let code = answer.status().as_u16();
        Ok((code, answer.text().await.map_err(|e| e.to_string())?))
    }

    /// Waits until it is ready, and works or not.
    async fn eventually_leads(&self, leads: bool) {
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

    fn signal(&self, signal: &str) {
        let pid = self.operator.pid().to_string();
        let done = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(done.success(), "kill -{signal} {pid}");
    }

    /// Whether its memory holds this text.
    fn remembers(&self, text: &str) -> bool {
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
    async fn writes(&self) -> Vec<(Timestamp, String)> {
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
async fn world(name: &str, url: &str) -> World {
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
async fn take_permission(world: &World) -> RoleBinding {
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

async fn give_permission(world: &World, binding: &RoleBinding) {
    bindings(world).create(&PostParams::default(), binding).await.unwrap();
}

/// Waits until a replica has seen a change, and was kept from writing it.
async fn eventually_held_back(replica: &Replica) {
    eventually("the change to be read and its write to be held back", SOON, async || {
        let log = replica.operator.log();
        if log.contains("this replica may write no more") { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn lease(world: &World) -> Lease {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    leases.get("prefect-sync").await.unwrap()
}

async fn eventually_holder(world: &World, holder: &str) -> Duration {
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
struct Load {
    round: usize,
}

impl Load {
    async fn start(world: &World) -> Self {
        let mut load = Self { round: 0 };
        load.change(world).await;
        for key in 0..KEYS {
            let data = json!([{"secretKey": "V", "remoteRef": {"key": world.name(&format!("k{key}"))}}]);
            world.apply(&psec(&format!("k{key}"), json!({"data": data}))).await;
        }
        load
    }

    /// Changes every key, one after the other.
    async fn change(&mut self, world: &World) {
        self.round += 1;
        for key in 0..KEYS {
            prefect().await.set_secret(&world.name(&format!("k{key}")), self.value(key)).await;
        }
    }

    /// Waits until some target has a change that is newer than that round.
    async fn eventually_followed(world: &World, round: usize) {
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
    async fn eventually_delivered(&self, world: &World) {
        for key in 0..KEYS {
            let name = format!("k{key}");
            let value = self.value(key);
            world.eventually_secret(&name, &[("V", value.as_str().unwrap())]).await;
            world.eventually_reason("PrefectSecret", &name, "Synced").await;
        }
    }

    /// Goes on changing until the Lease is that replica's; for how long it was not.
    async fn change_until_held(&mut self, world: &World, holder: &str) -> Duration {
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

#[tokio::test]
async fn a_standby_is_ready_knows_no_value_and_asks_nothing_of_prefect() {
    let proxy = Proxy::start(prefect().await.url()).await;
    let world = world("standby", &proxy.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let load = Load::start(&world).await;
    load.eventually_delivered(&world).await;
    let standby = Replica::start(&world, "b").await;
    standby.eventually_leads(false).await;
    let log = standby.operator.log();
    assert!(log.contains("standing by") && log.contains(r#""holder":"a""#), "{log}");
    // The leader is gone, and nobody can take its Lease: whatever is asked of Prefect now the standby would ask.
    let permission = take_permission(&world).await;
    leader.signal("STOP");
    // Behind whatever the leader had sent.
    reqwest::get(format!("{}/marker", proxy.url())).await.unwrap();
    let asked = proxy.requests().len();
    world.apply(&psec("new", json!({"data": [{"secretKey": "V", "remoteRef": {"key": world.name("k0")}}]}))).await;
    tokio::time::sleep(WHILE).await;
    let (_, metrics) = standby.ask("metrics").await.unwrap();
    for line in ["prefect_sync_prefect_requests_total{", "prefect_sync_snapshot_age_seconds{", "prefect_sync_objects{"]
    {
        assert!(!metrics.contains(line), "{metrics}");
    }
    assert_eq!(proxy.requests().len(), asked, "{:?}", proxy.requests());
    assert!(leader.remembers("canary-0-1"), "the leader's memory holds what it delivers, or this looks at nothing");
    assert!(!standby.remembers("canary-0-1"), "the standby holds a value");
    assert!(standby.writes().await.is_empty(), "{:?}", standby.writes().await);
    leader.operator.kill_now();
    give_permission(&world, &permission).await;
    standby.eventually_leads(true).await;
    world.eventually_reason("PrefectSecret", "new", "Synced").await;
}

#[tokio::test]
async fn a_killed_leader_is_followed_within_15_seconds_and_no_change_is_lost() {
    let kills: usize = std::env::var("KILLS").map_or(2, |kills| kills.parse().expect("KILLS is a number"));
    let world = world("killed", prefect().await.url()).await;
    let mut leader = Replica::start(&world, "r0").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    let (mut took, mut worked) = (Vec::new(), Vec::new());
    for kill in 1..=kills {
        let standby = Replica::start(&world, &format!("r{kill}")).await;
        standby.eventually_leads(false).await;
        load.change(&world).await;
        leader.operator.kill_now();
        let (killed, round) = (Instant::now(), load.round);
        let works = async {
            Load::eventually_followed(&world, round).await;
            killed.elapsed()
        };
        let (held, works) = tokio::join!(load.change_until_held(&world, &standby.identity), works);
        // Who holds the Lease works at once; how fast its first read and write are is up to the machine as well.
        assert!(held < TAKE_OVER, "held after {held:?}, works after {works:?}\n{}", standby.operator.log());
        took.push(held);
        worked.push(works);
        load.eventually_delivered(&world).await;
        leader = standby;
    }
    println!("taken over after {took:.1?}, a target followed after {worked:.1?}");
    // Each of them once, and nothing but what the leaders wrote.
    assert_eq!(lease(&world).await.spec.and_then(|spec| spec.lease_transitions), i32::try_from(kills).ok());
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let world = world("stopped", prefect().await.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    let standby = Replica::start(&world, "b").await;
    standby.eventually_leads(false).await;
    load.change(&world).await;
    let (code, log) = leader.operator.stop().await;
    assert_eq!(code, 0, "{log}");
    let took = eventually_holder(&world, "b").await;
    println!("handed over {took:.1?} after the leader ended");
    // Less than what is left of a Lease that is not given back.
    assert!(took < Duration::from_secs(7), "{took:?}\n{}", standby.operator.log());
    load.eventually_delivered(&world).await;
    assert!(log.contains("gave the Lease back"), "{log}");
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_after_15_seconds_though_a_write_hangs() {
    /// What a pod has to end in.
    const GRACE: Duration = Duration::from_secs(30);
    let world = world("hanging", prefect().await.url()).await;
    let mut leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    // It takes what it is asked, and never answers. The API server waits for 10 s, and does without: for the target, then
    // for the status.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = json!({
        "metadata": {"name": world.namespace},
        "webhooks": [{
            "name": "silent.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 30,
            "clientConfig": {"url": format!("https://{}", silent.local_addr().unwrap())},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]},
                {"apiGroups": ["prefect-sync.dev"], "apiVersions": ["v1alpha1"], "operations": ["UPDATE"],
                 "resources": ["prefectsecrets/status"]},
            ],
        }],
    });
    let hooks: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    hooks.create(&PostParams::default(), &serde_json::from_value(hook).unwrap()).await.unwrap();
    let data = json!([{"secretKey": "V", "remoteRef": {"key": world.name("k")}}]);
    prefect().await.set_secret(&world.name("k"), json!("canary")).await;
    // The API server takes a moment to know of the webhook.
    let hung = eventually("a write to hang", SOON, async || {
        world.apply(&psec("etl", json!({"data": data}))).await;
        if let Ok(hung) = tokio::time::timeout(Duration::from_secs(5), silent.accept()).await {
            return Ok(hung);
        }
        world.api("PrefectSecret").delete("etl", &DeleteParams::default()).await.unwrap();
        Err(leader.operator.log())
    })
    .await;
    leader.signal("TERM");
    let asked = Instant::now();
    let code = eventually("the leader to end", GRACE, async || {
        leader.operator.exit_code().ok_or_else(|| leader.operator.log())
    })
    .await;
    let log = leader.operator.log();
    println!("ended {:.1?} after it was asked to", asked.elapsed());
    hooks.delete(&world.namespace, &DeleteParams::default()).await.unwrap();
    drop(hung);
    assert!(
        code == 0 && log.contains("not finished within 15s") && log.contains("gave the Lease back"),
        "{code} {log}"
    );
}

#[tokio::test]
async fn a_frozen_leader_writes_nothing_when_it_wakes_and_ends() {
    let freezes: usize = std::env::var("FREEZES").map_or(1, |freezes| freezes.parse().expect("FREEZES is a number"));
    let world = world("frozen", prefect().await.url()).await;
    let mut leader = Replica::start(&world, "r0").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    for freeze in 1..=freezes {
        let standby = Replica::start(&world, &format!("r{freeze}")).await;
        standby.eventually_leads(false).await;
        // In the midst of its work.
        load.change(&world).await;
        leader.signal("STOP");
        load.change_until_held(&world, &standby.identity).await;
        let taken = lease(&world).await.spec.and_then(|spec| spec.acquire_time).unwrap().0;
        load.eventually_delivered(&world).await;
        // It can't learn that it was replaced: the clock alone holds it back.
        let permission = take_permission(&world).await;
        leader.signal("CONT");
        // Nor does the other one write what it finds, before it does.
        standby.eventually_leads(false).await;
        load.change(&world).await;
        eventually_held_back(&leader).await;
        assert_eq!(leader.operator.exit_code(), None);
        give_permission(&world, &permission).await;
        let code = eventually("the one that woke to end", SOON, async || {
            leader.operator.exit_code().ok_or_else(|| leader.operator.log())
        })
        .await;
        let log = leader.operator.log();
        assert_eq!(code, 1, "{log}");
        let told = format!("another replica ({}) holds the Lease now", standby.identity);
        assert!(log.contains(&told), "{log}");
        let writes = leader.writes().await;
        assert!(!writes.is_empty(), "the audit log has none of its writes, so this looks at nothing");
        let late: Vec<_> = writes.iter().filter(|(time, _)| *time >= taken).collect();
        assert!(late.is_empty(), "after {taken}: {late:#?}");
        load.change(&world).await;
        load.eventually_delivered(&world).await;
        leader = standby;
    }
}

#[tokio::test]
async fn a_leader_that_can_not_renew_writes_nothing_until_it_can_again() {
    let world = world("unrenewed", prefect().await.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    load.eventually_delivered(&world).await;
    let permission = take_permission(&world).await;
    leader.eventually_leads(false).await;
    let before = leader.writes().await.len();
    load.change(&world).await;
    eventually_held_back(&leader).await;
    let log = leader.operator.log();
    assert_eq!(leader.writes().await.len(), before, "{log}");
    let said: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said =
        said.iter().filter_map(|line| line["message"].as_str().filter(|text| text.contains("renewing the Lease")));
    let said: Vec<&str> = said.collect();
    let is_news = said.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(!said.is_empty() && is_news, "once, not every second: {said:#?}\n{log}");
    assert_eq!(world.secret_data("k0").await.unwrap()["V"], "canary-0-1");
    give_permission(&world, &permission).await;
    leader.eventually_leads(true).await;
    load.eventually_delivered(&world).await;
}

#[tokio::test]
async fn a_replica_that_can_not_fill_its_caches_leaves_the_lease_to_one_that_can() {
    let world = world("cold", prefect().await.url()).await;
    // An account that may hold the Lease, and list nothing.
    let mut permission = take_permission(&world).await;
    let account = json!({"kind": "ServiceAccount", "name": "default", "namespace": world.namespace});
    permission.subjects.get_or_insert_default().push(serde_json::from_value(account).unwrap());
    give_permission(&world, &permission).await;
    // The cold one has the start; it waits for ten seconds at most.
    let cold = Replica::start_as(&world, "cold", (&world.namespace, "default")).await;
    let warm = Replica::start(&world, "warm").await;
    warm.eventually_leads(true).await;
    eventually("the cold one to look for objects", SOON, async || {
        let log = cold.operator.log();
        if log.contains("a watch failed and is tried again") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(!cold.operator.log().contains("leading"), "{}", cold.operator.log());
}

#[tokio::test]
async fn a_lease_that_is_deleted_is_made_anew_by_its_holder_and_taken_by_no_other() {
    let world = world("deleted", prefect().await.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let standby = Replica::start(&world, "b").await;
    standby.eventually_leads(false).await;
    let before = lease(&world).await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    leases.delete("prefect-sync", &DeleteParams::default()).await.unwrap();
    let after = eventually("the Lease to be there again", SOON, async || {
        leases.get("prefect-sync").await.map_err(|error| error.to_string())
    })
    .await;
    assert_ne!(before.metadata.uid, after.metadata.uid);
    let held = |lease: &Lease| lease.spec.clone().map(|spec| (spec.holder_identity, spec.acquire_time));
    assert_eq!(held(&before), held(&after), "{}", standby.operator.log());
    eventually("the standby to hear of it", SOON, async || {
        let log = standby.operator.log();
        if log.contains("the Lease was deleted; who held it may still write") { Ok(()) } else { Err(log) }
    })
    .await;
    Load::start(&world).await.eventually_delivered(&world).await;
    leader.eventually_leads(true).await;
    standby.eventually_leads(false).await;
}
