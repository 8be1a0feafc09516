//! `render`, `exec` and `check`: what would be synced, from manifests in files.

use base64::Engine as _;
use serde_json::json;

use crate::support::{Prefect, PrefectOptions, Scratch};
use crate::{Ran, run, words};

const OBJECTS: &str = r#"
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {name: etl, namespace: flows}
spec:
  data:
    - {secretKey: PASSWORD, remoteRef: {key: password}}
    - {secretKey: USER, remoteRef: {key: database, property: user}}
    - {secretKey: HOST, remoteRef: {variable: host}, default: localhost}
    - {secretKey: EXTRA, remoteRef: {key: extra}, optional: true}
  target: {template: {metadata: {labels: {team: data}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent}
spec: {replicas: 1}
---
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectKV
metadata: {name: settings, namespace: flows}
spec:
  data:
    - {configMapKey: LIMITS, remoteRef: {key: limits}}
"#;

const AUTH: &str = "admin:s3cr3t";

/// The file of a workspace, and the Secret that it names in the same file.
fn workspace(url: &str, auth: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: prefect-auth, namespace: flows, labels: {{prefect-sync.dev/offer: workspace}}}}
stringData: {{auth-string: '{auth}'}}
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectWorkspace
metadata: {{name: default, namespace: flows}}
spec:
  api: {{url: '{url}', authString: {{secretKeyRef: {{name: prefect-auth}}}}}}
"#
    )
}

#[tokio::test]
async fn render_finds_the_workspace_as_prefect_does_and_shows_values_only_when_asked() {
    let options = PrefectOptions { auth_string: Some(AUTH.to_owned()), csrf: true, ..Default::default() };
    let prefect = Prefect::start(options).await;
    prefect.set_secret("password", json!("hunter2 ü")).await;
    prefect.set_secret("database", json!("{\"user\": \"bob-the-user\"}")).await;
    prefect.set_variable_raw("limits", r#"{"b":1.5,"a":[1,2]}"#).await;
    let home = Scratch::new("cli");
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("objects.yaml", OBJECTS);
    write("workspace.yaml", &workspace(prefect.url(), AUTH));
    let table = vec![
        vec!["OBJECT", "KEY", "SOURCE", "SIZE", "STATE"],
        vec!["PrefectSecret/etl", "PASSWORD", "Api", "10", "B", "Synced"],
        vec!["PrefectSecret/etl", "USER", "Api", "12", "B", "Synced"],
        vec!["PrefectSecret/etl", "HOST", "Default", "9", "B", "Synced"],
        vec!["PrefectSecret/etl", "EXTRA", "-", "-", "Absent"],
        vec!["PrefectKV/settings", "LIMITS", "Api", "19", "B", "Synced"],
    ];
    let silent = |ran: &Ran| {
        let text = format!("{}{}", ran.stdout, ran.stderr);
        ["hunter2", "bob-the-user", "s3cr3t", "1.5"].iter().all(|value| !text.contains(value))
    };

    // From the files, with the Secret that the workspace names.
    let ran = run(home.path(), &["render", "-f", "objects.yaml", "-f", "workspace.yaml"], &[]);
    assert_eq!((words(&ran.stdout), ran.stderr.as_str(), ran.code), (table.clone(), "", 0));
    assert!(silent(&ran));
    let files = run(home.path(), &["render"], &[("PREFECT_SYNC_FILES", "objects.yaml,workspace.yaml")]);
    assert_eq!(files, ran);

    // From the environment, else the active profile: of the home folder, of PREFECT_HOME, or the one that is named.
    let url = prefect.url();
    let profiles = |active: &str| {
        format!(
            "active = \"{active}\"\n[profiles.here]\nPREFECT_API_URL = \"{url}\"\nPREFECT_API_AUTH_STRING = \"{AUTH}\"\n[profiles.there]\nPREFECT_API_URL = \"http://127.0.0.1:9/api\"\n"
        )
    };
    write("elsewhere/profiles.toml", &profiles("here"));
    write("named/profiles.toml", &profiles("there"));
    let elsewhere = home.path().join("elsewhere").display().to_string();
    let named = home.path().join("named").display().to_string();
    let env = [("PREFECT_API_URL", url), ("PREFECT_API_AUTH_STRING", AUTH)];
    let ways: [Vec<(&str, &str)>; 4] = [
        env.to_vec(),
        vec![("PREFECT_HOME", &elsewhere)],
        vec![("PREFECT_HOME", &named), ("PREFECT_PROFILE", "here")],
        // The environment goes first.
        [env.to_vec(), vec![("PREFECT_HOME", &named)]].concat(),
    ];
    for way in &ways {
        let ran = run(home.path(), &["render", "-f", "objects.yaml"], way);
        assert_eq!((words(&ran.stdout), ran.stderr.as_str(), ran.code), (table.clone(), "", 0), "{way:?}");
        assert!(silent(&ran));
    }
    write(".prefect/profiles.toml", &profiles("here"));
    let ran = run(home.path(), &["render", "-f", "objects.yaml"], &[]);
    assert_eq!((words(&ran.stdout), ran.stderr.as_str(), ran.code), (table, "", 0));

    // A local config.toml is asked first, and only for what it has.
    write(".prefect/config.toml", "[context.secrets]\npassword = \"local\"\n");
    let ran = run(home.path(), &["render", "-f", "objects.yaml"], &[]);
    assert_eq!(words(&ran.stdout)[1], ["PrefectSecret/etl", "PASSWORD", "Local", "5", "B", "Synced"]);
    assert_eq!(words(&ran.stdout)[2], ["PrefectSecret/etl", "USER", "Api", "12", "B", "Synced"]);
    std::fs::remove_file(home.path().join(".prefect/config.toml")).unwrap();

    // Values only when asked for, and then exactly.
    let yaml = ["render", "-f", "objects.yaml", "-o", "yaml"];
    let refused = run(home.path(), &yaml, &[]);
    let message = "prefect-sync: -o yaml prints values: add --show-values if that is what you want\n";
    assert_eq!(refused, Ran { code: 1, stdout: String::new(), stderr: message.into() });
    let shown = run(home.path(), &[&yaml[..], &["--show-values"]].concat(), &[]);
    assert_eq!((shown.stderr.as_str(), shown.code), ("", 0));
    let manifests: Vec<serde_json::Value> = serde_saphyr::from_multiple(&shown.stdout).unwrap();
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    assert_eq!(manifests.len(), 2);
    assert_eq!((&manifests[0]["kind"], &manifests[0]["type"]), (&json!("Secret"), &json!("Opaque")));
    assert_eq!(manifests[0]["metadata"]["labels"]["team"], "data");
    assert_eq!(
        manifests[0]["data"],
        json!({"PASSWORD": base64("hunter2 ü"), "USER": base64("bob-the-user"), "HOST": base64("localhost")})
    );
    assert_eq!(manifests[1]["kind"], "ConfigMap");
    assert_eq!(manifests[1]["data"], json!({"LIMITS": r#"{"b":1.5,"a":[1,2]}"#}));

    // One line for each entry that can't be resolved, on standard error, and the exit code of a failure.
    write(
        "wrong.yaml",
        r#"
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {name: wrong, namespace: flows}
spec:
  data:
    - {secretKey: GOOD, remoteRef: {key: password}}
    - {secretKey: TYPO, remoteRef: {key: pass-word}}
    - {secretKey: TEXT, remoteRef: {key: password, property: user}}
    - {secretKey: PATH, remoteRef: {key: password, property: a..b}}
"#,
    );
    let ran = run(home.path(), &["render", "-f", "wrong.yaml"], &[]);
    assert_eq!(
        ran.stderr.lines().collect::<Vec<_>>(),
        [
            r#"PrefectSecret/wrong TYPO: no secret block "pass-word" in workspace default; did you mean "password"?"#,
            r#"PrefectSecret/wrong TEXT: secret block "password" holds text that is no JSON, so there is nothing to look into at "user"; leave remoteRef.property out to take it whole"#,
            r#"PrefectSecret/wrong PATH: property "a..b" is no path: a name is missing at character 3; write a.b[0].c, or a["b.c"] for names with dots"#,
        ]
    );
    assert_eq!(ran.code, 1);
    let states: Vec<&str> = words(&ran.stdout)[1..].iter().map(|row| *row.last().unwrap()).collect();
    assert_eq!(states, ["Resolved", "KeyNotFound", "NotJson", "PropertyInvalid"]);
    assert!(silent(&ran));

    // The workspace itself: a wrong password is neither accepted nor repeated, and nobody there is said so.
    write("workspace.yaml", &workspace(prefect.url(), "admin:s3cr3t-no-more"));
    let ran = run(home.path(), &["render", "-f", "objects.yaml,workspace.yaml"], &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("answered 401 to Secret flows/prefect-auth key \"auth-string\""), "{}", ran.stderr);
    assert!(silent(&ran));
    let ran = run(home.path(), &["render", "-f", "objects.yaml"], &[("PREFECT_PROFILE", "there")]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("PrefectSecret/etl: cannot reach 127.0.0.1:9: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 2, "one line an object, not an entry: {}", ran.stderr);
}

#[test]
fn render_needs_no_prefect_for_local_secrets() {
    let home = Scratch::new("cli");
    std::fs::write(home.path().join("objects.yaml"), LOCAL).unwrap();
    std::fs::write(home.path().join("config.toml"), "[context.secrets]\nA = \"one\"\n").unwrap();
    let path = home.path().join("config.toml").display().to_string();
    let ran = run(home.path(), &["render", "-f", "objects.yaml"], &[("PREFECT__USER_CONFIG_PATH", &path)]);
    assert_eq!(words(&ran.stdout)[1..], [vec!["PrefectSecret/etl", "A", "Local", "3", "B", "Synced"]]);
    assert_eq!((ran.stderr.as_str(), ran.code), ("", 0));

    let ran = run(home.path(), &["render", "-f", "objects.yaml"], &[]);
    assert_eq!(
        ran,
        Ran {
            code: 1,
            stdout: String::new(),
            stderr: "prefect-sync: PrefectWorkspace default/default is in none of the files, and there is no PREFECT_API_URL, no active profile and no config.toml: give the workspace's file with -f, or set PREFECT_API_URL\n".into(),
        }
    );
}

#[test]
fn an_object_that_is_wrong_in_itself_says_so_without_any_workspace() {
    let home = Scratch::new("cli");
    for (spec, message) in [
        ("{}", "spec.data or spec.dataFrom must have at least one entry"),
        (
            "{dataFrom: [{find: {}}]}",
            "find in spec.dataFrom needs name.regexp or tags; to take everything write name: {regexp: '.'}",
        ),
        (
            "{dataFrom: [{find: {name: {regexp: '('}}}]}",
            "spec.dataFrom[0]: \"(\" is no regular expression: unclosed group",
        ),
    ] {
        let text = format!(
            "{{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectSecret, metadata: {{name: a}}, spec: {spec}}}"
        );
        std::fs::write(home.path().join("bad.yaml"), text).unwrap();
        let ran = run(home.path(), &["render", "-f", "bad.yaml"], &[]);
        assert_eq!((ran.code, ran.stderr.as_str()), (1, format!("PrefectSecret/a: {message}\n").as_str()));
    }
}

/// Local secrets, and objects that read them.
fn local_home() -> (Scratch, String) {
    let home = Scratch::new("cli");
    let objects = r#"
{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectSecret, metadata: {name: first}, spec: {
  data: [{secretKey: A, remoteRef: {key: A}}, {secretKey: B, remoteRef: {key: B}}]}}
---
{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectSecret, metadata: {name: second}, spec: {
  dataFrom: [{find: {name: {regexp: "^B$"}}, rewrite: [{regexp: {source: "^", target: "FOUND_"}}]}],
  target: {template: {data: {B: "later [[ FOUND_B | urlencode ]]"}, delimiters: Brackets, mergePolicy: Merge}}}}
---
{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectSecret, metadata: {name: third}, spec: {
  data: [{secretKey: A, remoteRef: {key: A}}], target: {format: {prefect1Context: {}}}}}
"#;
    std::fs::write(home.path().join("objects.yaml"), objects).unwrap();
    std::fs::write(home.path().join("config.toml"), "[context.secrets]\nA = \"one ü\\nline\"\nB = \"p/w\"\n").unwrap();
    let path = home.path().join("config.toml").display().to_string();
    (home, path)
}

#[test]
fn exec_runs_a_command_with_what_a_pod_would_get_and_writes_nothing() {
    let (home, config) = local_home();
    let env = [("PREFECT__USER_CONFIG_PATH", config.as_str()), ("PREFECT_SYNC_FILES", "objects.yaml")];
    let print = r#"printf '%s|' "$A" "$B" "$FOUND_B" "$PREFECT__CONTEXT__SECRETS__A" "$1"; exit 7"#;
    let files = || std::fs::read_dir(home.path()).unwrap().count();
    let before = files();
    let ran = run(home.path(), &["exec", "--", "sh", "-c", print, "sh", "argument"], &env);
    assert_eq!(ran.stderr, "");
    assert_eq!(
        ran.stdout,
        "one ü\nline|later p%2Fw|p/w|\"\\\"\\\\\\\"one \\\\\\\\u00fc\\\\\\\\nline\\\\\\\"\\\"\"|argument|"
    );
    assert_eq!((ran.code, files()), (7, before));
    let prefixed = run(home.path(), &["exec", "--prefix", "X_", "--", "sh", "-c", "echo $X_B"], &env);
    assert_eq!((prefixed.stdout.as_str(), prefixed.code), ("later p%2Fw\n", 0));
}

#[test]
fn exec_runs_nothing_where_something_is_missing_and_shows_no_value() {
    let (home, config) = local_home();
    let env = [("PREFECT__USER_CONFIG_PATH", config.as_str())];
    std::fs::write(home.path().join("wrong.yaml"), LOCAL.replace("key: A}", "key: NONE}")).unwrap();
    let args = ["exec", "-f", "objects.yaml,wrong.yaml", "--", "touch", "ran"];
    let ran = run(home.path(), &args, &env);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "prefect-sync: the command is not run: PrefectSecret/etl A: no secret block \"NONE\" in workspace default, which has local secrets only (spec.api is not set); add it to the config.toml, or set spec.api\n"
    );
    assert!(!home.path().join("ran").exists());
    let ran = run(home.path(), &["exec", "-f", "objects.yaml", "--", "no-such-program"], &env);
    assert_eq!(ran.stderr, "prefect-sync: running no-such-program: No such file or directory (os error 2)\n");
    assert_eq!(run(home.path(), &["exec", "-f", "objects.yaml"], &env).code, 2, "a command is asked for");
}

const LOCAL: &str = "{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectSecret, metadata: {name: etl}, spec: {data: [{secretKey: A, remoteRef: {key: A}}]}}";

#[test]
fn a_file_that_cannot_be_used_is_named_and_nothing_of_its_content_is_shown() {
    let home = Scratch::new("cli");
    for (text, message) in [
        ("kind: Secret\nstringData:\n  a: hunter2\n b: [hunter3\n", "bad.yaml, line 4: no YAML"),
        ("kind: Secret\nstringData: [hunter2]\n", "bad.yaml, document 1: this Secret is not of the expected shape"),
        (
            "---\nkind: ConfigMap\ndata: [hunter2]\n",
            "bad.yaml, document 1: this ConfigMap is not of the expected shape: invalid type: sequence, expected a map",
        ),
        ("kind: Deployment\n", "no PrefectSecret and no PrefectKV in the files given with -f"),
        ("", "no PrefectSecret and no PrefectKV in the files given with -f"),
        (
            "kind: Deployment\n---\napiVersion: prefect-sync.dev/v1alpha1\nkind: PrefectSecret\nmetadata: {name: a}\n",
            "bad.yaml, document 2: this is no PrefectSecret: missing field `spec`",
        ),
    ] {
        std::fs::write(home.path().join("bad.yaml"), text).unwrap();
        let ran = run(home.path(), &["render", "-f", "bad.yaml"], &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
        assert_eq!(ran.stderr, format!("prefect-sync: {message}\n"));
    }
    let ran = run(home.path(), &["render", "-f", "none.yaml"], &[]);
    assert_eq!(ran.stderr, "prefect-sync: reading none.yaml: No such file or directory (os error 2)\n");
    assert_eq!(run(home.path(), &["render"], &[]).code, 2);
}

/// Everything that `render` needs for a ClusterPrefectWorkspace is in files: rules, labels, a team's own secrets over it.
#[test]
fn render_reads_through_a_cluster_workspace_what_its_rules_allow() {
    let scratch = Scratch::new("cli");
    let write = |name: &str, documents: &[serde_json::Value]| {
        let documents: Vec<String> = documents.iter().map(ToString::to_string).collect();
        std::fs::write(scratch.path().join(name), documents.join("\n---\n")).unwrap();
    };
    let config = |namespace: &str, text: &str| {
        let metadata =
            json!({"name": "config", "namespace": namespace, "labels": {"prefect-sync.dev/offer": "workspace"}});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"config.toml": text}})
    };
    let ours = |kind: &str, metadata: serde_json::Value, spec: serde_json::Value| json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
    let local = json!({"configToml": {"secretKeyRef": {"namespace": "platform", "name": "config"}}});
    let rule = json!({"namespaceSelector": {"matchLabels": {"team": "yes"}}, "keys": ["{namespace}-*"]});
    let all = [
        config("platform", "[context.secrets]\nads-db = \"of all\"\nbi-db = \"theirs\"\n"),
        ours("ClusterPrefectWorkspace", json!({"name": "default"}), json!({"local": local, "access": [rule]})),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ads", "labels": {"team": "yes"}}}),
    ];
    write("platform.yaml", &all);
    let data = json!([
        {"secretKey": "OWN", "remoteRef": {"key": "ads-db"}},
        {"secretKey": "THEIRS", "remoteRef": {"key": "bi-db"}},
    ]);
    // As `kubectl get -o yaml` prints it.
    let metadata = json!({"name": "etl", "namespace": "ads", "creationTimestamp": "2026-01-01T00:00:00Z"});
    write("team.yaml", &[ours("PrefectSecret", metadata.clone(), json!({"data": [data[0]]}))]);
    write("denied.yaml", &[ours("PrefectSecret", metadata.clone(), json!({"data": data}))]);
    let render = |files: &[&str]| {
        let mut args = vec!["render", "-o", "yaml", "--show-values"];
        args.extend(files.iter().flat_map(|file| ["-f", file]));
        run(scratch.path(), &args, &[])
    };
    let value = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let allowed = render(&["platform.yaml", "team.yaml"]);
    assert_eq!((allowed.code, allowed.stderr.as_str()), (0, ""));
    assert!(allowed.stdout.contains(&value("of all")), "{}", allowed.stdout);
    let denied = render(&["platform.yaml", "denied.yaml"]);
    let message = "PrefectSecret/etl THEIRS: namespace \"ads\" may not read secret block \"bi-db\" through ClusterPrefectWorkspace \"default\"";
    assert_eq!((denied.code, denied.stdout.as_str()), (1, ""));
    assert!(denied.stderr.starts_with(message), "{}", denied.stderr);
    // A team's own secrets over it.
    let local = json!({"configToml": {"secretKeyRef": {"name": "config"}}});
    let over = ours(
        "PrefectWorkspace",
        json!({"name": "default", "namespace": "ads"}),
        json!({"parent": {"name": "default"}, "local": local}),
    );
    write("over.yaml", &[config("ads", "[context.secrets]\nbi-db = \"our own\"\n"), over]);
    let over = render(&["platform.yaml", "denied.yaml", "over.yaml"]);
    assert_eq!((over.code, over.stderr.as_str()), (0, ""));
    assert!(over.stdout.contains(&value("of all")) && over.stdout.contains(&value("our own")), "{}", over.stdout);
}

#[tokio::test]
async fn check_says_whether_the_workspace_can_be_read_and_each_entry_exists_and_shows_no_value() {
    let scratch = Scratch::new("check");
    let prefect = Prefect::start(PrefectOptions::default()).await;
    prefect.set_secret("db-password", json!("canary")).await;
    let ours = |kind: &str, name: &str, spec: serde_json::Value| json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let write = |url: &str, key: &str| {
        let workspace = ours("PrefectWorkspace", "default", json!({"api": {"url": url}}));
        let data = json!([{"secretKey": "A", "remoteRef": {"key": "db-password"}}, {"secretKey": "B", "remoteRef": {"key": key}}]);
        let text = format!("{workspace}\n---\n{}", ours("PrefectSecret", "etl", json!({"data": data})));
        std::fs::write(scratch.path().join("my.yaml"), text).unwrap();
    };
    let check = || run(scratch.path(), &["check", "-f", "my.yaml"], &[]);
    write(prefect.url(), "db-password");
    let well = check();
    assert_eq!((well.code, well.stderr.as_str()), (0, ""));
    let mut expected = vec![
        vec!["WORKSPACE", "SERVER", "STATE"],
        vec!["PrefectWorkspace", "default/default", "3.8.8", "Connected"],
        vec![],
        vec!["OBJECT", "KEY", "SOURCE", "STATE"],
        vec!["PrefectSecret/etl", "A", "Api", "Found"],
        vec!["PrefectSecret/etl", "B", "Api", "Found"],
    ];
    assert_eq!(words(&well.stdout), expected);
    write(prefect.url(), "db_password");
    let missing = check();
    expected[5] = vec!["PrefectSecret/etl", "B", "-", "KeyNotFound"];
    assert_eq!((missing.code, words(&missing.stdout)), (1, expected));
    assert!(missing.stderr.starts_with("PrefectSecret/etl B: no secret block \"db_password\""), "{}", missing.stderr);
    write("http://127.0.0.1:1/api", "db-password");
    let unreachable = check();
    assert_eq!(unreachable.code, 1);
    assert_eq!(words(&unreachable.stdout)[1], ["PrefectWorkspace", "default/default", "-", "PrefectUnreachable"]);
    let problems: Vec<&str> = unreachable.stderr.lines().collect();
    assert!(
        problems.len() == 1 && problems[0].starts_with("PrefectWorkspace default/default: cannot reach 127.0.0.1:1"),
        "{problems:?}"
    );
    assert!(
        [well.stdout, missing.stdout, missing.stderr, unreachable.stderr].iter().all(|text| !text.contains("canary"))
    );
}
