//! An answer: read to its end, with a limit, into memory that is wiped; and what it means.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{ErrorKind, csrf, wire};

/// The most that is read of one answer, in bytes, after decompression.
///
/// 200 secrets with the schema that Prefect serves beside each are about 600 KB.
pub const MAX_BODY: usize = 16 * 1024 * 1024;

/// The most that is read of an answer other than 200, in bytes.
const MAX_FAILURE_BODY: usize = 1024 * 1024;

const FIRST_CAPACITY: usize = 64 * 1024;

/// A whole answer, of any status.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    body: Zeroizing<Vec<u8>>,
    is_json: bool,
    /// How long the server asks us to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl Answer {
    /// Reads the answer to its end.
    pub(crate) async fn read(response: Response) -> Result<Answer, ReadError> {
        let status = response.status();
        let is_ok = status == StatusCode::OK;
        let is_json = has_json_type(&response);
        let retry_after = retry_after(&response);
        let limit = if is_ok { MAX_BODY } else { MAX_FAILURE_BODY };
        let body = match read_body(response, limit).await {
            // The status of a failure says enough; a 422 repeats the whole request.
            Err(ReadError::TooLarge) if !is_ok => Zeroizing::default(),
            body => body?,
        };
        Ok(Answer { status, is_json, retry_after, body })
    }

    /// The failure that the answer is, or what it says.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ErrorKind> {
        if self.status != StatusCode::OK {
            return Err(self.failure_kind());
        }
        wire::parse(&self.body).map_err(|_| if self.is_json { ErrorKind::Malformed } else { ErrorKind::NotPrefectApi })
    }

    /// What it says, whatever its status; `None` where that is of another shape.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        wire::parse(&self.body).ok()
    }

    /// Whether this is the 404 with exactly this `detail`.
    pub(crate) fn is_not_found(&self, detail: &str) -> bool {
        self.status == StatusCode::NOT_FOUND && wire::failure_detail(&self.body).is_some_and(|found| *found == detail)
    }

    /// Whether this is a refusal for want of a valid CSRF token.
    pub(crate) fn is_csrf_refusal(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
            && wire::failure_detail(&self.body).is_some_and(|detail| csrf::is_csrf_detail(&detail))
    }

    fn failure_kind(&self) -> ErrorKind {
        let status = self.status.as_u16();
        match status {
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Forbidden,
            407 => ErrorKind::Unreachable { hint: Some("the HTTP proxy wants credentials: put them into HTTPS_PROXY") },
            413 => ErrorKind::Rejected { status },
            429 => ErrorKind::Throttled,
            500..=599 => ErrorKind::Server { status },
            400..=499 if self.is_prefects_own_refusal() => ErrorKind::Rejected { status },
            _ => ErrorKind::NotPrefectApi,
        }
    }

    /// Prefect's 4xx are JSON objects; on a path that it does not have, the framework's.
    fn is_prefects_own_refusal(&self) -> bool {
        let unknown_path = matches!(self.status.as_u16(), 404 | 405)
            && wire::failure_detail(&self.body)
                .is_some_and(|detail| matches!(detail.as_str(), "Not Found" | "Method Not Allowed"));
        let unread = self.is_json && self.body.is_empty();
        !unknown_path && (unread || wire::is_json_object(&self.body))
    }
}

/// Why an answer could not be read.
pub(crate) enum ReadError {
    TooLarge,
    Cut(reqwest::Error),
}

/// Reads the whole body, or fails when it exceeds `limit` bytes or ends early.
async fn read_body(mut response: Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let announced = response.content_length().map(usize::try_from);
    let capacity = match announced {
        Some(Ok(length)) if length <= limit => length,
        Some(_) => return Err(ReadError::TooLarge),
        None => FIRST_CAPACITY.min(limit),
    };
    let mut body = Zeroizing::new(Vec::with_capacity(capacity));
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Cut)? {
        if chunk.len() > limit - body.len() {
            return Err(ReadError::TooLarge);
        }
        append(&mut body, &chunk);
    }
    Ok(body)
}

/// Appends without leaving a copy in memory that a growing vector gives back.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if needed > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(body.capacity() * 2)));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// `Retry-After`, in seconds or as a date.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

fn has_json_type(response: &Response) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_keeps_what_was_read() {
        let mut body = Zeroizing::new(Vec::new());
        let mut expected = Vec::new();
        for chunk in [&b"a"[..], b"", b"bcd", &[7; 1000], b"e"] {
            append(&mut body, chunk);
            expected.extend_from_slice(chunk);
        }
        assert_eq!(*body, expected);
    }
}
