//! The one list of reasons that conditions, entries and events use.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition is as it is: one reason a cause.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The word as it stands in a condition.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// What it means, in a sentence; the same text as in `deploy/docs/conditions.md`.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Everything is as asked for.
    Synced,
    /// Prefect answers and the credentials work (workspaces); a workspace with `local` alone has been read.
    Connected,
    /// Something changed and is being worked on.
    Progressing,
    /// `spec.suspend` is true: nothing is read or written.
    Suspended,
    /// The stored object does not fit the current types; it is left alone until it is mended.
    ObjectInvalid,
    /// There is no workspace of that name.
    WorkspaceNotFound,
    /// The workspace exists, but its specification can't be used.
    WorkspaceInvalid,
    /// A Secret or ConfigMap that the workspace names does not exist, or lacks the key.
    CredentialsNotFound,
    /// A Secret or ConfigMap that the workspace names does not carry the label that offers it to workspaces.
    NotOffered,
    /// Prefect answered 401 or 403 to the credentials.
    CredentialsRefused,
    /// The namespace may not read the key through that ClusterPrefectWorkspace, whether it exists or not.
    NotAllowed,
    /// The operator works in some namespaces only, or its CRDs are older, and reads no ClusterPrefectWorkspace.
    ClusterWorkspacesOff,
    /// Another workspace than before is read.
    WorkspaceChanged,
    /// The host is not in the operator's list of allowed hosts.
    HostNotAllowed,
    /// Something answered, but not as Prefect's API.
    NotPrefectApi,
    /// Prefect Cloud was named without account and workspace.
    CloudNeedsWorkspace,
    /// Prefect can't be reached, or answers with server errors.
    PrefectUnreachable,
    /// Prefect says that there are too many requests.
    PrefectThrottled,
    /// Prefect refused to answer for this key, or its answer was too large.
    PrefectRejected,
    /// The workspace's config.toml can't be parsed.
    LocalInvalid,
    /// Prefect 1 has nothing of the kind: only secrets and, in its Cloud, key-value pairs.
    NotInPrefect1,
    /// Prefect confirmed that there is no such block or variable, or the local secrets hold none of that name.
    KeyNotFound,
    /// The name is a variable's, not a block's.
    IsAVariable,
    /// There is no such block type.
    BlockTypeNotFound,
    /// The value has nothing at that property.
    PropertyNotFound,
    /// `property` is no path, such as `a.b[0].c`.
    PropertyInvalid,
    /// The value is no JSON, so there is nothing to look into with `property`.
    NotJson,
    /// Prefect returned asterisks: the key may not see secret values.
    ValueMasked,
    /// The value can't be delivered, such as text that is no valid Unicode.
    ValueInvalid,
    /// No block or variable matches `find`.
    NothingFound,
    /// A name that `dataFrom` found becomes no legal key.
    KeyInvalid,
    /// Two names of one item of `dataFrom` become the same key.
    KeyClash,
    /// A regular expression is none.
    RegexpInvalid,
    /// The value is not what `decoding` says.
    DecodingFailed,
    /// A template can't be understood.
    TemplateInvalid,
    /// A template can't be rendered with the values that there are.
    TemplateFailed,
    /// The entries can't be laid out in the format that is asked for.
    FormatFailed,
    /// Most of what the workspace delivered vanished together, as when a database is emptied: nothing is removed.
    KeysVanished,
    /// The values together are larger than the 1 MiB that Kubernetes allows.
    TargetTooLarge,
    /// There is no Secret or ConfigMap of the target's name to merge keys into.
    TargetNotFound,
    /// A Secret or ConfigMap of the target's name exists and belongs to someone else.
    TargetConflict,
    /// The API server refused the target.
    TargetRefused,
    /// The target was replaced, because what changed can't be changed in place.
    TargetReplaced,
    /// The target was edited or deleted by someone, and has been put back.
    DriftRepaired,
    /// A target that was no longer asked for was removed.
    TargetRemoved,
    /// A workload was restarted, because content that it uses changed.
    Restarted,
    /// A workload could not be restarted.
    RestartFailed,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Reason {
    /// Whether trying again can't help until the object, its credentials or the target change: kstatus' `Stalled`.
    #[must_use]
    pub fn is_stalled(self) -> bool {
        matches!(
            self,
            Self::ObjectInvalid
                | Self::WorkspaceInvalid
                | Self::CredentialsNotFound
                | Self::NotOffered
                | Self::CredentialsRefused
                | Self::NotAllowed
                | Self::ClusterWorkspacesOff
                | Self::HostNotAllowed
                | Self::CloudNeedsWorkspace
                | Self::LocalInvalid
                | Self::NotInPrefect1
                | Self::PropertyInvalid
                | Self::RegexpInvalid
                | Self::TemplateInvalid
                | Self::TargetTooLarge
                | Self::TargetNotFound
                | Self::TargetConflict
                | Self::TargetRefused
        )
    }
}
