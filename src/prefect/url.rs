//! The base address of one Prefect API, from whatever a user is likely to write.

use std::fmt;

use thiserror::Error;
use url::Url;

const CLOUD_DOMAIN: &str = "prefect.cloud";
const CLOUD_BROWSER_HOST: &str = "app.prefect.cloud";
const CLOUD_API_HOST: &str = "api.prefect.cloud";

/// First path segments of the pages of Prefect's own web interface (2 and 3).
const PAGES: &[&str] = &[
    "artifacts",
    "automations",
    "blocks",
    "concurrency-limits",
    "dashboard",
    "deployments",
    "event-feed",
    "events",
    "flow-runs",
    "flows",
    "login",
    "notifications",
    "runs",
    "settings",
    "task-runs",
    "variables",
    "work-pools",
    "work-queues",
];

/// Endpoints below "/api" that people open in a browser to see whether the server answers.
const API_PAGES: &[&str] = &["admin", "docs", "health", "hello", "ready", "version"];

/// Parsed, normalised base address of one Prefect API: `…/api` or
/// `…/api/accounts/A/workspaces/W`, without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiUrl {
    url: Url,
    host: String,
    cloud: bool,
}

/// Why a text is no address of a Prefect API. The text itself is never repeated: it may hold
/// credentials.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Nothing but white space.
    #[error("the API address is empty; give what PREFECT_API_URL holds, such as http://prefect:4200/api")]
    Empty,
    /// No URL at all.
    #[error("the API address is not a URL; give what PREFECT_API_URL holds, such as http://prefect:4200/api")]
    Unparsable,
    /// A scheme other than `http` and `https`, or none.
    #[error("the API address must start with http:// or https://")]
    NotHttp,
    /// User name or password in the address.
    #[error("the API address holds a user name or password; leave it out and set authString instead")]
    HasCredentials,
    /// A Cloud address that names no workspace, and no ids beside it.
    #[error("Prefect Cloud needs accountId and workspaceId; both are in the browser's address")]
    CloudNeedsWorkspace,
    /// One of the two ids without the other.
    #[error("accountId and workspaceId belong together; set both, or neither")]
    OnlyOneId,
    /// An id with characters that no id has.
    #[error(
        "accountId or workspaceId is not an id; copy both from the browser's address \
         (…/account/ACCOUNT_ID/workspace/WORKSPACE_ID)"
    )]
    BadId,
    /// The address names one workspace, the ids another.
    #[error(
        "the API address names another account or workspace than accountId and workspaceId; \
         leave the ids out, or correct one of them"
    )]
    ConflictingIds,
}

/// What the path of an address says.
struct PathParts<'a> {
    /// Segments in front of Prefect's own, `api` not included.
    prefix: &'a [&'a str],
    account: Option<&'a str>,
    workspace: Option<&'a str>,
}

impl ApiUrl {
    /// Normalises `text`: what `PREFECT_API_URL` may hold, with or without `/api`, or the address
    /// that the browser shows. Query and fragment are dropped. The ids may come from the address,
    /// from the two arguments, or from both if they agree; an empty id counts as none.
    ///
    /// # Errors
    /// One [`UrlError`] a mistake; each says what to write instead.
    pub fn parse(text: &str, account_id: Option<&str>, workspace_id: Option<&str>) -> Result<ApiUrl, UrlError> {
        let ids = given_ids(account_id, workspace_id)?;
        let mut url = parse_http(text)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let cloud = is_cloud_host(&host);

        let path = url.path().to_owned();
        let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let parts = read_path(&segments, cloud);
        let ids = merge_ids(ids, &parts)?;
        if cloud && ids.is_none() {
            return Err(UrlError::CloudNeedsWorkspace);
        }

        let prefix = if cloud { &[] } else { parts.prefix };
        let mut base: String = prefix.iter().flat_map(|part| ["/", part]).collect();
        base.push_str("/api");
        if let Some((account, workspace)) = ids {
            base.push_str(&format!("/accounts/{account}/workspaces/{workspace}"));
        }
        url.set_path(&base);
        if cloud {
            // Cloud has no plain HTTP: it would carry the key in clear before it redirects.
            url.set_scheme("https").map_err(|()| UrlError::NotHttp)?;
            if host == CLOUD_BROWSER_HOST {
                url.set_host(Some(CLOUD_API_HOST)).map_err(|_| UrlError::Unparsable)?;
            }
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        Ok(ApiUrl { url, host, cloud })
    }

    /// The address of Prefect 1's API, such as `https://api.prefect.io`: its requests go to the address itself.
    ///
    /// # Errors
    /// As [`ApiUrl::parse`].
    pub fn parse_prefect1(text: &str) -> Result<ApiUrl, UrlError> {
        let url = parse_http(text)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        Ok(ApiUrl { url, host, cloud: false })
    }

    /// The host name only, lower case; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host name, with the port if the address has one that is not the scheme's own:
    /// `prefect:4200`, `api.prefect.cloud`.
    pub fn host_and_port(&self) -> String {
        match self.url.port() {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// What limits on requests are counted by: scheme, host, port, and the account where the address names one.
    pub fn host_and_account(&self) -> String {
        let mut segments = self.url.path_segments().into_iter().flatten();
        let account = segments.find(|segment| *segment == "accounts").and_then(|_| segments.next());
        format!("{}://{}/{}", self.url.scheme(), self.host_and_port(), account.unwrap_or_default())
    }

    /// Whether this is Prefect Cloud: `prefect.cloud` or a name below it.
    pub fn is_cloud(&self) -> bool {
        self.cloud
    }

    /// The whole address, without a trailing slash.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Whether the host is the machine itself, which inside a pod is the pod.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// Whether requests go over TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The address of an endpoint. Each segment is percent-encoded as a whole, so that a name
    /// can't leave its place in the path.
    pub(crate) fn endpoint(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn parse_http(text: &str) -> Result<Url, UrlError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(UrlError::Empty);
    }
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => UrlError::NotHttp,
        _ => UrlError::Unparsable,
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::NotHttp);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::HasCredentials);
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn is_cloud_host(host: &str) -> bool {
    host.strip_suffix(CLOUD_DOMAIN).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

type Ids = Option<(String, String)>;

fn given_ids(account: Option<&str>, workspace: Option<&str>) -> Result<Ids, UrlError> {
    let given = |id: Option<&str>| id.map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned);
    match (given(account), given(workspace)) {
        (None, None) => Ok(None),
        (Some(account), Some(workspace)) if is_id(&account) && is_id(&workspace) => Ok(Some((account, workspace))),
        (Some(_), Some(_)) => Err(UrlError::BadId),
        _ => Err(UrlError::OnlyOneId),
    }
}

/// The ids of the address and those beside it, which must not contradict each other.
fn merge_ids(given: Ids, path: &PathParts<'_>) -> Result<Ids, UrlError> {
    if [path.account, path.workspace].into_iter().flatten().any(|id| !is_id(id)) {
        return Err(UrlError::BadId);
    }
    let Some((account, workspace)) = given else {
        return Ok(match (path.account, path.workspace) {
            (Some(account), Some(workspace)) => Some((account.to_owned(), workspace.to_owned())),
            _ => None,
        });
    };
    let differs = |named: Option<&str>, id: &str| named.is_some_and(|named| !named.eq_ignore_ascii_case(id));
    if differs(path.account, &account) || differs(path.workspace, &workspace) {
        return Err(UrlError::ConflictingIds);
    }
    Ok(Some((account, workspace)))
}

fn read_path<'a>(segments: &'a [&'a str], cloud: bool) -> PathParts<'a> {
    let without_api = |prefix: &'a [&'a str]| match prefix {
        [rest @ .., "api"] => rest,
        _ => prefix,
    };
    // The API says accounts/A/workspaces/W, the browser account/A/workspace/W.
    for at in 0..segments.len() {
        let (account, workspace) = match &segments[at..] {
            ["accounts" | "account", account, "workspaces" | "workspace", workspace, ..] => {
                (*account, Some(*workspace))
            }
            // Cloud's pages of a whole account. Elsewhere it is a prefix like any other.
            ["accounts" | "account", account, ..] if cloud => (*account, None),
            _ => continue,
        };
        return PathParts { prefix: without_api(&segments[..at]), account: Some(account), workspace };
    }
    let prefix = match segments.last() {
        // An address that ends in /api is already a base, whatever stands in front.
        Some(&"api") => segments,
        _ => &segments[..page_start(segments)],
    };
    PathParts { prefix: without_api(prefix), account: None, workspace: None }
}

/// Where the address of a page begins, or the number of segments if it is none.
fn page_start(segments: &[&str]) -> usize {
    let is_page = |segment: &&str| PAGES.contains(segment);
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1);
        if is_page(segment) || (*segment == "v2" && next.is_none_or(is_page)) {
            return at;
        }
        if *segment == "api" && next.is_some_and(|next| API_PAGES.contains(next)) {
            return at;
        }
    }
    segments.len()
}
