//! How a call of GitLab's API fares: as a whole, and for each caller whose credential it carries.
//!
//! What GitLab says of a caller (429, 5xx, no answer) is held against that caller only, until as many callers in a
//! row had the same. Where no connection is made, or where nobody's credential was sent, it is held against all.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moka::sync::Cache;
use tokio::{sync::Notify, time::Instant};

use super::{
    super::TokenHash,
    breaker::{Breaker, Change, FAILURES_MAX, OpenCircuit},
    call::{Call, Requester},
    error::CallError,
};

/// Callers for whom GitLab failed that are remembered; the least used are forgotten first.
const FAILING_CALLERS_MAX: u64 = 10_000;
/// The pause after a 429 that names none.
const THROTTLED_PAUSE: Duration = Duration::from_secs(1);
/// Calls wait for the end of an outage that is younger. Those of an older one are told at once.
const OUTAGE_WAITED_FOR_MAX: Duration = Duration::from_secs(15);

/// The health of one call of the API.
#[derive(Debug)]
pub(super) struct Health {
    whole: Mutex<Whole>,
    callers: Cache<TokenHash, Arc<Mutex<Breaker>>>,
    /// Something was reported.
    reported: Notify,
}

#[derive(Debug, Default)]
struct Whole {
    breaker: Breaker,
    /// For whom it failed since the last success.
    witnesses: Vec<Witness>,
}

/// Whose failure it was. Strangers at one address are one: they can make up as many tokens as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Witness {
    Caller(TokenHash),
    Strangers(IpAddr),
}

/// A call that may be made. Unless its result is reported, another may take its place.
#[derive(Debug)]
pub(super) struct Admission<'h> {
    health: &'h Health,
    caller: Option<TokenHash>,
    witness: Option<Witness>,
    reported: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            whole: Mutex::default(),
            callers: Cache::builder().max_capacity(FAILING_CALLERS_MAX).build(),
            reported: Notify::new(),
        }
    }
}

impl Health {
    /// Waits until a call may be made, while an outage is young and at most `until`. Cancel-safe.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn admitted(
        &self,
        call: &Call,
        until: Instant,
    ) -> Result<Admission<'_>, OpenCircuit> {
        loop {
            let mut reported = pin!(self.reported.notified());
            reported.as_mut().enable();
            let open = match self.admit(call.caller, Instant::now()) {
                Ok(()) => break,
                Err(open) => open,
            };
            if open.since >= OUTAGE_WAITED_FOR_MAX || open.again > until {
                return Err(open);
            }
            tokio::select! {
                () = reported => {}
                () = tokio::time::sleep_until(open.again) => {}
            }
        }
        Ok(Admission {
            health: self,
            caller: call.caller,
            witness: call.caller.map(|caller| match call.requester {
                Requester::Known => Witness::Caller(caller),
                Requester::Unknown(from) => Witness::Strangers(from),
            }),
            reported: false,
        })
    }

    fn admit(&self, caller: Option<TokenHash>, now: Instant) -> Result<(), OpenCircuit> {
        let caller = caller.and_then(|it| self.callers.get(&it));
        if let Some(caller) = &caller {
            lock(caller).admit(now)?;
        }
        let admitted = lock(&self.whole).breaker.admit(now);
        if let (Err(_), Some(caller)) = (&admitted, &caller) {
            lock(caller).unused(now);
        }
        admitted
    }

    fn unused(&self, caller: Option<TokenHash>, now: Instant) {
        if let Some(caller) = caller.and_then(|it| self.callers.get(&it)) {
            lock(&caller).unused(now);
        }
        lock(&self.whole).breaker.unused(now);
        self.reported.notify_waiters();
    }
}

impl Admission<'_> {
    /// Says how the call went. Gives what changed for all, and the pause that GitLab asked for.
    pub(super) fn report<T>(
        mut self,
        result: &Result<T, CallError>,
        now: Instant,
    ) -> (Change, Option<Duration>) {
        let error = match result {
            Err(error) if error.is_held_back() => return (Change::None, None),
            result => result.as_ref().err(),
        };
        self.reported = true;
        let done = match error {
            Some(CallError::Status {
                status: 429,
                retry_after,
                ..
            }) => self.throttled(retry_after.unwrap_or(THROTTLED_PAUSE), now),
            Some(error) if error.is_outage() => (self.failed(error, now), None),
            Some(_) | None => (self.answered(now), None),
        };
        self.health.reported.notify_waiters();
        done
    }

    fn throttled(&self, pause: Duration, now: Instant) -> (Change, Option<Duration>) {
        let why = "GitLab asks to slow down (429)".to_owned();
        let Some(caller) = self.caller else {
            let mut whole = lock(&self.health.whole);
            return (Change::None, Some(whole.breaker.pause_for(now, pause, why)));
        };
        let caller = self.health.callers.get_with(caller, Arc::default);
        let pause = lock(&caller).pause_for(now, pause, why);
        (self.whole_answered(now), Some(pause))
    }

    fn failed(&self, error: &CallError, now: Instant) -> Change {
        let fail = |breaker: &mut Breaker| breaker.failure(now, error.to_string(), rand::random());
        let concerns_all = matches!(
            error,
            CallError::Unreachable {
                connected: false,
                ..
            }
        );
        if let Some(caller) = self.caller.filter(|_| !concerns_all) {
            let caller = self.health.callers.get_with(caller, Arc::default);
            fail(&mut lock(&caller));
        }
        let mut whole = lock(&self.health.whole);
        if let Some(witness) = self.witness.filter(|_| !concerns_all) {
            let new = !whole.witnesses.contains(&witness);
            if new && whole.witnesses.len() < FAILURES_MAX as usize {
                whole.witnesses.push(witness);
            }
            if !new && whole.breaker.is_closed() {
                return Change::None;
            }
        }
        fail(&mut whole.breaker)
    }

    fn answered(&self, now: Instant) -> Change {
        if let Some(caller) = &self.caller {
            self.health.callers.invalidate(caller);
        }
        self.whole_answered(now)
    }

    fn whole_answered(&self, now: Instant) -> Change {
        let mut whole = lock(&self.health.whole);
        whole.witnesses.clear();
        whole.breaker.success(now)
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.health.unused(self.caller, Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{
        super::{super::Token, call::Endpoint},
        *,
    };

    fn call(token: &str, requester: Requester) -> Call {
        let call = Call::get(Endpoint::AllowedAgents, "/p");
        call.for_agent(&Token::new(token)).requested_by(requester)
    }

    fn status(status: u16) -> Result<(), CallError> {
        Err(CallError::Status {
            status,
            path: "/p",
            reason: None,
            retry_after: None,
        })
    }

    /// Makes a call that ends so, if it may be made now.
    fn made(health: &Health, call: &Call, result: &Result<(), CallError>) -> bool {
        let now = Instant::now();
        let admitted = health.admitted(call, now).now_or_never();
        let Some(Ok(admission)) = admitted else {
            return false;
        };
        admission.report(result, now);
        true
    }

    #[test]
    fn what_fails_for_one_caller_is_held_against_that_one() {
        let health = Health::default();
        let (one, other) = (
            call("one", Requester::Known),
            call("other", Requester::Known),
        );
        for result in [status(429), status(500)] {
            while made(&health, &one, &result) {}

            assert!(made(&health, &other, &Ok(())), "{result:?}");
        }
    }

    #[test]
    fn what_fails_for_several_callers_in_a_row_is_held_against_all() {
        let health = Health::default();
        for number in 0..FAILURES_MAX {
            let each = call(&number.to_string(), Requester::Known);
            assert!(made(&health, &each, &status(502)));
        }

        assert!(!made(&health, &call("other", Requester::Known), &Ok(())));
    }

    #[test]
    fn strangers_at_one_address_cannot_shut_a_call_for_others() {
        let health = Health::default();
        let from = Requester::Unknown(std::net::Ipv4Addr::LOCALHOST.into());
        for number in 0..100 {
            made(&health, &call(&number.to_string(), from), &status(500));
        }

        assert!(made(&health, &call("other", Requester::Known), &Ok(())));
    }

    #[test]
    fn without_a_connection_nobody_is_asked_for() {
        let health = Health::default();
        let refused: Result<(), _> = Err(CallError::Unreachable {
            connected: false,
            detail: String::new(),
        });
        let one = call("one", Requester::Known);

        let made_before = (0..100).take_while(|_| made(&health, &one, &refused));

        assert_eq!(made_before.count(), FAILURES_MAX as usize);
        assert!(!made(&health, &call("other", Requester::Known), &Ok(())));
    }

    #[test]
    fn a_trial_that_is_abandoned_leaves_its_turn_to_another() {
        let health = Health::default();
        let now = Instant::now();
        let call = Call::get(Endpoint::UsageMetrics, "/p");
        health.admitted(&call, now).now_or_never();
        lock(&health.whole)
            .breaker
            .pause_for(now, Duration::ZERO, "429".into());

        let trial = health.admitted(&call, now).now_or_never().unwrap().unwrap();
        assert!(!made(&health, &call, &Ok(())), "one at a time");
        drop(trial);

        assert!(made(&health, &call, &Ok(())));
    }
}
