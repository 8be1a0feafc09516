//! A stand-in for Prefect 1 Cloud, which nobody can install: its GraphQL as far as the client 1.4.1 asks for secrets and
//! key-value pairs. That client itself performs every call against it in a test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What it holds and was asked.
#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Value>,
    key_values: BTreeMap<String, (String, Value)>,
    requests: Vec<String>,
    ids: usize,
    key: String,
    /// Answers everything with this status.
    failing: Option<u16>,
    /// Answers what contains the text with this status and body.
    failing_query: Option<(String, u16, Value)>,
}

/// A running server; it ends with the async runtime that started it.
pub struct Prefect1Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// The tenant of its only key.
pub const TENANT: &str = "8c1d5b2e-0000-4000-8000-1f4d3c2b1a09";

impl Prefect1Server {
    /// Starts one that takes this key.
    pub async fn start(key: &str) -> Self {
        let state = Arc::new(Mutex::new(State { key: key.to_owned(), ..State::default() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let served = state.clone();
        let app = axum::Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let state = served.clone();
            assert_eq!((method.as_str(), uri.path()), ("POST", "/"), "all requests go to the address itself");
            async move { answer(&mut lock(&state), &headers, &body) }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { port, state }
    }

    /// What `cloud.api` would be.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets a secret.
    pub fn set_secret(&self, name: &str, value: Value) {
        lock(&self.state).secrets.insert(name.to_owned(), value);
    }

    /// Deletes a secret.
    pub fn delete_secret(&self, name: &str) {
        lock(&self.state).secrets.remove(name).expect("the secret is there");
    }

    /// Sets a key-value pair.
    pub fn set_key_value(&self, key: &str, value: Value) {
        lock(&self.state).set_key_value(key, value);
    }

    /// Answers everything with this status from now on; `None` for normally.
    pub fn fail(&self, status: Option<u16>) {
        lock(&self.state).failing = status;
    }

    /// Answers questions and variables that contain `part` so from now on; `None` for normally.
    pub fn fail_where(&self, failing: Option<(&str, u16, Value)>) {
        let failing = failing.map(|(part, status, body)| (part.to_owned(), status, body));
        lock(&self.state).failing_query = failing;
    }

    /// What was asked: the query without white space, and the tenant that it was asked for.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn set_key_value(&mut self, key: &str, value: Value) -> String {
        self.ids += 1;
        let id = self.key_values.get(key).map_or_else(|| format!("id-{}", self.ids), |(id, _)| id.clone());
        self.key_values.insert(key.to_owned(), (id.clone(), value));
        id
    }
}

fn answer(state: &mut State, headers: &HeaderMap, body: &[u8]) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if let Some(status) = state.failing {
        return (StatusCode::from_u16(status).expect("a status"), "canary: no such thing").into_response();
    }
    if header("authorization") != format!("Bearer {}", state.key) {
        return (StatusCode::UNAUTHORIZED, "canary: unauthorized").into_response();
    }
    let request: Value = serde_json::from_slice(body).expect("JSON");
    let query = squeezed(request["query"].as_str().expect("a query"));
    let variables: Value = serde_json::from_str(request["variables"].as_str().expect("a text")).expect("JSON in it");
    state.requests.push(format!("{query} {}", header("x-prefect-tenant-id")));
    assert_eq!(header("x-prefect-core-version"), "1.4.1");
    let tenant = header("x-prefect-tenant-id");
    if !tenant.is_empty() && tenant != TENANT {
        return (StatusCode::FORBIDDEN, axum::Json(json!({"errors": [{"message": "canary: another tenant"}]})))
            .into_response();
    }
    if let Some((part, status, body)) = &state.failing_query
        && (query.contains(part) || variables.to_string().contains(part))
    {
        return (StatusCode::from_u16(*status).expect("a status"), axum::Json(body.clone())).into_response();
    }
    match data(state, &query, &variables) {
        Ok(data) => axum::Json(json!({ "data": data })).into_response(),
        Err((status, message)) => {
            let errors =
                json!({"errors": [{"message": message, "path": [], "extensions": {"code": "X"}}], "data": null});
            (status, axum::Json(errors)).into_response()
        }
    }
}

/// Without the white space between words; what stands in quotes stays.
fn squeezed(query: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let mut keep = |c: &char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        quoted || !c.is_whitespace()
    };
    query.chars().filter(|c| keep(c)).collect()
}

type Refusal = (StatusCode, String);

fn data(state: &mut State, query: &str, variables: &Value) -> Result<Value, Refusal> {
    let input = &variables["input"];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let selected = query.split_once("key_value(where:{key:{_eq:").and_then(|(_, rest)| {
        let (key, selection) = rest.split_once("}})")?;
        Some((serde_json::from_str::<String>(key).expect("a quoted key"), selection))
    });
    if let Some((key, selection)) = selected {
        let found = state.key_values.get(&key);
        let row = |(id, value): &(String, Value)| {
            if selection.contains("value") { json!({ "value": value }) } else { json!({ "id": id }) }
        };
        return Ok(json!({"key_value": found.map(row).into_iter().collect::<Vec<_>>()}));
    }
    Ok(match query {
        "query($name:String!){secret_value(name:$name)}" => {
            let name = text(&variables["name"]);
            let missing = || (StatusCode::OK, format!("No value found for the requested key: {name}"));
            json!({"secret_value": state.secrets.get(&name).ok_or_else(missing)?})
        }
        "query{secret_names}" => json!({"secret_names": state.secrets.keys().collect::<Vec<_>>()}),
        "query{key_value{key}}" => {
            json!({"key_value": state.key_values.keys().map(|key| json!({"key": key})).collect::<Vec<_>>()})
        }
        "query{auth_info{tenant_id}}" => json!({"auth_info": {"tenant_id": TENANT}}),
        "mutation($input:set_secret_input!){set_secret(input:$input){success}}" => {
            state.secrets.insert(text(&input["name"]), input["value"].clone());
            json!({"set_secret": {"success": true}})
        }
        "mutation($input:set_key_value_input!){set_key_value(input:$input){id}}" => {
            json!({"set_key_value": {"id": state.set_key_value(&text(&input["key"]), input["value"].clone())}})
        }
        "mutation($input:delete_key_value_input!){delete_key_value(input:$input){success}}" => {
            state.key_values.retain(|_, (id, _)| *id != input["key_value_id"]);
            json!({"delete_key_value": {"success": true}})
        }
        other => return Err((StatusCode::BAD_REQUEST, format!("Cannot query: {other}"))),
    })
}
