//! The sections `api` and `private_api`.

use std::path::PathBuf;

use runtime::{
    listen::Network,
    listens, section,
    yaml::{At, FilePath, NoEffect, PositiveSeconds, YamlError},
};

use super::unused::{NoAge, OneGrace};

section! {
    /// The API that GitLab calls.
    pub struct Api {
        /// Where it is.
        pub listen: ApiListen,
    }
}

section! {
    /// Where GitLab connects.
    pub struct ApiListen {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// The secret that GitLab's tokens are signed with.
        pub authentication_secret_file: FilePath,
        /// After this time a connection is replaced.
        pub max_connection_age: PositiveSeconds = PositiveSeconds::new(7200),
        /// How long to accept on after the signal to stop.
        pub listen_grace_period: NoEffect<PositiveSeconds, OneGrace> =
            NoEffect::new(PositiveSeconds::new(5)),
    }
    check = check_listener;
}
listens!(ApiListen, "127.0.0.1:8153");

section! {
    /// The API that other replicas call.
    pub struct PrivateApi {
        /// Where it is.
        pub listen: PrivateApiListen,
    }
}

section! {
    /// Where other replicas connect.
    pub struct PrivateApiListen {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// The secret that replicas prove to each other.
        pub authentication_secret_file: FilePath,
        /// After this time a connection would be replaced.
        pub max_connection_age: NoEffect<PositiveSeconds, NoAge> =
            NoEffect::new(PositiveSeconds::new(7200)),
        /// How long to accept on after the signal to stop.
        pub listen_grace_period: NoEffect<PositiveSeconds, OneGrace> =
            NoEffect::new(PositiveSeconds::new(5)),
        /// A CA that signs the other replicas' certificates.
        pub ca_certificate_file: Option<PathBuf> = None,
        /// Whoever calls must show a certificate that this CA has signed; replicas show the listener's.
        pub client_ca_certificate_file: Option<PathBuf> = None,
        /// Replicas show each other tokens as GitLab's kas does, which are good at every replica, and need not
        /// prove themselves before. For sets in which GitLab's kas is a replica too.
        pub gitlab_tokens: bool = false,
    }
    check = check_certificates;
}
listens!(PrivateApiListen, "127.0.0.1:8155");

impl PrivateApiListen {
    fn check_certificates(&self, at: &At<'_>) -> Result<(), YamlError> {
        self.check_listener(at)?;
        if self.client_ca_certificate_file.is_some() && self.certificate_file.is_none() {
            return Err(at.mistake(
                "private_api.listen: client_ca_certificate_file needs certificate_file and key_file",
            ));
        }
        Ok(())
    }
}
