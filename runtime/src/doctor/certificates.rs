//! Certificates: who they are for, and when they end.

use std::{fmt, path::Path, time::SystemTime};

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{
    remedies::Fault,
    report::{Finding, Report},
};

/// How long before its end a certificate is worth a warning, in days.
const WARNING_DAYS: i64 = 14;
const DAY_SECONDS: i64 = 24 * 3600;
/// Names of a certificate that are shown.
const MAX_NAMES: usize = 5;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it is for.
    pub subject: String,
    /// Who has signed it.
    pub issuer: String,
    /// The names and addresses that it is good for.
    pub names: Vec<String>,
    /// Its beginning, in seconds since 1970.
    pub not_before: i64,
    /// Its end, in seconds since 1970.
    pub not_after: i64,
}

impl CertificateFacts {
    /// Reads a certificate; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|it| &it.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.take(MAX_NAMES).collect(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
    v4.or(v6).ok().map(|it| it.to_string())
}

impl fmt::Display for CertificateFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.join(", ");
        let (from, to) = (date(self.not_before), date(self.not_after));
        write!(
            f,
            "{} [{names}] signed by {}, good from {from} to {to}",
            self.subject, self.issuer
        )
    }
}

fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or("unknown".to_owned(), |it| it.to_string())
}

/// The certificates of a PEM file; none if there are none in it.
///
/// # Errors
/// When it cannot be read.
pub fn certificates_in(file: &Path) -> std::io::Result<Vec<CertificateFacts>> {
    let pem = std::fs::read(file)?;
    let found = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    Ok(found.filter_map(|it| CertificateFacts::read(&it)).collect())
}

/// Looks at the certificates of a file.
pub fn check_certificates(report: &mut Report, hop: &str, check: &str, file: &Path) {
    let shown = file.display();
    let finding = match certificates_in(file) {
        Err(error) => Finding::failed(Fault::File, format!("{shown}: {error}")),
        Ok(found) => match first_end(&found) {
            None => Finding::ok(format!("{shown} can be read")),
            Some(end) => ends(end),
        },
    };
    report.add(hop, check, finding);
}

/// The end of the certificate of a chain that ends first.
pub(super) fn first_end(chain: &[CertificateFacts]) -> Option<&CertificateFacts> {
    chain.iter().min_by_key(|it| it.not_after)
}

/// What its end means today.
pub(super) fn ends(certificate: &CertificateFacts) -> Finding {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.map_or(0, |it| it.as_secs()).cast_signed();
    let days = (certificate.not_after - now).div_euclid(DAY_SECONDS);
    let end = date(certificate.not_after);
    let subject = &certificate.subject;
    if certificate.not_after <= now {
        return Finding::failed(Fault::Expired, format!("{subject} ended at {end}"));
    }
    if certificate.not_before > now {
        let seen = format!("{subject} begins at {}", date(certificate.not_before));
        return Finding::failed(Fault::NotYetValid, seen);
    }
    let seen = format!("{subject} ends at {end}, in {days} days");
    match days < WARNING_DAYS {
        true => Finding::warning(Fault::EndsSoon, seen),
        false => Finding::ok(seen),
    }
}
