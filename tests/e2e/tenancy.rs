//! One workspace for many namespaces: who may read what, and that nobody learns of the rest.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::fixture::{CLUSTER_DEFAULT, SOON, World, object, prefect, psec};
use crate::support::{Mode, Proxy, eventually};

/// A ClusterPrefectWorkspace of the test's own, for namespaces with the label `test: NAMESPACE`.
async fn cluster_workspace(world: &World, url: &str, interval: &str, keys: &[&str]) {
    let rule = json!({"namespaceSelector": {"matchLabels": {"test": world.namespace}}, "keys": keys});
    let spec = json!({"api": {"url": url}, "refreshInterval": interval, "access": [rule]});
    world.apply(&object("ClusterPrefectWorkspace", &world.namespace, spec)).await;
}

async fn set_access(world: &World, access: Value) {
    let patch = Patch::Merge(json!({"spec": {"access": access}}));
    let api = world.api("ClusterPrefectWorkspace");
    api.patch(&world.namespace, &PatchParams::default(), &patch).await.expect("the access rules");
}

/// A PrefectSecret that reads these keys through the ClusterPrefectWorkspace of that name.
fn through(workspace: &str, name: &str, keys: &[(&str, &str)]) -> String {
    let data: Vec<Value> =
        keys.iter().map(|(key, remote)| json!({"secretKey": key, "remoteRef": {"key": remote}})).collect();
    let workspace = json!({"kind": "ClusterPrefectWorkspace", "name": workspace});
    psec(name, json!({"workspaceRef": workspace, "data": data}))
}

fn not_allowed(world: &World, key: &str, workspace: &str) -> String {
    format!(
        "namespace {:?} may not read secret block {key:?} through ClusterPrefectWorkspace {workspace:?}; correct the name (or narrow find), or ask those who run it for a rule in its spec.access",
        world.namespace
    )
}

/// Conditions and entries without names and times.
async fn told(world: &World, name: &str, key: &str) -> String {
    let mut status = world.get("PrefectSecret", name).await["status"].clone();
    for condition in status["conditions"].as_array_mut().unwrap() {
        condition.as_object_mut().unwrap().remove("lastTransitionTime");
    }
    status.as_object_mut().unwrap().remove("failingSince");
    status.to_string().replace(key, "KEY")
}

#[tokio::test]
async fn each_namespace_reads_what_the_rules_give_it_and_what_is_refused_looks_the_same_whether_it_exists() {
    let ours = World::in_whole_cluster("ours", json!({})).await;
    let label = json!({"test": ours.namespace});
    ours.label(label.clone()).await;
    let theirs = World::in_whole_cluster("theirs", label).await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    cluster_workspace(&ours, &proxy.url(), "1s", &["{namespace}-*"]).await;
    let workspace = &ours.namespace;
    let [own, hidden, nothing] = [ours.name("db"), theirs.name("hidden"), theirs.name("nothing")];
    prefect.set_secret(&own, json!("1")).await;
    prefect.set_secret(&hidden, json!("2")).await;
    // Whoever asked for the hidden one would be told that the server fails.
    proxy.set(Mode::AnswerWhere(hidden.clone(), 500, r#"{"exception_message":"Internal Server Error"}"#.into()));

    ours.apply(&through(workspace, "etl", &[("DB", &own)])).await;
    ours.eventually_secret("etl", &[("DB", "1")]).await;
    for (name, key) in [("peek", &hidden), ("guess", &nothing)] {
        ours.apply(&through(workspace, name, &[("K", key), ("OWN", &own)])).await;
        let message = ours.eventually_message("PrefectSecret", name, "NotAllowed").await;
        assert_eq!(
            message,
            format!("{}. The target is not written until this is solved", not_allowed(&ours, key, workspace))
        );
        assert_eq!(ours.secret_data(name).await, None);
    }
    // One keeps reading its own key meanwhile: nothing of the other's shows in it, not after more reads either.
    crate::fixture::passes(&proxy, 2).await;
    assert_eq!(told(&ours, "peek", &hidden).await, told(&ours, "guess", &nothing).await);
    assert_eq!(ours.ready("ClusterPrefectWorkspace", workspace).await.unwrap().reason, "Connected");

    // What is wrong with one key says nothing of where the platform's Prefect and its credentials are.
    let broken = ours.name("broken");
    prefect.set_secret(&broken, json!("3")).await;
    proxy.set(Mode::AnswerWhere(broken.clone(), 403, r#"{"detail":"Forbidden"}"#.into()));
    ours.apply(&through(workspace, "broken", &[("K", &broken)])).await;
    let message = ours.eventually_message("PrefectSecret", "broken", "CredentialsRefused").await;
    assert!(
        message.starts_with(&format!(
            "secret block {broken:?} can't be read through ClusterPrefectWorkspace {workspace:?} (CredentialsRefused);"
        )),
        "{message}"
    );
    assert!(!message.contains(&proxy.host()), "{message}");

    prefect.delete_block("secret", &broken).await;

    // What find finds is what each may read, and there is nothing else to it.
    proxy.set(Mode::Pass);
    let find = |regexp: &str| {
        let workspace = json!({"kind": "ClusterPrefectWorkspace", "name": workspace});
        json!({"workspaceRef": workspace, "dataFrom": [{"find": {"name": {"regexp": regexp}}}]})
    };
    let all = format!("^({}|{})-", ours.namespace, theirs.namespace);
    ours.apply(&psec("found", find(&all))).await;
    theirs.apply(&psec("found", find(&all))).await;
    ours.eventually_secret("found", &[(&own, "1")]).await;
    theirs.eventually_secret("found", &[(&hidden, "2")]).await;
    for (name, key) in [("find-hidden", &hidden), ("find-nothing", &nothing)] {
        ours.apply(&psec(name, find(key))).await;
        ours.eventually_reason("PrefectSecret", name, "NothingFound").await;
    }
    assert_eq!(told(&ours, "find-hidden", &hidden).await, told(&ours, "find-nothing", &nothing).await);

    // A near name is told only to who may read it.
    let (misspelt, beside) = (ours.name("dbb"), theirs.name("hiddenn"));
    ours.apply(&through(workspace, "near", &[("K", &misspelt)])).await;
    ours.eventually_hint("PrefectSecret", "near", &own).await;
    ours.apply(&through(workspace, "far", &[("K", &beside)])).await;
    let message = ours.eventually_message("PrefectSecret", "far", "NotAllowed").await;
    assert!(!message.contains(&format!("{hidden:?}")), "{message}");
}

#[tokio::test]
async fn a_namespaces_labels_and_the_rules_take_effect_at_once_and_take_nothing_away() {
    let world = World::in_whole_cluster("labels", json!({})).await;
    let (first, second) = (world.name("first"), world.name("second"));
    prefect().await.set_secret(&first, json!("1")).await;
    prefect().await.set_secret(&second, json!("2")).await;
    let proxy = Proxy::start(prefect().await.url()).await;
    // No refresh will come to help.
    cluster_workspace(&world, &proxy.url(), "1h", &["{namespace}-first"]).await;
    let workspace = &world.namespace;
    world.apply(&through(workspace, "etl", &[("K", &first)])).await;
    let nothing = format!(
        "namespace {workspace:?} may not read anything through ClusterPrefectWorkspace {workspace:?}; ask those who run it for a rule in its spec.access, or use a workspace of your own"
    );
    let message = world.eventually_message("PrefectSecret", "etl", "NotAllowed").await;
    assert_eq!(message, format!("{nothing}. The target is not written until this is solved"));
    world.label(json!({"test": workspace})).await;
    world.eventually_secret("etl", &[("K", "1")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let version = world.version("Secret", "etl").await;
    world.label(json!({"test": null})).await;
    let message = world.eventually_message("PrefectSecret", "etl", "NotAllowed").await;
    assert_eq!(message, format!("{nothing}. Target unchanged since TIME"));
    world.label(json!({"test": workspace})).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    assert_eq!(world.version("Secret", "etl").await, version);

    // Also what find finds, for one who comes later and may read something else.
    let found = |name: &str| {
        let workspace = json!({"kind": "ClusterPrefectWorkspace", "name": workspace});
        psec(
            name,
            json!({"workspaceRef": workspace, "dataFrom": [{"find": {"name": {"regexp": format!("^{workspace}", workspace = world.namespace)}}}]}),
        )
    };
    world.apply(&found("found")).await;
    world.eventually_secret("found", &[(&first, "1")]).await;

    // Other rules are no other state of the session: what is known stays known.
    let asked = |what: &str| proxy.answered_since(0).iter().filter(|request| request.ends_with(what)).count();
    world.apply(&through(workspace, "more", &[("K", &second)])).await;
    world.eventually_reason("PrefectSecret", "more", "NotAllowed").await;
    let (checks, reads) = (asked("/block_types/slug/secret"), asked("/filter"));
    let selector = json!({"matchLabels": {"test": workspace}});
    set_access(&world, json!([{"namespaceSelector": selector, "keys": ["{namespace}-*"]}])).await;
    world.eventually_secret("more", &[("K", "2")]).await;
    world.eventually_secret("found", &[(&first, "1"), (&second, "2")]).await;
    assert_eq!(asked("/block_types/slug/secret"), checks, "no session begins: {:?}", proxy.requests());
    assert!(asked("/filter") <= reads + 2, "the new key and what is found, at most: {:?}", proxy.requests());
    set_access(&world, json!([{"namespaceSelector": selector, "keys": ["*"], "blockTypes": ["aws-credentials"]}]))
        .await;
    for name in ["etl", "more"] {
        world.eventually_reason("PrefectSecret", name, "NotAllowed").await;
    }
    assert_eq!(world.version("Secret", "etl").await, version);
    set_access(&world, json!(null)).await;
    world.apply(&through(workspace, "none", &[("K", &first)])).await;
    world.eventually_reason("PrefectSecret", "none", "NotAllowed").await;
}

#[tokio::test]
async fn without_a_reference_the_namespaces_default_is_read_or_else_the_clusters_and_a_switch_removes_nothing() {
    let _default = CLUSTER_DEFAULT.lock().await;
    let world = World::in_whole_cluster("default", json!({})).await;
    let [shared, only] = [world.name("shared"), world.name("only")];
    // Two Prefects that have different things: the second one does not have `only`.
    let (first, second) = (prefect().await, crate::support::Prefect::start(Default::default()).await);
    first.set_variable(&shared, json!("of the cluster")).await;
    first.set_variable(&only, json!("1")).await;
    second.set_variable(&shared, json!("of the namespace")).await;
    let data = json!([
        {"configMapKey": "SHARED", "remoteRef": {"key": shared}},
        {"configMapKey": "ONLY", "remoteRef": {"key": only}},
    ]);
    let optional = json!([
        {"configMapKey": "SHARED", "remoteRef": {"key": shared}},
        {"configMapKey": "ONLY", "remoteRef": {"key": only}, "optional": true},
    ]);
    world.apply(&object("PrefectKV", "etl", json!({"data": data}))).await;
    world
        .apply(&object("PrefectKV", "optional", json!({"data": optional, "target": {"deletionPolicy": "Delete"}})))
        .await;
    let missing = world.eventually_message("PrefectKV", "etl", "WorkspaceNotFound").await;
    let next = "create one or set spec.workspaceRef";
    let neither = format!(
        "no PrefectWorkspace \"default\" in {:?} and no ClusterPrefectWorkspace \"default\"; {next}",
        world.namespace
    );
    assert_eq!(missing, neither);

    let held = async |name: &str| {
        let map = world.config_maps().get_opt(name).await.unwrap();
        map.and_then(|map| map.data).unwrap_or_default()
    };
    let eventually_held = async |name: &str, expected: Value| {
        eventually(&format!("{name} to hold {expected}"), SOON, async || match json!(held(name).await) {
            held if held == expected => Ok(()),
            held => Err(format!("{held}\n{}", world.log())),
        })
        .await;
    };
    let workspace_of = async || world.get("PrefectKV", "etl").await["status"]["workspace"]["kind"].clone();
    let rule = json!({"namespaces": [world.namespace], "keys": ["*"]});
    let cluster = |interval: &str| json!({"api": {"url": first.url()}, "refreshInterval": interval, "access": [rule]});
    world.apply(&object("ClusterPrefectWorkspace", "default", cluster("1s"))).await;
    let both = json!({"SHARED": "of the cluster", "ONLY": "1"});
    eventually_held("etl", both.clone()).await;
    eventually_held("optional", both.clone()).await;
    world.eventually_reason("PrefectKV", "etl", "Synced").await;
    assert_eq!(workspace_of().await, "ClusterPrefectWorkspace");

    // One of its own goes first. What it lacks stays for at least two of its reads.
    let version = world.version("ConfigMap", "optional").await;
    let only_it = WatchParams::default().fields("metadata.name=optional").disable_bookmarks();
    let states = world.config_maps().watch(&only_it, &version).await.unwrap();
    let own = json!({"api": {"url": second.url()}, "refreshInterval": "4s"});
    world.workspace_spec("default", &own.to_string()).await;
    eventually_held("etl", json!({"SHARED": "of the namespace", "ONLY": "1"})).await;
    world.eventually_reason("PrefectKV", "etl", "KeyNotFound").await;
    assert_eq!(workspace_of().await, "PrefectWorkspace");
    let note = "PrefectWorkspace \"default\" is read now, and no longer ClusterPrefectWorkspace \"default\"; what it lacks is removed only once it confirms that";
    let switched = ("Normal".to_owned(), "WorkspaceChanged".to_owned(), note.to_owned());
    eventually("one Event of the switch", SOON, async || {
        let events = world.events("PrefectKV", "etl").await;
        match events.iter().filter(|event| **event == switched).count() {
            1 => Ok(()),
            _ => Err(format!("{events:?}")),
        }
    })
    .await;
    let states = states.try_filter_map(async |event| match event {
        WatchEvent::Modified(map) => Ok(map.data.map(|data| json!(data))),
        other => panic!("{other:?}"),
    });
    let states = states.take(2).try_collect::<Vec<Value>>();
    let states = tokio::time::timeout(SOON, states).await.expect("two changes").unwrap();
    let expected = [json!({"SHARED": "of the namespace", "ONLY": "1"}), json!({"SHARED": "of the namespace"})];
    assert_eq!(states, expected);

    // And back again.
    world.api("PrefectWorkspace").delete("default", &DeleteParams::default()).await.unwrap();
    eventually_held("etl", both.clone()).await;
    eventually_held("optional", both).await;
    world.eventually_reason("PrefectKV", "etl", "Synced").await;
    assert_eq!(workspace_of().await, "ClusterPrefectWorkspace");
    world.api("ClusterPrefectWorkspace").delete("default", &DeleteParams::default()).await.unwrap();
    let gone = world.eventually_message("PrefectKV", "etl", "WorkspaceNotFound").await;
    assert_eq!(gone, format!("{neither}. Target unchanged since TIME"));
}

#[tokio::test]
async fn a_namespace_puts_local_secrets_of_its_own_over_the_workspace_of_all() {
    let world = World::in_whole_cluster("overlay", json!({})).await;
    world.label(json!({"test": world.namespace})).await;
    let [own, remote, denied] = [world.name("own"), world.name("remote"), format!("x-{}", world.namespace)];
    let prefect = prefect().await;
    for (name, value) in [(&own, "from prefect"), (&remote, "from prefect"), (&denied, "not for them")] {
        prefect.set_secret(name, json!(value)).await;
    }
    let config = |text: String| {
        let metadata = json!({"name": "config", "labels": {"prefect-sync.dev/offer": "workspace"}});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"config.toml": text}})
            .to_string()
    };
    world.apply(&config(format!("[context.secrets]\n{own} = \"local\"\nMINE = \"mine\"\n"))).await;
    let local = json!({"configToml": {"secretKeyRef": {"name": "config"}}});
    let overlay = json!({"parent": {"name": world.namespace}, "local": local});
    world.workspace_spec("default", &overlay.to_string()).await;
    let missing = world.eventually_message("PrefectWorkspace", "default", "WorkspaceNotFound").await;
    assert!(missing.starts_with(&format!("there is no ClusterPrefectWorkspace {:?}", world.namespace)), "{missing}");
    cluster_workspace(&world, prefect.url(), "1s", &["{namespace}-*"]).await;
    let entry = |key: &str, name: &str| json!({"secretKey": key, "remoteRef": {"key": name}});
    let data = json!([
        entry("OWN", &own),
        entry("REMOTE", &remote),
        {"secretKey": "MINE", "remoteRef": {"key": remote, "localKey": "MINE"}},
    ]);
    world.apply(&psec("etl", json!({"data": data}))).await;
    world.eventually_secret("etl", &[("MINE", "mine"), ("OWN", "local"), ("REMOTE", "from prefect")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let sources: Vec<Value> = world.get("PrefectSecret", "etl").await["status"]["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["source"].clone())
        .collect();
    assert_eq!(sources, ["Local", "Api", "Local"]);

    // The parent's rules hold for all that is not local.
    world.apply(&psec("denied", json!({"data": [entry("K", &denied)]}))).await;
    let message = world.eventually_message("PrefectSecret", "denied", "NotAllowed").await;
    assert!(message.starts_with(&not_allowed(&world, &denied, &world.namespace)), "{message}");
    world.apply(&config(format!("[context.secrets]\n{own} = \"local\"\n{denied} = \"my own\"\n"))).await;
    world.eventually_secret("denied", &[("K", "my own")]).await;
    // What is not local any more is the API's, as far as it is allowed.
    world.eventually_secret("etl", &[("MINE", "from prefect"), ("OWN", "local"), ("REMOTE", "from prefect")]).await;
    world.apply(&config("[context.secrets]\n".to_owned())).await;
    world
        .eventually_secret("etl", &[("MINE", "from prefect"), ("OWN", "from prefect"), ("REMOTE", "from prefect")])
        .await;
    world.eventually_reason("PrefectSecret", "denied", "NotAllowed").await;
    world.eventually_secret("denied", &[("K", "my own")]).await;
    world.label(json!({"test": null})).await;
    world.eventually_reason("PrefectSecret", "etl", "NotAllowed").await;
    world.label(json!({"test": world.namespace})).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;

    // What the parent calls so locally is not reached under another name, neither over it nor through it.
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs", "labels": {"prefect-sync.dev/offer": "workspace"}},
        "stringData": {"config.toml": format!("[context.secrets]\nTHEIRS = \"not for them\"\n{remote} = \"of the parent\"\n")}});
    world.apply(&secret.to_string()).await;
    let theirs = json!({"configToml": {"secretKeyRef": {"namespace": world.namespace, "name": "theirs"}}});
    let patch = Patch::Merge(json!({"spec": {"local": theirs}}));
    let api = world.api("ClusterPrefectWorkspace");
    api.patch(&world.namespace, &PatchParams::default(), &patch).await.expect("local secrets of the parent");
    world
        .eventually_secret("etl", &[("MINE", "of the parent"), ("OWN", "from prefect"), ("REMOTE", "of the parent")])
        .await;
    let alias = json!([{"secretKey": "K", "remoteRef": {"key": own, "localKey": "THEIRS"}}]);
    world.apply(&psec("over", json!({"data": alias}))).await;
    world.eventually_secret("over", &[("K", "from prefect")]).await;
    let workspace = json!({"kind": "ClusterPrefectWorkspace", "name": world.namespace});
    world.apply(&psec("alias", json!({"workspaceRef": workspace, "data": alias}))).await;
    world.eventually_reason("PrefectSecret", "alias", "NotAllowed").await;
    let held = [("MINE", "of the parent"), ("OWN", "from prefect"), ("REMOTE", "of the parent")];

    // Another state of the parent is another of its own; without a parent nothing is read, and nothing goes.
    cluster_workspace(&world, "http://127.0.0.1:1/api", "1s", &["{namespace}-*"]).await;
    world.eventually_reason("PrefectWorkspace", "default", "PrefectUnreachable").await;
    world.api("ClusterPrefectWorkspace").delete(&world.namespace, &DeleteParams::default()).await.unwrap();
    world.eventually_reason("PrefectWorkspace", "default", "WorkspaceNotFound").await;
    world.eventually_secret("etl", &held).await;
}

#[tokio::test]
async fn credentials_of_a_cluster_workspace_are_where_it_says_and_must_be_offered_there() {
    let platform = World::in_whole_cluster("platform", json!({})).await;
    let team = World::in_whole_cluster("team", json!({"test": platform.namespace})).await;
    let key = team.name("db");
    prefect().await.set_secret(&key, json!("1")).await;
    let rule = json!({"namespaceSelector": {"matchLabels": {"test": platform.namespace}}, "keys": ["{namespace}-*"]});
    let reference = json!({"secretKeyRef": {"namespace": platform.namespace, "name": "auth"}});
    let api = json!({"url": prefect().await.url(), "authString": reference});
    let spec = json!({"api": api, "refreshInterval": "1s", "access": [rule]});
    platform.apply(&object("ClusterPrefectWorkspace", &platform.namespace, spec)).await;
    let workspace = platform.namespace.as_str();
    // One of that name in the team's own namespace is another one.
    let secret = |labels: Value| {
        let metadata = json!({"name": "auth", "labels": labels});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"auth-string": "a:b"}})
            .to_string()
    };
    team.apply(&secret(json!({"prefect-sync.dev/offer": "workspace"}))).await;
    platform.eventually_reason("ClusterPrefectWorkspace", workspace, "CredentialsNotFound").await;
    platform.apply(&secret(json!({}))).await;
    team.apply(&through(workspace, "etl", &[("K", &key)])).await;
    // A Secret that is not offered is not watched: it is looked at again after half a minute.
    eventually("the Secret to be seen", Duration::from_secs(60), async || {
        match platform.ready("ClusterPrefectWorkspace", workspace).await {
            Some(ready) if ready.reason == "NotOffered" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    platform.apply(&secret(json!({"prefect-sync.dev/offer": "workspace"}))).await;
    team.eventually_secret("etl", &[("K", "1")]).await;
    platform.eventually_reason("ClusterPrefectWorkspace", workspace, "Connected").await;
}

#[tokio::test]
async fn an_operator_of_some_namespaces_reads_no_workspace_of_the_cluster_and_says_so() {
    let world = World::new("limited").await;
    let why = format!(
        "ClusterPrefectWorkspace \"prod\" is not read: this operator works in some namespaces only ({}), not in the whole cluster; use a PrefectWorkspace",
        world.namespace
    );
    let all = json!([{"key": "kubernetes.io/metadata.name", "operator": "Exists"}]);
    let rule = json!({"namespaceSelector": {"matchExpressions": all}, "keys": ["*"]});
    let spec = json!({"api": {"url": prefect().await.url()}, "access": [rule]});
    // It is there, and would allow everything.
    world.apply(&object("ClusterPrefectWorkspace", "prod", spec)).await;
    world.apply(&through("prod", "etl", &[("K", "x")])).await;
    let message = world.eventually_message("PrefectSecret", "etl", "ClusterWorkspacesOff").await;
    assert_eq!(message, format!("{why}. The target is not written until this is solved"));
    world.workspace_spec("over", &json!({"parent": {"name": "prod"}}).to_string()).await;
    let message = world.eventually_message("PrefectWorkspace", "over", "ClusterWorkspacesOff").await;
    assert!(message.starts_with(&why), "{message}");
    world.apply(&psec("none", json!({"data": [{"secretKey": "K", "remoteRef": {"key": "x"}}]}))).await;
    let message = world.eventually_message("PrefectSecret", "none", "WorkspaceNotFound").await;
    assert!(!message.contains("ClusterPrefectWorkspace"), "{message}");
}

#[tokio::test]
async fn forty_teams_share_one_key_each_with_its_own_secrets_and_one_request_reads_them_all() {
    const TEAMS: usize = 40;
    let platform = World::in_whole_cluster("forty", json!({})).await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    cluster_workspace(&platform, &proxy.url(), "1s", &["{namespace}-*"]).await;
    let prefix = &platform.namespace;
    let namespaces: Api<Namespace> = Api::all(platform.client.clone());
    for team in 0..TEAMS {
        // Names that begin alike: 1, 10, 11, …
        let name = format!("{prefix}-{team}");
        let labels = [("test".to_owned(), prefix.clone())].into();
        let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() };
        namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await.unwrap();
        prefect.set_secret(&format!("{name}-db"), json!(team.to_string())).await;
    }
    // All of what begins with its own name: also of 1-… where there is 10.
    for team in 0..TEAMS {
        let name = format!("{prefix}-{team}");
        let workspace = json!({"kind": "ClusterPrefectWorkspace", "name": prefix});
        let find = json!({"find": {"name": {"regexp": format!("^{name}")}}});
        let spec = json!({"workspaceRef": workspace, "dataFrom": [find]});
        let data = json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "metadata": {"name": "etl", "namespace": name}, "spec": spec});
        let resource = kube::core::ApiResource::erase::<prefect_sync::api::PrefectSecret>(&());
        let api: Api<kube::api::DynamicObject> = Api::namespaced_with(platform.client.clone(), &name, &resource);
        api.create(&PostParams::default(), &serde_json::from_value(data).unwrap()).await.unwrap();
    }
    let secrets =
        |name: &str| -> Api<k8s_openapi::api::core::v1::Secret> { Api::namespaced(platform.client.clone(), name) };
    for team in 0..TEAMS {
        let name = format!("{prefix}-{team}");
        let expected = json!({format!("{name}-db"): k8s_openapi::ByteString(team.to_string().into_bytes())});
        eventually(&format!("team {team} to have its own"), SOON, async || {
            match secrets(&name).get_opt("etl").await.unwrap().map(|secret| json!(secret.data)) {
                Some(data) if data == expected => Ok(()),
                other => Err(format!("{other:?}\n{}", platform.log())),
            }
        })
        .await;
    }
    let before = proxy.requests().len();
    crate::fixture::passes(&proxy, 3).await;
    let requests = proxy.requests().split_off(before);
    let listings = requests.iter().filter(|request| request.ends_with("/block_documents/filter")).count();
    // One page holds all; a request each would be forty a refresh.
    assert!(listings <= 8, "{requests:?}");
}
