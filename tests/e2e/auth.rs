//! A self-hosted Prefect that wants credentials, and a CSRF token with every POST.

use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::fixture::{SOON, World, object, prefect, psec};
use crate::support::{Mode, Prefect, PrefectOptions, Proxy, eventually};

const AUTH: &str = "admin:right-canary";
const WRONG: &str = "admin:wrong-canary";

async fn offered(world: &World, name: &str, key: &str, value: &str) {
    let metadata = json!({"name": name, "labels": {"prefect-sync.dev/offer": "workspace"}});
    let manifest = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {key: value}});
    world.apply(&manifest.to_string()).await;
}

#[tokio::test]
async fn basic_authentication_and_csrf_work_and_refused_credentials_heal_at_once() {
    let options = PrefectOptions { auth_string: Some(AUTH.into()), csrf: true, ..PrefectOptions::default() };
    let (world, prefect) = tokio::join!(World::new("auth"), Prefect::start(options));
    prefect.set_secret("password", json!("value-canary")).await;
    prefect.set_variable("host", json!("db.example")).await;
    let (host, namespace) = (format!("127.0.0.1:{}", prefect.port()), world.namespace.clone());

    offered(&world, "prefect-auth", "auth-string", WRONG).await;
    offered(&world, "prefect-api-key", "key", "key-canary").await;
    let source = |name: &str| json!({"secretKeyRef": {"name": name}});
    let no_credentials = format!(
        "Prefect at {host} answered 401 to a workspace without credentials; set spec.api.apiKey (Prefect Cloud) or spec.api.authString (self-hosted)."
    );
    let wrong = format!(
        "Prefect at {host} answered 401 to Secret {namespace}/prefect-auth key \"auth-string\"; is it the server's PREFECT_SERVER_API_AUTH_STRING, or is this Prefect Cloud (then set spec.api.apiKey instead)?"
    );
    let other_kind = format!(
        "Prefect at {host} answered 401 to Secret {namespace}/prefect-api-key key \"key\"; is it expired or mistyped, or is this a self-hosted Prefect (then set spec.api.authString instead)?"
    );
    let cases = [
        ("default", json!({"url": prefect.url(), "authString": source("prefect-auth")}), wrong),
        ("bare", json!({"url": prefect.url()}), no_credentials),
        ("cloud-like", json!({"url": prefect.url(), "apiKey": source("prefect-api-key")}), other_kind),
    ];
    let data = json!([
        {"secretKey": "PASSWORD", "remoteRef": {"key": "password"}},
        {"secretKey": "HOST", "remoteRef": {"variable": "host"}},
    ]);
    let map = json!({"data": [{"configMapKey": "HOST", "remoteRef": {"key": "host"}}]});
    world.apply(&object("PrefectKV", "settings", map)).await;
    for (name, api, _) in &cases {
        world.workspace_spec(name, &json!({"api": api}).to_string()).await;
        world.apply(&psec(name, json!({"workspaceRef": {"name": name}, "data": data}))).await;
    }
    for (name, _, message) in &cases {
        let said = world.eventually_message("PrefectWorkspace", name, "CredentialsRefused").await;
        assert_eq!(said, format!("{message} Not ready since TIME; targets keep what they hold"));
        let said = world.eventually_message("PrefectSecret", name, "CredentialsRefused").await;
        assert_eq!(said, format!("{message} The target is not written until this is solved"));
        assert_eq!(world.secret_data(name).await, None);
    }

    // With the line end that `kubectl create secret --from-file` keeps; long before the next try after a minute.
    offered(&world, "prefect-auth", "auth-string", &format!("{AUTH}\n")).await;
    eventually("the right credentials to be taken", Duration::from_secs(45), async || {
        match world.ready("PrefectWorkspace", "default").await {
            Some(ready) if ready.reason == "Connected" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.eventually_secret("default", &[("HOST", "db.example"), ("PASSWORD", "value-canary")]).await;
    world.eventually_reason("PrefectKV", "settings", "Synced").await;
    assert_eq!(world.config_maps().get("settings").await.unwrap().data.unwrap()["HOST"], "db.example");
    let workspace = world.get("PrefectWorkspace", "default").await;
    assert_eq!(workspace["status"]["serverVersion"], "3.8.8");
    assert_eq!(workspace["status"]["apiUrl"], prefect.url());
    let said = world.ready("PrefectWorkspace", "default").await.unwrap();
    assert_eq!((said.status.as_str(), said.message.as_str()), ("True", "Prefect 3.8.8 answers and may be read"));
    let refused = world.ready("PrefectSecret", "bare").await.unwrap();
    assert_eq!(refused.reason, "CredentialsRefused", "one workspace's credentials serve no other");

    let mut texts = vec![];
    for kind in ["PrefectWorkspace", "PrefectSecret", "PrefectKV"] {
        for object in world.api(kind).list(&ListParams::default()).await.unwrap() {
            texts.push(serde_json::to_string(&object).unwrap());
        }
    }
    let events: Api<Event> = Api::namespaced(world.client.clone(), &namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    assert!(!events.is_empty(), "refused credentials are worth an Event");
    texts.extend(events.iter().map(|event| serde_json::to_string(event).unwrap()));
    texts.push(world.stop_operator().await);
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    for text in &texts {
        for secret in ["canary".to_owned(), encoded(AUTH), encoded(WRONG), encoded("value-canary")] {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn a_key_that_comes_with_another_address_never_goes_to_the_one_before() {
    let (world, api) = World::behind_proxy("moved").await;
    let url = prefect().await.url();
    let (before, after) = (Proxy::start(url).await, Proxy::start(url).await);
    let reads = async |proxy: &Proxy| {
        let auth = json!({"secretKeyRef": {"name": "auth"}});
        world.workspace_spec("default", &json!({"api": {"url": proxy.url(), "authString": auth}}).to_string()).await;
    };
    let looks = || api.gets("/prefectworkspaces/default");
    offered(&world, "auth", "auth-string", "admin:old").await;
    reads(&before).await;
    world.connected().await;

    // The watch of the workspaces stalls; that of what they name tells of the new key.
    let looked = looks();
    api.set(Mode::StallWhere("/prefectworkspaces?".into()));
    reads(&after).await;
    offered(&world, "auth", "auth-string", "admin:new").await;
    eventually("the operator to look whether the workspace is the same", SOON, async || {
        if looks() > looked { Ok(()) } else { Err(world.log()) }
    })
    .await;
    api.set(Mode::Pass);

    let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    eventually("the new key to be used at the new address", SOON, async || {
        let sent = after.credentials();
        if sent.contains(&basic("admin:new")) { Ok(()) } else { Err(format!("{} requests", sent.len())) }
    })
    .await;
    let sent = before.credentials();
    assert!(!sent.is_empty() && sent.iter().all(|sent| *sent == basic("admin:old")), "{sent:?}");
}
