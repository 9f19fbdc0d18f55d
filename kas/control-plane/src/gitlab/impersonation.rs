//! The names that jobs and users have in a cluster, exactly as upstream gives them.

use proto::agent::kubernetes_api::rpc::{ExtraKeyVal, ImpersonationConfig};

use super::{
    allowed_agents::{AllowedAgent, Impersonate, Job, JobAccessAs},
    proxy_user::{ProxyUser, Roles, UserAccessAs},
};

/// As whom a job uses an agent; `None` for the agent itself.
pub(super) fn of_job(job: &Job, agent: &AllowedAgent) -> Option<ImpersonationConfig> {
    match &agent.access_as {
        JobAccessAs::Agent => None,
        JobAccessAs::Impersonate(whom) => Some(as_written(whom)),
        JobAccessAs::CiJob => Some(ImpersonationConfig {
            username: format!("gitlab:ci_job:{}", job.id),
            groups: job_groups(job),
            uid: String::new(),
            extra: job_extra(job, agent),
        }),
    }
}

/// As whom a user uses an agent; `None` for the agent itself.
pub(super) fn of_user(user: &ProxyUser, access_type: &str) -> Option<ImpersonationConfig> {
    let UserAccessAs::User { projects, groups } = &user.access_as else {
        return None;
    };
    let all = std::iter::once("gitlab:user".to_owned())
        .chain(roles("project_role", projects))
        .chain(roles("group_role", groups));
    Some(ImpersonationConfig {
        username: format!("gitlab:user:{}", user.username),
        groups: all.collect(),
        uid: String::new(),
        extra: vec![
            value("id", user.agent.to_string()),
            value("username", user.username.clone()),
            value("access_type", access_type.to_owned()),
            value("config_project_id", user.config_project.to_string()),
        ],
    })
}

fn as_written(whom: &Impersonate) -> ImpersonationConfig {
    let extra = whom.extra.iter().map(|extra| ExtraKeyVal {
        key: extra.key.clone(),
        val: extra.val.clone(),
    });
    ImpersonationConfig {
        username: whom.username.clone(),
        groups: whom.groups.clone(),
        uid: whom.uid.clone(),
        extra: extra.collect(),
    }
}

fn job_groups(job: &Job) -> Vec<String> {
    let mut groups = vec!["gitlab:ci_job".to_owned()];
    for id in &job.groups {
        groups.push(format!("gitlab:group:{id}"));
        if let Some(environment) = &job.environment {
            groups.push(format!("gitlab:group_env_tier:{id}:{}", environment.tier));
        }
    }
    let project = job.project;
    groups.push(format!("gitlab:project:{project}"));
    if let Some(environment) = &job.environment {
        groups.push(format!("gitlab:project_env:{project}:{}", environment.slug));
        groups.push(format!(
            "gitlab:project_env_tier:{project}:{}",
            environment.tier
        ));
    }
    groups
}

fn job_extra(job: &Job, agent: &AllowedAgent) -> Vec<ExtraKeyVal> {
    let mut extra = vec![
        value("id", agent.id.to_string()),
        value("config_project_id", agent.config_project.to_string()),
        value("project_id", job.project.to_string()),
        value("ci_pipeline_id", job.pipeline.to_string()),
        value("ci_job_id", job.id.to_string()),
        value("username", job.username.clone()),
    ];
    if let Some(environment) = &job.environment {
        extra.push(value("environment_slug", environment.slug.clone()));
        extra.push(value("environment_tier", environment.tier.clone()));
    }
    extra
}

fn roles(sort: &str, memberships: &[Roles]) -> impl Iterator<Item = String> {
    memberships.iter().flat_map(move |membership| {
        let id = membership.id.0;
        let each = membership.roles.iter();
        each.map(move |role| format!("gitlab:{sort}:{id}:{role}"))
    })
}

fn value(key: &str, value: String) -> ExtraKeyVal {
    ExtraKeyVal {
        key: format!("agent.gitlab.com/{key}"),
        val: vec![value],
    }
}
