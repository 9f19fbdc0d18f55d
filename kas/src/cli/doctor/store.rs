//! Redis: its password, version, latency and clock, and the replicas that it knows.

use cluster_state::{
    Lease,
    redis::{DiagnosisError, RedisOptions, diagnose},
};
use runtime::{
    doctor::{Fault, Finding, Report, check_clock},
    jwt::Secret,
};

use super::PART_TIMEOUT;
use crate::{app::routing, config::Config};

/// Looks at the store; the leases in it.
pub(super) async fn examine(config: &Config, report: &mut Report) -> Vec<Lease> {
    let Some(redis) = &config.redis else {
        let why = "no section redis: this replica stands alone";
        report.add("Redis", "access", Finding::not_checked(why));
        return Vec::new();
    };
    let options = match routing::options(redis) {
        Ok(options) => options,
        // The configuration's own check has said so.
        Err(_) => return Vec::new(),
    };
    let peers = config.private_api.as_ref().map(|it| &it.listen);
    let secret = peers.and_then(|it| Secret::read(&it.authentication_secret_file).ok());
    let options = RedisOptions { secret, ..options };
    let hop = options.servers.to_string();
    let found = match diagnose(&options, PART_TIMEOUT).await {
        Ok(found) => found,
        Err(error) => {
            let fault = match error {
                DiagnosisError::Credentials(_) => Fault::StorePassword,
                _ => Fault::StoreUnreachable,
            };
            report.add(&hop, "access", Finding::failed(fault, error.to_string()));
            return Vec::new();
        }
    };
    let seen = format!("version {}, answers in {:?}", found.version, found.latency);
    report.add(&hop, "access", Finding::ok(seen));
    check_clock(report, &hop, found.time, found.time_took);
    if found.has_strangers {
        let seen = "there are leases that were signed with another private_api.listen.authentication_secret_file";
        report.add(&hop, "leases", Finding::warning(Fault::PeerUnknown, seen));
    }
    found.leases
}
