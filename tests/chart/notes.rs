//! The notes that Helm prints after an install: each command and each manifest in them works as it stands.

use serde_json::{Value, json};

use tokio::sync::OnceCell;

use crate::fixture::{CHART, Helm, TEAMS, documents, new_control_plane, succeeded};
use crate::support::ControlPlane;

/// The one that all tests of the notes share.
async fn control_plane() -> &'static ControlPlane {
    static CELL: OnceCell<ControlPlane> = OnceCell::const_new();
    CELL.get_or_init(new_control_plane).await
}

/// The lines of the notes that are commands, without their indentation. A here-document is part of its command.
fn commands(notes: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut within = false;
    for line in notes.lines() {
        if within {
            let command = found.last_mut().expect("a command");
            command.push_str(line);
            command.push('\n');
            within = line != "EOF";
        } else if ["kubectl ", "helm "].iter().any(|program| line.trim_start().starts_with(program)) {
            found.push(format!("{}\n", line.trim_start()));
            within = line.ends_with("<<'EOF'");
        }
    }
    assert!(!within, "a here-document has no end:\n{notes}");
    found
}

/// Installs with these values, and follows the notes to the letter.
async fn follow(values: Value, namespace_of_first_object: Option<&str>) {
    let control_plane = control_plane().await;
    let helm = Helm::of(control_plane);
    let ops = control_plane.namespace("notes").await;
    let release = format!("r{}", &ops[6..]);
    // Whoever follows them knows the namespace of their flows.
    let flows = control_plane.namespace("flows").await;
    let beside = if values["defaultWorkspace"]["enabled"] == true { &ops } else { &flows };
    let namespace = namespace_of_first_object.unwrap_or(beside);
    let mut values = values;
    // All tests share the CRDs.
    values["crds"] = json!({"install": false});
    let file = helm.values(&values);
    let printed = helm.ok(&["install", &release, CHART, "--namespace", &ops, "--values", &file]);
    let notes = &printed.split_once("NOTES:\n").expect("notes").1.replace("NAMESPACE", namespace);
    assert!(notes.contains(&format!("installed as {release}-prefect-sync in the namespace {ops}")), "{notes}");

    let commands = commands(notes);
    let starts = |start: &str| commands.iter().filter(|command| command.starts_with(start)).count();
    let workspaces = usize::from(values["defaultWorkspace"]["enabled"] != true);
    assert_eq!(starts("kubectl apply "), 1 + workspaces, "{notes}");
    assert_eq!((starts("kubectl wait "), starts("helm uninstall ")), (2, 1), "{notes}");
    for command in &commands {
        if command.starts_with("kubectl rollout ") {
            // There is no node, so it would wait for ever; that there is such a Deployment is what can be seen here.
            let command = command.replace("rollout status", "get");
            succeeded(&helm.shell(&command), &command);
            continue;
        }
        if command.starts_with("kubectl wait ") {
            // There is no operator either: what it would write.
            let words: Vec<&str> = command
                .split_whitespace()
                .skip_while(|word| !word.contains("/default") && !word.contains("/etl"))
                .collect();
            let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Synced",
                "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            let mut patch = vec!["patch", words[0], "--subresource=status", "--type=merge", "-p"];
            let condition = condition.to_string();
            patch.push(&condition);
            patch.extend(&words[1..]);
            control_plane.kubectl_ok(&patch);
        }
        let output = helm.shell(command);
        succeeded(&output, command);
        assert_eq!(String::from_utf8_lossy(&output.stderr).replace("level=INFO", ""), "", "{command}");
    }
    // The last command uninstalled it.
    let left = control_plane.kubectl_ok(&["get", "deployments", "-n", &ops, "-o", "name"]);
    assert_eq!(left, "");
    control_plane.kubectl_ok(&["get", "prefectsecret/etl", "-n", namespace]);

    // What a container needs is a list as Kubernetes has it.
    let start = notes.find("  envFrom:\n").expect("envFrom");
    let snippet: String =
        notes[start..].lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    let container = json!([{"name": "c", "image": "i", "envFrom": documents(&snippet)[0]["envFrom"]}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": container}});
    let file = helm.write("pod", "json", &pod.to_string());
    control_plane.kubectl_ok(&["create", "--dry-run=server", "--validate=strict", "-n", &ops, "-f", &file]);
}

#[tokio::test]
async fn they_can_be_followed_to_the_letter() {
    follow(json!({}), None).await;
}

#[tokio::test]
async fn they_know_the_default_workspace() {
    let spec = json!({"api": {"url": "http://p/api"}});
    follow(json!({"defaultWorkspace": {"enabled": true, "spec": spec}}), None).await;
}

#[tokio::test]
async fn they_know_a_workspace_of_the_whole_cluster() {
    let spec = json!({"api": {"url": "http://p/api"}, "access": [{"namespaces": ["team-a"], "keys": ["*"]}]});
    let workspace = json!({"enabled": true, "kind": "ClusterPrefectWorkspace", "spec": spec});
    // Where the operator is, the rules allow nothing.
    follow(json!({"defaultWorkspace": workspace}), Some(TEAMS[0])).await;
}

#[tokio::test]
async fn they_know_where_a_limited_operator_works() {
    follow(json!({"namespaces": [TEAMS[1]]}), Some(TEAMS[1])).await;
}

#[test]
fn they_leave_open_what_they_can_not_know() {
    let helm = Helm::offline();
    let notes = |values: Value| {
        let args = ["install", "r", CHART, "--dry-run=client", "--values", &helm.values(&values)];
        helm.ok(&args).split_once("NOTES:\n").expect("notes").1.to_owned()
    };
    let access = json!([{"namespaceSelector": {"matchLabels": {"team": "data"}}, "keys": ["*"]}]);
    let spec = json!({"api": {"url": "http://p/api"}, "access": access});
    let workspace = json!({"enabled": true, "kind": "ClusterPrefectWorkspace", "spec": spec});
    let selected = notes(json!({"defaultWorkspace": workspace}));
    assert!(
        selected.contains("(put such a namespace in place of NAMESPACE)")
            && selected.contains("kubectl apply -n NAMESPACE "),
        "{selected}"
    );
    // Nothing is at a registry under the default name of the image.
    assert!(selected.contains("CAUTION: image.repository is localhost/prefect-sync"), "{selected}");
    let pushed = notes(json!({"image": {"repository": "registry.example.com/prefect-sync"}}));
    assert!(!pushed.contains("CAUTION"), "{pushed}");
    // Flows seldom run where the operator does.
    let commands =
        ["kubectl apply -n NAMESPACE ", "prefectworkspace/default -n NAMESPACE", "prefectsecret/etl -n NAMESPACE"];
    assert!(commands.iter().all(|command| pushed.contains(command)), "{pushed}");
    assert!(pushed.contains("(put the namespace of your flows in place of NAMESPACE, here and below)"), "{pushed}");
    let named = notes(
        json!({"defaultWorkspace": {"enabled": true, "namespace": "etl", "spec": {"api": {"url": "http://p/api"}}}}),
    );
    assert!(!named.contains("NAMESPACE") && named.contains("kubectl apply -n etl "), "{named}");
}

#[tokio::test]
async fn they_warn_where_an_uninstall_would_delete_secrets() {
    let control_plane = control_plane().await;
    let helm = Helm::of(control_plane);
    let say = |keep: &str| {
        // The CRDs of the cluster are another's: --take-ownership only for the look of it.
        let args = ["install", "r", CHART, "--dry-run=server", "--take-ownership", "--set", keep];
        helm.ok(&args)
    };
    let (kept, lost) = (say("crds.keep=true"), say("crds.keep=false"));
    assert!(!kept.contains("CAUTION: crds") && kept.contains("were synced stay as they are"), "{kept}");
    assert!(lost.contains("CAUTION: crds") && !lost.contains("were synced stay as they are"), "{lost}");
}
