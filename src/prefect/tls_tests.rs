//! Whose certificate is trusted.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::client_tests::client_at;
use super::transport_tests::{SECRET_TYPE, hint_of, serve_raw};
use super::{ApiUrl, Auth, Budget, Client, Connection};

const CERTIFICATE: &[u8] = include_bytes!("testdata/localhost.crt");
const PRIVATE_KEY: &[u8] = include_bytes!("testdata/localhost.key");

/// A TLS server with the test certificate that answers every request the same. Gives its address.
fn serve_tls(ip: &str) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(PRIVATE_KEY).unwrap();
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream.unwrap());
            let _ = tls.read(&mut [0; 4096]);
            let _ = write!(
                tls,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{SECRET_TYPE}",
                SECRET_TYPE.len()
            );
            let _ = tls.flush();
        }
    });
    address
}

#[tokio::test]
async fn a_certificate_is_trusted_only_through_the_ca_bundle() {
    let address = serve_tls("127.0.0.1");
    let connect = |address: &str, ca_bundle: Option<&[u8]>| {
        let url = ApiUrl::parse(address, None, None).unwrap();
        let ca_bundle = ca_bundle.map(<[u8]>::to_vec);
        Client::new(Connection { budget: Budget::unlimited(&url), url, auth: Auth::None, ca_bundle }).unwrap()
    };
    let error = connect(&address, None).check().await.unwrap_err();
    assert_eq!(hint_of(error), "its certificate is not trusted: set spec.api.caBundle");
    assert_eq!(connect(&address, Some(CERTIFICATE)).check().await, Ok(()));
    let error = connect(&serve_tls("127.0.0.2"), Some(CERTIFICATE)).check().await.unwrap_err();
    assert!(hint_of(error).starts_with("its certificate is for another host name"));
    let plain = serve_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let client = client_at(&plain.replace("http:", "https:"), Auth::None);
    assert!(hint_of(client.check().await.unwrap_err()).starts_with("the TLS handshake failed"));
}
