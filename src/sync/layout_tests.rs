use super::*;

fn text(text: &str) -> Content {
    Content { bytes: Zeroizing::new(text.as_bytes().to_vec()), form: Form::Text }
}

fn entries(entries: &[(&str, Content)]) -> Contents {
    entries.iter().map(|(key, content)| ((*key).to_owned(), content.clone())).collect()
}

#[test]
fn json_keeps_text_text_and_numbers_every_digit() {
    let number = Content { bytes: Zeroizing::new(b"1.50".to_vec()), form: Form::Json };
    let made = json(&entries(&[("a", text("1.50")), ("b", number), ("c\"", text("x\n\"y\""))])).unwrap();
    assert_eq!(*made, "{\n  \"a\": \"1.50\",\n  \"b\": 1.50,\n  \"c\\\"\": \"x\\n\\\"y\\\"\"\n}\n");
    assert_eq!(*json(&Contents::new()).unwrap(), "{}\n");
    let binary = Content { bytes: Zeroizing::new(vec![0xff]), form: Form::Binary };
    assert_eq!(json(&entries(&[("a", binary)])).unwrap_err(), "entry \"a\" is binary, and this format is text");
}

#[test]
fn a_value_that_shells_and_dotenv_readers_take_differently_is_refused_and_not_shown() {
    let made = dot_env(&entries(&[
        ("A", text("plain $HOME \"x\" `y`")),
        ("B", text("it's 100\\% \"x\"")),
        ("C", text("two\nlines")),
    ]));
    assert_eq!(*made.unwrap(), "A='plain $HOME \"x\" `y`'\nB=\"it's 100\\\\% \\\"x\\\"\"\nC='two\nlines'\n");
    for (value, what) in [
        ("a'$b", "has both"),
        ("${x}", "has \"${\""),
        ("a\rb", "carriage return"),
        ("a\0b", "NUL"),
        ("C:\\dir\\", "ends with"),
    ] {
        let told = dot_env(&entries(&[("A", text(value))])).unwrap_err();
        assert!(told.contains(what) && told.starts_with("entry \"A\" "), "{told}");
    }
    assert!(dot_env(&entries(&[("a-b", text("x"))])).unwrap_err().contains("envName"));
}

#[test]
fn a_registrys_credentials_are_what_docker_reads() {
    let made = docker_config(&entries(&[
        ("username", text("bot")),
        ("password", text("p\"w")),
        ("registry_url", text("ghcr.io")),
        ("reauth", text("true")),
    ]));
    let made: serde_json::Value = serde_json::from_str(&made.unwrap()).unwrap();
    let auth = STANDARD.encode("bot:p\"w");
    assert_eq!(made, serde_json::json!({"auths": {"ghcr.io": {"username": "bot", "password": "p\"w", "auth": auth}}}));
    let told = docker_config(&entries(&[("username", text("bot"))])).unwrap_err();
    assert!(told.contains("there is no \"password\"") && told.contains("docker-registry-credentials"), "{told}");
}
