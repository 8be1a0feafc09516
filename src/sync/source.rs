//! An item of `spec.dataFrom`: what it selects, and what the names become.

use std::collections::BTreeMap;

use super::RemoteKey;
use super::object::Property;
use super::query::{Query, regexp};
use crate::api::{self, Decoding};

/// An item of `spec.dataFrom`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it selects.
    pub selection: Selection,
    /// Where in each value to look.
    pub property: Option<Property>,
    /// How names become keys.
    pub rewrite: Vec<Rewrite>,
    /// How each value is written.
    pub decoding: Decoding,
    /// Whether it is fine that there is nothing.
    pub optional: bool,
}

/// What an item of `spec.dataFrom` selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One entry for each block or variable.
    Find(Query),
    /// One entry for each member of an object.
    Extract {
        /// The block or variable.
        remote: RemoteKey,
        /// Only these members; all if there are none.
        include: Vec<String>,
    },
}

/// One step from names to keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Replaces every match.
    Regexp {
        /// What matches.
        source: String,
        /// What stands there instead.
        target: String,
    },
    /// From old to new; others stay.
    Rename(BTreeMap<String, String>),
    /// As environment variables are called.
    EnvName,
}

impl Source {
    /// The key of Prefect's that it reads itself.
    #[must_use]
    pub fn remote(&self) -> RemoteKey {
        match &self.selection {
            Selection::Find(query) => RemoteKey::Listing(Box::new(query.clone())),
            Selection::Extract { remote, .. } => remote.clone(),
        }
    }

    /// Compiles what names become.
    ///
    /// # Errors
    /// What is wrong with a regular expression.
    pub fn rewriter(&self) -> Result<Rewriter<'_>, String> {
        let mut steps = Vec::with_capacity(self.rewrite.len());
        for step in &self.rewrite {
            steps.push(match step {
                Rewrite::Regexp { source, target } => Step::Regexp(regexp(source)?, target),
                Rewrite::Rename(names) => Step::Rename(names),
                Rewrite::EnvName => Step::EnvName,
            });
        }
        Ok(Rewriter(steps))
    }

    /// What is wrong with its regular expressions.
    ///
    /// # Errors
    /// The first that is none.
    pub fn validate(&self) -> Result<(), String> {
        if let Selection::Find(query) = &self.selection {
            query.matcher()?;
        }
        self.rewriter().map(|_| ())
    }
}

/// The steps of a source, ready to be used.
pub struct Rewriter<'a>(Vec<Step<'a>>);

enum Step<'a> {
    Regexp(regex::Regex, &'a str),
    Rename(&'a BTreeMap<String, String>),
    EnvName,
}

impl Rewriter<'_> {
    /// What a name becomes.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        self.0.iter().fold(name.to_owned(), |name, step| match step {
            Step::Regexp(regexp, target) => regexp.replace_all(&name, *target).into_owned(),
            Step::Rename(names) => names.get(&name).cloned().unwrap_or(name),
            Step::EnvName => env_name(&name),
        })
    }
}

/// The name of an environment variable: capitals, digits and underscores, no digit in front; `dbHost` is `DB_HOST`.
fn env_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut before = '_';
    for c in name.chars() {
        if out.is_empty() && c.is_ascii_digit()
            || c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit())
        {
            out.push('_');
        }
        out.push(if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        before = c;
    }
    out
}

fn rewrites(steps: &[api::Rewrite]) -> Vec<Rewrite> {
    let step = |step: &api::Rewrite| match (&step.regexp, &step.rename) {
        (Some(regexp), _) => Rewrite::Regexp { source: regexp.source.clone(), target: regexp.target.clone() },
        (None, Some(names)) => Rewrite::Rename(names.clone()),
        (None, None) => Rewrite::EnvName,
    };
    steps.iter().map(step).collect()
}

fn tags(tags: &[String]) -> Vec<String> {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    tags.dedup();
    tags
}

fn regexp_of(name: Option<&api::FindName>) -> Option<String> {
    name.map(|name| name.regexp.clone())
}

impl From<&api::SecretDataFrom> for Source {
    fn from(item: &api::SecretDataFrom) -> Self {
        let rewrite = rewrites(&item.rewrite);
        if let Some(find) = &item.find {
            let block_type = match find.kind.unwrap_or_default() {
                api::FindKind::Block => Some(super::object::block_type(find.block_type.as_ref())),
                api::FindKind::Variable => None,
            };
            let query = Query { block_type, regexp: regexp_of(find.name.as_ref()), tags: tags(&find.tags) };
            return Self {
                selection: Selection::Find(query),
                property: Property::of(find.property.as_ref()),
                rewrite,
                decoding: find.decoding.unwrap_or_default(),
                optional: find.optional.unwrap_or(false),
            };
        }
        let extract = item.extract.clone().unwrap_or_default();
        let remote = super::object::remote(extract.variable, extract.key, extract.block_type.as_ref());
        Self {
            selection: Selection::Extract { remote, include: extract.include },
            property: Property::of(extract.property.as_ref()),
            rewrite,
            decoding: extract.decoding.unwrap_or_default(),
            optional: extract.optional.unwrap_or(false),
        }
    }
}

/// The same of variables only.
impl From<&api::KVDataFrom> for Source {
    fn from(item: &api::KVDataFrom) -> Self {
        let find = item.find.clone().map(|find| api::SecretFind {
            kind: Some(api::FindKind::Variable),
            block_type: None,
            name: find.name,
            tags: find.tags,
            property: find.property,
            decoding: find.decoding,
            optional: find.optional,
        });
        let extract = item.extract.clone().map(|extract| api::SecretExtract {
            key: None,
            block_type: None,
            variable: Some(extract.key),
            property: extract.property,
            include: extract.include,
            decoding: extract.decoding,
            optional: extract.optional,
        });
        Self::from(&api::SecretDataFrom { find, extract, rewrite: item.rewrite.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(steps: Vec<Rewrite>, name: &str) -> String {
        let selection = Selection::Extract { remote: RemoteKey::Variable { name: "v".into() }, include: Vec::new() };
        let source = Source { selection, property: None, rewrite: steps, decoding: Decoding::None, optional: false };
        source.rewriter().unwrap().key(name)
    }

    #[test]
    fn an_environment_name_is_legal_and_reads_as_people_write_them() {
        let cases = [
            ("etl-db-url", "ETL_DB_URL"),
            ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
            ("dbHost", "DB_HOST"),
            ("IPv4", "IPV4"),
            ("clientX509CertURL", "CLIENT_X509_CERT_URL"),
            ("2fa", "_2FA"),
            ("a.b c", "A_B_C"),
            ("größe", "GR__E"),
        ];
        for (name, key) in cases {
            assert_eq!(rewritten(vec![Rewrite::EnvName], name), key);
        }
    }

    #[test]
    fn steps_are_applied_in_order() {
        let regexp = |source: &str, target: &str| Rewrite::Regexp { source: source.into(), target: target.into() };
        let rename = Rewrite::Rename(BTreeMap::from([("region_name".into(), "aws_region".into())]));
        assert_eq!(rewritten(vec![rename.clone(), Rewrite::EnvName], "region_name"), "AWS_REGION");
        assert_eq!(rewritten(vec![Rewrite::EnvName, rename], "region_name"), "REGION_NAME");
        assert_eq!(rewritten(vec![regexp("^etl-(.*)$", "$1.key")], "etl-db"), "db.key");
        assert_eq!(rewritten(vec![regexp("-", "")], "a-b-c"), "abc");
    }
}
