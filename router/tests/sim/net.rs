//! The network: pipes with delay that can be held up, cut and black-holed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// An end of a connection. A replica keeps its place when it is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Agent(i64),
    Replica(usize),
}

/// All connections.
pub struct Net {
    rng: Mutex<StdRng>,
    links: Mutex<Vec<Weak<Link>>>,
    /// How many faults hold up what passes between two places, or at one.
    held: Mutex<BTreeMap<(Place, Place), usize>>,
    changes: watch::Sender<u64>,
    slowest: u64,
}

/// One connection.
pub struct Link {
    ends: (Place, Place),
    latency: Duration,
    hole: AtomicBool,
    cut: CancellationToken,
}

impl Net {
    pub fn new(seed: u64, slowest: u64) -> Arc<Self> {
        Arc::new(Self {
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            links: Mutex::default(),
            held: Mutex::default(),
            changes: watch::Sender::new(0),
            slowest,
        })
    }

    /// Connects two places; what is held up between them holds this up too.
    pub async fn connect(
        self: &Arc<Self>,
        from: Place,
        to: Place,
    ) -> (DuplexStream, DuplexStream, Arc<Link>) {
        let millis = self.rng.lock().unwrap().random_range(1..=self.slowest);
        let link = Arc::new(Link {
            ends: (from, to),
            latency: Duration::from_millis(millis),
            hole: AtomicBool::new(false),
            cut: CancellationToken::new(),
        });
        tokio::time::sleep(link.latency).await;
        self.passable(&link).await;
        self.links.lock().unwrap().push(Arc::downgrade(&link));
        let (ours, near) = tokio::io::duplex(64 << 10);
        let (theirs, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(carry(self.clone(), link.clone(), near, far));
        (ours, theirs, link)
    }

    /// Holds up, or lets go, what passes between two places (or one and itself:
    /// all that it has).
    pub fn hold(&self, a: Place, b: Place, on: bool) {
        let mut held = self.held.lock().unwrap();
        let count = held.entry((a.min(b), a.max(b))).or_default();
        *count = if on {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        drop(held);
        self.changes.send_modify(|version| *version += 1);
    }

    /// The connections of a place.
    pub fn links_of(&self, place: Place) -> Vec<Arc<Link>> {
        let mut links = self.links.lock().unwrap();
        links.retain(|link| link.upgrade().is_some_and(|link| !link.cut.is_cancelled()));
        let all = links.iter().filter_map(Weak::upgrade);
        all.filter(|link| link.touches(place)).collect()
    }

    fn is_held(&self, link: &Link) -> bool {
        let held = self.held.lock().unwrap();
        let (a, b) = link.ends;
        [(a.min(b), a.max(b)), (a, a), (b, b)]
            .iter()
            .any(|pair| held.get(pair).is_some_and(|count| *count > 0))
    }

    async fn passable(&self, link: &Link) {
        let mut changes = self.changes.subscribe();
        while link.hole.load(Ordering::Relaxed) || self.is_held(link) {
            let _ = changes.changed().await;
        }
    }
}

impl Link {
    /// Ends it as a reset does.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Nothing passes any more, and nobody is told.
    pub fn swallow(&self) {
        self.hole.store(true, Ordering::Relaxed);
    }

    pub fn is_hole(&self) -> bool {
        self.hole.load(Ordering::Relaxed) && !self.cut.is_cancelled()
    }

    pub fn touches(&self, place: Place) -> bool {
        self.ends.0 == place || self.ends.1 == place
    }
}

async fn carry(net: Arc<Net>, link: Arc<Link>, near: DuplexStream, far: DuplexStream) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::select! {
        biased;
        () = link.cut.cancelled() => {}
        () = pump(&net, &link, near_read, far_write) => {}
        () = pump(&net, &link, far_read, near_write) => {}
    }
    link.cut.cancel();
}

async fn pump(
    net: &Net,
    link: &Link,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        tokio::time::sleep(link.latency).await;
        net.passable(link).await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
