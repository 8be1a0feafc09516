//! `target.template.data`: minijinja, set up so that it can't corrupt a value.
//!
//! Nothing is escaped whatever the key is called, the last newline stays, names that are not defined are errors, and
//! fuel bounds both time and memory. Only the filters named here exist, and no template can include another. Error
//! texts are the engine's fixed words and names from the template; its own debug output would show values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, filters, tests};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::value::{Content, Form, decode_base64};

/// What one rendering may cost: about as many instructions, or 64 times as many bytes of data.
const FUEL: u64 = 300_000;

const BINARY: &str = "a binary value is used as text; b64encode takes it";

/// `target.template` as far as it makes data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// The templates, by key of the target.
    pub templates: BTreeMap<String, String>,
    /// Whether the entries are in the target too.
    pub merge: bool,
    /// Whether expressions are marked by brackets instead of braces.
    pub brackets: bool,
}

impl Template {
    /// Whether the templates can be understood.
    ///
    /// # Errors
    /// The first mistake: which template, which line.
    pub fn validate(&self) -> Result<(), String> {
        self.environment().map(|_| ())
    }

    fn environment(&self) -> Result<Environment<'_>, String> {
        let mut environment = Environment::empty();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::Bytes => Err(failed(BINARY)),
            _ => minijinja::escape_formatter(out, state, value),
        });
        let mut syntax = SyntaxConfig::builder();
        if self.brackets {
            syntax.block_delimiters("[%", "%]").variable_delimiters("[[", "]]").comment_delimiters("[#", "#]");
        }
        let syntax = syntax.keep_trailing_newline(true).build().map_err(|error| error.kind().to_string())?;
        environment.set_syntax(syntax);
        environment.add_filter("urlencode", |value: &Value| text(value).map(|text| urlencode(&text)));
        environment.add_filter("tojson", tojson);
        environment.add_filter("fromjson", |value: &Value| fromjson(&text(value)?));
        environment.add_filter("b64encode", |value: &Value| Ok::<_, Error>(STANDARD.encode(bytes(value)?)));
        environment.add_filter("b64decode", b64decode);
        environment.add_filter("quote", |value: &Value| quoted(&text(value)?));
        environment.add_filter("upper", |value: &Value| text(value).map(|text| text.to_uppercase()));
        environment.add_filter("lower", |value: &Value| text(value).map(|text| text.to_lowercase()));
        environment.add_filter("trim", |value: &Value| text(value).map(|text| text.trim().to_owned()));
        environment.add_filter("default", filters::default);
        environment.add_filter("items", filters::items);
        environment.add_filter("length", filters::length);
        environment.add_test("defined", tests::is_defined);
        environment.add_test("undefined", tests::is_undefined);
        for (key, template) in &self.templates {
            environment.add_template(key, template).map_err(|error| {
                let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                format!("{}: {detail}", place(key, &error))
            })?;
        }
        Ok(environment)
    }

    /// What the templates make of the entries.
    ///
    /// # Errors
    /// Which template can't be rendered, where and why; never a value.
    pub fn render(&self, entries: &BTreeMap<String, Content>) -> Result<BTreeMap<String, Content>, String> {
        let environment = self.environment()?;
        let values: BTreeMap<String, Value> =
            entries.iter().map(|(key, content)| (key.clone(), value_of(content))).collect();
        let mut context = values.clone();
        context.insert("data".to_owned(), Value::from(values));
        let context = Value::from(context);
        let mut made = BTreeMap::new();
        for key in self.templates.keys() {
            let template = environment.get_template(key).map_err(|error| error.kind().to_string())?;
            let rendered = template.render(&context).map_err(|error| {
                let known: BTreeSet<&str> = entries.keys().map(String::as_str).chain(["data"]).collect();
                // Which of them it was the engine does not say.
                let undeclared = template.undeclared_variables(false);
                let mut unknown = undeclared.iter().map(String::as_str).filter(|name| !known.contains(name));
                let only = unknown.next().filter(|_| unknown.next().is_none() && !undeclared.contains("data"));
                format!("{}: {}", place(key, &error), why(&error, only, entries.keys().map(String::as_str)))
            })?;
            // Concatenation makes text of what is none.
            let is_lossy = rendered.contains(char::REPLACEMENT_CHARACTER)
                && !self.templates[key].contains(char::REPLACEMENT_CHARACTER)
                && !texts(entries).any(|text| text.contains(char::REPLACEMENT_CHARACTER));
            if is_lossy {
                return Err(format!("template {key:?}: {BINARY}"));
            }
            made.insert(key.clone(), Content { bytes: Zeroizing::new(rendered.into_bytes()), form: Form::Text });
        }
        Ok(made)
    }
}

fn texts(entries: &BTreeMap<String, Content>) -> impl Iterator<Item = &str> {
    entries.values().filter_map(|content| std::str::from_utf8(&content.bytes).ok())
}

fn place(key: &str, error: &Error) -> String {
    match error.line() {
        Some(line) => format!("template {key:?}, line {line}"),
        None => format!("template {key:?}"),
    }
}

/// The engine's own details may hold values.
fn why<'a>(error: &Error, unknown: Option<&str>, entries: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 10;
    match (error.kind(), unknown) {
        (ErrorKind::UndefinedError, Some(name)) => {
            let mut entries: Vec<&str> = entries.collect();
            let more = if entries.len() > MOST { ", …" } else { "" };
            entries.truncate(MOST);
            format!(
                "there is no entry {name:?}; there is {}{more}. Names that are no identifiers are written data[\"tls.crt\"]",
                entries.join(", ")
            )
        }
        (ErrorKind::UndefinedError, None) => "a name or member that it uses is not there; `default` gives one".to_owned(),
        (ErrorKind::OutOfFuel, _) => "it takes too long, or makes too much".to_owned(),
        (ErrorKind::UnknownFilter, _) => {
            "unknown filter; there are urlencode, tojson, fromjson, b64encode, b64decode, quote, upper, lower, trim, default, items and length".to_owned()
        }
        // Of our own filters: their words are below.
        (ErrorKind::BadSerialization, _) => error.detail().unwrap_or("a filter failed").to_owned(),
        (kind, _) => kind.to_string(),
    }
}

fn value_of(content: &Content) -> Value {
    match std::str::from_utf8(&content.bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from_bytes(content.bytes.to_vec()),
    }
}

fn failed(what: &'static str) -> Error {
    Error::new(ErrorKind::BadSerialization, what)
}

/// The value as it would be printed.
fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bytes => Err(failed(BINARY)),
        _ => Ok(value.to_string()),
    }
}

fn bytes(value: &Value) -> Result<Vec<u8>, Error> {
    match value.as_bytes() {
        Some(bytes) => Ok(bytes.to_vec()),
        None => text(value).map(String::into_bytes),
    }
}

/// Everything but what RFC 3986 calls unreserved.
fn urlencode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// As JSON, without the escapes that HTML would want.
fn tojson(value: &Value) -> Result<String, Error> {
    if let Some(number) = value.downcast_object_ref::<Number>() {
        return Ok(number.0.clone());
    }
    let joined = |parts: Result<Vec<String>, Error>| parts.map(|parts| parts.join(","));
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bytes => Err(failed("a binary value can't be JSON; b64encode takes it")),
        ValueKind::Map => {
            let members = value
                .try_iter()?
                .map(|name| Ok(format!("{}:{}", quoted(&text(&name)?)?, tojson(&value.get_item(&name)?)?)));
            Ok(format!("{{{}}}", joined(members.collect())?))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            Ok(format!("[{}]", joined(value.try_iter()?.map(|element| tojson(&element)).collect())?))
        }
        _ => serde_json::to_string(value).map_err(|_| failed("tojson: this can't be JSON")),
    }
}

/// A number that no number type holds exactly: it is printed as it was written, and can't be reckoned with.
#[derive(Debug)]
struct Number(String);

impl Object for Number {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn quoted(text: &str) -> Result<String, Error> {
    serde_json::to_string(text).map_err(|_| failed("quote: this can't be quoted"))
}

fn b64decode(value: &Value) -> Result<Value, Error> {
    let decoded = decode_base64(&bytes(value)?).ok_or_else(|| failed("b64decode: this is no base64"))?;
    Ok(match std::str::from_utf8(&decoded) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from_bytes(decoded.to_vec()),
    })
}

/// Numbers keep every digit.
fn fromjson(raw: &str) -> Result<Value, Error> {
    let no_json = || failed("fromjson: this is no JSON");
    if super::value::is_too_deep(raw) {
        return Err(no_json());
    }
    let raw = raw.trim();
    Ok(match raw.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(raw).map_err(|_| no_json())?;
            let members = members.into_iter().map(|(name, member)| Ok((name, fromjson(member.get())?)));
            Value::from(members.collect::<Result<BTreeMap<_, _>, Error>>()?)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| no_json())?;
            Value::from(elements.into_iter().map(|element| fromjson(element.get())).collect::<Result<Vec<_>, _>>()?)
        }
        Some(b'-' | b'0'..=b'9') => {
            let _: &RawValue = serde_json::from_str(raw).map_err(|_| no_json())?;
            let whole = raw.parse::<i64>().ok().map(Value::from);
            let exact = whole.or_else(|| raw.parse::<f64>().ok().map(Value::from));
            let exact = exact.filter(|number| number.to_string() == raw);
            exact.unwrap_or_else(|| Value::from_object(Number(raw.to_owned())))
        }
        Some(b'"') => serde_json::from_str::<String>(raw).map(Value::from).map_err(|_| no_json())?,
        _ if raw == "null" => Value::from(()),
        _ => serde_json::from_str::<bool>(raw).map(Value::from).map_err(|_| no_json())?,
    })
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod unit;
