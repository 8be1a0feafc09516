//! Kubernetes' errors in words that hold no value.

use kube::core::Status;

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
    },
    /// Others changed the target again and again while it was being written.
    #[error("{0} changed while it was being written; trying again")]
    Contended(String),
    /// It took too long.
    #[error("not finished within {0:?}")]
    Timeout(std::time::Duration),
}

impl Error {
    /// A request without values failed.
    #[must_use]
    pub fn kube(doing: impl Into<String>, error: &kube::Error) -> Self {
        Self::Kube { doing: doing.into(), why: describe(error) }
    }

    /// The write of a target failed.
    #[must_use]
    pub fn write(doing: impl Into<String>, error: &kube::Error) -> Self {
        Self::Kube { doing: doing.into(), why: describe_write(error) }
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
        other => other.to_string(),
    }
}

fn describe_status(status: &Status) -> String {
    let fields: Vec<String> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| format!("{} ({})", cause.field, cause.reason))
        .collect();
    let fields = if fields.is_empty() { String::new() } else { format!(": {}", fields.join(", ")) };
    format!("the API server answered {} {}{fields}", status.code, status.reason)
}

/// Why the API server refused a target: its own words where they hold none of the values, since quotas and
/// admission webhooks explain themselves there.
#[must_use]
pub fn refusal(status: &Status, manifest: &Manifest) -> String {
    use base64::Engine as _;
    let tells = manifest.data.values().filter(|value| !value.is_empty()).any(|value| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&**value);
        status.message.contains(&encoded)
            || std::str::from_utf8(value).is_ok_and(|text| status.message.contains(text.trim()))
    });
    if tells || status.message.is_empty() { describe_status(status) } else { status.message.clone() }
}
