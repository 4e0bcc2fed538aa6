use super::*;
use crate::fetch::{FetchPolicy, post};
use bytes::Bytes;
use caelum_base::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// An authority, and the certificate and key it has given `localhost` and 127.0.0.1. Of no use elsewhere.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBmTCCAT+gAwIBAgIUa/Q9Ja/8c9Y6iij2TBJdSACdf7swCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIxMTUzODU3WhgPMjEy
NjEwMjgxNTM4NTdaMBkxFzAVBgNVBAMMDnRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAETOODyLhZhez2NrkZ0O2JD3XpP8vPcSUAUOqN1wiX
DlNrL8h4EeNwqWpl2KLbHtnQYaVZ1ufcEGBNzkLc5OO9a6NjMGEwHQYDVR0OBBYE
FHSUINTNSwQdbsXJlxl16KuB23iSMB8GA1UdIwQYMBaAFHSUINTNSwQdbsXJlxl1
6KuB23iSMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgIEMAoGCCqGSM49
BAMCA0gAMEUCIQDo0WYottpLTtdvx9tvNEXz0h5k+6N4304HdraV9i+DJwIgAxxb
GNPsKvFHEYRnor/CheZ+JbZdXgWwflpsn7fe4fM=
-----END CERTIFICATE-----
";
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUCgAwIBAgIUA2ZIHluj64ELNCQXyqYn98x74PAwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIxMTUzODU3WhgPMjEy
NjEwMjgxNTM4NTdaMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABExMkuKtUJuZJpezfa9wtDrj10k4DYvvwhdOfBX0Rtd75wHF
olZ+jtall7++Zg3aFjGWHWcOrldaemIvxtVTnCajaTBnMBoGA1UdEQQTMBGCCWxv
Y2FsaG9zdIcEfwAAATAJBgNVHRMEAjAAMB0GA1UdDgQWBBQCP+3DqQMWUgaV2MqA
OmKjowovGDAfBgNVHSMEGDAWgBR0lCDUzUsEHW7FyZcZdeirgdt4kjAKBggqhkjO
PQQDAgNJADBGAiEA81djZWUEY8P41FygxL4RZbbalKA9fQwX7RiOiXXzLHkCIQDp
sADBIYlXVsYnXbgkirT/iFFtjyK6W0Ran6RlyPTEzg==
-----END CERTIFICATE-----
";
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgm+iU+ML3wKB4vt+e
PJ7LXji+CX6Yc9Xv/zfzaA4/Jk+hRANCAARMTJLirVCbmSaXs32vcLQ649dJOA2L
78IXTnwV9EbXe+cBxaJWfo7WpZe/vmYN2hYxlh1nDq5XWnpiL8bVU5wm
-----END PRIVATE KEY-----
";

/// Answers 204 to every request; returns its port.
async fn server() -> u16 {
    let chain = CertificateDer::pem_slice_iter(CERTIFICATE.as_bytes()).collect::<std::result::Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((s, _)) = listener.accept().await {
            let Ok(mut s) = acceptor.accept(s).await else { continue };
            let mut b = [0; 2048];
            let _ = s.read(&mut b).await;
            let _ = s.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    port
}

#[tokio::test]
async fn certificates_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let own = Tls::new(Some(&file("own", AUTHORITY))).unwrap();
    // A server's certificate makes no authority of it.
    let other = Tls::new(Some(&file("other", CERTIFICATE))).unwrap();
    let port = server().await;
    let send = async |host: &str, tls: Option<&Tls>| {
        let policy = FetchPolicy {
            allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            tls: tls.cloned(),
            ..FetchPolicy::default()
        };
        post(&format!("https://{host}:{port}/x"), &policy, "text/plain", Bytes::from_static(b"hi")).await.map_err(|e| e.kind)
    };
    assert_eq!(send("localhost", Some(&own)).await, Ok(204));
    assert_eq!(send("127.0.0.1", Some(&own)).await, Ok(204));
    assert_eq!(send("127.0.0.1", Some(&other)).await, Err(ErrorKind::Unavailable));
    assert_eq!(send("127.0.0.2", Some(&own)).await, Err(ErrorKind::Unavailable), "a certificate of another name");
    assert_eq!(send("localhost", None).await, Err(ErrorKind::Invalid));
    assert!(Tls::new(Some(&file("empty", ""))).is_err());
    assert!(Tls::new(Some(&dir.path().join("none"))).is_err());
}
