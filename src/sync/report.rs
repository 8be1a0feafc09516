//! The status of each entry, so bounded that thousands of them do not make an object too large.

use std::collections::{BTreeMap, BTreeSet};

use super::lines::{Line, done};
use crate::api::{EntryCounts, EntryState, EntryStatus, FoundStatus};

/// Entries that `dataFrom` gave and the status lists, what is wrong first.
const MOST_MEMBERS: usize = 100;
/// Entries whose message is told; the others have a reason only.
const MOST_MESSAGES: usize = 50;
/// The longest message of one entry, in characters.
const MAX_MESSAGE: usize = 500;
/// The most bytes of names that the status remembers.
pub(super) const MAX_NAMES: usize = 256 * 1024;
/// The most entries of one object.
pub(super) const MAX_LINES: usize = 5000;

/// What the status says of the entries.
pub(super) struct Report {
    pub keys: String,
    pub counts: EntryCounts,
    pub entries: Vec<EntryStatus>,
}

pub(super) fn report(lines: Vec<Line>) -> Report {
    let keys = format!("{}/{}", done(&lines), lines.len());
    let mut counts = EntryCounts { total: i32::try_from(lines.len()).unwrap_or(i32::MAX), ..EntryCounts::default() };
    for line in &lines {
        *match line.status.state {
            EntryState::Synced => &mut counts.synced,
            EntryState::Absent => &mut counts.absent,
            EntryState::Retained => &mut counts.retained,
            EntryState::Failed => &mut counts.failed,
            EntryState::Pending => &mut counts.pending,
        } += 1;
    }
    let (listed, mut members): (Vec<Line>, Vec<Line>) = lines.into_iter().partition(|line| line.listed);
    members.retain(|line| !line.status.key.is_empty());
    members.sort_by_key(|line| (line.status.reason.is_none(), line.done));
    members.truncate(MOST_MEMBERS);
    let mut messages = 0;
    let entries = listed.into_iter().chain(members).map(|Line { mut status, .. }| {
        if let Some(message) = &mut status.message {
            messages += 1;
            if message.chars().count() > MAX_MESSAGE {
                *message = message.chars().take(MAX_MESSAGE).chain(['…']).collect();
            }
        }
        if messages > MOST_MESSAGES {
            status.message = None;
        }
        status
    });
    Report { keys, counts, entries: entries.collect() }
}

/// The names of the blocks and variables that `dataFrom` made entries of, in order.
pub(super) fn found(lines: &[Line]) -> Vec<FoundStatus> {
    let mut names: BTreeMap<Option<&str>, BTreeSet<&str>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.value.is_some()) {
        if let Some(member) = &line.member {
            names.entry(member.block_type()).or_default().insert(member.name());
        }
    }
    let found = names.into_iter().map(|(block_type, names)| FoundStatus {
        block_type: block_type.map(str::to_owned),
        names: names.into_iter().map(str::to_owned).collect(),
    });
    found.collect()
}

/// The size of what [`found`] says.
pub(super) fn size(found: &[FoundStatus]) -> usize {
    found.iter().flat_map(|found| &found.names).map(|name| name.len() + 3).sum()
}
