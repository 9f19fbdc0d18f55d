//! A syslog server: RFC 5424 in datagrams, or on a stream with the length before each message (RFC 6587), which may be
//! TLS (RFC 5425).

use std::{io, time::Duration};

use jiff::Timestamp;
use runtime::{
    connect::connect_tls,
    io::ByteStream,
    tls::{ClientTlsOptions, Identity},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, UnixDatagram},
    time::timeout,
};

use super::{WriteError, client::Client};
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
    server: Server,
    host: String,
    connection: Option<Connection>,
}

/// Where it is.
#[derive(Debug)]
enum Server {
    Udp(String),
    Tcp(String),
    Tls(Box<Client>),
    Unix(String),
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
        let server = Server::new(section, (&key, identity))?;
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = name.chars().filter(char::is_ascii_graphic).collect();
        Ok(Self {
            server,
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
            none => none.insert(connect(&self.server).await?),
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

impl Server {
    fn new(
        section: &SyslogSection,
        (key, identity): (&str, &crate::Identity),
    ) -> Result<Self, OpenError> {
        let to = match &section.address {
            SyslogAddress::Udp(to) => return Ok(Self::Udp(to.clone())),
            SyslogAddress::Tcp(to) => return Ok(Self::Tcp(to.clone())),
            SyslogAddress::Unix(path) => return Ok(Self::Unix(path.clone())),
            SyslogAddress::Tls(to) => to,
        };
        let ca = section.ca_certificate_file.iter();
        let files = (section.certificate_file.as_ref()).zip(section.key_file.as_ref());
        let tls = ClientTlsOptions {
            ca_files: ca.map(|it| it.to_path_buf()).collect(),
            identity: files.map(|(certificate, key)| Identity {
                certificate: certificate.to_path_buf(),
                key: key.to_path_buf(),
            }),
            ..ClientTlsOptions::default()
        };
        let url = format!("https://{to}/");
        let client = Client::new(&url, &tls, (key, identity), WRITE_TIMEOUT)?;
        Ok(Self::Tls(Box::new(client)))
    }
}

async fn connect(server: &Server) -> io::Result<Connection> {
    Ok(match server {
        Server::Udp(to) => {
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
        Server::Tls(client) => {
            let Client { target, options } = &**client;
            let stream = connect_tls(target, options).await;
            Connection::Tls(Box::new(stream.map_err(io::Error::other)?))
        }
        Server::Tcp(to) => Connection::Tcp(TcpStream::connect(to).await?),
        Server::Unix(path) => {
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
