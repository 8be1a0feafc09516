//! What an author of PrefectSecrets, PrefectKVs and PrefectWorkspaces in one namespace tries to gain what they may not
//! have. Each row of the table is tried as such an author, whom RBAC allows these kinds and nothing else; afterwards
//! nothing that was not theirs is anywhere where they could see it, nothing of others has changed, and nobody whom they
//! named has heard a credential.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, object, prefect, whole_cluster};
use crate::support::eventually;

/// Stands in everything that the author may not have.
const CANARY: &str = "canary-8f1d";

/// What the author gets to see.
enum Told {
    /// The API server's refusal, with these words in it.
    Refused(&'static str),
    /// The object's reason.
    Reason(&'static str),
}
use Told::{Reason, Refused};

/// A server of the author's, which keeps all that it hears and answers what it was told to.
struct Listener {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    async fn start(answer: impl Fn(&str) -> (StatusCode, HeaderMap, String) + Clone + Send + Sync + 'static) -> Self {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let keep = heard.clone();
        let app = axum::Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let text = format!("{method} {uri} {headers:?} {}", String::from_utf8_lossy(&body));
            keep.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            let answered = answer(uri.path());
            async move { answered }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { port, heard }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where the author works, and what is not theirs.
struct Scene {
    world: World,
    victim: World,
    /// Answers with the canary, as a service inside the cluster would with what it knows.
    echo: Listener,
    /// Sends on to `elsewhere`.
    redirect: Listener,
    elsewhere: Listener,
}

impl Scene {
    async fn new() -> Self {
        let world = World::in_whole_cluster("author", json!({})).await;
        let victim = World::in_whole_cluster("victim", json!({})).await;
        let echo = Listener::start(|path| {
            let status = match path.get(..4) {
                Some("/ok/") => StatusCode::OK,
                Some("/bad") => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, HeaderMap::new(), format!(r#"{{"detail": "{CANARY}", "exception_message": "{CANARY}"}}"#))
        })
        .await;
        let elsewhere = Listener::start(|_| (StatusCode::OK, HeaderMap::new(), format!(r#""{CANARY}""#))).await;
        let to = elsewhere.url();
        let redirect = Listener::start(move |path| {
            let location = format!("{to}{path}").parse().expect("a header");
            (
                StatusCode::TEMPORARY_REDIRECT,
                HeaderMap::from_iter([(axum::http::header::LOCATION, location)]),
                String::new(),
            )
        })
        .await;
        let scene = Self { world, victim, echo, redirect, elsewhere };
        scene.plant().await;
        scene
    }

    /// What is not the author's.
    async fn plant(&self) {
        let Self { world, victim, .. } = self;
        let secret = |name: &str, labels: Value, data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": data}).to_string()
        };
        let offer = json!({"prefect-sync.dev/offer": "workspace"});
        // In the author's namespace, but others': the author may not read Secrets.
        world.apply(&secret("unoffered", json!({}), json!({"key": CANARY}))).await;
        world.apply(&secret("foreign", json!({}), json!({"PASSWORD": CANARY}))).await;
        // The author's own credential, as far as it goes.
        world.apply(&secret("own", offer.clone(), json!({"key": "pnu_own"}))).await;
        victim
            .apply(&secret(
                "crown",
                offer.clone(),
                json!({"key": CANARY, "config.toml": format!("[context.secrets]\nCROWN = \"{CANARY}\"\n")}),
            ))
            .await;
        prefect().await.set_secret(&victim.name("db"), json!(CANARY)).await;
        prefect().await.set_variable(&victim.name("host"), json!(CANARY)).await;
        prefect().await.set_secret(&world.name("mine"), json!("mine")).await;
        let local = json!({"configToml": {"secretKeyRef": {"namespace": victim.namespace, "name": "crown"}}});
        let access = json!([
            {"namespaces": [world.namespace], "keys": ["{namespace}-*"], "blockTypes": ["secret"]},
            {"namespaces": [victim.namespace], "keys": ["*"]},
        ]);
        let spec =
            json!({"api": {"url": prefect().await.url()}, "local": local, "refreshInterval": "1s", "access": access});
        world.apply(&object("ClusterPrefectWorkspace", &world.namespace, spec)).await;
        let deployment = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}},
        }});
        let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &world.namespace);
        deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    }

    /// What the author tries: kind and specification, and what comes of it.
    fn attempts(&self) -> Vec<(&'static str, &'static str, Value, Told)> {
        let (author, victim) = (&self.world.namespace, &self.victim.namespace);
        let through = json!({"kind": "ClusterPrefectWorkspace", "name": author});
        let mine = self.world.name("mine");
        let entry = json!([{"secretKey": "K", "remoteRef": {"key": mine}}]);
        let reading =
            |remote: Value| json!({"workspaceRef": through, "data": [{"secretKey": "K", "remoteRef": remote}]});
        let target = |target: Value| json!({"workspaceRef": through, "data": entry, "target": target});
        let typed = |secret_type: &str| target(json!({"template": {"type": secret_type}}));
        let labelled = |key: &str, value: &str| target(json!({"template": {"metadata": {"labels": {key: value}}}}));
        let annotated =
            |key: &str, value: &str| target(json!({"template": {"metadata": {"annotations": {key: value}}}}));
        let made = |template: &str| target(json!({"template": {"data": {"K": template}}}));
        let api = |url: &str, key: Value| json!({"api": {"url": url, "apiKey": {"secretKeyRef": key}}, "refreshInterval": "1s"});
        let echo = |path: &str| json!({"api": {"url": format!("http://127.0.0.1:{}/{path}", self.echo.port)}, "refreshInterval": "1s"});
        let power = "give power over the cluster";
        let steer = "they steer controllers";
        let find = |find: Value| json!({"workspaceRef": through, "dataFrom": [{"find": find}]});
        let over = json!({"parent": {"name": author}});
        vec![
            // Secrets that mint rights.
            ("token", "PrefectSecret", typed("kubernetes.io/service-account-token"), Refused(power)),
            ("bootstrap", "PrefectSecret", typed("bootstrap.kubernetes.io/token"), Refused(power)),
            // Helm runs what a release says with the rights of whoever uninstalls it, and finds releases by their label.
            ("release", "PrefectSecret", typed("helm.sh/release.v1"), Refused(power)),
            ("helm-owned", "PrefectSecret", labelled("owner", "helm"), Refused("take the target for a release")),
            ("of-a-token", "PrefectSecret", annotated("kubernetes.io/service-account.name", "default"), Refused(steer)),
            // Keys that steer controllers: our own, garbage collection, Argo CD.
            ("offers-itself", "PrefectSecret", labelled("prefect-sync.dev/offer", "workspace"), Refused(steer)),
            ("owned-by", "PrefectSecret", labelled("prefect-sync.dev/owned-by", "PrefectKV"), Refused(steer)),
            ("accepts", "PrefectSecret", annotated("prefect-sync.dev/accepts", "PrefectSecret/x"), Refused(steer)),
            ("lookalike", "PrefectSecret", annotated("x.prefect-sync.dev/owner", "PrefectSecret/x"), Refused(steer)),
            ("collected", "PrefectSecret", annotated("control-plane.alpha.kubernetes.io/leader", "x"), Refused(steer)),
            ("argo-cluster", "PrefectSecret", labelled("argocd.argoproj.io/secret-type", "cluster"), Refused(steer)),
            ("argo-tracked", "PrefectSecret", annotated("argocd.argoproj.io/tracking-id", "x"), Refused(steer)),
            (
                "gateway",
                "PrefectKV",
                json!({"data": [{"configMapKey": "K", "remoteRef": {"key": "x"}}], "target": {"template": {"metadata": {"labels": {"gateway.networking.k8s.io/x": "y"}}}}}),
                Refused(steer),
            ),
            // Other namespaces. What the schema does not know is dropped where it is not refused.
            ("into", "PrefectSecret", target(json!({"name": "crown", "namespace": victim})), Reason("Synced")),
            (
                "path",
                "PrefectSecret",
                target(json!({"name": format!("../{victim}/crown")})),
                Refused("must be lower-case letters"),
            ),
            (
                "their-key",
                "PrefectWorkspace",
                api(&self.echo.url(), json!({"namespace": victim, "name": "crown"})),
                Reason("CredentialsNotFound"),
            ),
            (
                "their-key-path",
                "PrefectWorkspace",
                api(&self.echo.url(), json!({"name": format!("../../{victim}/secrets/crown")})),
                Refused("must be lower-case letters"),
            ),
            (
                "their-config",
                "PrefectWorkspace",
                json!({"local": {"configToml": {"secretKeyRef": {"namespace": victim, "name": "crown"}}}}),
                Reason("CredentialsNotFound"),
            ),
            (
                "their-workspace",
                "PrefectSecret",
                json!({"workspaceRef": {"name": format!("{victim}/default")}, "data": entry}),
                Reason("WorkspaceNotFound"),
            ),
            // Credentials that were not offered.
            (
                "not-offered",
                "PrefectWorkspace",
                api(&self.echo.url(), json!({"name": "unoffered"})),
                Reason("NotOffered"),
            ),
            (
                "not-offered-local",
                "PrefectWorkspace",
                json!({"local": {"configToml": {"secretKeyRef": {"name": "foreign", "key": "PASSWORD"}}}}),
                Reason("NotOffered"),
            ),
            (
                "not-offered-ca",
                "PrefectWorkspace",
                json!({"api": {"url": self.echo.url(), "caBundle": {"configMapKeyRef": {"name": "kube-root-ca.crt"}}}}),
                Reason("NotOffered"),
            ),
            // Keys of the workspace of all that are not allowed.
            ("denied", "PrefectSecret", reading(json!({"key": self.victim.name("db")})), Reason("NotAllowed")),
            (
                "denied-variable",
                "PrefectSecret",
                reading(json!({"variable": self.victim.name("host")})),
                Reason("NotAllowed"),
            ),
            (
                "denied-kv",
                "PrefectKV",
                json!({"workspaceRef": through, "data": [{"configMapKey": "K", "remoteRef": {"key": self.victim.name("host")}}]}),
                Reason("NotAllowed"),
            ),
            ("denied-type", "PrefectSecret", reading(json!({"key": mine, "blockType": "json"})), Reason("NotAllowed")),
            (
                "denied-find",
                "PrefectSecret",
                find(json!({"name": {"regexp": format!("^{victim}")}})),
                Reason("NothingFound"),
            ),
            (
                "denied-find-variables",
                "PrefectSecret",
                find(json!({"kind": "Variable", "name": {"regexp": "."}})),
                Reason("NotAllowed"),
            ),
            (
                "denied-extract",
                "PrefectSecret",
                json!({"workspaceRef": through, "dataFrom": [{"extract": {"key": self.victim.name("db")}}]}),
                Reason("NotAllowed"),
            ),
            ("denied-local", "PrefectSecret", reading(json!({"key": "CROWN"})), Reason("NotAllowed")),
            ("denied-alias", "PrefectSecret", reading(json!({"key": mine, "localKey": "CROWN"})), Reason("NotAllowed")),
            (
                "denied-optional",
                "PrefectSecret",
                json!({"workspaceRef": through, "data": [{"secretKey": "K", "remoteRef": {"key": self.victim.name("db")}, "default": "x"}]}),
                Reason("NotAllowed"),
            ),
            ("over", "PrefectWorkspace", over.clone(), Reason("Connected")),
            (
                "denied-over",
                "PrefectSecret",
                json!({"workspaceRef": {"name": "over"}, "data": [{"secretKey": "K", "remoteRef": {"key": self.victim.name("db")}}]}),
                Reason("NotAllowed"),
            ),
            (
                "denied-over-find",
                "PrefectSecret",
                json!({"workspaceRef": {"name": "over"}, "dataFrom": [{"find": {"name": {"regexp": "."}}}]}),
                Reason("Synced"),
            ),
            (
                "denied-over-alias",
                "PrefectSecret",
                json!({"workspaceRef": {"name": "over"}, "data": [{"secretKey": "K", "remoteRef": {"key": mine, "localKey": "CROWN"}}]}),
                Reason("Synced"),
            ),
            // Hosts.
            (
                "host",
                "PrefectWorkspace",
                api(&format!("http://localhost:{}/api", self.elsewhere.port), json!({"name": "own"})),
                Reason("HostNotAllowed"),
            ),
            (
                "host-in-disguise",
                "PrefectWorkspace",
                api(&format!("http://127.0.0.1:80@localhost:{}/api", self.elsewhere.port), json!({"name": "own"})),
                Reason("WorkspaceInvalid"),
            ),
            (
                "redirected",
                "PrefectWorkspace",
                api(&self.redirect.url(), json!({"name": "own"})),
                Reason("NotPrefectApi"),
            ),
            // What a service inside the cluster answers.
            ("echo-ok", "PrefectWorkspace", echo("ok"), Reason("NotPrefectApi")),
            ("echo-bad", "PrefectWorkspace", echo("bad"), Reason("PrefectRejected")),
            ("echo-error", "PrefectWorkspace", echo("error"), Reason("PrefectUnreachable")),
            // Targets of others.
            ("takes", "PrefectSecret", target(json!({"name": "foreign"})), Reason("TargetConflict")),
            (
                "merges",
                "PrefectSecret",
                target(json!({"name": "foreign", "creationPolicy": "Merge"})),
                Reason("TargetConflict"),
            ),
            ("offers", "PrefectSecret", target(json!({"name": "unoffered"})), Reason("TargetConflict")),
            // Templates reach nothing but the entries.
            ("reads-files", "PrefectSecret", made("{% include '/etc/passwd' %}"), Reason("TemplateInvalid")),
            (
                "loops",
                "PrefectSecret",
                made("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"),
                Reason("TemplateFailed"),
            ),
            // Workloads, where nobody gave the operator that right.
            (
                "restarts",
                "PrefectSecret",
                json!({"workspaceRef": through, "data": entry, "restart": [{"kind": "Deployment", "name": "web"}]}),
                Reason("Synced"),
            ),
        ]
    }
}

/// A client that is an author of the namespace: our three kinds there, and nothing else.
async fn author(world: &World) -> Client {
    let rule = json!({"apiGroups": ["prefect-sync.dev"], "resources": ["prefectworkspaces", "prefectsecrets", "prefectkvs"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"]});
    let named = |kind: &str, more: Value| {
        let mut object =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "author"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    };
    let subject = json!({"kind": "ServiceAccount", "name": "default", "namespace": world.namespace});
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "author"});
    for object in [
        named("Role", json!({"rules": [rule]})),
        named("RoleBinding", json!({"subjects": [subject], "roleRef": role_ref})),
    ] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
            "rbac.authorization.k8s.io",
            "v1",
            object["kind"].as_str().unwrap(),
        ));
        let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let client = whole_cluster().await.control_plane.client_for_service_account(&world.namespace, "default").await;
    // The API server's authorizer learns of it by a watch.
    let objects: Api<prefect_sync::api::PrefectSecret> = Api::namespaced(client.clone(), &world.namespace);
    eventually("the author's rights", SOON, async || {
        objects.list(&ListParams::default()).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    client
}

/// As one who does not want to hear of unknown fields.
async fn create(client: &Client, namespace: &str, (name, kind, spec): (&str, &str, &Value)) -> Result<(), String> {
    let object =
        json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let path = format!(
        "/apis/prefect-sync.dev/v1alpha1/namespaces/{namespace}/{}s?fieldValidation=Ignore",
        kind.to_lowercase()
    );
    let request = axum::http::Request::post(path).header("Content-Type", "application/json");
    match client.request::<Value>(request.body(object.to_string().into_bytes()).unwrap()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("creating {kind} {name}: {error}"),
    }
}

#[tokio::test]
async fn an_author_of_our_kinds_gains_nothing_that_they_may_not_have() {
    let scene = Scene::new().await;
    let world = &scene.world;
    let client = author(world).await;
    let secrets: Api<Secret> = world.secrets();
    let before = [secrets.get("foreign").await.unwrap(), secrets.get("unoffered").await.unwrap()];
    let attempts = scene.attempts();
    for (name, kind, spec, told) in &attempts {
        let created = create(&client, &world.namespace, (name, kind, spec)).await;
        match (told, created) {
            (Refused(words), Err(message)) => assert!(message.contains(words), "{name}: {message}"),
            (Reason(_), Ok(())) => {}
            (Refused(_), Ok(())) => panic!("{name} was not refused"),
            (Reason(_), Err(message)) => panic!("{name}: {message}"),
        }
    }
    for (name, kind, _, told) in &attempts {
        if let Reason(reason) = told {
            eventually(&format!("{kind} {name} to be {reason}"), SOON, async || match world.ready(kind, name).await {
                Some(ready) if ready.reason == *reason => Ok(()),
                other => Err(format!("{other:?}\noperator's log:\n{}", world.log())),
            })
            .await;
        }
    }

    // Nothing that was not theirs is anywhere in their namespace.
    for secret in secrets.list(&ListParams::default()).await.unwrap() {
        let name = secret.name_any();
        let secret_type = secret.type_.as_deref().unwrap_or_default();
        assert!(matches!(secret_type, "Opaque"), "{name} is of type {secret_type}");
        if let Some(planted) = before.iter().find(|planted| planted.name_any() == name) {
            assert_eq!(secret, *planted, "{name} is others', and was touched");
            continue;
        }
        for (key, value) in secret.data.iter().flatten() {
            assert!(!String::from_utf8_lossy(&value.0).contains(CANARY), "{name}.{key}");
        }
    }
    let maps: Api<ConfigMap> = world.config_maps();
    let mut seen = format!("{:?}", maps.list(&ListParams::default()).await.unwrap());
    for kind in ["PrefectSecret", "PrefectKV", "PrefectWorkspace"] {
        for object in world.api(kind).list(&ListParams::default()).await.unwrap() {
            seen.push_str(&serde_json::to_string(&object).unwrap());
        }
    }
    let events: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
    seen.push_str(&format!("{:?}", events.list(&ListParams::default()).await.unwrap()));
    assert!(seen.contains("NotAllowed") && !seen.contains(CANARY), "{seen}");
    assert!(!world.log().contains(CANARY));
    // Nor in the victim's, where nothing is new.
    let theirs: Vec<String> =
        scene.victim.secrets().list(&ListParams::default()).await.unwrap().iter().map(|s| s.name_any()).collect();
    assert_eq!(theirs, ["crown"]);
    // Who was named heard no credential that was not the author's, and who was not allowed heard nothing.
    for heard in scene.echo.heard().iter().chain(&scene.redirect.heard()) {
        assert!(!heard.contains(CANARY), "{heard}");
    }
    assert!(!scene.echo.heard().is_empty() && !scene.redirect.heard().is_empty());
    assert_eq!(scene.elsewhere.heard(), [""; 0]);
    // What is theirs they have.
    assert_eq!(world.secret_data("denied-over-find").await.unwrap().values().collect::<Vec<_>>(), ["mine"]);
    // A change of content restarts nothing without the right.
    prefect().await.set_secret(&world.name("mine"), json!("changed")).await;
    world.eventually_reason("PrefectSecret", "restarts", "RestartFailed").await;
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &world.namespace);
    assert_eq!(deployments.get("web").await.unwrap().metadata.generation, Some(1));
}
