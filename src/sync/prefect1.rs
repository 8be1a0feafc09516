//! Values for Prefect 1, written so that what it reads is what was there.
//!
//! Prefect 1 expands `$NAME`, `~` and `${a.b}` in its settings, evaluates what looks like a Python literal, and parses
//! the rest as JSON. So a value is written as JSON, in ASCII and without `$` and `~`, and that text is quoted once for
//! each time that Prefect evaluates it: twice in the environment, once in a `config.toml`.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::value::{Content, Form, quoted};

/// What Prefect 1 puts before a secret's name in the environment.
pub const PREFIX: &str = "PREFECT__CONTEXT__SECRETS__";

/// Names that Prefect 1 takes for methods of its settings: with one of them `import prefect` fails.
const METHODS: [&str; 34] = [
    "clear",
    "copy",
    "del_comment",
    "from_json",
    "from_msgpack",
    "from_toml",
    "from_toon",
    "from_yaml",
    "fromkeys",
    "get",
    "get_comment",
    "items",
    "keys",
    "merge_update",
    "pop",
    "popitem",
    "set_comment",
    "setdefault",
    "to_dict",
    "to_json",
    "to_msgpack",
    "to_toml",
    "to_toon",
    "to_yaml",
    "update",
    "values",
    "_box_defaults",
    "_box_internal_attrs",
    "_box_resolved_defaults",
    "_conversion_checks",
    "_flush_pending_parent",
    "_protected_keys",
    "_safe_attr",
    "_Box",
];

/// Where Prefect 1 reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An environment variable.
    Environment,
    /// `config.toml`.
    ConfigToml,
}

/// Why Prefect 1 could not read a secret of this name.
///
/// # Errors
/// The reason, and what to do.
pub fn check_name(name: &str, place: Place) -> Result<(), String> {
    // `_comment_…` are methods of its settings too.
    if METHODS.contains(&name) || name.starts_with("_comment_") || name.starts_with("_Box") || name.starts_with("__") {
        return Err(format!(
            "Prefect 1 can't have a secret called {name:?}: it is a method of its settings, and `import prefect` would fail; give it another name with rewrite or secretKey"
        ));
    }
    let is_variable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if place == Place::Environment {
        if name.contains("__") {
            return Err(format!(
                "Prefect 1 would not find a secret called {name:?} in its environment: it splits names at \"__\"; give it another name, or use prefect1ConfigToml"
            ));
        }
        if !name.bytes().all(is_variable) {
            return Err(format!("{name:?} can't be the name of an environment variable"));
        }
    }
    Ok(())
}

/// The text from which Prefect 1 reads exactly this value.
///
/// # Errors
/// Binary values have none.
pub fn encode(content: &Content, place: Place) -> Result<Zeroizing<String>, String> {
    let text = std::str::from_utf8(&content.bytes).ok().filter(|_| content.form != Form::Binary);
    let text = text.ok_or("Prefect 1 has no binary secrets; leave decoding out")?;
    let json = match content.form {
        Form::Json => ascii(text),
        _ => ascii(&quoted(text)),
    };
    Ok(match place {
        Place::Environment => quoted(&quoted(&json)),
        Place::ConfigToml => quoted(&json),
    })
}

/// JSON without what Prefect 1 would expand. Outside strings JSON has neither of these characters.
fn ascii(json: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(json.len()));
    for c in json.chars() {
        if c.is_ascii() && !matches!(c, '$' | '~' | '\u{7f}') {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str, form: Form) -> Content {
        Content { bytes: Zeroizing::new(text.as_bytes().to_vec()), form }
    }

    #[test]
    fn a_value_is_quoted_once_for_each_time_that_prefect_evaluates_it() {
        let number = content("123", Form::Text);
        assert_eq!(*encode(&number, Place::Environment).unwrap(), r#""\"\\\"123\\\"\"""#);
        assert_eq!(*encode(&number, Place::ConfigToml).unwrap(), r#""\"123\"""#);
        let expands = encode(&content("pa$HOME ~/x ä😀", Form::Text), Place::ConfigToml).unwrap();
        assert!(!expands.contains(['$', '~']) && expands.is_ascii(), "{}", *expands);
        assert!(expands.contains(r"\\ud83d\\ude00"), "{}", *expands);
    }

    #[test]
    fn names_that_prefect_can_not_have_are_refused_with_the_reason() {
        let refused = |name: &str, place| check_name(name, place).unwrap_err();
        assert!(refused("keys", Place::Environment).contains("import prefect"));
        assert!(refused("to_dict", Place::ConfigToml).contains("import prefect"));
        assert!(refused("A__B", Place::Environment).contains("splits names"));
        for name in ["API_KEY", "lower", "MY-DASH", "a.b", "_x", "x_"] {
            assert_eq!(check_name(name, Place::Environment), Ok(()), "{name}");
        }
        assert_eq!(check_name("A__B", Place::ConfigToml), Ok(()));
    }
}
