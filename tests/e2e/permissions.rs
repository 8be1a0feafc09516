//! What the operator may do, and with whom it talks: the roles of `deploy/`, the allowed hosts, no redirects.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, prefect};
use crate::support::{Mode, Proxy, eventually};

/// Verbs, group, resource (with its subresource), and whether the operator may.
const TABLE: &[(&str, &str, &str, bool)] = &[
    // Patched is only what is merged into targets that accept it; nothing is deleted in bulk.
    ("get,list,watch,create,update,patch,delete", "", "secrets", true),
    ("get,list,watch,create,update,patch,delete", "", "configmaps", true),
    ("deletecollection", "", "secrets", false),
    ("deletecollection", "", "configmaps", false),
    ("get,list,watch", "prefect-sync.dev", "prefectworkspaces", true),
    ("get,list,watch", "prefect-sync.dev", "prefectsecrets", true),
    ("get,list,watch", "prefect-sync.dev", "prefectkvs", true),
    ("get,list,watch", "prefect-sync.dev", "clusterprefectworkspaces", true),
    ("patch", "prefect-sync.dev", "prefectworkspaces/status", true),
    ("patch", "prefect-sync.dev", "clusterprefectworkspaces/status", true),
    ("patch", "prefect-sync.dev", "prefectsecrets/status", true),
    ("patch", "prefect-sync.dev", "prefectkvs/status", true),
    ("update", "prefect-sync.dev", "prefectsecrets/finalizers", true),
    ("update", "prefect-sync.dev", "prefectkvs/finalizers", true),
    // What users wrote is theirs.
    ("create,update,patch,delete", "prefect-sync.dev", "prefectworkspaces", false),
    ("create,update,patch,delete", "prefect-sync.dev", "clusterprefectworkspaces", false),
    ("create,update,patch,delete", "prefect-sync.dev", "prefectsecrets", false),
    ("create,update,patch,delete", "prefect-sync.dev", "prefectkvs", false),
    ("create,patch", "events.k8s.io", "events", true),
    ("get,list,watch,delete", "events.k8s.io", "events", false),
    // Nothing that leads to more.
    ("create,get,list,delete", "", "pods", false),
    ("create", "", "pods/exec", false),
    ("create", "", "serviceaccounts/token", false),
    ("get,list,create,impersonate", "", "serviceaccounts", false),
    ("impersonate", "", "users", false),
    ("list,watch", "", "namespaces", true),
    ("get,create,update,patch,delete", "", "namespaces", false),
    ("get,list", "", "nodes", false),
    ("get,create,update,bind,escalate", "rbac.authorization.k8s.io", "roles", false),
    ("get,create,update,bind,escalate", "rbac.authorization.k8s.io", "clusterroles", false),
    ("create,update", "rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("create,update,patch", "apiextensions.k8s.io", "customresourcedefinitions", false),
    ("create,update,patch", "admissionregistration.k8s.io", "validatingwebhookconfigurations", false),
    // Restarting workloads is for those who apply 11-restarts.yaml.
    ("create,update,patch,delete", "apps", "deployments", false),
    ("create,update,patch,delete", "apps", "statefulsets", false),
    ("create,update,patch,delete", "apps", "daemonsets", false),
];

#[tokio::test]
async fn the_roles_of_deploy_allow_what_the_operator_needs_and_nothing_that_leads_to_more() {
    let control_plane = control_plane().await;
    let client = control_plane.client_for_service_account("prefect-sync", "prefect-sync").await;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    for (verbs, group, resource, expected) in TABLE {
        for verb in verbs.split(',') {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let attributes = ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some((*group).to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(subresource.to_owned()),
                namespace: Some("default".to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let answer = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
            assert_eq!(answer.allowed, *expected, "{verb} {group} {resource}/{subresource}");
        }
    }
    // And the other way round: all that is granted stands in the table.
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client);
    let spec = SelfSubjectRulesReviewSpec { namespace: Some("default".into()) };
    let review = SelfSubjectRulesReview { spec, ..Default::default() };
    let rules = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().resource_rules;
    let granted: BTreeSet<(String, String, String)> = rules
        .iter()
        .flat_map(|rule| {
            let groups = rule.api_groups.clone().unwrap_or_default();
            let resources = rule.resources.clone().unwrap_or_default();
            let verbs = rule.verbs.clone();
            groups.into_iter().flat_map(move |group| {
                let (resources, verbs) = (resources.clone(), verbs.clone());
                resources.into_iter().flat_map(move |resource| {
                    let group = group.clone();
                    verbs.clone().into_iter().map(move |verb| (verb, group.clone(), resource.clone()))
                })
            })
        })
        // Asking about oneself is everyone's.
        .filter(|(_, group, _)| !matches!(group.as_str(), "authorization.k8s.io" | "authentication.k8s.io"))
        .collect();
    let table: BTreeSet<(String, String, String)> = TABLE
        .iter()
        .filter(|(.., expected)| *expected)
        .flat_map(|(verbs, group, resource, _)| {
            verbs.split(',').map(|verb| (verb.to_owned(), (*group).to_owned(), (*resource).to_owned()))
        })
        .collect();
    assert_eq!(granted, table);
}

#[tokio::test]
async fn the_admission_policy_binds_the_operators_own_account() {
    let control_plane = control_plane().await;
    let namespace = control_plane.namespace("policy").await;
    let admin = control_plane.admin().await;
    let operator = control_plane.client_for_service_account("prefect-sync", "prefect-sync").await;
    let (theirs, ours): (Api<Secret>, Api<Secret>) =
        (Api::namespaced(admin, &namespace), Api::namespaced(operator, &namespace));
    let secret = |name: &str, labels: Value, annotations: Value, secret_type: &str| -> Secret {
        let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "type": secret_type})).unwrap()
    };
    let label = json!({"prefect-sync.dev/owned-by": "PrefectSecret"});
    let owner = json!({"prefect-sync.dev/owner": "PrefectSecret/x"});
    let own = |more: Value| {
        let mut annotations = owner.clone();
        annotations.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        annotations
    };
    let parameters = PostParams::default();
    let refused = |result: Result<Secret, kube::Error>, words: &str| match result {
        Err(kube::Error::Api(status)) => assert!(status.message.contains(words), "{}", status.message),
        other => panic!("not refused for {words:?}: {other:?}"),
    };
    // The policy takes a moment to be in force.
    eventually("the policy", SOON, async || {
        match ours
            .create(&PostParams { dry_run: true, ..parameters.clone() }, &secret("x", json!({}), json!({}), "Opaque"))
            .await
        {
            Err(kube::Error::Api(status)) if status.message.contains("creates its own targets only") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let token = own(json!({"kubernetes.io/service-account.name": "default"}));
    let token = secret("token", label.clone(), token, "kubernetes.io/service-account-token");
    refused(ours.create(&parameters, &token).await, "gives power over the cluster");
    let bootstrap = secret("bootstrap", label.clone(), owner.clone(), "bootstrap.kubernetes.io/token");
    refused(ours.create(&parameters, &bootstrap).await, "gives power over the cluster");
    let release = secret("release", label.clone(), owner.clone(), "helm.sh/release.v1");
    refused(ours.create(&parameters, &release).await, "gives power over the cluster");
    let helm = json!({"prefect-sync.dev/owned-by": "PrefectSecret", "owner": "helm"});
    refused(ours.create(&parameters, &secret("helm", helm, owner.clone(), "Opaque")).await, "takes for a release");
    let steers = own(json!({"control-plane.alpha.kubernetes.io/leader": "x"}));
    refused(ours.create(&parameters, &secret("steers", label.clone(), steers, "Opaque")).await, "steer controllers");
    let argo = json!({"prefect-sync.dev/owned-by": "PrefectSecret", "argocd.argoproj.io/secret-type": "cluster"});
    refused(ours.create(&parameters, &secret("argo", argo, owner.clone(), "Opaque")).await, "steer controllers");
    ours.create(&parameters, &secret("mine", label.clone(), owner.clone(), "Opaque")).await.unwrap();
    // What is others' stays theirs, but where it accepts us.
    theirs.create(&parameters, &secret("foreign", json!({}), json!({}), "Opaque")).await.unwrap();
    let accepts = json!({"prefect-sync.dev/accepts": "PrefectSecret/x"});
    theirs.create(&parameters, &secret("accepting", json!({}), accepts, "Opaque")).await.unwrap();
    let data = Patch::Merge(json!({"stringData": {"A": "1"}}));
    let patch = PatchParams::default();
    refused(ours.patch("foreign", &patch, &data).await, "changes only its own targets");
    ours.patch("accepting", &patch, &data).await.unwrap();
    ours.patch("mine", &patch, &data).await.unwrap();
    for (name, may) in [("foreign", false), ("accepting", false), ("mine", true)] {
        let deleted = ours.delete(name, &DeleteParams::default()).await;
        assert_eq!(deleted.is_ok(), may, "deleting {name}: {deleted:?}");
    }
    // Nobody else is bound.
    theirs.delete("foreign", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn the_operator_cannot_change_what_users_wrote() {
    let world = World::with_prefect("specs").await;
    let client = control_plane().await.client_for_service_account("prefect-sync", "prefect-sync").await;
    let resource = kube::core::ApiResource::erase::<prefect_sync::api::PrefectWorkspace>(&());
    let api: Api<kube::api::DynamicObject> = Api::namespaced_with(client, &world.namespace, &resource);
    let before = world.eventually_reason("PrefectWorkspace", "default", "Connected").await;
    let spec = json!({"spec": {"refreshInterval": "1h"}});
    let refused = api.patch("default", &PatchParams::default(), &Patch::Merge(&spec)).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_forbidden()), "{refused}");
    // Through the door that is open to it, a spec does not pass either.
    api.patch_status("default", &PatchParams::default(), &Patch::Merge(&spec)).await.unwrap();
    assert_eq!(world.get("PrefectWorkspace", "default").await["spec"]["refreshInterval"], "1s");
    assert_eq!(world.ready("PrefectWorkspace", "default").await.unwrap(), before);
}

/// A workspace `name` that leads to `url` with the API key of the Secret `key`.
async fn workspace_with_key(world: &World, name: &str, url: &str) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "labels": {"prefect-sync.dev/offer": "workspace"}},
        "stringData": {"key": "pnu_sesame"}});
    let spec = json!({"api": {"url": url, "apiKey": {"secretKeyRef": {"name": "key"}}}, "refreshInterval": "1s"});
    let workspace = object("PrefectWorkspace", name, spec);
    world.apply(&format!("{secret}\n---\n{workspace}")).await;
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_host_that_is_not_allowed_hears_nothing() {
    let allowed = Proxy::start(prefect().await.url()).await;
    let forbidden = Proxy::start(prefect().await.url()).await;
    let hosts = format!("api.prefect.cloud,*.example.com,{}", allowed.host());
    let world = World::with_args("hosts", &["--allowed-api-hosts", &hosts]).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    workspace_with_key(&world, "default", &forbidden.url()).await;
    let spec = json!({"data": [{"secretKey": "A", "remoteRef": {"key": key}}]});
    world.apply(&object("PrefectSecret", "etl", spec).to_string()).await;
    let message = format!(
        "spec.api.url leads to {}, and this operator may only call api.prefect.cloud, *.example.com, {}; use one of them, or have it allowed (--allowed-api-hosts)",
        forbidden.host(),
        allowed.host()
    );
    let object = world.eventually_reason("PrefectSecret", "etl", "HostNotAllowed").await;
    assert_eq!(object.message, format!("{message}. The target is not written until this is solved"));
    let ready = world.eventually_reason("PrefectWorkspace", "default", "HostNotAllowed").await;
    assert!(ready.message.starts_with(&message), "{}", ready.message);
    // An allowed one is asked, and the forbidden one was not meanwhile.
    workspace_with_key(&world, "default", &allowed.url()).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    assert!(!allowed.requests().is_empty());
    assert_eq!(forbidden.requests(), [""; 0]);
}

#[tokio::test]
async fn redirects_are_not_followed_so_credentials_stay_with_the_host_they_are_for() {
    let world = World::new("redirect").await;
    let elsewhere = Proxy::start(prefect().await.url()).await;
    let first = Proxy::start(prefect().await.url()).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    let spec = json!({"data": [{"secretKey": "A", "remoteRef": {"key": key}}]});
    world.apply(&object("PrefectSecret", "etl", spec).to_string()).await;
    for status in [301, 302, 303, 307, 308] {
        first.set(Mode::Answer(status, vec![("location", elsewhere.url())], String::new()));
        // Another state of the workspace begins anew.
        workspace_with_key(&world, "default", &format!("{}/?{status}", first.url())).await;
        let before = first.requests().len();
        let ready = world.eventually_reason("PrefectWorkspace", "default", "NotPrefectApi").await;
        let message = format!(
            "{} answered, but not as Prefect's API; is spec.api.url what PREFECT_API_URL holds (status.apiUrl is what was asked), and is no login page in between? Not ready since ",
            first.host()
        );
        assert!(ready.message.starts_with(&message), "{}", ready.message);
        crate::support::eventually("to be asked again", crate::fixture::SOON, async || {
            if first.requests().len() > before { Ok(()) } else { Err(String::new()) }
        })
        .await;
    }
    first.set(Mode::Pass);
    world.eventually_secret("etl", &[("A", "one")]).await;
    assert_eq!(elsewhere.requests(), [""; 0]);
}
