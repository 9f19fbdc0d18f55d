//! Connections of HTTP/2 on which nothing is asked.

use std::time::Duration;

use tokio::{net::TcpStream, time::Instant};

use crate::proxy::Proxy;

/// How long one may be unused.
const KEPT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_connection_of_http_2_is_closed_in_order_when_nothing_was_asked_for_a_minute() {
    let proxy = Proxy::start().await;
    let socket = TcpStream::connect(proxy.address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://kas/nothing").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let answered = response.await.unwrap();
    assert_eq!(answered.status(), 401);
    drop(answered);
    let unused_since = Instant::now();

    // h2 reports a GOAWAY with a reason as an error, and one in order as none.
    driver.await.unwrap().unwrap();

    assert!(unused_since.elapsed() >= KEPT - Duration::from_secs(1));
    assert!(unused_since.elapsed() <= KEPT + Duration::from_secs(15));
}
