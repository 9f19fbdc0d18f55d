use prometheus_client::registry::Registry;
use runtime::yaml::FilePath;
use tokio::{net::TcpListener, time::Instant};

use super::*;

struct Site {
    queue: WebhookQueue,
    webhook: Webhook,
    numbers: Registry,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new(url: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret_file = folder.path().join("secret");
        std::fs::write(&secret_file, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").unwrap();
        let settings = config::Webhook {
            url: config::WebhookUrl(url),
            secret_file: FilePath(secret_file),
            ca_certificate_file: None,
        };
        let metrics = EventMetrics::default();
        let mut numbers = Registry::default();
        metrics.register(&mut numbers);
        let (queue, webhook) = Webhook::new(&settings, "kas", metrics).unwrap();
        Self {
            queue,
            webhook,
            numbers,
            _folder: folder,
        }
    }

    /// How often something has become of a batch.
    fn number(&self, outcome: &str) -> usize {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.numbers).unwrap();
        let name = format!(r#"cluster_event_webhooks_total{{outcome="{outcome}"}} "#);
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |number| number.parse().unwrap())
    }
}

#[test]
fn what_has_no_room_is_dropped_and_counted() {
    let site = Site::new("http://127.0.0.1:1/".to_owned());
    let batch = Arc::new(Batch::default());

    (0..QUEUE_BATCHES + 3).for_each(|_| site.queue.push(&batch));

    assert_eq!(site.number("Dropped"), 3);
    assert!(site.queue.full.load(Ordering::Relaxed));
    assert_eq!(site.webhook.batches.len(), QUEUE_BATCHES);
}

#[test]
fn there_is_room_again_when_a_batch_was_taken() {
    let mut site = Site::new("http://127.0.0.1:1/".to_owned());
    let batch = Arc::new(Batch::default());
    (0..=QUEUE_BATCHES).for_each(|_| site.queue.push(&batch));

    site.webhook.batches.try_recv().unwrap();
    site.queue.push(&batch);

    assert_eq!(site.number("Dropped"), 1);
    assert!(!site.queue.full.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_hangs_is_given_up_after_its_attempts() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::new(format!("http://{}/", hangs.local_addr().unwrap()));
    let began = Instant::now();

    site.webhook.deliver(&Batch::default()).await;

    assert_eq!(site.number("Retried"), MAX_ATTEMPTS - 1);
    assert_eq!(site.number("Failed"), 1);
    let attempts = ATTEMPT_TIMEOUT * u32::try_from(MAX_ATTEMPTS).unwrap();
    assert!(began.elapsed() >= attempts, "{:?}", began.elapsed());
    assert!(began.elapsed() < attempts + Duration::from_secs(101));
}
