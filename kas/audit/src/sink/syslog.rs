//! A syslog server: RFC 5424 in datagrams, or on a stream with the length before each message (RFC 6587), which may be
//! TLS (RFC 5425).

use std::{io, time::Duration};

use jiff::Timestamp;
use runtime::{
    connect::{ConnectOptions, Target, connect_tls},
    io::ByteStream,
    tls::{ClientTls, ClientTlsOptions, Identity},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, UnixDatagram},
    time::timeout,
};

use super::WriteError;
use crate::{
    OpenError,
    config::{SyslogAddress, SyslogSection},
};

/// Facility "log audit", severity "informational".
const PRIORITY: u8 = 13 * 8 + 6;
/// How long connecting or writing may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A syslog server, to which there is a connection while it works.
#[derive(Debug)]
pub(crate) struct SyslogOutput {
    address: SyslogAddress,
    tls: Option<Tls>,
    host: String,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<ByteStream>),
    Unix(UnixDatagram),
}

impl SyslogOutput {
    pub(super) fn new(
        section: &SyslogSection,
        at: &str,
        identity: &crate::Identity,
    ) -> Result<Self, OpenError> {
        let key = format!("{at}.syslog");
        let tls = match &section.address {
            SyslogAddress::Tls(to) => Some(Tls::new(section, to, (key, identity))?),
            SyslogAddress::Udp(_) | SyslogAddress::Tcp(_) | SyslogAddress::Unix(_) => None,
        };
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = name.chars().filter(char::is_ascii_graphic).collect();
        Ok(Self {
            address: section.address.clone(),
            tls,
            host: if name.is_empty() { "-".into() } else { name },
            connection: None,
        })
    }

    /// Sends lines from `done` on, and counts it up.
    pub(super) async fn write(
        &mut self,
        lines: &[String],
        done: &mut usize,
    ) -> Result<(), WriteError> {
        let sent = timeout(WRITE_TIMEOUT, self.send(lines, done)).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        sent.map_err(|error| {
            self.connection = None;
            WriteError::Retry(error.to_string())
        })
    }

    async fn send(&mut self, lines: &[String], done: &mut usize) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.address, self.tls.as_ref()).await?),
        };
        for line in lines.iter().skip(*done) {
            let message = message(&self.host, line, Timestamp::now());
            match connection {
                Connection::Udp(socket) => drop(socket.send(message.as_bytes()).await?),
                Connection::Unix(socket) => drop(socket.send(message.as_bytes()).await?),
                Connection::Tcp(stream) => {
                    let framed = format!("{} {message}", message.len());
                    stream.write_all(framed.as_bytes()).await?;
                }
                Connection::Tls(stream) => {
                    let framed = format!("{} {message}", message.len());
                    stream.write_all(framed.as_bytes()).await?;
                    // TLS keeps what is not flushed.
                    stream.flush().await?;
                }
            }
            *done += 1;
        }
        Ok(())
    }
}

/// How a server of TLS is reached.
#[derive(Debug)]
struct Tls {
    target: Target,
    options: ConnectOptions,
}

impl Tls {
    fn new(
        section: &SyslogSection,
        to: &str,
        (key, identity): (String, &crate::Identity),
    ) -> Result<Self, OpenError> {
        let target = Target::parse_http(&format!("https://{to}/"));
        let target = target.map_err(|source| OpenError::Url {
            key: key.clone(),
            source,
        })?;
        let ca = section.ca_certificate_file.iter();
        let files = (section.certificate_file.as_ref()).zip(section.key_file.as_ref());
        let tls = ClientTls::load(&ClientTlsOptions {
            ca_files: ca.map(|it| it.to_path_buf()).collect(),
            identity: files.map(|(certificate, key)| Identity {
                certificate: certificate.to_path_buf(),
                key: key.to_path_buf(),
            }),
            ..ClientTlsOptions::default()
        });
        let tls = tls.map_err(|source| OpenError::Tls {
            key,
            source: Box::new(source),
        })?;
        let options = ConnectOptions {
            tls: Some(tls),
            user_agent: format!("kas/{}", identity.version),
            timeout: WRITE_TIMEOUT,
            ..ConnectOptions::default()
        };
        Ok(Self { target, options })
    }
}

async fn connect(address: &SyslogAddress, tls: Option<&Tls>) -> io::Result<Connection> {
    Ok(match address {
        SyslogAddress::Udp(to) => {
            let addresses = tokio::net::lookup_host(to).await?;
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for to in addresses {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                match socket.connect(to).await {
                    Ok(()) => return Ok(Connection::Udp(socket)),
                    Err(error) => last = error,
                }
            }
            return Err(last);
        }
        SyslogAddress::Tls(_) => {
            let Tls { target, options } = tls.ok_or(io::ErrorKind::InvalidInput)?;
            let stream = connect_tls(target, options).await;
            Connection::Tls(Box::new(stream.map_err(io::Error::other)?))
        }
        SyslogAddress::Tcp(to) => Connection::Tcp(TcpStream::connect(to).await?),
        SyslogAddress::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Connection::Unix(socket)
        }
    })
}

fn message(host: &str, line: &str, now: Timestamp) -> String {
    let process = std::process::id();
    // RFC 5424 has microseconds at most.
    format!("<{PRIORITY}>1 {now:.6} {host} kas {process} audit - {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_rfc_says() {
        let now = "2026-11-27T10:00:00.123456789Z".parse().unwrap();
        let message = message("node-1", "{}", now);

        let process = std::process::id();
        assert_eq!(
            message,
            format!("<110>1 2026-11-27T10:00:00.123456Z node-1 kas {process} audit - {{}}")
        );
    }
}
