//! Reading the body of an answer: with a limit, into memory that is wiped.

use reqwest::Response;
use zeroize::Zeroizing;

/// The most that is read of one answer, in bytes, after decompression.
///
/// 200 secrets with the schema that Prefect serves beside each are about 600 KB.
pub const MAX_BODY: usize = 16 * 1024 * 1024;

const FIRST_CAPACITY: usize = 64 * 1024;

/// Why a body could not be read.
pub(crate) enum BodyError {
    TooLarge,
    Cut(reqwest::Error),
}

/// Reads the whole body, or fails when it exceeds `limit` bytes or ends early.
pub(crate) async fn read(mut response: Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, BodyError> {
    let announced = response.content_length().map(usize::try_from);
    let capacity = match announced {
        Some(Ok(length)) if length <= limit => length,
        Some(_) => return Err(BodyError::TooLarge),
        None => FIRST_CAPACITY.min(limit),
    };
    let mut body = Zeroizing::new(Vec::with_capacity(capacity));
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Cut)? {
        if chunk.len() > limit - body.len() {
            return Err(BodyError::TooLarge);
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
