//! One workspace in the registry: its state, its session's snapshot, and how it does.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::sync::snapshot::Snapshot;
use crate::sync::workspace::Health;
use crate::sync::{Dependent, Failure};

/// How the workspace stands.
pub(super) enum State {
    /// Not looked at yet, or gone.
    Unknown,
    /// It can't be used.
    Unusable(Failure),
    /// It has a session; dropping the handle ends it.
    Running(#[expect(dead_code, reason = "held for its Drop")] AbortOnDropHandle<()>),
}

/// A workspace over which another has put local secrets of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    /// The name of the ClusterPrefectWorkspace.
    pub name: String,
    /// The names of those local secrets.
    pub own: Arc<BTreeSet<String>>,
    /// Whether the session reads it.
    pub is_read: bool,
}

/// One workspace.
pub(super) struct Slot {
    pub state: State,
    pub parent: Option<Parent>,
    /// Which state of the workspace and its credentials this is.
    pub fingerprint: String,
    /// Counts states; a session of an older one has nothing to say.
    pub epoch: u64,
    pub snapshot: Snapshot,
    pub health: Health,
    pub stale_after: Duration,
    /// The longest time between two refreshes.
    pub interval: Duration,
    /// Rings when a key is asked for that was not read yet.
    pub demand: Arc<Notify>,
    /// When the last refresh was complete, or else when the session began.
    pub refreshed: Instant,
    /// Whether Prefect's events are heard.
    pub streaming: bool,
    /// Since when each object's target waits for a change that Prefect made.
    pub changed: HashMap<Dependent, Instant>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: State::Unknown,
            parent: None,
            fingerprint: String::new(),
            epoch: 0,
            snapshot: Snapshot::default(),
            health: Health::Pending,
            stale_after: Duration::ZERO,
            interval: Duration::ZERO,
            demand: Arc::new(Notify::new()),
            refreshed: Instant::now(),
            streaming: false,
            changed: HashMap::new(),
        }
    }
}

impl Slot {
    /// Ends the session, if there is one; who asks for what stays.
    pub fn end(&mut self) {
        let mut snapshot = std::mem::take(&mut self.snapshot);
        snapshot.begin_epoch();
        *self = Self { snapshot, parent: self.parent.take(), ..Self::default() };
    }

    /// Whether nobody asks it and it does nothing.
    pub fn is_idle(&self) -> bool {
        self.snapshot.is_empty() && matches!(self.state, State::Unknown)
    }
}
