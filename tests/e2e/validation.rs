//! What bad objects get: words from the API server that say what to do, or a condition where only the operator can
//! see what is wrong.

use serde_json::{Value, json};

use crate::fixture::control_plane;
use crate::validation_access::{bad_access, good_access};
use crate::validation_sources::{bad_layouts, bad_sources, good};

/// What the API server adds where the shape is wrong, since then it can't evaluate rules.
const NOT_CHECKED: &str = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
pub const KEY: &str = r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";
pub const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
pub const DURATION: &str = r"^([0-9]{1,5}(\.[0-9]{1,3})?h|[0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m))+$";
const TYPES: &str = "type must be Opaque, kubernetes.io/dockerconfigjson, kubernetes.io/tls, kubernetes.io/basic-auth, kubernetes.io/ssh-auth or a type outside kubernetes.io and helm.sh: the others give power over the cluster";

/// A field whose value does not match its pattern, and the rule that says so in words.
pub fn mismatch(field: &str, value: &str, pattern: &str, words: &str) -> Vec<String> {
    vec![
        format!("{field}: Invalid value: {value:?}: {field} in body should match '{pattern}'"),
        format!("{field}: Invalid value: {value:?}: {words}"),
    ]
}

/// An illegal key of a Secret or ConfigMap.
fn bad_key(field: &str, value: &str) -> Vec<String> {
    mismatch(&format!("spec.data[0].{field}"), value, KEY, &key_words(field))
}

fn key_words(field: &str) -> String {
    format!(
        r#"{field} must be letters, digits, '-', '_' and '.', such as DB_PASSWORD, and neither be "." nor begin with "..""#
    )
}

/// A refresh interval that is no duration.
fn no_interval(value: &str) -> Vec<String> {
    mismatch(
        "spec.refreshInterval",
        value,
        DURATION,
        "refreshInterval must be a duration from 1s to 24h, such as 30s, 5m or 1h30m",
    )
}

/// A refresh interval that is one, but too short or too long.
fn bad_interval(value: &str) -> Vec<String> {
    no_interval(value).split_off(1)
}

fn metadata(what: &str) -> Vec<String> {
    vec![format!(
        "spec.target.template.metadata.{what}: Invalid value: {what} must not use keys of kubernetes.io, k8s.io, argoproj.io or prefect-sync.dev: they steer controllers (app.kubernetes.io/... is fine)"
    )]
}

pub fn one(problem: &str) -> Vec<String> {
    vec![problem.to_owned()]
}

/// A problem with the shape.
pub fn shape(problem: &str) -> Vec<String> {
    vec![problem.to_owned(), NOT_CHECKED.to_owned()]
}

pub fn entry(secret_key: &str) -> Value {
    json!({"secretKey": secret_key, "remoteRef": {"key": "a"}})
}

pub fn secret(data: &[Value]) -> (&'static str, Value) {
    ("PrefectSecret", json!({"data": data}))
}

/// One entry that reads `remote`.
fn reading(remote: Value) -> (&'static str, Value) {
    secret(&[json!({"secretKey": "A", "remoteRef": remote})])
}

/// One good entry with more beside it.
fn with(more: Value) -> (&'static str, Value) {
    let mut entry = entry("A");
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    secret(&[entry])
}

pub fn target(target: Value) -> (&'static str, Value) {
    ("PrefectSecret", json!({"data": [entry("A")], "target": target}))
}

fn labelled(metadata: Value) -> (&'static str, Value) {
    target(json!({"template": {"metadata": metadata}}))
}

pub fn kv(data: Value) -> (&'static str, Value) {
    ("PrefectKV", json!({"data": data}))
}

fn workspace(spec: Value) -> (&'static str, Value) {
    ("PrefectWorkspace", spec)
}

fn api(more: Value) -> (&'static str, Value) {
    let mut api = json!({"url": "http://prefect:4200/api"});
    api.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    workspace(json!({"api": api}))
}

fn every(interval: &str) -> (&'static str, Value) {
    workspace(json!({"api": {"url": "http://prefect:4200/api"}, "refreshInterval": interval}))
}

fn own_interval(kind: &'static str, interval: &str) -> (&'static str, Value) {
    let mut object = if kind == "PrefectKV" {
        kv(json!([{"configMapKey": "A", "remoteRef": {"key": "a"}}]))
    } else {
        secret(&[entry("A")])
    };
    object.1["refreshInterval"] = json!(interval);
    object
}

fn rate(requests_per_minute: Value) -> (&'static str, Value) {
    workspace(
        json!({"api": {"url": "http://prefect:4200/api"}, "rateLimit": {"requestsPerMinute": requests_per_minute}}),
    )
}

pub fn many(count: usize) -> Value {
    (0..count).map(|number| (format!("l{number}"), json!("x"))).collect::<serde_json::Map<_, _>>().into()
}

pub type Case = ((&'static str, Value), Vec<String>);

fn bad_data() -> Vec<Case> {
    let exactly_one =
        "spec.data[0].remoteRef: Invalid value: set remoteRef.key (a block) or remoteRef.variable, exactly one of them";
    let not_both = "spec.data[0]: Invalid value: set optional or default, not both: a default already stands in where Prefect has no value";
    let (long, longer) = ("x".repeat(254), "x".repeat(65537));
    let hosts = json!({"configMapKey": "HOST", "remoteRef": {"key": "host"}});
    vec![
        (("PrefectSecret", json!({})), one("spec: Invalid value: set spec.data, spec.dataFrom, or both")),
        (secret(&[]), one("spec.data: Invalid value: 0: spec.data in body should have at least 1 items")),
        (kv(json!([])), one("spec.data: Invalid value: 0: spec.data in body should have at least 1 items")),
        (secret(&[entry("..")]), bad_key("secretKey", "..")),
        (secret(&[entry(".")]), bad_key("secretKey", ".")),
        (secret(&[entry("..a")]), bad_key("secretKey", "..a")),
        (secret(&[entry("a/b")]), bad_key("secretKey", "a/b")),
        (secret(&[entry("a b")]), bad_key("secretKey", "a b")),
        (kv(json!([{"configMapKey": "a/b", "remoteRef": {"key": "a"}}])), bad_key("configMapKey", "a/b")),
        (
            secret(&[entry("")]),
            vec![
                r#"spec.data[0].secretKey: Invalid value: "": spec.data[0].secretKey in body should be at least 1 chars long"#.to_owned(),
                format!(r#"spec.data[0].secretKey: Invalid value: "": {}"#, key_words("secretKey")),
            ],
        ),
        (secret(&[entry(&long)]), shape("spec.data[0].secretKey: Too long: may not be more than 253 bytes")),
        (secret(&[entry("A"), entry("B"), entry("A")]), one(r#"spec.data[2]: Duplicate value: {"secretKey":"A"}"#)),
        (kv(json!([hosts, hosts])), one(r#"spec.data[1]: Duplicate value: {"configMapKey":"HOST"}"#)),
        (
            secret(&(0..513).map(|n| entry(&format!("K{n}"))).collect::<Vec<_>>()),
            shape("spec.data: Too many: 513: must have at most 512 items"),
        ),
        (secret(&[json!({"remoteRef": {"key": "a"}})]), shape("spec.data[0].secretKey: Required value")),
        (secret(&[json!({"secretKey": "A"})]), shape("spec.data[0].remoteRef: Required value")),
        (reading(json!({"key": "a", "variable": "b"})), one(exactly_one)),
        (reading(json!({"property": "a"})), one(exactly_one)),
        (
            reading(json!({"variable": "a", "blockType": "secret"})),
            one("spec.data[0].remoteRef: Invalid value: remoteRef.blockType goes with remoteRef.key; a variable has no block type"),
        ),
        (
            reading(json!({"key": "a", "blockType": "AWS Credentials"})),
            mismatch(
                "spec.data[0].remoteRef.blockType",
                "AWS Credentials",
                "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                "remoteRef.blockType must be the type's name in its address, such as aws-credentials: lower-case letters, digits and '-'",
            ),
        ),
        (
            reading(json!({"key": ""})),
            one(r#"spec.data[0].remoteRef.key: Invalid value: "": spec.data[0].remoteRef.key in body should be at least 1 chars long"#),
        ),
        (
            reading(json!({"key": "k".repeat(256)})),
            shape("spec.data[0].remoteRef.key: Too long: may not be more than 255 bytes"),
        ),
        (
            reading(json!({"key": "k", "property": "p".repeat(1025)})),
            shape("spec.data[0].remoteRef.property: Too long: may not be more than 1024 bytes"),
        ),
        (with(json!({"optional": true, "default": "x"})), one(not_both)),
        (kv(json!([{"configMapKey": "A", "remoteRef": {"key": "a"}, "optional": true, "default": "x"}])), one(not_both)),
        (
            with(json!({"default": 5})),
            shape(r#"spec.data[0].default: Invalid value: "integer": spec.data[0].default in body must be of type string: "integer""#),
        ),
        (with(json!({"default": longer})), shape("spec.data[0].default: Too long: may not be more than 65536 bytes")),
    ]
}

fn bad_targets() -> Vec<Case> {
    let target_type = |wrong: &str| one(&format!("spec.target.template.type: Invalid value: {wrong:?}: {TYPES}"));
    let template = |wrong: &str| target(json!({"template": {"type": wrong}}));
    vec![
        (template("kubernetes.io/service-account-token"), target_type("kubernetes.io/service-account-token")),
        (template("bootstrap.kubernetes.io/token"), target_type("bootstrap.kubernetes.io/token")),
        (template("helm.sh/release.v1"), target_type("helm.sh/release.v1")),
        (
            labelled(json!({"labels": {"owner": "helm"}})),
            one(
                r#"spec.target.template.metadata.labels: Invalid value: labels must not say owner: helm: Helm would take the target for a release, and do what it says"#,
            ),
        ),
        (template("kubernetes.io/dockercfg"), target_type("kubernetes.io/dockercfg")),
        (labelled(json!({"labels": {"kubernetes.io/x": "y"}})), metadata("labels")),
        (labelled(json!({"labels": {"gateway.networking.k8s.io/x": "y"}})), metadata("labels")),
        (labelled(json!({"labels": {"argocd.argoproj.io/secret-type": "cluster"}})), metadata("labels")),
        (labelled(json!({"labels": {"prefect-sync.dev/owned-by": "PrefectKV"}})), metadata("labels")),
        (labelled(json!({"annotations": {"kubernetes.io/service-account.name": "x"}})), metadata("annotations")),
        (labelled(json!({"annotations": {"prefect-sync.dev/owner": "PrefectSecret/x"}})), metadata("annotations")),
        (
            labelled(json!({"labels": many(65)})),
            shape("spec.target.template.metadata.labels: Too many: 65: must have at most 64 items"),
        ),
        (
            target(json!({"name": "My_Secret"})),
            mismatch(
                "spec.target.name",
                "My_Secret",
                NAME,
                "the target's name must be lower-case letters, digits, '-' and '.', such as etl-secrets, and begin and end with a letter or digit",
            ),
        ),
        (target(json!({"name": "a".repeat(254)})), shape("spec.target.name: Too long: may not be more than 253 bytes")),
        (
            target(json!({"creationPolicy": "Shared"})),
            shape(
                r#"spec.target.creationPolicy: Unsupported value: "Shared": supported values: "Owner", "Merge", "Orphan""#,
            ),
        ),
        (
            target(json!({"deletionPolicy": "delete"})),
            shape(r#"spec.target.deletionPolicy: Unsupported value: "delete": supported values: "Retain", "Delete""#),
        ),
        (
            ("PrefectSecret", json!({"data": [entry("A")], "workspaceRef": {"kind": "Workspace", "name": "x"}})),
            shape(
                r#"spec.workspaceRef.kind: Unsupported value: "Workspace": supported values: "PrefectWorkspace", "ClusterPrefectWorkspace""#,
            ),
        ),
        (
            ("PrefectSecret", json!({"data": [entry("A")], "workspaceRef": {}})),
            shape("spec.workspaceRef.name: Required value"),
        ),
    ]
}

fn bad_workspaces() -> Vec<Case> {
    let scheme = |url: &str| {
        one(&format!(
            "spec.api.url: Invalid value: {url:?}: url must start with http:// or https://, such as http://prefect-server:4200/api"
        ))
    };
    let ids = "spec.api: Invalid value: set accountId and workspaceId together, or neither; both are in the address that the browser shows";
    let neither = "spec: Invalid value: set spec.api (a Prefect server or Cloud), spec.local (a config.toml), or both; or spec.prefect1; or spec.parent";
    let key = json!({"secretKeyRef": {"name": "x"}});
    let reference = json!({"secretKeyRef": {"name": "x"}});
    let stale = "staleAfter must be a duration of at most 720h, such as 10m or 1h30m; 0s for none";
    let stale_after = |value: &str| workspace(json!({"api": {"url": "http://prefect/api"}, "staleAfter": value}));
    vec![
        (workspace(json!({})), one(neither)),
        (workspace(json!({"refreshInterval": "30s"})), one(neither)),
        (workspace(json!({"api": {}})), shape("spec.api.url: Required value")),
        (
            workspace(json!({"api": {"url": "http://prefect/api"}, "prefect1": {"apiKey": key}})),
            one(
                "spec: Invalid value: set spec.api (Prefect 2 and 3) or spec.prefect1, not both: a workspace is one Prefect",
            ),
        ),
        (
            workspace(json!({"prefect1": {}})),
            one("spec.prefect1: Invalid value: set prefect1.apiKey; only backend: Server needs none"),
        ),
        (
            workspace(json!({"prefect1": {"backend": "Server"}})),
            one("spec: Invalid value: Prefect 1's Server keeps no secrets: set spec.local, or prefect1.backend: Cloud"),
        ),
        (
            workspace(json!({"prefect1": {"apiKey": key, "apiUrl": "api.prefect.io"}})),
            one(
                r#"spec.prefect1.apiUrl: Invalid value: "api.prefect.io": apiUrl must start with http:// or https://, such as https://api.prefect.io"#,
            ),
        ),
        (
            workspace(json!({"prefect1": {"apiKey": key, "backend": "cloud"}})),
            shape(r#"spec.prefect1.backend: Unsupported value: "cloud": supported values: "Cloud", "Server""#),
        ),
        (workspace(json!({"api": {"url": "prefect:4200/api"}})), scheme("prefect:4200/api")),
        (workspace(json!({"api": {"url": "ftp://prefect"}})), scheme("ftp://prefect")),
        (
            workspace(json!({"api": {"url": format!("http://{}", "x".repeat(2048))}})),
            shape("spec.api.url: Too long: may not be more than 2048 bytes"),
        ),
        (api(json!({"accountId": "a"})), one(ids)),
        (api(json!({"workspaceId": "w"})), one(ids)),
        (
            api(json!({"apiKey": reference, "authString": reference})),
            one("spec.api: Invalid value: set apiKey (Prefect Cloud) or authString (self-hosted), not both"),
        ),
        // The key itself, where a reference belongs: it must not be repeated.
        (
            api(json!({"apiKey": "pnu_key"})),
            shape(
                r#"spec.api.apiKey: Invalid value: "string": spec.api.apiKey in body must be of type object: "string""#,
            ),
        ),
        (api(json!({"apiKey": {"secretKeyRef": {}}})), shape("spec.api.apiKey.secretKeyRef.name: Required value")),
        (workspace(json!({"local": {}})), shape("spec.local.configToml: Required value")),
        (every("-30s"), no_interval("-30s")),
        (every("1d"), no_interval("1d")),
        (every("abc"), no_interval("abc")),
        (every("30"), no_interval("30")),
        (every(""), no_interval("")),
        (every("99999999999h"), no_interval("99999999999h")),
        (every("0s"), bad_interval("0s")),
        (every("500ms"), bad_interval("500ms")),
        (every("24h1s"), bad_interval("24h1s")),
        (own_interval("PrefectSecret", "1d"), no_interval("1d")),
        (own_interval("PrefectSecret", "0s"), bad_interval("0s")),
        (own_interval("PrefectKV", "25h"), bad_interval("25h")),
        (
            rate(json!(0)),
            one(
                "spec.rateLimit.requestsPerMinute: Invalid value: 0: spec.rateLimit.requestsPerMinute in body should be greater than or equal to 1",
            ),
        ),
        (
            rate(json!(100_001)),
            one(
                "spec.rateLimit.requestsPerMinute: Invalid value: 100001: spec.rateLimit.requestsPerMinute in body should be less than or equal to 100000",
            ),
        ),
        (
            workspace(json!({"api": {"url": "http://prefect/api"}, "refreshInterval": 30})),
            shape(
                r#"spec.refreshInterval: Invalid value: "integer": spec.refreshInterval in body must be of type string: "integer""#,
            ),
        ),
        (stale_after("-1s"), mismatch("spec.staleAfter", "-1s", DURATION, stale)),
        (stale_after("721h"), one(&format!(r#"spec.staleAfter: Invalid value: "721h": {stale}"#))),
    ]
}

/// Creates it as `kubectl apply` does where nothing exists, without keeping it; the API server's words when refused.
async fn create(client: &kube::Client, kind: &str, spec: &Value) -> Result<(), String> {
    let plural = format!("{}s", kind.to_lowercase());
    let object = json!({
        "apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": "bad"}, "spec": spec,
    });
    let place = if kind.starts_with("Cluster") { "" } else { "namespaces/default/" };
    let path = format!("/apis/prefect-sync.dev/v1alpha1/{place}{plural}");
    let request = axum::http::Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"))
        .header("Content-Type", "application/json")
        .body(object.to_string().into_bytes())
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("creating {object}: {error}"),
    }
}

fn all() -> impl Iterator<Item = Case> {
    bad_data()
        .into_iter()
        .chain(bad_targets())
        .chain(bad_workspaces())
        .chain(bad_sources())
        .chain(bad_layouts())
        .chain(bad_access())
}

#[tokio::test]
async fn bad_objects_are_refused_by_the_api_server_with_words_that_say_what_to_do() {
    let client = control_plane().await.admin().await;
    assert!(all().count() >= 80, "{}", all().count());
    let mut wrong = Vec::new();
    for ((kind, spec), problems) in all() {
        let problems =
            if let [problem] = &problems[..] { problem.clone() } else { format!("[{}]", problems.join(", ")) };
        let expected = Err(format!(r#"{kind}.prefect-sync.dev "bad" is invalid: {problems}"#));
        let got = create(&client, kind, &spec).await;
        if got != expected {
            let spec: String = spec.to_string().chars().take(200).collect();
            wrong.push(format!("{kind} {spec}\nexpected {expected:#?}\ngot      {got:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));

    // A field that there is not, such as a misspelt one, and one of the other kind.
    for ((kind, spec), field) in [
        (reading(json!({"key": "a", "propery": "x"})), "spec.data[0].remoteRef.propery"),
        (
            kv(json!([{"configMapKey": "A", "remoteRef": {"key": "a", "blockType": "secret"}}])),
            "spec.data[0].remoteRef.blockType",
        ),
        (api(json!({"apiKey": {"value": "pnu_key"}})), "spec.api.apiKey.value"),
        (
            api(json!({"apiKey": {"secretKeyRef": {"namespace": "platform", "name": "key"}}})),
            "spec.api.apiKey.secretKeyRef.namespace",
        ),
    ] {
        let expected = format!(
            r#"{kind} in version "v1alpha1" cannot be handled as a {kind}: strict decoding error: unknown field "{field}""#
        );
        assert!(create(&client, kind, &spec).await.is_err_and(|got| got.starts_with(&expected)), "{expected}");
    }
}

#[tokio::test]
async fn the_limits_themselves_are_fine() {
    let client = control_plane().await.admin().await;
    for (kind, spec) in [
        secret(&(0..512).map(|n| entry(&format!("{}{n:03}", "K".repeat(250)))).collect::<Vec<_>>()),
        secret(&[entry(".dockerconfigjson"), entry("a..b"), entry("-"), entry("_")]),
        with(json!({"optional": true})),
        with(json!({"optional": false, "default": ""})),
        reading(json!({"key": "a", "blockType": "aws-credentials", "property": "p".repeat(1024)})),
        target(json!({"name": "a".repeat(253), "template": {"type": "example.com/custom"}})),
        labelled(json!({"labels": many(64), "annotations": {"app.kubernetes.io/name": "x", "example.com/y": "z"}})),
        api(json!({"accountId": "a", "workspaceId": "w"})),
        every("1s"),
        every("1h30m"),
        every("0.5h"),
        every("24h"),
        workspace(json!({"local": {"configToml": {"secretKeyRef": {"name": "x"}}}, "staleAfter": "720h"})),
    ]
    .into_iter()
    .chain(good())
    .chain(good_access())
    {
        assert_eq!(create(&client, kind, &spec).await, Ok(()), "{kind} {:.200}", spec.to_string());
    }
}
