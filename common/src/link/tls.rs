//! TLS with pinned certificates.
//!
//! In: this appliance's identity and whom it trusts. Out: configurations for one handshake each. A certificate is
//! accepted for its fingerprint alone: names, dates and signers in it mean nothing. The proof that the peer holds its
//! key, the signature over the handshake, is verified as in any TLS. TLS 1.3 only, no resumption: every connection
//! proves itself anew, so removing a peer counts from its next connection on.

use std::fmt;
use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::trust::Trust;
use crate::identity::{Identity, appliance_id};
use crate::ids::ApplianceId;

/// Spoken over the connection. Another incompatible protocol would have another name.
pub(super) const ALPN: &[u8] = b"tidemark/1";
/// TLS wants a name; it is not sent and not looked at.
pub(super) const SERVER_NAME: &str = "tidemark";

/// The id that a peer presented in one handshake, trusted or not.
#[derive(Debug, Clone, Default)]
pub(super) struct Presented(Arc<OnceLock<ApplianceId>>);

impl Presented {
    pub(super) fn id(&self) -> Option<ApplianceId> {
        self.0.get().copied()
    }
}

/// Makes configurations for handshakes.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    trust: Arc<dyn Trust>,
}

impl Tls {
    pub(super) fn new(identity: &Identity, trust: Arc<dyn Trust>) -> Self {
        let certified = Arc::new(SingleCertAndKey::from(identity.certified_key()));
        Self { provider: Arc::new(aws_lc_rs::default_provider()), certified, trust }
    }

    /// For dialing one appliance.
    pub(super) fn client(&self, expected: ApplianceId) -> Result<(QuicClientConfig, Presented), TlsError> {
        let presented = Presented::default();
        let verifier = self.verifier(Accepts::Only(expected), &presented);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![ALPN.into()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok((QuicClientConfig::try_from(config)?, presented))
    }

    /// For one incoming handshake.
    pub(super) fn server(&self) -> Result<(QuicServerConfig, Presented), TlsError> {
        let presented = Presented::default();
        let verifier = self.verifier(Accepts::Trusted(Arc::clone(&self.trust)), &presented);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![ALPN.into()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((QuicServerConfig::try_from(config)?, presented))
    }

    fn verifier(&self, accepts: Accepts, presented: &Presented) -> Arc<PinnedVerifier> {
        let algorithms = self.provider.signature_verification_algorithms;
        Arc::new(PinnedVerifier { accepts, presented: presented.clone(), algorithms })
    }
}

/// The TLS library refused its configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Quic(#[from] NoInitialCipherSuite),
}

enum Accepts {
    Only(ApplianceId),
    Trusted(Arc<dyn Trust>),
}

/// Verifies one peer in one handshake.
struct PinnedVerifier {
    accepts: Accepts,
    presented: Presented,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let id = appliance_id(certificate);
        let noted = *self.presented.0.get_or_init(|| id);
        let accepted = match &self.accepts {
            Accepts::Only(expected) => id == *expected,
            Accepts::Trusted(trust) => trust.peer_name(&id).is_some(),
        };
        if accepted && noted == id { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedVerifier").field("presented", &self.presented).finish_non_exhaustive()
    }
}

fn no_tls12() -> rustls::Error {
    PeerIncompatible::Tls13RequiredForQuic.into()
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PinnedVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
