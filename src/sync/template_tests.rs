use super::*;

fn entries() -> BTreeMap<String, Content> {
    let text = |text: &str| Content { bytes: Zeroizing::new(text.as_bytes().to_vec()), form: Form::Text };
    BTreeMap::from([
        ("PASSWORD".to_owned(), text("p/w: <&'\"> @ä")),
        ("USER".to_owned(), text("admin")),
        (
            "CONFIG".to_owned(),
            text(r#"{"port": 5432, "ratio": 1.50, "big": 123456789012345678901234567890, "on": true}"#),
        ),
        ("tls.crt".to_owned(), text("PEM\n")),
        ("BINARY".to_owned(), Content { bytes: Zeroizing::new(vec![0xff, 0x00]), form: Form::Binary }),
        ("ENCODED".to_owned(), text("/wA=")),
    ])
}

fn template(key: &str, source: &str) -> Template {
    Template { templates: BTreeMap::from([(key.to_owned(), source.to_owned())]), ..Template::default() }
}

fn render(key: &str, source: &str) -> Result<String, String> {
    let made = template(key, source).render(&entries())?;
    Ok(String::from_utf8(made[key].bytes.to_vec()).unwrap())
}

#[test]
fn nothing_is_escaped_whatever_the_key_is_called_and_the_last_newline_stays() {
    for key in ["settings.xml", "x.json", "x.yaml", "x.html", "plain"] {
        assert_eq!(render(key, "{{ PASSWORD }}\n").unwrap(), "p/w: <&'\"> @ä\n", "{key}");
    }
    assert_eq!(render("x", "a\n\n").unwrap(), "a\n\n");
}

#[test]
fn filters_do_what_they_say() {
    let cases = [
        ("{{ PASSWORD | urlencode }}", "p%2Fw%3A%20%3C%26%27%22%3E%20%40%C3%A4"),
        ("{{ 'aZ09-._~' | urlencode }}", "aZ09-._~"),
        ("{{ PASSWORD | tojson }}", r#""p/w: <&'\"> @ä""#),
        ("{{ PASSWORD | quote }}", r#""p/w: <&'\"> @ä""#),
        ("{{ (CONFIG | fromjson).port + 1 }}", "5433"),
        ("{{ (CONFIG | fromjson).ratio }}", "1.50"),
        ("{{ (CONFIG | fromjson).big }}", "123456789012345678901234567890"),
        ("{% if (CONFIG | fromjson).on %}on{% endif %}", "on"),
        (
            "{{ CONFIG | fromjson | tojson }}",
            r#"{"big":123456789012345678901234567890,"on":true,"port":5432,"ratio":1.50}"#,
        ),
        ("{{ {'a': [1, 'x']} | tojson }}", r#"{"a":[1,"x"]}"#),
        ("{{ USER | b64encode }}", "YWRtaW4="),
        ("{{ BINARY | b64encode }}", "/wA="),
        ("{{ ENCODED | b64decode | b64encode }}", "/wA="),
        ("{{ USER | b64encode | b64decode }}", "admin"),
        ("{{ USER | upper }}{{ 'A' | lower }}{{ '  x ' | trim }}", "ADMINax"),
        ("{{ NONE | default('none') }}", "none"),
        ("{{ data['tls.crt'] }}", "PEM\n"),
        ("{% for name in data %}{{ name }},{% endfor %}", "BINARY,CONFIG,ENCODED,PASSWORD,USER,tls.crt,"),
        ("{% if NONE is defined %}x{% endif %}", ""),
    ];
    for (source, expected) in cases {
        assert_eq!(render("x", source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn brackets_leave_braces_to_helm() {
    let brackets =
        Template { brackets: true, ..template("x", "{{ .Values.x }} [[ USER ]][# no #][% if true %]![% endif %]") };
    assert_eq!(*brackets.render(&entries()).unwrap()["x"].bytes, b"{{ .Values.x }} admin!");
}

#[test]
fn errors_name_template_and_line_and_what_there_is_and_never_a_value() {
    let cases = [
        (
            "\n{{ PASWORD }}",
            r#"template "x", line 2: there is no entry "PASWORD"; there is BINARY, CONFIG, ENCODED, PASSWORD, USER, tls.crt. Names that are no identifiers are written data["tls.crt"]"#,
        ),
        (
            "{{ (CONFIG | fromjson).host }}",
            r#"template "x", line 1: a name or member that it uses is not there; `default` gives one"#,
        ),
        ("{{ PASSWORD | fromjson }}", r#"template "x", line 1: fromjson: this is no JSON"#),
        ("{{ PASSWORD | b64decode }}", r#"template "x", line 1: b64decode: this is no base64"#),
        ("{{ BINARY | upper }}", r#"template "x", line 1: a binary value is used as text; b64encode takes it"#),
        ("{{ BINARY }}", r#"template "x", line 1: a binary value is used as text; b64encode takes it"#),
        ("{{ 'x' ~ BINARY }}", r#"template "x": a binary value is used as text; b64encode takes it"#),
        ("{{ (ENCODED | b64decode) ~ '' }}", r#"template "x": a binary value is used as text; b64encode takes it"#),
        (
            "{{ NONE | default('') }}{{ data['none'] }}",
            r#"template "x", line 1: a name or member that it uses is not there; `default` gives one"#,
        ),
        ("{{ PASSWORD + 1 }}", r#"template "x", line 1: invalid operation"#),
        (
            "{{ PASSWORD | sha256 }}",
            r#"template "x", line 1: unknown filter; there are urlencode, tojson, fromjson, b64encode, b64decode, quote, upper, lower, trim, default, items and length"#,
        ),
        ("{% for a in range(9) %}{% endfor %}", r#"template "x", line 1: unknown function"#),
        (
            "{% for a in data %}{% for b in data %}{% for c in data %}{% for d in data %}{% for e in data %}{% for f in data %}{{ PASSWORD }}{% for g in data %}{{ CONFIG }}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
            r#"template "x", line 1: it takes too long, or makes too much"#,
        ),
        ("{{ 'x' * 90000000 }}", r#"template "x", line 1: it takes too long, or makes too much"#),
    ];
    for (source, expected) in cases {
        assert_eq!(render("x", source).unwrap_err(), expected, "{source}");
    }
}

#[test]
fn syntax_is_checked_before_there_are_values() {
    let told = |source: &str| template("x", source).validate().unwrap_err();
    assert_eq!(told("a\n{{ USER"), r#"template "x", line 2: unexpected end of input, expected end of variable block"#);
    assert_eq!(told("{% include PASSWORD %}"), r#"template "x", line 1: unknown statement include"#);
    assert!(template("x", "{{ USER }}").validate().is_ok());
}
