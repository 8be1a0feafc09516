use axum::extract::ws;
use axum::response::IntoResponse as _;

use super::*;
use crate::prefect::{ApiUrl, Auth, Budget, Connection};

fn event(name: &str, resource: &str, more: &str) -> String {
    format!(
        r#"{{"type":"event","event":{{"occurred":"2026-01-01T00:00:00Z","event":"{name}","resource":{{"prefect.resource.id":"{resource}","prefect.resource.name":"db"}},"payload":{{"value":"canary"}}{more}}}}}"#
    )
}

#[test]
fn an_event_is_read_as_the_document_that_it_announces() {
    let id = Uuid::from_u128(7);
    let read_of = |event_name: &str, prefix: &str| read(&event(event_name, &format!("{prefix}{id}"), ""));
    let name = "db".to_owned();
    assert_eq!(read_of("prefect.variable.updated", VARIABLE), Some(Change::Variable { id, name: name.clone() }));
    assert_eq!(read_of("prefect.block-document.deleted", BLOCK), Some(Change::Block { id, name }));
    assert_eq!(read_of("prefect.block-type.deleted", BLOCK_TYPE), Some(Change::Unknown));
    assert_eq!(read_of("prefect.block-type.updated", BLOCK_TYPE), None);
    assert_eq!(read_of("prefect.flow-run.Completed", "prefect.flow-run."), None);
}

#[test]
fn what_is_not_understood_may_be_anything() {
    assert_eq!(read(&event("prefect.variable.updated", "prefect.variable.no-uuid", "")), Some(Change::Unknown));
    assert_eq!(read(r#"{"type":"event","event":{}}"#), Some(Change::Unknown));
    assert_eq!(read("canary"), Some(Change::Unknown));
    assert_eq!(read(r#"{"type":"something-new"}"#), None);
}

#[test]
fn versions_before_3_7_4_announce_nothing() {
    for old in ["2.20.26", "3.7.3", "3.6.20", "3.7", "2"] {
        assert!(old == "3.7" || is_before(old, FIRST_VERSION), "{old}");
    }
    for new in ["3.7.4", "3.7.10", "3.8.8", "4.0.0", "3.10.0.dev1", "nightly", ""] {
        assert!(!is_before(new, FIRST_VERSION), "{new}");
    }
}

/// A server whose websocket does `talk` with each client.
async fn serve<F: Future<Output = ()> + Send>(
    talk: impl Fn(ws::WebSocket) -> F + Clone + Send + Sync + 'static,
) -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    let upgrade = move |upgrade: ws::WebSocketUpgrade| {
        let talk = talk.clone();
        async move {
            upgrade.protocols(["prefect"]).on_upgrade(move |socket| async move { talk(socket).await }).into_response()
        }
    };
    let version = || async { axum::Json("3.8.8") };
    let app = axum::Router::new()
        .route("/api/events/out", axum::routing::get(upgrade))
        .route("/api/admin/version", axum::routing::get(version));
    tokio::spawn(async move { axum::serve(listener, app).await });
    client(&url)
}

fn client(url: &str) -> Client {
    let url = ApiUrl::parse(url, None, None).unwrap();
    Client::new(Connection { budget: Budget::unlimited(&url), url, auth: Auth::None, ca_bundle: None }).unwrap()
}

/// Answers the greeting as Prefect does; the filter that came after it.
async fn greet(socket: &mut ws::WebSocket) -> serde_json::Value {
    let text = |message: ws::Message| serde_json::from_str::<serde_json::Value>(message.to_text().unwrap()).unwrap();
    let hello = text(socket.recv().await.unwrap().unwrap());
    assert_eq!(hello, json!({"type": "auth", "token": null}));
    socket.send(ws::Message::text(r#"{"type":"auth_success"}"#)).await.unwrap();
    text(socket.recv().await.unwrap().unwrap())
}

#[tokio::test]
async fn it_subscribes_to_blocks_and_variables_until_far_in_the_future() {
    let client = serve(|mut socket| async move {
        let filter = greet(&mut socket).await;
        let events = &filter["filter"]["event"]["prefix"];
        assert_eq!(*events, json!(["prefect.block-document.", "prefect.block-type.", "prefect.variable."]));
        assert!(filter["filter"]["occurred"]["until"].as_str().unwrap() > "2100");
        let id = Uuid::from_u128(7);
        let message = event("prefect.variable.created", &format!("prefect.variable.{id}"), "");
        socket.send(ws::Message::text(message)).await.unwrap();
    })
    .await;
    let mut events = client.events().await.unwrap();
    assert!(matches!(events.next().await, Ok(Change::Variable { name, .. }) if name == "db"));
    assert!(matches!(events.next().await, Err(EventsError::Broken(_))));
}

#[tokio::test]
async fn a_refused_greeting_is_no_permission_and_a_message_beyond_all_measure_ends_the_stream() {
    let refusing = serve(|mut socket| async move {
        socket.recv().await;
        let frame = ws::CloseFrame { code: 1008, reason: "Auth required".into() };
        socket.send(ws::Message::Close(Some(frame))).await.ok();
    })
    .await;
    assert_eq!(refusing.events().await.err(), Some(EventsError::NotPermitted));
    let shouting = serve(|mut socket| async move {
        greet(&mut socket).await;
        socket.send(ws::Message::text("x".repeat(MAX_MESSAGE + 1))).await.ok();
        std::future::pending().await
    })
    .await;
    let mut events = shouting.events().await.unwrap();
    assert!(matches!(events.next().await, Err(EventsError::Broken(_))));
}

#[tokio::test]
async fn a_server_that_is_silent_is_asked_and_one_that_does_not_answer_is_given_up() {
    // Nothing reads the socket after the greeting, so no ping is answered.
    let client = serve(|mut socket| async move {
        greet(&mut socket).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut events = client.events().await.unwrap();
    tokio::time::pause();
    let since = Instant::now();
    assert_eq!(events.next().await, Err(EventsError::Broken("is silent")));
    assert!(since.elapsed() >= PING_AFTER + SILENCE, "{:?}", since.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_no_stream_says_whether_another_try_may_help() {
    rustls::crypto::ring::default_provider().install_default().ok();
    for (status, expected) in [
        (200, EventsError::Unsupported),
        (403, EventsError::Unsupported),
        (404, EventsError::Unsupported),
        (500, EventsError::Broken("can't be opened now")),
        (401, EventsError::NotPermitted),
        (503, EventsError::Broken("can't be opened now")),
    ] {
        let server = wiremock::MockServer::start().await;
        let answer = wiremock::ResponseTemplate::new(200).set_body_json("3.8.8");
        let version = wiremock::Mock::given(wiremock::matchers::path("/api/admin/version")).respond_with(answer);
        server.register(version).await;
        let answer = wiremock::ResponseTemplate::new(status).set_body_string("<html>");
        server.register(wiremock::Mock::given(wiremock::matchers::path("/api/events/out")).respond_with(answer)).await;
        assert_eq!(client(&format!("{}/api", server.uri())).events().await.err(), Some(expected), "{status}");
    }
}
