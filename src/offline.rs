//! Objects from files, and their workspaces, without a cluster: what `render` shows and `exec` runs with.
//!
//! Objects, the workspaces, Secrets and ConfigMaps that they use are read from files; a workspace that no file has is
//! found as Prefect's own client finds its server. The plan is the operator's own, for a target that does not exist.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{ClusterPrefectWorkspace, CreationPolicy, PrefectKV, PrefectSecret, PrefectWorkspace, SyncStatus};
use crate::controllers::Options;
use crate::controllers::credentials::{Above, Named, gather, gather_over};
use crate::controllers::errors::Error;
use crate::controllers::kind::{SyncKind as _, WorkspaceResource as _, place};
use crate::prefect::{ApiUrl, Auth, Budget, Client, Connection, LocalSecrets, discover};
use crate::sync::access::{Labels, Tenant, Tenants};
use crate::sync::interest::Interest;
use crate::sync::object::WorkspaceKey;
use crate::sync::plan::{NOT_WRITTEN, Observed, WorkspaceView, plan, whole_seconds};
use crate::sync::snapshot::{Numbers, Snapshot, Times};
use crate::sync::{
    Access, Dependent, Failure, Manifest, Object, Plan, Reading, RemoteKey, TargetAction, Timestamp, conditions,
};
use crate::workspace::failure::Credentials;
use crate::workspace::reader::Pass;
use crate::workspace::{Reader, Setup};

/// The label that every namespace has of itself.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// One object and what it would become.
pub struct Outcome {
    /// The object.
    pub object: Object,
    /// The operator's plan for a target that does not exist.
    pub plan: Plan,
}

/// What was found out about objects in files.
pub struct Found {
    /// Each workspace that they use: the version that its server says it is, or why it can't be read.
    pub workspaces: Vec<(WorkspaceKey, Result<Option<String>, Failure>)>,
    /// What the objects would become, in the order of the files.
    pub outcomes: Vec<Outcome>,
}

/// What the objects in the files would become, in the order of the files.
///
/// # Errors
/// When the files can't be read, or no workspace is to be found.
pub async fn outcomes(paths: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Outcome>> {
    Ok(read(paths).await?.outcomes)
}

/// The same, with what their workspaces say.
///
/// # Errors
/// When the files can't be read, or no workspace is to be found.
pub async fn read(paths: &[impl AsRef<Path>]) -> anyhow::Result<Found> {
    let files = Files::read(paths)?;
    ensure!(!files.objects.is_empty(), "no PrefectSecret and no PrefectKV in the files given with -f");
    let mut tenants = files.tenants();
    let mut by_workspace: BTreeMap<&WorkspaceKey, Vec<&Object>> = BTreeMap::new();
    // One that is wrong in itself needs no workspace to say so.
    for object in files.objects.iter().filter(|object| object.validate().is_ok()) {
        by_workspace.entry(&object.workspace).or_default().push(object);
    }
    let now = whole_seconds(Timestamp::now());
    let mut readings = BTreeMap::new();
    for (key, objects) in by_workspace {
        readings.insert(key.clone(), files.read_workspace(key, &objects, &mut tenants, now).await?);
    }
    let nothing = Readings::default();
    let outcome = |object: &Object| {
        let plan = readings.get(&object.workspace).unwrap_or(&nothing).plan(object, now);
        Outcome { object: object.clone(), plan }
    };
    let outcomes = files.objects.iter().map(outcome).collect();
    let checked = |readings: Readings| match readings.outage {
        Some(failure) => Err(failure),
        None => Ok(readings.version),
    };
    Ok(Found { outcomes, workspaces: readings.into_iter().map(|(key, readings)| (key, checked(readings))).collect() })
}

impl Outcome {
    /// The target, if there would be one.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.plan.target {
            TargetAction::Create(manifest) => Some(manifest),
            _ => None,
        }
    }

    /// What is wrong, one line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let name = format!("{}/{}", self.object.id.kind.as_str(), self.object.id.name);
        let entries = self.plan.status.entries.iter();
        let mut problems: Vec<String> =
            entries.filter_map(|entry| Some(format!("{name} {}: {}", entry.key, entry.message.as_ref()?))).collect();
        if let Some(ready) = conditions::ready(&self.plan.status.conditions)
            && ready.status != "True"
            && problems.is_empty()
        {
            let message = ready.message.trim_end_matches(NOT_WRITTEN).trim_end().trim_end_matches('.');
            problems.push(format!("{name}: {message}"));
        }
        problems
    }
}

/// What the files hold.
#[derive(Default)]
struct Files {
    objects: Vec<Object>,
    workspaces: BTreeMap<(String, String), PrefectWorkspace>,
    cluster_workspaces: BTreeMap<String, ClusterPrefectWorkspace>,
    namespaces: BTreeMap<String, Labels>,
    secrets: BTreeMap<(String, String), Secret>,
    config_maps: BTreeMap<(String, String), ConfigMap>,
}

/// What a workspace said.
#[derive(Default)]
struct Readings {
    outage: Option<Failure>,
    version: Option<String>,
    snapshot: Snapshot,
    /// Keys that an object may not read.
    refused: BTreeMap<Dependent, Vec<(RemoteKey, Reading)>>,
}

impl Readings {
    /// What the operator would do where no target exists. Whether one is suspended or merged into another's target
    /// makes no difference here.
    fn plan(&self, object: &Object, now: Timestamp) -> Plan {
        let mut readings = self.snapshot.readings(&object.id);
        readings.extend(self.refused.get(&object.id).into_iter().flatten().cloned());
        let view = self.outage.as_ref().map_or(WorkspaceView::Usable, WorkspaceView::Unusable);
        let observed = Observed {
            object: &Object { suspend: false, creation_policy: CreationPolicy::Owner, created: None, ..object.clone() },
            previous: &SyncStatus::default(),
            workspace: view,
            stale_after: Duration::ZERO,
            readings: &readings,
            target: None,
            old_target: None,
            written: None,
            started: now,
            refreshed: None,
        };
        plan(&observed, now)
    }
}

impl Files {
    fn read(paths: &[impl AsRef<Path>]) -> anyhow::Result<Self> {
        let mut files = Self::default();
        for path in paths {
            let path = path.as_ref();
            let name = path.display();
            let mut text = String::new();
            if path == Path::new("-") {
                std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            } else {
                text = std::fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
            }
            // The error's own text would quote the file, and files may hold Secrets.
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
                let place = error.location().map_or_else(String::new, |at| format!(", line {}", at.line()));
                anyhow::anyhow!("{name}{place}: no YAML")
            })?;
            for (number, document) in documents.into_iter().enumerate() {
                if document.is_null() {
                    continue;
                }
                files.add(document).with_context(|| format!("{name}, document {}", number + 1))?;
            }
        }
        let objects = std::mem::take(&mut files.objects);
        files.objects =
            objects.into_iter().map(|object| object.with_default_workspace(|key| files.has_workspace(key))).collect();
        Ok(files)
    }

    fn add(&mut self, mut document: Value) -> anyhow::Result<()> {
        if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.entry("namespace").or_insert_with(|| "default".into());
        }
        let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "PrefectSecret" => self.objects.push(parse::<PrefectSecret>(document)?.object()),
            "PrefectKV" => self.objects.push(parse::<PrefectKV>(document)?.object()),
            "PrefectWorkspace" => {
                let workspace: PrefectWorkspace = parse(document)?;
                self.workspaces.insert(place(&workspace), workspace);
            }
            "ClusterPrefectWorkspace" => {
                let workspace: ClusterPrefectWorkspace = parse(document)?;
                self.cluster_workspaces.insert(workspace.name_any(), workspace);
            }
            "Namespace" => {
                let namespace: Namespace = parse(document)?;
                let mut labels = namespace.labels().clone();
                labels.insert(NAME_LABEL.to_owned(), namespace.name_any());
                self.namespaces.insert(namespace.name_any(), labels);
            }
            "Secret" => {
                let mut secret: Secret = serde_json::from_value(document)
                    .map_err(|_| anyhow::anyhow!("this Secret is not of the expected shape"))?;
                let text = secret.string_data.take().unwrap_or_default();
                let data = secret.data.get_or_insert_default();
                data.extend(text.into_iter().map(|(key, value)| (key, k8s_openapi::ByteString(value.into_bytes()))));
                self.secrets.insert((secret.namespace().unwrap_or_default(), secret.name_any()), secret);
            }
            "ConfigMap" => {
                let map: ConfigMap =
                    serde_json::from_value(document).context("this ConfigMap is not of the expected shape")?;
                self.config_maps.insert((map.namespace().unwrap_or_default(), map.name_any()), map);
            }
            // Files of a whole application may be given.
            _ => {}
        }
        Ok(())
    }

    fn has_workspace(&self, key: &WorkspaceKey) -> bool {
        if key.is_cluster() {
            return self.cluster_workspaces.contains_key(&key.name);
        }
        self.workspaces.contains_key(&(key.namespace.clone(), key.name.clone()))
    }

    /// Who may use the cluster's workspaces. A namespace that no file has is one with the label that all have.
    fn tenants(&self) -> Tenants {
        let mut namespaces = self.namespaces.clone();
        for Object { id: Dependent { namespace, .. }, .. } in &self.objects {
            let own = || Labels::from([(NAME_LABEL.to_owned(), namespace.clone())]);
            namespaces.entry(namespace.clone()).or_insert_with(own);
        }
        let mut tenants = Tenants::default();
        tenants.set_namespaces(namespaces, Vec::new());
        for (name, workspace) in &self.cluster_workspaces {
            tenants.set_rules(name, Some(&workspace.spec.access), Vec::new());
        }
        tenants
    }

    /// What reads a workspace, and the ClusterPrefectWorkspace whose rules hold.
    async fn setup(&self, key: &WorkspaceKey, now: Timestamp) -> anyhow::Result<(Setup, Option<String>)> {
        let options = Options::default();
        if key.is_cluster() {
            let Some(workspace) = self.cluster_workspaces.get(&key.name) else {
                return Ok((Setup::Usable { reader: Box::new(discovered(key)?), interval: Duration::ZERO }, None));
            };
            return Ok((gather(&workspace.subject(""), self, &options, now).await?.setup, Some(key.name.clone())));
        }
        let Some(workspace) = self.workspaces.get(&(key.namespace.clone(), key.name.clone())) else {
            return Ok((Setup::Usable { reader: Box::new(discovered(key)?), interval: Duration::ZERO }, None));
        };
        let subject = workspace.subject(&key.namespace);
        let Some(parent) = workspace.parent() else {
            return Ok((gather(&subject, self, &options, now).await?.setup, None));
        };
        let Some(above) = self.cluster_workspaces.get(parent) else {
            bail!("ClusterPrefectWorkspace {parent}, the parent of {key}, is in none of the files");
        };
        let above = above.subject("");
        let above = Above { name: parent, subject: Ok(&above), is_allowed: true };
        let gathered = gather_over(&above, &subject, self, &options, now).await?;
        Ok((gathered.setup, Some(parent.to_owned())))
    }

    async fn read_workspace(
        &self,
        key: &WorkspaceKey,
        objects: &[&Object],
        tenants: &mut Tenants,
        now: Timestamp,
    ) -> anyhow::Result<Readings> {
        let (setup, ruled_by) = self.setup(key, now).await?;
        let reader = match setup {
            Setup::Usable { reader, .. } => reader,
            Setup::Unusable(failure) => return Ok(Readings { outage: Some(failure), ..Readings::default() }),
        };
        let version = match reader.check(now).await {
            Ok(version) => version,
            Err(failure) => return Ok(Readings { outage: Some(failure), ..Readings::default() }),
        };
        let mut snapshot = Snapshot::default();
        let mut refused = BTreeMap::new();
        for object in objects {
            let mut interest = Interest::of(object, &SyncStatus::default());
            if let Some(workspace) = &ruled_by {
                let tenant = Tenant { workspace: workspace.clone(), namespace: object.id.namespace.clone() };
                let access = tenants.access(&tenant).unwrap_or_else(Access::nothing);
                let access =
                    if key.is_cluster() { access } else { access.under(reader.own.clone().unwrap_or_default()) };
                let others = interest.limit(access.clone());
                refused.insert(object.id.clone(), access.refusals(&others, now).collect());
            }
            snapshot.observe(&object.id, interest);
        }
        let (pass, questions) = snapshot.begin_pass(&snapshot.unread().clone());
        let Pass { reads, outage, .. } = reader.read(&questions, false, now).await;
        let explained = reader.explain(&snapshot.unexplained(&reads)).await;
        let times = Times { asked: now, answered: now, at: Duration::ZERO };
        snapshot.merge(&Numbers::only(pass), reads, explained, times, Duration::ZERO);
        Ok(Readings { outage, version, snapshot, refused })
    }
}

/// The error's own text may quote values of a Secret; those of our kinds hold none.
fn parse<T: DeserializeOwned + kube::Resource<DynamicType = ()>>(document: Value) -> anyhow::Result<T> {
    serde_json::from_value(document).with_context(|| format!("this is no {}", T::kind(&())))
}

/// The workspace as Prefect's own client would find it on this machine.
fn discovered(key: &WorkspaceKey) -> anyhow::Result<Reader> {
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let found = discover(&|name| std::env::var(name).ok(), home.as_deref())?;
    let mut reader = Reader::default();
    if let Some(path) = &found.config_toml {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        reader.local = Some(Arc::new(
            LocalSecrets::parse(&text).with_context(|| format!("{} is no config.toml", path.display()))?,
        ));
    }
    if let Some(url) = &found.url {
        let url = ApiUrl::parse(url, None, None).with_context(|| format!("PREFECT_API_URL from {}", found.source))?;
        let auth = match (found.api_key, found.auth_string) {
            (Some(api_key), _) => {
                reader.credentials = Credentials::ApiKey(format!("PREFECT_API_KEY from {}", found.source));
                Auth::ApiKey(api_key)
            }
            (None, Some(auth_string)) => {
                reader.credentials = Credentials::AuthString(format!("PREFECT_API_AUTH_STRING from {}", found.source));
                Auth::AuthString(auth_string)
            }
            (None, None) => Auth::None,
        };
        reader.client = Some(Client::new(Connection { budget: Budget::unlimited(&url), url, auth, ca_bundle: None })?);
    }
    ensure!(
        reader.client.is_some() || reader.local.is_some(),
        "{key} is in none of the files, and there is no PREFECT_API_URL, no active profile and no config.toml: give the workspace's file with -f, or set PREFECT_API_URL"
    );
    Ok(reader)
}

impl Named for Files {
    async fn offered(&self, kind: &str, namespace: &str) -> Vec<String> {
        let of = |(place, name): &(String, String)| (place == namespace).then(|| name.clone());
        if kind == "Secret" {
            self.secrets.keys().filter_map(of).collect()
        } else {
            self.config_maps.keys().filter_map(of).collect()
        }
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
        Ok(self.secrets.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Error> {
        Ok(self.config_maps.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }
}
