//! `[context.secrets]` of Prefect 1's `config.toml`, as raw JSON texts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use thiserror::Error;
use toml_edit::{Document, Item, TableLike, TomlError, Value};
use zeroize::Zeroizing;

/// The local secrets of a Prefect 1 `config.toml`, by name. `Debug` shows how many there are.
///
/// A string is a JSON string with the same content. Numbers keep their digits as written, so far
/// as JSON can: `1_000` is `1000`, `+1.50` is `1.50`, `0x10` is `16`. A date is a string of its
/// text. Members of tables keep their order.
#[derive(Default)]
pub struct LocalSecrets(BTreeMap<String, Zeroizing<String>>);

/// Why a `config.toml` can't be used. Shows where the mistake is, never what stands there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigTomlError {
    /// Not TOML.
    #[error("config.toml is not TOML: line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser found wrong or expected. One of its fixed texts.
        message: String,
    },
    /// `context` or `context.secrets` is something else than a table.
    #[error("config.toml: {path} must be a table, as in [context.secrets]")]
    NotATable {
        /// Which of the two.
        path: &'static str,
    },
    /// An infinity or NaN, which JSON does not have.
    #[error("config.toml: secret {name:?} holds inf or nan, which JSON has not; write a string")]
    NotJson {
        /// Name of the secret.
        name: String,
    },
}

impl LocalSecrets {
    /// Reads the text of a `config.toml`. One without `[context.secrets]` gives an empty set.
    ///
    /// # Errors
    /// [`ConfigTomlError`]: not TOML, not a table where one must be, or a number without JSON form.
    pub fn parse(text: &str) -> Result<LocalSecrets, ConfigTomlError> {
        let document = Document::parse(text).map_err(|error| {
            let position = Position::of(text, &error);
            ConfigTomlError::Syntax {
                line: position.line,
                column: position.column,
                message: error.message().to_owned(),
            }
        })?;
        let Some(context) = table_in(document.as_table(), "context", "context")? else {
            return Ok(LocalSecrets::default());
        };
        let Some(secrets) = table_in(context, "secrets", "context.secrets")? else {
            return Ok(LocalSecrets::default());
        };
        let mut entries = BTreeMap::new();
        for (name, item) in secrets.iter() {
            let mut json = Zeroizing::new(String::new());
            write_item(&mut json, item, text).map_err(|NoJson| ConfigTomlError::NotJson { name: name.to_owned() })?;
            entries.insert(name.to_owned(), json);
        }
        Ok(LocalSecrets(entries))
    }

    /// These, and what `below` has besides.
    #[must_use]
    pub fn over(mut self, below: &Self) -> Self {
        for (name, json) in &below.0 {
            self.0.entry(name.clone()).or_insert_with(|| json.clone());
        }
        self
    }

    /// The raw JSON text of one secret.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|json| json.as_str())
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for LocalSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSecrets({} entries)", self.len())
    }
}

/// A place in a text, as people count.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    /// Where a parser's error is. (Its own `Display` would quote the line.)
    pub(crate) fn of(text: &str, error: &TomlError) -> Position {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

fn table_in<'a>(
    table: &'a dyn TableLike,
    key: &str,
    path: &'static str,
) -> Result<Option<&'a dyn TableLike>, ConfigTomlError> {
    match table.get(key) {
        None => Ok(None),
        Some(item) => match item.as_table_like() {
            Some(found) => Ok(Some(found)),
            None => Err(ConfigTomlError::NotATable { path }),
        },
    }
}

/// A value that JSON can't express.
struct NoJson;

fn write_item(out: &mut String, item: &Item, source: &str) -> Result<(), NoJson> {
    match item {
        Item::None => Ok(()),
        Item::Value(value) => write_value(out, value, source),
        Item::Table(table) => write_table(out, table, source),
        Item::ArrayOfTables(tables) => write_array(out, tables.iter(), |out, table| write_table(out, table, source)),
    }
}

fn write_value(out: &mut String, value: &Value, source: &str) -> Result<(), NoJson> {
    match value {
        Value::String(text) => write_string(out, text.value()),
        Value::Integer(number) => {
            let written = digits(source, number.span());
            // Only decimals are legal JSON as they are; the other bases have a letter.
            let is_decimal = |text: &String| text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            match written.filter(is_decimal) {
                Some(text) => out.push_str(&text),
                None => out.push_str(&Zeroizing::new(number.value().to_string())),
            }
            Ok(())
        }
        Value::Float(number) => {
            if !number.value().is_finite() {
                return Err(NoJson);
            }
            out.push_str(&digits(source, number.span()).ok_or(NoJson)?);
            Ok(())
        }
        Value::Boolean(flag) => {
            out.push_str(if *flag.value() { "true" } else { "false" });
            Ok(())
        }
        Value::Datetime(date) => {
            let written = date.span().and_then(|span| source.get(span)).ok_or(NoJson)?;
            write_string(out, written.trim())
        }
        Value::Array(array) => write_array(out, array.iter(), |out, value| write_value(out, value, source)),
        Value::InlineTable(table) => write_table(out, table, source),
    }
}

/// A number as written, without what JSON does not allow.
fn digits(source: &str, span: Option<Range<usize>>) -> Option<String> {
    let written = source.get(span?)?.trim();
    let written = written.strip_prefix('+').unwrap_or(written);
    Some(written.replace('_', ""))
}

fn write_string(out: &mut String, text: &str) -> Result<(), NoJson> {
    let json = Zeroizing::new(serde_json::to_string(text).map_err(|_| NoJson)?);
    out.push_str(&json);
    Ok(())
}

fn write_table(out: &mut String, table: &dyn TableLike, source: &str) -> Result<(), NoJson> {
    out.push('{');
    let members = table.iter().filter(|(_, item)| !item.is_none());
    for (at, (key, item)) in members.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_string(out, key)?;
        out.push(':');
        write_item(out, item, source)?;
    }
    out.push('}');
    Ok(())
}

fn write_array<T>(
    out: &mut String,
    elements: impl Iterator<Item = T>,
    write: impl Fn(&mut String, T) -> Result<(), NoJson>,
) -> Result<(), NoJson> {
    out.push('[');
    for (at, element) in elements.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, element)?;
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_of(written: &str) -> Result<String, ConfigTomlError> {
        let secrets = LocalSecrets::parse(&format!("[context.secrets]\nX = {written}\n"))?;
        Ok(secrets.get("X").unwrap().to_owned())
    }

    #[test]
    fn every_toml_value_becomes_json_as_written() {
        for (written, expected) in [
            (r#""hunter2""#, r#""hunter2""#),
            (r#""a\n\"b\" \u00e9""#, "\"a\\n\\\"b\\\" é\""),
            (r"'C:\raw'", r#""C:\\raw""#),
            ("\"\"\"\nPEM\nlines\"\"\"", r#""PEM\nlines""#),
            (r#""123""#, r#""123""#),
            ("123", "123"),
            ("+1_000", "1000"),
            ("-7", "-7"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("0b11", "3"),
            ("1.50", "1.50"),
            ("+1_0.5_0", "10.50"),
            ("1e05", "1e05"),
            ("6.626E-34", "6.626E-34"),
            ("-0.0", "-0.0"),
            ("true", "true"),
            ("1979-05-27T07:32:00Z", r#""1979-05-27T07:32:00Z""#),
            ("1979-05-27 07:32:00", r#""1979-05-27 07:32:00""#),
            ("07:32:00", r#""07:32:00""#),
            ("[ 1.0, 'a', [true] ]", r#"[1.0,"a",[true]]"#),
            ("{ z = 1, a.b = 2, c = { } }", r#"{"z":1,"a":{"b":2},"c":{}}"#),
        ] {
            assert_eq!(json_of(written).as_deref(), Ok(expected), "{written}");
            let value: Result<serde_json::Value, _> = serde_json::from_str(expected);
            assert!(value.is_ok(), "{expected} is JSON");
        }
    }

    #[test]
    fn tables_and_arrays_of_tables_are_objects_in_their_order() {
        let text = "[context.secrets]\nA = 'x'\n[context.secrets.db]\nuser = 'u'\nport = 5432\n\
                    [[context.secrets.list]]\nn = 1\n[[context.secrets.list]]\nn = 2\n";
        let secrets = LocalSecrets::parse(text).unwrap();
        assert_eq!(secrets.names().collect::<Vec<_>>(), ["A", "db", "list"]);
        assert_eq!(secrets.get("db"), Some(r#"{"user":"u","port":5432}"#));
        assert_eq!(secrets.get("list"), Some(r#"[{"n":1},{"n":2}]"#));
        assert_eq!(secrets.get("a"), None);
    }

    #[test]
    fn secrets_are_found_however_the_table_is_written() {
        for text in [
            "[context.secrets]\nX = 'v'",
            "[context]\nsecrets = { X = 'v' }",
            "context.secrets.X = 'v'",
            "[context]\nsecrets.X = 'v'",
            "\u{feff}[context.secrets]\r\nX = 'v'\r\n",
        ] {
            assert_eq!(LocalSecrets::parse(text).unwrap().get("X"), Some("\"v\""), "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_shifts_no_number() {
        let secrets = LocalSecrets::parse("\u{feff}[context.secrets]\nX = 1.50").unwrap();
        assert_eq!(secrets.get("X"), Some("1.50"));
    }

    #[test]
    fn a_file_without_secrets_is_an_empty_set() {
        for text in ["", "backend = 'cloud'", "[context]", "[context.secrets]"] {
            let secrets = LocalSecrets::parse(text).unwrap();
            assert_eq!((secrets.is_empty(), secrets.len()), (true, 0), "{text}");
        }
    }

    #[test]
    fn something_else_than_a_table_is_an_error() {
        let error = |text| LocalSecrets::parse(text).unwrap_err();
        let not_a_table = |path| ConfigTomlError::NotATable { path };
        assert_eq!(error("context = 1"), not_a_table("context"));
        assert_eq!(error("context.secrets = 'x'"), not_a_table("context.secrets"));
        assert_eq!(error("[[context.secrets]]"), not_a_table("context.secrets"));
    }

    #[test]
    fn numbers_that_json_has_not_are_named() {
        for written in ["inf", "-inf", "nan", "[1.0, +nan]"] {
            let expected = ConfigTomlError::NotJson { name: "X".to_owned() };
            assert_eq!(json_of(written), Err(expected), "{written}");
        }
    }

    #[test]
    fn errors_say_where_and_never_what() {
        for (written, line, column) in [
            ("canary", 2, 5),
            ("'canary", 2, 12),
            ("\"canary\\q\"", 2, 13),
            ("'canary' canary", 2, 14),
            ("1canary", 2, 5),
            ("1979-99-99Tcanary", 2, 5),
            ("{ canary = 1, canary = 2 }", 2, 19),
            ("99999999999999999999", 2, 5),
            ("[ 'canary'", 2, 15),
            ("'x'\nX = 'canary'", 3, 1),
        ] {
            let error = json_of(written).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("canary") && !shown.contains("9999"), "{shown}");
            let ConfigTomlError::Syntax { line: l, column: c, .. } = error else {
                panic!("{shown}");
            };
            assert_eq!((l, c), (line, column), "{written}: {shown}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let secrets = LocalSecrets::parse("context.secrets.X = 'canary'").unwrap();
        assert_eq!(format!("{secrets:?}"), "LocalSecrets(1 entries)");
    }

    proptest! {
        #[test]
        fn any_string_survives(content in any::<String>()) {
            let mut document = toml_edit::DocumentMut::new();
            document["context"]["secrets"]["X"] = toml_edit::value(content.as_str());
            let secrets = LocalSecrets::parse(&document.to_string()).unwrap();
            let back: String = serde_json::from_str(secrets.get("X").unwrap()).unwrap();
            prop_assert_eq!(back, content);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n\t\u{e9}]{0,60}") {
            let _ = LocalSecrets::parse(&text);
        }
    }
}
