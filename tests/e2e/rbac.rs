//! The operator's roles are what it uses and nothing else, as the API server's own authorizer says.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, operator_options, prefect, psec, root, whole_cluster};
use crate::support::{Operator, eventually, tools};

const OURS: &str = "prefect-sync.dev";

/// What the operator asks of the API server in the whole cluster: group, resource, verbs.
const USES: [(&str, &str, &[&str]); 11] = [
    (OURS, "prefectworkspaces", &["get", "list", "watch"]),
    (OURS, "prefectsecrets", &["get", "list", "watch"]),
    (OURS, "prefectkvs", &["get", "list", "watch"]),
    (OURS, "prefectworkspaces/status", &["patch"]),
    (OURS, "prefectsecrets/status", &["patch"]),
    (OURS, "prefectkvs/status", &["patch"]),
    // Not asked for by itself: clusters that check owner references want it of whoever sets one.
    (OURS, "prefectsecrets/finalizers", &["update"]),
    (OURS, "prefectkvs/finalizers", &["update"]),
    ("", "secrets", &["get", "list", "watch", "create", "update", "patch", "delete"]),
    ("", "configmaps", &["get", "list", "watch", "create", "update", "patch", "delete"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

/// The same, of what belongs to no namespace.
const USES_OF_CLUSTER: [(&str, &str, &[&str]); 3] = [
    (OURS, "clusterprefectworkspaces", &["get", "list", "watch"]),
    (OURS, "clusterprefectworkspaces/status", &["patch"]),
    ("", "namespaces", &["list", "watch"]),
];

/// What would let it, or whoever has taken it over, do more than it is for.
const MUST_NOT: [(&str, &str, &[&str]); 20] = [
    (OURS, "prefectsecrets", &["create", "update", "patch", "delete", "deletecollection"]),
    (OURS, "prefectworkspaces", &["create", "update", "patch", "delete", "deletecollection"]),
    (OURS, "clusterprefectworkspaces", &["create", "update", "patch", "delete", "deletecollection"]),
    ("", "secrets", &["deletecollection"]),
    ("", "configmaps", &["deletecollection"]),
    ("", "namespaces", &["get", "create", "update", "patch", "delete"]),
    ("", "pods", &["get", "list", "watch", "create", "delete"]),
    ("", "pods/exec", &["create", "get"]),
    ("", "pods/log", &["get"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("", "serviceaccounts", &["get", "list", "create", "impersonate"]),
    ("", "serviceaccounts/token", &["create"]),
    ("", "users", &["impersonate"]),
    ("apps", "deployments", &["get", "list", "watch", "create", "update", "patch", "delete"]),
    ("batch", "jobs", &["create", "patch"]),
    ("rbac.authorization.k8s.io", "clusterroles", &["get", "create", "update", "patch", "bind", "escalate"]),
    ("rbac.authorization.k8s.io", "rolebindings", &["create", "update", "patch"]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", &["get", "update", "patch", "delete"]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &["get", "create", "update", "patch", "delete"]),
    ("coordination.k8s.io", "leases", &["list", "watch", "update", "patch", "delete"]),
];

struct Asked<'a> {
    client: &'a kube::Client,
    user: String,
}

impl Asked<'_> {
    /// Whether it may; `namespace` empty means in all of them, or of the cluster itself.
    async fn may(&self, verb: &str, (group, resource): (&str, &str), namespace: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.user.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: some(verb),
                    group: some(group),
                    resource: some(resource),
                    subresource: some(subresource),
                    namespace: some(namespace),
                    name: some(name),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    }

    /// What of a list it may not, or may.
    async fn those(&self, list: &[(&str, &str, &[&str])], namespace: &str, allowed: bool) -> Vec<String> {
        let mut found = Vec::new();
        for (group, resource, verbs) in list {
            for verb in *verbs {
                if self.may(verb, (group, resource), namespace, "").await == allowed {
                    found.push(format!("{verb} {resource}.{group} in {namespace:?}"));
                }
            }
        }
        found
    }
}

fn subject(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// Every verb on every resource that roles of this kind grant.
fn granted(documents: &[Value], kind: &str) -> BTreeSet<(String, String, String)> {
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let roles = documents.iter().filter(|document| document["kind"] == kind);
    let rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                all.extend(strings(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    all
}

fn listed(list: &[(&str, &str, &[&str])]) -> BTreeSet<(String, String, String)> {
    let each = list.iter().flat_map(|(group, resource, verbs)| verbs.iter().map(move |verb| (group, resource, verb)));
    each.map(|(group, resource, verb)| (group.to_string(), resource.to_string(), verb.to_string())).collect()
}

#[tokio::test]
async fn the_roles_are_what_the_operator_uses_and_nothing_else() {
    let cluster = &whole_cluster().await.control_plane;
    let client = cluster.admin().await;
    let asked = Asked { client: &client, user: subject("prefect-sync", "prefect-sync") };
    let anywhere = cluster.namespace("anywhere").await;
    for namespace in ["", &anywhere] {
        let missing = asked.those(&USES, namespace, false).await;
        assert!(missing.is_empty(), "it may not {missing:#?}");
        let too_much = asked.those(&MUST_NOT, namespace, true).await;
        assert!(too_much.is_empty(), "it may {too_much:#?}");
    }
    let missing = asked.those(&USES_OF_CLUSTER, "", false).await;
    assert!(missing.is_empty(), "it may not {missing:#?}");
    // Its Lease, by name, and no other.
    for (verb, namespace, name, expected) in [
        ("create", "prefect-sync", "", true),
        ("get", "prefect-sync", "prefect-sync", true),
        ("watch", "prefect-sync", "prefect-sync", true),
        ("update", "prefect-sync", "prefect-sync", true),
        ("update", "prefect-sync", "another", false),
        ("delete", "prefect-sync", "prefect-sync", false),
        ("update", "kube-system", "prefect-sync", false),
        ("create", "kube-system", "", false),
    ] {
        let may = asked.may(verb, ("coordination.k8s.io", "leases"), namespace, name).await;
        assert_eq!(may, expected, "{verb} Lease {namespace}/{name}");
    }
    // And the other way round: nothing is granted that is not in the lists above.
    let manifest = documents(&std::fs::read_to_string(root().join("deploy/manifests/10-rbac.yaml")).unwrap());
    let used: BTreeSet<_> = listed(&USES).union(&listed(&USES_OF_CLUSTER)).cloned().collect();
    assert_eq!(granted(&manifest, "ClusterRole"), used);
    let leases: &[(&str, &str, &[&str])] =
        &[("coordination.k8s.io", "leases", &["create", "get", "list", "watch", "update"])];
    assert_eq!(granted(&manifest, "Role"), listed(leases));
    let restarts =
        documents(&std::fs::read_to_string(root().join("deploy/manifests-optional/11-restarts.yaml")).unwrap());
    let workloads: &[(&str, &str, &[&str])] = &[
        ("apps", "deployments", &["patch"]),
        ("apps", "statefulsets", &["patch"]),
        ("apps", "daemonsets", &["patch"]),
    ];
    assert_eq!(granted(&restarts, "ClusterRole"), listed(workloads));
}

/// The chart, limited to two namespaces, as it is rendered.
fn limited_chart(release: &str, namespace: &str, namespaces: &str) -> String {
    let mut command = Command::new(tools::helm());
    command.args(["template", release, "deploy/helm/prefect-sync", "--namespace", namespace]).current_dir(root());
    // The CRDs are there, and the policy of one release is enough to look at.
    command.args(["--set", &format!("namespaces={{{namespaces}}},crds.install=false,admissionPolicy.enabled=false")]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn limited_to_namespaces_it_has_no_right_in_the_cluster_and_needs_none() {
    let cluster = control_plane().await;
    let (home, one, two) =
        (cluster.namespace("home").await, cluster.namespace("one").await, cluster.namespace("two").await);
    let elsewhere = cluster.namespace("elsewhere").await;
    let rendered = limited_chart("limited", &home, &format!("{one},{two}"));
    let kinds: BTreeSet<String> =
        documents(&rendered).iter().map(|document| document["kind"].as_str().unwrap().to_owned()).collect();
    assert!(!kinds.iter().any(|kind| kind.starts_with("Cluster")), "{kinds:?}");
    let file = cluster.logs().join(format!("{home}.yaml"));
    std::fs::write(&file, rendered).unwrap();
    cluster.kubectl_ok(&["apply", "-f", &file.display().to_string()]);

    let client = cluster.admin().await;
    // The name that the chart gives it.
    let account = "limited-prefect-sync";
    let asked = Asked { client: &client, user: subject(&home, account) };
    for namespace in [&one, &two] {
        // The API server's authorizer learns of it by a watch.
        eventually("all that it needs", SOON, async || match asked.those(&USES, namespace, false).await {
            missing if missing.is_empty() => Ok(()),
            missing => Err(format!("it may not {missing:#?}")),
        })
        .await;
    }
    for namespace in ["", &elsewhere, &home, "kube-system"] {
        let too_much = asked.those(&USES, namespace, true).await;
        assert!(too_much.is_empty(), "it may {too_much:#?}");
    }
    let too_much = asked.those(&USES_OF_CLUSTER, "", true).await;
    assert!(too_much.is_empty(), "it may {too_much:#?}");

    // With these rights and no others it works.
    let kubeconfig = cluster.kubeconfig_for_service_account(&home, account).await;
    let namespaces = format!("{one},{two}");
    let args = ["--namespaces", &namespaces, "--leader-elect", "--lease-namespace", &home, "--lease-name", account];
    let binary = Path::new(env!("CARGO_BIN_EXE_prefect-sync"));
    let operator = Operator::start(binary, &operator_options(kubeconfig, &args));
    for namespace in [one, two] {
        let world = World::in_namespace(namespace, client.clone());
        let key = world.name("key");
        prefect().await.set_secret(&key, json!("v")).await;
        world.workspace(prefect().await.url()).await;
        world.apply(&psec("one", json!({"data": [{"secretKey": "V", "remoteRef": {"key": key}}]}))).await;
        eventually("the Secret of a namespace that it is limited to", SOON, async || {
            match world.secret_data("one").await {
                Some(data) if data["V"] == "v" => Ok(()),
                other => Err(format!("{other:?}\n{}", operator.log())),
            }
        })
        .await;
    }
    let log = operator.log();
    assert!(!log.contains("forbidden") && !log.contains("answered 403"), "{log}");
}
