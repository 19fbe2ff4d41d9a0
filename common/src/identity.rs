//! An appliance's identity: its private key and self-signed certificate, `key.pem` and `cert.pem` in its directory.
//!
//! In: the directory. Out: an [`Identity`] that TLS can use, and its [`ApplianceId`]: SHA-256 of the certificate in DER
//! form, which is what peers pin. The certificate is signed by its own key and does not expire: trust comes from the
//! pinned fingerprint alone, so an authority or a date would add nothing but a way to fail.
//!
//! A file comes into being under its name complete and durable or not at all, and is never overwritten: a changed
//! certificate is another appliance, and every peer would refuse it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::crypto::aws_lc_rs::sign;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ids::ApplianceId;

/// The private key's file name.
pub const KEY_FILE: &str = "key.pem";
/// The certificate's file name.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// No key or certificate of ours is larger; a larger file is not one.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why an identity cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory has one already.
    #[error("{} is there already: this appliance has an identity, which peers know it by", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A file is not there.
    #[error("{} is missing: restore it from a backup, or make a new appliance with `tidemark init`, and on every peer `tidemark peer remove` the old one and add the new id", path.display())]
    Missing {
        /// The missing file.
        path: PathBuf,
    },
    /// A file is not what was written there.
    #[error("{} is damaged or was altered ({reason}): restore it from a backup", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Key and certificate are each good and do not belong together.
    #[error("{} does not hold the key of the certificate beside it: restore both files from the same backup", path.display())]
    Mismatch {
        /// The key's file.
        path: PathBuf,
    },
    /// Others could read the key.
    #[error("{} can be read by others (mode {mode:04o}): run `chmod 600` on it, and if somebody may have copied it, make a new appliance", path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The cryptographic library refused.
    #[error("cannot make a key and certificate")]
    Generate(#[source] rcgen::Error),
}

/// Key and certificate of one appliance. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Identity {
    id: ApplianceId,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Makes key and certificate in `directory` and loads them. An interrupted attempt, which left a key and no
    /// certificate, is completed with that key.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] when there is a certificate already; the others when something fails.
    pub fn create(directory: &Path) -> Result<Self, IdentityError> {
        let certificate_path = directory.join(CERTIFICATE_FILE);
        if certificate_path.exists() {
            return Err(IdentityError::Exists { path: certificate_path });
        }
        let key_path = directory.join(KEY_FILE);
        let key = if key_path.exists() {
            let text = read_text(&key_path)?;
            rcgen::KeyPair::from_pem(&text).map_err(|error| altered(&key_path, &error))?
        } else {
            let key = rcgen::KeyPair::generate().map_err(IdentityError::Generate)?;
            create_file(directory, KEY_FILE, 0o600, &key.serialize_pem())?;
            key
        };
        let certificate = self_signed(&key).map_err(IdentityError::Generate)?;
        create_file(directory, CERTIFICATE_FILE, 0o644, &certificate.pem())?;
        Self::load(directory)
    }

    /// Loads what [`create`](Self::create) made, checking that both files are whole and belong together.
    ///
    /// # Errors
    /// Each way in which they may not be has its own error.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let certificate_path = directory.join(CERTIFICATE_FILE);
        let key_path = directory.join(KEY_FILE);
        let certificate = load_certificate(&certificate_path)?;
        let id = appliance_id(&certificate);
        refuse_exposed(&key_path)?;
        let text = read_text(&key_path)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| altered(&key_path, &error))?;
        let key = sign::any_supported_type(&key).map_err(|error| altered(&key_path, &error))?;
        let certified = CertifiedKey::new(vec![certificate], key);
        certified.keys_match().map_err(|_| IdentityError::Mismatch { path: key_path })?;
        Ok(Self { id, certified: Arc::new(certified) })
    }

    /// What peers pin.
    #[must_use]
    pub fn id(&self) -> ApplianceId {
        self.id
    }

    /// For TLS.
    #[must_use]
    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// The id of the appliance that owns this certificate: SHA-256 of its DER form.
#[must_use]
pub fn appliance_id(certificate: &CertificateDer<'_>) -> ApplianceId {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut id = [0; 32];
    for (to, from) in id.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    ApplianceId(id)
}

fn self_signed(key: &rcgen::KeyPair) -> Result<rcgen::Certificate, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "tidemark appliance");
    parameters.self_signed(key)
}

/// Reads the certificate and checks its own signature, so that a changed byte is found here and not by a peer that
/// no longer knows the id.
fn load_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let text = read_text(path)?;
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| altered(path, &error))?;
    let (rest, parsed) = X509Certificate::from_der(&certificate).map_err(|error| altered(path, &error))?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &parsed.public_key().subject_public_key.data);
    let genuine = key.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data).is_ok();
    if genuine && rest.is_empty() {
        Ok(certificate)
    } else {
        Err(altered(path, &"its signature does not fit its content"))
    }
}

fn refuse_exposed(path: &Path) -> Result<(), IdentityError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(IdentityError::Exposed { path: path.into(), mode }) }
}

fn read_text(path: &Path) -> Result<String, IdentityError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(altered(path, &"not text")),
        Err(source) => Err(unreadable(path, source)),
    }
}

/// Writes under another name, syncs, then links to the name, which fails when it is taken, and syncs the directory.
fn create_file(directory: &Path, name: &str, mode: u32, content: &str) -> Result<(), IdentityError> {
    let path = directory.join(name);
    let draft = directory.join(format!("{name}.new"));
    let failed = |action, at: &Path, source| IdentityError::Io { action, path: at.into(), source };
    remove_if_there(&draft).map_err(|source| failed("remove", &draft, source))?;
    write_synced(&draft, mode, content).map_err(|source| failed("write", &draft, source))?;
    fs::hard_link(&draft, &path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists { path: path.clone() },
        _ => failed("create", &path, source),
    })?;
    remove_if_there(&draft).map_err(|source| failed("remove", &draft, source))?;
    File::open(directory).and_then(|d| d.sync_all()).map_err(|source| failed("sync", directory, source))
}

fn write_synced(path: &Path, mode: u32, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unreadable(path: &Path, source: io::Error) -> IdentityError {
    match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing { path: path.into() },
        _ => IdentityError::Io { action: "read", path: path.into(), source },
    }
}

fn altered(path: &Path, reason: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Altered { path: path.into(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(path: &Path, content: &[u8]) {
        fs::write(path, content).unwrap();
    }

    #[test]
    fn loads_what_it_made() {
        let directory = tempfile::tempdir().unwrap();
        let made = Identity::create(directory.path()).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap().id(), made.id());
        let key = fs::metadata(directory.path().join(KEY_FILE)).unwrap();
        assert_eq!(key.mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no drafts stay behind");
    }

    #[test]
    fn id_is_the_fingerprint_of_the_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let id = Identity::create(directory.path()).unwrap().id();
        let output = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(directory.path().join(CERTIFICATE_FILE))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let digits: String = text.split('=').nth(1).unwrap().trim().replace(':', "").to_lowercase();
        assert_eq!(digits, id.to_string());
    }

    #[test]
    fn never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        let id = Identity::create(directory.path()).unwrap().id();
        assert!(matches!(Identity::create(directory.path()), Err(IdentityError::Exists { .. })));
        assert_eq!(Identity::load(directory.path()).unwrap().id(), id);
    }

    #[test]
    fn completes_an_interrupted_attempt() {
        let directory = tempfile::tempdir().unwrap();
        Identity::create(directory.path()).unwrap();
        let key = fs::read(directory.path().join(KEY_FILE)).unwrap();
        fs::remove_file(directory.path().join(CERTIFICATE_FILE)).unwrap();
        replace(&directory.path().join("cert.pem.new"), b"half a certif");
        Identity::create(directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join(KEY_FILE)).unwrap(), key);
    }

    #[test]
    fn missing_files_are_named() {
        for name in [KEY_FILE, CERTIFICATE_FILE] {
            let directory = tempfile::tempdir().unwrap();
            Identity::create(directory.path()).unwrap();
            let path = directory.path().join(name);
            fs::remove_file(&path).unwrap();
            let error = Identity::load(directory.path()).unwrap_err();
            assert!(matches!(&error, IdentityError::Missing { path: found } if *found == path), "{error}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let [mine, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        Identity::create(mine.path()).unwrap();
        Identity::create(other.path()).unwrap();
        replace(&mine.path().join(KEY_FILE), &fs::read(other.path().join(KEY_FILE)).unwrap());
        assert!(matches!(Identity::load(mine.path()), Err(IdentityError::Mismatch { .. })));
    }

    #[test]
    fn an_exposed_key_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        Identity::create(directory.path()).unwrap();
        let path = directory.path().join(KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load(directory.path()), Err(IdentityError::Exposed { mode: 0o644, .. })));
    }

    /// Every single changed byte of either file is either without effect on what is loaded or refused; it never makes
    /// another id.
    #[test]
    fn a_changed_byte_never_makes_another_appliance() {
        let directory = tempfile::tempdir().unwrap();
        let id = Identity::create(directory.path()).unwrap().id();
        for name in [KEY_FILE, CERTIFICATE_FILE] {
            let path = directory.path().join(name);
            let good = fs::read(&path).unwrap();
            let mut refused = 0;
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                replace(&path, &bad);
                match Identity::load(directory.path()) {
                    Ok(identity) => assert_eq!(identity.id(), id, "{name} at {at}"),
                    Err(_) => refused += 1,
                }
            }
            assert!(refused > good.len() / 2, "{name}: {refused} of {}", good.len());
            replace(&path, &good);
        }
    }

    #[test]
    fn truncated_and_foreign_files_are_refused() {
        for (name, content) in [(KEY_FILE, &b"hello"[..]), (CERTIFICATE_FILE, b"\xff\xfe"), (CERTIFICATE_FILE, b"")] {
            let directory = tempfile::tempdir().unwrap();
            Identity::create(directory.path()).unwrap();
            replace(&directory.path().join(name), content);
            let error = Identity::load(directory.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Altered { .. }), "{error}");
        }
    }
}
