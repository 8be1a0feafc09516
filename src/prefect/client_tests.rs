//! The client against answers recorded from Prefect 3.8.8.

use secrecy::SecretString;
use serde_json::json;
use wiremock::matchers::{body_json, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{ApiUrl, Auth, Budget, Client, Connection, ErrorKind};

/// A client of `server`, whose address has the path prefix `/prefect`.
pub(super) fn client_of(server: &MockServer, auth: Auth) -> Client {
    client_at(&format!("{}/prefect", server.uri()), auth)
}

pub(super) fn client_at(address: &str, auth: Auth) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = ApiUrl::parse(address, None, None).unwrap();
    Client::new(Connection { budget: Budget::unlimited(&url), url, auth, ca_bundle: None }).unwrap()
}

pub(super) async fn serve(server: &MockServer, verb: &str, at: &str, answer: ResponseTemplate) {
    Mock::given(method(verb)).and(path(format!("/prefect/api/{at}"))).respond_with(answer).mount(server).await;
}

pub(super) fn json_answer(status: u16, body: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body.to_owned(), "application/json")
}

/// A document as served.
fn document(name: &str, data: &str) -> String {
    let recorded = include_str!("testdata/secret_block.json");
    recorded.replace("NAME", name).replace("DATA", data)
}

const ONE_BLOCK: &str = "block_types/slug/secret/block_documents/name/x";

#[tokio::test]
async fn blocks_are_asked_for_by_exact_names_in_one_request() {
    let server = MockServer::start().await;
    let data = r#"{"value":{"n":1.50,"e":1E5,"big":123456789012345678901234567890,"b":1,"a":2}}"#;
    let answer = format!("[{},{}]", document("a", data), document("foreign", "{}"));
    Mock::given(method("POST"))
        .and(path("/prefect/api/block_documents/filter"))
        .and(body_json(json!({
            "block_types": {"slug": {"any_": ["secret"]}},
            "block_documents": {"name": {"any_": ["a", "missing"]}},
            "include_secrets": true, "sort": "NAME_ASC", "limit": 200,
        })))
        .and(header("user-agent", concat!("prefect-sync/", env!("CARGO_PKG_VERSION"))))
        .and(header("accept-encoding", "gzip"))
        .respond_with(json_answer(200, &answer))
        .expect(1)
        .mount(&server)
        .await;
    let client = client_of(&server, Auth::None);
    let blocks = client.blocks("secret", &["a", "missing"]).await.unwrap();
    assert_eq!(blocks.len(), 1, "a document that nobody asked for is dropped");
    assert_eq!(blocks[0].name, "a");
    assert_eq!(*blocks[0].data, data);
    assert_eq!(blocks[0].secret_fields, ["value"]);
    assert_eq!(blocks[0].fields, ["value"]);
}

#[tokio::test]
async fn no_names_make_no_request_and_many_make_several() {
    let server = MockServer::start().await;
    serve(&server, "POST", "block_documents/filter", json_answer(200, "[]")).await;
    serve(&server, "POST", "variables/filter", json_answer(200, "[]")).await;
    let client = client_of(&server, Auth::None);
    assert!(client.blocks("secret", &[]).await.unwrap().is_empty());
    assert!(client.variables(&[]).await.unwrap().is_empty());
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
    assert!(client.blocks("secret", &["a"; 201]).await.unwrap().is_empty());
    assert!(client.variables(&["a"; 400]).await.unwrap().is_empty());
    assert_eq!(server.received_requests().await.unwrap().len(), 4);
}

#[tokio::test]
async fn variables_keep_their_text_exactly() {
    let server = MockServer::start().await;
    let variable = |name: &str, value: &str| {
        format!(r#"{{"id":"5fa4549a","created":"2026-11-24T06:31:42Z","name":"{name}","value":{value},"tags":[]}}"#)
    };
    let values = ["\"********\"", "1.50", "1E5", "null", r#"{"b":[1,2.0,null],"a":"\u00e9"}"#];
    let answer: Vec<String> = values.iter().enumerate().map(|(at, value)| variable(&format!("v{at}"), value)).collect();
    serve(&server, "POST", "variables/filter", json_answer(200, &format!("[{}]", answer.join(",")))).await;
    serve(&server, "GET", "variables/name/v1", json_answer(200, &variable("v1", "1.50"))).await;
    let client = client_of(&server, Auth::None);
    let read = client.variables(&["v0", "v1", "v2", "v3", "v4"]).await.unwrap();
    let read: Vec<&str> = read.iter().map(|variable| variable.value.as_str()).collect();
    assert_eq!(read, values);
    let one = client.variable("v1").await.unwrap().unwrap();
    assert_eq!(*one.value, "1.50");
}

#[tokio::test]
async fn a_block_by_name_comes_with_its_secrets() {
    let server = MockServer::start().await;
    Mock::given(path(format!("/prefect/api/{ONE_BLOCK}")))
        .and(query_param("include_secrets", "true"))
        .respond_with(json_answer(200, &document("x", r#"{"value":null}"#)))
        .mount(&server)
        .await;
    let block = client_of(&server, Auth::None).block("secret", "x").await.unwrap().unwrap();
    assert_eq!(*block.data, r#"{"value":null}"#);
    assert!(!format!("{block:?}").contains("null"));
}

#[tokio::test]
async fn only_prefects_exact_words_mean_that_there_is_none() {
    let no_block = r#"{"detail":"Block document not found"}"#;
    let no_variable = r#"{"detail":"Variable not found."}"#;
    let no_type = r#"{"detail":"Block type not found"}"#;
    let wrong_path = r#"{"detail":"Not Found"}"#;
    for (body, block, variable, block_type) in [
        (no_block, true, false, false),
        (no_variable, false, true, false),
        (no_type, false, false, true),
        (wrong_path, false, false, false),
        (r#"{"detail":"Workspace not found"}"#, false, false, false),
        ("<html>no such page</html>", false, false, false),
        ("", false, false, false),
    ] {
        let server = MockServer::start().await;
        serve(&server, "GET", ONE_BLOCK, json_answer(404, body)).await;
        serve(&server, "GET", "variables/name/x", json_answer(404, body)).await;
        serve(&server, "GET", "block_types/slug/x", json_answer(404, body)).await;
        let client = client_of(&server, Auth::None);
        let found = client.block("secret", "x").await;
        assert_eq!(found.is_ok_and(|found| found.is_none()), block, "{body}");
        let found = client.variable("x").await;
        assert_eq!(found.is_ok_and(|found| found.is_none()), variable, "{body}");
        let found = client.block_type_exists("x").await;
        assert_eq!(found == Ok(false), block_type, "{body}");
    }
}

#[tokio::test]
async fn a_name_that_fits_in_no_address_is_not_asked_for() {
    let server = MockServer::start().await;
    let client = client_of(&server, Auth::None);
    for name in ["", ".", "..", "a/b", "/"] {
        assert!(client.block("secret", name).await.unwrap().is_none());
        assert!(client.block(name, "x").await.unwrap().is_none());
        assert!(client.variable(name).await.unwrap().is_none());
        assert_eq!(client.block_type_exists(name).await, Ok(false));
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn the_check_accepts_prefect_and_nothing_else() {
    for (status, body, expected) in [
        (200, r#"{"id":"13b1878f","name":"Secret","slug":"secret","is_protected":true}"#, Ok(())),
        (404, r#"{"detail":"Block type not found"}"#, Ok(())),
        (404, r#"{"detail":"Not Found"}"#, Err(ErrorKind::NotPrefectApi)),
        (405, r#"{"detail":"Method Not Allowed"}"#, Err(ErrorKind::NotPrefectApi)),
        (200, "true", Err(ErrorKind::NotPrefectApi)),
        (200, r#"{"slug":"other"}"#, Err(ErrorKind::NotPrefectApi)),
        (200, r#"{"ok":true}"#, Err(ErrorKind::NotPrefectApi)),
        (204, "", Err(ErrorKind::NotPrefectApi)),
        (401, r#"{"exception_message":"Unauthorized"}"#, Err(ErrorKind::Unauthorized)),
        (403, r#"{"detail":"Forbidden"}"#, Err(ErrorKind::Forbidden)),
    ] {
        let server = MockServer::start().await;
        serve(&server, "GET", "block_types/slug/secret", json_answer(status, body)).await;
        let checked = client_of(&server, Auth::None).check().await;
        assert_eq!(checked.map_err(|error| error.kind), expected, "{status} {body}");
    }
}

#[tokio::test]
async fn credentials_are_sent_as_prefect_expects_them() {
    let key = |text: &str| Auth::ApiKey(SecretString::from(text));
    let pair = |text: &str| Auth::AuthString(SecretString::from(text));
    for (auth, expected) in [
        (key("pnu_abc"), "Bearer pnu_abc"),
        (key(" pnu_abc\n"), "Bearer pnu_abc"),
        (pair("admin:s3cr3t"), "Basic YWRtaW46czNjcjN0"),
        (pair("admin:s3cr3t\n"), "Basic YWRtaW46czNjcjN0"),
    ] {
        let server = MockServer::start().await;
        Mock::given(header("authorization", expected))
            .respond_with(json_answer(200, r#""3.8.8""#))
            .mount(&server)
            .await;
        let client = client_of(&server, auth);
        assert_eq!(client.server_version().await, Ok(Some("3.8.8".to_owned())));
        assert!(format!("{client:?}").starts_with("Client { url: \"http://127.0.0.1:"));
    }
}

#[tokio::test]
async fn the_version_is_none_where_there_is_no_such_endpoint() {
    for (status, body, expected) in [
        (404, r#"{"detail":"Not Found"}"#, Ok(None)),
        (200, "<html>", Err(ErrorKind::Malformed)),
        (200, r#""a version? no""#, Err(ErrorKind::Malformed)),
        (200, r#""3.9.0+12.gabc""#, Ok(Some("3.9.0+12.gabc".to_owned()))),
    ] {
        let server = MockServer::start().await;
        serve(&server, "GET", "admin/version", json_answer(status, body)).await;
        let version = client_of(&server, Auth::None).server_version().await;
        assert_eq!(version.map_err(|error| error.kind), expected, "{body}");
    }
}

#[tokio::test]
async fn lists_for_suggestions_ask_for_no_secrets() {
    let server = MockServer::start().await;
    Mock::given(path("/prefect/api/block_documents/filter"))
        .and(body_json(json!({
            "block_types": {"slug": {"any_": ["secret"]}},
            "include_secrets": false, "sort": "NAME_ASC", "limit": 200,
        })))
        .respond_with(json_answer(200, &format!("[{}]", document("a", "{}"))))
        .mount(&server)
        .await;
    Mock::given(path("/prefect/api/variables/filter"))
        .and(body_json(json!({"sort": "NAME_ASC", "limit": 200})))
        .respond_with(json_answer(200, r#"[{"name":"v","value":"x","tags":[]}]"#))
        .mount(&server)
        .await;
    Mock::given(path("/prefect/api/block_types/filter"))
        .and(body_json(json!({"limit": 200})))
        .respond_with(json_answer(200, r#"[{"name":"Secret","slug":"secret"}]"#))
        .mount(&server)
        .await;
    let client = client_of(&server, Auth::None);
    assert_eq!(client.block_names("secret").await.unwrap(), ["a"]);
    assert_eq!(client.variable_names().await.unwrap(), ["v"]);
    assert_eq!(client.block_type_slugs().await.unwrap(), ["secret"]);
}

#[test]
fn a_connection_that_cannot_work_is_refused_before_any_request() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let message = |auth, ca_bundle: Option<&[u8]>| {
        let url = ApiUrl::parse("http://prefect:4200", None, None).unwrap();
        let ca_bundle = ca_bundle.map(<[u8]>::to_vec);
        let error = Client::new(Connection { budget: Budget::unlimited(&url), url, auth, ca_bundle }).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Configuration { .. }));
        error.to_string()
    };
    let key = |text: &str| Auth::ApiKey(SecretString::from(text));
    let prefix = "cannot connect: prefect:4200 was not asked: ";
    let pem = "spec.api.caBundle holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)";
    assert_eq!(message(Auth::None, Some(b"canary")), format!("{prefix}{pem}"));
    assert_eq!(message(key(" \n"), None), format!("{prefix}the API key is empty"));
    let shown = message(key("can\nary"), None);
    assert_eq!(shown, format!("{prefix}the API key holds characters that no key has; store it again"));
}
