//! Reads what `find` looks for: all blocks of a type, or all variables, page by page, each once for all who look.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::prefect1::Prefect1;
use super::reader::{Found, Pass, Reader, block_document, is_of_these_keys, variable_document};
use crate::prefect::{Client, Error, MAX_LISTED, MAX_LISTED_BYTES};
use crate::sync::object::SECRET_BLOCK;
use crate::sync::query::{Matcher, Query};
use crate::sync::reading::Before;
use crate::sync::{Access, Askers, Failure, Read, Reason, RemoteKey, Shape, Timestamp};

/// One of the queries that a listing answers.
pub(super) struct Looked<'a> {
    pub key: &'a RemoteKey,
    pub query: &'a Query,
    matcher: Matcher,
    askers: Option<&'a Askers>,
}

/// Queries that one listing answers: of one block type, or of variables with the same tags.
pub(super) type Group<'a> = Vec<Looked<'a>>;

impl Looked<'_> {
    /// Whether it looks for that name.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.matches(name)
    }

    /// Whether it does for somebody who may read it: else only the name is kept, for those who may later.
    pub fn is_for(&self, block_type: Option<&str>, name: &str) -> bool {
        let may = |access: &Access| access.allows_named(block_type, name);
        self.matcher.matches(name) && self.askers.is_some_and(|askers| askers.values().any(may))
    }
}

impl Reader {
    /// Reads the listings among `keys`, and with each what it finds and what else of `keys` it comes across. Breaks off
    /// when the workspace as a whole can't be read.
    pub(super) async fn read_listings(
        &self,
        keys: &BTreeMap<RemoteKey, Before>,
        askers: &BTreeMap<RemoteKey, Askers>,
        pass: &mut Pass,
        (anything_read, now): (bool, Timestamp),
    ) -> ControlFlow<()> {
        let mut groups: BTreeMap<(Option<&str>, &[String]), Group<'_>> = BTreeMap::new();
        for key in keys.keys() {
            // One that is no regular expression is not asked for.
            if let RemoteKey::Listing(query) = key
                && let Ok(matcher) = query.matcher()
            {
                let group = (query.block_type.as_deref(), query.tags.as_slice());
                groups.entry(group).or_default().push(Looked { key, query, matcher, askers: askers.get(key) });
            }
        }
        for ((block_type, tags), group) in groups {
            let asked: BTreeSet<&str> = keys
                .keys()
                .filter(|key| !matches!(key, RemoteKey::Listing(_)) && key.block_type() == block_type)
                .map(RemoteKey::name)
                .collect();
            let names: Mutex<BTreeSet<String>> = Mutex::default();
            let wanted = |name: &str| {
                if group.iter().any(|looked| looked.matches(name)) {
                    names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                }
                asked.contains(name) || group.iter().any(|looked| looked.is_for(block_type, name))
            };
            if let Some(prefect1) = &self.prefect1 {
                self.list_prefect1(prefect1, &group, pass, (anything_read, now)).await?;
                continue;
            }
            let listed = match &self.client {
                Some(client) => list(client, block_type, tags, &wanted).await,
                None => Ok(Some(Vec::new())),
            };
            let found = match listed {
                Ok(Some(found)) => found,
                Ok(None) => {
                    for Looked { key, query, .. } in &group {
                        pass.reads.insert((*key).clone(), Read::Failed(too_many(query, now)));
                    }
                    continue;
                }
                Err(error) => {
                    if is_of_these_keys(&error) && !self.is_down(pass, now).await {
                        for Looked { key, .. } in &group {
                            let failed = self.key_failure(&error, key, now);
                            pass.reads.insert((*key).clone(), Read::Failed(failed));
                        }
                        continue;
                    }
                    if pass.outage.is_none() {
                        self.outage(pass, &error, now);
                    }
                    return ControlFlow::Break(());
                }
            };
            for (name, found) in found {
                let key = RemoteKey::named(block_type, name);
                let Some(client) = &self.client else { continue };
                let read = self.found(client, &key, found, now);
                pass.reads.insert(key, read);
            }
            // What is local comes first, here too.
            for name in self.local_names(block_type).filter(|name| wanted(name)) {
                let key = RemoteKey::named(block_type, name.to_owned());
                if let Some(read) = self.local_read(&key) {
                    pass.reads.insert(key, read);
                }
            }
            let names = names.into_inner().unwrap_or_else(PoisonError::into_inner);
            for looked in &group {
                let matching = names.iter().filter(|name| looked.matches(name)).cloned().collect();
                pass.reads.insert(looked.key.clone(), Read::Listed(matching));
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether not only these keys but the server as a whole can't be read; then the pass says so.
    pub(super) async fn is_down(&self, pass: &mut Pass, now: Timestamp) -> bool {
        let checked = match (&self.client, self.prefect1.as_ref().and_then(Prefect1::client)) {
            (Some(client), _) => client.check().await,
            (None, Some(client)) => client.check().await,
            (None, None) => Ok(()),
        };
        match checked {
            Ok(()) => false,
            Err(error) => {
                self.outage(pass, &error, now);
                true
            }
        }
    }

    fn local_names(&self, block_type: Option<&str>) -> impl Iterator<Item = &str> {
        self.local.iter().filter(move |_| block_type == Some(SECRET_BLOCK)).flat_map(|local| local.names())
    }
}

async fn list(
    client: &Client,
    block_type: Option<&str>,
    tags: &[String],
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<Vec<(String, Found)>>, Error> {
    Ok(match block_type {
        Some(block_type) => {
            let mut last = Arc::new(Shape::Value);
            client.list_blocks(block_type, wanted).await?.map(|blocks| {
                let found = blocks.into_iter().map(|block| {
                    let (name, found) = (block.name.clone(), block_document(block, &last));
                    last = found.0.shared_shape();
                    (name, found)
                });
                found.collect()
            })
        }
        None => client.list_variables(tags, wanted).await?.map(|variables| {
            variables.into_iter().map(|variable| (variable.name.clone(), variable_document(variable))).collect()
        }),
    })
}

fn too_many(query: &Query, now: Timestamp) -> Failure {
    let (what, next) = match &query.block_type {
        Some(block_type) => (format!("{block_type} blocks"), "name them one by one in spec.data"),
        None => ("variables".to_owned(), "use find.tags, or name them one by one in spec.data"),
    };
    let message = format!(
        "there are {MAX_LISTED} {what} or more to look through for {query}, or those found hold more than {} MiB; {next}",
        MAX_LISTED_BYTES >> 20
    );
    Failure { reason: Reason::PrefectRejected, message, since: now, workspace_wide: false }
}
