//! The files that a listener's TLS is made of: read and understood alike by `check`, at start and when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys, RootCertStore};
use x509_cert::Certificate as X509;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::file::TlsFile;
use super::finding::{Findings, Place};
use super::secret::{self, Secret};
use super::setting::choice;

/// The largest file of authorities, in bytes: more than all that a browser knows.
pub(super) const MAX_AUTHORITIES: u64 = 1 << 20;

choice!(ClientAuthWord { None = "none", Optional = "optional", Required = "required" } later {});

/// Table `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// At least one; the first is for clients that name no host, or another one.
    certificates: Vec<CertificateFiles>,
    client_ca: Option<PathBuf>,
    /// Whether clients have to show a certificate of the authorities in `client_ca`.
    pub client_auth: ClientAuth,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CertificateFiles {
    cert: PathBuf,
    key: Secret,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They may; one that is shown has to be good.
    Optional,
    /// They have to.
    Required,
}

/// What the files held when they were read.
pub struct TlsFiles {
    certificates: Vec<(Vec<u8>, Vec<u8>)>,
    authorities: Option<Vec<u8>>,
}

/// What the files mean.
#[derive(Debug)]
pub struct Certificates {
    /// In the order of the configuration.
    pub certificates: Vec<Certificate>,
    /// Who vouches for clients.
    pub authorities: Option<Arc<RootCertStore>>,
}

/// A certificate that can be used.
#[derive(Debug)]
pub struct Certificate {
    /// Its file.
    pub file: PathBuf,
    /// The chain, and the key that signs for it.
    pub key: Arc<CertifiedKey>,
    /// The hosts that it is for, in lower case; `*.` stands for one label.
    pub hosts: Vec<String>,
    /// From when to when it is good.
    pub valid: (SystemTime, SystemTime),
    has_addresses: bool,
}

/// Why the files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct TlsFault {
    file: String,
    part: Part,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Certificate(usize),
    Key(usize),
    Authorities,
}

impl TlsConfig {
    /// The files of the certificates, in the order of the configuration.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.certificates.iter().map(|files| files.cert.as_path())
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Every file that cannot be read.
    pub fn read(&self) -> Result<TlsFiles, Vec<TlsFault>> {
        let mut faults = Vec::new();
        let mut certificates = Vec::new();
        for (index, files) in self.certificates.iter().enumerate() {
            let certificate = secret::read_file(&files.cert).map_err(|error| unreadable(&error));
            let certificate = self.kept(certificate, Part::Certificate(index), &mut faults);
            let key = self.kept(secret::read(&files.key), Part::Key(index), &mut faults);
            certificates.extend(certificate.zip(key));
        }
        let authorities = self.client_ca.as_ref().and_then(|path| {
            let read = secret::read_at_most(path, MAX_AUTHORITIES);
            let read = read.map_err(|error| unreadable(&error));
            self.kept(read, Part::Authorities, &mut faults)
        });
        let files = TlsFiles {
            certificates,
            authorities,
        };
        faults.is_empty().then_some(files).ok_or(faults)
    }

    /// Understands what the files held.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn understand(&self, files: &TlsFiles) -> Result<Certificates, Vec<TlsFault>> {
        let mut faults = Vec::new();
        let mut certificates = Vec::new();
        for (index, (chain, key)) in files.certificates.iter().enumerate() {
            match certificate(&self.certificates[index].cert, chain, key) {
                Ok(certificate) => certificates.push(certificate),
                Err((is_key, message)) => {
                    let part = if is_key { Part::Key } else { Part::Certificate };
                    faults.push(self.fault(part(index), message));
                }
            }
        }
        let authorities = files.authorities.as_deref().map(authorities).transpose();
        let authorities = self.kept(authorities, Part::Authorities, &mut faults);
        let certificates = Certificates {
            certificates,
            authorities: authorities.flatten(),
        };
        faults.is_empty().then_some(certificates).ok_or(faults)
    }

    /// What could be had, or a fault more.
    fn kept<T>(&self, had: Result<T, String>, part: Part, faults: &mut Vec<TlsFault>) -> Option<T> {
        had.map_err(|message| faults.push(self.fault(part, message)))
            .ok()
    }

    fn fault(&self, part: Part, message: String) -> TlsFault {
        let file = match part {
            Part::Certificate(index) => self.certificates[index].cert.display().to_string(),
            Part::Key(index) => match &self.certificates[index].key {
                Secret::File(path) => path.clone(),
                Secret::Env(name) => format!("${name}"),
            },
            Part::Authorities => {
                let path = self.client_ca.as_deref();
                path.map(|path| path.display().to_string())
                    .unwrap_or_default()
            }
        };
        TlsFault {
            file,
            part,
            message,
        }
    }
}

impl TlsFiles {
    /// Tells what is in the files now from what was in them before, without keeping keys.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        let pairs = self
            .certificates
            .iter()
            .flat_map(|(chain, key)| [chain, key]);
        for part in pairs.chain(&self.authorities) {
            digest.update(&part.len().to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.finish().as_ref());
        bytes
    }
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsFiles(..)")
    }
}

impl Certificate {
    /// When it ends, in seconds since the Unix epoch.
    #[must_use]
    pub fn expiry_timestamp_seconds(&self) -> u64 {
        let since_epoch = self.valid.1.duration_since(UNIX_EPOCH);
        since_epoch.as_ref().map_or(0, Duration::as_secs)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.valid.1 <= SystemTime::now()
    }

    /// Why clients will not take it, as far as that can be seen from here.
    fn doubt(&self) -> Option<&'static str> {
        if self.is_expired() {
            Some("the certificate has expired: clients refuse it")
        } else if self.valid.0 > SystemTime::now() {
            Some("the certificate is not valid yet: clients refuse it")
        } else if self.hosts.is_empty() && !self.has_addresses {
            Some("the certificate names no host in its subjectAltName: clients refuse it")
        } else {
            None
        }
    }
}

/// What TLS has against something, in words that a reader can act upon.
#[must_use]
pub fn trouble(error: &TlsError) -> String {
    let said = error.to_string();
    match said.contains("UnsupportedCertVersion") {
        true => "the certificate is of X.509 version 1, and has to be of version 3".to_owned(),
        false => said,
    }
}

pub(super) fn unreadable(error: &std::io::Error) -> String {
    format!("cannot be read: {error}")
}

/// `Err`: whether it is about the key, and what.
pub(super) fn certificate(
    file: &Path,
    chain: &[u8],
    key: &[u8],
) -> Result<Certificate, (bool, String)> {
    let chain = certificates(chain).map_err(|wrong| (false, wrong))?;
    let leaf = X509::from_der(&chain[0]).map_err(|error| {
        (
            false,
            format!("holds no certificate that can be read: {error}"),
        )
    })?;
    let key = private_key(key).map_err(|wrong| (true, wrong))?;
    let signer = any_supported_type(&key).map_err(|_| {
        let message = "holds a key of a kind that is not supported: RSA from 2048 bits, ECDSA on P-256, P-384 or \
                       P-521, and Ed25519 are";
        (true, message.to_owned())
    })?;
    let key = CertifiedKey::new(chain, signer);
    match key.keys_match() {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(TlsError::InconsistentKeys(_)) => {
            let message = format!(
                "is not the key of the first certificate in {}",
                file.display()
            );
            return Err((true, message));
        }
        Err(error) => {
            return Err((
                false,
                format!("holds no certificate that can be used: {}", trouble(&error)),
            ));
        }
    }
    let (hosts, has_addresses) = names(&leaf);
    let validity = leaf.tbs_certificate().validity();
    Ok(Certificate {
        file: file.to_owned(),
        key: Arc::new(key),
        hosts,
        valid: (
            validity.not_before.to_system_time(),
            validity.not_after.to_system_time(),
        ),
        has_addresses,
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("holds no certificates in PEM: {error}")),
    }
}

/// What is wrong is said without what is in the file: it may be the key.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let is_encrypted = pem.windows(9).any(|word| word == b"ENCRYPTED");
        match is_encrypted {
            true => "holds a key that is encrypted; it has to be in PEM without a passphrase",
            false => "holds no private key in PEM",
        }
        .to_owned()
    })
}

/// The authorities whose certificates the text holds, in PEM.
///
/// # Errors
/// What is wrong with it.
pub fn authorities(pem: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        let added = store.add(certificate);
        added.map_err(|error| {
            let trouble = trouble(&error);
            format!("holds a certificate that cannot be an authority: {trouble}")
        })?;
    }
    Ok(Arc::new(store))
}

/// The authorities that this system trusts; none where it has none.
#[must_use]
pub fn system_authorities() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Some that cannot be read, or have a form of long ago, are no loss where there are others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
}

/// The hosts that a certificate names, and whether it names addresses.
fn names(leaf: &X509) -> (Vec<String>, bool) {
    let named = leaf.tbs_certificate().get_extension::<SubjectAltName>();
    let names = named.ok().flatten().map(|(_, names)| names.0);
    let (mut hosts, mut has_addresses) = (Vec::new(), false);
    for name in names.unwrap_or_default() {
        match name {
            GeneralName::DnsName(host) => hosts.push(host.as_str().to_ascii_lowercase()),
            GeneralName::IpAddress(_) => has_addresses = true,
            _ => {}
        }
    }
    (hosts, has_addresses)
}

pub(super) fn tls(file: &TlsFile, place: &Place, findings: &mut Findings) -> Option<TlsConfig> {
    let entries = file.certificates.get()?;
    if entries.is_empty() {
        let message = "is empty; there has to be one certificate".to_owned();
        findings.whole(&file.certificates.place, message);
        return None;
    }
    let certificates: Option<Vec<_>> = entries
        .iter()
        .map(|entry| {
            Some(CertificateFiles {
                cert: entry.cert.value()?.0,
                key: entry.key.value()?,
            })
        })
        .collect();
    let client_ca = file.client_ca.value()?.map(|path| path.0);
    let client_auth = match (file.client_auth.value()?, &client_ca) {
        (None, None) | (Some(ClientAuthWord::None), _) => ClientAuth::None,
        (Some(ClientAuthWord::Optional), _) => ClientAuth::Optional,
        (Some(ClientAuthWord::Required) | None, _) => ClientAuth::Required,
    };
    if client_auth != ClientAuth::None && client_ca.is_none() {
        let message = "needs `client_ca`, the authorities whose certificates clients show";
        findings.whole(&file.client_auth.place, message.to_owned());
    }
    let config = TlsConfig {
        certificates: certificates?,
        client_ca,
        client_auth,
    };
    let read = config.read().and_then(|files| config.understand(&files));
    let place_of = |part| match part {
        Part::Certificate(index) => &entries[index].cert.place,
        Part::Key(index) => &entries[index].key.place,
        Part::Authorities => file.client_ca.written().unwrap_or(place),
    };
    match read {
        Ok(read) => {
            for (certificate, entry) in read.certificates.iter().zip(entries) {
                if let Some(doubt) = certificate.doubt() {
                    findings.warn(&entry.cert.place, doubt.to_owned(), &[]);
                }
            }
        }
        Err(faults) => {
            for TlsFault {
                file,
                part,
                message,
            } in faults
            {
                let message = match part {
                    // What reads secrets names their place itself.
                    Part::Key(_) => message,
                    Part::Certificate(_) | Part::Authorities => format!("{file:?} {message}"),
                };
                findings.value(place_of(part), message);
            }
            return None;
        }
    }
    Some(config)
}
