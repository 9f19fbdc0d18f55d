//! The rules and defaults that many sections share.
//!
//! For texts and numbers, empty and zero mean "not given", as upstream; for
//! durations only absence does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::{ListenAddress, Network, TlsFiles};
use crate::yaml::{Mistake, PositiveSeconds, Seconds, Spot};

/// Makes mistakes that name the file.
pub(super) struct Rules<'a> {
    pub(super) file: &'a Path,
}

impl Rules<'_> {
    pub(super) fn at<T>(&self, spot: &Spot<T>, message: &str) -> Mistake {
        Mistake::at(self.file, spot, message)
    }

    pub(super) fn at_start(&self, message: &str) -> Mistake {
        Mistake {
            file: self.file.to_owned(),
            line: 1,
            column: 1,
            message: message.to_owned(),
        }
    }

    /// A certificate and its key: both, or none.
    pub(super) fn tls<T>(
        &self,
        section: &Spot<T>,
        name: &str,
        pair: impl FnOnce(&T) -> (Option<PathBuf>, Option<PathBuf>),
    ) -> Result<Option<TlsFiles>, Mistake> {
        let (certificate, key) = pair(&section.value);
        let missing = match (file(certificate), file(key)) {
            (Some(certificate_file), Some(key_file)) => {
                return Ok(Some(TlsFiles {
                    certificate_file,
                    key_file,
                }));
            }
            (None, None) => return Ok(None),
            (Some(_), None) => "key_file",
            (None, Some(_)) => "certificate_file",
        };
        Err(self.at(
            section,
            &format!(
                "{name}: TLS needs both certificate_file and key_file, but {missing} is missing"
            ),
        ))
    }

    /// The socket of a listener.
    pub(super) fn address<T>(
        &self,
        section: &Spot<T>,
        network: Option<Network>,
        address: &Option<String>,
        default: &str,
    ) -> Result<ListenAddress, Mistake> {
        let network = network.unwrap_or_default();
        let address = text(address.clone(), default);
        if network != Network::Unix && !has_port(&address) {
            return Err(self.at(
                section,
                &format!("the address `{address}` must be host:port, such as {default}"),
            ));
        }
        Ok(ListenAddress { network, address })
    }

    /// A path that URLs start with.
    pub(super) fn url_path(
        &self,
        path: Option<Spot<String>>,
        default: &str,
    ) -> Result<String, Mistake> {
        match path {
            Some(path) if path.value.is_empty() => Ok(default.to_owned()),
            Some(path) if path.value.starts_with('/') => Ok(path.value),
            Some(path) => Err(self.at(
                &path,
                &format!("the URL path `{}` must start with /", path.value),
            )),
            None => Ok(default.to_owned()),
        }
    }
}

fn has_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// The section, or an empty one at the start of the file.
pub(super) fn or_default<T: Default>(section: Option<Spot<T>>) -> Spot<T> {
    let start = serde_saphyr::Location::UNKNOWN;
    section.unwrap_or_else(|| Spot::new(T::default(), start, start))
}

pub(super) fn seconds(given: Option<Seconds>, default: u64) -> Duration {
    given.map_or(Duration::from_secs(default), |it| it.0)
}

pub(super) fn positive(given: Option<PositiveSeconds>, default: u64) -> Duration {
    given.map_or(Duration::from_secs(default), |it| it.0)
}

pub(super) fn number(given: Option<u32>, default: u32) -> u32 {
    given.filter(|it| *it != 0).unwrap_or(default)
}

pub(super) fn text(given: Option<String>, default: &str) -> String {
    given
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

pub(super) fn file(given: Option<PathBuf>) -> Option<PathBuf> {
    given.filter(|it| !it.as_os_str().is_empty())
}
