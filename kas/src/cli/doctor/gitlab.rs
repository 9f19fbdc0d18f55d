//! GitLab: reached, with the right secret, at the same time of day.

use std::time::Duration;

use control_plane::gitlab::Client;
use http::HeaderMap;
use runtime::{
    connect::{ConnectOptions, ProxySetting, Target},
    doctor::{Fault, Finding, QUESTION_TIMEOUT, Report, check_clock, http1_get},
    tls::{ClientTls, ClientTlsOptions},
};
use tokio::time::timeout;

use crate::{
    config::{Config, ControlPlaneConfig, GitLab},
    version,
};

/// A call may be made several times.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks at the GitLab that a configuration names.
pub(super) async fn examine(config: &Config, report: &mut Report) {
    let ControlPlaneConfig::GitLab(settings) = config.control_plane() else {
        return;
    };
    let hop = format!("GitLab at {}", settings.address.0);
    let Ok(proxy) = ProxySetting::from_environment() else {
        // The configuration's own check has said so.
        return;
    };
    check_time(settings, proxy.clone(), &hop, report).await;
    let Ok(client) = Client::new(settings, proxy, version::server_header()) else {
        return;
    };
    // It changes nothing, and needs no agent.
    let finding = match timeout(CALL_TIMEOUT, client.receptive_agents()).await {
        Ok(Ok(_)) => Finding::ok("it answers, and knows this server's secret"),
        Ok(Err(error)) => {
            let fault = match error.refusal() {
                Some(401 | 403) => Fault::GitlabSecret,
                _ => Fault::Gitlab,
            };
            Finding::failed(fault, error.to_string())
        }
        Err(_) => Finding::failed(Fault::Gitlab, format!("no answer within {CALL_TIMEOUT:?}")),
    };
    report.add(&hop, "internal API", finding);
}

async fn check_time(settings: &GitLab, proxy: ProxySetting, hop: &str, report: &mut Report) {
    let Ok(target) = Target::parse_http(&settings.address.0) else {
        return;
    };
    let tls = ClientTlsOptions {
        ca_files: settings.ca_certificate_file.iter().cloned().collect(),
        ..ClientTlsOptions::default()
    };
    let options = ConnectOptions {
        tls: ClientTls::load(&tls).ok(),
        proxy,
        timeout: QUESTION_TIMEOUT,
        ..ConnectOptions::default()
    };
    let path = target.path_and_query();
    let asked = http1_get(&target, &options, path, &HeaderMap::new()).await;
    if let Ok(answer) = asked
        && let Some(time) = answer.date()
    {
        check_clock(report, hop, time, answer.took + Duration::from_secs(1));
    }
}
