//! The cluster: its API, its clock, and what the agent may do there. Asking for rights changes nothing.

use std::time::Duration;

use http::{Method, Request, header};
use kube::client::Body;
use runtime::{
    doctor::{Fault, Finding, QUESTION_TIMEOUT, Report, check_clock},
    telemetry::Causes,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    cluster::{Cluster, source},
    config::Config,
    features::Feature,
    metrics::Metrics,
};

const HOP: &str = "Kubernetes API";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// A right, and what it is for.
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    namespace: Option<String>,
    name: &'static str,
    what_for: &'static str,
}

impl Right {
    const fn new(
        verb: &'static str,
        group: &'static str,
        resource: &'static str,
        what_for: &'static str,
    ) -> Self {
        Self {
            verb,
            group,
            resource,
            namespace: None,
            name: "",
            what_for,
        }
    }

    /// The same within bounds, as Kubernetes 1.36 and newer have it.
    fn constrained(&self) -> Option<Self> {
        let name = if self.resource == "groups" {
            "gitlab:user"
        } else {
            ""
        };
        (self.verb == "impersonate").then(|| Self {
            name,
            ..Self::new(
                "impersonate:user-info",
                "authentication.k8s.io",
                self.resource,
                self.what_for,
            )
        })
    }

    fn review(&self) -> Value {
        let mut attributes =
            json!({"verb": self.verb, "group": self.group, "resource": self.resource});
        if let Some(namespace) = &self.namespace {
            attributes["namespace"] = namespace.as_str().into();
        }
        if !self.name.is_empty() {
            attributes["name"] = self.name.into();
        }
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        })
    }
}

/// Looks at the cluster of this configuration.
pub(super) async fn examine(config: &Config, report: &mut Report) {
    let client = match open(config).await {
        Ok(client) => client,
        Err(error) => {
            let finding = Finding::failed(Fault::Cluster, format!("{error:#}"));
            report.add(HOP, "access", finding);
            return;
        }
    };
    if !check_version(&client, report).await {
        return;
    }
    for right in rights(config) {
        let check = format!("may {} {}", right.verb, right.resource);
        let finding = match may(&client, &right).await {
            Ok(true) => Finding::ok(right.what_for),
            Ok(false) if may_within_bounds(&client, &right).await => Finding::ok(format!(
                "{}, within bounds (impersonate:user-info)",
                right.what_for
            )),
            Ok(false) => {
                let seen = format!("not allowed; needed for: {}", right.what_for);
                Finding::warning(Fault::Rights, seen)
            }
            Err(error) => Finding::not_checked(error.to_string()),
        };
        report.add(HOP, &check, finding);
    }
}

async fn open(config: &Config) -> anyhow::Result<kube::Client> {
    let access = config.cluster.load().await?;
    let proxy = source::proxy(config.kubernetes_proxy.clone(), &access)?;
    Ok(Cluster::open(access, proxy, Metrics::default())
        .await?
        .typed()?)
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("{}", Causes(.0))]
    Kube(#[from] kube::Error),
    #[error("no answer within {QUESTION_TIMEOUT:?}")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

async fn check_version(client: &kube::Client, report: &mut Report) -> bool {
    let began = Instant::now();
    let asked = async {
        let request = Request::get("/version").body(Body::empty())?;
        Ok(timeout(QUESTION_TIMEOUT, client.send(request)).await??)
    };
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            let error: Unanswered = error;
            let finding = Finding::failed(Fault::Cluster, error.to_string());
            return report.add(HOP, "access", finding);
        }
    };
    let took = began.elapsed();
    let status = answer.status();
    let date = answer.headers().get(header::DATE);
    let date = date.and_then(|it| runtime::doctor::http_date(it.to_str().ok()?));
    if let Some(time) = date {
        check_clock(report, HOP, time, took + Duration::from_secs(1));
    }
    let finding = match status.is_success() {
        true => Finding::ok(format!("answers in {took:?}")),
        false => Finding::failed(Fault::Cluster, format!("/version: HTTP {status}")),
    };
    report.add(HOP, "access", finding)
}

async fn may(client: &kube::Client, right: &Right) -> Result<bool, Unanswered> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(REVIEWS)
        .header(header::CONTENT_TYPE, "application/json")
        .body(right.review().to_string().into_bytes())?;
    let review = timeout(QUESTION_TIMEOUT, client.request::<Value>(request)).await??;
    Ok(review["status"]["allowed"] == true)
}

async fn may_within_bounds(client: &kube::Client, right: &Right) -> bool {
    match right.constrained() {
        Some(right) => may(client, &right).await.unwrap_or(false),
        None => false,
    }
}

fn rights(config: &Config) -> Vec<Right> {
    let impersonation = "access of users and jobs under their own names";
    let mut rights = vec![
        Right {
            name: "kube-system",
            ..Right::new(
                "get",
                "",
                "namespaces",
                "kas knows the cluster by this namespace's UID, and keeps two with one token apart",
            )
        },
        Right::new("impersonate", "", "users", impersonation),
        Right::new("impersonate", "", "groups", impersonation),
    ];
    if let Some(pod) = &config.pod {
        for verb in ["get", "create", "update"] {
            rights.push(Right {
                namespace: Some(pod.namespace.clone()),
                ..Right::new(
                    verb,
                    "coordination.k8s.io",
                    "leases",
                    "the election of the pod that does what only one may do",
                )
            });
        }
    }
    for feature in &config.features {
        rights.extend(of_feature(*feature));
    }
    rights
}

fn of_feature(feature: Feature) -> Vec<Right> {
    match feature {
        Feature::Events => vec![Right::new("watch", "", "events", "--features events")],
        Feature::Flux => vec![
            Right::new(
                "watch",
                "source.toolkit.fluxcd.io",
                "gitrepositories",
                "--features flux",
            ),
            Right::new(
                "create",
                "notification.toolkit.fluxcd.io",
                "receivers",
                "--features flux",
            ),
        ],
        Feature::Graph => vec![Right::new("watch", "", "pods", "--features graph")],
    }
}
