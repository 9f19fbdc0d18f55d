//! What the flag `--redis` of `kas up` names.

use anyhow::{Context, bail};
use cluster_state::redis::{Address, RedisOptions, Servers};
use runtime::tls::{ClientTls, ClientTlsOptions};
use url::Url;

/// Options from a URL: `redis://[user:password@]host[:port][/database]`,
/// `rediss://…` with TLS, or `unix:///path`.
pub(super) fn options(text: &str) -> anyhow::Result<RedisOptions> {
    let url: Url = text.parse().context("it is no URL")?;
    let host = || {
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.context("it names no host")?;
        anyhow::Ok(Address {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(6379),
        })
    };
    let (servers, tls) = match url.scheme() {
        "redis" => (Servers::Single(host()?), false),
        "rediss" => (Servers::Single(host()?), true),
        "unix" => (Servers::Unix(url.path().into()), false),
        other => bail!("its scheme is {other}, it must be redis, rediss or unix"),
    };
    let database = match url.path().trim_start_matches('/') {
        _ if url.scheme() == "unix" => 0,
        "" => 0,
        number => number
            .parse()
            .context("its database is no number up to 255")?,
    };
    let decoded = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned())
    };
    Ok(RedisOptions {
        username: Some(decoded(url.username())?).filter(|name| !name.is_empty()),
        password: url.password().map(decoded).transpose()?,
        database,
        tls: tls
            .then(|| ClientTls::load(&ClientTlsOptions::default()))
            .transpose()?
            .map(|tls| tls.config(&[])),
        ..RedisOptions::new(servers)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_understood() {
        let joe = options("redis://joe:p%40ss@[::1]:7000/3").unwrap();
        assert_eq!(joe.username.as_deref(), Some("joe"));
        assert_eq!(joe.password.as_deref(), Some("p@ss"));
        assert_eq!(joe.database, 3);
        assert_eq!(joe.servers.to_string(), "Redis at [::1]:7000");

        let socket = options("unix:///run/redis.sock").unwrap();
        assert_eq!(socket.servers, Servers::Unix("/run/redis.sock".into()));
        assert!(options("rediss://redis").unwrap().tls.is_some());
        for (url, part) in [
            ("redis", "no URL"),
            ("http://a", "scheme is http"),
            ("redis://", "no host"),
            ("redis://a/b", "no number"),
        ] {
            let error = format!("{:#}", options(url).unwrap_err());
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
