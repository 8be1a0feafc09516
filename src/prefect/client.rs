//! The requests that this operator makes. All of them read.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use reqwest::StatusCode;
use tokio::sync::watch;

use super::answer::Answer;
use super::budget::Lane;
use super::transport::{Connection, Transport};
use super::wire::{
    BlockFilter, BlockTypeFilter, BlockWire, NameWire, Named as _, SlugWire, VariableFilter, VariableWire,
};
use super::{ApiUrl, Block, Error, ErrorKind, Variable};

/// The most names that one request asks for, and the most that a listing gives. Prefect's limit.
pub const MAX_NAMES: usize = 200;

/// The most documents that a listing goes through; more are too many to read at each refresh.
pub const MAX_LISTED: usize = 10_000;
/// The most bytes of values that a listing brings.
pub const MAX_LISTED_BYTES: usize = 32 * 1024 * 1024;

const NO_BLOCK: &str = "Block document not found";
const NO_BLOCK_TYPE: &str = "Block type not found";
const NO_VARIABLE: &str = "Variable not found.";

/// A block type that every Prefect has and protects.
const SECRET: &str = "secret";

const MAX_VERSION_LENGTH: usize = 64;

/// One connection to one Prefect API. Cheap to clone: clones share the connection pool and the CSRF
/// token. `Debug` shows the address only.
///
/// Every method fails with an [`Error`] of one of the [`ErrorKind`]s. 429, 502, 503, 504 and a
/// dropped connection are tried up to twice more, within seconds, before they are reported.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    lane: Lane,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url().as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares a connection; nothing is sent yet. The process must have a default rustls
    /// provider.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: the CA bundle is not PEM, or the credentials are empty or fit
    /// in no header.
    pub fn new(connection: Connection) -> Result<Client, Error> {
        let transport = Transport::new(connection)?;
        Ok(Client { transport: Arc::new(transport), lane: Lane::Foreground })
    }

    /// The same connection for work that nobody waits for: it takes no place from those who wait.
    #[must_use]
    pub fn background(&self) -> Self {
        Self { lane: Lane::Background, ..self.clone() }
    }

    /// Changes whenever a server that was given up is found to be back, whoever found out.
    #[must_use]
    pub fn recoveries(&self) -> watch::Receiver<u64> {
        self.transport.recoveries()
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The address.
    pub fn url(&self) -> &ApiUrl {
        self.transport.url()
    }

    /// Proves that this is Prefect's API and that the credentials work.
    ///
    /// # Errors
    /// [`ErrorKind::NotPrefectApi`] for any answer that is not Prefect's, otherwise as all.
    pub async fn check(&self) -> Result<(), Error> {
        let doing = "check the connection";
        // Health endpoints need no credentials, so they prove nothing.
        let answer = self.block_type(doing, SECRET).await?;
        if answer.is_not_found(NO_BLOCK_TYPE) {
            return Ok(());
        }
        let not_prefect = || self.transport.error(doing, ErrorKind::NotPrefectApi);
        match self.transport.parse::<SlugWire>(doing, &answer) {
            Ok(found) if found.slug == SECRET => Ok(()),
            Ok(_) => Err(not_prefect()),
            Err(error) if error.kind == ErrorKind::Malformed => Err(not_prefect()),
            Err(error) => Err(error),
        }
    }

    /// The version of the server, such as `3.8.8`; `None` where it has no such endpoint (Cloud).
    ///
    /// # Errors
    /// As all.
    pub async fn server_version(&self) -> Result<Option<String>, Error> {
        let doing = "read the server's version";
        let answer = self.transport.get(self.lane, doing, &["admin", "version"], &[]).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Ok(None);
        }
        let version: String = self.transport.parse(doing, &answer)?;
        // It ends in a status, so it must look like a version.
        let is_version = version.len() <= MAX_VERSION_LENGTH
            && version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-' | b'_'));
        if is_version { Ok(Some(version)) } else { Err(self.transport.error(doing, ErrorKind::Malformed)) }
    }

    /// Blocks of one type by exact names, secrets included: one request per [`MAX_NAMES`] names,
    /// none for no names. A name that is missing in the answer may be absent, of another type or
    /// type unknown, or invisible to this key.
    ///
    /// # Errors
    /// As all; where [`Error::is_batch_fault`], fewer names may fare better.
    pub async fn blocks(&self, block_type: &str, names: &[&str]) -> Result<Vec<Block>, Error> {
        let doing = doing_blocks(block_type);
        let asked: HashSet<&str> = names.iter().copied().collect();
        let slug = [block_type];
        let mut blocks = Vec::new();
        for names in names.chunks(MAX_NAMES) {
            let filter = BlockFilter::by_names(&slug, names);
            let answer = self.filter(&doing, "block_documents", &filter).await?;
            let wires: Vec<BlockWire<'_>> = self.transport.parse(&doing, &answer)?;
            for wire in wires {
                let block = self.block_of(&doing, wire)?;
                if asked.contains(block.name.as_str()) {
                    blocks.push(block);
                }
            }
        }
        Ok(blocks)
    }

    /// All blocks of one type whose name is wanted, secrets included: one request per [`MAX_NAMES`] blocks of the
    /// type. Where others come and go meanwhile, one may be missing: that is no proof that it is gone. `None` if there
    /// are [`MAX_LISTED`] or more, or those that are wanted have more than [`MAX_LISTED_BYTES`].
    ///
    /// # Errors
    /// As all.
    pub async fn list_blocks(
        &self,
        block_type: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<Vec<Block>>, Error> {
        let doing = format!("list blocks of type {block_type:?}");
        let slug = [block_type];
        let mut blocks = Vec::new();
        let mut bytes = 0;
        for offset in (0..MAX_LISTED).step_by(MAX_NAMES) {
            let answer = self.filter(&doing, "block_documents", &BlockFilter::page(&slug, offset)).await?;
            let wires: Vec<BlockWire<'_>> = self.transport.parse(&doing, &answer)?;
            let is_last = wires.len() < MAX_NAMES;
            for wire in wires.into_iter().filter(|wire| wanted(wire.name())) {
                let block = self.block_of(&doing, wire)?;
                bytes += block.data.len();
                blocks.push(block);
            }
            if bytes > MAX_LISTED_BYTES {
                return Ok(None);
            }
            if is_last {
                return Ok(Some(blocks));
            }
        }
        Ok(None)
    }

    /// All variables that have all of `tags` and whose name is wanted, as [`Client::list_blocks`] does.
    ///
    /// # Errors
    /// As all.
    pub async fn list_variables(
        &self,
        tags: &[String],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<Vec<Variable>>, Error> {
        let doing = "list variables";
        let mut variables = Vec::new();
        for offset in (0..MAX_LISTED).step_by(MAX_NAMES) {
            let answer = self.filter(doing, "variables", &VariableFilter::page(tags, offset)).await?;
            let wires: Vec<VariableWire<'_>> = self.transport.parse(doing, &answer)?;
            let is_last = wires.len() < MAX_NAMES;
            variables.extend(wires.into_iter().filter(|wire| wanted(wire.name())).map(Variable::from));
            if is_last {
                return Ok(Some(variables));
            }
        }
        Ok(None)
    }

    /// One block by type and name, secrets included. `None` only where Prefect says in its exact
    /// words that there is none (also where there is no such type), or where no block can have
    /// such a name.
    ///
    /// # Errors
    /// As all.
    pub async fn block(&self, block_type: &str, name: &str) -> Result<Option<Block>, Error> {
        if !is_segment(block_type) || !is_segment(name) {
            return Ok(None);
        }
        let doing = doing_blocks(block_type);
        let path = ["block_types", "slug", block_type, "block_documents", "name", name];
        let query = [("include_secrets", "true")];
        let answer = self.transport.get(self.lane, &doing, &path, &query).await?;
        if answer.is_not_found(NO_BLOCK) {
            return Ok(None);
        }
        let wire = self.transport.parse(&doing, &answer)?;
        self.block_of(&doing, wire).map(Some)
    }

    /// Variables by exact names: one request per [`MAX_NAMES`] names, none for no names. A name
    /// that is missing in the answer may be absent or invisible to this key.
    ///
    /// # Errors
    /// As all; where [`Error::is_batch_fault`], fewer names may fare better.
    pub async fn variables(&self, names: &[&str]) -> Result<Vec<Variable>, Error> {
        let asked: HashSet<&str> = names.iter().copied().collect();
        let mut variables = Vec::new();
        for names in names.chunks(MAX_NAMES) {
            let filter = VariableFilter::new(Some(names));
            let answer = self.filter(DOING_VARIABLES, "variables", &filter).await?;
            let wires: Vec<VariableWire<'_>> = self.transport.parse(DOING_VARIABLES, &answer)?;
            variables.extend(
                wires.into_iter().map(Variable::from).filter(|variable| asked.contains(variable.name.as_str())),
            );
        }
        Ok(variables)
    }

    /// One variable by name. `None` only where Prefect says in its exact words that there is none,
    /// or where the name fits in no address (empty, dots, or with a slash).
    ///
    /// # Errors
    /// As all.
    pub async fn variable(&self, name: &str) -> Result<Option<Variable>, Error> {
        if !is_segment(name) {
            return Ok(None);
        }
        let path = ["variables", "name", name];
        let answer = self.transport.get(self.lane, DOING_VARIABLES, &path, &[]).await?;
        if answer.is_not_found(NO_VARIABLE) {
            return Ok(None);
        }
        let wire: VariableWire<'_> = self.transport.parse(DOING_VARIABLES, &answer)?;
        Ok(Some(wire.into()))
    }

    /// Whether the server knows a block type. `false` only where it says so in its exact words, or
    /// where no type can have such a slug.
    ///
    /// # Errors
    /// As all.
    pub async fn block_type_exists(&self, slug: &str) -> Result<bool, Error> {
        if !is_segment(slug) {
            return Ok(false);
        }
        let doing = format!("look up block type {slug:?}");
        let answer = self.block_type(&doing, slug).await?;
        if answer.is_not_found(NO_BLOCK_TYPE) {
            return Ok(false);
        }
        let _: SlugWire = self.transport.parse(&doing, &answer)?;
        Ok(true)
    }

    /// Names of the first [`MAX_NAMES`] blocks of one type, by name. For suggestions: the values
    /// are not asked for, and what is served of them is dropped.
    ///
    /// # Errors
    /// As all.
    pub async fn block_names(&self, block_type: &str) -> Result<Vec<String>, Error> {
        let doing = format!("list blocks of type {block_type:?}");
        let slug = [block_type];
        let filter = BlockFilter::first(&slug);
        let answer = self.filter(&doing, "block_documents", &filter).await?;
        self.names_of(&doing, &answer)
    }

    /// Names of the first [`MAX_NAMES`] variables, by name. For suggestions: their values are
    /// dropped.
    ///
    /// # Errors
    /// As all.
    pub async fn variable_names(&self) -> Result<Vec<String>, Error> {
        let doing = "list variables";
        let answer = self.filter(doing, "variables", &VariableFilter::new(None)).await?;
        self.names_of(doing, &answer)
    }

    /// Slugs of the first [`MAX_NAMES`] block types.
    ///
    /// # Errors
    /// As all.
    pub async fn block_type_slugs(&self) -> Result<Vec<String>, Error> {
        let doing = "list block types";
        let answer = self.filter(doing, "block_types", &BlockTypeFilter::first()).await?;
        let wires: Vec<SlugWire> = self.transport.parse(doing, &answer)?;
        Ok(wires.into_iter().map(|wire| wire.slug).collect())
    }

    async fn block_type(&self, doing: &str, slug: &str) -> Result<Answer, Error> {
        self.transport.get(self.lane, doing, &["block_types", "slug", slug], &[]).await
    }

    async fn filter(&self, doing: &str, collection: &str, filter: &impl serde::Serialize) -> Result<Answer, Error> {
        self.transport.post(self.lane, doing, &[collection, "filter"], filter).await
    }

    fn block_of(&self, doing: &str, wire: BlockWire<'_>) -> Result<Block, Error> {
        Block::try_from(wire).map_err(|_| self.transport.error(doing, ErrorKind::Malformed))
    }

    fn names_of(&self, doing: &str, answer: &Answer) -> Result<Vec<String>, Error> {
        let wires: Vec<NameWire> = self.transport.parse(doing, answer)?;
        Ok(wires.into_iter().map(|wire| wire.name).collect())
    }
}

const DOING_VARIABLES: &str = "read variables";

fn doing_blocks(block_type: &str) -> String {
    format!("read blocks of type {block_type:?}")
}

/// Whether a name can stand as one segment of a path. Prefect decodes a path before it splits it,
/// so not even an encoded slash can be asked for; and its naming rules allow none of these, but
/// for a variable without a name.
fn is_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}
