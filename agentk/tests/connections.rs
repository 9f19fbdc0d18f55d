//! What an agent does when its connections to kas end.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod double;

use double::{
    kas::{self, Tunnel, http, info, request},
    world, world_with,
};
use proto::agent::grpctool::http_request;
use tonic::Status;

/// Makes a call through a tunnel and checks that it is answered.
async fn serves(tunnel: Tunnel) {
    let mut call = tunnel.take();
    let header = http_request::Message::Header(request("GET", "/api"));
    call.send(vec![info(kas::METHOD), http(header)]);
    call.close();
    assert!(call.answer().await.head.is_some());
}

#[tokio::test]
async fn tunnels_move_to_a_new_connection_while_a_call_goes_on() {
    let world = world().await;
    let mut running = world.kas.call(request("POST", "/exec")).await;
    let old = world.kas.tunnel().await;

    world.kas.leave(0);
    old.end(&Status::ok(""));
    let next = world.kas.tunnels_on(1, Some(0)).await;

    running.close();
    assert!(running.answer().await.head.is_some());
    assert_eq!(next[0].connection, 1);
}

#[tokio::test]
async fn the_new_tunnels_come_before_the_old_ones_go() {
    let world = world().await;
    let old = [world.kas.tunnel().await, world.kas.tunnel().await];

    world.kas.leave(0);
    let new = world.kas.tunnels_on(1, Some(0)).await;

    for tunnel in old.into_iter().chain(new) {
        serves(tunnel).await;
    }
}

#[tokio::test]
async fn each_connection_has_a_tunnel() {
    let world = world_with(2).await;

    let tunnels = world.kas.tunnels_on(2, None).await;

    for tunnel in tunnels {
        serves(tunnel).await;
    }
}

#[tokio::test]
async fn the_loss_of_one_connection_leaves_the_other_and_is_made_good() {
    let world = world_with(2).await;
    let mut tunnels = world.kas.tunnels_on(2, None).await;
    let (first, second) = (tunnels.remove(0), tunnels.remove(0));

    world.kas.cut(first.connection);

    serves(second).await;
    assert!(world.kas.tunnels_on(1, Some(1)).await[0].connection > 1);
}

#[tokio::test]
async fn all_connections_come_back_after_the_loss_of_all() {
    let world = world_with(2).await;
    world.kas.tunnels_on(2, None).await;

    for newest in [1, 3, 5] {
        world.kas.cut_all();

        let tunnels = world.kas.tunnels_on(2, Some(newest)).await;
        for tunnel in tunnels {
            serves(tunnel).await;
        }
    }
}

#[tokio::test]
async fn calls_spread_the_tunnels_over_the_connections() {
    let world = world_with(2).await;
    let mut tunnels = world.kas.tunnels_on(2, None).await;

    // The first call opens ten more.
    serves(tunnels.remove(0)).await;

    let mut counts = [0; 2];
    for _ in 0..10 {
        counts[world.kas.tunnel().await.connection] += 1;
    }
    assert!(counts.iter().all(|count| *count >= 4), "{counts:?}");
}
