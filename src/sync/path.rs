//! `property`: a path of members and indexes, walked over the raw JSON text so that nothing is rounded.

use std::collections::HashMap;

use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A member of an object.
    Member(String),
    /// An element of an array, from 0.
    Index(usize),
}

/// A parsed `property`: `a.b[0].c`, `a["b.c"]`, `["x"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Step>);

/// Why a `property` is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {text:?} is no path: {problem} at character {at}; write a.b[0].c, or a[\"b.c\"] for names with dots")]
pub struct PathError {
    text: String,
    problem: &'static str,
    at: usize,
}

/// What was found at a path.
pub enum Walked {
    /// A value that is not null, as raw JSON text.
    Found(Zeroizing<String>),
    /// `null`: the field is there and unset.
    Null,
    /// Nothing; `depth` steps could be walked.
    Missing {
        /// How many steps led somewhere.
        depth: usize,
    },
    /// A string that does not hold JSON stands where a member was asked for.
    NotJson,
}

impl Path {
    /// Parses a path.
    ///
    /// # Errors
    /// Says what is wrong and where, counted in characters from 1.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let chars: Vec<char> = text.chars().collect();
        let fail = |problem, at: usize| PathError { text: text.to_owned(), problem, at: at + 1 };
        let mut steps = Vec::new();
        let mut i = 0;
        let mut after_dot = true; // a name may start here
        while i < chars.len() {
            match chars[i] {
                '[' => {
                    if after_dot && i > 0 {
                        return Err(fail("a name is missing", i));
                    }
                    if let Some('"') = chars.get(i + 1) {
                        let mut name = String::new();
                        let mut j = i + 2;
                        loop {
                            match chars.get(j) {
                                None => return Err(fail("the quote is not closed", i + 1)),
                                Some('"') => break,
                                Some('\\') => {
                                    let escaped =
                                        chars.get(j + 1).ok_or_else(|| fail("the quote is not closed", i + 1))?;
                                    name.push(*escaped);
                                    j += 2;
                                }
                                Some(c) => {
                                    name.push(*c);
                                    j += 1;
                                }
                            }
                        }
                        if chars.get(j + 1) != Some(&']') {
                            return Err(fail("']' is missing", j + 1));
                        }
                        steps.push(Step::Member(name));
                        i = j + 2;
                    } else {
                        let end =
                            chars[i..].iter().position(|c| *c == ']').ok_or_else(|| fail("']' is missing", i))? + i;
                        let digits: String = chars[i + 1..end].iter().collect();
                        if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
                            return Err(fail("an index is a number from 0", i + 1));
                        }
                        let index = digits.parse().map_err(|_| fail("the index is too large", i + 1))?;
                        steps.push(Step::Index(index));
                        i = end + 1;
                    }
                    after_dot = false;
                }
                '.' => {
                    if after_dot {
                        return Err(fail("a name is missing", i));
                    }
                    after_dot = true;
                    i += 1;
                }
                ']' | '"' => return Err(fail("this character needs quotes", i)),
                _ => {
                    if !after_dot {
                        return Err(fail("'.' or '[' is missing", i));
                    }
                    let start = i;
                    while i < chars.len() && !matches!(chars[i], '.' | '[' | ']' | '"') {
                        i += 1;
                    }
                    steps.push(Step::Member(chars[start..i].iter().collect()));
                    after_dot = false;
                }
            }
        }
        if after_dot {
            return Err(fail("a name is missing", chars.len()));
        }
        Ok(Self(steps))
    }

    /// The member of that name under `parent`, or at the top.
    #[must_use]
    pub fn member(parent: Option<&Self>, name: &str) -> Self {
        let steps = parent.into_iter().flat_map(|parent| parent.0.iter().cloned());
        Self(steps.chain([Step::Member(name.to_owned())]).collect())
    }

    /// The steps, at least one.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Walks the path over JSON text. Where a string stands in the way it looks inside the JSON that the string
    /// holds, since most Secret blocks made by hand hold JSON as a string.
    #[must_use]
    pub fn walk(&self, raw: &str) -> Walked {
        walk(raw, &self.0, 0)
    }
}

fn walk(raw: &str, steps: &[Step], depth: usize) -> Walked {
    let raw = raw.trim();
    let Some(step) = steps.get(depth) else {
        return if raw == "null" { Walked::Null } else { Walked::Found(Zeroizing::new(raw.to_owned())) };
    };
    let next = match (raw.as_bytes().first(), step) {
        (Some(b'"'), _) => {
            let Ok(text) = serde_json::from_str::<String>(raw).map(Zeroizing::new) else { return Walked::NotJson };
            let inner = text.trim();
            // Only a container has members: a string in a string is not looked into twice.
            if !inner.starts_with(['{', '[']) || serde_json::from_str::<&RawValue>(inner).is_err() {
                return Walked::NotJson;
            }
            return walk(inner, steps, depth);
        }
        (Some(b'{'), Step::Member(name)) => {
            serde_json::from_str::<HashMap<String, &RawValue>>(raw).ok().and_then(|mut members| members.remove(name))
        }
        (Some(b'['), Step::Index(index)) => {
            serde_json::from_str::<Vec<&RawValue>>(raw).ok().and_then(|elements| elements.get(*index).copied())
        }
        // `null` on the way is an unset field: what it would hold is unset too.
        _ if raw == "null" && depth > 0 => return Walked::Null,
        _ => None,
    };
    match next {
        Some(value) => walk(value.get(), steps, depth + 1),
        None => Walked::Missing { depth },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, raw: &str) -> String {
        match Path::parse(path).unwrap().walk(raw) {
            Walked::Found(text) => text.to_string(),
            Walked::Null => "<null>".into(),
            Walked::Missing { depth } => format!("<missing after {depth}>"),
            Walked::NotJson => "<not json>".into(),
        }
    }

    #[test]
    fn a_path_walks_members_indexes_and_quoted_names() {
        let raw = r#"{"a":{"b":[{"c":1.50},[2]],"x.y":"z"},"n":null}"#;
        assert_eq!(found("a.b[0].c", raw), "1.50");
        assert_eq!(found("a.b[1][0]", raw), "2");
        assert_eq!(found(r#"a["x.y"]"#, raw), r#""z""#);
        assert_eq!(found(r#"["a"].b[0]"#, raw), r#"{"c":1.50}"#);
        assert_eq!(found("n", raw), "<null>");
        assert_eq!(found("n.deeper", raw), "<null>");
        assert_eq!(found("a.q.r", raw), "<missing after 1>");
        assert_eq!(found("a.b[9]", raw), "<missing after 2>");
        assert_eq!(found("[0].b", raw), "<missing after 0>");
    }

    #[test]
    fn numbers_and_member_order_come_out_as_served() {
        let raw = r#"{"v":{"z":1E5,"a":123456789012345678901234567890,"m":1e400}}"#;
        assert_eq!(found("v", raw), r#"{"z":1E5,"a":123456789012345678901234567890,"m":1e400}"#);
    }

    #[test]
    fn a_string_that_holds_json_is_looked_into() {
        let raw = r#""{\"user\":\"bob\",\"n\":1.50}""#;
        assert_eq!(found("user", raw), r#""bob""#);
        assert_eq!(found("n", raw), "1.50");
        assert_eq!(found("user", r#""plain""#), "<not json>");
        assert_eq!(found("user", r#""{broken""#), "<not json>");
    }

    #[test]
    fn what_is_no_path_says_where() {
        for bad in
            ["", ".", "a.", ".a", "a..b", "a[", "a[x]", "a[-1]", "a[\"b", "a[\"b\"", "a]b", "a[0]b", "a.[0]", "a[]"]
        {
            assert!(Path::parse(bad).is_err(), "{bad:?} should be refused");
        }
        assert_eq!(
            Path::parse("a..b").unwrap_err().to_string(),
            "property \"a..b\" is no path: a name is missing at character 3; write a.b[0].c, or a[\"b.c\"] for names with dots"
        );
    }
}
