//! Where a request comes from that a proxy has passed on.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies behind each other that are followed.
const MAX_HOPS: usize = 16;

/// The client of a request that came on a connection from `from`: the last address that no trusted proxy has. Its port
/// is 0, since proxies do not tell it.
pub(super) fn client(trusted: &[IpNet], from: SocketAddr, headers: &HeaderMap) -> SocketAddr {
    let trusts = |address: IpAddr| trusted.iter().any(|it| it.contains(&address));
    if trusted.is_empty() || !trusts(from.ip().to_canonical()) {
        return from;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let lines = lines.map(|line| line.to_str().unwrap_or_default());
    let mut client = from;
    for hop in lines.flat_map(|line| line.rsplit(',')).take(MAX_HOPS) {
        // What is no address was not written by a proxy that is to be believed.
        let Some(address) = address(hop.trim()) else {
            return client;
        };
        client = SocketAddr::new(address, 0);
        if !trusts(address) {
            return client;
        }
    }
    client
}

/// With or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    let address = text.parse().ok().or_else(with_port);
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(from: &str, lines: &[&'static str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers
                .try_append(FORWARDED_FOR, HeaderValue::from_static(line))
                .unwrap();
        }
        let from = SocketAddr::new(from.parse().unwrap(), 7);
        client(&trusted, from, &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_say_where_a_request_comes_from() {
        assert_eq!(of("203.0.113.9", &["198.51.100.1"]), "203.0.113.9:7");
        assert_eq!(of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1:0");
    }

    #[test]
    fn what_a_client_wrote_itself_does_not_count() {
        let lines = ["1.1.1.1, 198.51.100.1", "10.0.0.2"];
        assert_eq!(of("10.0.0.1", &lines), "198.51.100.1:0");
        assert_eq!(
            of("10.0.0.1", &["1.1.1.1, nonsense, 10.0.0.2"]),
            "10.0.0.2:0"
        );
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1:7");
        assert_eq!(of("fd00::1", &["[2001:db8::1]:80"]), "[2001:db8::1]:0");
    }
}
