//! Reads from Prefect 1: secrets one by one, key-value pairs as variables, and nothing that it does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::StreamExt as _;
use zeroize::Zeroizing;

use super::failure::failure;
use super::listing::Group;
use super::reader::{CONCURRENCY, Pass, Reader, is_of_these_keys};
use crate::api::Source;
use crate::prefect::{Error, Prefect1Client};
use crate::sync::object::SECRET_BLOCK;
use crate::sync::suggest::nearest;
use crate::sync::{Document, Failure, Missing, Read, Reason, RemoteKey, Shape, Timestamp};

/// Which Prefect 1 a workspace has.
#[derive(Clone)]
pub enum Prefect1 {
    /// Prefect 1 Cloud, or what speaks its GraphQL.
    Cloud(Prefect1Client),
    /// Prefect Server: it keeps neither secrets nor key-value pairs.
    Server,
}

/// What Prefect 1's own client says of key-value pairs.
const NO_KEY_VALUES: &str = "KV Store operations are only supported while using Prefect Cloud as a backend";

impl Prefect1 {
    /// The connection, where there is one.
    pub(super) fn client(&self) -> Option<&Prefect1Client> {
        match self {
            Self::Cloud(client) => Some(client),
            Self::Server => None,
        }
    }

    /// Why a key can never be read here.
    fn refusal(&self, key: &RemoteKey) -> Option<String> {
        match (self, key.block_type()) {
            (_, Some(SECRET_BLOCK)) | (Self::Cloud(_), None) => None,
            (_, Some(_)) => {
                Some(format!("{key}: Prefect 1 has no blocks; only secrets and key-value pairs can be read"))
            }
            (Self::Server, None) => Some(format!(
                "{key}: {NO_KEY_VALUES} (Prefect 1's words); set prefect1.backend to Cloud, or leave it out"
            )),
        }
    }
}

impl Reader {
    /// Reads `keys`, which are not local, from Prefect 1. Breaks off when the workspace as a whole can't be read.
    pub(super) async fn read_prefect1(
        &self,
        prefect1: &Prefect1,
        keys: Vec<RemoteKey>,
        pass: &mut Pass,
        now: Timestamp,
    ) -> ControlFlow<()> {
        let mut askable = Vec::new();
        for key in keys {
            match (prefect1.refusal(&key), prefect1.client()) {
                (Some(message), _) => {
                    let reason = Reason::NotInPrefect1;
                    let failure = Failure { reason, message, since: now, workspace_wide: false };
                    pass.reads.insert(key, Read::Failed(failure));
                }
                (None, Some(client)) => askable.push((client.clone(), key)),
                // Local secrets are all that there are.
                (None, None) => {
                    pass.reads.insert(key, Read::NotFound);
                }
            }
        }
        let mut results = futures::stream::iter(askable)
            .map(|(client, key)| async move { (read(&client, &key).await, key) })
            .buffer_unordered(CONCURRENCY);
        while let Some((result, key)) = results.next().await {
            let read = match result {
                Ok(Some(raw)) => found(raw),
                Ok(None) => Read::NotFound,
                Err(error) if is_of_these_keys(&error) => {
                    Read::Failed(failure(&error, &self.credentials, Some(&key), now))
                }
                Err(error) => {
                    self.outage(pass, &error, now);
                    return ControlFlow::Break(());
                }
            };
            pass.reads.insert(key, read);
        }
        ControlFlow::Continue(())
    }

    /// The names that a listing finds here.
    pub(super) async fn prefect1_names(
        &self,
        prefect1: &Prefect1,
        block_type: Option<&str>,
        tags: &[String],
    ) -> Result<Vec<String>, Error> {
        // Key-value pairs have no tags.
        match (prefect1.client(), block_type) {
            (Some(client), Some(SECRET_BLOCK)) => client.secret_names().await,
            (Some(client), None) if tags.is_empty() => client.keys().await,
            _ => Ok(Vec::new()),
        }
    }

    /// Takes in what a listing here has found: its names become keys that are read one by one, the local ones too.
    pub(super) async fn list_prefect1(
        &self,
        prefect1: &Prefect1,
        group: &Group<'_>,
        listed: Result<Vec<String>, Error>,
        pass: &mut Pass,
        now: Timestamp,
    ) -> ControlFlow<()> {
        let Some((_, query, _)) = group.first() else { return ControlFlow::Continue(()) };
        let block_type = query.block_type.as_deref();
        let mut names = match listed {
            Ok(names) => names,
            Err(error) => {
                self.outage(pass, &error, now);
                return ControlFlow::Break(());
            }
        };
        let local = self.local.iter().flat_map(|local| local.names()).filter(|_| block_type == Some(SECRET_BLOCK));
        names.extend(local.map(str::to_owned));
        let mut wanted = BTreeSet::new();
        for (key, _, matcher) in group {
            let matching: BTreeSet<String> = names.iter().filter(|name| matcher.matches(name)).cloned().collect();
            wanted.extend(matching.iter().map(|name| RemoteKey::named(block_type, name.clone())));
            pass.reads.insert((*key).clone(), Read::Listed(matching));
        }
        let mut remote = Vec::new();
        for key in wanted {
            match self.local_read(&key) {
                Some(read) => drop(pass.reads.insert(key, read)),
                None => remote.push(key),
            }
        }
        self.read_prefect1(prefect1, remote, pass, now).await
    }

    /// What may have been meant by keys that Prefect 1 does not have.
    pub(super) async fn explain_prefect1(
        &self,
        prefect1: &Prefect1,
        keys: &BTreeSet<RemoteKey>,
    ) -> BTreeMap<RemoteKey, Missing> {
        let mut lists: BTreeMap<bool, Vec<String>> = BTreeMap::new();
        let mut explained = BTreeMap::new();
        for key in keys {
            let missing = match prefect1.client() {
                None => {
                    let names = self.local.iter().flat_map(|local| local.names());
                    Missing::Local { near: nearest(key.name(), names) }
                }
                Some(client) => {
                    let is_block = key.block_type().is_some();
                    if let std::collections::btree_map::Entry::Vacant(list) = lists.entry(is_block) {
                        let names = if is_block { client.secret_names().await } else { client.keys().await };
                        list.insert(names.unwrap_or_default());
                    }
                    let near = nearest(key.name(), lists[&is_block].iter().map(String::as_str));
                    if is_block { Missing::Block { near } } else { Missing::Variable { near, no_dashes: false } }
                }
            };
            explained.insert(key.clone(), missing);
        }
        explained
    }
}

async fn read(client: &Prefect1Client, key: &RemoteKey) -> Result<Option<Zeroizing<String>>, Error> {
    match key {
        RemoteKey::Block { name, .. } => client.secret(name).await,
        RemoteKey::Variable { name } => client.key_value(name).await,
        RemoteKey::Listing(_) => Ok(None),
    }
}

fn found(raw: Zeroizing<String>) -> Read {
    let document = Arc::new(Document::new(raw, Shape::Value));
    Read::Found { document, source: Source::Api, ids: Box::default() }
}
