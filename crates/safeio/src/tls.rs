//! TLS towards servers that this program calls: which authorities are trusted, and the handshake.

use caelum_base::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Where distributions keep the authorities that everybody trusts.
const BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// A client that checks the server's certificate and name; there is no way to switch that off.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    /// Trusts the authorities of a PEM file; without one those of the system. Errors: `Invalid` for a file that
    /// cannot be read or holds no certificate.
    pub fn new(authorities: Option<&Path>) -> Result<Self> {
        let path: PathBuf = match authorities {
            Some(p) => p.into(),
            None => {
                let found = BUNDLES.iter().map(Path::new).find(|p| p.exists());
                found.ok_or_else(|| Error::invalid("This system has no bundle of certificate authorities."))?.into()
            }
        };
        let broken = |e: &dyn std::fmt::Display| Error::invalid(format!("{}: {e}", path.display()));
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(&path).map_err(|e| broken(&e))?;
        let certificates = certificates.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| broken(&e))?;
        // Bundles of systems hold the odd certificate that no library likes.
        let (n_added, _) = roots.add_parsable_certificates(certificates);
        if n_added == 0 {
            return Err(broken(&"no certificates"));
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::internal("TLS versions").caused_by(e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Speaks TLS over a connection to `host`, a name or an address. Errors: `Unavailable`.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_string()).map_err(|e| Error::invalid("The host's name is invalid.").caused_by(e))?;
        self.0.connect(name, stream).await.map_err(|e| Error::unavailable("The server's TLS handshake failed.").caused_by(e))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

#[cfg(test)]
mod tests;
