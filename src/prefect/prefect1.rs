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
    #[serde(borrow, default)]
    extensions: Option<Extensions<'a>>,
}

#[derive(Deserialize)]
struct Extensions<'a> {
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
}

impl Problem<'_> {
    /// As the real client tells it.
    fn is_unauthenticated(&self) -> bool {
        let code = self.extensions.as_ref().and_then(|extensions| extensions.code.as_deref());
        code == Some("UNAUTHENTICATED")
            || self.message.contains("UNAUTHENTICATED")
            || self.message.contains("Malformed Authorization header")
    }
}

/// Why there is no `data`.
enum Refused {
    /// Prefect says in its exact words, and says nothing else, that there is no such secret.
    NoSecret,
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[derive(Deserialize)]
struct AuthInfo {
    #[serde(rename = "auth_info")]
    _auth_info: Tenant,
}

#[derive(Deserialize)]
struct Tenant {
    #[serde(rename = "tenant_id")]
    _tenant_id: String,
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
        // As the real client asks it: while it knows no tenant.
        let data = self.ask(doing, "query { auth_info { tenant_id } }", NOTHING, None).await?;
        self.parse::<AuthInfo>(doing, &data).map(|_| ())
    }

    /// The raw JSON of a secret; `None` only where Prefect says in its exact words that there is none.
    ///
    /// # Errors
    /// As all.
    pub async fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let doing = "read secrets";
        let query = "query($name: String!) { secret_value(name: $name) }";
        let variables = json!({ "name": name }).to_string();
        let data = match self.send(doing, query, &variables, self.tenant.as_ref()).await {
            Ok(data) => data,
            Err(Refused::NoSecret) => return Ok(None),
            Err(Refused::Failed(error)) => return Err(error),
        };
        let found: SecretValue<'_> = self.parse(doing, &data)?;
        match found.secret_value.get() {
            // No value and no error: nothing to rely on.
            "null" => Err(self.transport.error(doing, ErrorKind::Malformed)),
            raw => Ok(Some(Zeroizing::new(raw.to_owned()))),
        }
    }

    /// The raw JSON of a key-value pair; `None` where there is none of that key.
    ///
    /// # Errors
    /// As all.
    pub async fn key_value(&self, key: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let doing = "read key-value pairs";
        // GraphQL's strings are written as JSON's.
        let query = format!("query {{ key_value(where: {{ key: {{ _eq: {} }} }}) {{ value }} }}", json!(key));
        let data = self.ask(doing, &query, NOTHING, self.tenant.as_ref()).await?;
        let found: KeyValues<'_> = self.parse(doing, &data)?;
        Ok(found.key_value.first().map(|found| Zeroizing::new(found.value.get().to_owned())))
    }

    /// The names of all secrets.
    ///
    /// # Errors
    /// As all.
    pub async fn secret_names(&self) -> Result<Vec<String>, Error> {
        let doing = "list secrets";
        let data = self.ask(doing, "query { secret_names }", NOTHING, self.tenant.as_ref()).await?;
        let found: SecretNames = self.parse(doing, &data)?;
        Ok(found.secret_names)
    }

    /// The keys of all key-value pairs.
    ///
    /// # Errors
    /// As all.
    pub async fn keys(&self) -> Result<Vec<String>, Error> {
        let doing = "list key-value pairs";
        let data = self.ask(doing, "query { key_value { key } }", NOTHING, self.tenant.as_ref()).await?;
        let found: Keys = self.parse(doing, &data)?;
        Ok(found.key_value.into_iter().map(|found| found.key).collect())
    }

    /// The `data` of the answer, as raw JSON.
    async fn ask(
        &self,
        doing: &str,
        query: &str,
        variables: &str,
        tenant: Option<&HeaderValue>,
    ) -> Result<Zeroizing<String>, Error> {
        self.send(doing, query, variables, tenant).await.map_err(|refused| match refused {
            // Words that mean nothing here.
            Refused::NoSecret => self.transport.error(doing, ErrorKind::Malformed),
            Refused::Failed(error) => error,
        })
    }

    async fn send(
        &self,
        doing: &str,
        query: &str,
        variables: &str,
        tenant: Option<&HeaderValue>,
    ) -> Result<Zeroizing<String>, Refused> {
        let mut headers = HeaderMap::from_iter([(VERSION, CORE_VERSION)]);
        headers.extend(tenant.map(|tenant| (TENANT, tenant.clone())));
        let body = json!({ "query": query, "variables": variables });
        let answer = self.transport.post_root(self.lane, doing, headers, &body).await?;
        let failed = |kind| Refused::Failed(self.transport.error(doing, kind));
        // What GraphQL can't do it says with 200 or with 400.
        let is_graphql = matches!(answer.status, StatusCode::OK | StatusCode::BAD_REQUEST);
        let response: Response<'_> = match answer.json().filter(|_| is_graphql) {
            Some(response) => response,
            None => {
                let problem = self.transport.parse::<IgnoredAny>(doing, &answer).err();
                return Err(problem.map_or_else(|| failed(ErrorKind::NotPrefectApi), Refused::Failed));
            }
        };
        let errors = response.errors.unwrap_or_default();
        if errors.iter().any(Problem::is_unauthenticated) {
            return Err(failed(ErrorKind::Unauthorized));
        }
        match response.data {
            Some(data) if errors.is_empty() => Ok(Zeroizing::new(data.get().to_owned())),
            None if errors.is_empty() => Err(failed(ErrorKind::NotPrefectApi)),
            _ if errors.iter().all(|error| error.message.contains(NO_SECRET)) => Err(Refused::NoSecret),
            // The words may repeat what was asked.
            _ => Err(failed(ErrorKind::Malformed)),
        }
    }

    fn parse<'a, T: Deserialize<'a>>(&self, doing: &str, data: &'a str) -> Result<T, Error> {
        // serde's words would quote the data.
        serde_json::from_str(data).map_err(|_| self.transport.error(doing, ErrorKind::Malformed))
    }
}

/// The client sends this where a query has no variables.
const NOTHING: &str = "null";
