//! The commands that install an agentk by its join token, as people copy them into a shell.

use std::str::FromStr;

use http::Uri;
use runtime::shell::quoted;

use super::registration::Invitation;

/// Says where images and charts of a release are kept; kas's chart sets it to where its own image is.
const IMAGE_REGISTRY_VARIABLE: &str = "AGENTK_IMAGE_REGISTRY";
/// Says which chart Helm takes.
const CHART_VARIABLE: &str = "AGENTK_CHART";
/// Bytes of an address or a name, at most.
const MAX_BYTES: usize = 1024;
/// In the place of an address that is not known.
const UNKNOWN_ADDRESS: &str = "wss://KAS-ADDRESS";
/// In the place of a registry that is not known.
const UNKNOWN_IMAGE_REGISTRY: &str = "IMAGE-REGISTRY";
/// The chart in the source tree, where a release's is not known.
const CHART_IN_SOURCES: &str = "deploy/k8s/charts/agentk";
/// The chart of this release.
const CHART_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A text that is no address at which agents reach kas.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the address of kas must be a URL such as wss://kas.example.com: grpc, grpcs, ws or wss, without spaces, commas and quotes"
)]
pub struct KasAddressError;

/// Where agents reach kas: a URL that is the same in Helm's `--set` and, quoted, in a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KasAddress(String);

impl FromStr for KasAddress {
    type Err = KasAddressError;

    fn from_str(text: &str) -> Result<Self, KasAddressError> {
        let uri: Option<Uri> = text.parse().ok();
        let is_address = uri.is_some_and(|uri| {
            let scheme = uri.scheme_str();
            uri.host().is_some() && matches!(scheme, Some("grpc" | "grpcs" | "ws" | "wss"))
        });
        match is_address && is_plain(text, b":/.-_~%[]") {
            true => Ok(Self(text.to_owned())),
            false => Err(KasAddressError),
        }
    }
}

/// A text that is no registry, or means another one in Helm's `--set`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a registry of images is a host with a path if need be, such as registry.example.com/team")]
pub struct ImageRegistryError;

/// Where images are kept: a name that is the same in Helm's `--set` and, quoted, in a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRegistry(String);

impl FromStr for ImageRegistry {
    type Err = ImageRegistryError;

    fn from_str(text: &str) -> Result<Self, ImageRegistryError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        match is_plain(text, b":/.-_[]") {
            true => Ok(Self(text.to_owned())),
            false => Err(ImageRegistryError),
        }
    }
}

/// A file's name that Helm's `--set-file` would take apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Helm takes names of files with a comma, a backslash or a brace apart: give the file another name"
)]
pub struct CaFileError;

/// The CA of kas's certificate, or the certificate itself, in a file that is there where the commands are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFile(String);

impl FromStr for CaFile {
    type Err = CaFileError;

    fn from_str(text: &str) -> Result<Self, CaFileError> {
        let taken_apart = |letter: char| ",\\{}".contains(letter) || letter.is_control();
        match text.is_empty() || text.contains(taken_apart) {
            true => Err(CaFileError),
            false => Ok(Self(text.to_owned())),
        }
    }
}

/// Letters, digits and `others`, some and not too many.
fn is_plain(text: &str, others: &[u8]) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(plain)
}

/// What an installation of agentk needs to know besides its join token. For what is not known, the commands have a word in
/// capitals.
#[derive(Debug, Clone, Default)]
pub struct Installation {
    /// Where agents reach kas.
    pub kas_address: Option<KasAddress>,
    /// What they know it by, if that is no CA of the system's.
    pub kas_ca_file: Option<CaFile>,
    /// Where agentk's image is, and under `charts/` its chart.
    pub image_registry: Option<ImageRegistry>,
    /// The chart, as Helm takes it, if it is elsewhere.
    pub chart: Option<String>,
}

impl Installation {
    /// With the registry that the environment names, if it is one, and the chart.
    #[must_use]
    pub fn from_environment() -> Self {
        let told = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
        Self {
            image_registry: told(IMAGE_REGISTRY_VARIABLE).and_then(|it| it.parse().ok()),
            chart: told(CHART_VARIABLE),
            ..Self::default()
        }
    }

    /// What installs agentk in a cluster.
    #[must_use]
    pub fn helm(&self, made: &Invitation) -> String {
        let registry = self.image_registry.as_ref();
        let registry = registry.map_or(UNKNOWN_IMAGE_REGISTRY, |it| &it.0);
        let set = format!(
            "image.registry={registry},config.kasAddress={},config.joinToken={}",
            self.address(),
            made.token.expose()
        );
        let ca = self.kas_ca_file.as_ref().map(|CaFile(file)| {
            let set = format!("config.kasCaCert={file}");
            format!(" --set-file {}", quoted(&set))
        });
        format!(
            "helm install {} {} -n agentk --create-namespace --set {}{}",
            made.name,
            self.chart(),
            quoted(&set),
            ca.unwrap_or_default()
        )
    }

    /// What starts it elsewhere.
    #[must_use]
    pub fn agentk(&self, made: &Invitation) -> String {
        let (name, token) = (&made.name, made.token.expose());
        let ca = self.kas_ca_file.as_ref();
        let ca = ca.map(|CaFile(file)| format!(" --ca-cert-file={}", quoted(file)));
        format!(
            "(umask 077; echo {token} > join-token) && POD_NAMESPACE=default POD_NAME={name} agentk \
             --kas-address={}{} --join-token-file=join-token --token-file=agent-token",
            quoted(self.address()),
            ca.unwrap_or_default()
        )
    }

    /// What the commands have a word in capitals for, each with that word.
    pub fn unknown(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let address = ("the address of kas", UNKNOWN_ADDRESS);
        let registry = ("the registry of agentk's image", UNKNOWN_IMAGE_REGISTRY);
        let address = self.kas_address.is_none().then_some(address);
        let registry = self.image_registry.is_none().then_some(registry);
        address.into_iter().chain(registry)
    }

    fn address(&self) -> &str {
        let address = self.kas_address.as_ref();
        address.map_or(UNKNOWN_ADDRESS, |it| &it.0)
    }

    /// The chart as words of a shell: where `deploy/release/publish` puts it, if nothing else is told.
    fn chart(&self) -> String {
        match (&self.chart, &self.image_registry) {
            (Some(chart), _) => quoted(chart).into_owned(),
            (None, Some(ImageRegistry(registry))) => {
                let chart = format!("oci://{registry}/charts/agentk");
                format!("{} --version {CHART_VERSION}", quoted(&chart))
            }
            (None, None) => CHART_IN_SOURCES.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::Token;

    fn invitation() -> Invitation {
        Invitation {
            agent: 1,
            name: "edge".to_owned(),
            token: Token::new("glkasjoin-x"),
            expires_at: Timestamp::UNIX_EPOCH,
            ended: 0,
        }
    }

    #[test]
    fn an_address_is_the_same_in_a_shell_and_for_helm() {
        // zsh takes brackets for a pattern of file names.
        let installation = Installation {
            kas_address: Some("ws://[::1]:8150".parse().unwrap()),
            ..Installation::default()
        };
        let line = installation.helm(&invitation());
        let wanted = "helm install edge deploy/k8s/charts/agentk -n agentk --create-namespace --set \
                      'image.registry=IMAGE-REGISTRY,config.kasAddress=ws://[::1]:8150,config.joinToken=glkasjoin-x'";
        assert_eq!(line, wanted);
        let line = installation.agentk(&invitation());
        assert!(line.contains(" --kas-address='ws://[::1]:8150' "), "{line}");
        let unknown: Vec<_> = installation.unknown().map(|it| it.1).collect();
        assert_eq!(unknown, [UNKNOWN_IMAGE_REGISTRY]);
    }

    #[test]
    fn nothing_is_left_to_fill_in_where_all_is_known() {
        let known = Installation {
            kas_address: Some("wss://kas.example.com:8150/".parse().unwrap()),
            kas_ca_file: Some("my ca.crt".parse().unwrap()),
            image_registry: Some("registry.example.com:5000/team/".parse().unwrap()),
            chart: None,
        };
        let set = "image.registry=registry.example.com:5000/team,config.kasAddress=wss://kas.example.com:8150/,\
                   config.joinToken=glkasjoin-x";
        assert_eq!(known.unknown().next(), None);
        let line = known.helm(&invitation());
        let wanted = format!(
            "helm install edge oci://registry.example.com:5000/team/charts/agentk --version {CHART_VERSION} -n agentk \
             --create-namespace --set {set} --set-file 'config.kasCaCert=my ca.crt'"
        );
        assert_eq!(line, wanted);
        let line = known.agentk(&invitation());
        let wanted = " --kas-address=wss://kas.example.com:8150/ --ca-cert-file='my ca.crt' --join";
        assert!(line.contains(wanted), "{line}");

        let from_a_file = Installation {
            chart: Some("./agentk-0.1.0.tgz".to_owned()),
            ..known
        };
        let line = from_a_file.helm(&invitation());
        let wanted = "helm install edge ./agentk-0.1.0.tgz -n agentk ";
        assert!(line.starts_with(wanted), "{line}");
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for good in [
            "wss://kas.example.com",
            "grpc://127.0.0.1:8150",
            "ws://[::1]:8150/kas/",
            UNKNOWN_ADDRESS,
        ] {
            assert!(good.parse::<KasAddress>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "kas.example.com",
            "https://kas.example.com",
            "wss://kas,config.token=x",
            "wss://kas$(id)",
            "wss://kas;id",
            "wss://kas'",
            "wss://kas&",
            "wss://a b",
        ] {
            assert_eq!(bad.parse::<KasAddress>(), Err(KasAddressError), "{bad}");
        }
        for bad in ["", "/", "a,b=c", "a b", "$(id)"] {
            let registry = bad.parse::<ImageRegistry>();
            assert_eq!(registry, Err(ImageRegistryError), "{bad}");
        }
        for bad in ["", "a,b", r"a\b", "{a}", "a\nb"] {
            assert_eq!(bad.parse::<CaFile>(), Err(CaFileError), "{bad:?}");
        }
    }
}
