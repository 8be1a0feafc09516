//! For tests of the plan: an object, what Prefect says, and what a cluster would make of each plan.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::*;
use crate::api::{CreationPolicy, Decoding, Source, TemplateMetadata};
use crate::sync::claim::version;
use crate::sync::layout::Format;
use crate::sync::object::WorkspaceKey;
use crate::sync::restart::Rolled;
use crate::sync::target::merger;
use crate::sync::{Absence, Answer, Dependent, Document, Entry, Held, Hints, Kind, Reading, RemoteKey, Shape, Target};

pub(super) const STALE_AFTER: Duration = Duration::from_secs(600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn variable(name: &str) -> RemoteKey {
    RemoteKey::Variable { name: name.into() }
}

/// A little world: one object, what Prefect says, what exists.
pub(super) struct World {
    pub(super) object: Object,
    pub(super) status: SyncStatus,
    pub(super) readings: BTreeMap<RemoteKey, Reading>,
    pub(super) target: Option<Target>,
    pub(super) old_target: Option<Target>,
    pub(super) written: Option<Version>,
    pub(super) started: i64,
    pub(super) now: i64,
    pub(super) version: u32,
}

impl World {
    pub(super) fn new(keys: &[&str]) -> Self {
        let entries = keys
            .iter()
            .map(|key| Entry {
                key: (*key).into(),
                remote: variable(key),
                property: None,
                optional: false,
                default: None,
                decoding: Decoding::None,
            })
            .collect();
        Self {
            object: Object {
                id: Dependent { kind: Kind::PrefectSecret, namespace: "flows".into(), name: "etl".into() },
                uid: "uid-1".into(),
                generation: Some(1),
                workspace: WorkspaceKey::namespaced("flows", "default"),
                names_no_workspace: true,
                created: Some(at(0)),
                entries,
                sources: Vec::new(),
                format: Format::Plain,
                templates: None,
                immutable: false,
                creation_policy: CreationPolicy::Owner,
                restarts: Vec::new(),
                refresh: None,
                target_name: "etl".into(),
                target_type: Some("Opaque".into()),
                template: TemplateMetadata::default(),
                deletion_policy: DeletionPolicy::Retain,
                refresh_interval: None,
                suspend: false,
            },
            status: SyncStatus::default(),
            readings: BTreeMap::new(),
            target: None,
            old_target: None,
            written: None,
            started: 0,
            now: 0,
            version: 0,
        }
    }

    /// A world in which everything has been delivered.
    pub(super) fn synced(keys: &[&str]) -> Self {
        let mut world = Self::new(keys);
        for key in keys {
            world.found(key, &format!("\"{key}-1\""));
        }
        world.settle();
        assert!(world.ready(), "{:?}", world.status);
        world
    }

    pub(super) fn found(&mut self, key: &str, raw: &str) {
        let document = Arc::new(Document::new(Zeroizing::new(raw.to_owned()), Shape::Value));
        let answer = Some(Answer::Found { document, source: Source::Api });
        self.readings.insert(variable(key), Reading { answer, failure: None, passes: (1, 1) });
    }

    pub(super) fn gone(&mut self, key: &str, confirmed: bool, held: bool) {
        let absence = Absence {
            hints: Hints::default(),
            since: at(self.now),
            exact: true,
            confirmed,
            held: Held { everywhere: held, ..Held::default() },
        };
        self.readings
            .insert(variable(key), Reading { answer: Some(Answer::Absent(absence)), failure: None, passes: (1, 1) });
    }

    pub(super) fn fails(&mut self, key: &str, workspace_wide: bool) {
        let failure = Failure {
            reason: if workspace_wide { Reason::PrefectUnreachable } else { Reason::PrefectRejected },
            message: "cannot reach prefect".into(),
            since: at(self.now),
            workspace_wide,
        };
        self.readings.entry(variable(key)).or_default().failure = Some(failure);
    }

    pub(super) fn plan(&self) -> Plan {
        self.plan_with(WorkspaceView::Usable)
    }

    pub(super) fn plan_with(&self, workspace: WorkspaceView<'_>) -> Plan {
        let observed = self.observed(workspace);
        let planned = plan(&observed, at(self.now));
        if !depends_on_target(&observed) {
            let blind = plan(&Observed { target: None, old_target: None, ..observed }, at(self.now));
            assert_eq!(format!("{blind:?}"), format!("{planned:?}"), "the plan depends on the target after all");
        }
        planned
    }

    pub(super) fn observed<'a>(&'a self, workspace: WorkspaceView<'a>) -> Observed<'a> {
        Observed {
            object: &self.object,
            previous: &self.status,
            workspace,
            stale_after: STALE_AFTER,
            readings: &self.readings,
            target: self.target.as_ref(),
            old_target: self.old_target.as_ref(),
            written: self.written.as_ref(),
            started: at(self.started),
            refreshed: None,
        }
    }

    /// Plans and carries it out, as the API server would.
    pub(super) fn step(&mut self) -> Plan {
        let due = self.plan().rollouts.len();
        self.step_with(&vec![Rolled::Done; due])
    }

    /// The same; so the restarts turn out.
    pub(super) fn step_with(&mut self, rolled: &[Rolled]) -> Plan {
        let mut plan = self.plan();
        match &plan.target {
            TargetAction::Keep => {}
            TargetAction::Create(manifest) | TargetAction::Recreate { manifest, .. } => self.put(manifest, true),
            TargetAction::Replace { manifest, .. } => self.put(manifest, false),
            TargetAction::Merge { manifest, .. } => self.merge(manifest),
            TargetAction::Delete { .. } => self.target = None,
        }
        if plan.remove.is_some() {
            self.old_target = None;
        }
        plan.rolled(rolled, &self.object, &self.status, at(self.now));
        self.status = plan.status.clone();
        plan
    }

    /// As a server-side apply of the object's own field manager.
    pub(super) fn merge(&mut self, manifest: &Manifest) {
        self.version += 1;
        let manager = merger(&self.object.id);
        let target = self.target.as_mut().unwrap();
        for key in target.managers.remove(&manager).unwrap_or_default() {
            target.data.remove(&key);
        }
        target.labels.extend(manifest.labels.clone());
        target.data.extend(manifest.data.clone());
        target.managers.insert(manager, manifest.data.keys().cloned().collect());
        target.resource_version = self.version.to_string();
        self.written = Some(version(target));
    }

    pub(super) fn put(&mut self, manifest: &Manifest, new: bool) {
        self.version += 1;
        let uid = if new { format!("t{}", self.version) } else { self.target.as_ref().unwrap().uid.clone() };
        self.target = Some(Target {
            name: manifest.name.clone(),
            uid: uid.clone(),
            resource_version: self.version.to_string(),
            r#type: manifest.r#type.clone(),
            labels: manifest.labels.clone(),
            annotations: manifest.annotations.clone(),
            owners: manifest.owners.clone(),
            data: manifest.data.clone(),
            finalizers: manifest.finalizers.clone(),
            immutable: manifest.immutable,
            deleting: false,
            managers: BTreeMap::new(),
        });
        self.written = Some(Version { uid, resource_version: self.version.to_string() });
    }

    /// Carries the plan out; planning again must then ask for nothing.
    pub(super) fn settle(&mut self) -> Plan {
        let plan = self.step();
        let again = self.plan();
        assert_eq!(again.target, TargetAction::Keep, "planning again asks for a write");
        assert_eq!(again.status, self.status, "planning again changes the status");
        assert!(again.events.is_empty(), "planning again says {:?}", again.events);
        plan
    }

    pub(super) fn data(&self) -> BTreeMap<String, String> {
        let data = self.target.as_ref().map(|target| target.data.clone()).unwrap_or_default();
        data.into_iter().map(|(key, value)| (key, String::from_utf8(value.to_vec()).unwrap())).collect()
    }

    pub(super) fn ready(&self) -> bool {
        conditions::is_ready(&self.status.conditions)
    }

    pub(super) fn reason(&self) -> &str {
        &conditions::ready(&self.status.conditions).unwrap().reason
    }

    pub(super) fn message(&self) -> &str {
        &conditions::ready(&self.status.conditions).unwrap().message
    }
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
