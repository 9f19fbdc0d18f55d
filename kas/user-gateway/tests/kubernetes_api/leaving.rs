//! What clients notice of a replica that leaves.

use http_body_util::BodyExt;

use crate::proxy::Proxy;

#[tokio::test]
async fn clients_are_asked_to_come_on_another_connection_before_theirs_ends() {
    let proxy = Proxy::start().await;
    let mut client = proxy.client().await;
    let before = client.get("/nothing").await;
    assert_eq!(before.headers().get("connection"), None);
    before.into_body().collect().await.unwrap();

    proxy.drain.announce();

    let after = client.get("/nothing").await;
    assert_eq!(after.headers()["connection"], "close");
}
