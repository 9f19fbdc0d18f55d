//! A double, and a control plane that asks it.

use std::time::Duration;

use control_plane::{
    Access, CachePolicy, ControlPlane, Credentials, DenyReason, Token,
    gitaly::{self, Gitaly},
    gitlab::{CachePolicies, GitLab, RepositorySettings},
};
use kas::config::{self, GitLab as Settings, OutageGrace, RateLimit};
use router::AgentId;
use runtime::{
    connect::ProxySetting,
    yaml::{FilePath, NonEmpty, Seconds},
};
use tempfile::TempDir;
use tests::gitlab_double::{Endpoint, Fault, FaultKind, GitLabDouble, Scenario};

/// Both, and the folder of their secret.
pub(crate) struct Fixture {
    pub(crate) double: GitLabDouble,
    pub(crate) gitlab: GitLab,
    pub(crate) folder: TempDir,
}

/// Answers count for no time, so that each question reaches the double.
pub(crate) const FORGETFUL: CachePolicy = CachePolicy {
    ttl: Duration::ZERO,
    error_ttl: Duration::ZERO,
    grace: Duration::ZERO,
    capacity: 100,
};

/// Often, for tests that do not wait for it.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// As long as the defaults.
pub(crate) fn usual() -> CachePolicy {
    CachePolicy {
        grace: Duration::from_secs(600),
        ..CachePolicy::default()
    }
}

impl Fixture {
    pub(crate) async fn start(policy: CachePolicy) -> Self {
        let double = GitLabDouble::start(Scenario::sample()).await.unwrap();
        Self::with(double, policy, |_| {}, ProxySetting::None)
    }

    /// Repositories are polled so often.
    pub(crate) async fn polling(period: Duration) -> Self {
        let double = GitLabDouble::start(Scenario::sample()).await.unwrap();
        let reading = reading(period);
        Self::reading(double, usual(), |_| {}, ProxySetting::None, reading)
    }

    pub(crate) fn with(
        double: GitLabDouble,
        policy: CachePolicy,
        change: impl FnOnce(&mut Settings),
        proxy: ProxySetting,
    ) -> Self {
        Self::reading(double, policy, change, proxy, reading(POLL))
    }

    fn reading(
        double: GitLabDouble,
        policy: CachePolicy,
        change: impl FnOnce(&mut Settings),
        proxy: ProxySetting,
        reading: RepositorySettings,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        double.write_secret(&secret).unwrap();
        let mut settings = Settings {
            address: NonEmpty(double.url()),
            external_url: None,
            authentication_secret_file: FilePath(secret),
            ca_certificate_file: None,
            api_rate_limit: RateLimit {
                refill_rate_per_second: 50.0,
                bucket_size: 250,
            },
            outage_grace: OutageGrace {
                agents: Seconds(policy.grace),
                callers: Seconds(policy.grace),
            },
        };
        change(&mut settings);
        let policies = CachePolicies {
            agents: policy,
            callers: policy,
        };
        let gitlab = GitLab::new(
            &settings,
            policies,
            reading,
            proxy,
            kas::version::server_header(),
        )
        .unwrap();
        Self {
            double,
            gitlab,
            folder,
        }
    }

    pub(crate) fn fails(&self, kind: FaultKind) {
        self.double
            .change(|it| it.faults = vec![Fault::everywhere(kind)]);
    }

    pub(crate) fn recovers(&self) {
        self.double.change(|it| it.faults.clear());
    }

    pub(crate) fn asked(&self, endpoint: Endpoint) -> u64 {
        self.double.counters().of(endpoint)
    }

    pub(crate) async fn authorize(
        &self,
        who: &Credentials,
        agent: i64,
    ) -> Result<Access, DenyReason> {
        self.gitlab.authorize(who, AgentId(agent)).await
    }
}

pub(crate) fn ci(token: &str) -> Credentials {
    Credentials::Ci {
        token: Token::new(token),
    }
}

pub(crate) fn pat(token: &str) -> Credentials {
    Credentials::Pat {
        token: Token::new(token),
    }
}

pub(crate) fn session(key: &str, csrf: &str) -> Credentials {
    Credentials::Session {
        access_key: Token::new(key),
        csrf_token: Token::new(csrf),
    }
}

/// Limits that do not matter.
pub(crate) fn limits() -> config::Gitaly {
    let limit = RateLimit {
        refill_rate_per_second: 1000.0,
        bucket_size: 1000,
    };
    config::Gitaly {
        global_api_rate_limit: limit,
        per_server_api_rate_limit: limit,
    }
}

/// Reads repositories so often.
pub(crate) fn reading(period: Duration) -> RepositorySettings {
    RepositorySettings {
        gitaly: Gitaly::new(gitaly::Settings {
            limits: limits(),
            ca_files: Vec::new(),
            user_agent: kas::version::server_header(),
        }),
        period,
        max_file_size: 1000,
    }
}
