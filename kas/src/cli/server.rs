//! Which running server a command asks: by flags, by a context of a file, or the one on this machine.

use std::path::{Path, PathBuf};

use admin::{Client, ClientOptions};
use clap::Args;
use runtime::{
    section,
    tls::Identity,
    yaml::{self, FilePath, NonEmpty},
};

use super::CommandError;

/// Where the admin API of a server is that nobody has named.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8156";
/// Where contexts are below the folder of configurations.
const CONTEXTS: &str = "kas/contexts.yaml";

/// The server to ask.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerArgs {
    /// Admin API of a running server: http://HOST:PORT, https://HOST:PORT or unix:///PATH
    #[arg(
        long,
        value_name = "URL",
        env = "KAS_SERVER",
        conflicts_with = "context"
    )]
    server: Option<String>,
    /// Context of the file of contexts, in place of its current one
    #[arg(long, value_name = "NAME", env = "KAS_CONTEXT")]
    context: Option<String>,
    /// File with a token for the admin API
    #[arg(long, value_name = "FILE", env = "KAS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// File with the CA of the server's certificate
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with a certificate to show to the server
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    client_certificate_file: Option<PathBuf>,
    /// File with its key
    #[arg(long, value_name = "FILE", requires = "client_certificate_file")]
    client_key_file: Option<PathBuf>,
}

section! {
    /// The servers that somebody asks.
    struct Contexts: Default {
        /// The one that is asked where no other is named.
        pub current: Option<NonEmpty> = None,
        /// All of them.
        pub contexts: Vec<Context> = Vec::new(),
    }
}

section! {
    /// A server.
    struct Context {
        /// Its name.
        pub name: NonEmpty,
        /// Its admin API.
        pub server: NonEmpty,
        /// A file with a token.
        pub token_file: Option<FilePath> = None,
        /// The CA of its certificate.
        pub ca_file: Option<FilePath> = None,
        /// A certificate to show.
        pub client_certificate_file: Option<FilePath> = None,
        /// Its key.
        pub client_key_file: Option<FilePath> = None,
    }
}

impl ServerArgs {
    /// Whether a flag or the environment names a server.
    pub(super) fn is_named(&self) -> bool {
        self.server.is_some() || self.context.is_some()
    }

    /// A connection to the server.
    pub(super) async fn connect(&self) -> Result<Client, CommandError> {
        Ok(Client::connect(&self.options(contexts_file().as_deref())?).await?)
    }

    fn options(&self, contexts: Option<&Path>) -> Result<ClientOptions, CommandError> {
        let mut options = self.place(contexts)?;
        if let Some(file) = &self.token_file {
            options.token_file = Some(file.clone());
        }
        if let Some(file) = &self.ca_file {
            options.ca_files = vec![file.clone()];
        }
        let (certificate, key) = (&self.client_certificate_file, &self.client_key_file);
        options.identity = identity(certificate.as_deref(), key.as_deref()).or(options.identity);
        Ok(options)
    }

    /// The server that is named, or else the current context's, or else that of this machine.
    fn place(&self, contexts: Option<&Path>) -> Result<ClientOptions, CommandError> {
        let at = |server: &str| ClientOptions {
            server: server.to_owned(),
            ..ClientOptions::default()
        };
        if let Some(server) = &self.server {
            return Ok(at(server));
        }
        let Some(file) = contexts.filter(|file| self.context.is_some() || file.exists()) else {
            return match &self.context {
                None => Ok(at(DEFAULT_SERVER)),
                Some(name) => Err(CommandError::Usage(format!(
                    "there is no context `{name}`: neither KAS_CONTEXTS nor HOME says where the file of contexts is"
                ))),
            };
        };
        let known = read(file)?;
        let current = known.current.as_ref().map(|it| it.0.as_str());
        let Some(wanted) = self.context.as_deref().or(current) else {
            return Ok(at(DEFAULT_SERVER));
        };
        let found = known.contexts.into_iter().find(|it| it.name.0 == wanted);
        found.map(Context::options).ok_or_else(|| {
            let file = file.display();
            CommandError::Usage(format!("there is no context `{wanted}` in {file}"))
        })
    }
}

impl Context {
    fn options(self) -> ClientOptions {
        let path = |file: FilePath| file.0;
        let certificate = self.client_certificate_file.map(path);
        let key = self.client_key_file.map(path);
        ClientOptions {
            server: self.server.0,
            token_file: self.token_file.map(path),
            ca_files: self.ca_file.map(path).into_iter().collect(),
            identity: identity(certificate.as_deref(), key.as_deref()),
        }
    }
}

fn identity(certificate: Option<&Path>, key: Option<&Path>) -> Option<Identity> {
    Some(Identity {
        certificate: certificate?.to_owned(),
        key: key?.to_owned(),
    })
}

fn contexts_file() -> Option<PathBuf> {
    let folder = |name: &str| {
        let value = std::env::var_os(name).filter(|it| !it.is_empty());
        value.map(PathBuf::from)
    };
    folder("KAS_CONTEXTS")
        .or_else(|| folder("XDG_CONFIG_HOME").map(|it| it.join(CONTEXTS)))
        .or_else(|| folder("HOME").map(|it| it.join(".config").join(CONTEXTS)))
}

fn read(file: &Path) -> Result<Contexts, CommandError> {
    let text = std::fs::read_to_string(file).map_err(|error| CommandError::Io {
        attempt: format!("cannot read the file of contexts {}", file.display()),
        error,
    })?;
    let (contexts, _) =
        yaml::read_section(file, &text).map_err(crate::config::ConfigError::from)?;
    Ok(contexts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "current: prod\ncontexts:\n\
        - {name: prod, server: 'https://kas.example:8156', token_file: /t, ca_file: /ca}\n\
        - {name: test, server: 'http://127.0.0.1:1'}\n";

    fn options(args: &ServerArgs, text: Option<&str>) -> Result<ClientOptions, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contexts.yaml");
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        args.options(Some(&file)).map_err(|error| error.to_string())
    }

    fn context(name: &str) -> ServerArgs {
        ServerArgs {
            context: Some(name.to_owned()),
            ..ServerArgs::default()
        }
    }

    #[test]
    fn the_current_context_counts_unless_another_is_named() {
        let current = options(&ServerArgs::default(), Some(FILE)).unwrap();
        let other = options(&context("test"), Some(FILE)).unwrap();

        assert_eq!(current.server, "https://kas.example:8156");
        assert_eq!(current.token_file.as_deref(), Some(Path::new("/t")));
        assert_eq!(current.ca_files, [Path::new("/ca")]);
        assert_eq!(other.server, "http://127.0.0.1:1");
        assert!(
            options(&context("x"), Some(FILE))
                .unwrap_err()
                .contains("no context `x`")
        );
    }

    #[test]
    fn a_flag_wins_and_without_anything_it_is_the_server_of_this_machine() {
        let flag = ServerArgs {
            server: Some("http://a:1".to_owned()),
            ..ServerArgs::default()
        };
        let other_token = ServerArgs {
            token_file: Some("/u".into()),
            ..ServerArgs::default()
        };

        assert_eq!(options(&flag, Some(FILE)).unwrap().server, "http://a:1");
        let other_token = options(&other_token, Some(FILE)).unwrap();
        assert_eq!(other_token.server, "https://kas.example:8156");
        assert_eq!(other_token.token_file.as_deref(), Some(Path::new("/u")));
        let none = options(&ServerArgs::default(), None).unwrap();
        assert_eq!(none.server, DEFAULT_SERVER);
    }

    #[test]
    fn a_typo_in_the_file_is_named_with_its_place() {
        let error = options(&ServerArgs::default(), Some("curent: prod\n"));

        // An unknown key has no effect, so that the server of this machine is asked.
        assert_eq!(error.unwrap().server, DEFAULT_SERVER);
        let error = options(&ServerArgs::default(), Some("contexts: [{name: a}]\n")).unwrap_err();
        assert!(error.contains("server"), "{error}");
    }
}
