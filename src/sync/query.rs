//! What `find` looks for.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// The most memory, in bytes, that one compiled regular expression may take.
const MAX_REGEXP: usize = 1024 * 1024;

/// All blocks of a type, or all variables, that match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// The blocks' type; `None` for variables.
    pub block_type: Option<String>,
    /// What matches somewhere in the name.
    pub regexp: Option<String>,
    /// Tags that a variable must have, in order.
    pub tags: Vec<String>,
}

/// A query's regular expression, compiled.
pub struct Matcher(Option<Regex>);

impl Query {
    /// Compiles the regular expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn matcher(&self) -> Result<Matcher, String> {
        Ok(Matcher(self.regexp.as_deref().map(regexp).transpose()?))
    }

    /// Whether a name matches; nothing does where the expression is none.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matcher().is_ok_and(|matcher| matcher.matches(name))
    }
}

impl Matcher {
    /// Whether a name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|regexp| regexp.is_match(name))
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.block_type {
            Some(block_type) => write!(f, "{block_type} blocks")?,
            None => write!(f, "variables")?,
        }
        if !self.tags.is_empty() {
            write!(f, " tagged {}", self.tags.join(", "))?;
        }
        if let Some(regexp) = &self.regexp {
            write!(f, " whose name matches {regexp:?}")?;
        }
        Ok(())
    }
}

/// Compiles a regular expression of the user's: its time is linear, its size limited.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn regexp(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(MAX_REGEXP).build().map_err(|error| {
        let text = error.to_string();
        // The first lines of a syntax error draw the pattern.
        let problem = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("{pattern:?} is no regular expression: {problem}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(regexp: &str) -> Query {
        Query { block_type: Some("secret".into()), regexp: Some(regexp.into()), tags: Vec::new() }
    }

    #[test]
    fn an_expression_matches_anywhere_unless_it_is_anchored() {
        assert!(query("etl").matches("my-etl-db"));
        assert!(!query("^etl").matches("my-etl-db"));
        assert!(query("^etl-").matches("etl-db"));
    }

    #[test]
    fn what_is_wrong_with_an_expression_is_said_in_one_line() {
        let told = query("etl-(").matcher().err().unwrap();
        assert_eq!(told, r#""etl-(" is no regular expression: unclosed group"#);
        let told = query("(?=x)").matcher().err().unwrap();
        assert!(told.contains("look-around"), "{told}");
        let told = query("(a{1000}){1000}").matcher().err().unwrap();
        assert!(!told.contains('\n') && told.contains("exceeds size limit"), "{told}");
    }
}
