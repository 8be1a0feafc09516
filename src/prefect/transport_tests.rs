//! Failures, further tries and limits.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures::future::join_all;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::client_tests::{client_at, client_of, json_answer, serve};
use super::{Auth, Error, ErrorKind, MAX_BODY};

pub(super) const SECRET_TYPE: &str = r#"{"name":"Secret","slug":"secret"}"#;

async fn failure_of(answer: ResponseTemplate) -> Error {
    let server = MockServer::start().await;
    serve(&server, "POST", "variables/filter", answer).await;
    let client = client_of(&server, Auth::None);
    client.variables(&["a"]).await.unwrap_err()
}

#[tokio::test]
async fn each_answer_is_the_kind_of_failure_that_it_is() {
    let html = |status| ResponseTemplate::new(status).set_body_raw("<html>canary</html>", "text/html; charset=utf-8");
    let echo = r#"{"exception_message":"Invalid request received.","exception_detail":[{"input":"canary"}],"request_body":{"value":"canary"}}"#;
    let login = ResponseTemplate::new(302).insert_header("location", "https://sso/canary");
    let rejected = |status| ErrorKind::Rejected { status };
    for (answer, kind, batch_fault) in [
        (json_answer(401, r#"{"exception_message":"Unauthorized"}"#), ErrorKind::Unauthorized, false),
        (json_answer(403, r#"{"detail":"canary"}"#), ErrorKind::Forbidden, false),
        (json_answer(404, r#"{"detail":"Not Found"}"#), ErrorKind::NotPrefectApi, false),
        (json_answer(405, r#"{"detail":"Method Not Allowed"}"#), ErrorKind::NotPrefectApi, false),
        (json_answer(422, echo), rejected(422), true),
        (json_answer(400, r#"{"detail":"Invalid X-PREFECT-API-VERSION"}"#), rejected(400), false),
        (html(200), ErrorKind::NotPrefectApi, false),
        (html(404), ErrorKind::NotPrefectApi, false),
        (html(400), ErrorKind::NotPrefectApi, false),
        (html(413), rejected(413), true),
        (login, ErrorKind::NotPrefectApi, false),
        (ResponseTemplate::new(204), ErrorKind::NotPrefectApi, false),
        (json_answer(200, r#"[{"name":"canary"}]"#), ErrorKind::Malformed, true),
        (json_answer(200, r#"[{"name":"a","value":"can"#), ErrorKind::Malformed, true),
        (json_answer(500, r#"{"exception_message":"canary"}"#), ErrorKind::Server { status: 500 }, true),
    ] {
        let error = failure_of(answer).await;
        assert_eq!(error.kind, kind);
        assert_eq!(error.is_batch_fault(), batch_fault, "{error}");
        assert_eq!(error.is_workspace_wide(), !batch_fault, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{shown}");
        let start = format!("cannot read variables: {} ", error.host);
        assert!(shown.starts_with(&start), "{shown}");
    }
}

#[tokio::test]
async fn a_long_refusal_is_classified_unread() {
    let body = format!(r#"{{"request_body":"{}"}}"#, "x".repeat(1024 * 1024));
    let error = failure_of(json_answer(422, &body)).await;
    assert_eq!(error.kind, ErrorKind::Rejected { status: 422 });
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let checks = [429, 502, 503, 504].map(async |status| {
        let server = MockServer::start().await;
        let busy = json_answer(status, r#"{"exception_message":"Service Unavailable"}"#);
        Mock::given(method("GET")).respond_with(busy).up_to_n_times(2).mount(&server).await;
        let found = json_answer(200, SECRET_TYPE);
        serve(&server, "GET", "block_types/slug/secret", found).await;
        client_of(&server, Auth::None).check().await
    });
    assert_eq!(join_all(checks).await, [const { Ok(()) }; 4]);
}

#[tokio::test]
async fn a_server_that_stays_busy_is_reported_after_three_tries() {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(503)).expect(3).mount(&server).await;
    let error = client_of(&server, Auth::None).check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Server { status: 503 });
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for_and_a_long_one_reported() {
    let server = MockServer::start().await;
    let answer = |seconds: &str| ResponseTemplate::new(429).insert_header("retry-after", seconds);
    Mock::given(method("GET")).respond_with(answer("1")).up_to_n_times(1).mount(&server).await;
    serve(&server, "GET", "block_types/slug/secret", json_answer(200, SECRET_TYPE)).await;
    let started = Instant::now();
    assert_eq!(client_of(&server, Auth::None).check().await, Ok(()));
    assert!(started.elapsed() >= Duration::from_secs(1));

    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(answer("60")).expect(1).mount(&server).await;
    let error = client_of(&server, Auth::None).check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Throttled);
    assert_eq!(error.retry_after, Some(Duration::from_secs(60)));
}

/// Serves each connection with the same bytes, then closes it. Gives the address.
pub(super) fn serve_raw(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
        }
    });
    address
}

pub(super) fn hint_of(error: Error) -> &'static str {
    match error.kind {
        ErrorKind::Unreachable { hint } => hint.unwrap_or_default(),
        kind => panic!("{kind:?}"),
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_no_answer() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    for answer in [
        String::new(),
        head.to_owned(),
        format!("{head}content-length: 100\r\n\r\n[{SECRET_TYPE}"),
        format!("{head}transfer-encoding: chunked\r\n\r\n4\r\n[{{}}"),
        // Whole by its look, but the end of the chunks never came.
        format!("{head}transfer-encoding: chunked\r\n\r\n2\r\n[]\r\n"),
        "HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\n{}".to_owned(),
    ] {
        let client = client_at(&serve_raw(answer.clone().into_bytes()), Auth::None);
        let error = client.variables(&["a"]).await.unwrap_err();
        assert_eq!(hint_of(error), "the connection was cut before the answer was complete", "{answer}");
    }
}

#[tokio::test]
async fn an_answer_over_the_limit_is_not_read_to_its_end() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let announced = format!("{head}content-length: {}\r\n\r\n[", MAX_BODY + 1).into_bytes();
    let mut endless = format!("{head}connection: close\r\n\r\n").into_bytes();
    endless.resize(endless.len() + MAX_BODY + 1, b' ');
    for answer in [announced, endless] {
        let client = client_at(&serve_raw(answer), Auth::None);
        let error = client.variable_names().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooLarge);
        assert!(error.to_string().ends_with(" answered with more than 16 MiB"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_a_hint() {
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for host in ["localhost", "127.0.0.1"] {
        let client = client_at(&format!("http://{host}:{port}"), Auth::None);
        let error = client.check().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot check the connection: {host}:{port} cannot be reached: connection \
                 refused: localhost inside a pod is the pod itself, use Prefect's Service name there; outside, is \
                 Prefect running, and is the port right?"
            )
        );
    }
    // Too long for a label, so that no resolver is asked.
    let client = client_at(&format!("http://{}", "a".repeat(64)), Auth::None);
    let hint = hint_of(client.check().await.unwrap_err());
    assert!(hint.starts_with("its name does not resolve"), "{hint}");
}
