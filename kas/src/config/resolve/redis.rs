//! The `redis` section.

use super::{
    super::{Redis, RedisServers, RedisTls, file},
    parts::{self, Rules},
};
use crate::yaml::{Mistake, Spot};

pub(super) fn redis(rules: &Rules<'_>, redis: Spot<file::Redis>) -> Result<Redis, Mistake> {
    let place = Spot::new((), redis.referenced, redis.defined);
    let redis = redis.value;
    let servers = match (redis.server, redis.sentinel, redis.cluster) {
        (Some(server), None, None) => RedisServers::Single {
            address: server.address.0,
        },
        (None, Some(sentinel), None) => sentinel_servers(rules, sentinel)?,
        (None, None, Some(cluster)) => cluster_servers(rules, cluster)?,
        _ => {
            return Err(rules.at(
                &place,
                "redis needs exactly one of the keys `server`, `sentinel` and `cluster`",
            ));
        }
    };
    Ok(Redis {
        servers,
        unix: redis.network == Some(file::RedisNetwork::Unix),
        dial_timeout: parts::positive(redis.dial_timeout, 5),
        write_timeout: parts::positive(redis.write_timeout, 3),
        key_prefix: parts::text(redis.key_prefix, "gitlab-kas"),
        username: redis.username.unwrap_or_default(),
        password_file: parts::file(redis.password_file),
        database_index: redis.database_index.unwrap_or_default(),
        tls: redis_tls(rules, redis.tls)?,
    })
}

fn sentinel_servers(
    rules: &Rules<'_>,
    sentinel: Spot<file::RedisSentinel>,
) -> Result<RedisServers, Mistake> {
    if sentinel.value.addresses.is_empty() {
        return Err(rules.at(&sentinel, "redis.sentinel.addresses must not be empty"));
    }
    let sentinel = sentinel.value;
    Ok(RedisServers::Sentinel {
        master_name: sentinel.master_name.0,
        addresses: sentinel.addresses.into_iter().map(|it| it.0).collect(),
        password_file: parts::file(sentinel.sentinel_password_file),
    })
}

fn cluster_servers(
    rules: &Rules<'_>,
    cluster: Spot<file::RedisCluster>,
) -> Result<RedisServers, Mistake> {
    if cluster.value.addresses.is_empty() {
        return Err(rules.at(&cluster, "redis.cluster.addresses must not be empty"));
    }
    let addresses = cluster.value.addresses;
    Ok(RedisServers::Cluster {
        addresses: addresses.into_iter().map(|it| it.0).collect(),
    })
}

fn redis_tls(
    rules: &Rules<'_>,
    tls: Option<Spot<file::RedisTls>>,
) -> Result<Option<RedisTls>, Mistake> {
    let Some(tls) = tls.filter(|it| it.value.enabled == Some(true)) else {
        return Ok(None);
    };
    let client = rules.tls(&tls, "redis.tls", |l| {
        (l.certificate_file.clone(), l.key_file.clone())
    })?;
    Ok(Some(RedisTls {
        client,
        ca_certificate_file: parts::file(tls.value.ca_certificate_file),
    }))
}
