//! What is wrong with an object in itself.

use std::collections::BTreeSet;

use super::layout::{Format, known_keys};
use super::source::{Selection, Source};
use super::{Kind, Object, Reason, RemoteKey};
use crate::api::KEY_PATTERN;

impl Object {
    /// What the CRD's own validation also refuses, and what only we can see. Checked here too, since a CRD on the
    /// server may be older, a file given to `render` meets no API server, and a wrong type gives power over the cluster.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to write instead.
    pub fn validate(&self) -> Result<(), (Reason, String)> {
        self.validate_shape().map_err(|problem| (Reason::ObjectInvalid, problem))?;
        for (at, source) in self.sources.iter().enumerate() {
            source.validate().map_err(|problem| (Reason::RegexpInvalid, format!("spec.dataFrom[{at}]: {problem}")))?;
        }
        if let Some(template) = &self.templates {
            template.validate().map_err(|problem| (Reason::TemplateInvalid, format!("spec.target.{problem}")))?;
        }
        Ok(())
    }

    fn validate_shape(&self) -> Result<(), String> {
        if self.entries.is_empty() && self.sources.is_empty() {
            return Err("spec.data or spec.dataFrom must have at least one entry".into());
        }
        let mut seen = BTreeSet::new();
        for entry in &self.entries {
            if !is_legal_key(&entry.key) {
                return Err(format!("spec.data key {}", illegal(&entry.key, self.id.kind)));
            }
            if !seen.insert(&entry.key) {
                return Err(format!("spec.data has the key {:?} twice", entry.key));
            }
        }
        let remotes =
            self.entries.iter().map(|entry| entry.remote.clone()).chain(self.sources.iter().map(Source::remote));
        let names = |remote: &RemoteKey| [remote.name().to_owned(), remote.local_name().unwrap_or_default().to_owned()];
        if let Some(name) = remotes.flat_map(|remote| names(&remote)).find(|name| name.contains('\0')) {
            // No database has it, so that it would spoil the requests of others, too.
            return Err(format!("{name:?} is no name in Prefect: it has a NUL character"));
        }
        let workloads = self.restarts.iter().map(|restart| &restart.name);
        if let Some(name) = workloads.chain([&self.target_name]).find(|name| !is_legal_name(name)) {
            return Err(format!(
                "{name:?} is no name of an object: use lower-case letters, digits, '-' and '.', and begin and end with a letter or digit"
            ));
        }
        if let Some(known) = known_keys(self)
            && let Some(key) =
                self.restarts.iter().flat_map(|restart| &restart.keys).find(|key| !known.contains(&key.as_str()))
        {
            return Err(format!(
                "spec.restart keys has {key:?}, which the target never has: as it is laid out it has {}",
                known.join(", ")
            ));
        }
        let empty = |source: &Source| matches!(&source.selection, Selection::Find(query) if query.regexp.is_none() && query.tags.is_empty());
        if self.sources.iter().any(empty) {
            return Err(
                "find in spec.dataFrom needs name.regexp or tags; to take everything write name: {regexp: '.'}".into(),
            );
        }
        let file = match &self.format {
            Format::Json { key } | Format::DotEnv { key } | Format::Prefect1ConfigToml { key } => Some(key),
            Format::Plain | Format::DockerConfigJson | Format::Prefect1Context => None,
        };
        let made = self.templates.iter().flat_map(|template| template.templates.keys()).chain(file);
        if let Some(key) = made.into_iter().find(|key| !is_legal_key(key)) {
            return Err(format!("spec.target key {}", illegal(key, self.id.kind)));
        }
        if let Some(secret_type) = &self.target_type
            && !is_allowed_type(secret_type)
        {
            return Err(format!(
                "spec.target.template.type {secret_type:?} is not allowed: it gives power over the cluster; use Opaque, kubernetes.io/dockerconfigjson, tls, basic-auth or ssh-auth, or a type outside kubernetes.io and helm.sh"
            ));
        }
        for key in self.template.labels.keys().chain(self.template.annotations.keys()) {
            if !is_allowed_metadata(key) {
                return Err(format!(
                    "spec.target.template.metadata must not set {key:?}: keys of kubernetes.io, k8s.io, argoproj.io and prefect-sync.dev steer controllers"
                ));
            }
        }
        if self.template.labels.get("owner").is_some_and(|owner| owner == "helm") {
            return Err("spec.target.template.metadata.labels must not say owner: helm: Helm would take the target for a release, and do what it says".into());
        }
        Ok(())
    }
}

/// That a key is illegal, and what is not.
#[must_use]
pub fn illegal(key: &str, kind: Kind) -> String {
    format!(
        "{key:?} is no legal key of a {}: use letters, digits, '-', '_' and '.', neither \".\" nor starting with \"..\", at most 253",
        kind.target()
    )
}

/// The shape of a key.
pub(super) fn is_legal_key(key: &str) -> bool {
    debug_assert_eq!(KEY_PATTERN, r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$");
    let rest = key.strip_prefix('.').unwrap_or(key);
    !rest.is_empty()
        && !rest.starts_with('.')
        && key.len() <= 253
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The name of an object, as it may stand in an address.
#[must_use]
pub fn is_legal_name(name: &str) -> bool {
    let is_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if is_end(*first) && is_end(*last))
                && bytes.iter().all(|byte| is_end(*byte) || *byte == b'-')
        })
}

fn is_allowed_type(secret_type: &str) -> bool {
    const ALLOWED: [&str; 5] = [
        "Opaque",
        "kubernetes.io/dockerconfigjson",
        "kubernetes.io/tls",
        "kubernetes.io/basic-auth",
        "kubernetes.io/ssh-auth",
    ];
    let domain = secret_type.split('/').next().unwrap_or_default();
    ALLOWED.contains(&secret_type) || !(domain.ends_with("kubernetes.io") || domain.ends_with("helm.sh"))
}

fn is_allowed_metadata(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    domain == "app.kubernetes.io"
        || !(within("kubernetes.io")
            || within("k8s.io")
            || within("argoproj.io")
            || domain.ends_with("prefect-sync.dev"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;
    use regex::Regex;

    #[test]
    fn the_key_check_and_the_crds_pattern_agree() {
        let pattern = Regex::new(KEY_PATTERN).unwrap();
        for key in ["A", "a.b", ".dockerconfigjson", "-x", "_", ".", "..", "..a", "a..b", "", "a/b", "ä", "a b", ".a."]
        {
            assert_eq!(is_legal_key(key), pattern.is_match(key), "{key:?}");
        }
    }

    #[test]
    fn the_name_check_and_the_crds_pattern_agree() {
        let pattern = Regex::new(api::NAME_PATTERN).unwrap();
        for name in ["a", "a-b.c1", "", "-a", "a-", "a..b", ".a", "A", "a_b", "a/b", "web?dryRun=All", "../x", "ä"] {
            assert_eq!(is_legal_name(name), pattern.is_match(name), "{name:?}");
        }
    }

    #[test]
    fn types_and_metadata_that_give_power_over_the_cluster_are_refused() {
        for bad in [
            "kubernetes.io/service-account-token",
            "bootstrap.kubernetes.io/token",
            "kubernetes.io/dockercfg",
            "helm.sh/release.v1",
        ] {
            assert!(!is_allowed_type(bad), "{bad}");
        }
        for good in ["Opaque", "kubernetes.io/tls", "example.com/custom", "custom"] {
            assert!(is_allowed_type(good), "{good}");
        }
        for bad in [
            "kubernetes.io/service-account.name",
            "control-plane.alpha.kubernetes.io/leader",
            "x.k8s.io/y",
            "argocd.argoproj.io/secret-type",
            "prefect-sync.dev/owner",
        ] {
            assert!(!is_allowed_metadata(bad), "{bad}");
        }
        for good in ["app.kubernetes.io/name", "team", "example.com/x"] {
            assert!(is_allowed_metadata(good), "{good}");
        }
    }
}
