//! Writing blocks and variables over Prefect's REST API, as the tests' stand-in for a person who
//! edits them. It shares no code with the operator's client, so that a mistake there can't hide
//! here.

use std::sync::Mutex;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// An answer: status and body.
type Answer = (StatusCode, String);

/// Speaks to one server.
#[derive(Debug)]
pub struct PrefectClient {
    url: String,
    auth_string: Option<String>,
    /// The client id and its token. Fetching a second token for one id invalidates the first, so
    /// each client has an id of its own and keeps its token.
    csrf: Mutex<Option<(String, String)>>,
}

impl PrefectClient {
    /// For the API at `url`.
    pub fn new(url: String, auth_string: Option<String>) -> Self {
        Self { url, auth_string, csrf: Mutex::default() }
    }

    /// The API's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the server answers its health endpoint.
    pub async fn healthy(&self) -> Result<(), String> {
        match self.send(&Method::GET, "/health", None).await {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((status, _)) => Err(format!("{}/health answered {status}", self.url)),
            Err(e) => Err(e),
        }
    }

    /// Creates or updates a Secret block.
    pub async fn set_secret(&self, name: &str, value: Value) {
        self.set_block("secret", name, json!({"value": value})).await;
    }

    /// Creates or updates a Secret block whose value is this JSON text as it stands.
    pub async fn set_secret_raw(&self, name: &str, json_text: &str) {
        self.set_block_raw("secret", name, &format!(r#"{{"value":{json_text}}}"#)).await;
    }

    /// Creates or updates a block; `data` replaces all its fields.
    pub async fn set_block(&self, type_slug: &str, name: &str, data: Value) {
        self.set_block_raw(type_slug, name, &data.to_string()).await;
    }

    /// Creates or updates a block; `json_text` is sent as it stands, so that numbers keep their
    /// notation on the way to Prefect (what Prefect stores of them is its own affair).
    pub async fn set_block_raw(&self, type_slug: &str, name: &str, json_text: &str) {
        if let Some(id) = self.block_id(type_slug, name).await {
            let body = format!(r#"{{"merge_existing_data":false,"data":{json_text}}}"#);
            self.expect(&Method::PATCH, &format!("/block_documents/{id}"), Some(body)).await;
            return;
        }
        let block_type = self.expect(&Method::GET, &format!("/block_types/slug/{type_slug}"), None).await;
        let type_id = text(&block_type, "/id");
        let filter = json!({"block_schemas": {"block_type_id": {"any_": [type_id]}}}).to_string();
        let schemas = self.expect(&Method::POST, "/block_schemas/filter", Some(filter)).await;
        let schema_id = text(&schemas, "/0/id");
        let body = format!(
            r#"{{"name":{},"block_type_id":"{type_id}","block_schema_id":"{schema_id}","data":{json_text}}}"#,
            json!(name)
        );
        self.expect(&Method::POST, "/block_documents/", Some(body)).await;
    }

    /// Changes fields of the block of this id.
    pub async fn patch_block(&self, id: &str, data: Value) {
        let body = json!({"data": data}).to_string();
        self.expect(&Method::PATCH, &format!("/block_documents/{id}"), Some(body)).await;
    }

    /// Deletes a block, which must exist.
    pub async fn delete_block(&self, type_slug: &str, name: &str) {
        let Some(id) = self.block_id(type_slug, name).await else {
            panic!("no {type_slug} block {name:?} to delete");
        };
        self.expect(&Method::DELETE, &format!("/block_documents/{id}"), None).await;
    }

    /// Creates or updates a Variable.
    pub async fn set_variable(&self, name: &str, value: Value) {
        self.set_variable_raw(name, &value.to_string()).await;
    }

    /// Creates or updates a Variable whose value is this JSON text as it stands.
    pub async fn set_variable_raw(&self, name: &str, json_text: &str) {
        let body = format!(r#"{{"name":{},"value":{json_text}}}"#, json!(name));
        let path = format!("/variables/name/{name}");
        match self.retried(&Method::PATCH, &path, Some(body.clone())).await {
            (StatusCode::NOT_FOUND, _) => drop(self.expect(&Method::POST, "/variables/", Some(body)).await),
            answer => drop(accept(&Method::PATCH, &path, answer)),
        }
    }

    /// Gives a Variable, which must exist, these tags and no other.
    pub async fn tag_variable(&self, name: &str, tags: &[&str]) {
        let body = json!({"tags": tags}).to_string();
        self.expect(&Method::PATCH, &format!("/variables/name/{name}"), Some(body)).await;
    }

    /// Gives a Variable, which must exist, another name.
    pub async fn rename_variable(&self, name: &str, to: &str) {
        let body = json!({"name": to}).to_string();
        self.expect(&Method::PATCH, &format!("/variables/name/{name}"), Some(body)).await;
    }

    /// Deletes a Variable, which must exist.
    pub async fn delete_variable(&self, name: &str) {
        self.expect(&Method::DELETE, &format!("/variables/name/{name}"), None).await;
    }

    /// The body that a GET of `path` (after `/api`) answers, as text, so that numbers can be seen
    /// as served.
    pub async fn get_text(&self, path: &str) -> String {
        let answer = self.retried(&Method::GET, path, None).await;
        accept(&Method::GET, path, answer)
    }

    /// What a POST to `path` (after `/api`) answers.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.expect(&Method::POST, path, Some(body.to_string())).await
    }

    /// The id of a block, which must exist.
    pub async fn id_of_block(&self, type_slug: &str, name: &str) -> String {
        self.block_id(type_slug, name).await.unwrap_or_else(|| panic!("no {type_slug} block {name:?}"))
    }

    /// The id of a block, if it exists.
    async fn block_id(&self, type_slug: &str, name: &str) -> Option<String> {
        let path = format!("/block_types/slug/{type_slug}/block_documents/name/{name}");
        match self.retried(&Method::GET, &path, None).await {
            (StatusCode::NOT_FOUND, _) => None,
            answer => Some(text(&parse(&accept(&Method::GET, &path, answer)), "/id")),
        }
    }

    async fn expect(&self, method: &Method, path: &str, body: Option<String>) -> Value {
        let answer = self.retried(method, path, body).await;
        parse(&accept(method, path, answer))
    }

    /// Sends; again on 503 (a SQLite server in a burst of writes), and once with a new CSRF token
    /// where one is needed.
    async fn retried(&self, method: &Method, path: &str, body: Option<String>) -> Answer {
        let mut last = None;
        for _ in 0..50 {
            match self.send(method, path, body.clone()).await {
                Ok((StatusCode::SERVICE_UNAVAILABLE, body)) => last = Some(format!("503 {body}")),
                Ok((StatusCode::FORBIDDEN, answer))
                    if answer.contains("CSRF") || answer.contains("client identifier") =>
                {
                    last = Some(format!("403 {answer}"));
                    self.fetch_csrf_token().await;
                    continue;
                }
                Ok(answer) => return answer,
                Err(e) => panic!("{method} {path}: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{method} {path}: still {} after 50 tries", last.unwrap_or_default());
    }

    async fn fetch_csrf_token(&self) {
        let client = uuid::Uuid::new_v4().to_string();
        let path = format!("/csrf-token?client={client}");
        let answer = self.send(&Method::GET, &path, None).await.unwrap_or_else(|e| panic!("GET {path}: {e}"));
        let token = text(&parse(&accept(&Method::GET, &path, answer)), "/token");
        *self.csrf.lock().unwrap() = Some((client, token));
    }

    async fn send(&self, method: &Method, path: &str, body: Option<String>) -> Result<Answer, String> {
        // A connection belongs to the async runtime that opened it, and each test has its own: so
        // none is kept.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(60));
        let http = http.build().map_err(|e| e.to_string())?;
        let mut request = http.request(method.clone(), format!("{}{path}", self.url));
        if let Some((user, password)) = self.auth_string.as_deref().and_then(|auth| auth.split_once(':')) {
            request = request.basic_auth(user, Some(password));
        }
        if let Some((client, token)) = self.csrf.lock().unwrap().clone() {
            request = request.header("Prefect-Csrf-Client", client).header("Prefect-Csrf-Token", token);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|e| format!("{e:?}"))?;
        let status = response.status();
        Ok((status, response.text().await.map_err(|e| e.to_string())?))
    }
}

/// The body of a successful answer.
fn accept(method: &Method, path: &str, (status, body): Answer) -> String {
    assert!(status.is_success(), "{method} {path}: {status} {body}");
    body
}

fn parse(body: &str) -> Value {
    if body.is_empty() {
        return Value::Null; // 204
    }
    serde_json::from_str(body).unwrap_or_else(|e| panic!("Prefect's answer is not JSON ({e}): {body}"))
}

fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("Prefect's answer has no {pointer}: {value}")).to_owned()
}
