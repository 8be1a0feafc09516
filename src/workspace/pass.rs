//! One pass: a portion of keys read from start to end, with what else must be read at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::registry::Workspaces;
use super::session::Session;
use super::timing::Clock;
use crate::sync::snapshot::{Numbers, Times};
use crate::sync::{Failure, Hints, Read, RemoteKey, Timestamp};

/// How often a pass is extended by keys that share an object with a changed one.
const EXTENSIONS: usize = 3;
/// How long the search for what may have been meant by missing names may hold up what was read.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a pass brought.
pub(super) struct Passed {
    pub numbers: Numbers,
    pub reads: BTreeMap<RemoteKey, Read>,
    /// What may have been meant by keys that are newly missing.
    pub explained: BTreeMap<RemoteKey, Hints>,
    pub times: Times,
    /// Why nothing could be read, and how long Prefect asks to be left alone.
    pub outage: Option<Failure>,
    pub retry_after: Option<Duration>,
}

/// Reads `keys`, and the other keys of objects one of whose keys changed: else their targets would mix two passes.
/// `None` when the session is over.
pub(super) async fn read(
    workspaces: &Workspaces,
    session: &Session,
    clock: Clock,
    keys: BTreeSet<RemoteKey>,
    background: bool,
) -> Option<Passed> {
    let reader = session.reader.in_background(background);
    let (asked, at) = (clock.now(), clock.elapsed());
    // Since when a failure lasts is told to people, and compared with the time of day.
    let now = Timestamp::now();
    let ((number, questions), anything_read) = workspaces
        .in_epoch(&session.key, session.epoch, |slot| (slot.snapshot.begin_pass(&keys), slot.snapshot.has_answers()))?;
    let mut pass = reader.read(&questions, anything_read, now).await;
    let mut numbers = Numbers::only(number);
    for _ in 0..EXTENSIONS {
        if pass.outage.is_some() {
            break;
        }
        let (number, more) = workspaces.in_epoch(&session.key, session.epoch, |slot| {
            let companions = slot.snapshot.companions(&pass.reads);
            slot.snapshot.begin_pass(&companions)
        })?;
        if more.keys.is_empty() {
            break;
        }
        let extension = reader.read(&more, true, now).await;
        numbers.later.extend(more.keys.into_keys().map(|key| (key, number)));
        pass.reads.extend(extension.reads);
        (pass.outage, pass.retry_after) = (extension.outage, extension.retry_after);
    }
    let mut explained = BTreeMap::new();
    if pass.outage.is_none() {
        let missing =
            workspaces.in_epoch(&session.key, session.epoch, |slot| slot.snapshot.unexplained(&pass.reads))?;
        // It costs a hint where it takes too long.
        explained = tokio::time::timeout(EXPLAIN_TIMEOUT, reader.explain(&missing)).await.unwrap_or_default();
    }
    let times = Times { asked, answered: clock.now(), at };
    Some(Passed { numbers, reads: pass.reads, explained, times, outage: pass.outage, retry_after: pass.retry_after })
}
