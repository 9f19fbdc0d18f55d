//! The section `admin`.

use std::{net::IpAddr, path::PathBuf};

use runtime::{
    listen::{ListenAddress, Listens as _, Network},
    listens, section,
    tls::Subject,
    yaml::{At, NonEmpty, Setting, YamlError},
};
use serde::{Deserialize, Serialize};

use crate::Role;

section! {
    /// The operator's API. Not among the keys of GitLab's kas.
    pub struct AdminSection: Default {
        /// Whether it is served.
        pub enabled: bool = true,
        /// Where it is.
        pub listen: AdminListen = AdminListen::default(),
        /// What a token without `role=` may do, a client certificate that no entry of `certificate_roles` is for, and
        /// whoever is on this machine where neither is demanded. Nobody is an administrator without being named.
        pub default_role: DefaultRole = DefaultRole::Operator,
        /// The roles of client certificates: the first entry that is for one decides. Where tokens are demanded too, these
        /// decide instead.
        pub certificate_roles: Vec<CertificateRole> = Vec::new(),
    }
    check = check_roles;
}

/// What who has no role of their own may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultRole {
    /// Read.
    Viewer,
    /// Also end sessions and change how much is logged.
    #[default]
    Operator,
}

impl Setting for DefaultRole {}

impl From<DefaultRole> for Role {
    fn from(role: DefaultRole) -> Self {
        match role {
            DefaultRole::Viewer => Self::Viewer,
            DefaultRole::Operator => Self::Operator,
        }
    }
}

section! {
    /// The role of client certificates. All that is given must be in a certificate's subject.
    pub struct CertificateRole {
        /// What they may do.
        pub role: Role,
        /// `CN`, as in `alice`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub common_name: Option<NonEmpty> = None,
        /// One of `O`, as in `system:masters`: what Kubernetes takes for a group.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub organization: Option<NonEmpty> = None,
        /// One of `OU`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub organizational_unit: Option<NonEmpty> = None,
    }
}

impl CertificateRole {
    /// Whether it is for a certificate of this subject.
    pub(crate) fn is_for(&self, subject: &Subject) -> bool {
        let has = |wanted: &Option<NonEmpty>, known: &[String]| {
            wanted
                .as_ref()
                .is_none_or(|wanted| known.contains(&wanted.0))
        };
        has(&self.common_name, subject.common_name.as_slice())
            && has(&self.organization, &subject.organizations)
            && has(&self.organizational_unit, &subject.organizational_units)
    }

    /// Whether it is for anybody in particular: without that it would be for everybody.
    fn names_somebody(&self) -> bool {
        self.common_name.is_some()
            || self.organization.is_some()
            || self.organizational_unit.is_some()
    }
}

impl AdminSection {
    fn check_roles(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.certificate_roles.is_empty() {
            return Ok(());
        }
        if !self
            .certificate_roles
            .iter()
            .all(CertificateRole::names_somebody)
        {
            return Err(at.mistake(
                "an entry of admin.certificate_roles needs common_name, organization or organizational_unit",
            ));
        }
        if self.listen.tokens_file.is_some() {
            return Err(at.mistake(
                "admin.certificate_roles has no effect beside admin.listen.tokens_file, whose tokens decide: write \
                 `role=ROLE` before them, or leave one of both out",
            ));
        }
        if self.listen.client_ca_certificate_file.is_none() {
            return Err(
                at.mistake("admin.certificate_roles needs admin.listen.client_ca_certificate_file")
            );
        }
        Ok(())
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
        /// A file of tokens, one a line, of at least 32 bytes each, perhaps behind a name and `role=ROLE`.
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
    fn roles_of_certificates_are_for_whom_they_say_and_the_first_one_decides() {
        let listen = "listen: {certificate_file: c, key_file: k, client_ca_certificate_file: ca}";
        let roles = "certificate_roles: [{role: viewer, common_name: bob, organization: admins}, \
                     {role: administrator, organization: admins}, {role: operator, organizational_unit: sre}]";
        let section = read(&format!("{listen}\n{roles}")).unwrap();
        let role = |name: &str, organizations: &[&str], units: &[&str]| {
            let texts = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect();
            let subject = Subject {
                common_name: Some(name.to_owned()),
                organizations: texts(organizations),
                organizational_units: texts(units),
            };
            let mut roles = section.certificate_roles.iter();
            roles.find(|it| it.is_for(&subject)).map(|it| it.role)
        };

        assert_eq!(section.default_role, DefaultRole::Operator);
        assert_eq!(
            role("ana", &["dev", "admins"], &[]),
            Some(Role::Administrator)
        );
        assert_eq!(role("bob", &["admins"], &["sre"]), Some(Role::Viewer));
        assert_eq!(role("bob", &["dev"], &["sre"]), Some(Role::Operator));
        assert_eq!(role("admins", &[], &[]), None);
        let why = |text: &str| read(text).unwrap_err();
        assert!(why(roles).contains("needs admin.listen.client_ca_certificate_file"));
        let both = listen.replace('}', ", tokens_file: t}");
        assert!(why(&format!("{both}\n{roles}")).contains("whose tokens decide"));
        let nobody = format!("{listen}\ncertificate_roles: [{{role: viewer}}]");
        assert!(why(&nobody).contains("needs common_name, organization"));
        assert!(why("default_role: administrator").contains("administrator"));
    }

    #[test]
    fn client_certificates_need_tls() {
        let mistake = read("listen: {client_ca_certificate_file: ca}").unwrap_err();

        assert!(mistake.contains("needs certificate_file"), "{mistake}");
    }
}
