//! What can go wrong between here and Prefect. No error holds a value or any part of an answer:
//! Prefect's 4xx bodies repeat the request, and proxies put anything into theirs.

use std::time::Duration;

use thiserror::Error;

/// A failed request: what was being done, to which host, and what kind of failure.
///
/// It names no block and no variable, so that it may be shown to everyone who uses the workspace
/// and reads the same as long as the cause is the same.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot {doing}: {host} {kind}")]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// Host that was asked, with its port if it has one.
    pub host: String,
    /// How long the server asked us to wait, where it did.
    pub retry_after: Option<Duration>,
    /// What was being done, as the sentence after "cannot".
    pub doing: String,
}

/// What kind of failure. `Display` continues a sentence that begins with the host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// 401: the credentials are missing or refused.
    #[error(
        "answered 401: the credentials are missing, wrong or expired \
         (Prefect Cloud takes an apiKey, a self-hosted Prefect an authString)"
    )]
    Unauthorized,
    /// 403 that is not about a CSRF token: the credentials work but may not do this.
    #[error(
        "answered 403: these credentials may not do this; give their role the permission, \
         and check that they belong to this workspace"
    )]
    Forbidden,
    /// Something else answered: a login page, another service, or Prefect under another path.
    #[error(
        "answered, but not as Prefect's API; check the address (usually \"/api\" or a path \
         prefix is missing) and that no login page stands in front"
    )]
    NotPrefectApi,
    /// No complete answer: refused, unresolvable, not trusted, too slow or cut.
    #[error("cannot be reached{}", .hint.map(|hint| format!(": {hint}")).unwrap_or_default())]
    Unreachable {
        /// The cause and what to do about it, where it is known.
        hint: Option<&'static str>,
    },
    /// 429: too many requests.
    #[error("answered 429: too many requests; raise refreshInterval or lower the request rate")]
    Throttled,
    /// 5xx.
    #[error("answered {status}: it has a problem of its own; see the server's log")]
    Server {
        /// The HTTP status, 500 to 599.
        status: u16,
    },
    /// Another 4xx, such as 422 or 413.
    #[error("refused the request with {status}; see the server's log")]
    Rejected {
        /// The HTTP status, 400 to 499.
        status: u16,
    },
    /// The answer is larger than [`MAX_BODY`](super::MAX_BODY).
    #[error("answered with more than {} MiB", super::MAX_BODY / (1024 * 1024))]
    TooLarge,
    /// JSON with status 200, but cut, damaged or of another shape than Prefect's.
    #[error("answered with JSON of an unknown shape; is its Prefect version 2 or 3?")]
    Malformed,
    /// No request was sent: the connection can't be set up from what was given.
    #[error("was not asked: {hint}")]
    Configuration {
        /// What is wrong and what to do about it.
        hint: &'static str,
    },
}

impl ErrorKind {
    /// Whether one document of a batch may be the cause, so that halving the batch may isolate it:
    /// 413, 422, 500, a too large or malformed answer.
    pub fn is_batch_fault(&self) -> bool {
        matches!(
            self,
            ErrorKind::Rejected { status: 413 | 422 }
                | ErrorKind::Server { status: 500 }
                | ErrorKind::TooLarge
                | ErrorKind::Malformed
        )
    }

    /// Whether any other request through this client would likely fail the same way now.
    pub fn is_workspace_wide(&self) -> bool {
        !self.is_batch_fault()
    }
}

impl Error {
    /// As [`ErrorKind::is_batch_fault`].
    pub fn is_batch_fault(&self) -> bool {
        self.kind.is_batch_fault()
    }

    /// As [`ErrorKind::is_workspace_wide`].
    pub fn is_workspace_wide(&self) -> bool {
        self.kind.is_workspace_wide()
    }
}

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

const HINT_LOCALHOST: &str = "connection refused: localhost inside a pod is the pod itself, use Prefect's Service name there; \
     outside, is Prefect running, and is the port right?";
const HINT_REFUSED: &str = "connection refused: is Prefect running, and is the port right?";
const HINT_NAME: &str = "its name does not resolve: check the host in spec.api.url \
     (inside a cluster it is SERVICE.NAMESPACE)";
pub(crate) const HINT_NOT_TRUSTED: &str = "its certificate is not trusted: set spec.api.caBundle";
const HINT_OTHER_NAME: &str = "its certificate is for another host name: use a name that the certificate carries";
const HINT_EXPIRED: &str = "its certificate has expired, or a clock is wrong";
const HINT_TLS: &str = "the TLS handshake failed: is this port HTTPS? If not, write http:// in spec.api.url";
const HINT_CONNECT_TIMEOUT: &str = "no connection within 5 s: a firewall or NetworkPolicy may be in the way";
const HINT_TIMEOUT: &str = "no complete answer within 30 s";
const HINT_CUT: &str = "the connection was cut before the answer was complete";

/// The kind of a request that got no complete answer.
pub(crate) fn unreachable(error: &reqwest::Error, loopback: bool) -> ErrorKind {
    let mut cause = Cause::default();
    cause.read(error);
    let hint = if let Some(hint) = cause.tls {
        Some(hint)
    } else if cause.refused {
        Some(if loopback { HINT_LOCALHOST } else { HINT_REFUSED })
    } else if cause.name {
        Some(HINT_NAME)
    } else if error.is_connect() && error.is_timeout() {
        Some(HINT_CONNECT_TIMEOUT)
    } else if error.is_timeout() {
        Some(HINT_TIMEOUT)
    } else if error.is_connect() {
        None
    } else {
        Some(HINT_CUT)
    };
    ErrorKind::Unreachable { hint }
}

/// Whether TLS failed, as with a certificate that is not trusted.
pub(crate) fn is_about_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Cause::default();
    cause.read(error);
    cause.tls.is_some()
}

/// What the chain of sources says. Its texts are only looked at, never kept.
#[derive(Default)]
struct Cause {
    tls: Option<&'static str>,
    refused: bool,
    name: bool,
}

impl Cause {
    fn read(&mut self, error: &(dyn std::error::Error + 'static)) {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            self.refused |= io.kind() == std::io::ErrorKind::ConnectionRefused;
            // An io::Error skips the error it wraps when asked for its source.
            if let Some(inner) = io.get_ref() {
                self.read(inner);
            }
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            self.tls = Some(tls_hint(tls));
        }
        // hyper-util's connector has no public type for this one.
        self.name |= error.to_string() == "dns error";
        if let Some(source) = error.source() {
            self.read(source);
        }
    }
}

fn tls_hint(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => HINT_OTHER_NAME,
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => HINT_EXPIRED,
        rustls::Error::InvalidCertificate(_) => HINT_NOT_TRUSTED,
        _ => HINT_TLS,
    }
}
