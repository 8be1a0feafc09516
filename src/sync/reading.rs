//! What was read from Prefect for one key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::access::Access;
use super::{Reason, RemoteKey, Timestamp};
use crate::api::Source;

/// A value as it was served. Zeroized on drop; `Debug` shows its length only.
pub struct Document {
    /// The raw JSON text.
    raw: Zeroizing<String>,
    /// What the text is; the same for all blocks of a type.
    shape: Arc<Shape>,
}

/// What a document's text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A variable's value, or a local secret: the text is the value.
    Value,
    /// The value of a variable that has tags.
    Tagged {
        /// The tags.
        tags: Vec<String>,
    },
    /// A block: the text is its `data` object.
    Block {
        /// Paths whose values Prefect masks, with `*` for any name, such as `secrets.*`.
        secret_fields: Vec<String>,
        /// Names of the fields of this block's type.
        fields: Vec<String>,
    },
}

impl Document {
    /// A document of raw JSON text.
    #[must_use]
    pub fn new(raw: Zeroizing<String>, shape: impl Into<Arc<Shape>>) -> Self {
        Self { raw, shape: shape.into() }
    }

    /// The raw JSON text.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// What the text is.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The tags of the variable that it is the value of.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        match &*self.shape {
            Shape::Tagged { tags } => tags,
            Shape::Value | Shape::Block { .. } => &[],
        }
    }

    /// The same, to share it.
    #[must_use]
    pub fn shared_shape(&self) -> Arc<Shape> {
        self.shape.clone()
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        *self.raw == *other.raw && self.shape == other.shape
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({} bytes)", self.raw.len())
    }
}

/// Why there is nothing under a key, and what may have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No block of that name; `near` is one with a similar name.
    Block {
        /// A similar name of the same type.
        near: Option<String>,
    },
    /// No block of that name, but a variable.
    IsAVariable,
    /// No block type of that name.
    BlockType {
        /// A similar type.
        near: Option<String>,
    },
    /// No variable of that name.
    Variable {
        /// A similar name.
        near: Option<String>,
        /// Whether it is a server on which no variable can have such a name: it has dashes, and the server is Prefect 2.
        no_dashes: bool,
    },
    /// The workspace has local secrets only, and none of that name.
    Local {
        /// A similar name.
        near: Option<String>,
    },
}

/// What may have been meant by a key that is not there: to each namespace only what it may read. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints(Arc<BTreeMap<Box<str>, Missing>>);

impl Hints {
    /// What to say to each namespace.
    #[must_use]
    pub fn new(by_namespace: impl IntoIterator<Item = (Box<str>, Missing)>) -> Self {
        Self(Arc::new(by_namespace.into_iter().collect()))
    }

    /// These, and what `more` has for other namespaces.
    #[must_use]
    pub fn and(self, more: &Self) -> Self {
        if more.0.is_empty() {
            return self;
        }
        let mut all = (*self.0).clone();
        for (namespace, missing) in &*more.0 {
            all.entry(namespace.clone()).or_insert_with(|| missing.clone());
        }
        Self(Arc::new(all))
    }

    /// Takes back what was to be said in a namespace.
    pub fn forget(&mut self, namespace: &str) {
        if self.has(namespace) {
            Arc::make_mut(&mut self.0).remove(namespace);
        }
    }

    /// Whether something was looked up for a namespace.
    #[must_use]
    pub fn has(&self, namespace: &str) -> bool {
        self.0.contains_key(namespace)
    }

    /// What to say in `namespace`; where nothing was looked up for it, no more than that the key is not there.
    #[must_use]
    pub fn of(&self, namespace: &str, key: &RemoteKey) -> Missing {
        self.0.get(namespace).cloned().unwrap_or_else(|| Missing::plain(key))
    }
}

impl Missing {
    /// No more than that the key is not there.
    #[must_use]
    pub fn plain(key: &RemoteKey) -> Self {
        match key.block_type() {
            Some(_) => Self::Block { near: None },
            None => Self::Variable { near: None, no_dashes: false },
        }
    }
}

/// Who asks for a key that is not there: namespaces, with what each may read.
pub type Askers = BTreeMap<Box<str>, Access>;

/// An absence as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// What may have been meant.
    pub hints: Hints,
    /// When it was first seen in this epoch.
    pub since: Timestamp,
    /// Whether Prefect said so to a question by name; a list only lacks it, as when a key may not see it any more.
    pub exact: bool,
    /// Whether two answers at least an interval apart in one epoch say so, the second to a question by name.
    pub confirmed: bool,
    /// Where nothing may shrink because of it, as most of what targets hold there vanished together.
    pub held: Held,
}

/// Where an absence is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// In the whole workspace.
    pub everywhere: bool,
    /// In these namespaces.
    pub namespaces: BTreeSet<Box<str>>,
}

impl Held {
    /// Whether it is held in a namespace.
    #[must_use]
    pub fn is_in(&self, namespace: &str) -> bool {
        self.everywhere || self.namespaces.contains(namespace)
    }
}

/// What Prefect, or the local secrets, last answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A value.
    Found {
        /// The value.
        document: Arc<Document>,
        /// Who answered.
        source: Source,
    },
    /// There is none.
    Absent(Absence),
    /// The names that a listing has.
    Listed(Arc<BTreeSet<String>>),
}

/// Why a key, or a whole workspace, can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub reason: Reason,
    /// What was being done to what, and what to do next. Without a final full stop.
    pub message: String,
    /// The first failure since the last success.
    pub since: Timestamp,
    /// Whether it concerns the whole workspace (an outage, refused credentials) rather than this key.
    pub workspace_wide: bool,
}

/// All that is known of one key.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Reading {
    /// The last good answer, kept through failures.
    pub answer: Option<Answer>,
    /// Why the last try failed; `None` when `answer` is current.
    pub failure: Option<Failure>,
    /// The passes that gave this answer, the first and the last of them: answers whose passes overlap belong together.
    pub passes: (u64, u64),
}

/// What one pass found out about a key.
#[derive(Clone, Debug)]
pub enum Read {
    /// A value.
    Found {
        /// The value.
        document: Arc<Document>,
        /// Who answered.
        source: Source,
        /// Prefect's ids of the document and of what is inlined into it: events name them.
        ids: Box<[Uuid]>,
    },
    /// The names that a listing has; what is under them is read with it.
    Listed(BTreeSet<String>),
    /// An exact not-found answer by name.
    NotFound,
    /// A list without it, and it was not asked for by name: too many were missing at once.
    Unlisted,
    /// A list without it, where an absence was confirmed before: still absent.
    StillAbsent,
    /// It could not be read.
    Failed(Failure),
}

/// What is known of a key before it is read: how much has to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: what a list lacks must be asked for by name.
    Nothing,
    /// It has an answer, which stands if too much is missing to ask for all of it by name.
    Answered,
    /// Its absence is confirmed: a list without it is enough.
    Absent,
}
