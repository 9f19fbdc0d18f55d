//! Listeners, as the configuration names them.

use std::path::Path;

use runtime::listen::{AnyListener, BindError, TcpNetwork, bind_tcp, bind_unix};

use crate::config::{ListenAddress, Network};

/// Binds what a section says.
pub(super) async fn listen(on: &ListenAddress) -> Result<AnyListener, BindError> {
    let network = match on.network {
        Network::Unix => return Ok(AnyListener::Unix(bind_unix(Path::new(&on.address))?)),
        Network::Tcp => TcpNetwork::Tcp,
        Network::Tcp4 => TcpNetwork::Tcp4,
        Network::Tcp6 => TcpNetwork::Tcp6,
    };
    Ok(bind_tcp(network, &on.address).await?.into())
}
