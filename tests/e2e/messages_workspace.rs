//! What workspaces say, and with them their objects: whole texts, provoked on the real parts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{World, control_plane, operator_kubeconfig, prefect, root};
use crate::messages::{eventually_says, object, run_the_printed_command};
use crate::support::{Leashed, Mode, Prefect, PrefectOptions, Proxy, Scratch, ports, tools};

/// A workspace and an object that uses it.
fn pair(name: &str, spec: &str) -> String {
    let workspace = format!(
        "---\n{{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectWorkspace, metadata: {{name: {name}}}, spec: {{{spec}, refreshInterval: 1s}}}}\n"
    );
    workspace + &object(name, "key: any", &format!("workspaceRef: {{name: {name}}}"))
}

fn offered(kind: &str, name: &str, data: serde_json::Value) -> String {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    let labels = json!({"prefect-sync.dev/offer": "workspace"});
    let document = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels}, field: data});
    format!("---\n{document}\n")
}

/// Both say `message`; the workspace since when, the object what becomes of its target.
async fn both_say(world: &World, name: &str, reason: &str, message: &str) {
    let stop = if message.ends_with('?') { "" } else { "." };
    let again = if reason == "PrefectUnreachable" { "; tried again at least every 1s" } else { "" };
    let workspace = format!("{message}{stop} Not ready since TIME; targets keep what they hold{again}");
    eventually_says(world, "PrefectWorkspace", name, reason, &workspace).await;
    let object = format!("{message}{stop} The target is not written until this is solved");
    eventually_says(world, "PrefectSecret", name, reason, &object).await;
}

#[tokio::test]
async fn each_mistake_in_a_workspace_is_said_in_one_message() {
    let allowed = "127.0.0.1,api.prefect.cloud";
    let world = World::with_args("messages", &["--allowed-api-hosts", allowed]).await;
    let prefect = prefect().await;
    let json_type = ("content-type", "application/json".to_owned());
    let mut answering = Vec::new();
    for (status, headers, body) in [
        (200, vec![("content-type", "text/html".to_owned())], "<html>Sign in</html>"),
        (302, vec![("location", "https://login.example/".to_owned())], ""),
        (200, vec![json_type.clone()], r#"{"status": "ok"}"#),
        (403, vec![json_type.clone()], r#"{"detail": "hunter2"}"#),
        (429, vec![json_type.clone()], r#"{"detail": "hunter2"}"#),
        (500, vec![json_type], r#"{"exception_message": "hunter2"}"#),
    ] {
        let proxy = Proxy::start(prefect.url()).await;
        proxy.set(Mode::Answer(status, headers, body.to_owned()));
        answering.push(proxy);
    }
    let [html, redirect, other, forbidden, throttled, broken] = &answering[..] else { panic!() };
    let at = |url: &str| format!("api: {{url: '{url}'}}");
    let with = |credentials: &str| format!("api: {{url: '{}', {credentials}}}", prefect.url());
    let host = format!("127.0.0.1:{}", prefect.port());
    let apiserver = control_plane().await.url().trim_start_matches("https://");
    let closed = format!("127.0.0.1:{}", ports::free());
    let not_prefect = |host: &str| {
        format!(
            "{host} answered, but not as Prefect's API; is spec.api.url what PREFECT_API_URL holds (status.apiUrl is what was asked), and is no login page in between?"
        )
    };

    let cases: Vec<(&str, String, &str, String)> = vec![
        (
            "no-secret",
            with("apiKey: {secretKeyRef: {name: xyzzy}}"),
            "CredentialsNotFound",
            r#"no Secret NS/xyzzy; create it with the key "key" and the label prefect-sync.dev/offer=workspace"#.into(),
        ),
        (
            "secret-typo",
            with("authString: {secretKeyRef: {name: prefect-atuh}}"),
            "CredentialsNotFound",
            r#"no Secret NS/prefect-atuh; did you mean "prefect-auth"?"#.into(),
        ),
        (
            "no-key",
            with("authString: {secretKeyRef: {name: prefect-auth}}"),
            "CredentialsNotFound",
            r#"Secret NS/prefect-auth has no key "auth-string"; it has auth, user: add it, or set secretKeyRef.key"#
                .into(),
        ),
        (
            "no-map",
            with("caBundle: {configMapKeyRef: {name: corp-ca}}"),
            "CredentialsNotFound",
            r#"no ConfigMap NS/corp-ca; create it with the key "ca.crt" and the label prefect-sync.dev/offer=workspace"#
                .into(),
        ),
        (
            "empty-key",
            with("apiKey: {secretKeyRef: {name: odd, key: empty}}"),
            "CredentialsNotFound",
            r#"Secret NS/odd key "empty" is empty"#.into(),
        ),
        (
            "two-lines",
            with("apiKey: {secretKeyRef: {name: odd, key: lines}}"),
            "WorkspaceInvalid",
            r#"Secret NS/odd key "lines" is no text of one line"#.into(),
        ),
        (
            "no-pem",
            with("caBundle: {configMapKeyRef: {name: no-pem}}"),
            "WorkspaceInvalid",
            "spec.api.caBundle holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".into(),
        ),
        (
            "credentials-in-url",
            at("http://admin:hunter2@127.0.0.1/api"),
            "WorkspaceInvalid",
            "the API address holds a user name or password; leave it out and set authString instead".into(),
        ),
        (
            "local-invalid",
            "local: {configToml: {secretKeyRef: {name: odd}}}".into(),
            "LocalInvalid",
            r#"Secret NS/odd key "config.toml": config.toml is not TOML: line 2, column 13: invalid literal string, expected `'`"#.into(),
        ),
        (
            "not-allowed",
            at("http://prefect.example:4200/api"),
            "HostNotAllowed",
            "spec.api.url leads to prefect.example:4200, and this operator may only call 127.0.0.1, api.prefect.cloud; use one of them, or have it allowed (--allowed-api-hosts)".into(),
        ),
        (
            "cloud",
            at("https://api.prefect.cloud/api"),
            "CloudNeedsWorkspace",
            "Prefect Cloud needs accountId and workspaceId; both are in the browser's address".into(),
        ),
        ("html", at(&html.url()), "NotPrefectApi", not_prefect(&html.host())),
        ("redirect", at(&redirect.url()), "NotPrefectApi", not_prefect(&redirect.host())),
        ("other-json", at(&other.url()), "NotPrefectApi", not_prefect(&other.host())),
        ("wrong-path", at(&format!("http://{host}/prefix/api")), "NotPrefectApi", not_prefect(&host)),
        ("other-server", at(&format!("http://{apiserver}")), "NotPrefectApi", not_prefect(apiserver)),
        (
            "closed-port",
            at(&format!("http://{closed}/api")),
            "PrefectUnreachable",
            format!("cannot reach {closed}: connection refused: localhost inside a pod is the pod itself, use Prefect's Service name there; outside, is Prefect running, and is the port right?"),
        ),
        (
            "not-tls",
            at(&format!("https://{host}/api")),
            "PrefectUnreachable",
            format!("cannot reach {host}: the TLS handshake failed: is this port HTTPS? If not, write http:// in spec.api.url"),
        ),
        (
            "forbidden",
            at(&forbidden.url()),
            "CredentialsRefused",
            format!("Prefect at {} answered 403 to a workspace without credentials; set spec.api.apiKey (Prefect Cloud) or spec.api.authString (self-hosted)", forbidden.host()),
        ),
        (
            "throttled",
            at(&throttled.url()),
            "PrefectThrottled",
            format!("Prefect at {} answered 429: too many requests; it is asked again later", throttled.host()),
        ),
        (
            "broken",
            at(&broken.url()),
            "PrefectUnreachable",
            format!("Prefect at {} answered 500; its own log says why", broken.host()),
        ),
    ];
    let odd = json!({"empty": "", "lines": "a\nb", "config.toml": "[context.secrets]\nX = 'hunter2"});
    let mut manifests = offered("Secret", "prefect-auth", json!({"auth": "a:b", "user": "a"}))
        + &offered("Secret", "odd", odd)
        + &offered("ConfigMap", "no-pem", json!({"ca.crt": "hunter2"}));
    for (name, spec, ..) in &cases {
        manifests += &pair(name, spec);
    }
    world.apply(&manifests).await;
    for (name, _, reason, message) in &cases {
        both_say(&world, name, reason, message).await;
    }
    let log = world.stop_operator().await;
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn refused_credentials_say_where_they_are_and_what_may_be_wrong() {
    let options = PrefectOptions { auth_string: Some("admin:s3cr3t".into()), ..PrefectOptions::default() };
    let (world, prefect) = tokio::join!(World::new("messages"), Prefect::start(options));
    let host = format!("127.0.0.1:{}", prefect.port());
    prefect.set_secret("any", json!("1")).await;
    let spec = |rest: &str| format!("api: {{url: '{}'{rest}}}", prefect.url());
    world
        .apply(
            &(offered("Secret", "prefect-api-key", json!({"key": "pnu_hunter2"}))
                + &offered("Secret", "prefect-auth", json!({"auth-string": "admin:hunter2"}))
                + &pair("api-key", &spec(", apiKey: {secretKeyRef: {name: prefect-api-key}}"))
                + &pair("auth-string", &spec(", authString: {secretKeyRef: {name: prefect-auth}}"))
                + &pair("none", &spec(""))),
        )
        .await;
    for (name, message) in [
        (
            "api-key",
            r#"Secret NS/prefect-api-key key "key"; is it expired or mistyped, or is this a self-hosted Prefect (then set spec.api.authString instead)?"#,
        ),
        (
            "auth-string",
            r#"Secret NS/prefect-auth key "auth-string"; is it the server's PREFECT_SERVER_API_AUTH_STRING, or is this Prefect Cloud (then set spec.api.apiKey instead)?"#,
        ),
        (
            "none",
            "a workspace without credentials; set spec.api.apiKey (Prefect Cloud) or spec.api.authString (self-hosted)",
        ),
    ] {
        let message = format!("Prefect at {host} answered 401 to {message}");
        both_say(&world, name, "CredentialsRefused", &message).await;
    }
    // Doing as it says heals, without touching the workspace.
    world.apply(&offered("Secret", "prefect-auth", json!({"auth-string": "admin:s3cr3t"}))).await;
    let ready = world.eventually_reason("PrefectWorkspace", "auth-string", "Connected").await;
    assert_eq!(ready.message, "Prefect 3.8.8 answers and may be read");
    world.eventually_secret("auth-string", &[("X", "1")]).await;
    let log = world.stop_operator().await;
    assert!(!log.contains("hunter2") && !log.contains("s3cr3t"), "{log}");
}

#[tokio::test]
async fn a_certificate_of_an_own_authority_is_refused_until_the_ca_bundle_has_it() {
    let (world, prefect) = tokio::join!(World::new("messages"), prefect());
    let scratch = Scratch::new("tls-proxy");
    let (port, certificate) = (ports::free(), scratch.path().join("ca.crt"));
    let mut command = Command::new(tools::prefect3_python());
    command.arg(root().join("tests/prefect/tls_proxy.py")).arg(port.to_string());
    command.arg(prefect.url().trim_end_matches("/api")).arg(&certificate);
    let mut proxy = Leashed::spawn(&command, &scratch.path().join("proxy.log"), Duration::ZERO);
    let connect = async || {
        let connection = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        connection.map(drop).map_err(|error| error.to_string())
    };
    proxy.until_ready(Duration::from_secs(30), connect).await;
    let name = world.name("password");
    prefect.set_secret(&name, json!("1")).await;

    let url = format!("https://127.0.0.1:{port}/api");
    let manifests = pair("default", &format!("api: {{url: '{url}'}}")).replace("key: any", &format!("key: {name}"));
    world.apply(&manifests).await;
    let message = format!("cannot reach 127.0.0.1:{port}: its certificate is not trusted: set spec.api.caBundle");
    both_say(&world, "default", "PrefectUnreachable", &message).await;

    let ca = json!({"ca.crt": std::fs::read_to_string(&certificate).unwrap()});
    let bundled = format!("api: {{url: '{url}', caBundle: {{configMapKeyRef: {{name: corp-ca}}}}}}");
    let manifests = pair("default", &bundled).replace("key: any", &format!("key: {name}"));
    world.apply(&(offered("ConfigMap", "corp-ca", ca) + &manifests)).await;
    world.connected().await;
    world.eventually_secret("default", &[("X", "1")]).await;
    world.stop_operator().await;

    // The authority of all workspaces, as the chart's caBundle mounts it: by links, beside the public ones.
    let mounted = scratch.path().join("mounted");
    std::fs::create_dir_all(mounted.join("..2026")).unwrap();
    std::fs::copy(&certificate, mounted.join("..2026/ca.crt")).unwrap();
    std::os::unix::fs::symlink("..2026", mounted.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/ca.crt", mounted.join("ca.crt")).unwrap();
    let kubeconfig = std::fs::read_to_string(operator_kubeconfig().await).unwrap();
    let kubeconfig: Value = serde_json::from_str(&kubeconfig).unwrap();
    let other = kubeconfig["clusters"][0]["cluster"]["certificate-authority"].as_str().unwrap();
    world.start_operator_with(&[("SSL_CERT_FILE", Path::new(other)), ("SSL_CERT_DIR", &mounted)]);
    prefect.set_secret(&name, json!("2")).await;
    world.workspace_spec("default", &format!("{{api: {{url: '{url}'}}, refreshInterval: 1s}}")).await;
    world.eventually_secret("default", &[("X", "2")]).await;
    world.connected().await;
    world.stop_operator().await;
}

#[tokio::test]
async fn a_first_user_is_led_from_no_workspace_to_a_synced_secret() {
    let (world, _) = tokio::join!(World::new("messages"), prefect());
    world.apply(&object("etl", "key: TOKEN", "")).await;
    let message = r#"no PrefectWorkspace "default" in "NS"; create one or set spec.workspaceRef"#;
    eventually_says(&world, "PrefectSecret", "etl", "WorkspaceNotFound", message).await;

    let secret = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prefect-config"}, "stringData": {"config.toml": "[context.secrets]\nTOKEN = '1'"}}"#;
    let workspace = "---\n{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectWorkspace, metadata: {name: default}, spec: {local: {configToml: {secretKeyRef: {name: prefect-config}}}}}\n";
    world.apply(&format!("{secret}\n{workspace}")).await;
    let message = "Secret NS/prefect-config is not offered to workspaces; kubectl label --overwrite secret prefect-config -n NS prefect-sync.dev/offer=workspace";
    eventually_says(
        &world,
        "PrefectSecret",
        "etl",
        "NotOffered",
        &format!("{message}. The target is not written until this is solved"),
    )
    .await;
    run_the_printed_command(&world.ready("PrefectWorkspace", "default").await.unwrap().message).await;
    let ready = world.eventually_reason("PrefectWorkspace", "default", "Connected").await;
    assert_eq!(ready.message, "the local secrets were read");
    world.eventually_secret("etl", &[("X", "1")]).await;

    world.apply(&object("etl-2", "key: TOKNE", "")).await;
    let message = r#"no secret block "TOKNE" in workspace default, which has local secrets only (spec.api is not set); did you mean "TOKEN"? The target is not written until this is solved"#;
    eventually_says(&world, "PrefectSecret", "etl-2", "KeyNotFound", message).await;
    world.apply(&object("etl-3", "key: XYZZY", "")).await;
    let message = r#"no secret block "XYZZY" in workspace default, which has local secrets only (spec.api is not set); add it to the config.toml, or set spec.api. The target is not written until this is solved"#;
    eventually_says(&world, "PrefectSecret", "etl-3", "KeyNotFound", message).await;
    world.stop_operator().await;
}
