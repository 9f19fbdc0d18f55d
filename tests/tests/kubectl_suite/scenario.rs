//! The list of what is done in every topology.

use anyhow::Result;
use futures_util::future::LocalBoxFuture;
use tests::{kubectl::Streams, parts::Part};

use crate::{copy, exec, forward, identity, long, objects, pods, site::Site, topology::Topology};

type Run = for<'a> fn(&'a Site) -> LocalBoxFuture<'a, Result<()>>;

/// One thing that users do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Part],
    pub(crate) run: Run,
    /// It does hardly anything, for minutes: it takes nobody's place among those that run at once.
    pub(crate) waits: bool,
    only_in: &'static [&'static str],
    asks_kas: bool,
}

impl Scenario {
    const fn new(name: &'static str, run: Run) -> Self {
        Self {
            name,
            needs: &[],
            run,
            waits: false,
            only_in: &[],
            asks_kas: false,
        }
    }

    /// It takes minutes, and so runs in a few topologies only.
    const fn long(name: &'static str, only_in: &'static [&'static str], run: Run) -> Self {
        Self {
            only_in,
            ..Self::new(name, run)
        }
    }

    /// A long one that waits.
    const fn waiting(name: &'static str, only_in: &'static [&'static str], run: Run) -> Self {
        Self {
            waits: true,
            ..Self::long(name, only_in, run)
        }
    }

    const fn at_terminal(name: &'static str, run: Run) -> Self {
        Self {
            needs: &[Part::Pty],
            ..Self::new(name, run)
        }
    }

    /// It is about kas's own users, not only about what passes through.
    const fn of_kas(name: &'static str, run: Run) -> Self {
        Self {
            asks_kas: true,
            ..Self::new(name, run)
        }
    }

    pub(crate) fn is_long(&self) -> bool {
        !self.only_in.is_empty()
    }

    pub(crate) fn belongs_to(&self, topology: &Topology) -> bool {
        (!self.is_long() || self.only_in.contains(&topology.name))
            && (!self.asks_kas || topology.has_accounts())
    }
}

/// Every scenario of the suite.
pub(crate) fn all() -> Vec<Scenario> {
    use Streams::{Spdy, WebSocket};
    const MINUTES: &[&str] = &["wss_direct", "wss_haproxy_l7", "grpcs_nginx_l7"];
    vec![
        Scenario::waiting("watch_and_logs_stay_open_for_minutes", MINUTES, |site| {
            Box::pin(long::watch_and_logs(site))
        }),
        Scenario::long("copies_200_mib_both_ways", &["wss_direct"], |site| {
            Box::pin(copy::both_ways(site, WebSocket, 200 << 20))
        }),
        Scenario::new("lists_namespaces", |site| {
            Box::pin(objects::lists_namespaces(site))
        }),
        Scenario::new("applies_changes_and_deletes", |site| {
            Box::pin(objects::applies(site))
        }),
        Scenario::new("rolls_out_a_deployment", |site| {
            Box::pin(objects::rolls_out(site))
        }),
        Scenario::new("says_what_the_cluster_refuses", |site| {
            Box::pin(objects::refuses(site))
        }),
        Scenario::new("watches_changes", |site| Box::pin(objects::watches(site))),
        Scenario::new("lists_a_thousand_objects", |site| {
            Box::pin(objects::lists_a_thousand(site))
        }),
        Scenario::new("describes_a_pod", |site| Box::pin(pods::describes(site))),
        Scenario::new("follows_logs", |site| Box::pin(pods::follows_logs(site))),
        Scenario::new("reaches_pods_and_services", |site| {
            Box::pin(pods::proxies(site))
        }),
        Scenario::new("executes_over_websocket", |site| {
            Box::pin(exec::executes(site, WebSocket))
        }),
        Scenario::new("executes_over_spdy", |site| {
            Box::pin(exec::executes(site, Spdy))
        }),
        Scenario::at_terminal("executes_at_a_terminal_over_websocket", |site| {
            Box::pin(exec::at_terminal(site, WebSocket))
        }),
        Scenario::at_terminal("executes_at_a_terminal_over_spdy", |site| {
            Box::pin(exec::at_terminal(site, Spdy))
        }),
        Scenario::new("attaches_over_websocket", |site| {
            Box::pin(exec::attaches(site, WebSocket))
        }),
        Scenario::new("attaches_over_spdy", |site| {
            Box::pin(exec::attaches(site, Spdy))
        }),
        Scenario::new("copies_files_over_websocket", |site| {
            Box::pin(copy::both_ways(site, WebSocket, 8 << 20))
        }),
        Scenario::new("copies_files_over_spdy", |site| {
            Box::pin(copy::both_ways(site, Spdy, 8 << 20))
        }),
        Scenario::new("forwards_ports_over_websocket", |site| {
            Box::pin(forward::forwards(site, WebSocket))
        }),
        Scenario::new("forwards_ports_over_spdy", |site| {
            Box::pin(forward::forwards(site, Spdy))
        }),
        Scenario::of_kas("acts_as_the_agent", |site| Box::pin(identity::agent(site))),
        Scenario::of_kas("acts_as_the_user", |site| Box::pin(identity::user(site))),
        Scenario::of_kas("acts_as_a_fixed_identity", |site| {
            Box::pin(identity::fixed(site))
        }),
        Scenario::of_kas("acts_as_a_service", |site| {
            Box::pin(identity::service(site))
        }),
        Scenario::of_kas("refuses_strangers", |site| {
            Box::pin(identity::strangers(site))
        }),
    ]
}
