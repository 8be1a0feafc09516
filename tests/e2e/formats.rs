//! `target.format`: each is read by what people read it with: docker's shape, shells, python-dotenv, Prefect 1.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::fixture::{World, prefect, psec};
use crate::support::python::prefect1;
use crate::support::{Scratch, tools};

fn entry(key: &str, remote: &str) -> Value {
    json!({"secretKey": key, "remoteRef": {"key": remote}})
}

async fn made(world: &World, name: &str) -> BTreeMap<String, String> {
    world.eventually_reason("PrefectSecret", name, "Synced").await;
    world.secret_data(name).await.unwrap()
}

#[tokio::test]
async fn one_json_file_holds_all_entries_as_they_are() {
    let world = World::with_prefect("json").await;
    let (text, object) = (world.name("text"), world.name("object"));
    prefect().await.set_secret(&text, json!("1.50 \"x\"")).await;
    prefect().await.set_secret_raw(&object, r#"{"z": 1, "a": [true, null]}"#).await;
    let spec = json!({
        "data": [entry("text", &text), entry("object", &object)],
        "target": {"format": {"json": {"key": "settings.json"}}},
    });
    world.apply(&psec("file", spec)).await;
    let made = made(&world, "file").await;
    assert_eq!(made.keys().collect::<Vec<_>>(), ["settings.json"]);
    let expected = "{\n  \"object\": {\"z\":1,\"a\":[true,null]},\n  \"text\": \"1.50 \\\"x\\\"\"\n}\n";
    assert_eq!(made["settings.json"], expected);
}

/// What a shell has after `set -a; . FILE`.
fn sourced(file: &std::path::Path, names: &[&str]) -> BTreeMap<String, String> {
    let prints: String = names.iter().fold(String::new(), |mut script, name| {
        let _ = write!(script, "printf '%s\\0' \"${name}\"; ");
        script
    });
    let script = format!("set -a; . {}; {prints}", file.display());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let values = String::from_utf8(output.stdout).unwrap();
    names.iter().map(|name| (*name).to_owned()).zip(values.split('\0').map(str::to_owned)).collect()
}

/// What python-dotenv, which Prefect's own settings use, reads.
fn read_by_dotenv(file: &std::path::Path) -> BTreeMap<String, String> {
    let script = "import sys, json, dotenv; print(json.dumps(dict(dotenv.dotenv_values(sys.argv[1]))))";
    let output =
        Command::new(tools::prefect3_python()).args(["-c", script]).arg(file).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn shells_and_dotenv_readers_take_the_same_from_a_dot_env_file() {
    let world = World::with_prefect("dotenv").await;
    let values = [
        ("A", "plain"),
        ("B", " spaces # and $HOME `id` \"q\" "),
        ("C", "it's 100% \\n \"quoted\" \\ "),
        ("D", "two\nlines\n"),
        ("E", ""),
        ("F", "ä☃🦀=x"),
    ];
    let mut data = Vec::new();
    for (key, value) in values {
        let name = world.name(&key.to_lowercase());
        prefect().await.set_secret(&name, json!(value)).await;
        data.push(entry(key, &name));
    }
    let spec = json!({"data": data, "target": {"format": {"dotEnv": {"key": ".env"}}}});
    world.apply(&psec("env", spec)).await;
    let made = made(&world, "env").await;
    let folder = Scratch::new("dotenv");
    let file = folder.path().join(".env");
    std::fs::write(&file, &made[".env"]).unwrap();
    let expected: BTreeMap<String, String> = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(sourced(&file, &values.map(|(name, _)| name)), expected, "{}", made[".env"]);
    assert_eq!(read_by_dotenv(&file), expected, "{}", made[".env"]);
}

#[tokio::test]
async fn a_value_that_readers_of_dot_env_files_take_differently_is_refused() {
    let world = World::with_prefect("dotenv-no").await;
    let name = world.name("a");
    prefect().await.set_secret(&name, json!("canary's pa$$word")).await;
    let spec = json!({"data": [entry("A", &name)], "target": {"format": {"dotEnv": {"key": ".env"}}}});
    world.apply(&psec("env", spec)).await;
    let message = world.eventually_message("PrefectSecret", "env", "FormatFailed").await;
    assert_eq!(
        message,
        "spec.target.format: entry \"A\" has both ' or \\ and $ or `, which shells and dotenv readers take differently; use format json or a template. The target is not written until this is solved"
    );
}

#[tokio::test]
async fn a_registry_block_becomes_an_image_pull_secret() {
    let world = World::with_prefect("registry").await;
    let name = world.name("ghcr");
    let block = json!({"username": "bot", "password": "p\"w", "registry_url": "ghcr.io", "reauth": true});
    prefect().await.set_block("docker-registry-credentials", &name, block).await;
    let spec = json!({
        "dataFrom": [{"extract": {"key": name, "blockType": "docker-registry-credentials"}}],
        "target": {"format": {"dockerConfigJson": {}}},
    });
    world.apply(&psec("pull", spec)).await;
    let made = made(&world, "pull").await;
    let config: Value = serde_json::from_str(&made[".dockerconfigjson"]).unwrap();
    assert_eq!(config, json!({"auths": {"ghcr.io": {"username": "bot", "password": "p\"w", "auth": "Ym90OnAidw=="}}}));
    let secret = world.secrets().get("pull").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
}

/// Arbitrary JSON of JSON's own kinds; numbers as Python prints them back.
fn arbitrary_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let text =
        prop_oneof![".{0,24}", "[$~{}\"'\\\\a-z0-9 .]{0,16}", Just("${cloud.api}".to_owned()), Just("~/x".to_owned())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Texts that Prefect 1 would coerce, expand or lose, and arbitrary ones.
fn texts() -> Vec<Value> {
    let known = [
        "",
        " ",
        "123",
        "007",
        "1.50",
        "1e5",
        "0x10",
        "1_000",
        "1,2",
        "b'x'",
        "None",
        "null",
        "NaN",
        "Infinity",
        "True",
        "true",
        "\"quoted\"",
        "\"123\"",
        " 12 ",
        "pa$HOME",
        "$HOME",
        "${x}",
        "${cloud.api}",
        "~/x",
        "~",
        "{\"a\":1}",
        "[1]",
        "{'a': 1}",
        "line\nline\n",
        "\r\n\t",
        "\\",
        "\\\\",
        "\\u0041",
        "\u{7f}",
        "ä☃🦀",
        "it's \"q\"",
        "%(x)s",
        "-----BEGIN KEY-----\nMIIB/+==\n-----END KEY-----\n",
        "#",
        "=",
        "a__b",
        "{{ x }}",
    ];
    known.iter().map(|text| json!(text)).collect()
}

fn generated(count: usize) -> Vec<Value> {
    let mut runner = TestRunner::deterministic();
    let strategy = arbitrary_json();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Has the real Prefect 1 read the secrets `S0`, `S1`, … and compares them with the JSON in the file EXPECTED.
const READ: &str = r#"
import json, os, sys
from prefect.client import Secret
expected = json.load(open(os.environ["EXPECTED"]))
wrong = []
for n, want in enumerate(expected):
    got = Secret("S%d" % n).get()
    if json.dumps(got, sort_keys=True) != json.dumps(want, sort_keys=True) or (type(got) is not type(want)):
        wrong.append((n, want, got))
print(json.dumps([len(expected), repr(wrong[:3])]))
"#;

/// The values that Prefect 1 is to read, NUL aside: no environment variable can hold one, but the encoding can.
fn cases() -> Vec<Value> {
    let mut cases = texts();
    cases.extend(generated(300));
    cases
}

/// Delivers the cases in `format` through a local workspace of real blocks, and returns the target's data.
async fn delivered(world: &World, cases: &[Value], format: Value) -> BTreeMap<String, String> {
    let prefect = prefect().await;
    // One block holds them all: Prefect's own server is not what is tested here.
    let all: serde_json::Map<String, Value> =
        cases.iter().enumerate().map(|(n, value)| (format!("S{n}"), wrapped(value))).collect();
    prefect.set_secret(&world.name("all"), Value::Object(all)).await;
    let spec = json!({"dataFrom": [{"extract": {"key": world.name("all")}}], "target": {"format": format}});
    world.apply(&psec("p1", spec)).await;
    made(world, "p1").await
}

/// A member that is null is unset; so null stands in a list.
fn wrapped(value: &Value) -> Value {
    if value.is_null() { json!([null]) } else { value.clone() }
}

fn check(cases: &[Value], env: &[(&str, &str)]) {
    let folder = Scratch::new("prefect1-cases");
    let file = folder.path().join("expected.json");
    let expected: Vec<Value> = cases.iter().map(wrapped).collect();
    std::fs::write(&file, serde_json::to_string(&expected).unwrap()).unwrap();
    let path = file.display().to_string();
    let mut env = env.to_vec();
    env.push(("EXPECTED", &path));
    let printed = prefect1(READ, &env);
    assert_eq!(printed, json!([cases.len(), "[]"]).to_string().replace(",\"", ", \""), "{printed}");
}

#[tokio::test]
async fn prefect_1_reads_exactly_what_was_there_from_its_environment() {
    let world = World::with_prefect("p1-env").await;
    let cases = cases();
    let made = delivered(&world, &cases, json!({"prefect1Context": {}})).await;
    assert_eq!(made.len(), cases.len());
    let env: Vec<(String, &str)> =
        made.iter().map(|(key, value)| (format!("PREFECT__CONTEXT__SECRETS__{key}"), value.as_str())).collect();
    check(&cases, &env.iter().map(|(key, value)| (key.as_str(), *value)).collect::<Vec<_>>());
}

#[tokio::test]
async fn prefect_1_reads_exactly_what_was_there_from_a_config_toml() {
    let world = World::with_prefect("p1-toml").await;
    let cases = cases();
    let made = delivered(&world, &cases, json!({"prefect1ConfigToml": {"key": "config.toml"}})).await;
    let folder = Scratch::new("config-toml");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &made["config.toml"]).unwrap();
    check(&cases, &[("PREFECT__USER_CONFIG_PATH", &file.display().to_string())]);
}

#[tokio::test]
async fn names_that_prefect_1_cannot_have_are_refused_and_those_that_it_can_are_read() {
    // What the real one would choke on is what is refused.
    let methods =
        "from prefect.configuration import Config; print(' '.join(n for n in dir(Config) if not n.startswith('__')))";
    let methods = prefect1(methods, &[]);
    assert!(methods.split_whitespace().any(|name| name == "keys"), "{methods}");
    for name in methods.split_whitespace() {
        let told = prefect_sync::sync::prefect1::check_name(name, prefect_sync::sync::prefect1::Place::ConfigToml);
        assert!(told.is_err(), "{name} would make `import prefect` fail");
    }
    let world = World::with_prefect("p1-names").await;
    prefect().await.set_secret(&world.name("x"), json!("123")).await;
    for (name, key, reason) in [
        ("method", "keys", "`import prefect` would fail; give it another name with rewrite or secretKey"),
        ("dunder", "A__B", "it splits names at \"__\"; give it another name, or use prefect1ConfigToml"),
    ] {
        let spec = json!({"data": [entry(key, &world.name("x"))], "target": {"format": {"prefect1Context": {}}}});
        world.apply(&psec(name, spec)).await;
        let message = world.eventually_message("PrefectSecret", name, "FormatFailed").await;
        assert!(message.contains(reason), "{message}");
    }
    let names = ["lower", "MiXed", "MY-DASH", "a.b", "_x", "x_", "X1"];
    let data: Vec<Value> = names.iter().map(|name| entry(name, &world.name("x"))).collect();
    let spec = json!({"data": data, "target": {"format": {"prefect1Context": {}}}});
    world.apply(&psec("names", spec)).await;
    let made = made(&world, "names").await;
    let env: Vec<(String, &str)> =
        made.iter().map(|(key, value)| (format!("PREFECT__CONTEXT__SECRETS__{key}"), value.as_str())).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let read =
        format!("from prefect.client import Secret; print([n for n in {} if Secret(n).get() != '123'])", json!(names));
    assert_eq!(prefect1(&read, &env), "[]");
    // A config.toml can have all of these, and what the environment can't.
    let names = ["lower", "MiXed", "MY-DASH", "a.b", "_x", "x_", "X1", "A__B"];
    let data: Vec<Value> = names.iter().map(|name| entry(name, &world.name("x"))).collect();
    let spec = json!({"data": data, "target": {"format": {"prefect1ConfigToml": {"key": "config.toml"}}}});
    world.apply(&psec("toml-names", spec)).await;
    let folder = Scratch::new("toml-names");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &self::made(&world, "toml-names").await["config.toml"]).unwrap();
    let read =
        format!("from prefect.client import Secret; print([n for n in {} if Secret(n).get() != '123'])", json!(names));
    assert_eq!(prefect1(&read, &[("PREFECT__USER_CONFIG_PATH", &file.display().to_string())]), "[]");
}
