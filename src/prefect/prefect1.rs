//! Prefect 1 Cloud: its GraphQL, as far as its client asks for secrets and key-value pairs. All of it reads.
//!
//! Requests are those of the client 1.4.1, word for word but for white space: there is no server left to try others on.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::budget::Lane;
use super::transport::{Connection, Transport};
use super::{ApiUrl, Error, ErrorKind};

const TENANT: HeaderName = HeaderName::from_static("x-prefect-tenant-id");
const VERSION: HeaderName = HeaderName::from_static("x-prefect-core-version");
/// The client whose requests these are.
const CORE_VERSION: HeaderValue = HeaderValue::from_static("1.4.1");

/// The words of a refusal for want of the secret.
const NO_SECRET: &str = "No value found for the requested key";

/// One connection to Prefect 1 Cloud. Cheap to clone. `Debug` shows the address only.
#[derive(Clone)]
pub struct Prefect1Client {
    transport: Arc<Transport>,
    lane: Lane,
    /// The tenant that is named in each request; without it Prefect takes the key's own.
    tenant: Option<HeaderValue>,
}

impl fmt::Debug for Prefect1Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefect1Client").field("url", &self.url().as_str()).finish_non_exhaustive()
    }
}

/// What GraphQL answers.
#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    errors: Option<Vec<Problem<'a>>>,
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct AuthInfo {
    #[serde(rename = "auth_info")]
    _auth_info: IgnoredAny,
}

#[derive(Deserialize)]
struct SecretValue<'a> {
    #[serde(borrow)]
    secret_value: &'a RawValue,
}

#[derive(Deserialize)]
struct SecretNames {
    secret_names: Vec<String>,
}

#[derive(Deserialize)]
struct KeyValues<'a> {
    #[serde(borrow)]
    key_value: Vec<KeyValue<'a>>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct Keys {
    key_value: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

impl Prefect1Client {
    /// Prepares a connection; nothing is sent yet. Without `tenant` it is the key's own.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], as for [`Client::new`](super::Client::new).
    pub fn new(connection: Connection, tenant: Option<&str>) -> Result<Self, Error> {
        let transport = Transport::new(connection)?;
        let tenant = tenant.map(HeaderValue::from_str).transpose().map_err(|_| {
            let hint = "prefect1.tenantId holds characters that no id has";
            transport.error("connect", ErrorKind::Configuration { hint })
        })?;
        Ok(Self { transport: Arc::new(transport), lane: Lane::Foreground, tenant })
    }

    /// The same connection for work that nobody waits for.
    #[must_use]
    pub fn background(&self) -> Self {
        Self { lane: Lane::Background, ..self.clone() }
    }

    /// Changes whenever a server that was given up is found to be back, whoever found out.
    #[must_use]
    pub fn recoveries(&self) -> watch::Receiver<u64> {
        self.transport.recoveries()
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &ApiUrl {
        self.transport.url()
    }

    /// Proves that this is Prefect 1's API and that the key works.
    ///
    /// # Errors
    /// As all: an [`Error`] of one of the [`ErrorKind`]s.
    pub async fn check(&self) -> Result<(), Error> {
        let doing = "check the connection";
        let Some(data) = self.ask(doing, "query { auth_info { tenant_id } }", NOTHING).await? else {
            return Err(self.transport.error(doing, ErrorKind::NotPrefectApi));
        };
        self.parse::<AuthInfo>(doing, &data).map(|_| ())
    }

    /// The raw JSON of a secret; `None` only where Prefect says in its exact words that there is none.
    ///
    /// # Errors
    /// As all.
    pub async fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let doing = "read secrets";
        let query = "query($name: String!) { secret_value(name: $name) }";
        let Some(data) = self.ask(doing, query, &json!({ "name": name }).to_string()).await? else { return Ok(None) };
        let found: SecretValue<'_> = self.parse(doing, &data)?;
        Ok(Some(Zeroizing::new(found.secret_value.get().to_owned())))
    }

    /// The raw JSON of a key-value pair; `None` where there is none of that key.
    ///
    /// # Errors
    /// As all.
    pub async fn key_value(&self, key: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let doing = "read key-value pairs";
        // GraphQL's strings are written as JSON's.
        let query = format!("query {{ key_value(where: {{ key: {{ _eq: {} }} }}) {{ value }} }}", json!(key));
        let Some(data) = self.ask(doing, &query, NOTHING).await? else { return Ok(None) };
        let found: KeyValues<'_> = self.parse(doing, &data)?;
        Ok(found.key_value.first().map(|found| Zeroizing::new(found.value.get().to_owned())))
    }

    /// The names of all secrets.
    ///
    /// # Errors
    /// As all.
    pub async fn secret_names(&self) -> Result<Vec<String>, Error> {
        let doing = "list secrets";
        let Some(data) = self.ask(doing, "query { secret_names }", NOTHING).await? else { return Ok(Vec::new()) };
        let found: SecretNames = self.parse(doing, &data)?;
        Ok(found.secret_names)
    }

    /// The keys of all key-value pairs.
    ///
    /// # Errors
    /// As all.
    pub async fn keys(&self) -> Result<Vec<String>, Error> {
        let doing = "list key-value pairs";
        let Some(data) = self.ask(doing, "query { key_value { key } }", NOTHING).await? else { return Ok(Vec::new()) };
        let found: Keys = self.parse(doing, &data)?;
        Ok(found.key_value.into_iter().map(|found| found.key).collect())
    }

    /// The `data` of the answer, as raw JSON; `None` where Prefect says that there is no such secret.
    async fn ask(&self, doing: &str, query: &str, variables: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let mut headers = HeaderMap::from_iter([(VERSION, CORE_VERSION)]);
        headers.extend(self.tenant.iter().map(|tenant| (TENANT, tenant.clone())));
        let body = json!({ "query": query, "variables": variables });
        let answer = self.transport.post_root(self.lane, doing, headers, &body).await?;
        let not_prefect = || self.transport.error(doing, ErrorKind::NotPrefectApi);
        // What GraphQL can't do it says with 200 or with 400.
        let is_graphql = matches!(answer.status, StatusCode::OK | StatusCode::BAD_REQUEST);
        let response: Response<'_> = match answer.json().filter(|_| is_graphql) {
            Some(response) => response,
            None => {
                let problem = self.transport.parse::<IgnoredAny>(doing, &answer).err();
                return Err(problem.unwrap_or_else(not_prefect));
            }
        };
        let errors = response.errors.unwrap_or_default();
        let says = |words: &str| errors.iter().any(|error| error.message.contains(words));
        match response.data {
            _ if says(NO_SECRET) => Ok(None),
            _ if says("UNAUTHENTICATED") || says("Malformed Authorization header") => {
                Err(self.transport.error(doing, ErrorKind::Unauthorized))
            }
            Some(data) if errors.is_empty() => Ok(Some(Zeroizing::new(data.get().to_owned()))),
            _ if errors.is_empty() => Err(not_prefect()),
            _ => Err(self.transport.error(doing, ErrorKind::Rejected { status: 400 })),
        }
    }

    fn parse<'a, T: Deserialize<'a>>(&self, doing: &str, data: &'a str) -> Result<T, Error> {
        // serde's words would quote the data.
        serde_json::from_str(data).map_err(|_| self.transport.error(doing, ErrorKind::Malformed))
    }
}

/// The client sends this where a query has no variables.
const NOTHING: &str = "null";
