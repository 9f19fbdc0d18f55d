//! The section `admin`.

use std::{net::IpAddr, path::PathBuf};

use runtime::{
    listen::{ListenAddress, Listens as _, Network},
    listens, section,
    yaml::{At, YamlError},
};

section! {
    /// The operator's API. Not among the keys of GitLab's kas.
    pub struct AdminSection: Default {
        /// Whether it is served.
        pub enabled: bool = true,
        /// Where it is.
        pub listen: AdminListen = AdminListen::default(),
    }
}

section! {
    /// Where operators connect. All that is configured here is demanded of each of them.
    pub struct AdminListen: Default {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket. Elsewhere than on loopback it needs TLS, and tokens or client certificates.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// A file of tokens, one a line, of at least 32 bytes each, perhaps behind a name.
        pub tokens_file: Option<PathBuf> = None,
        /// Whoever connects must show a certificate that this CA has signed.
        pub client_ca_certificate_file: Option<PathBuf> = None,
    }
    check = check_protection;
}
listens!(AdminListen, "127.0.0.1:8156");

impl AdminListen {
    /// Whether nobody has chosen the address: a second server on one machine does without it then.
    #[must_use]
    pub fn is_default_address(&self) -> bool {
        self.network != Network::Unix && self.address == Self::DEFAULT_ADDRESS
    }

    fn check_protection(&self, at: &At<'_>) -> Result<(), YamlError> {
        self.check_listener(at)?;
        if self.client_ca_certificate_file.is_some() && self.certificate_file.is_none() {
            return Err(at.mistake(
                "admin.listen: client_ca_certificate_file needs certificate_file and key_file",
            ));
        }
        let secured = self.tokens_file.is_some() || self.client_ca_certificate_file.is_some();
        if is_local(&self.socket()) || (self.certificate_file.is_some() && secured) {
            return Ok(());
        }
        Err(at.mistake(format!(
            "admin.listen.address `{}` is reached from other machines: add certificate_file and key_file, and \
             tokens_file or client_ca_certificate_file, or listen on loopback such as {}",
            self.address,
            Self::DEFAULT_ADDRESS
        )))
    }
}

/// Whether only programs of this machine reach it.
fn is_local(address: &ListenAddress) -> bool {
    if address.network == Network::Unix {
        return true;
    }
    let text = address.host_port();
    let host = text.rsplit_once(':').map_or(&*text, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use runtime::yaml::read_section;

    use super::*;

    fn read(text: &str) -> Result<AdminSection, String> {
        read_section(Path::new("kas.yaml"), text)
            .map(|(section, _)| section)
            .map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn it_is_on_and_for_this_machine_only_unless_that_is_changed() {
        let section = read("{}").unwrap();

        assert!(section.enabled && section.listen.is_default_address());
        assert_eq!(section.listen.address, "127.0.0.1:8156");
        assert!(!read("enabled: false").unwrap().enabled);
    }

    #[test]
    fn what_only_this_machine_reaches_needs_nothing() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "'[::1]:1'", "localhost:1"] {
            let text = format!("listen: {{address: {address}}}");
            assert!(read(&text).is_ok(), "{address}");
        }
        assert!(read("listen: {network: unix, address: /run/kas.sock}").is_ok());
    }

    #[test]
    fn elsewhere_it_needs_tls_and_a_proof_of_who_asks() {
        for address in [":8156", "0.0.0.0:8156", "'[::]:8156'", "kas.example.com:1"] {
            for more in ["", ", tokens_file: t", ", certificate_file: c, key_file: k"] {
                let text = format!("listen: {{address: {address}{more}}}");
                let mistake = read(&text).unwrap_err();
                assert!(
                    mistake.contains("reached from other machines"),
                    "{text}: {mistake}"
                );
            }
            for more in ["tokens_file: t", "client_ca_certificate_file: ca"] {
                let text = format!(
                    "listen: {{address: {address}, certificate_file: c, key_file: k, {more}}}"
                );
                assert!(read(&text).is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn client_certificates_need_tls() {
        let mistake = read("listen: {client_ca_certificate_file: ca}").unwrap_err();

        assert!(mistake.contains("needs certificate_file"), "{mistake}");
    }
}
