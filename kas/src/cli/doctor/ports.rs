//! Each port: it can be bound, or a kas has it.

use std::{io::ErrorKind, time::Duration};

use http::HeaderMap;
use runtime::{
    connect::{ConnectOptions, Target},
    doctor::{Fault, Finding, Report, http1_get},
    listen::{ListenAddress, Network, TcpNetwork, bind_tcp},
    tls::{ClientTls, ClientTlsOptions},
};

use super::HERE;
use crate::config::{Config, Listens as _};

/// A port of the configuration.
struct Port {
    key: &'static str,
    socket: ListenAddress,
    tls: bool,
    /// Whether it answers HTTP/1.1 with a name.
    says_its_name: bool,
    /// Whether the server does without it where somebody else has it.
    is_dispensable: bool,
}

/// Looks at all ports of a configuration.
pub(super) async fn examine(config: &Config, report: &mut Report) {
    let mut taken = Vec::new();
    for port in ports(config) {
        match bind(&port.socket).await {
            Ok(()) => {
                let seen = format!("{} is free", port.socket.address);
                report.add(HERE, port.key, Finding::ok(seen));
            }
            Err(finding) => match finding {
                Some(finding) => {
                    report.add(HERE, port.key, finding);
                }
                None => taken.push(port),
            },
        }
    }
    // Where some ports say that they are kas's, it has the silent ones too.
    let mut kas = false;
    for named in [true, false] {
        for port in taken.iter().filter(|it| it.says_its_name == named) {
            let is_of_kas = match named {
                true => says_that_it_is_kas(port).await,
                false => kas,
            };
            kas |= is_of_kas;
            let address = &port.socket.address;
            let seen = format!(
                "{address} is in use by another program, which does not say that it is kas"
            );
            let finding = match (is_of_kas, port.is_dispensable) {
                (true, _) => Finding::ok(format!("{address} is in use by a running kas")),
                // The server starts without it.
                (false, true) => Finding::warning(Fault::PortTaken, seen),
                (false, false) => Finding::failed(Fault::PortTaken, seen),
            };
            report.add(HERE, port.key, finding);
        }
    }
}

fn ports(config: &Config) -> Vec<Port> {
    let agents = &config.agent.listen;
    let users = config.agent.kubernetes_api.as_ref().map(|it| &it.listen);
    let api = config.api.as_ref().map(|it| &it.listen);
    let peers = config.private_api.as_ref().map(|it| &it.listen);
    let admin = config.admin.enabled.then_some(&config.admin.listen);
    let observability = &config.observability.listen;
    let port = |key, socket, tls: bool, says_its_name| Port {
        key,
        socket,
        tls,
        says_its_name,
        is_dispensable: false,
    };
    let mut ports = vec![port(
        "agent.listen",
        agents.socket(),
        agents.tls().is_some(),
        true,
    )];
    ports.extend(users.map(|it| {
        let key = "agent.kubernetes_api.listen";
        port(key, it.socket(), it.tls().is_some(), true)
    }));
    let key = "observability.listen";
    ports.push(port(
        key,
        observability.socket(),
        observability.tls().is_some(),
        false,
    ));
    ports.extend(api.map(|it| port("api.listen", it.socket(), it.tls().is_some(), false)));
    ports.extend(peers.map(|it| {
        let key = "private_api.listen";
        port(key, it.socket(), it.tls().is_some(), false)
    }));
    ports.extend(admin.map(|it| Port {
        is_dispensable: it.is_default_address(),
        ..port("admin.listen", it.socket(), it.tls().is_some(), false)
    }));
    ports
}

/// Binds a socket for a moment; without a finding somebody has it.
async fn bind(socket: &ListenAddress) -> Result<(), Option<Finding>> {
    let network = match socket.network {
        Network::Unix => {
            // Binding would put a file there.
            let folder = std::path::Path::new(&socket.address).parent();
            return match folder.is_none_or(std::path::Path::is_dir) {
                true => Ok(()),
                false => Err(Some(Finding::failed(
                    Fault::PortTaken,
                    format!("{}: there is no such folder", socket.address),
                ))),
            };
        }
        Network::Tcp => TcpNetwork::Tcp,
        Network::Tcp4 => TcpNetwork::Tcp4,
        Network::Tcp6 => TcpNetwork::Tcp6,
    };
    match bind_tcp(network, &socket.address).await {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AddrInUse => Err(None),
        Err(error) => Err(Some(Finding::failed(Fault::PortTaken, error.to_string()))),
    }
}

/// Asks whoever has a port, from this machine.
async fn says_that_it_is_kas(port: &Port) -> bool {
    let address = port.socket.host_port();
    let Some((host, number)) = address.rsplit_once(':') else {
        return false;
    };
    let host = match host {
        "[::]" | "0.0.0.0" | "" => "localhost",
        host => host,
    };
    let scheme = if port.tls { "https" } else { "http" };
    let Ok(target) = Target::parse_http(&format!("{scheme}://{host}:{number}")) else {
        return false;
    };
    // Only its name is wanted of it.
    let tls = ClientTlsOptions {
        insecure_skip_verify: true,
        ..ClientTlsOptions::default()
    };
    let options = ConnectOptions {
        tls: ClientTls::load(&tls).ok(),
        timeout: Duration::from_secs(3),
        ..ConnectOptions::default()
    };
    let asked = http1_get(&target, &options, "/", &HeaderMap::new()).await;
    asked.is_ok_and(|answer| answer.is_of_kas())
}
