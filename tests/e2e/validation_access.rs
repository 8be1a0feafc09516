//! Bad workspaces of the whole cluster and bad parents, for the table in `validation`.

use serde_json::{Value, json};

use crate::validation::{Case, one, shape};

fn cluster(spec: Value) -> (&'static str, Value) {
    ("ClusterPrefectWorkspace", spec)
}

fn access(rule: Value) -> (&'static str, Value) {
    cluster(json!({"api": {"url": "http://prefect/api"}, "access": [rule]}))
}

fn key(secret_key_ref: Value) -> (&'static str, Value) {
    cluster(json!({"api": {"url": "http://prefect/api", "apiKey": {"secretKeyRef": secret_key_ref}}}))
}

fn over(spec: Value) -> (&'static str, Value) {
    ("PrefectWorkspace", spec)
}

fn selector(selector: Value) -> (&'static str, Value) {
    access(json!({"namespaceSelector": selector, "keys": ["*"]}))
}

pub fn bad_access() -> Vec<Case> {
    let neither = "set spec.api (a Prefect server or Cloud), spec.local (a config.toml), or both; or spec.prefect1";
    let who = "set namespaces or namespaceSelector, exactly one of them";
    let by = "set matchLabels or matchExpressions; all namespaces have the label kubernetes.io/metadata.name (operator: Exists)";
    let invalid = |field: &str, words: &str| one(&format!("spec.{field}: Invalid value: {words}"));
    let whole_names = "namespaces are whole names, without wildcards; namespaceSelector selects by label";
    let placeholder = "keys are names with * for any text and {namespace} for the asking namespace's name; there is no other placeholder";
    let both = "in keys * stands before {namespace} or after it, not both: anybody's name may be somewhere in a name";
    let types = "blockTypes are whole names as in the type's address, such as aws-credentials";
    let values = "In and NotIn need values; Exists and DoesNotExist take none";
    let brings = "spec.parent brings its own Prefect: leave spec.api, spec.prefect1 and spec.rateLimit out";
    let least = |field: &str| {
        one(&format!("spec.{field}: Invalid value: 0: spec.{field} in body should have at least 1 items"))
    };
    let names = |count: usize| (0..count).map(|n| json!(format!("n{n}"))).collect::<Vec<_>>();
    let parent = json!({"name": "prod"});
    vec![
        (cluster(json!({})), one(&format!("spec: Invalid value: {neither}"))),
        (
            cluster(json!({"access": [{"namespaces": ["a"], "keys": ["a"]}]})),
            one(&format!("spec: Invalid value: {neither}")),
        ),
        (key(json!({"name": "key"})), shape("spec.api.apiKey.secretKeyRef.namespace: Required value")),
        (access(json!({"namespaces": ["a"]})), shape("spec.access[0].keys: Required value")),
        (access(json!({"keys": ["a"]})), invalid("access[0]", who)),
        (
            access(json!({"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"a": "b"}}, "keys": ["a"]})),
            invalid("access[0]", who),
        ),
        (access(json!({"namespaces": [], "keys": ["a"]})), least("access[0].namespaces")),
        (access(json!({"namespaces": ["team-*"], "keys": ["a"]})), invalid("access[0].namespaces", whole_names)),
        // What a client that only warns of unknown fields leaves of a misspelt selector.
        (selector(json!({})), invalid("access[0].namespaceSelector", by)),
        (selector(json!({"matchLabels": {}})), invalid("access[0].namespaceSelector", by)),
        (access(json!({"namespaces": ["a"], "keys": []})), least("access[0].keys")),
        (access(json!({"namespaces": ["a"], "keys": ["{team}-*"]})), invalid("access[0].keys", placeholder)),
        (access(json!({"namespaces": ["a"], "keys": ["{namespace-*"]})), invalid("access[0].keys", placeholder)),
        (access(json!({"namespaces": ["a"], "keys": ["*-{namespace}-*"]})), invalid("access[0].keys", both)),
        (access(json!({"namespaces": ["a"], "keys": ["a"], "blockTypes": []})), least("access[0].blockTypes")),
        (
            access(json!({"namespaces": ["a"], "keys": ["a"], "blockTypes": ["aws-*"]})),
            invalid("access[0].blockTypes", types),
        ),
        (
            selector(json!({"matchExpressions": [{"key": "a", "operator": "In"}]})),
            invalid("access[0].namespaceSelector.matchExpressions[0]", values),
        ),
        (
            selector(json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]})),
            invalid("access[0].namespaceSelector.matchExpressions[0]", values),
        ),
        (
            selector(json!({"matchExpressions": [{"key": "a", "operator": "Is"}]})),
            shape(
                r#"spec.access[0].namespaceSelector.matchExpressions[0].operator: Unsupported value: "Is": supported values: "In", "NotIn", "Exists", "DoesNotExist""#,
            ),
        ),
        (
            access(json!({"namespaces": names(257), "keys": ["a"]})),
            shape("spec.access[0].namespaces: Too many: 257: must have at most 256 items"),
        ),
        (
            access(json!({"namespaces": ["a"], "keys": names(65)})),
            shape("spec.access[0].keys: Too many: 65: must have at most 64 items"),
        ),
        (
            over(json!({"parent": parent, "api": {"url": "http://prefect/api"}})),
            one(&format!("spec: Invalid value: {brings}")),
        ),
        (
            over(json!({"parent": parent, "rateLimit": {"requestsPerMinute": 1}})),
            one(&format!("spec: Invalid value: {brings}")),
        ),
        (over(json!({"parent": {}})), shape("spec.parent.name: Required value")),
    ]
}

pub fn good_access() -> Vec<(&'static str, Value)> {
    let rule = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "keys": ["{namespace}-*", "*", "a-{namespace}*b", "*-{namespace}"], "blockTypes": ["secret"], "variables": true});
    vec![
        cluster(
            json!({"api": {"url": "http://prefect/api"}, "access": (0..128).map(|_| rule.clone()).collect::<Vec<_>>()}),
        ),
        key(json!({"namespace": "platform", "name": "key"})),
        over(json!({"parent": {"name": "prod"}})),
        over(json!({"parent": {"name": "prod"}, "refreshInterval": "1m", "staleAfter": "1h"})),
    ]
}
