//! Bad `dataFrom`, formats, templates, policies and restarts, for the table in `validation`.

use serde_json::{Value, json};

use crate::validation::{Case, DURATION, KEY, NAME, entry, kv, many, mismatch, one, secret, shape, target};

fn from(item: Value) -> (&'static str, Value) {
    ("PrefectSecret", json!({"dataFrom": [item]}))
}

fn kv_from(item: Value) -> (&'static str, Value) {
    ("PrefectKV", json!({"dataFrom": [item]}))
}

fn find(find: Value) -> (&'static str, Value) {
    from(json!({"find": find}))
}

fn extract(extract: Value) -> (&'static str, Value) {
    from(json!({"extract": extract}))
}

fn rewrite(step: Value) -> (&'static str, Value) {
    from(json!({"find": {"name": {"regexp": "."}}, "rewrite": [step]}))
}

fn format(format: Value) -> (&'static str, Value) {
    target(json!({"format": format}))
}

fn restart(restart: Value) -> (&'static str, Value) {
    ("PrefectSecret", json!({"data": [entry("A")], "restart": [restart]}))
}

fn invalid(field: &str, words: &str) -> Vec<String> {
    one(&format!("{field}: Invalid value: {words}"))
}

pub fn bad_sources() -> Vec<Case> {
    let one_source = "set find (many blocks or variables) or extract (the members of one JSON object), exactly one of them in each item of dataFrom";
    let one_step = "set regexp, rename or envName, exactly one of them in each step of rewrite";
    let everything = "set find.name.regexp, or find.tags for variables; to take everything write name: {regexp: '.'}";
    let name = json!({"regexp": "x"});
    let block_type =
        "must be the type's name in its address, such as aws-credentials: lower-case letters, digits and '-'";
    let type_pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    let least = |field: &str| one(&format!("{field}: Invalid value: 0: {field} in body should have at least 1 items"));
    vec![
        (("PrefectKV", json!({})), invalid("spec", "set spec.data, spec.dataFrom, or both")),
        (("PrefectSecret", json!({"dataFrom": []})), least("spec.dataFrom")),
        (from(json!({})), invalid("spec.dataFrom[0]", one_source)),
        (from(json!({"find": {"name": name}, "extract": {"key": "a"}})), invalid("spec.dataFrom[0]", one_source)),
        (kv_from(json!({"rewrite": [{"envName": {}}]})), invalid("spec.dataFrom[0]", one_source)),
        (
            (
                "PrefectSecret",
                json!({"dataFrom": (0..33).map(|_| json!({"extract": {"key": "a"}})).collect::<Vec<_>>()}),
            ),
            shape("spec.dataFrom: Too many: 33: must have at most 32 items"),
        ),
        (find(json!({})), invalid("spec.dataFrom[0].find", everything)),
        (
            kv_from(json!({"find": {}})),
            invalid(
                "spec.dataFrom[0].find",
                "set find.name.regexp or find.tags; to take everything write name: {regexp: '.'}",
            ),
        ),
        (find(json!({"blockType": "secret"})), invalid("spec.dataFrom[0].find", everything)),
        (find(json!({"name": {}})), shape("spec.dataFrom[0].find.name.regexp: Required value")),
        (find(json!({"kind": "Variable", "tags": []})), least("spec.dataFrom[0].find.tags")),
        (
            find(json!({"name": {"regexp": ""}})),
            one(
                r#"spec.dataFrom[0].find.name.regexp: Invalid value: "": spec.dataFrom[0].find.name.regexp in body should be at least 1 chars long"#,
            ),
        ),
        (
            find(json!({"name": name, "tags": ["x"]})),
            invalid("spec.dataFrom[0].find", "find.tags goes with kind: Variable; blocks have no tags"),
        ),
        (
            find(json!({"name": name, "kind": "Variable", "blockType": "secret"})),
            invalid("spec.dataFrom[0].find", "find.blockType goes with kind: Block; a variable has no block type"),
        ),
        (
            find(json!({"name": name, "kind": "Secret"})),
            shape(r#"spec.dataFrom[0].find.kind: Unsupported value: "Secret": supported values: "Block", "Variable""#),
        ),
        (
            find(json!({"name": name, "blockType": "AWS"})),
            mismatch("spec.dataFrom[0].find.blockType", "AWS", type_pattern, &format!("find.blockType {block_type}")),
        ),
        (
            find(json!({"name": name, "decoding": "base64"})),
            shape(r#"spec.dataFrom[0].find.decoding: Unsupported value: "base64": supported values: "None", "Base64""#),
        ),
        (
            extract(json!({"key": "a", "variable": "b"})),
            invalid("spec.dataFrom[0].extract", "set extract.key (a block) or extract.variable, exactly one of them"),
        ),
        (
            extract(json!({"include": ["a"]})),
            invalid("spec.dataFrom[0].extract", "set extract.key (a block) or extract.variable, exactly one of them"),
        ),
        (
            extract(json!({"variable": "b", "blockType": "secret"})),
            invalid(
                "spec.dataFrom[0].extract",
                "extract.blockType goes with extract.key; a variable has no block type",
            ),
        ),
        (
            extract(json!({"key": "a", "blockType": "x_y"})),
            mismatch(
                "spec.dataFrom[0].extract.blockType",
                "x_y",
                type_pattern,
                &format!("extract.blockType {block_type}"),
            ),
        ),
        (extract(json!({"key": "a", "include": []})), least("spec.dataFrom[0].extract.include")),
        (kv_from(json!({"extract": {}})), shape("spec.dataFrom[0].extract.key: Required value")),
        (rewrite(json!({})), invalid("spec.dataFrom[0].rewrite[0]", one_step)),
        (rewrite(json!({"envName": {}, "rename": {"a": "b"}})), invalid("spec.dataFrom[0].rewrite[0]", one_step)),
        (
            rewrite(json!({"regexp": {"source": "a"}})),
            shape("spec.dataFrom[0].rewrite[0].regexp.target: Required value"),
        ),
        (
            rewrite(json!({"rename": {}})),
            one(
                "spec.dataFrom[0].rewrite[0].rename: Invalid value: 0: spec.dataFrom[0].rewrite[0].rename in body should have at least 1 properties",
            ),
        ),
        (
            secret(&[
                json!({"secretKey": "A", "remoteRef": {"key": "a", "blockType": "aws-credentials", "localKey": "A"}}),
            ]),
            invalid(
                "spec.data[0].remoteRef",
                "remoteRef.localKey goes with remoteRef.key of a Secret block: only those have local counterparts",
            ),
        ),
        (
            secret(&[json!({"secretKey": "A", "remoteRef": {"key": "a"}, "decoding": "Hex"})]),
            shape(r#"spec.data[0].decoding: Unsupported value: "Hex": supported values: "None", "Base64""#),
        ),
        (
            kv(json!([{"configMapKey": "A", "remoteRef": {"key": "a"}, "decoding": "Hex"}])),
            shape(r#"spec.data[0].decoding: Unsupported value: "Hex": supported values: "None", "Base64""#),
        ),
    ]
}

pub fn bad_layouts() -> Vec<Case> {
    let one_format =
        "set exactly one format: plain, json, dotEnv, dockerConfigJson, prefect1Context or prefect1ConfigToml";
    let key_words =
        r#"key must be letters, digits, '-', '_' and '.', such as DB_PASSWORD, and neither be "." nor begin with "..""#;
    let merged = |field: &str| {
        invalid(
            "spec.target",
            &format!("{field} can't be set under creationPolicy Merge: the target is someone else's"),
        )
    };
    let merge = |more: (&str, Value)| {
        let mut spec = json!({"creationPolicy": "Merge"});
        spec[more.0] = more.1;
        target(spec)
    };
    let alone = "template.mergePolicy and template.delimiters go with template.data";
    let interval = "minInterval must be a duration of at most 24h, such as 10m or 1h";
    let workload = "the workload's name must be lower-case letters, digits, '-' and '.', such as agent, and begin and end with a letter or digit";
    vec![
        (format(json!({})), invalid("spec.target.format", one_format)),
        (format(json!({"json": {"key": "a"}, "dotEnv": {"key": "b"}})), invalid("spec.target.format", one_format)),
        (format(json!({"json": {}})), shape("spec.target.format.json.key: Required value")),
        (format(json!({"dotEnv": {"key": "a/b"}})), mismatch("spec.target.format.dotEnv.key", "a/b", KEY, key_words)),
        (
            (
                "PrefectKV",
                json!({"data": [{"configMapKey": "A", "remoteRef": {"key": "a"}}], "target": {"format": {}}}),
            ),
            invalid("spec.target.format", "set exactly one format: plain, json or dotEnv"),
        ),
        (
            format(json!("json")),
            shape(
                r#"spec.target.format: Invalid value: "string": spec.target.format in body must be of type object: "string""#,
            ),
        ),
        (
            target(json!({"format": {"dockerConfigJson": {}}, "template": {"type": "Opaque"}})),
            invalid(
                "spec.target",
                "format dockerConfigJson makes a Secret of type kubernetes.io/dockerconfigjson: leave template.type out",
            ),
        ),
        (merge(("immutable", json!(true))), merged("immutable")),
        (merge(("template", json!({"type": "Opaque"}))), merged("template.type")),
        (merge(("template", json!({"metadata": {"labels": {"a": "b"}}}))), merged("template.metadata")),
        (target(json!({"template": {"mergePolicy": "Merge"}})), invalid("spec.target.template", alone)),
        (target(json!({"template": {"delimiters": "Brackets"}})), invalid("spec.target.template", alone)),
        (
            target(json!({"template": {"data": {"x": "y"}, "mergePolicy": "Keep"}})),
            shape(
                r#"spec.target.template.mergePolicy: Unsupported value: "Keep": supported values: "Replace", "Merge""#,
            ),
        ),
        (
            target(json!({"template": {"data": {"x": "y"}, "delimiters": "[["}})),
            shape(
                r#"spec.target.template.delimiters: Unsupported value: "[[": supported values: "Braces", "Brackets""#,
            ),
        ),
        (
            target(json!({"template": {"data": many(65)}})),
            shape("spec.target.template.data: Too many: 65: must have at most 64 items"),
        ),
        (
            target(json!({"template": {"data": {"x": 5}}})),
            shape(
                r#"spec.target.template.data.x: Invalid value: "integer": spec.target.template.data.x in body must be of type string: "integer""#,
            ),
        ),
        (restart(json!({"name": "a"})), shape("spec.restart[0].kind: Required value")),
        (
            restart(json!({"kind": "CronJob", "name": "a"})),
            shape(
                r#"spec.restart[0].kind: Unsupported value: "CronJob": supported values: "Deployment", "StatefulSet", "DaemonSet""#,
            ),
        ),
        (
            restart(json!({"kind": "Deployment", "name": "../x"})),
            mismatch("spec.restart[0].name", "../x", NAME, workload),
        ),
        (
            restart(json!({"kind": "Deployment", "name": "a", "minInterval": "1d"})),
            mismatch("spec.restart[0].minInterval", "1d", DURATION, interval),
        ),
        (
            restart(json!({"kind": "Deployment", "name": "a", "minInterval": "25h"})),
            one(&format!(r#"spec.restart[0].minInterval: Invalid value: "25h": {interval}"#)),
        ),
        (
            (
                "PrefectSecret",
                json!({"data": [entry("A")], "restart": [{"kind": "Deployment", "name": "a"}, {"kind": "Deployment", "name": "a"}]}),
            ),
            one(r#"spec.restart[1]: Duplicate value: {"kind":"Deployment","name":"a"}"#),
        ),
    ]
}

/// The most that is allowed.
pub fn good() -> Vec<(&'static str, Value)> {
    let renames: serde_json::Map<String, Value> = (0..256).map(|n| (format!("n{n}"), json!("x"))).collect();
    let item = json!({
        "extract": {"key": "a", "include": (0..64).map(|n| format!("{n}{}", "m".repeat(250))).collect::<Vec<_>>()},
        "rewrite": (0..8).map(|_| json!({"rename": renames})).collect::<Vec<_>>(),
    });
    vec![
        ("PrefectSecret", json!({"dataFrom": (0..32).map(|_| item.clone()).collect::<Vec<_>>()})),
        find(
            json!({"name": {"regexp": "x".repeat(1024)}, "kind": "Variable", "tags": ["a"], "property": "a.b", "decoding": "Base64", "optional": true}),
        ),
        kv_from(json!({"find": {"tags": ["a"]}, "rewrite": [{"regexp": {"source": "^(.)", "target": "$1"}}]})),
        target(
            json!({"creationPolicy": "Merge", "template": {"data": {"x": "y"}, "mergePolicy": "Merge", "delimiters": "Brackets"}}),
        ),
        target(json!({"format": {"dockerConfigJson": {}}, "template": {"type": "kubernetes.io/dockerconfigjson"}})),
        restart(json!({"kind": "DaemonSet", "name": "a", "keys": ["A"], "minInterval": "24h"})),
    ]
}
