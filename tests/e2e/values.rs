//! What Prefect holds arrives byte for byte; what it masks, or Kubernetes can't take, never does.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::fixture::{World, object, prefect, psec};
use crate::support::{Mode, Proxy};

const PEM: &str = "-----BEGIN KEY-----\nMIIB/+==\n-----END KEY-----\n";
const MASK: &str = "********";
/// What to do about a member that is not there.
const ABSENT: &str = "; correct remoteRef.property, or add it in Prefect";
/// The end of a message while there is no target yet.
const NOT_WRITTEN: &str = ". The target is not written until this is solved";

/// What the Secret `name` holds once it is synced. All of it is text, and as such easier to compare.
async fn secret_text(world: &World, name: &str) -> BTreeMap<String, String> {
    world.eventually_reason("PrefectSecret", name, "Synced").await;
    world.secret_data(name).await.unwrap()
}

/// What the ConfigMap `name` holds once it is synced.
async fn map_text(world: &World, name: &str) -> BTreeMap<String, String> {
    world.eventually_reason("PrefectKV", name, "Synced").await;
    let map = world.config_maps().get(name).await.unwrap();
    assert_eq!(map.binary_data, None, "JSON text is never binary");
    map.data.unwrap_or_default()
}

fn expected(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn promise_8_what_prefect_serves_arrives_byte_for_byte() {
    let world = World::with_prefect("exact").await;
    let prefect = prefect().await;
    let texts = [
        "",
        " 12 ",
        "123",
        "1.50",
        "true",
        "null",
        "{\"a\":  1}",
        "\"quoted\" it's \\ $HOME ${x} {{ y }}",
        PEM,
        "line\r\n\r\n",
        "\u{feff}grüße ☃ 🦀 \u{202e}",
        "nul\0nul",
        "*********",
    ];
    // As written to Prefect, as its block and its variable give it back. `None`: no variable holds this.
    let others = [
        ("null", "null", Some("null")),
        ("false", "false", Some("false")),
        ("-7", "-7", Some("-7")),
        ("9007199254740993", "9007199254740993", Some("9007199254740993")),
        ("123456789012345678901234567890", "123456789012345678901234567890", None),
        // These three are Prefect's doing: a float in a SQLite variable loses what a block keeps.
        ("1.0", "1.0", Some("1")),
        ("1.50", "1.5", Some("1.5")),
        ("1e22", "1e+22", Some("1e+22")),
        (
            r#"{ "z": 1, "a": {"é": [null, "x\n"]} }"#,
            r#"{"z":1,"a":{"é":[null,"x\n"]}}"#,
            Some(r#"{"z":1,"a":{"é":[null,"x\n"]}}"#),
        ),
        ("[1,[],{}]", "[1,[],{}]", Some("[1,[],{}]")),
    ];
    let strings: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    let cases: Vec<(&str, &str, Option<&str>)> =
        strings.iter().zip(texts).map(|(raw, text)| (raw.as_str(), text, Some(text))).chain(others).collect();

    let (mut from_blocks, mut from_variables, mut map_entries) = (Vec::new(), Vec::new(), Vec::new());
    let (mut blocks, mut variables) = (BTreeMap::new(), BTreeMap::new());
    for (at, (raw, of_block, of_variable)) in cases.iter().enumerate() {
        let (name, key) = (world.name(&format!("v{at}")), format!("v{at}"));
        prefect.set_secret_raw(&name, raw).await;
        from_blocks.push(json!({"secretKey": key, "remoteRef": {"key": name}}));
        blocks.insert(key.clone(), of_block.to_string());
        if let Some(of_variable) = of_variable {
            prefect.set_variable_raw(&name, raw).await;
            from_variables.push(json!({"secretKey": key, "remoteRef": {"variable": name}}));
            map_entries.push(json!({"configMapKey": key, "remoteRef": {"key": name}}));
            variables.insert(key, of_variable.to_string());
        }
    }
    world.apply(&psec("blocks", json!({"data": from_blocks}))).await;
    world.apply(&psec("variables", json!({"data": from_variables}))).await;
    world.apply(&object("PrefectKV", "variables", json!({"data": map_entries}))).await;
    assert_eq!(secret_text(&world, "blocks").await, blocks);
    assert_eq!(secret_text(&world, "variables").await, variables);
    assert_eq!(map_text(&world, "variables").await, variables);
}

/// Numbers that the real server would rewrite, in an answer that it gave otherwise: Cloud and other databases keep
/// more of them.
#[tokio::test]
async fn promise_8_numbers_keep_every_digit_and_objects_their_order() {
    let world = World::new("digits").await;
    let prefect = prefect().await;
    let (blocks, variables) = (Proxy::start(prefect.url()).await, Proxy::start(prefect.url()).await);
    let name = world.name("n");
    prefect.set_secret(&name, json!("PLACE")).await;
    prefect.set_variable(&name, json!("PLACE")).await;
    let path = format!("/block_types/slug/secret/block_documents/name/{name}?include_secrets=true");
    let block = prefect.get_text(&path).await;
    let variable = prefect.get_text(&format!("/variables/name/{name}")).await;

    let raws =
        ["1.50", "1E5", "1e400", "-0.0", "123456789012345678901234567890", "0.1000000000000000055511151231257827"];
    let object = r#"{"b":1.50,"a":[1E5,{"z":1e400,"y":-0}]}"#;
    let mut answers = [Vec::new(), Vec::new()];
    let mut entries = Vec::new();
    for (at, raw) in raws.iter().chain([&object]).enumerate() {
        entries.push((format!("k{at}"), world.name(&format!("n{at}"))));
        for (answers, template) in answers.iter_mut().zip([&block, &variable]) {
            let renamed = template.replace(&format!("\"{name}\""), &format!("\"{}\"", entries[at].1));
            answers.push(renamed.replace("\"PLACE\"", raw));
        }
    }
    let answer = |at: usize| format!("[{}]", answers[at].join(","));
    blocks.set(Mode::AnswerWhere("/block_documents/filter".into(), 200, answer(0)));
    variables.set(Mode::AnswerWhere("/variables/filter".into(), 200, answer(1)));
    world.workspace_spec("blocks", &json!({"api": {"url": blocks.url()}}).to_string()).await;
    world.workspace_spec("variables", &json!({"api": {"url": variables.url()}}).to_string()).await;

    let keys = |what: &str, of: &str| -> Vec<Value> {
        entries.iter().map(|(key, name)| json!({what: key, "remoteRef": {of: name}})).collect()
    };
    let mut data = keys("secretKey", "key");
    // A path is walked over the same text.
    for (key, property) in [("inner", "a[0]"), ("member", "a[1].z"), ("rest", "a[1]")] {
        let of = &entries.last().unwrap().1;
        data.push(json!({"secretKey": key, "remoteRef": {"key": of, "property": property}}));
    }
    world.apply(&psec("numbers", json!({"workspaceRef": {"name": "blocks"}, "data": data}))).await;
    let map = json!({"workspaceRef": {"name": "variables"}, "data": keys("configMapKey", "key")});
    world.apply(&crate::fixture::object("PrefectKV", "numbers", map)).await;
    let mut all: BTreeMap<String, String> =
        entries.iter().zip(raws.iter().chain([&object])).map(|((k, _), raw)| (k.clone(), raw.to_string())).collect();
    assert_eq!(map_text(&world, "numbers").await, all);
    all.extend(expected(&[("inner", "1E5"), ("member", "1e400"), ("rest", r#"{"z":1e400,"y":-0}"#)]));
    assert_eq!(secret_text(&world, "numbers").await, all);
}

#[tokio::test]
async fn a_property_is_found_in_objects_in_json_texts_and_in_typed_blocks_and_null_is_unset() {
    let world = World::with_prefect("property").await;
    let prefect = prefect().await;
    let [nested, text, plain, aws] = ["nested", "text", "plain", "aws"].map(|name| world.name(name));
    let value =
        json!({"a": {"b": [{"c": 7}, {"c": "two"}], "d e": true}, "b.c": "dotted", "q\"]": "quoted", "n": null});
    prefect.set_secret(&nested, value.clone()).await;
    prefect.set_variable(&nested, value).await;
    prefect.set_secret(&text, json!("{\"user\": \"u\", \"list\": [10, 1.50], \"inner\": \"{\\\"x\\\": 1}\"}\n")).await;
    prefect.set_secret(&plain, json!("canary")).await;
    prefect
        .set_block(
            "aws-credentials",
            &aws,
            json!({"aws_access_key_id": "AKIA", "aws_secret_access_key": "canary", "aws_session_token": null}),
        )
        .await;
    let typed = |property: &str| json!({"key": aws, "blockType": "aws-credentials", "property": property});
    let of = |key: &str, property: &str| json!({"key": key, "property": property});
    let found = [
        (of(&nested, "a.b[1].c"), "two"),
        (of(&nested, "a.b[0].c"), "7"),
        (of(&nested, "a.b"), r#"[{"c":7},{"c":"two"}]"#),
        (of(&nested, "a.d e"), "true"),
        (of(&nested, r#"["b.c"]"#), "dotted"),
        (of(&nested, r#"a["b"][1]["c"]"#), "two"),
        (of(&nested, r#"["q\"]"]"#), "quoted"),
        (json!({"variable": nested, "property": "a.b[1].c"}), "two"),
        (of(&text, "user"), "u"),
        (of(&text, "list[1]"), "1.50"),
        (of(&text, "list"), "[10, 1.50]"),
        (of(&text, "inner.x"), "1"),
        (typed("aws_access_key_id"), "AKIA"),
        (typed("aws_secret_access_key"), "canary"),
    ];
    let mut data: Vec<Value> = Vec::new();
    let mut all = expected(&[("defaulted", "stand-in")]);
    for (at, (reference, value)) in found.iter().enumerate() {
        data.push(json!({"secretKey": format!("k{at}"), "remoteRef": reference}));
        all.insert(format!("k{at}"), value.to_string());
    }
    // Prefect's own client writes the empty fields of a typed block as null: left out, or the default instead.
    data.push(json!({"secretKey": "left-out", "remoteRef": typed("aws_session_token"), "optional": true}));
    data.push(json!({"secretKey": "left-out-1", "remoteRef": typed("profile_name"), "optional": true}));
    data.push(json!({"secretKey": "left-out-2", "remoteRef": of(&nested, "n"), "optional": true}));
    data.push(json!({"secretKey": "defaulted", "remoteRef": typed("aws_session_token"), "default": "stand-in"}));
    // Without a property a typed block is all its fields.
    data.push(json!({"secretKey": "whole", "remoteRef": {"key": aws, "blockType": "aws-credentials"}}));
    let path = format!("/block_types/slug/aws-credentials/block_documents/name/{aws}?include_secrets=true");
    let document = prefect.get_text(&path).await;
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(&document).unwrap();
    all.insert("whole".into(), fields["data"].get().to_string());
    world.apply(&psec("found", json!({"data": data}))).await;
    assert_eq!(secret_text(&world, "found").await, all);

    let refused = [
        (
            of(&plain, "a"),
            "NotJson",
            format!("secret block {plain:?} holds text that is no JSON, so there is nothing to look into at \"a\"; leave remoteRef.property out to take it whole"),
        ),
        (
            typed("secret_key"),
            "PropertyNotFound",
            format!("aws-credentials block {aws:?} has no \"secret_key\"; it has {AWS_FIELDS}"),
        ),
        // Nothing of what is inside a Secret is named.
        (of(&nested, "a.x"), "PropertyNotFound", format!("secret block {nested:?} has nothing at \"a.x\"{ABSENT}")),
        (of(&text, "list[2]"), "PropertyNotFound", format!("secret block {text:?} has nothing at \"list[2]\"{ABSENT}")),
        (
            json!({"variable": nested, "property": "x"}),
            "PropertyNotFound",
            format!("variable {nested:?} has nothing at \"x\"{ABSENT}"),
        ),
        (
            typed("aws_session_token"),
            "PropertyNotFound",
            format!("aws-credentials block {aws:?} has no value at \"aws_session_token\": it is unset in Prefect"),
        ),
        (
            typed("profile_name"),
            "PropertyNotFound",
            format!("aws-credentials block {aws:?} has no value at \"profile_name\": it is unset in Prefect"),
        ),
        (
            of(&nested, "a..b"),
            "PropertyInvalid",
            "property \"a..b\" is no path: a name is missing at character 3; write a.b[0].c, or a[\"b.c\"] for names with dots".into(),
        ),
    ];
    for (at, (reference, _, _)) in refused.iter().enumerate() {
        let data = json!([{"secretKey": "K", "remoteRef": reference}]);
        world.apply(&psec(&format!("refused-{at}"), json!({"data": data}))).await;
    }
    for (at, (_, reason, message)) in refused.iter().enumerate() {
        let name = format!("refused-{at}");
        let said = world.eventually_message("PrefectSecret", &name, reason).await;
        assert_eq!(said, format!("{message}{NOT_WRITTEN}"));
        assert_eq!(world.secret_data(&name).await, None);
    }
    assert!(!world.stop_operator().await.contains("canary"));
}

/// In the schema's own order.
const AWS_FIELDS: &str =
    "aws_access_key_id, aws_secret_access_key, aws_session_token, profile_name, region_name, aws_client_parameters";

#[tokio::test]
async fn promise_8_a_masked_value_never_replaces_a_secret() {
    let world = World::new("mask").await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    world.workspace(&proxy.url()).await;
    let [plain, aws, gcp, hook] = ["plain", "aws", "gcp", "hook"].map(|name| world.name(name));
    prefect.set_secret(&plain, json!("hunter2")).await;
    prefect.set_variable(&plain, json!(MASK)).await;
    let aws_data = |id: &str| json!({"aws_access_key_id": id, "aws_secret_access_key": "hunter2"});
    prefect.set_block("aws-credentials", &aws, aws_data("AKIA1")).await;
    let account = json!({"type": "service_account", "private_key": PEM});
    prefect.set_block("gcp-credentials", &gcp, json!({"project": "p", "service_account_info": account})).await;
    let hook_data = json!({"name": "n", "url": "http://127.0.0.1:1/", "secrets": {"token": "hunter2"}});
    prefect.set_block("custom-webhook", &hook, hook_data).await;

    let typed = |key: &str, block_type: &str, property: Option<&str>| {
        let mut reference = json!({"key": key, "blockType": block_type});
        if let Some(property) = property {
            reference["property"] = json!(property);
        }
        reference
    };
    let masked = [
        ("plain", json!({"key": plain}), format!("secret block {plain:?}")),
        ("plain-inside", json!({"key": plain, "property": "a"}), String::new()),
        (
            "aws",
            typed(&aws, "aws-credentials", Some("aws_secret_access_key")),
            format!("aws-credentials block {aws:?}"),
        ),
        ("aws-whole", typed(&aws, "aws-credentials", None), format!("aws-credentials block {aws:?}")),
        ("gcp", typed(&gcp, "gcp-credentials", Some("service_account_info")), format!("gcp-credentials block {gcp:?}")),
        (
            "gcp-key",
            typed(&gcp, "gcp-credentials", Some("service_account_info.private_key")),
            format!("gcp-credentials block {gcp:?}"),
        ),
        ("hook", typed(&hook, "custom-webhook", Some("secrets.token")), format!("custom-webhook block {hook:?}")),
        ("hook-whole", typed(&hook, "custom-webhook", None), format!("custom-webhook block {hook:?}")),
    ];
    let masked: Vec<_> = masked.into_iter().filter(|(_, _, shown)| !shown.is_empty()).collect();
    for (name, reference, _) in &masked {
        // Delete and optional: not even they take it for an absence.
        let data = json!([{"secretKey": "K", "remoteRef": reference, "optional": true}]);
        world.apply(&psec(name, json!({"data": data, "target": {"deletionPolicy": "Delete"}}))).await;
    }
    let id = json!([{"secretKey": "ID", "remoteRef": typed(&aws, "aws-credentials", Some("aws_access_key_id"))}]);
    world.apply(&psec("public", json!({"data": id}))).await;
    let asterisks = json!([{"secretKey": "V", "remoteRef": {"variable": plain}}]);
    world.apply(&psec("asterisks", json!({"data": asterisks}))).await;
    let mut versions = BTreeMap::new();
    for (name, _, _) in &masked {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
        versions.insert(*name, world.version("Secret", name).await);
    }
    world.eventually_secret("public", &[("ID", "AKIA1")]).await;

    proxy.set(Mode::Masked);
    for (name, _, shown) in &masked {
        let said = world.eventually_message("PrefectSecret", name, "ValueMasked").await;
        assert_eq!(
            said,
            format!(
                "Prefect returned ******** for {shown}: these credentials may not see secret values; give their role that permission. Target unchanged since TIME"
            )
        );
    }
    // What is no secret goes on, and a variable may hold asterisks.
    prefect.set_block("aws-credentials", &aws, aws_data("AKIA2")).await;
    world.eventually_secret("public", &[("ID", "AKIA2")]).await;
    world.eventually_secret("asterisks", &[("V", MASK)]).await;
    for (name, _, _) in &masked {
        assert_eq!(world.version("Secret", name).await, versions[name], "{name} was written");
    }
    proxy.set(Mode::Pass);
    for (name, _, _) in &masked {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
    }
}

#[tokio::test]
async fn one_mebibyte_is_delivered_and_a_byte_more_is_refused() {
    let world = World::with_prefect("large").await;
    let prefect = prefect().await;
    let (half, more) = (world.name("half"), world.name("more"));
    prefect.set_secret(&half, json!("x".repeat(1024 * 512))).await;
    prefect.set_secret(&more, json!("y".repeat(1024 * 512))).await;
    let data = json!([{"secretKey": "A", "remoteRef": {"key": half}}, {"secretKey": "B", "remoteRef": {"key": more}}]);
    world.apply(&psec("large", json!({"data": data}))).await;
    world.eventually_reason("PrefectSecret", "large", "Synced").await;
    let version = world.version("Secret", "large").await;

    prefect.set_secret(&more, json!("y".repeat(1024 * 512 + 1))).await;
    let said = world.eventually_message("PrefectSecret", "large", "TargetTooLarge").await;
    assert_eq!(
        said,
        "the values together have 1048577 bytes, and Kubernetes takes at most 1048576 in one Secret; split the object. Target unchanged since TIME"
    );
    assert_eq!(world.version("Secret", "large").await, version);
}

#[tokio::test]
async fn a_name_with_a_newline_is_another_name() {
    let world = World::with_prefect("newline").await;
    let prefect = prefect().await;
    let name = world.name("x");
    let odd = format!("{name}\n");
    // The odd one first: looking it up in an address drops the newline.
    prefect.set_secret(&odd, json!("with newline")).await;
    let both = json!([
        {"secretKey": "ODD", "remoteRef": {"key": odd}},
        {"secretKey": "PLAIN", "remoteRef": {"key": name}, "default": "none"},
    ]);
    world.apply(&psec("both", json!({"data": both}))).await;
    world.eventually_secret("both", &[("ODD", "with newline"), ("PLAIN", "none")]).await;
    prefect.set_secret(&name, json!("plain")).await;
    world.eventually_secret("both", &[("ODD", "with newline"), ("PLAIN", "plain")]).await;
}

#[tokio::test]
async fn a_secret_type_without_its_keys_is_refused_without_naming_a_value() {
    let world = World::with_prefect("types").await;
    let prefect = prefect().await;
    let (value, docker) = (world.name("value"), world.name("docker"));
    prefect.set_secret(&value, json!("canary")).await;
    prefect.set_secret(&docker, json!({"auths": {"example.com": {"auth": "Y2FuYXJ5"}}})).await;
    let spec = |kind: &str, key: &str, of: &str| {
        let data = json!([{"secretKey": key, "remoteRef": {"key": of}}]);
        json!({"data": data, "target": {"template": {"type": format!("kubernetes.io/{kind}")}}})
    };
    world.apply(&psec("docker", spec("dockerconfigjson", ".dockerconfigjson", &docker))).await;
    world.apply(&psec("tls", spec("tls", "key", &value))).await;
    world.apply(&psec("no-docker", spec("dockerconfigjson", ".dockerconfigjson", &value))).await;
    world
        .eventually_secret("docker", &[(".dockerconfigjson", r#"{"auths":{"example.com":{"auth":"Y2FuYXJ5"}}}"#)])
        .await;
    let made = world.secrets().get("docker").await.unwrap();
    assert_eq!(made.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
    let namespace = &world.namespace;
    for (name, why) in [
        ("tls", "data[tls.crt]: Required value, data[tls.key]: Required value"),
        // Kubernetes' own message quotes the first character.
        ("no-docker", "data[.dockerconfigjson] (FieldValueInvalid)"),
    ] {
        let said = world.eventually_message("PrefectSecret", name, "TargetRefused").await;
        assert_eq!(said, format!("the API server refused Secret {namespace}/{name}: {why}"));
        assert_eq!(world.secret_data(name).await, None);
    }
    assert!(!world.stop_operator().await.contains("canary"));
}
