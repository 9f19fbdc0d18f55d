//! Limits on requests: on those whose credentials are being checked, on those in progress, and among these on those
//! that wait for a tunnel, and those that can be resumed. One caller, or one address, may have a part of each.

use std::{net::IpAddr, sync::Arc};

use http::StatusCode;
use runtime::shares::{Full, Limits, Share, Shares};

use crate::{
    failure::Failure,
    metrics::{Metrics, Over},
};

/// Requests whose credentials the control plane is checking, by the address they come from.
const CHECKED: Limits = Limits {
    total: 4000,
    each: 3000,
    reserved: 400,
};
/// Requests that wait for a tunnel, by caller.
const HELD: Limits = Limits {
    total: 5000,
    each: 1000,
    reserved: 500,
};
/// Upgraded connections that can be resumed, by caller: 72 MiB of what may wait to be sent again, and 1.1 GiB in all.
const RESUMABLE: Limits = Limits {
    total: 2000,
    each: 128,
    reserved: 200,
};
/// Of all requests in progress, the part that one caller may have.
const CALLERS_PART: usize = 4;
/// Of all requests in progress, the part that only callers may have who have none.
const RESERVED_PART: usize = 10;

/// The limits, and what is taken of them.
#[derive(Debug)]
pub(crate) struct Places {
    checked: Shares<IpAddr>,
    in_progress: Shares<Arc<str>>,
    held: Shares<Arc<str>>,
    resumable: Shares<Arc<str>>,
    metrics: Metrics,
}

/// A place while the credentials of a request are checked.
#[derive(Debug)]
pub(crate) struct Checking(#[expect(dead_code, reason = "held for its Drop")] Share<IpAddr>);

/// The place of a request in progress.
#[derive(Debug)]
pub(crate) struct InProgress(#[expect(dead_code, reason = "held for its Drop")] Share<Arc<str>>);

/// The place of an upgraded connection that can be resumed.
#[derive(Debug)]
pub(crate) struct Resumable(#[expect(dead_code, reason = "held for its Drop")] Share<Arc<str>>);

/// The place of a request that waits for a tunnel.
#[derive(Debug)]
pub(crate) struct Held {
    _share: Share<Arc<str>>,
    metrics: Metrics,
}

impl Places {
    /// Free places for as many requests in progress.
    pub(crate) fn new(in_progress: usize, metrics: Metrics) -> Self {
        let limits = Limits {
            total: in_progress,
            each: in_progress.div_ceil(CALLERS_PART).max(1),
            reserved: in_progress / RESERVED_PART,
        };
        Self {
            checked: Shares::new(CHECKED),
            in_progress: Shares::new(limits),
            held: Shares::new(HELD),
            resumable: Shares::new(RESUMABLE),
            metrics,
        }
    }

    /// A place while the control plane checks the credentials.
    pub(crate) fn check(&self, from: IpAddr) -> Result<Checking, Failure> {
        let share = self.checked.take(from, 1);
        share.map(Checking).map_err(|full| {
            self.refuse(match full {
                Full::Holder(limit) => (
                    Over::AskedOfAddress,
                    format!(
                        "too many requests from this address wait for the check of their credentials (limit: {limit})"
                    ),
                ),
                Full::Total(limit) => (
                    Over::Asked,
                    format!(
                        "too many requests wait for the check of their credentials (limit: {limit})"
                    ),
                ),
            })
        })
    }

    /// A place until the request is over.
    pub(crate) fn begin(&self, caller: Arc<str>) -> Result<InProgress, Failure> {
        let share = self.in_progress.take(caller, 1);
        share.map(InProgress).map_err(|full| {
            self.refuse(match full {
                Full::Holder(limit) => (
                    Over::InProgressOfCaller,
                    format!("too many requests of this caller are in progress (limit: {limit})"),
                ),
                Full::Total(limit) => (
                    Over::InProgress,
                    format!("too many requests are in progress (limit: {limit})"),
                ),
            })
        })
    }

    /// A place while the request waits for a tunnel.
    pub(crate) fn hold(&self, caller: Arc<str>) -> Result<Held, Failure> {
        let share = self.held.take(caller, 1).map_err(|full| {
            self.refuse(match full {
                Full::Holder(limit) => (
                    Over::HeldOfCaller,
                    format!("too many requests are queued for agents (limit: {limit} per caller)"),
                ),
                Full::Total(limit) => (
                    Over::Held,
                    format!("too many requests are queued for agents (limit: {limit} in total)"),
                ),
            })
        })?;
        self.metrics.held(1);
        Ok(Held {
            _share: share,
            metrics: self.metrics.clone(),
        })
    }

    /// A place of an upgraded connection that can be resumed. Without one it ends with its tunnel.
    pub(crate) fn resumable(&self, caller: Arc<str>) -> Option<Resumable> {
        self.resumable.take(caller, 1).ok().map(Resumable)
    }

    fn refuse(&self, (over, message): (Over, String)) -> Failure {
        self.metrics.refused(over);
        Failure::retryable(StatusCode::TOO_MANY_REQUESTS, message)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.held(-1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_caller_has_a_quarter_and_others_their_own() {
        let places = Places::new(100, Metrics::default());
        let greedy: Vec<_> = (0..100)
            .filter_map(|_| places.begin("greedy".into()).ok())
            .collect();

        let refused = places.begin("greedy".into()).unwrap_err();

        assert_eq!(greedy.len(), 25);
        assert_eq!(
            refused.message,
            "too many requests of this caller are in progress (limit: 25)"
        );
        assert_eq!(refused.code, StatusCode::TOO_MANY_REQUESTS);
        assert!(places.begin("bystander".into()).is_ok());
    }

    #[test]
    fn what_one_holds_leaves_room_for_what_others_hold() {
        let places = Places::new(10_000, Metrics::default());
        let greedy: Vec<_> = (0..2000)
            .filter_map(|_| places.hold("greedy".into()).ok())
            .collect();

        assert_eq!(greedy.len(), 1000);
        assert!(places.hold("bystander".into()).is_ok());
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let places = Places::new(10_000, Metrics::default());
        let address = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let checking: Vec<_> = (0..5000)
            .filter_map(|_| places.check(address(1)).ok())
            .collect();

        assert_eq!(checking.len(), 3000);
        assert!(places.check(address(2)).is_ok());
    }

    #[test]
    fn what_one_may_resume_leaves_room_for_others() {
        let places = Places::new(10_000, Metrics::default());
        let greedy: Vec<_> = (0..200)
            .filter_map(|_| places.resumable("greedy".into()))
            .collect();

        assert_eq!(greedy.len(), 128);
        assert!(places.resumable("bystander".into()).is_some());
        drop(greedy);
        assert!(places.resumable("greedy".into()).is_some());
    }
}
