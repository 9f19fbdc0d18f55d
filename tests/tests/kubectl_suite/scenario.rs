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
    pub(crate) is_long: bool,
    pub(crate) run: Run,
    only_in: &'static [&'static str],
}

impl Scenario {
    /// Long scenarios run in a few topologies only.
    pub(crate) fn belongs_to(&self, topology: &Topology) -> bool {
        self.only_in.is_empty() || self.only_in.contains(&topology.name)
    }
}

/// Every scenario of the suite.
pub(crate) fn all() -> Vec<Scenario> {
    use Streams::{Spdy, WebSocket};
    let in_topologies = |only_in, name, run| Scenario {
        name,
        needs: &[],
        is_long: true,
        run,
        only_in,
    };
    let everywhere = |name, run| Scenario {
        name,
        needs: &[],
        is_long: false,
        run,
        only_in: &[],
    };
    let at_terminal = |name, run| Scenario {
        name,
        needs: &[Part::Pty],
        is_long: false,
        run,
        only_in: &[],
    };
    vec![
        in_topologies(
            &["wss_direct", "wss_haproxy_l7", "grpcs_nginx_l7"],
            "watch_and_logs_stay_open_for_minutes",
            |site| Box::pin(long::watch_and_logs(site)),
        ),
        in_topologies(&["wss_direct"], "copies_200_mib_both_ways", |site| {
            Box::pin(copy::both_ways(site, WebSocket, 200 << 20))
        }),
        everywhere("lists_namespaces", |site| {
            Box::pin(objects::lists_namespaces(site))
        }),
        everywhere("applies_changes_and_deletes", |site| {
            Box::pin(objects::applies(site))
        }),
        everywhere("rolls_out_a_deployment", |site| {
            Box::pin(objects::rolls_out(site))
        }),
        everywhere("says_what_the_cluster_refuses", |site| {
            Box::pin(objects::refuses(site))
        }),
        everywhere("watches_changes", |site| Box::pin(objects::watches(site))),
        everywhere("describes_a_pod", |site| Box::pin(pods::describes(site))),
        everywhere("lists_a_thousand_objects", |site| {
            Box::pin(objects::lists_a_thousand(site))
        }),
        everywhere("follows_logs", |site| Box::pin(pods::follows_logs(site))),
        everywhere("executes_over_websocket", |site| {
            Box::pin(exec::executes(site, WebSocket))
        }),
        everywhere("executes_over_spdy", |site| {
            Box::pin(exec::executes(site, Spdy))
        }),
        at_terminal("executes_at_a_terminal_over_websocket", |site| {
            Box::pin(exec::at_terminal(site, WebSocket))
        }),
        at_terminal("executes_at_a_terminal_over_spdy", |site| {
            Box::pin(exec::at_terminal(site, Spdy))
        }),
        everywhere("attaches_over_websocket", |site| {
            Box::pin(exec::attaches(site, WebSocket))
        }),
        everywhere("attaches_over_spdy", |site| {
            Box::pin(exec::attaches(site, Spdy))
        }),
        everywhere("copies_files_over_websocket", |site| {
            Box::pin(copy::both_ways(site, WebSocket, 8 << 20))
        }),
        everywhere("copies_files_over_spdy", |site| {
            Box::pin(copy::both_ways(site, Spdy, 8 << 20))
        }),
        everywhere("forwards_ports_over_websocket", |site| {
            Box::pin(forward::forwards(site, WebSocket))
        }),
        everywhere("forwards_ports_over_spdy", |site| {
            Box::pin(forward::forwards(site, Spdy))
        }),
        everywhere("reaches_pods_and_services", |site| {
            Box::pin(pods::proxies(site))
        }),
        everywhere("acts_as_the_agent", |site| Box::pin(identity::agent(site))),
        everywhere("acts_as_the_user", |site| Box::pin(identity::user(site))),
        everywhere("acts_as_a_fixed_identity", |site| {
            Box::pin(identity::fixed(site))
        }),
        everywhere("acts_as_a_service", |site| {
            Box::pin(identity::service(site))
        }),
        everywhere("refuses_strangers", |site| {
            Box::pin(identity::strangers(site))
        }),
    ]
}
