//! Reads from Prefect 1: secrets one by one, key-value pairs as variables, and nothing that it does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::StreamExt as _;
use zeroize::Zeroizing;

use super::listing::{Group, Looked};
use super::reader::{CONCURRENCY, MAX_DOCUMENT, Pass, Reader, is_of_these_keys};
use crate::api::Source;
use crate::prefect::{Error, ErrorKind, Prefect1Client};
use crate::sync::object::SECRET_BLOCK;
use crate::sync::suggest::hints;
use crate::sync::{Access, Askers, Document, Failure, Hints, Missing, Read, Reason, RemoteKey, Shape, Timestamp};

/// Which Prefect 1 a workspace has.
#[derive(Clone)]
pub enum Prefect1 {
    /// Prefect 1 Cloud, or what speaks its GraphQL.
    Cloud(Prefect1Client),
    /// Prefect Server: it keeps neither secrets nor key-value pairs.
    Server,
}

/// The most names that a listing goes through: each that matches is a request of its own.
const MAX_LISTED: usize = 1000;

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
        (anything_read, now): (bool, Timestamp),
    ) -> ControlFlow<()> {
        let mut askable = Vec::new();
        for key in keys {
            match (prefect1.refusal(&key), prefect1.client()) {
                (Some(message), _) => drop(pass.reads.insert(key, refused(message, now))),
                (None, Some(client)) => askable.push((client.clone(), key)),
                // Local secrets are all that there are.
                (None, None) => drop(pass.reads.insert(key, Read::NotFound)),
            }
        }
        let mut results = futures::stream::iter(askable)
            .map(|(client, key)| async move { (read(&client, &key).await, key) })
            .buffer_unordered(CONCURRENCY);
        let (mut answered, mut checked) = (anything_read, false);
        while let Some((result, key)) = results.next().await {
            let read = match result {
                Ok(found) => {
                    answered = true;
                    found.map_or(Read::NotFound, |raw| self.found_prefect1(prefect1, &key, raw, now))
                }
                Err(error) => {
                    // This key, or the server as a whole?
                    let is_first = !std::mem::replace(&mut checked, true);
                    let is_refused = matches!(error.kind, ErrorKind::Forbidden) && !answered;
                    if !is_of_these_keys(&error) || is_refused || (is_first && self.is_down(pass, now).await) {
                        if pass.outage.is_none() {
                            self.outage(pass, &error, now);
                        }
                        return ControlFlow::Break(());
                    }
                    Read::Failed(self.key_failure(&error, &key, now))
                }
            };
            pass.reads.insert(key, read);
        }
        ControlFlow::Continue(())
    }

    fn found_prefect1(&self, prefect1: &Prefect1, key: &RemoteKey, raw: Zeroizing<String>, now: Timestamp) -> Read {
        let host = prefect1.client().map(|client| client.url().host_and_port()).unwrap_or_default();
        if raw.len() > MAX_DOCUMENT {
            return self.too_large(key, &host, now);
        }
        let document = Arc::new(Document::new(raw, Shape::Value));
        Read::Found { document, source: Source::Api, ids: Box::default() }
    }

    /// The names that a listing finds here.
    async fn prefect1_names(&self, prefect1: &Prefect1, block_type: Option<&str>) -> Result<Vec<String>, Error> {
        match (prefect1.client(), block_type) {
            (Some(client), Some(_)) => client.secret_names().await,
            (Some(client), None) => client.keys().await,
            // What is local is added by the caller.
            (None, _) => Ok(Vec::new()),
        }
    }

    /// Reads a group of listings: the names found become keys that are read one by one, the local ones too.
    pub(super) async fn list_prefect1(
        &self,
        prefect1: &Prefect1,
        group: &Group<'_>,
        pass: &mut Pass,
        (anything_read, now): (bool, Timestamp),
    ) -> ControlFlow<()> {
        let Some(Looked { key: first, query, .. }) = group.first() else { return ControlFlow::Continue(()) };
        let block_type = query.block_type.as_deref();
        let no_tags = || format!("{first}: the key-value pairs of Prefect 1 have no tags; use find.name.regexp");
        let refusal = if query.tags.is_empty() { prefect1.refusal(first) } else { Some(no_tags()) };
        let fail = |pass: &mut Pass, read: &dyn Fn(&RemoteKey) -> Read| {
            for Looked { key, .. } in group {
                pass.reads.insert((*key).clone(), read(key));
            }
            ControlFlow::Continue(())
        };
        if let Some(message) = refusal {
            return fail(pass, &|_| refused(message.clone(), now));
        }
        let mut names = match self.prefect1_names(prefect1, block_type).await {
            Ok(names) if names.len() < MAX_LISTED => names,
            Ok(_) => {
                let too_many = |query: &RemoteKey| {
                    format!(
                        "there are {MAX_LISTED} names or more to look through for {query}; name them one by one in spec.data"
                    )
                };
                return fail(pass, &|key| rejected(too_many(key), now));
            }
            Err(error) if is_of_these_keys(&error) && !self.is_down(pass, now).await => {
                return fail(pass, &|key| Read::Failed(self.key_failure(&error, key, now)));
            }
            Err(error) => {
                if pass.outage.is_none() {
                    self.outage(pass, &error, now);
                }
                return ControlFlow::Break(());
            }
        };
        let local = self.local.iter().flat_map(|local| local.names()).filter(|_| block_type == Some(SECRET_BLOCK));
        names.extend(local.map(str::to_owned));
        let wanted = names.iter().filter(|name| group.iter().any(|looked| looked.is_for(block_type, name)));
        let wanted: BTreeSet<RemoteKey> = wanted.map(|name| RemoteKey::named(block_type, name.clone())).collect();
        let mut remote = Vec::new();
        for key in &wanted {
            match self.local_read(key) {
                Some(read) => drop(pass.reads.insert(key.clone(), read)),
                None => remote.push(key.clone()),
            }
        }
        self.read_prefect1(prefect1, remote, pass, (anything_read, now)).await?;
        // One that went in between is not there.
        let is_there = |name: &&String| {
            let key = RemoteKey::named(block_type, (*name).clone());
            !wanted.contains(&key) || !matches!(pass.reads.get(&key), Some(Read::NotFound) | None)
        };
        let there: Vec<&String> = names.iter().filter(is_there).collect();
        for looked in group {
            let matching = there.iter().filter(|name| looked.matches(name)).map(|name| (*name).clone()).collect();
            pass.reads.insert(looked.key.clone(), Read::Listed(matching));
        }
        ControlFlow::Continue(())
    }

    /// What may have been meant by keys that Prefect 1 does not have.
    pub(super) async fn explain_prefect1(
        &self,
        prefect1: &Prefect1,
        keys: &BTreeMap<RemoteKey, Askers>,
    ) -> BTreeMap<RemoteKey, Hints> {
        let mut lists: BTreeMap<bool, Vec<String>> = BTreeMap::new();
        let mut explained = BTreeMap::new();
        for (key, askers) in keys {
            let hints = match prefect1.client() {
                None => self.explain_local(key, askers),
                Some(client) => {
                    let is_block = key.block_type().is_some();
                    if let std::collections::btree_map::Entry::Vacant(list) = lists.entry(is_block) {
                        let names = if is_block { client.secret_names().await } else { client.keys().await };
                        list.insert(names.unwrap_or_default());
                    }
                    let may = |access: &Access, near: &str| access.gives(key.block_type(), near);
                    let missing = |_: &Access, near| match is_block {
                        true => Missing::Block { near },
                        false => Missing::Variable { near, no_dashes: false },
                    };
                    hints(askers, key.name(), lists[&is_block].iter().map(String::as_str), may, missing)
                }
            };
            explained.insert(key.clone(), hints);
        }
        explained
    }
}

async fn read(client: &Prefect1Client, key: &RemoteKey) -> Result<Option<Zeroizing<String>>, Error> {
    match key {
        RemoteKey::Block { name, .. } | RemoteKey::LocalSecret { name, .. } => client.secret(name).await,
        RemoteKey::Variable { name } => client.key_value(name).await,
        RemoteKey::Listing(_) => Ok(None),
    }
}

fn refused(message: String, now: Timestamp) -> Read {
    Read::Failed(Failure { reason: Reason::NotInPrefect1, message, since: now, workspace_wide: false })
}

fn rejected(message: String, now: Timestamp) -> Read {
    Read::Failed(Failure { reason: Reason::PrefectRejected, message, since: now, workspace_wide: false })
}
