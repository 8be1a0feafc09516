//! From the version before to this one and back, and what an upgrade may change of the resources: only additions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::{SOON, World, operator_options, psec, root};
use crate::support::{ControlPlane, Operator, Prefect, PrefectOptions, eventually, tools};

/// A cluster in which versions change, with two objects.
struct Installed {
    control_plane: ControlPlane,
    kubeconfig: PathBuf,
    prefect: Prefect,
    world: World,
    round: usize,
}

impl Installed {
    async fn new() -> Self {
        let control_plane = ControlPlane::start().await;
        let path = |relative: &str| root().join(relative).display().to_string();
        control_plane.kubectl_ok(&["apply", "-f", &tools::previous_crds().display().to_string()]);
        for manifest in ["manifests-optional/00-namespace", "manifests/10-rbac", "manifests/12-admission-policy"] {
            control_plane.kubectl_ok(&["apply", "-f", &path(&format!("deploy/{manifest}.yaml"))]);
        }
        control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
        let kubeconfig = control_plane.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await;
        let namespace = control_plane.namespace("upgrade").await;
        let prefect = Prefect::start(PrefectOptions::default()).await;
        let world = World::in_namespace(namespace, control_plane.admin().await);
        world.workspace(prefect.url()).await;
        let data = json!([
            {"secretKey": "A", "remoteRef": {"key": "a"}},
            {"secretKey": "B", "remoteRef": {"variable": "b"}, "default": "none"},
        ]);
        let installed = Self { control_plane, kubeconfig, prefect, world, round: 0 };
        installed.world.apply(&psec("one", json!({"data": data}))).await;
        let kv = json!({"data": [{"configMapKey": "B", "remoteRef": {"key": "b"}, "default": "none"}]});
        installed.world.apply(&crate::fixture::object("PrefectKV", "two", kv)).await;
        installed
    }

    async fn start(&self, binary: &Path) -> Operator {
        Operator::start(binary, &operator_options(self.kubeconfig.clone(), &[]))
    }

    /// Changes a value, and waits until the targets have it and all are ready.
    async fn follows(&mut self, who: &str, operator: &Operator) {
        self.round += 1;
        let value = format!("v{}", self.round);
        self.prefect.set_secret("a", json!(value)).await;
        eventually(&format!("{who} to deliver {value}"), SOON, async || match self.world.secret_data("one").await {
            Some(data) if data["A"] == value && data["B"] == "none" => Ok(()),
            other => Err(format!("{other:?}\n{}", operator.log())),
        })
        .await;
        for (kind, name) in [("PrefectSecret", "one"), ("PrefectKV", "two")] {
            self.world.eventually_reason(kind, name, "Synced").await;
        }
    }

    /// The versions of all targets, which change with every write.
    async fn versions(&self) -> [String; 2] {
        [self.world.version("Secret", "one").await, self.world.version("ConfigMap", "two").await]
    }

    /// Runs another version: it takes over without a write, and follows.
    async fn change_to(&mut self, who: &str, binary: &Path, before: Operator) -> Operator {
        let (code, log) = before.stop().await;
        assert_eq!(code, 0, "{log}");
        let versions = self.versions().await;
        let operator = self.start(binary).await;
        eventually(&format!("{who} to refresh the workspace a few times"), SOON, async || {
            let log = operator.log();
            if log.matches(r#""message":"read","workspace""#).count() >= 4 { Ok(()) } else { Err(log) }
        })
        .await;
        // All that it had to compare it has compared once a change has gone all the way; then look back.
        let other = json!({"data": [{"configMapKey": "A", "remoteRef": {"key": "b"}, "default": "x"}]});
        let name = format!("probe-{}", self.round);
        self.world.apply(&crate::fixture::object("PrefectKV", &name, other)).await;
        self.world.eventually_reason("PrefectKV", &name, "Synced").await;
        assert_eq!(self.versions().await, versions, "{who} wrote targets that were right\n{}", operator.log());
        self.follows(who, &operator).await;
        operator
    }
}

#[tokio::test]
async fn an_upgrade_and_the_way_back_write_nothing_and_follow_at_each_step() {
    let (old, new) = (tools::previous_operator(), PathBuf::from(env!("CARGO_BIN_EXE_prefect-sync")));
    let mut installed = Installed::new().await;
    installed.prefect.set_secret("a", json!("v0")).await;
    let operator = installed.start(&old).await;
    installed.follows("the version before", &operator).await;
    // This operator before its CRDs: what it does not find it does without, and says so.
    let operator = installed.change_to("this version with the CRDs before", &new, operator).await;
    let log = operator.log();
    assert!(log.contains("the API server does not serve the kind; install the CRDs"), "{log}");
    // The CRDs under its feet.
    let crds = root().join("crds").display().to_string();
    installed.control_plane.kubectl_ok(&["apply", "-f", &crds]);
    installed.control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
    installed.follows("this version under new CRDs", &operator).await;
    let operator = installed.change_to("this version with its CRDs", &new, operator).await;
    // A rollback of the operator: CRDs stay as they are.
    let operator = installed.change_to("the version before with new CRDs", &old, operator).await;
    let operator = installed.change_to("this version once more", &new, operator).await;
    drop(operator);
}

/// What a schema says of each path.
fn paths(schema: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    into.insert(path.to_owned(), schema.clone());
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        paths(inner, &format!("{path}.{name}"), into);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            paths(&schema[inner], &format!("{path}[{inner}]"), into);
        }
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the schema of `new` refuses though that of `old` took it. Rules in CEL are not compared: the test above and
/// the tests of stored objects look at those.
fn narrowed(old: &Value, new: &Value) -> Vec<String> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    paths(old, "", &mut before);
    paths(new, "", &mut after);
    let mut found = Vec::new();
    for (path, old) in &before {
        let Some(new) = after.get(path) else {
            found.push(format!("{path} is gone"));
            continue;
        };
        for field in ["type", "pattern", "format", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
            if old[field] != new[field] && !new[field].is_null() {
                found.push(format!("{path}: {field} was {} and is {}", old[field], new[field]));
            }
        }
        let required = strings(&old["required"]);
        for name in strings(&new["required"]).into_iter().filter(|name| !required.contains(name)) {
            found.push(format!("{path}.{name} is required now"));
        }
        let allowed = strings(&new["enum"]);
        for value in strings(&old["enum"]).into_iter().filter(|value| !allowed.is_empty() && !allowed.contains(value)) {
            found.push(format!("{path}: {value} is not allowed any more"));
        }
        for (field, smaller_is_narrower) in [
            ("maxLength", true),
            ("maxItems", true),
            ("maxProperties", true),
            ("maximum", true),
            ("minLength", false),
            ("minItems", false),
            ("minimum", false),
        ] {
            if let Some(new) = new[field].as_f64() {
                let is_narrower = match old[field].as_f64() {
                    Some(old) => {
                        if smaller_is_narrower {
                            new < old
                        } else {
                            new > old
                        }
                    }
                    None => true,
                };
                if is_narrower {
                    found.push(format!("{path}: {field} was {} and is {new}", old[field]));
                }
            }
        }
        if new.get("default").is_some() {
            found.push(format!("{path} has a default, which GitOps tools see as a difference"));
        }
    }
    found
}

fn schemas(folder: &Path) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let crd: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let name = format!("{kind} {}", version["name"].as_str().unwrap());
            all.insert(name, version["schema"]["openAPIV3Schema"].clone());
        }
    }
    all
}

#[test]
fn what_the_version_before_accepted_this_one_accepts() {
    let (old, new) = (schemas(&tools::previous_crds()), schemas(&root().join("crds")));
    assert!(old.len() >= 3, "{:?}", old.keys());
    let mut found = Vec::new();
    for (kind, old) in &old {
        match new.get(kind) {
            Some(new) => found.extend(narrowed(old, new).into_iter().map(|what| format!("{kind}{what}"))),
            None => found.push(format!("{kind} is gone")),
        }
    }
    assert!(found.is_empty(), "versions only add:\n{}", found.join("\n"));
}

#[test]
fn narrowing_is_noticed() {
    let old = json!({"type": "object", "properties": {
        "a": {"type": "string", "enum": ["x", "y"], "maxLength": 9},
        "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "integer"}}}},
    }});
    assert!(narrowed(&old, &old).is_empty());
    let new = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "enum": ["x", "z"], "maxLength": 8, "default": "x", "pattern": "^x"},
        "b": {"type": "array", "minItems": 1, "items": {"type": "object", "properties": {"d": {"type": "integer"}}}},
    }});
    assert_eq!(
        narrowed(&old, &new),
        [
            ".a is required now",
            ".a: pattern was null and is \"^x\"",
            ".a: y is not allowed any more",
            ".a: maxLength was 9 and is 8",
            ".a has a default, which GitOps tools see as a difference",
            ".b: minItems was null and is 1",
            ".b[items].c is gone",
        ]
    );
}
