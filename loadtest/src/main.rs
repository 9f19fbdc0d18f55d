//! `loadtest`: measures a kas over the public wire only, whoever wrote it.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    loadtest::run().await
}
