//! Whom a certificate is for, as far as people are told apart by it.

use x509_parser::{parse_x509_certificate, x509::AttributeTypeAndValue};

/// Attributes of one kind that are read, at most.
const MAX_ATTRIBUTES: usize = 64;

/// The subject of a certificate: the parts that name people and their groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// `CN`: the first one.
    pub common_name: Option<String>,
    /// All `O`, which Kubernetes takes for groups.
    pub organizations: Vec<String>,
    /// All `OU`.
    pub organizational_units: Vec<String>,
}

impl Subject {
    /// Reads a certificate; `None` if it is none. What is no text is left out.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        Some(Self {
            common_name: texts(subject.iter_common_name()).into_iter().next(),
            organizations: texts(subject.iter_organization()),
            organizational_units: texts(subject.iter_organizational_unit()),
        })
    }
}

fn texts<'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Vec<String> {
    let texts = attributes.filter_map(|it| it.as_str().ok().map(str::to_owned));
    texts.take(MAX_ATTRIBUTES).collect()
}
