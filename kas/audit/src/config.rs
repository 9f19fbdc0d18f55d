//! The section `audit`.

use runtime::{
    connect::Target,
    section,
    yaml::{At, FilePath, NonEmpty, PositiveSeconds, Setting, YamlError},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use url::Url;

/// Sinks, at most.
const SINKS_MAX: usize = 8;

section! {
    /// The audit trail. Not among the keys of GitLab's kas.
    pub struct AuditSection: Default {
        /// Where records go; without any, a line of the log at the end of each request is all.
        pub sinks: Vec<SinkSection> = Vec::new(),
        /// Whether a request is refused whose begin record is not written by every sink.
        pub required: bool = false,
        /// How long a request waits for that.
        pub required_timeout: PositiveSeconds = PositiveSeconds::new(2),
        /// Which records there are of requests that only read.
        pub reads: Reads = Reads::End,
        /// The key of the hashes of the chain; without it anybody can make them.
        pub key_file: Option<FilePath> = None,
        /// Where sessions of exec and attach are recorded; without it none are.
        pub recording: Option<RecordingSection> = None,
    }
    check = check_sinks;
}

section! {
    /// Recordings of sessions.
    pub struct RecordingSection {
        /// The folder, for this process alone.
        pub folder: FilePath,
        /// Which sessions.
        pub sessions: RecordedSessions = RecordedSessions::ByRule,
        /// Whether what is typed is recorded too, passwords among it.
        pub stdin: bool = false,
        /// Bytes of one recording, at most.
        pub max_bytes: u32 = 64 << 20,
        /// Mebibytes of all recordings, at most; the oldest go then.
        pub total_mib: u32 = 1024,
    }
}

/// Which sessions are recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedSessions {
    /// Those of access rules that say so.
    #[default]
    ByRule,
    /// All.
    All,
}

impl Setting for RecordedSessions {}

impl RecordingSection {
    /// Bytes of all recordings, at most.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.total_mib) << 20
    }
}

section! {
    /// Where records go: one of these.
    pub struct SinkSection: Default {
        /// A file.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub file: Option<FileSection> = None,
        /// A syslog server.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub syslog: Option<SyslogSection> = None,
        /// An HTTP server.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub http: Option<HttpSection> = None,
    }
}

section! {
    /// A file of JSON lines.
    pub struct FileSection {
        /// The file; its folder must exist.
        pub path: FilePath,
        /// Bytes from which on another file is begun.
        pub max_bytes: u32 = 100 << 20,
        /// Files that are kept, with the one that is written.
        pub max_files: u32 = 10,
        /// Whether a record counts as written only when the disk has it.
        pub sync: bool = false,
    }
}

section! {
    /// A syslog server, to which messages are sent as RFC 5424 says.
    pub struct SyslogSection {
        /// `tls://HOST:PORT`, `tcp://HOST:PORT`, `udp://HOST:PORT` or `unix:///dev/log`.
        pub address: SyslogAddress,
        /// For TLS: a CA besides those of the system.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca_certificate_file: Option<FilePath> = None,
        /// For TLS: the certificate that is shown,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub certificate_file: Option<FilePath> = None,
        /// and its key.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_file: Option<FilePath> = None,
    }
    check = check_tls;
}

section! {
    /// An HTTP server, which gets records in batches by POST.
    pub struct HttpSection {
        /// An http or https URL.
        pub url: HttpUrl,
        /// A file with a bearer token for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub token_file: Option<FilePath> = None,
        /// A CA besides those of the system.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca_certificate_file: Option<FilePath> = None,
        /// The form of a batch.
        pub format: HttpFormat = HttpFormat::JsonLines,
    }
}

/// Which records there are of requests that only read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// None.
    None,
    /// One when it is over.
    #[default]
    End,
    /// Two, as of others.
    BeginAndEnd,
}

impl Setting for Reads {}

/// The form of a batch over HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpFormat {
    /// `application/x-ndjson`, as in a file.
    #[default]
    JsonLines,
    /// OTLP's logs in JSON, with each line as a body.
    Otlp,
}

impl Setting for HttpFormat {}

/// An http or https URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpUrl(pub String);

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let NonEmpty(url) = NonEmpty::deserialize(deserializer)?;
        match Target::parse_http(&url) {
            Ok(_) => Ok(Self(url)),
            Err(error) => Err(D::Error::custom(format_args!("url: {error}"))),
        }
    }
}

impl Setting for HttpUrl {}

/// Where a syslog server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum SyslogAddress {
    /// Datagrams.
    Udp(String),
    /// A stream, with the length before each message.
    Tcp(String),
    /// The same by TLS.
    Tls(String),
    /// Datagrams on this machine.
    Unix(String),
}

impl From<SyslogAddress> for String {
    fn from(address: SyslogAddress) -> Self {
        match address {
            SyslogAddress::Udp(host) => format!("udp://{host}"),
            SyslogAddress::Tcp(host) => format!("tcp://{host}"),
            SyslogAddress::Tls(host) => format!("tls://{host}"),
            SyslogAddress::Unix(path) => format!("unix://{path}"),
        }
    }
}

impl<'de> Deserialize<'de> for SyslogAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(
                "address must be tls://HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH of a socket",
            )
        })
    }
}

impl Setting for SyslogAddress {}

impl SyslogAddress {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        if url.scheme() == "unix" {
            let path = url.path();
            return (path.len() > 1 && !url.has_host()).then(|| Self::Unix(path.to_owned()));
        }
        let host = format!("{}:{}", url.host_str()?, url.port()?);
        match url.scheme() {
            "udp" => Some(Self::Udp(host)),
            "tcp" => Some(Self::Tcp(host)),
            "tls" => Some(Self::Tls(host)),
            _ => None,
        }
    }
}

impl SyslogSection {
    fn check_tls(&self, at: &At<'_>) -> Result<(), YamlError> {
        let files = [
            &self.ca_certificate_file,
            &self.certificate_file,
            &self.key_file,
        ];
        let is_tls = matches!(self.address, SyslogAddress::Tls(_));
        if !is_tls && files.iter().any(|it| it.is_some()) {
            return Err(at.key("address").mistake(
                "certificates of a syslog sink are for tls://HOST:PORT, and its address is another",
            ));
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return Err(at
                .key("certificate_file")
                .mistake("certificate_file and key_file of a syslog sink belong together"));
        }
        Ok(())
    }
}

impl SinkSection {
    fn kinds(&self) -> usize {
        let given = [
            self.file.is_some(),
            self.syslog.is_some(),
            self.http.is_some(),
        ];
        given.into_iter().filter(|it| *it).count()
    }
}

impl AuditSection {
    fn check_sinks(&self, at: &At<'_>) -> Result<(), YamlError> {
        let sinks = at.key("sinks");
        if self.sinks.len() > SINKS_MAX {
            return Err(sinks.mistake(format!(
                "audit.sinks: more than {SINKS_MAX} are not supported"
            )));
        }
        if self.sinks.iter().any(|sink| sink.kinds() != 1) {
            return Err(sinks.mistake("audit.sinks: each is one of `file`, `syslog` and `http`"));
        }
        if self.required && self.sinks.is_empty() {
            return Err(at.key("required").mistake(
                "audit.required is true, but audit.sinks names none: no request could be let through",
            ));
        }
        if self.recording.is_some() && self.sinks.is_empty() {
            return Err(at.key("recording").mistake(
                "audit.recording is set, but audit.sinks names none: nothing would show that a recording was changed",
            ));
        }
        let mut files: Vec<_> = self
            .sinks
            .iter()
            .filter_map(|it| it.file.as_ref())
            .collect();
        files.sort_by(|a, b| a.path.0.cmp(&b.path.0));
        if files.windows(2).any(|pair| pair[0].path == pair[1].path) {
            return Err(sinks.mistake("audit.sinks: two of them are the same file"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_syslog_servers_are_urls() {
        let shown = |text| SyslogAddress::parse(text).map(String::from);
        for good in [
            "udp://10.0.0.1:514",
            "tcp://[::1]:601",
            "tls://logs.example:6514",
            "unix:///dev/log",
        ] {
            assert_eq!(shown(good).as_deref(), Some(good));
        }
        for bad in [
            "10.0.0.1:514",
            "udp://host",
            "unix://",
            "unix://a/b",
            "http://a:1",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}
