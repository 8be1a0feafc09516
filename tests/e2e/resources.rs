//! The custom resources as a user meets them: applying, explaining, listing, diffing, waiting.

use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, manifests, prefect};
use crate::support::{ControlPlane, eventually};

/// Runs kubectl; fails where it fails or warns.
fn quiet(control_plane: &ControlPlane, args: &[&str]) -> String {
    let output = control_plane.kubectl(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "kubectl {} said: {stderr}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `kubectl explain` says. The API server publishes schemas a moment after it serves their kinds.
async fn explain(control_plane: &ControlPlane, field: &str) -> String {
    eventually("the schema to be published", SOON, async || {
        let output = control_plane.kubectl(&["explain", field]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()).ok_or(stderr)
    })
    .await
}

/// Words of each line, as kubectl pads its columns to what is longest.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test]
async fn the_crds_can_be_applied_both_ways_again_and_again_without_a_warning_or_a_diff() {
    let control_plane = control_plane().await;
    quiet(control_plane, &["apply", "-f", "crds"]);
    quiet(control_plane, &["apply", "--server-side", "-f", "crds"]);
    assert_eq!(quiet(control_plane, &["diff", "-f", "crds"]), "");
    let established = quiet(control_plane, &["wait", "--for=condition=Established", "-f", "crds", "--timeout=30s"]);
    assert_eq!(established.lines().count(), 4, "{established}");
}

/// Calls `visit` with the path and the schema of everything below.
fn walk(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&format!("{path}[]"), &schema[inner], visit);
        }
    }
}

#[tokio::test]
async fn every_field_is_explained_and_none_has_a_default_that_a_gitops_tool_would_see_as_a_diff() {
    let control_plane = control_plane().await;
    let list: Value = serde_json::from_str(&quiet(control_plane, &["get", "-f", "crds", "-o", "json"])).expect("JSON");
    let mut fields = 0;
    for definition in list["items"].as_array().expect("a list") {
        let version = &definition["spec"]["versions"][0];
        let kind = definition["spec"]["names"]["kind"].as_str().expect("a kind");
        walk(kind, &version["schema"]["openAPIV3Schema"], &mut |path, schema| {
            assert!(schema.get("default").is_none(), "{path} has a default");
            if schema.get("properties").is_some() || path.contains('.') && !path.ends_with("[]") {
                fields += 1;
                let description = schema["description"].as_str().unwrap_or_default();
                // kubectl wraps at the terminal's width: line breaks of the sources would make it ragged.
                assert!(description.ends_with('.') && !description.contains('\n'), "{path}: {description:?}");
            }
        });
    }
    assert!(fields > 80, "only {fields} fields were looked at");

    let explained = explain(control_plane, "prefectsecret.spec.data.remoteRef").await;
    assert_eq!(
        explained.trim_end(),
        "\
GROUP:      prefect-sync.dev
KIND:       PrefectSecret
VERSION:    v1alpha1

FIELD: remoteRef <Object>


DESCRIPTION:
    What to read from Prefect.
    
FIELDS:
  blockType	<string>
    The block's type as in its address, such as `aws-credentials`. Default:
    `secret`.

  key	<string>
    The block's name. For Secret blocks the workspace's local secrets are asked
    first.

  localKey	<string>
    What the secret is called in the workspace's local secrets, where that
    differs from the block's name: MYSECRET is no name of a block. Default: key.

  property	<string>
    A path into the value, such as `aws_secret_access_key`, `a.b[0].c` or
    `a[\"b.c\"]`. It also looks inside a string that holds JSON. Without it: a
    Secret block's value, a variable's value, or another block's fields as one
    JSON object.

  variable	<string>
    The variable's name."
    );
    // What the choices mean stands where the choice is made.
    for (field, choices) in [
        ("psec.spec.target.deletionPolicy", ["Retain:", "Delete:", "Default: Retain."]),
        ("pkv.status.entries.source", ["Local:", "Api:", "Default:"]),
        ("pws.spec.refreshInterval", ["1s", "24h", "Default: the parent's, or 30s."]),
        ("cpws.spec.refreshInterval", ["1s", "24h", "Default: 30s."]),
    ] {
        let explained = explain(control_plane, field).await.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(choices.iter().all(|choice| explained.contains(choice)), "{explained}");
    }
}

#[tokio::test]
async fn kubectl_get_shows_state_keys_target_and_workspace_and_wait_works() {
    let world = World::with_prefect("columns").await;
    let control_plane = control_plane().await;
    let (password, host) = (world.name("password"), world.name("host"));
    prefect().await.set_secret(&password, json!("hunter2")).await;
    prefect().await.set_variable(&host, json!("db")).await;
    world
        .apply(&format!(
            r#"
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {{name: etl}}
spec:
  data:
    - {{secretKey: PASSWORD, remoteRef: {{key: {password}}}}}
    - {{secretKey: HOST, remoteRef: {{variable: {host}}}}}
  target: {{name: flow-secrets}}
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectKV
metadata: {{name: settings}}
spec:
  data:
    - {{configMapKey: HOST, remoteRef: {{key: {host}}}}}
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {{name: lost}}
spec:
  workspaceRef: {{name: nowhere}}
  data:
    - {{secretKey: PASSWORD, remoteRef: {{key: {password}}}}}
"#
        ))
        .await;
    let kubectl = |args: &[&str]| quiet(control_plane, &[args, &["-n", &world.namespace]].concat());
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    world.eventually_reason("PrefectKV", "settings", "Synced").await;
    world.eventually_reason("PrefectSecret", "lost", "WorkspaceNotFound").await;
    world.eventually_mode("default", "Streaming").await;
    for object in ["psec/etl", "pkv/settings", "pws/default"] {
        let waited = kubectl(&["wait", "--for=condition=Ready", object, "--timeout=30s"]);
        assert!(waited.ends_with("condition met\n"), "{waited}");
    }
    kubectl(&["wait", "--for=condition=Ready=false", "psec/lost", "--timeout=30s"]);

    // Each kind by its short name, without the ages at the end; nothing is hidden behind `-o wide` but the address.
    let url = prefect().await.url();
    let columns = ["NAME", "READY", "REASON", "KEYS", "TARGET", "WORKSPACE", "WORKSPACEKIND", "AGE"];
    for (kind, rows) in [
        (
            "psec",
            vec![
                columns.to_vec(),
                vec!["etl", "True", "Synced", "2/2", "flow-secrets", "default", "PrefectWorkspace"],
                vec!["lost", "False", "WorkspaceNotFound"],
            ],
        ),
        (
            "pkv",
            vec![
                columns.to_vec(),
                vec!["settings", "True", "Synced", "1/1", "settings", "default", "PrefectWorkspace"],
            ],
        ),
        (
            "pws",
            vec![
                vec!["NAME", "READY", "REASON", "SERVER", "CHANGES", "URL", "AGE"],
                vec!["default", "True", "Connected", "3.8.8", "Streaming", url],
            ],
        ),
    ] {
        let table = kubectl(&["get", kind, "-o", "wide"]);
        let mut shown = words(&table);
        for row in &mut shown[1..] {
            row.pop();
        }
        assert_eq!(shown, rows, "{table}");
    }
    let all = kubectl(&["get", "prefect", "-o", "name"]);
    assert_eq!(
        all.lines().collect::<Vec<_>>(),
        [
            "prefectkv.prefect-sync.dev/settings",
            "prefectsecret.prefect-sync.dev/etl",
            "prefectsecret.prefect-sync.dev/lost",
            "prefectworkspace.prefect-sync.dev/default"
        ]
    );
}

#[tokio::test]
async fn applying_the_same_again_shows_no_diff_once_the_operator_has_written_its_status() {
    let world = World::with_prefect("diff").await;
    let control_plane = control_plane().await;
    let password = world.name("password");
    prefect().await.set_secret(&password, json!("hunter2")).await;
    // Each field that has a default, left out: nothing may fill it in.
    let manifests = format!(
        r#"
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {{name: NAME, namespace: {namespace}}}
spec:
  data:
    - {{secretKey: PASSWORD, remoteRef: {{key: {password}}}}}
  target: {{template: {{metadata: {{labels: {{team: data}}}}}}}}
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectWorkspace
metadata: {{name: NAME, namespace: {namespace}}}
spec:
  api: {{url: '{url}'}}
"#,
        namespace = world.namespace,
        url = prefect().await.url()
    );
    for (name, flag) in [("by-client", "--server-side=false"), ("by-server", "--server-side")] {
        let file = control_plane.logs().join(format!("{}-{name}.yaml", world.namespace));
        std::fs::write(&file, manifests.replace("NAME", name)).unwrap();
        let file = file.display().to_string();
        quiet(control_plane, &["apply", flag, "-f", &file]);
        world.eventually_reason("PrefectSecret", name, "Synced").await;
        world.eventually_mode(name, "Streaming").await;
        assert_eq!(quiet(control_plane, &["diff", flag, "-f", &file]), "");
        // Tools that compare with the file itself, not with what the server would make of it, see none either.
        let applied: Vec<Value> = serde_saphyr::from_multiple(&manifests).unwrap();
        for (kind, manifest) in ["PrefectSecret", "PrefectWorkspace"].into_iter().zip(&applied) {
            assert_eq!(world.get(kind, name).await["spec"], manifest["spec"]);
        }
        let before = (world.version("PrefectSecret", name).await, world.version("PrefectWorkspace", name).await);
        quiet(control_plane, &["apply", flag, "-f", &file]);
        let after = (world.version("PrefectSecret", name).await, world.version("PrefectWorkspace", name).await);
        assert_eq!(after, before, "{name}");
    }
}

#[tokio::test]
async fn every_file_of_deploy_is_accepted_by_the_api_server_without_a_warning() {
    let control_plane = control_plane().await;
    let namespace = control_plane.namespace("deploy").await;
    let mut files = 0;
    for folder in ["deploy/examples", "deploy/manifests", "deploy/manifests-optional"] {
        for file in manifests(folder) {
            files += 1;
            let file = file.display().to_string();
            // These make namespaces, in which a dry run makes nothing; a test of the examples applies them in earnest.
            if ["many-teams.yaml", "team-override.yaml"].iter().any(|name| file.ends_with(name)) {
                continue;
            }
            let mut args = vec!["apply", "--dry-run=server", "--validate=strict", "-f", &file];
            if folder == "deploy/examples" {
                args.extend(["-n", &namespace]);
            }
            quiet(control_plane, &args);
        }
    }
    assert!(files >= 9, "only {files} files were tried");
}
