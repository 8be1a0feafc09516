//! Reads a set of keys once: local secrets first, then Prefect in batches of exact names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::watch;
use uuid::Uuid;

use super::failure::{Credentials, failure};
use super::prefect1::Prefect1;
use crate::api::Source;
use crate::prefect::{Block, Client, Error, ErrorKind, LocalSecrets, MAX_NAMES, Prefect1Client, Variable};
use crate::sync::object::SECRET_BLOCK;
use crate::sync::reading::Before;
use crate::sync::snapshot::Questions;
use crate::sync::suggest::hints;
use crate::sync::{Access, Askers, Document, Failure, Hints, Missing, Read, Reason, RemoteKey, Shape, Timestamp};

/// The largest block or variable that is kept, in bytes of JSON: twice what a Secret takes, since `property` may pick
/// a part. A block may hold 5 MB, and readings stay in memory.
pub(super) const MAX_DOCUMENT: usize = 2 * 1024 * 1024;
/// Requests of one pass under way at once.
pub(super) const CONCURRENCY: usize = 4;
/// The most batches that one pass halves to find keys that spoil them.
const MOST_HALVINGS: usize = 64;
/// The same while no batch has been answered at all: it must find one bad key of 200.
const MOST_HALVINGS_UNANSWERED: usize = 16;
/// The most keys of one read that had an answer, are now missing, and are asked for by name; the others wait for the
/// next read. An emptied database must not cost a request a key.
const MOST_MISSING: usize = 20;

/// What one pass brought.
pub struct Pass {
    /// One result for each key asked for, unless `outage` stopped the pass.
    pub reads: BTreeMap<RemoteKey, Read>,
    /// Why the workspace as a whole can't be read.
    pub outage: Option<Failure>,
    /// How long Prefect asks to be left alone.
    pub retry_after: Option<std::time::Duration>,
}

/// Where a workspace's values come from. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reader {
    /// Prefect's API, if the workspace has one.
    pub client: Option<Client>,
    /// Prefect 1, if the workspace has that instead.
    pub prefect1: Option<Prefect1>,
    /// The local secrets, consulted first.
    pub local: Option<Arc<LocalSecrets>>,
    /// The names of those local secrets that the workspace itself has put over another's, if it has a parent.
    pub own: Option<Arc<BTreeSet<String>>>,
    /// What is presented to the API, for messages.
    pub credentials: Credentials,
    /// The ClusterPrefectWorkspace through which it is read, if it is: those who do are not told where its Prefect and its
    /// credentials are.
    pub shared_as: Option<Arc<str>>,
}

/// A document, and Prefect's ids of it and of what is inlined into it.
pub(super) type Found = (Document, Box<[Uuid]>);

/// Names to read together: of one block type, or of variables.
struct Batch {
    block_type: Option<String>,
    names: Vec<String>,
}

impl Batch {
    fn key(&self, name: &str) -> RemoteKey {
        RemoteKey::named(self.block_type.as_deref(), name.to_owned())
    }

    fn keys(&self) -> impl Iterator<Item = RemoteKey> {
        self.names.iter().map(|name| self.key(name))
    }

    fn halves(mut self) -> [Self; 2] {
        let tail = self.names.split_off(self.names.len() / 2);
        let other = Self { block_type: self.block_type.clone(), names: tail };
        [self, other]
    }
}

/// Whether an error may be about what was asked for, while others can be read: a permission can be one block's.
pub(super) fn is_of_these_keys(error: &Error) -> bool {
    error.is_batch_fault() || matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Rejected { .. })
}

impl Reader {
    /// The same; in the background its requests wait for those of others.
    #[must_use]
    pub fn in_background(&self, background: bool) -> Self {
        let client = self.client.as_ref().map(|client| if background { client.background() } else { client.clone() });
        let prefect1 = self.prefect1.as_ref().map(|prefect1| match prefect1 {
            Prefect1::Cloud(client) if background => Prefect1::Cloud(client.background()),
            other => other.clone(),
        });
        Self { client, prefect1, ..self.clone() }
    }

    /// The same under local secrets of another workspace.
    #[must_use]
    pub fn under(self, own: LocalSecrets) -> Self {
        let names = own.names().map(str::to_owned).collect();
        let local = match &self.local {
            Some(below) => own.over(below),
            None => own,
        };
        Self { local: Some(Arc::new(local)), own: Some(Arc::new(names)), ..self }
    }

    /// Changes whenever a server that was given up is found to be back, whoever found out.
    pub fn recoveries(&self) -> Option<watch::Receiver<u64>> {
        let prefect1 = || self.prefect1.as_ref().and_then(Prefect1::client).map(Prefect1Client::recoveries);
        self.client.as_ref().map(Client::recoveries).or_else(prefect1)
    }

    /// Proves that the API answers and takes the credentials, and says which version it is (`None` for Cloud, or
    /// with local secrets only).
    ///
    /// # Errors
    /// Why the workspace can't be read.
    pub async fn check(&self, now: Timestamp) -> Result<Option<String>, Failure> {
        let failed = |error: Error| failure(&error, &self.credentials, None, now);
        if let Some(prefect1) = &self.prefect1 {
            if let Some(client) = prefect1.client() {
                client.check().await.map_err(failed)?;
            }
            return Ok(Some("1".to_owned()));
        }
        let Some(client) = &self.client else { return Ok(None) };
        let checked = async {
            client.check().await?;
            client.server_version().await
        };
        checked.await.map_err(failed)
    }

    /// Reads the keys of `questions`. `anything_read` says whether the workspace has read anything yet.
    pub async fn read(&self, questions: &Questions, anything_read: bool, now: Timestamp) -> Pass {
        let Questions { keys, askers } = questions;
        let aliases: Vec<&RemoteKey> = keys.keys().filter(|key| matches!(key, RemoteKey::LocalSecret { .. })).collect();
        if aliases.is_empty() {
            return self.read_plain(keys, askers, anything_read, now).await;
        }
        // What is not local is the block of another key's name, which is read once.
        let (local, remote): (Vec<&RemoteKey>, Vec<&RemoteKey>) =
            aliases.into_iter().partition(|key| self.local_value(key).is_some());
        let is_plain = |key: &RemoteKey| !matches!(key, RemoteKey::LocalSecret { .. });
        let mut plain: BTreeMap<RemoteKey, Before> =
            keys.iter().filter(|(key, _)| is_plain(key)).map(|(key, before)| (key.clone(), *before)).collect();
        for key in &remote {
            // Under either name it is to be answered as far as that one needs.
            let before = plain.entry(key.in_prefect()).or_insert(keys[*key]);
            if keys[*key] != Before::Absent {
                *before = keys[*key];
            }
        }
        let mut pass = self.read_plain(&plain, askers, anything_read, now).await;
        for key in remote {
            if let Some(read) = pass.reads.get(&key.in_prefect()).cloned() {
                pass.reads.insert(key.clone(), read);
            }
        }
        pass.reads.extend(local.into_iter().filter_map(|key| Some((key.clone(), self.local_read(key)?))));
        // What only an alias asked for is nobody's own.
        pass.reads.retain(|key, _| keys.contains_key(key) || !plain.contains_key(key));
        pass
    }

    async fn read_plain(
        &self,
        keys: &BTreeMap<RemoteKey, Before>,
        askers: &BTreeMap<RemoteKey, Askers>,
        anything_read: bool,
        now: Timestamp,
    ) -> Pass {
        let mut pass = Pass { reads: BTreeMap::new(), outage: None, retry_after: None };
        let mut remote: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
        if self.read_listings(keys, askers, &mut pass, (anything_read, now)).await.is_break() {
            return pass;
        }
        let mut of_prefect1 = Vec::new();
        let unread: Vec<&RemoteKey> = keys.keys().filter(|key| !pass.reads.contains_key(*key)).collect();
        for key in unread {
            if let Some(read) = self.local_read(key) {
                pass.reads.insert(key.clone(), read);
            } else if self.prefect1.is_some() {
                of_prefect1.push(key.clone());
            } else if self.client.is_none() {
                pass.reads.insert(key.clone(), Read::NotFound);
            } else {
                remote.entry(key.block_type().map(str::to_owned)).or_default().push(key.name().to_owned());
            }
        }
        if let Some(prefect1) = &self.prefect1 {
            let _ = self.read_prefect1(prefect1, of_prefect1, &mut pass, (anything_read, now)).await;
            return pass;
        }
        let Some(client) = &self.client else { return pass };
        let mut batches: Vec<Batch> = remote
            .iter()
            .flat_map(|(block_type, names)| {
                names.chunks(MAX_NAMES).map(|chunk| Batch { block_type: block_type.clone(), names: chunk.to_vec() })
            })
            .collect();
        let mut halvings = 0;
        let mut answered = false;
        let mut checked = false;
        let mut refused: Vec<(Batch, Error)> = Vec::new();
        let mut unlisted = Vec::new();
        let mut missing = 0;
        while !batches.is_empty() {
            let mut halved = Vec::new();
            let mut results = futures::stream::iter(std::mem::take(&mut batches))
                .map(|batch| async move { (self.list(client, &batch).await, batch) })
                .buffer_unordered(CONCURRENCY);
            while let Some((result, batch)) = results.next().await {
                match result {
                    Ok(found) => {
                        answered = true;
                        let mut found: BTreeMap<RemoteKey, Found> = found.into_iter().collect();
                        for name in &batch.names {
                            let key = batch.key(name);
                            match found.remove(&key) {
                                Some(found) => {
                                    let read = self.found(client, &key, found, now);
                                    pass.reads.insert(key, read);
                                }
                                None => match keys.get(&key) {
                                    Some(Before::Absent) => {
                                        pass.reads.insert(key, Read::StillAbsent);
                                    }
                                    Some(Before::Answered) if missing == MOST_MISSING => {
                                        pass.reads.insert(key, Read::Unlisted);
                                    }
                                    before => {
                                        missing += usize::from(before == Some(&Before::Answered));
                                        unlisted.push(key);
                                    }
                                },
                            }
                        }
                    }
                    Err(error) if is_of_these_keys(&error) => {
                        // Some of these names, or the server as a whole?
                        if !std::mem::replace(&mut checked, true)
                            && let Err(error) = client.check().await
                        {
                            self.outage(&mut pass, &error, now);
                            return pass;
                        }
                        // Nothing was ever read: it is the credentials, not these keys.
                        if !answered && !anything_read && matches!(error.kind, ErrorKind::Forbidden) {
                            self.outage(&mut pass, &error, now);
                            return pass;
                        }
                        let most = if answered { MOST_HALVINGS } else { MOST_HALVINGS_UNANSWERED };
                        if batch.names.len() > 1 && halvings < most {
                            halvings += 1;
                            halved.extend(batch.halves());
                        } else {
                            refused.push((batch, error));
                        }
                    }
                    Err(error) => {
                        self.outage(&mut pass, &error, now);
                        return pass;
                    }
                }
            }
            batches = halved;
        }
        for (batch, error) in refused {
            for key in batch.keys() {
                let failed = self.key_failure(&error, &key, now);
                pass.reads.insert(key, Read::Failed(failed));
            }
        }
        // A list omits what the key may no longer see: only the exact answer by name says that there is none.
        let mut results = futures::stream::iter(unlisted)
            .map(|key| async move { (self.by_name(client, &key).await, key) })
            .buffer_unordered(CONCURRENCY);
        while let Some((result, key)) = results.next().await {
            let read = match result {
                Ok(Some(found)) => self.found(client, &key, found, now),
                Ok(None) => Read::NotFound,
                Err(error) if is_of_these_keys(&error) => Read::Failed(self.key_failure(&error, &key, now)),
                Err(error) => {
                    self.outage(&mut pass, &error, now);
                    return pass;
                }
            };
            pass.reads.insert(key, read);
        }
        pass
    }

    pub(super) fn found(&self, client: &Client, key: &RemoteKey, (document, ids): Found, now: Timestamp) -> Read {
        if document.raw().len() <= MAX_DOCUMENT {
            return Read::Found { document: Arc::new(document), source: Source::Api, ids };
        }
        self.too_large(key, &client.url().host_and_port(), now)
    }

    /// Why one key can't be read, in the words of those who ask for it.
    pub(super) fn key_failure(&self, error: &Error, key: &RemoteKey, now: Timestamp) -> Failure {
        let failure = failure(error, &self.credentials, Some(key), now);
        let Some(workspace) = &self.shared_as else { return failure };
        tracing::debug!(workspace = &**workspace, "{}", failure.message);
        let message = format!(
            "{key} can't be read through ClusterPrefectWorkspace {workspace:?} ({}); those who run it see why in the operator's log",
            failure.reason
        );
        Failure { message, ..failure }
    }

    /// That a document is too large to keep.
    pub(super) fn too_large(&self, key: &RemoteKey, host: &str, now: Timestamp) -> Read {
        let place = match &self.shared_as {
            Some(workspace) => format!("ClusterPrefectWorkspace {workspace:?}"),
            None => format!("Prefect at {host}"),
        };
        let message = format!("{key} of {place} is larger than {} MiB; make it smaller", MAX_DOCUMENT >> 20);
        Read::Failed(Failure { reason: Reason::PrefectRejected, message, since: now, workspace_wide: false })
    }

    pub(super) fn outage(&self, pass: &mut Pass, error: &Error, now: Timestamp) {
        pass.retry_after = error.retry_after;
        pass.outage = Some(failure(error, &self.credentials, None, now));
    }

    /// What the local secrets have of a key.
    pub(super) fn local_read(&self, key: &RemoteKey) -> Option<Read> {
        let text = zeroize::Zeroizing::new(self.local_value(key)?.to_owned());
        let document = Arc::new(Document::new(text, Shape::Value));
        Some(Read::Found { document, source: Source::Local, ids: Box::default() })
    }

    /// Only Secret blocks have a local counterpart, as in Prefect 1.
    fn local_value(&self, key: &RemoteKey) -> Option<&str> {
        let name = key.local_name()?;
        // Another name than the block's is one of its own: what the parent calls so may be someone else's.
        let is_alias = matches!(key, RemoteKey::LocalSecret { .. });
        if is_alias && self.own.as_ref().is_some_and(|own| !own.contains(name)) {
            return None;
        }
        self.local.as_ref()?.get(name)
    }

    async fn list(&self, client: &Client, batch: &Batch) -> Result<Vec<(RemoteKey, Found)>, Error> {
        let names: Vec<&str> = batch.names.iter().map(String::as_str).collect();
        Ok(match &batch.block_type {
            Some(block_type) => {
                let blocks = client.blocks(block_type, &names).await?;
                // Blocks of one type are as good as always of one shape, which is held once.
                let mut last = Arc::new(Shape::Value);
                let found = blocks.into_iter().map(|block| {
                    let (key, found) = (batch.key(&block.name), block_document(block, &last));
                    last = found.0.shared_shape();
                    (key, found)
                });
                found.collect()
            }
            None => {
                let variables = client.variables(&names).await?;
                variables.into_iter().map(|variable| (batch.key(&variable.name), variable_document(variable))).collect()
            }
        })
    }

    async fn by_name(&self, client: &Client, key: &RemoteKey) -> Result<Option<Found>, Error> {
        Ok(match key {
            RemoteKey::Block { block_type, name } => {
                let found = client.block(block_type, name).await?;
                found.map(|block| block_document(block, &Arc::new(Shape::Value)))
            }
            RemoteKey::Variable { name } => client.variable(name).await?.map(variable_document),
            RemoteKey::LocalSecret { .. } | RemoteKey::Listing(_) => None,
        })
    }

    /// What may have been meant by keys that are not there, for each who asks. Only called for absences seen for the
    /// first time; an error here costs the hint, nothing else.
    pub async fn explain(&self, keys: &BTreeMap<RemoteKey, Askers>) -> BTreeMap<RemoteKey, Hints> {
        if let Some(prefect1) = &self.prefect1 {
            return self.explain_prefect1(prefect1, keys).await;
        }
        let mut lists = Lists::default();
        let blocks = keys.keys().filter(|key| key.block_type() == Some(SECRET_BLOCK)).map(RemoteKey::name);
        let blocks: Vec<&str> = blocks.collect();
        if let Some(client) = self.client.as_ref().filter(|_| !blocks.is_empty()) {
            let namesakes = client.variables(&blocks).await.unwrap_or_default();
            lists.namesakes = namesakes.into_iter().map(|variable| variable.name).collect();
        }
        let mut explained = BTreeMap::new();
        for (key, askers) in keys {
            let hints = match (&self.client, &key.in_prefect()) {
                (None, key) => self.explain_local(key, askers),
                (Some(client), RemoteKey::Variable { name }) => {
                    let no_dashes = name.contains('-') && lists.is_prefect_2(client).await;
                    let may = |access: &Access, near: &str| access.gives(None, near);
                    let missing = |_: &Access, near| Missing::Variable { near, no_dashes };
                    hints(askers, name, lists.variables(client).await, may, missing)
                }
                (Some(client), RemoteKey::Block { block_type, name }) => {
                    lists.explain_block(client, (block_type, name), askers).await
                }
                (Some(_), RemoteKey::LocalSecret { .. } | RemoteKey::Listing(_)) => continue,
            };
            explained.insert(key.clone(), hints);
        }
        explained
    }

    /// The same where local secrets are all that there are.
    pub(super) fn explain_local(&self, key: &RemoteKey, askers: &Askers) -> Hints {
        let names = self.local.iter().flat_map(|local| local.names());
        let may = |access: &Access, near: &str| access.allows_named(Some(SECRET_BLOCK), near);
        hints(askers, key.name(), names, may, |_, near| Missing::Local { near })
    }
}

/// Lists of names, each asked for at most once.
#[derive(Default)]
struct Lists {
    variables: Option<Vec<String>>,
    types: Option<Vec<String>>,
    blocks: BTreeMap<String, Vec<String>>,
    /// Variables that are called like a missing Secret block.
    namesakes: BTreeSet<String>,
    /// Whether the server is Prefect 2, once asked.
    is_prefect_2: Option<bool>,
}

impl Lists {
    async fn is_prefect_2(&mut self, client: &Client) -> bool {
        if self.is_prefect_2.is_none() {
            let version = client.server_version().await;
            self.is_prefect_2 = Some(matches!(version, Ok(Some(version)) if version.starts_with("2.")));
        }
        self.is_prefect_2 == Some(true)
    }

    async fn variables(&mut self, client: &Client) -> impl Iterator<Item = &str> {
        if self.variables.is_none() {
            self.variables = Some(client.variable_names().await.unwrap_or_default());
        }
        self.variables.iter().flatten().map(String::as_str)
    }

    async fn explain_block(&mut self, client: &Client, (block_type, name): (&str, &str), askers: &Askers) -> Hints {
        if !self.blocks.contains_key(block_type) {
            if client.block_type_exists(block_type).await.is_ok_and(|exists| !exists) {
                if self.types.is_none() {
                    self.types = Some(client.block_type_slugs().await.unwrap_or_default());
                }
                let types = self.types.iter().flatten().map(String::as_str);
                let may = |access: &Access, near: &str| access.allows_type(Some(near));
                return hints(askers, block_type, types, may, |_, near| Missing::BlockType { near });
            }
            self.blocks.insert(block_type.to_owned(), client.block_names(block_type).await.unwrap_or_default());
        }
        let is_variable = block_type == SECRET_BLOCK && self.namesakes.contains(name);
        let names = self.blocks.get(block_type).into_iter().flatten().map(String::as_str);
        let may = |access: &Access, near: &str| access.gives(Some(block_type), near);
        hints(askers, name, names, may, |access, near| {
            // Whoever may not read the variable is not told that there is one.
            if is_variable && access.gives(None, name) { Missing::IsAVariable } else { Missing::Block { near } }
        })
    }
}

/// `like` is taken for the shape if it is the same.
pub(super) fn block_document(block: Block, like: &Arc<Shape>) -> Found {
    let shape = Shape::Block { secret_fields: block.secret_fields, fields: block.fields };
    let shape = if shape == **like { like.clone() } else { Arc::new(shape) };
    (Document::new(block.data, shape), block.ids.into())
}

pub(super) fn variable_document(variable: Variable) -> Found {
    let shape = if variable.tags.is_empty() { Shape::Value } else { Shape::Tagged { tags: variable.tags } };
    (Document::new(variable.value, shape), variable.id.into_iter().collect())
}
