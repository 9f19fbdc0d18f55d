//! `kas login` and `kas logout`: a person logs in at the OpenID provider of a server.

pub(super) mod account;
mod browser;
pub(super) mod provider;
pub(super) mod session;

use std::path::PathBuf;

use clap::Args;
use oauth2::ConfigurationError;
use runtime::{connect::ExchangeError, shell::quoted, tls::TlsError};

use super::{CommandError, Output};
use account::Account;
use provider::Provider;
use session::Session;

/// Where a person logs in, and how.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// URL of the Kubernetes API proxy, usually ending in /k8s-proxy/
    #[arg(long, value_name = "URL")]
    server: String,
    /// PEM file with the CA of the server's certificate
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// Issuer to log in at, where the server trusts several
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Client id, in place of the one that the server names
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// File with the client's secret, where the issuer demands one
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// PEM file with the CA of the issuer's certificate
    #[arg(long, value_name = "FILE")]
    issuer_ca_file: Option<PathBuf>,
    /// Log in with a code on another device, for machines without a browser
    #[arg(long)]
    device: bool,
    /// Only print the URL; open no browser
    #[arg(long)]
    no_browser: bool,
    /// Port of localhost to which the browser comes back; any free one by default
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    redirect_port: u16,
}

/// Which login to forget.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// URL of the Kubernetes API proxy
    #[arg(long, value_name = "URL")]
    server: String,
}

/// Why somebody is not logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A server cannot be asked.
    #[error("cannot ask {what}")]
    Exchange {
        /// Which one.
        what: &'static str,
        /// The cause.
        #[source]
        error: ExchangeError,
    },
    /// A server does not do what it was asked for.
    #[error("{what} refuses: {words}")]
    Refused {
        /// Which one.
        what: &'static str,
        /// In its words, or its status.
        words: String,
    },
    /// What a server says is not understood.
    #[error("cannot read the answer of {what}: {why}")]
    Answer {
        /// Which one.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A CA file cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A URL in a document of the issuer is none.
    #[error("the issuer's {name}: {why}")]
    Endpoint {
        /// Which one.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It has no device flow.
    #[error("the issuer has no device flow: log in without --device")]
    NoDeviceFlow(#[source] ConfigurationError),
    /// The browser did not come back.
    #[error("nobody logged in within {0} minutes: try again")]
    Timeout(u64),
    /// A file or socket.
    #[error("cannot {attempt}")]
    Io {
        /// What was tried.
        attempt: String,
        /// The cause.
        #[source]
        error: std::io::Error,
    },
    /// There is no login.
    #[error(
        "not logged in at {server}: run `kas login --server {}`",
        quoted(server)
    )]
    NoSession {
        /// The server.
        server: String,
    },
    /// The login is over.
    #[error(
        "the login at {server} is over ({why}): run `kas login --server {}`",
        quoted(server)
    )]
    Over {
        /// The server.
        server: String,
        /// Why.
        why: String,
    },
    /// Another command holds it.
    #[error("another kas command is refreshing the login: try again")]
    Locked,
    /// Neither the environment nor the user has a place for it.
    #[error("there is no place for logins: set HOME, XDG_STATE_HOME or KAS_LOGINS")]
    NoFolder,
}

pub(super) async fn login(args: LoginArgs, output: &mut Output<'_>) -> Result<(), CommandError> {
    let account = Account::new(&args.server, args.certificate_authority.as_deref())?;
    let issuers = account.issuers().await?;
    let known = issuers.iter();
    let mut fitting = known.filter(|it| args.issuer.as_ref().is_none_or(|url| *url == it.issuer));
    let issuer = match (fitting.next(), fitting.next(), &args.issuer) {
        (Some(issuer), None, _) => issuer.clone(),
        (Some(_), Some(_), _) => {
            let urls: Vec<_> = issuers.iter().map(|it| it.issuer.as_str()).collect();
            return Err(CommandError::Usage(format!(
                "the server trusts several issuers: choose one with --issuer: {}",
                urls.join(", ")
            )));
        }
        (None, _, Some(url)) => {
            return Err(CommandError::Usage(format!(
                "nobody logs in at {url} for this server: leave --issuer out, or correct it"
            )));
        }
        (None, _, None) => {
            return Err(CommandError::Usage(
                "the server trusts no issuer at which people log in: its standalone file needs `issuers` with a \
                 client_id"
                    .to_owned(),
            ));
        }
    };
    let client_id = args.client_id.unwrap_or(issuer.client_id);
    let provider = Provider::discover(provider::Client {
        issuer: issuer.issuer,
        id: client_id,
        secret_file: args.client_secret_file,
        ca_file: args.issuer_ca_file,
    })
    .await?;
    let tokens = if args.device {
        provider.by_device(&issuer.scopes, output).await?
    } else {
        let open = !args.no_browser;
        browser::log_in(&provider, &issuer.scopes, args.redirect_port, open, output).await?
    };
    let session = Session::new(
        account.server(),
        args.certificate_authority,
        provider.client(),
        tokens,
    )?;
    let permitted = account.agents(&session.bearer(0)).await?;
    session.save()?;
    output.hint(&format!(
        "Logged in as {}; {} agent(s) may be used: `kas kubeconfig --all --server {}` writes a kubeconfig for them.",
        permitted.identity,
        permitted.agents.len(),
        quoted(account.server())
    ))
}

pub(super) fn logout(args: &LogoutArgs, output: &mut Output<'_>) -> Result<(), CommandError> {
    Session::forget(&args.server)?;
    output.hint("Logged out here. What the issuer gave out stays good until it expires.")
}
