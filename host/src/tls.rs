//! TLS: the process's one crypto provider, and the certificates of the two addresses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Chooses ring. Call it before an HTTP client is built; further calls change nothing.
pub fn install() {
    // It fails only when a provider is installed already, which is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key}: {}: cannot be read: {source}", path.display())]
    Read {
        key: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{key}: {}: {problem}, expected {expected}", path.display())]
    Pem {
        key: &'static str,
        path: PathBuf,
        problem: String,
        expected: &'static str,
    },
    #[error("{} and {} do not belong together: {source}", named.cert, named.key)]
    Pair { named: Named, source: rustls::Error },
}

/// The keys of the configuration that name a certificate's two files.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub cert: &'static str,
    pub key: &'static str,
}

impl Named {
    pub const PUBLIC: Self = Self {
        cert: "server.tls_cert",
        key: "server.tls_key",
    };
    pub const ADMIN: Self = Self {
        cert: "server.admin_tls_cert",
        key: "server.admin_tls_key",
    };
}

/// A certificate and its key, read again when their files change.
pub struct Certificates {
    named: Named,
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
    /// What the files held when they were last looked at.
    seen: ArcSwap<Files>,
}

/// The two files' bytes.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// How often the files are looked at. Looking also sees a link that points elsewhere now, which
/// is how Kubernetes renews a secret and which raises no event on the file.
const LOOK: Duration = Duration::from_secs(1);

impl Certificates {
    /// # Errors
    /// [`TlsError`] that names the key and the file.
    pub fn load(named: Named, cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = read(named, cert, key)?;
        let config = config(named, (cert, key), &files)?;
        Ok(Self {
            named,
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(config),
            seen: ArcSwap::from_pointee(files),
        })
    }

    /// For the next connection; those that are open keep what they began with.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Looks at the files until it is dropped.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.renew() {
                Ok(false) => {}
                Ok(true) => tracing::info!(
                    key = self.named.cert,
                    "new connections get the new certificate"
                ),
                Err(error) => {
                    tracing::warn!(%error, "the certificate stays as it is");
                }
            }
        }
    }

    /// Takes over what the files hold now; true where they had changed. What fails is told once:
    /// the next look compares with it.
    fn renew(&self) -> Result<bool, TlsError> {
        let Ok(files) = read(self.named, &self.cert, &self.key) else {
            // Between the removal of the old file and the coming of the new one.
            return Ok(false);
        };
        if *self.seen.load_full() == files {
            return Ok(false);
        }
        let config = config(self.named, (&self.cert, &self.key), &files);
        self.seen.store(Arc::new(files));
        self.current.store(Arc::new(config?));
        Ok(true)
    }
}

fn read(named: Named, cert: &Path, key: &Path) -> Result<Files, TlsError> {
    let bytes = |name, path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Read {
            key: name,
            path: path.to_owned(),
            source,
        })
    };
    Ok(Files {
        cert: bytes(named.cert, cert)?,
        key: bytes(named.key, key)?,
    })
}

fn config(
    named: Named,
    (cert, key): (&Path, &Path),
    files: &Files,
) -> Result<ServerConfig, TlsError> {
    let wrong = |name, path: &Path, expected| {
        let path = path.to_owned();
        move |error: pem::Error| TlsError::Pem {
            key: name,
            path,
            // The error's own words may repeat a piece of the file.
            problem: match error {
                pem::Error::NoItemsFound => "found none".to_owned(),
                _ => "is damaged".to_owned(),
            },
            expected,
        }
    };
    let chain = CertificateDer::pem_slice_iter(&files.cert).collect::<Result<Vec<_>, _>>();
    let chain = chain.and_then(|chain| match chain.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(chain),
    });
    let chain = chain.map_err(wrong(named.cert, cert, "certificates in PEM form"))?;
    let secret = PrivateKeyDer::from_pem_slice(&files.key).map_err(wrong(
        named.key,
        key,
        "a private key in PEM form",
    ))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|source| TlsError::Pair { named, source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
