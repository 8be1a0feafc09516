//! What people read in a condition about `dataFrom`, templates and formats: where only the operator can see what is
//! wrong.

use serde_json::{Value, json};

use crate::fixture::{SOON, World, prefect, timeless};
use crate::support::try_eventually;

const NOT_WRITTEN: &str = "The target is not written until this is solved";

/// Name, spec, reason, message.
type Case = (&'static str, Value, &'static str, String);

fn cases(world: &World) -> Vec<Case> {
    let name = |name: &str| world.name(name);
    let from = |item: Value| json!({"dataFrom": [item]});
    let find = |regexp: &str| json!({"name": {"regexp": regexp}});
    let entry = |key: &str, of: &str| json!({"secretKey": key, "remoteRef": {"key": name(of)}});
    let with_target = |target: Value| json!({"data": [entry("TEXT", "text")], "target": target});
    let template = |source: &str| with_target(json!({"template": {"data": {"x": source}}}));
    vec![
        (
            "regexp",
            from(json!({"find": find("etl-(")})),
            "RegexpInvalid",
            r#"spec.dataFrom[0]: "etl-(" is no regular expression: unclosed group"#.to_owned(),
        ),
        (
            "rewrite-regexp",
            from(json!({"find": find("."), "rewrite": [{"regexp": {"source": "(?=x)", "target": ""}}]})),
            "RegexpInvalid",
            r#"spec.dataFrom[0]: "(?=x)" is no regular expression: look-around, including look-ahead and look-behind, is not supported"#.to_owned(),
        ),
        (
            "nothing",
            from(json!({"find": find("^no-such-thing-")})),
            "NothingFound",
            format!("there are no secret blocks whose name matches \"^no-such-thing-\" in workspace default; correct find, or set find.optional if that may be. {NOT_WRITTEN}"),
        ),
        (
            "no-tags",
            from(json!({"find": {"kind": "Variable", "tags": ["no-such-tag"]}})),
            "NothingFound",
            format!("there are no variables tagged no-such-tag in workspace default; correct find, or set find.optional if that may be. {NOT_WRITTEN}"),
        ),
        (
            "clash",
            from(json!({"extract": {"key": name("json")}, "rewrite": [{"regexp": {"source": "[0-9]", "target": ""}}]})),
            "KeyClash",
            format!("\"a1\" in secret block {0:?} and \"a2\" in secret block {0:?} both become the key \"a\"; correct dataFrom[].rewrite. {NOT_WRITTEN}", name("json")),
        ),
        (
            "illegal",
            from(json!({"extract": {"key": name("spaces")}})),
            "KeyInvalid",
            format!("\"a b\" in secret block {:?} gives \"a b\" is no legal key of a Secret: use letters, digits, '-', '_' and '.', neither \".\" nor starting with \"..\", at most 253; correct dataFrom[].rewrite (envName makes legal keys). {NOT_WRITTEN}", name("spaces")),
        ),
        (
            "no-object",
            from(json!({"extract": {"key": name("text")}})),
            "NotJson",
            format!("secret block {:?} holds no JSON object, so there are no members to extract. {NOT_WRITTEN}", name("text")),
        ),
        (
            "no-members",
            from(json!({"extract": {"key": name("empty")}})),
            "PropertyNotFound",
            format!("secret block {:?} has no members to extract; add some in Prefect, or set extract.optional if that may be. {NOT_WRITTEN}", name("empty")),
        ),
        (
            "no-block",
            from(json!({"extract": {"key": name("texxt")}})),
            "KeyNotFound",
            format!("no secret block {:?} in workspace default; did you mean {:?}? {NOT_WRITTEN}", name("texxt"), name("text")),
        ),
        (
            "not-included",
            from(json!({"extract": {"key": name("json"), "include": ["a1", "nope"]}})),
            "PropertyNotFound",
            format!("secret block {:?} has nothing at \"nope\"; correct remoteRef.property, or add it in Prefect. {NOT_WRITTEN}", name("json")),
        ),
        (
            "no-base64",
            json!({"data": [{"secretKey": "A", "remoteRef": {"key": name("text")}, "decoding": "Base64"}]}),
            "DecodingFailed",
            format!("secret block {:?} holds no base64, as decoding says; correct it in Prefect, or leave decoding out. {NOT_WRITTEN}", name("text")),
        ),
        (
            "syntax",
            template("a\n{{ TEXT"),
            "TemplateInvalid",
            "spec.target.template \"x\", line 2: unexpected end of input, expected end of variable block".to_owned(),
        ),
        (
            "include",
            template("{% include 'x' %}"),
            "TemplateInvalid",
            "spec.target.template \"x\", line 1: unknown statement include".to_owned(),
        ),
        (
            "undefined",
            template("{{ TEXT }}\n{{ TXET }}"),
            "TemplateFailed",
            format!("spec.target.template \"x\", line 2: there is no entry \"TXET\"; there is TEXT. Names that are no identifiers are written data[\"tls.crt\"]. {NOT_WRITTEN}"),
        ),
        (
            "filter",
            template("{{ TEXT | sha256 }}"),
            "TemplateFailed",
            format!("spec.target.template \"x\", line 1: unknown filter; there are urlencode, tojson, fromjson, b64encode, b64decode, quote, upper, lower, trim, default, items and length. {NOT_WRITTEN}"),
        ),
        (
            "no-json",
            template("{{ (TEXT | fromjson).a }}"),
            "TemplateFailed",
            format!("spec.target.template \"x\", line 1: fromjson: this is no JSON. {NOT_WRITTEN}"),
        ),
        (
            "fuel",
            template(&"{% for a in TEXT %}".repeat(6).chars().chain("{% endfor %}".repeat(6).chars()).collect::<String>()),
            "TemplateFailed",
            format!("spec.target.template \"x\", line 1: it takes too long, or makes too much. {NOT_WRITTEN}"),
        ),
        (
            "template-key",
            with_target(json!({"template": {"data": {"a/b": "x"}}})),
            "ObjectInvalid",
            "spec.target key \"a/b\" is no legal key of a Secret: use letters, digits, '-', '_' and '.', neither \".\" nor starting with \"..\", at most 253".to_owned(),
        ),
        (
            "docker",
            with_target(json!({"format": {"dockerConfigJson": {}}})),
            "FormatFailed",
            format!("spec.target.format: dockerConfigJson needs the entries username, password and registry_url, and there is no \"username\"; extract a docker-registry-credentials block. {NOT_WRITTEN}"),
        ),
        (
            "env-name",
            json!({"data": [entry("a-b", "text")], "target": {"format": {"dotEnv": {"key": ".env"}}}}),
            "FormatFailed",
            format!("spec.target.format: \"a-b\" can't be the name of a variable in a .env file; rewrite: [{{envName: {{}}}}] makes one. {NOT_WRITTEN}"),
        ),
        (
            "method",
            json!({"data": [entry("keys", "text")], "target": {"format": {"prefect1ConfigToml": {"key": "config.toml"}}}}),
            "FormatFailed",
            format!("spec.target.format: Prefect 1 can't have a secret called \"keys\": it is a method of its settings, and `import prefect` would fail; give it another name with rewrite or secretKey. {NOT_WRITTEN}"),
        ),
        (
            "restart-keys",
            json!({"data": [entry("TEXT", "text")], "target": {"format": {"json": {"key": "s.json"}}}, "restart": [{"kind": "Deployment", "name": "a", "keys": ["TEXT"]}]}),
            "ObjectInvalid",
            "spec.restart keys has \"TEXT\", which the target never has: as it is laid out it has s.json".to_owned(),
        ),
    ]
}

#[tokio::test]
async fn each_mistake_has_a_reason_and_says_what_to_do() {
    let world = World::with_prefect("mistakes").await;
    let prefect = prefect().await;
    prefect.set_secret(&world.name("text"), json!("canary: no JSON, no base64!")).await;
    prefect.set_secret(&world.name("json"), json!({"a1": 1, "a2": 2})).await;
    prefect.set_secret(&world.name("spaces"), json!({"a b": 1})).await;
    prefect.set_secret(&world.name("empty"), json!({"a": null})).await;
    let cases = cases(&world);
    for (name, spec, ..) in &cases {
        world.apply(&crate::fixture::psec(name, spec.clone())).await;
    }
    let mut wrong = Vec::new();
    for (name, _, reason, expected) in &cases {
        // A near name is looked for after the answer, and may come later.
        let says = async || match world.ready("PrefectSecret", name).await {
            Some(ready) if ready.reason == *reason && timeless(&ready.message) == *expected => Ok(()),
            other => Err(format!("{other:?}")),
        };
        if let Err(got) = try_eventually(SOON, says).await {
            wrong.push(format!("{name}\nexpected {expected}\ngot      {got}"));
        }
        assert!(world.secret_data(name).await.is_none(), "{name} was written");
        let status = world.get("PrefectSecret", name).await["status"].to_string();
        assert!(!status.contains("canary"), "{status}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(!world.log().contains("canary"));
}
