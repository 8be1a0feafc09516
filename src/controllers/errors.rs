//! Kubernetes' errors in words that hold no value.

use std::collections::HashSet;
use std::time::Duration;

use kube::core::Status;
use zeroize::Zeroizing;

use super::context::backoff;
use crate::prefect::is_about_tls;
use crate::sync::Manifest;

/// Why a reconcile has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{doing}: {why}")]
    Kube {
        /// What was being done to what.
        doing: String,
        /// Why it failed, without any value.
        why: String,
        /// How long the API server asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Others changed the target again and again while it was being written.
    #[error("{0} changed while it was being written; trying again")]
    Contended(String),
    /// It took too long.
    #[error("not finished within {0:?}")]
    Timeout(Duration),
}

impl Error {
    /// When to try again after this many tries before: ever later, and never before the API server may be asked.
    #[must_use]
    pub fn retry_in(&self, tries: u32, seed: &str) -> Duration {
        match self {
            // Someone else was faster: at once, unless it goes on.
            Self::Contended(_) if tries < 3 => Duration::from_millis(50),
            Self::Kube { retry_after: Some(asked), .. } => *asked + backoff(tries, seed),
            _ => backoff(tries, seed),
        }
    }

    /// A request without values failed.
    #[must_use]
    pub fn kube(doing: impl Into<String>, error: &kube::Error) -> Self {
        Self::Kube { doing: doing.into(), why: describe(error), retry_after: retry_after(error) }
    }

    /// The write of a target failed.
    #[must_use]
    pub fn write(doing: impl Into<String>, error: &kube::Error) -> Self {
        Self::Kube { doing: doing.into(), why: describe_write(error), retry_after: retry_after(error) }
    }
}

/// The API server says it with 429 and sometimes with 503.
fn retry_after(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else { return None };
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    // One that is overloaded in earnest says it in the header only.
    let seconds = if seconds == 0 && status.code == 429 { 1 } else { seconds };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Whether the API server could not be reached or is not itself, which passes. A certificate that is not trusted does
/// not.
pub(super) fn is_outage(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => !is_about_tls(error),
        _ => false,
    }
}

/// Why a request failed that carried no value: with the API server's own words.
#[must_use]
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("the API server answered {}: {}", status.code, status.message)
        }
        other => describe_write(other),
    }
}

/// Why the write of a target failed. Of an answer of the API server only code, reason and the fields it names: its
/// text may repeat what was sent.
#[must_use]
pub fn describe_write(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => describe_status(status),
        // The client's own text quotes what it could not parse.
        kube::Error::SerdeError(_) => "the API server's answer is not of the expected shape".to_owned(),
        other => with_root(other),
    }
}

/// With what is at the bottom of it: that a connection was refused is said only there.
fn with_root(error: &kube::Error) -> String {
    let text = error.to_string();
    let root = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).last();
    match root.map(ToString::to_string) {
        Some(root) if !text.contains(&root) => format!("{text}: {root}"),
        _ => text,
    }
}

pub(super) fn describe_status(status: &Status) -> String {
    let fields: Vec<String> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| format!("{} ({})", cause.field, cause.reason))
        .collect();
    let fields = if fields.is_empty() { String::new() } else { format!(": {}", fields.join(", ")) };
    format!("the API server answered {} {}{fields}", status.code, status.reason)
}

/// Why the API server refused a target: its own words where they hold nothing of the values, since quotas and
/// admission webhooks explain themselves there.
#[must_use]
pub fn refusal(status: &Status, manifest: &Manifest) -> String {
    use base64::Engine as _;
    let message = own_words(status);
    let told = windows(&message);
    let tells = manifest.data.values().any(|value| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&**value);
        repeats(&told, &message, value) || repeats(&told, &message, encoded.as_bytes())
    });
    if tells || message.is_empty() { describe_status(status) } else { message }
}

/// How many letters and digits in a row of a value are taken for a part of it.
const WINDOW: usize = 8;

/// Letters and digits only: what stands between them may have been quoted.
fn letters(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(u8::is_ascii_alphanumeric).collect()
}

fn windows(message: &str) -> HashSet<Vec<u8>> {
    letters(message.as_bytes()).windows(WINDOW).map(<[u8]>::to_vec).collect()
}

/// Whether the message repeats the value or a part of it; of a short value only the whole can be looked for.
fn repeats(told: &HashSet<Vec<u8>>, message: &str, value: &[u8]) -> bool {
    // As it is, and as JSON and Go quote it.
    if let Ok(text) = std::str::from_utf8(value).map(str::trim)
        && !text.is_empty()
    {
        let quoted = Zeroizing::new(serde_json::to_string(text).unwrap_or_default());
        if message.contains(text) || message.contains(quoted.trim_matches('"')) {
            return true;
        }
    }
    let value = Zeroizing::new(letters(value));
    if value.len() < WINDOW {
        return !value.is_empty() && letters(message.as_bytes()).windows(value.len()).any(|window| window == &**value);
    }
    value.windows(WINDOW).any(|window| told.contains(window))
}

/// The message, or for a target that does not fit its type one phrase for each field: a JSON parser's complaint
/// quotes the character of the value that it stumbled over.
fn own_words(status: &Status) -> String {
    let causes: Vec<String> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| match cause.reason.as_str() {
            reason if cause.field.starts_with("data") && reason != "FieldValueRequired" => {
                format!("{} ({reason})", cause.field)
            }
            _ if cause.field.is_empty() => cause.message.clone(),
            _ => format!("{}: {}", cause.field, cause.message),
        })
        .collect();
    if status.reason == "Invalid" && !causes.is_empty() { causes.join(", ") } else { status.message.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: &str, message: &str) -> bool {
        repeats(&windows(message), message, value.as_bytes())
    }

    #[test]
    fn a_refusal_that_repeats_a_value_or_a_part_of_it_is_found_out() {
        assert!(told("hunter2", "denied: hunter2 is weak"));
        assert!(told("correct-horse-battery", "denied: it starts with \"correct-hors…\""));
        assert!(told("line one\nline two", "denied: \"line one\\nline two\""));
        assert!(told("пароль", "denied: пароль"));
        assert!(told("#!$%&*", "denied: #!$%&*"));
        assert!(!told("hunter2", "exceeded quota: secrets=10"));
        assert!(!told("", "exceeded quota: secrets=10"));
    }
}
