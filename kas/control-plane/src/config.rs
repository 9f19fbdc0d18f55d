//! The sections of the configuration that are this crate's.

use std::path::PathBuf;

use runtime::{
    connect::Target,
    section,
    yaml::{At, FilePath, NonEmpty, PositiveSeconds, Seconds, YamlError},
};

section! {
    /// `standalone`: the embedded control plane.
    pub struct Standalone {
        /// Its file of agents, users and rules.
        pub file: FilePath,
    }
}

section! {
    /// `gitlab`: a GitLab, and how it is asked.
    pub struct GitLab {
        /// Its URL, for requests.
        pub address: NonEmpty,
        /// Its URL for people: sent to agents, and the origin whose browsers may call.
        pub external_url: Option<NonEmpty> = None,
        /// The secret that it and replicas share.
        pub authentication_secret_file: FilePath,
        /// A CA besides those of the system.
        pub ca_certificate_file: Option<PathBuf> = None,
        /// How many requests it gets.
        pub api_rate_limit: RateLimit = RateLimit::new(50.0, 250),
        /// How long remembered answers go on counting while it is away.
        pub outage_grace: OutageGrace = OutageGrace::default(),
    }
    check = check_urls;
}

section! {
    /// `gitlab.outage_grace`: how long after its time an answer counts while GitLab is away. Not among the keys of
    /// GitLab's kas.
    pub struct OutageGrace: Default {
        /// For agents. Tunnels of a connected agent open all the time, so it needs an answer for as long as an
        /// outage lasts; it proved itself before.
        pub agents: Seconds = Seconds::new(3600),
        /// For users and jobs. A job's token ends with the job, and a user may lose rights: not for long.
        pub callers: Seconds = Seconds::new(600),
    }
}

section! {
    /// `gitaly`: limits of calls to Gitaly.
    pub struct Gitaly: Default {
        /// For all servers together.
        pub global_api_rate_limit: RateLimit = RateLimit::new(30.0, 70),
        /// For each server.
        pub per_server_api_rate_limit: RateLimit = RateLimit::new(15.0, 40),
    }
}

section! {
    /// A token bucket. Where a key is absent or zero, the default is that of the section around it.
    #[derive(Copy)]
    pub struct RateLimit {
        /// Tokens that come in a second.
        pub refill_rate_per_second: f64 = 0.0,
        /// Tokens that fit.
        pub bucket_size: u32 = 0,
    }
    check = check_rate;
    or = filled_from;
}

section! {
    /// `agent.configuration`: how agents' configuration files are read from their repositories.
    pub struct AgentConfiguration: Default {
        /// How often a repository is polled.
        pub poll_period: PositiveSeconds = PositiveSeconds::new(300),
        /// Largest file in bytes.
        pub max_configuration_file_size: u32 = 128 * 1024,
    }
}

impl GitLab {
    fn check_urls(&self, at: &At<'_>) -> Result<(), YamlError> {
        let urls = [
            ("address", Some(&self.address)),
            ("external_url", self.external_url.as_ref()),
        ];
        for (key, url) in urls {
            if let Some(Err(error)) = url.map(|url| Target::parse_http(&url.0)) {
                let at = at.key(key);
                return Err(at.mistake(format!("{}: {error}", at.path())));
            }
        }
        Ok(())
    }
}

impl RateLimit {
    /// A bucket of so many tokens, refilled at this rate.
    #[must_use]
    pub const fn new(refill_rate_per_second: f64, bucket_size: u32) -> Self {
        Self {
            refill_rate_per_second,
            bucket_size,
        }
    }

    /// A part of it, at least one token.
    pub(crate) fn part(self, part: f64) -> Self {
        let size = (f64::from(self.bucket_size) * part).round();
        Self {
            refill_rate_per_second: self.refill_rate_per_second * part,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a part of a u32, and not below zero"
            )]
            bucket_size: (size as u32).max(1),
        }
    }

    fn filled_from(self, default: Self) -> Self {
        use runtime::yaml::Setting;
        Self {
            refill_rate_per_second: self
                .refill_rate_per_second
                .or(default.refill_rate_per_second),
            bucket_size: self.bucket_size.or(default.bucket_size),
        }
    }

    fn check_rate(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.refill_rate_per_second < 0.0 || !self.refill_rate_per_second.is_finite() {
            let at = at.key("refill_rate_per_second");
            return Err(at.mistake("refill_rate_per_second must be 0 or more"));
        }
        Ok(())
    }
}
