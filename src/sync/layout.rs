//! `target.format` and `target.template`: from entries to the data of the target.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::prefect1::{self, Place};
use super::target::Data;
use super::value::{Content, Form, quoted};
use super::{Object, Reason};
use crate::api::{self, ConfigMapFormat, SecretFormat};

/// The key that holds a registry's credentials in a Secret.
pub const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";
/// The type of such a Secret.
pub const DOCKER_CONFIG_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// How entries are laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A key each.
    #[default]
    Plain,
    /// One JSON file.
    Json {
        /// Its key.
        key: String,
    },
    /// One `.env` file.
    DotEnv {
        /// Its key.
        key: String,
    },
    /// A registry's credentials.
    DockerConfigJson,
    /// A key each, for Prefect 1's environment.
    Prefect1Context,
    /// Prefect 1's `config.toml`.
    Prefect1ConfigToml {
        /// Its key.
        key: String,
    },
}

impl From<&SecretFormat> for Format {
    fn from(format: &SecretFormat) -> Self {
        let key = |file: &api::FileFormat| file.key.clone();
        match format {
            SecretFormat { json: Some(file), .. } => Self::Json { key: key(file) },
            SecretFormat { dot_env: Some(file), .. } => Self::DotEnv { key: key(file) },
            SecretFormat { docker_config_json: Some(_), .. } => Self::DockerConfigJson,
            SecretFormat { prefect1_context: Some(_), .. } => Self::Prefect1Context,
            SecretFormat { prefect1_config_toml: Some(file), .. } => Self::Prefect1ConfigToml { key: key(file) },
            _ => Self::Plain,
        }
    }
}

impl From<&ConfigMapFormat> for Format {
    fn from(format: &ConfigMapFormat) -> Self {
        match format {
            ConfigMapFormat { json: Some(file), .. } => Self::Json { key: file.key.clone() },
            ConfigMapFormat { dot_env: Some(file), .. } => Self::DotEnv { key: file.key.clone() },
            _ => Self::Plain,
        }
    }
}

/// Entries by key.
pub type Contents = BTreeMap<String, Content>;

/// Whether the target holds an entry of this key by itself, so that it can keep it while the rest changes.
#[must_use]
pub fn stands_alone(object: &Object, key: &str) -> bool {
    match (&object.format, &object.templates) {
        (Format::Plain, None) | (Format::Prefect1Context, None) => true,
        (Format::Plain, Some(template)) => template.merge && !template.templates.contains_key(key),
        _ => false,
    }
}

/// The name of the object's layout; none for plain. Of templates it tells apart which keys they make.
#[must_use]
pub fn tag(object: &Object) -> Option<String> {
    let format = match &object.format {
        Format::Plain => "plain",
        Format::Json { .. } => "json",
        Format::DotEnv { .. } => "dotEnv",
        Format::DockerConfigJson => "dockerConfigJson",
        Format::Prefect1Context => "prefect1Context",
        Format::Prefect1ConfigToml { .. } => "prefect1ConfigToml",
    };
    let Some(template) = &object.templates else {
        return (object.format != Format::Plain).then(|| format.to_owned());
    };
    let policy = if template.merge { "merged with" } else { "of" };
    Some(format!("{format} {policy} templates {:016x}", fnv(template.templates.keys())))
}

/// A digest of names that stays the same from version to version.
pub(super) fn fnv<'a>(names: impl IntoIterator<Item = &'a String>) -> u64 {
    let bytes = names.into_iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The keys that the target can have, where they are known from the spec alone.
#[must_use]
pub fn known_keys(object: &Object) -> Option<Vec<&str>> {
    match (&object.format, &object.templates) {
        (Format::Json { key } | Format::DotEnv { key } | Format::Prefect1ConfigToml { key }, _) => Some(vec![key]),
        (Format::DockerConfigJson, _) => Some(vec![DOCKER_CONFIG_KEY]),
        (Format::Plain | Format::Prefect1Context, Some(template)) if !template.merge => {
            Some(template.templates.keys().map(String::as_str).collect())
        }
        (Format::Plain | Format::Prefect1Context, _) => None,
    }
}

/// A value as a target holds it that holds entries by themselves.
#[must_use]
pub fn as_held(object: &Object, content: &Content) -> Option<Zeroizing<Vec<u8>>> {
    match &object.format {
        Format::Prefect1Context => in_environment(content).ok(),
        _ => Some(content.bytes.clone()),
    }
}

/// The data of the target.
///
/// # Errors
/// Why the entries can't be laid out; never a value.
pub fn lay_out(object: &Object, entries: Contents) -> Result<Data, (Reason, String)> {
    let entries = match &object.templates {
        Some(template) => {
            let made =
                template.render(&entries).map_err(|why| (Reason::TemplateFailed, format!("spec.target.{why}")))?;
            let mut kept = if template.merge { entries } else { Contents::new() };
            kept.extend(made);
            kept
        }
        None => entries,
    };
    let failed = |why: String| (Reason::FormatFailed, format!("spec.target.format: {why}"));
    let one =
        |key: &str, file: Zeroizing<String>| Data::from([(key.to_owned(), Zeroizing::new(file.as_bytes().to_vec()))]);
    Ok(match &object.format {
        Format::Plain => entries.into_iter().map(|(key, content)| (key, content.bytes)).collect(),
        Format::Json { key } => one(key, json(&entries).map_err(failed)?),
        Format::DotEnv { key } => one(key, dot_env(&entries).map_err(failed)?),
        Format::DockerConfigJson => one(DOCKER_CONFIG_KEY, docker_config(&entries).map_err(failed)?),
        Format::Prefect1Context => prefect1_context(entries).map_err(failed)?,
        Format::Prefect1ConfigToml { key } => one(key, prefect1_config_toml(&entries).map_err(failed)?),
    })
}

/// The entry as text.
fn text<'a>(key: &str, content: &'a Content) -> Result<&'a str, String> {
    std::str::from_utf8(&content.bytes).map_err(|_| format!("entry {key:?} is binary, and this format is text"))
}

/// One object: text as strings, all else as the JSON that it is.
fn json(entries: &Contents) -> Result<Zeroizing<String>, String> {
    let mut out = Zeroizing::new(String::from("{"));
    for (key, content) in entries {
        let text = text(key, content)?;
        let separator = if out.len() > 1 { ",\n  " } else { "\n  " };
        let _ = write!(out, "{separator}{}: ", *quoted(key));
        match content.form {
            Form::Json => out.push_str(text),
            _ => out.push_str(&quoted(text)),
        }
    }
    out.push_str(if entries.is_empty() { "}\n" } else { "\n}\n" });
    Ok(out)
}

/// `NAME='value'` lines, quoted so that shells and python-dotenv take the same from it; what they read differently, or
/// what a dotenv reader expands, is refused.
fn dot_env(entries: &Contents) -> Result<Zeroizing<String>, String> {
    let mut out = Zeroizing::new(String::new());
    for (key, content) in entries {
        let text = text(key, content)?;
        if !is_variable_name(key) {
            return Err(format!(
                "{key:?} can't be the name of a variable in a .env file; rewrite: [{{envName: {{}}}}] makes one"
            ));
        }
        let refuse = |what: &str| {
            Err(format!(
                "entry {key:?} {what}, which shells and dotenv readers take differently; use format json or a template"
            ))
        };
        if text.contains(['\0', '\r']) {
            return refuse("has a carriage return or a NUL");
        }
        if text.contains("${") {
            return refuse("has \"${\"");
        }
        if text.ends_with('\\') {
            return refuse("ends with \\");
        }
        if !text.contains(['\'', '\\']) {
            let _ = writeln!(out, "{key}='{text}'");
        } else if !text.contains(['$', '`']) {
            let escaped = Zeroizing::new(text.replace('\\', "\\\\").replace('"', "\\\""));
            let _ = writeln!(out, "{key}=\"{}\"", *escaped);
        } else {
            return refuse("has both ' or \\ and $ or `");
        }
    }
    Ok(out)
}

/// As shells have it.
fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What kubelets and docker read.
fn docker_config(entries: &Contents) -> Result<Zeroizing<String>, String> {
    let field = |name: &str| {
        let content = entries.get(name).ok_or_else(|| {
            format!("dockerConfigJson needs the entries username, password and registry_url, and there is no {name:?}; extract a docker-registry-credentials block")
        })?;
        text(name, content)
    };
    let (username, password, registry) = (field("username")?, field("password")?, field("registry_url")?.trim());
    if registry.is_empty() {
        return Err("registry_url is empty; set it in Prefect, such as index.docker.io or ghcr.io".to_owned());
    }
    let auth = Zeroizing::new(STANDARD.encode(Zeroizing::new(format!("{username}:{password}")).as_bytes()));
    Ok(Zeroizing::new(format!(
        "{{\"auths\":{{{}:{{\"username\":{},\"password\":{},\"auth\":{}}}}}}}",
        *quoted(registry),
        *quoted(username),
        *quoted(password),
        *quoted(&auth)
    )))
}

fn prefect1_context(entries: Contents) -> Result<Data, String> {
    let encoded = entries.into_iter().map(|(key, content)| {
        prefect1::check_name(&key, Place::Environment)?;
        let encoded = in_environment(&content).map_err(|why| format!("entry {key:?}: {why}"))?;
        Ok((key, encoded))
    });
    encoded.collect()
}

/// A value as Prefect 1 takes it from the environment; one that is kept was written for it before.
fn in_environment(content: &Content) -> Result<Zeroizing<Vec<u8>>, String> {
    Ok(match content.form {
        Form::Kept => content.bytes.clone(),
        _ => Zeroizing::new(prefect1::encode(content, Place::Environment)?.as_bytes().to_vec()),
    })
}

fn prefect1_config_toml(entries: &Contents) -> Result<Zeroizing<String>, String> {
    let mut out = Zeroizing::new(String::from("[context.secrets]\n"));
    for (key, content) in entries {
        prefect1::check_name(key, Place::ConfigToml)?;
        let value = prefect1::encode(content, Place::ConfigToml).map_err(|why| format!("entry {key:?}: {why}"))?;
        // A JSON string of ASCII is a basic string of TOML.
        let _ = writeln!(out, "{} = {}", *quoted(key), *quoted(&value));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
