//! The command line: the flags of GitLab's agentk, and of kubectl.

mod doctor;
mod kubernetes;
mod rbac;
mod receptive;
mod tracing;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args as _, Command, CommandFactory as _, FromArgMatches as _, Parser};
use http::HeaderMap;
use runtime::{
    connect::{ProxySetting, ProxyUrl, Target},
    tls::{ClientTlsOptions, Identity},
};

use crate::{
    cluster::source::ClusterSource,
    config::{Config, ConfigError, Join, KAS_CONNECTIONS, Link, Observability, header},
    features::Feature,
    pod::Pod,
    token::Token,
    version,
};
pub use doctor::Doctor;
use kubernetes::KubernetesFlags;
pub use rbac::Rbac;
use receptive::ReceptiveFlags;
use tracing::TracingFlags;

/// Connects a Kubernetes cluster to kas.
#[derive(Debug, Parser)]
#[command(name = "agentk", version = version::LONG, args_override_self = true)]
pub struct Flags {
    /// URL of kas (ws://, wss://, grpc:// or grpcs://); omit it if kas dials the agent
    #[arg(long, value_name = "URL")]
    kas_address: Option<String>,
    /// File with the agent's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with a join token, by which the agent obtains its own token when there is none yet. May also be named
    /// by AGENTK_JOIN_TOKEN_FILE
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Secret in the agent's namespace to which the agent writes that token; without it, to --token-file
    #[arg(long, value_name = "NAME")]
    token_secret: Option<String>,
    /// File with CA certificates (PEM) for the connection to kas
    #[arg(long, value_name = "FILE")]
    ca_cert_file: Option<PathBuf>,
    /// Header sent to kas, as `Name: value`; may be repeated
    #[arg(long, value_name = "HEADER")]
    kas_header: Vec<String>,
    /// Do not verify the certificate of kas (insecure)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    kas_insecure_skip_tls_verify: bool,
    /// Name to verify in the certificate of kas, if it differs from the host of --kas-address
    #[arg(long, value_name = "NAME")]
    kas_tls_server_name: Option<String>,
    /// HTTP proxy for connections to kas; overrides the environment
    #[arg(long, value_name = "URL")]
    kas_proxy: Option<String>,
    /// Number of connections to kas; with two, the loss of one does not delay requests
    #[arg(long, value_name = "NUMBER", default_value_t = KAS_CONNECTIONS, value_parser = kas_connections)]
    kas_connections: usize,
    /// HTTP proxy for connections to the Kubernetes API; overrides the environment and the kubeconfig
    #[arg(long, value_name = "URL")]
    kubernetes_proxy: Option<String>,
    /// Network on which metrics and probes are served
    #[arg(long, value_name = "NETWORK", default_value = "tcp")]
    observability_listen_network: String,
    /// Address on which metrics and probes are served
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    observability_listen_address: String,
    /// Certificate (PEM) for serving metrics and probes over TLS
    #[arg(long, value_name = "FILE")]
    observability_cert_file: Option<PathBuf>,
    /// Private key (PEM) for serving metrics and probes over TLS
    #[arg(long, value_name = "FILE")]
    observability_key_file: Option<PathBuf>,
    #[command(flatten)]
    tracing: TracingFlags,
    /// Features to enable, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    features: Vec<Feature>,
    #[command(flatten)]
    receptive: ReceptiveFlags,
    #[command(flatten)]
    kubernetes: KubernetesFlags,
}

/// A command line.
#[derive(Debug)]
pub enum CommandLine {
    /// Runs an agent.
    Run(Box<Flags>),
    /// Prints the RBAC rules that it needs.
    Rbac(Rbac),
    /// Looks at the way to kas and at the cluster.
    Doctor(Box<Doctor>),
}

impl CommandLine {
    /// Reads a command line. Without a command it is an agent's.
    ///
    /// # Errors
    /// What clap says of it, help and version included.
    pub fn read(
        line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let command = Flags::command()
            .subcommand(Rbac::augment_args(Command::new("rbac")))
            .subcommand(Doctor::augment_args(Command::new("doctor")))
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true);
        let matches = command.try_get_matches_from(line)?;
        match matches.subcommand() {
            Some(("doctor", doctor)) => {
                Doctor::from_arg_matches(doctor).map(|it| Self::Doctor(Box::new(it)))
            }
            Some((_, rbac)) => Rbac::from_arg_matches(rbac).map(Self::Rbac),
            None => Flags::from_arg_matches(&matches).map(|flags| Self::Run(Box::new(flags))),
        }
    }
}

impl Flags {
    /// Together with the environment, a whole configuration.
    ///
    /// # Errors
    /// [`ConfigError`], naming the flag or the variable.
    pub fn into_config(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let token = self.token(&variable)?;
        let join = self.join(&token, &variable)?;
        let cluster = ClusterSource::Options(Box::new(self.kubernetes.into()));
        let link = link(self.kas_address, self.receptive, &variable)?;
        let mut config = Config::linked(link, token, cluster);
        if join.is_some() && matches!(config.link, Link::Receive(_)) {
            return Err(ConfigError::Join(
                "--join-token-file is for agents that dial kas: one that kas dials needs its token",
            ));
        }
        config.join = join;
        config.kas_tls = ClientTlsOptions {
            ca_files: self.ca_cert_file.into_iter().collect(),
            insecure_skip_verify: self.kas_insecure_skip_tls_verify,
            server_name: self.kas_tls_server_name.filter(|name| !name.is_empty()),
            ..ClientTlsOptions::default()
        };
        config.kas_headers = headers(&self.kas_header)?;
        config.kas_proxy = proxy("--kas-proxy", self.kas_proxy)?;
        config.kas_connections = self.kas_connections;
        config.kubernetes_proxy = proxy("--kubernetes-proxy", self.kubernetes_proxy)?;
        config.pod = Some(pod(&variable)?);
        config.features = self.features;
        config.observability = Some(Observability {
            address: address(
                &self.observability_listen_network,
                self.observability_listen_address,
                "observability",
            )?,
            tls: identity(
                self.observability_cert_file,
                self.observability_key_file,
                "observability",
            )?,
        });
        config.tracing = self.tracing.into_config()?;
        Ok(config)
    }

    fn token(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Token, ConfigError> {
        match (given(self.token_file.clone()), variable("AGENTK_TOKEN")) {
            (Some(file), None) => Ok(Token::File(file)),
            (None, Some(token)) => Ok(Token::Fixed(token.into())),
            (Some(_), Some(_)) => Err(ConfigError::Token("both are set")),
            (None, None) => Err(ConfigError::Token("neither is set")),
        }
    }

    fn join(
        &self,
        token: &Token,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Join>, ConfigError> {
        let file = given(self.join_token_file.clone())
            .or_else(|| given(variable("AGENTK_JOIN_TOKEN_FILE").map(PathBuf::from)));
        let secret = self.token_secret.clone().filter(|name| !name.is_empty());
        match (file, token) {
            (None, _) if secret.is_some() => Err(ConfigError::Join(
                "--token-secret goes together with --join-token-file",
            )),
            (None, _) => Ok(None),
            (Some(token_file), Token::File(own)) => Ok(Some(Join {
                token_file,
                own_token_file: own.clone(),
                secret,
            })),
            (Some(_), Token::Fixed(_) | Token::Kept { .. }) => Err(ConfigError::Join(
                "--join-token-file needs --token-file, which the agent's own token is to be in; AGENTK_TOKEN has one \
                 already",
            )),
        }
    }
}

fn link(
    kas_address: Option<String>,
    receptive: ReceptiveFlags,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Link, ConfigError> {
    let kas_address = kas_address.filter(|address| !address.is_empty());
    match (kas_address, receptive.into_config(variable)?) {
        (Some(address), None) => Ok(Link::Dial(Target::parse(&address)?)),
        (None, Some(receptive)) => Ok(Link::Receive(Box::new(receptive))),
        (Some(_), Some(_)) => Err(ConfigError::Link("both are set")),
        (None, None) => Err(ConfigError::Link("neither is set")),
    }
}

/// A number of connections out of range.
#[derive(Debug, thiserror::Error)]
#[error("it must be a number from 1 to 8")]
struct KasConnectionsError;

fn kas_connections(text: &str) -> Result<usize, KasConnectionsError> {
    match text.parse() {
        Ok(number @ 1..=8) => Ok(number),
        Ok(_) | Err(_) => Err(KasConnectionsError),
    }
}

fn headers(texts: &[String]) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    for text in texts {
        let (name, value) = header(text)?;
        let added = headers.try_append(name, value);
        added.map_err(|_| ConfigError::Headers)?;
    }
    Ok(headers)
}

fn proxy(flag: &'static str, url: Option<String>) -> Result<ProxySetting, ConfigError> {
    match url.filter(|url| !url.is_empty()) {
        Some(url) => ProxyUrl::parse(&url)
            .map(ProxySetting::Url)
            .map_err(|error| ConfigError::Proxy(flag, error)),
        None => ProxySetting::from_environment()
            .map_err(|error| ConfigError::Proxy("environment", error)),
    }
}

fn pod(variable: impl Fn(&str) -> Option<String>) -> Result<Pod, ConfigError> {
    let needed = |name, field| {
        variable(name)
            .filter(|value| !value.is_empty())
            .ok_or(ConfigError::Pod(name, field))
    };
    Ok(Pod {
        namespace: needed("POD_NAMESPACE", "metadata.namespace")?,
        name: needed("POD_NAME", "metadata.name")?,
    })
}

fn address(network: &str, address: String, flag: &'static str) -> Result<String, ConfigError> {
    match network {
        "tcp" | "tcp6" => Ok(address),
        "tcp4" => Ok(match address.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => address,
        }),
        other => Err(ConfigError::Network(flag, other.to_owned())),
    }
}

fn identity(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    flag: &'static str,
) -> Result<Option<Identity>, ConfigError> {
    match (given(certificate), given(key)) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
        (Some(_), None) | (None, Some(_)) => Err(ConfigError::CertificatePair(flag)),
    }
}

fn given(file: Option<PathBuf>) -> Option<PathBuf> {
    file.filter(|file| !file.as_os_str().is_empty())
}

#[cfg(test)]
mod tests;
