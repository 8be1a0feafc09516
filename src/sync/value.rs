//! From raw JSON text to the bytes that are delivered, and the mask that must never be.

use std::collections::HashMap;

use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// What Prefect shows instead of a secret value to a key that may not see it.
pub const MASK: &str = "********";

/// The largest sum of values that Kubernetes takes in one Secret or ConfigMap, in bytes.
pub const MAX_TARGET_BYTES: usize = 1024 * 1024;

/// What the bytes of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A text.
    Text,
    /// The JSON of something else than a text.
    Json,
    /// What base64 stood for, and no text.
    Binary,
    /// As the target holds it already.
    Kept,
}

/// A value to deliver. Zeroized on drop; `Debug` shows its length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// What they are.
    pub form: Form,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({:?}, {} bytes)", self.form, self.bytes.len())
    }
}

/// A text as a JSON string.
#[must_use]
pub fn quoted(text: &str) -> Zeroizing<String> {
    Zeroizing::new(serde_json::Value::from(text).to_string())
}

/// The value's bytes: a string byte for byte, anything else as the JSON that was served.
///
/// `None` when the text is a string that is no valid Unicode (a lone surrogate escape).
#[must_use]
pub fn delivered(raw: &str) -> Option<Content> {
    let raw = raw.trim();
    if raw.starts_with('"') {
        let text = serde_json::from_str::<String>(raw).ok()?;
        return Some(Content { bytes: Zeroizing::new(text.into_bytes()), form: Form::Text });
    }
    Some(Content { bytes: Zeroizing::new(raw.as_bytes().to_vec()), form: Form::Json })
}

/// What base64 stands for: standard or URL-safe, with or without padding, white space aside.
#[must_use]
pub fn decode_base64(encoded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    use base64::Engine as _;
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let encoded: Zeroizing<Vec<u8>> =
        Zeroizing::new(encoded.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(&**encoded).ok())
        .map(Zeroizing::new)
}

/// The most levels of objects and arrays that a value may have; beyond it could only be there to exhaust the stack.
pub const MAX_DEPTH: usize = 128;

/// Whether a text has more than [`MAX_DEPTH`] levels of objects and arrays.
#[must_use]
pub fn is_too_deep(raw: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in raw.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Whether the mask stands anywhere in `raw` at a place that `secret_fields` covers. `prefix` is where in the
/// block `raw` was taken from. A block type without any secret fields is taken to be secret throughout: wrongly
/// refusing eight asterisks is harmless, delivering them is not.
#[must_use]
pub fn is_masked(raw: &str, prefix: &[String], secret_fields: &[String]) -> bool {
    let patterns: Vec<Vec<&str>> = secret_fields.iter().map(|field| field.split('.').collect()).collect();
    let mut at: Vec<String> = prefix.to_vec();
    masked_at(raw.trim(), &mut at, &patterns)
}

fn masked_at(raw: &str, at: &mut Vec<String>, patterns: &[Vec<&str>]) -> bool {
    match raw.as_bytes().first() {
        Some(b'"') => {
            // Cheap look first: the mask has no escapes.
            raw.len() == MASK.len() + 2 && &raw[1..raw.len() - 1] == MASK && covers(patterns, at)
        }
        Some(b'{') => serde_json::from_str::<HashMap<String, &RawValue>>(raw).is_ok_and(|members| {
            members.into_iter().any(|(name, value)| {
                at.push(name);
                let masked = masked_at(value.get(), at, patterns);
                at.pop();
                masked
            })
        }),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(raw).is_ok_and(|elements| {
            elements.into_iter().any(|value| {
                at.push("*".to_owned());
                let masked = masked_at(value.get(), at, patterns);
                at.pop();
                masked
            })
        }),
        _ => false,
    }
}

/// A pattern covers what it names and everything inside it.
fn covers(patterns: &[Vec<&str>], at: &[String]) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| {
            pattern.len() <= at.len()
                && pattern.iter().zip(at).all(|(want, is)| *want == "*" || is == "*" || want == is)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(raw: &str) -> Vec<u8> {
        delivered(raw).unwrap().bytes.to_vec()
    }

    #[test]
    fn a_string_is_delivered_byte_for_byte() {
        assert_eq!(bytes(r#""hunter2""#), b"hunter2");
        assert_eq!(bytes(r#"" 12 ""#), b" 12 ");
        assert_eq!(bytes(r#""line\nline\n""#), b"line\nline\n");
        assert_eq!(bytes(r#""\u00e4\ud83d\ude00\u0000""#), "ä😀\0".as_bytes());
        assert_eq!(bytes(r#""""#), b"");
        assert!(delivered(r#""\ud800""#).is_none(), "a lone surrogate is no text");
    }

    #[test]
    fn anything_else_is_delivered_as_the_json_that_was_served() {
        for raw in ["1.50", "1E5", "123456789012345678901234567890", "1e400", "true", "null", r#"{"z":1,"a":[1.0]}"#] {
            assert_eq!(bytes(raw), raw.as_bytes());
        }
    }

    #[test]
    fn base64_is_read_however_it_is_written() {
        let decoded = |text: &str| decode_base64(text.as_bytes()).map(|bytes| bytes.to_vec());
        for text in ["+/8=", "+/8", "-_8=", "-_8", " +/\n8= "] {
            assert_eq!(decoded(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        assert_eq!(decoded(""), Some(Vec::new()));
        for text in ["+_8=", "=", "a", "p/w:", "ä"] {
            assert_eq!(decoded(text), None, "{text}");
        }
    }

    #[test]
    fn the_mask_is_found_at_any_depth_of_a_secret_field() {
        let fields = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let gcp = r#"{"project":null,"service_account_info":{"type":"********","private_key":"********"}}"#;
        assert!(is_masked(gcp, &[], &fields(&["service_account_info.*"])));
        let webhook = r#"{"url":"u","secrets":{"token":{"deep":["********"]}}}"#;
        assert!(is_masked(webhook, &[], &fields(&["secrets.*"])));
        assert!(is_masked(r#""********""#, &["value".into()], &fields(&["value"])));
        assert!(is_masked(r#"{"a":{"b":"********"}}"#, &["value".into()], &fields(&["value"])));
        assert!(is_masked(r#""********""#, &["anything".into()], &[]), "without a schema everything is secret");
    }

    #[test]
    fn a_value_that_would_exhaust_the_stack_is_too_deep_and_brackets_in_text_do_not_count() {
        assert!(is_too_deep(&"[".repeat(4000)));
        assert!(!is_too_deep(&format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))));
        assert!(!is_too_deep(&format!("\"{}\\\"[\"", "[".repeat(4000))));
    }

    #[test]
    fn asterisks_elsewhere_are_a_value() {
        let fields = vec!["password".to_owned()];
        assert!(!is_masked(r#"{"user":"********","password":"x"}"#, &[], &fields));
        assert!(!is_masked(r#""*********""#, &["password".into()], &fields), "nine are no mask");
        assert!(!is_masked(r#""********""#, &["user".into()], &fields));
    }
}
