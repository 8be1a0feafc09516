//! The values' schema: what is misspelt or out of range is refused by name.

use serde_json::{Value, json};

use crate::fixture::{CHART, Helm, chart_file, documents, find, root};

#[test]
fn bad_values_are_refused_with_their_names() {
    let helm = Helm::offline();
    let url = json!({"api": {"url": "http://p/api"}});
    let cases: &[(Value, &[&str])] = &[
        (json!({"replicas": 3}), &["'replicas'"]),
        (json!({"replicaCount": "two"}), &["/replicaCount", "integer"]),
        (json!({"replicaCount": -1}), &["/replicaCount"]),
        (json!({"image": {"name": "x"}}), &["/image", "'name'"]),
        (json!({"image": {"digest": "latest"}}), &["/image/digest"]),
        (json!({"image": {"pullPolicy": "always"}}), &["/image/pullPolicy"]),
        (json!({"namespaces": "team-a"}), &["/namespaces", "array"]),
        (json!({"namespaces": ["Team_A"]}), &["/namespaces/0"]),
        (json!({"namespaces": ["team-a", "team-a"]}), &["/namespaces"]),
        (json!({"allowedApiHosts": ["https://api.prefect.cloud/api"]}), &["/allowedApiHosts/0"]),
        (json!({"log": {"format": "logfmt"}}), &["/log/format"]),
        (json!({"crds": {"kept": true}}), &["/crds", "'kept'"]),
        (json!({"defaultWorkspace": {"enabled": true}}), &["/defaultWorkspace/spec"]),
        (json!({"defaultWorkspace": {"kind": "Workspace"}}), &["/defaultWorkspace/kind"]),
        (json!({"enabled": "yes"}), &["/enabled", "boolean"]),
        (json!({"podLabels": {"a": 1}}), &["/podLabels/a", "string"]),
        (json!({"resources": {"limit": {}}}), &["/resources", "'limit'"]),
        (json!({"topologySpreadConstraints": [{"maxSkew": 1}]}), &["/topologySpreadConstraints/0", "'topologyKey'"]),
        (json!({"podDisruptionBudget": {"maxUnavailable": "one"}}), &["/podDisruptionBudget/maxUnavailable"]),
        (json!({"networkPolicy": {"egress": {"dns": {"port": 53}}}}), &["/networkPolicy/egress/dns", "'port'"]),
        (json!({"networkPolicy": {"egress": {"prefect": {"ports": [0]}}}}), &["/networkPolicy/egress/prefect/ports/0"]),
        (json!({"serviceMonitor": {"interval": "half a minute"}}), &["/serviceMonitor/interval"]),
        (json!({"prometheusRule": {"disabledAlerts": ["NoLeader"]}}), &["/prometheusRule/disabledAlerts/0"]),
        (json!({"extraEnv": [{"key": "A"}]}), &["/extraEnv/0", "'key'"]),
        (json!({"proxy": {"https": "proxy:3128"}}), &["/proxy/https"]),
        (json!({"podSecurityContext": [65532]}), &["/podSecurityContext", "object"]),
        (json!({"terminationGracePeriodSeconds": "30s"}), &["/terminationGracePeriodSeconds", "integer"]),
        // What the schema can't say, the templates do.
        (
            json!({"serviceAccount": {"create": false}}),
            &["serviceAccount.create is false, so serviceAccount.name must"],
        ),
        (json!({"caBundle": {"configMap": "a", "secret": "b"}}), &["caBundle.configMap and caBundle.secret"]),
        (
            json!({"namespaces": ["team-a"], "restarts": {"enabled": true, "namespaces": ["team-b"]}}),
            &["restarts.namespaces has team-b, where this operator does not work", "(team-a)"],
        ),
        // Silence would look as if they were allowed, and the list alone is no word that gives such a right.
        (json!({"restarts": {"namespaces": ["team-a"]}}), &["restarts.namespaces is set, but restarts.enabled is not"]),
        (
            json!({"serviceMonitor": {"enabled": true}, "metricsService": {"enabled": false}}),
            &["serviceMonitor.enabled needs metricsService.enabled"],
        ),
        (
            json!({"podDisruptionBudget": {"maxUnavailable": null}}),
            &["podDisruptionBudget needs maxUnavailable or minAvailable"],
        ),
        (
            json!({"namespaces": ["team-a"], "defaultWorkspace": {"enabled": true, "spec": url}}),
            &["defaultWorkspace.namespace is ops, where this operator does not work", "(team-a)"],
        ),
        (
            json!({"namespaces": ["team-a"],
                "defaultWorkspace": {"enabled": true, "kind": "ClusterPrefectWorkspace", "spec": url}}),
            &["defaultWorkspace.kind is ClusterPrefectWorkspace"],
        ),
    ];
    for (values, words) in cases {
        let file = helm.values(values);
        let said = helm.refused(&["template", "r", CHART, "--namespace", "ops", "--values", &file]);
        for word in *words {
            assert!(said.contains(word), "{values}: no {word} in {said}");
        }
    }
}

/// What a chart that depends on this one sets for itself: for all of its parts, and as a condition of the dependency.
const OF_PARENTS: [&str; 2] = [".global", ".enabled"];

/// Every object of the schema that lists what may be in it, with its path and the values there.
fn compare(schema: &Value, values: &Value, path: &str) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "values.schema.json accepts anything in {path}");
    for (name, schema) in properties {
        let path = format!("{path}.{name}");
        if OF_PARENTS.contains(&path.as_str()) {
            continue;
        }
        // These are part of Kubernetes' own objects, and have no default.
        if path == ".resources.claims" {
            continue;
        }
        let value = values.get(name).unwrap_or_else(|| panic!("values.yaml lacks {path}, which the schema knows"));
        compare(schema, value, &path);
    }
    for name in values.as_object().into_iter().flat_map(|values| values.keys()) {
        assert!(properties.contains_key(name), "values.schema.json lacks {path}.{name}");
    }
}

#[test]
fn the_schema_knows_exactly_the_values_that_there_are() {
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&chart_file("values.yaml")).unwrap();
    compare(&schema, &values, "");
}

/// The paths of all values that are set as one, such as `.image.tag`.
fn leaves(schema: &Value, path: &str, found: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.push(path.to_owned());
        return;
    };
    properties.iter().for_each(|(name, schema)| leaves(schema, &format!("{path}.{name}"), found));
}

#[test]
fn a_comment_stands_before_each_value() {
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")).unwrap();
    let mut expected = Vec::new();
    leaves(&schema, "", &mut expected);
    expected.retain(|path| !OF_PARENTS.contains(&path.as_str()) && path != ".resources.claims");
    let mut commented = Vec::new();
    // The keys above the current line, with how far they are indented.
    let mut above: Vec<(usize, &str)> = Vec::new();
    let mut before = "";
    let text = chart_file("values.yaml");
    for line in text.lines() {
        let key = line.trim_start().split_once(':').map(|(key, _)| key).filter(|key| !key.starts_with(['#', '-']));
        if let Some(key) = key {
            let indent = line.len() - line.trim_start().len();
            above.retain(|(other, _)| *other < indent);
            above.push((indent, key));
            // One comment is for the whole of `resources`.
            if before.trim_start().starts_with('#') || above[0].1 == "resources" {
                commented.push(above.iter().map(|(_, key)| format!(".{key}")).collect::<String>());
            }
        }
        before = line;
    }
    let bare: Vec<&String> = expected.iter().filter(|path| !commented.contains(path)).collect();
    assert!(expected.len() > 60 && bare.is_empty(), "values.yaml does not explain {bare:?}");
}

#[test]
fn another_chart_can_depend_on_it() {
    let helm = Helm::offline();
    let parent = helm.write("parent", "chart", "");
    std::fs::remove_file(&parent).unwrap();
    let parent = std::path::Path::new(&parent);
    std::fs::create_dir_all(parent.join("charts")).unwrap();
    std::os::unix::fs::symlink(root().join(CHART), parent.join("charts/prefect-sync")).unwrap();
    let dependency = json!({"name": "prefect-sync", "version": env!("CARGO_PKG_VERSION"), "repository": "",
        "condition": "prefect-sync.enabled", "tags": ["platform"]});
    let chart = json!({"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]});
    std::fs::write(parent.join("Chart.yaml"), chart.to_string()).unwrap();
    let render = |values: Value| {
        std::fs::write(parent.join("values.yaml"), values.to_string()).unwrap();
        documents(&helm.ok(&["template", "r", &parent.display().to_string(), "--namespace", "ops"]))
    };
    // Nulls would do as values of a user's, but not as another chart's defaults.
    let of_ours = json!({"enabled": true, "omitUserAndGroups": true, "podSecurityContext": {"runAsUser": null}});
    let objects = render(json!({"global": {"imageRegistry": "r.example.com"}, "prefect-sync": of_ours}));
    let pod = &find(&objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"], json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}));
    assert!(render(json!({"prefect-sync": {"enabled": false}})).is_empty());
    // Tags alone decide where the condition has no value.
    assert!(render(json!({"tags": {"platform": false}})).is_empty());
    assert!(!render(json!({"tags": {"platform": true}})).is_empty());
}
