//! TLS for NBD (STARTTLS): which certificate is shown, which clients come in, and whether anybody comes in without.
//!
//! Files are named as QEMU, libnbd and nbdkit name them, so one directory serves all of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// How connections are encrypted.
#[derive(Clone)]
pub struct Tls {
    /// Certificate, key, and which clients are let in.
    pub config: Arc<ServerConfig>,
    /// Nothing but STARTTLS is answered before TLS. Otherwise clients may do without.
    pub required: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("required", &self.required).finish_non_exhaustive()
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or is not PEM.
    #[error("read '{}' for NBD's TLS: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not go together, or are of no use.
    #[error("the certificate '{}' and its key cannot be used for NBD's TLS", certificate.display())]
    Certificate {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authority for clients is of no use.
    #[error("'{}' cannot be used to check clients of NBD's TLS", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifierBuilderError,
    },
}

impl Tls {
    /// Reads `server-cert.pem` and `server-key.pem` in `dir`. When there is a `ca-cert.pem`, only clients with a certificate of
    /// that authority come in.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn from_dir(dir: &Path, required: bool) -> Result<Self, TlsError> {
        let authority = Some(dir.join("ca-cert.pem")).filter(|path| path.exists());
        Self::from_files(&dir.join("server-cert.pem"), &dir.join("server-key.pem"), authority, required)
    }

    /// Reads a certificate chain and its key. With an authority, only clients with a certificate of it come in.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn from_files(
        certificate: &Path,
        key: &Path,
        authority: Option<PathBuf>,
        required: bool,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = read_certificates(certificate)?;
        let file = |source| TlsError::File { path: key.to_owned(), source };
        let private = PrivateKeyDer::from_pem_file(key).map_err(file)?;
        let unusable = |source| TlsError::Certificate { certificate: certificate.to_owned(), source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = if let Some(authority) = authority {
            let roots = Arc::new(read_authority(&authority)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|source| TlsError::Authority { path: authority, source })?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(certificates, private).map_err(unusable)?;
        Ok(Self { config: Arc::new(config), required })
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

fn read_authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // One that cannot be used is left out; without any, the verifier refuses to be built.
    roots.add_parsable_certificates(read_certificates(path)?);
    Ok(roots)
}
