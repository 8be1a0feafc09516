//! What the chart renders: a matrix of values, each accepted by the API server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{
    CHART, Helm, TEAMS, documents, everything, find, new_control_plane, quiet, restricted_namespace, root, succeeded,
};
use crate::support::{Scratch, eventually};

/// The kinds of a set of objects.
fn kinds(objects: &[Value]) -> BTreeSet<&str> {
    objects.iter().map(|object| object["kind"].as_str().expect("kind")).collect()
}

/// The operator's pods.
fn pod(objects: &[Value]) -> &Value {
    &find(objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"]
}

/// The operator's container.
fn container(objects: &[Value]) -> &Value {
    &pod(objects)["containers"][0]
}

/// A variable of the operator's container.
fn variable<'a>(objects: &'a [Value], name: &str) -> Option<&'a str> {
    let variables = container(objects)["env"].as_array().expect("env");
    variables.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

fn args(objects: &[Value]) -> Vec<&str> {
    container(objects)["args"].as_array().expect("args").iter().map(|arg| arg.as_str().expect("text")).collect()
}

#[test]
fn helm_lints_the_chart_strictly() {
    let helm = Helm::offline();
    for values in [json!({}), everything(), json!({"namespaces": TEAMS})] {
        helm.ok(&["lint", "--strict", CHART, "--values", &helm.values(&values)]);
    }
}

#[test]
fn the_charts_version_is_the_operators() {
    let chart: Value = serde_saphyr::from_str(&crate::fixture::chart_file("Chart.yaml")).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// A set of values, and what its objects must be like.
type Case = (&'static str, Value, fn(&[Value]));

const CASES: &[fn() -> Case] = &[
    || {
        ("default", json!({}), |objects| {
            let expected = [
                "ClusterRole",
                "ClusterRoleBinding",
                "CustomResourceDefinition",
                "Deployment",
                "PodDisruptionBudget",
                "Role",
                "RoleBinding",
                "Service",
                "ServiceAccount",
                "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding",
            ];
            assert_eq!(kinds(objects), BTreeSet::from(expected));
            assert_eq!(find(objects, "Deployment").unwrap()["spec"]["replicas"], 2);
            assert_eq!(args(objects), ["run", "--leader-elect", "--lease-name=prefect-sync"]);
            let resources = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
            assert_eq!(container(objects)["resources"], resources);
            assert_eq!(container(objects)["image"], concat!("localhost/prefect-sync:", env!("CARGO_PKG_VERSION")));
            assert_eq!(variable(objects, "MALLOC_ARENA_MAX"), Some("1"));
            let context = json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"}});
            assert_eq!(pod(objects)["securityContext"], context);
            assert_eq!(pod(objects)["terminationGracePeriodSeconds"], 30);
            for absent in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
                assert_eq!(variable(objects, absent), None);
            }
            // The replicas avoid each other, and only each other.
            let spread = &pod(objects)["topologySpreadConstraints"][0];
            assert_eq!(spread["topologyKey"], "kubernetes.io/hostname");
            let selector = &find(objects, "Deployment").unwrap()["spec"]["selector"];
            assert_eq!(spread["labelSelector"], *selector);
            // Restarts are asked for, not given.
            assert!(!json!(objects).to_string().contains("deployments"));
        })
    },
    || {
        ("everything", everything(), |objects| {
            let kinds = kinds(objects);
            for kind in ["ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy", "PrefectWorkspace"] {
                assert!(kinds.contains(kind), "no {kind}");
            }
            assert_eq!(container(objects)["image"], format!("localhost/prefect-sync@sha256:{}", "0".repeat(64)));
            let hosts = "--allowed-api-hosts=api.prefect.cloud,*.example.com,prefect-server.prefect.svc:4200";
            assert!(args(objects).contains(&hosts));
            assert_eq!(args(objects).last(), Some(&"--lease-namespace=default"));
            assert_eq!(pod(objects)["priorityClassName"], "system-cluster-critical");
            let budget = &find(objects, "PodDisruptionBudget").unwrap()["spec"];
            assert_eq!((&budget["minAvailable"], &budget["maxUnavailable"]), (&json!("50%"), &Value::Null));
            let labels = &find(objects, "Deployment").unwrap()["spec"]["template"]["metadata"]["labels"];
            assert_eq!(labels["example.com/tier"], "platform");
            let rules = &find(objects, "PrometheusRule").unwrap()["spec"]["groups"][0]["rules"];
            for rule in rules.as_array().unwrap() {
                assert_eq!(rule["labels"]["team"], "platform", "{rule}");
                let url = rule["annotations"]["runbook_url"].as_str().unwrap();
                assert!(url.starts_with("https://runbooks.example.com/prefect-sync#prefectsync"), "{url}");
            }
        })
    },
    || {
        let workspace = json!({"enabled": true, "namespace": "team-b", "spec": {"api": {"url": "http://p/api"}}});
        let values = json!({"namespaces": TEAMS, "restarts": {"enabled": true}, "defaultWorkspace": workspace});
        ("limited to namespaces", values, |objects| {
            for object in objects {
                let kind = object["kind"].as_str().unwrap();
                assert!(!kind.starts_with("Cluster"), "{kind}");
            }
            let places = |kind: &str, name: &str| -> Vec<&str> {
                let named = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
                let places = objects.iter().filter(named);
                places.map(|object| object["metadata"]["namespace"].as_str().unwrap()).collect()
            };
            for purpose in ["objects", "targets", "restarts"] {
                // Users' roles would be the cluster's, too: there are none, as the loop above has seen.
                let name = format!("prefect-sync-{purpose}");
                assert_eq!((places("Role", &name), places("RoleBinding", &name)), (TEAMS.into(), TEAMS.into()));
            }
            // Nothing of the cluster's is even named.
            let roles: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Role").collect();
            let rules = json!(roles).to_string();
            assert!(!rules.contains("\"namespaces\"") && !rules.contains("clusterprefectworkspaces"), "{rules}");
            assert!(args(objects).contains(&"--namespaces=team-a,team-b"));
            // The one thing of the cluster's is named such that no other namespace's can be named so.
            let policy = &find(objects, "ValidatingAdmissionPolicy").unwrap()["metadata"]["name"];
            assert!(policy.as_str().unwrap().ends_with(".prefect-sync"), "{policy}");
            assert_eq!(find(objects, "ValidatingAdmissionPolicyBinding").unwrap()["spec"]["policyName"], *policy);
            assert_eq!(find(objects, "PrefectWorkspace").unwrap()["metadata"]["namespace"], "team-b");
        })
    },
    || {
        let egress = json!({"restricted": true});
        ("restricted network", json!({"networkPolicy": {"enabled": true, "egress": egress}}), |objects| {
            let policy = &find(objects, "NetworkPolicy").unwrap()["spec"];
            assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
            assert_eq!(policy["ingress"], json!([{"ports": [{"port": "health", "protocol": "TCP"}]}]));
            let allowed = policy["egress"].as_array().unwrap();
            let ports: Vec<Vec<&Value>> = allowed
                .iter()
                .map(|rule| rule["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect())
                .collect();
            assert_eq!(json!(ports), json!([[53, 53], [443, 6443], [443, 4200]]));
        })
    },
    || {
        let values = json!({"restarts": {"enabled": true, "namespaces": TEAMS},
            "networkPolicy": {"enabled": true, "egress": {"restricted": true, "dns": {"ports": [5353]}}}});
        ("restarts in some namespaces", values, |objects| {
            let of_restarts = |object: &&Value| object["metadata"]["name"] == "prefect-sync-restarts";
            let places: Vec<[&str; 2]> = objects
                .iter()
                .filter(of_restarts)
                .map(|object| [object["kind"].as_str().unwrap(), object["metadata"]["namespace"].as_str().unwrap()])
                .collect();
            let mut expected: Vec<[&str; 2]> =
                TEAMS.iter().flat_map(|team| [["Role", *team], ["RoleBinding", *team]]).collect();
            let mut found = places;
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected);
            // Its other roles are the cluster's.
            assert!(objects.iter().any(|object| object["kind"] == "ClusterRole"));
            let policy = &find(objects, "NetworkPolicy").unwrap()["spec"];
            assert_eq!(policy["egress"][0]["ports"][0]["port"], 5353);
        })
    },
    || {
        ("open network", json!({"networkPolicy": {"enabled": true}}), |objects| {
            let policy = &find(objects, "NetworkPolicy").unwrap()["spec"];
            assert_eq!((&policy["policyTypes"], &policy["egress"]), (&json!(["Ingress"]), &Value::Null));
        })
    },
    || {
        let values = json!({"proxy": {"https": "http://proxy.example.com:3128"},
            "caBundle": {"secret": "corp-tls", "key": "ca.pem"}});
        ("proxy and authority", values, |objects| {
            assert_eq!(variable(objects, "HTTPS_PROXY"), Some("http://proxy.example.com:3128"));
            assert_eq!(variable(objects, "HTTP_PROXY"), None);
            // Services of the cluster are not asked for through it.
            assert_eq!(variable(objects, "NO_PROXY"), Some("localhost,127.0.0.1,.svc,.cluster.local"));
            // The public authorities stay trusted, and of the Secret only the certificates are mounted.
            assert_eq!(variable(objects, "SSL_CERT_FILE"), Some("/etc/ssl/certs/ca-certificates.crt"));
            let mount = &container(objects)["volumeMounts"][0];
            assert_eq!(variable(objects, "SSL_CERT_DIR"), mount["mountPath"].as_str());
            let items = json!([{"key": "ca.pem", "path": "ca.crt"}]);
            assert_eq!(
                pod(objects)["volumes"],
                json!([{"name": "ca", "secret": {"secretName": "corp-tls", "items": items}}])
            );
        })
    },
    || {
        let values = json!({"replicaCount": 1, "podDisruptionBudget": {"enabled": false},
            "topologySpreadConstraints": [], "metricsService": {"enabled": false}});
        ("single replica", values, |objects| {
            assert_eq!(find(objects, "Deployment").unwrap()["spec"]["replicas"], 1);
            assert!(find(objects, "PodDisruptionBudget").is_none() && find(objects, "Service").is_none());
            assert_eq!(pod(objects)["topologySpreadConstraints"], Value::Null);
            // An update runs two for a moment.
            assert!(args(objects).contains(&"--leader-elect"));
        })
    },
    || {
        let values = json!({"serviceAccount": {"create": false, "name": "theirs"}, "fullnameOverride": "sync"});
        ("own service account", values, |objects| {
            assert!(find(objects, "ServiceAccount").is_none());
            assert_eq!(pod(objects)["serviceAccountName"], "theirs");
            let bindings = objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding"));
            assert!(bindings.clone().count() > 3);
            for binding in bindings {
                assert_eq!(binding["subjects"][0]["name"], "theirs", "{binding}");
            }
            let policy = find(objects, "ValidatingAdmissionPolicy").unwrap();
            let operator = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
            assert!(operator.ends_with(":theirs'"), "{operator}");
            assert!(args(objects).contains(&"--lease-name=sync"));
        })
    },
    || {
        let values = json!({"rbac": {"create": false}, "serviceAccount": {"create": false, "name": "default"},
            "crds": {"install": false}, "admissionPolicy": {"enabled": false}});
        ("as little as can be", values, |objects| {
            let expected = ["Deployment", "PodDisruptionBudget", "Service"];
            assert_eq!(kinds(objects), BTreeSet::from(expected));
            assert_eq!(pod(objects)["serviceAccountName"], "default");
        })
    },
    || {
        let values = json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null, "fsGroup": null},
            "securityContext": {"readOnlyRootFilesystem": null}, "terminationGracePeriodSeconds": 60,
            "rbac": {"aggregateToEdit": false}});
        ("users that the cluster chooses", values, |objects| {
            let context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
            assert_eq!(pod(objects)["securityContext"], context);
            let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
            assert_eq!(container(objects)["securityContext"], context);
            assert_eq!(pod(objects)["terminationGracePeriodSeconds"], 60);
            let roles: Vec<&Value> = objects.iter().map(|object| &object["metadata"]["name"]).collect();
            assert!(roles.contains(&&json!("prefect-sync-view")) && !roles.contains(&&json!("prefect-sync-edit")));
        })
    },
    || {
        let values = json!({"omitUserAndGroups": true, "securityContext": {"runAsUser": 1, "runAsGroup": 1}});
        ("users that OpenShift chooses", values, |objects| {
            let contexts = json!([pod(objects)["securityContext"], container(objects)["securityContext"]]).to_string();
            assert!(!["runAsUser", "runAsGroup", "fsGroup"].iter().any(|field| contexts.contains(field)), "{contexts}");
            assert_eq!(pod(objects)["securityContext"]["runAsNonRoot"], true);
        })
    },
    || {
        let variables = [
            "PREFECT_SYNC_LOG",
            "PREFECT_SYNC_LOG_FORMAT",
            "PREFECT_SYNC_IDENTITY",
            "MALLOC_ARENA_MAX",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ];
        let own: Vec<Value> = variables.iter().map(|name| json!({"name": name, "value": "mine"})).collect();
        let proxy = "http://proxy.example.com:3128";
        let values = json!({"extraEnv": own, "proxy": {"http": proxy, "https": proxy}, "caBundle": {"secret": "ca"},
            "podLabels": {"app.kubernetes.io/name": "another"}});
        ("the chart's own names given otherwise", values, |objects| {
            let all = container(objects)["env"].as_array().unwrap();
            assert!(all.len() == 9 && all.iter().all(|variable| variable["value"] == "mine"), "{all:?}");
            let deployment = &find(objects, "Deployment").unwrap()["spec"];
            assert_eq!(deployment["template"]["metadata"]["labels"], deployment["selector"]["matchLabels"]);
        })
    },
    || {
        let spec = json!({"api": {"url": "http://p/api"}, "access": [{"namespaces": ["team-a"], "keys": ["*"]}]});
        let workspace = json!({"enabled": true, "kind": "ClusterPrefectWorkspace", "spec": spec});
        ("a workspace for many", json!({"defaultWorkspace": workspace, "crds": {"keep": false}}), |objects| {
            let metadata = &find(objects, "ClusterPrefectWorkspace").unwrap()["metadata"];
            assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("default"), &Value::Null));
            assert_eq!(metadata["annotations"]["helm.sh/resource-policy"], "keep");
            let crds = objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition");
            assert!(crds.clone().all(|crd| crd["metadata"]["annotations"] == Value::Null) && crds.count() == 4);
        })
    },
];

#[tokio::test]
async fn the_api_server_accepts_every_set_of_values_without_a_warning() {
    let control_plane = &new_control_plane().await;
    let helm = Helm::offline();
    let namespace = restricted_namespace(control_plane, "matrix").await;
    for case in CASES {
        let (name, values, check) = case();
        eprintln!("values: {name}");
        let rendered = helm.template("prefect-sync", &namespace, &values);
        let objects = documents(&rendered);
        check(&objects);
        for object in &objects {
            let labels = &object["metadata"]["labels"];
            let of_release = [&labels["app.kubernetes.io/instance"], &labels["app.kubernetes.io/managed-by"]];
            assert_eq!(of_release, ["prefect-sync", "Helm"], "{name}: {object}");
        }
        // The CRDs are there already, by another hand; a test of the life cycle changes them.
        let rest = helm.write("rendered", "yaml", &without_crds(&rendered));
        quiet(control_plane, &["apply", "--dry-run=server", "--validate=strict", "-f", &rest]);
        if find(&objects, "Deployment").is_some() {
            // As a Pod in earnest: for a Deployment the namespace's level is but a warning.
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace},
                "spec": pod(&objects)});
            // The account is what the release would have made.
            let mut pod = pod;
            pod["spec"]["serviceAccountName"] = json!("default");
            let file = helm.write("pod", "json", &pod.to_string());
            quiet(control_plane, &["create", "--dry-run=server", "--validate=strict", "-f", &file]);
        }
    }
}

#[tokio::test]
async fn names_that_yaml_takes_for_something_else_stay_names() {
    let control_plane = &new_control_plane().await;
    let helm = Helm::offline();
    for namespace in ["2024", "1e3"] {
        control_plane.kubectl_ok(&["create", "namespace", namespace]);
    }
    for names in [
        json!({"nameOverride": "y", "fullnameOverride": "n", "namespaces": ["2024", "1e3"]}),
        json!({"fullnameOverride": "no", "serviceAccount": {"create": false, "name": "0x1"}, "priorityClassName": "1e3",
            "caBundle": {"configMap": "010"}}),
        json!({"fullnameOverride": "null", "caBundle": {"secret": "0b1"}}),
    ] {
        let mut values = everything();
        values.as_object_mut().unwrap().remove("caBundle");
        values.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
        values["defaultWorkspace"]["namespace"] = json!("2024");
        let rendered = helm.template("1e3", "2024", &values);
        assert!(documents(&rendered).iter().all(|object| object["metadata"]["name"].is_string()), "{rendered}");
        let rest = helm.write("rendered", "yaml", &without_crds(&rendered));
        quiet(control_plane, &["apply", "--dry-run=server", "--validate=strict", "-f", &rest]);
    }
}

#[tokio::test]
async fn users_of_a_namespace_have_its_objects_by_the_roles_that_kubernetes_has() {
    let control_plane = &new_control_plane().await;
    control_plane.kubectl_ok(&["create", "namespace", "prefect-sync"]);
    control_plane.kubectl_ok(&["apply", "-f", "deploy/manifests/13-user-roles.yaml"]);
    for role in ["view", "edit", "admin"] {
        let user = format!("--user={role}er");
        control_plane.kubectl_ok(&["create", "rolebinding", role, "--clusterrole", role, &user, "-n", TEAMS[0]]);
    }
    let may = |user: &str, verb: &str, resource: &str| {
        let resource = format!("{resource}.prefect-sync.dev");
        let output = control_plane.kubectl(&["auth", "can-i", verb, &resource, "--as", user, "-n", TEAMS[0]]);
        String::from_utf8_lossy(&output.stdout).trim() == "yes"
    };
    // The controller manager puts the rules into Kubernetes' roles.
    eventually("the roles to be aggregated", Duration::from_secs(60), async || {
        let both = may("viewer", "get", "prefectsecrets") && may("adminer", "create", "prefectsecrets");
        if both { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    for user in ["viewer", "editer", "adminer"] {
        for resource in ["prefectsecrets", "prefectkvs", "prefectworkspaces"] {
            for verb in ["get", "list", "watch"] {
                assert!(may(user, verb, resource), "{user} may not {verb} {resource}");
            }
            for verb in ["create", "update", "patch", "delete"] {
                let expected = user != "viewer" && resource != "prefectworkspaces";
                assert_eq!(may(user, verb, resource), expected, "{user}: {verb} {resource}");
            }
        }
    }
}

fn without_crds(rendered: &str) -> String {
    let others = rendered.split("\n---\n").filter(|text| !text.contains("\nkind: CustomResourceDefinition\n"));
    others.collect::<Vec<_>>().join("\n---\n")
}

#[tokio::test]
async fn the_charts_crds_are_those_of_the_operator() {
    let rendered = Helm::offline().template("prefect-sync", "prefect-sync", &json!({}));
    let mut crds: Vec<Value> =
        documents(&rendered).into_iter().filter(|object| object["kind"] == "CustomResourceDefinition").collect();
    assert_eq!(crds.len(), 4);
    for crd in &mut crds {
        let metadata = crd["metadata"].as_object_mut().unwrap();
        let annotations = metadata.remove("annotations");
        assert_eq!(annotations, Some(json!({"helm.sh/resource-policy": "keep"})));
        metadata.remove("labels").expect("labels");
    }
    for entry in std::fs::read_dir(root().join("crds")).unwrap() {
        let path = entry.unwrap().path();
        let crd = documents(&std::fs::read_to_string(&path).unwrap()).remove(0);
        assert!(crds.contains(&crd), "the chart's copy of {} is stale: run `make crds`", path.display());
    }
}

#[test]
fn the_plain_manifests_are_what_the_chart_renders() {
    let scratch = Scratch::new("manifests");
    let rendered = std::process::Command::new("bash")
        .arg(root().join("deploy/render.sh"))
        .arg(scratch.path())
        .env_remove("HELM")
        .output()
        .expect("bash");
    succeeded(&rendered, "deploy/render.sh");
    let files = |folder: &Path| -> BTreeSet<PathBuf> {
        let within = |name: &str| std::fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let all = within("manifests").chain(within("manifests-optional"));
        all.map(|path| path.strip_prefix(folder).unwrap().to_owned()).collect()
    };
    let rendered = files(scratch.path());
    for name in &rendered {
        let committed = std::fs::read_to_string(root().join("deploy").join(name)).unwrap_or_default();
        let fresh = std::fs::read_to_string(scratch.path().join(name)).unwrap();
        let name = name.display();
        assert!(committed == fresh, "deploy/{name} is stale: run `make manifests`");
        let marks = ["managed-by: Helm", "helm.sh/chart", "helm.sh/resource-policy", "meta.helm.sh", "installs-crds"];
        assert!(!marks.iter().any(|mark| fresh.contains(mark)), "{name} has a mark of Helm's");
    }
    // What is deleted along with all of deploy/manifests is neither the namespace nor the CRDs.
    let mut there = files(&root().join("deploy"));
    assert!(there.remove(Path::new("manifests-optional/00-namespace.yaml")));
    assert_eq!(there, rendered);
    for name in there {
        let text = std::fs::read_to_string(root().join("deploy").join(&name)).unwrap();
        assert!(!text.contains("kind: Namespace") && !text.contains("kind: CustomResource"), "{}", name.display());
    }
}
