//! Several kinds of requests at once, each at its own rate.

use std::collections::BTreeMap;

use runtime::signal::Termination;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Options, Report, Traffic, send_until};
use crate::limits;

/// Sends all kinds until their end or a signal; gives a report of each.
pub(super) async fn send(options: &Options) -> anyhow::Result<BTreeMap<&'static str, Report>> {
    limits::make_room(options.mix.iter().map(Traffic::clients).sum())?;
    let mut termination = Termination::listen()?;
    let stop = CancellationToken::new();
    let began = Instant::now();
    let mut kinds = JoinSet::new();
    for traffic in &options.mix {
        let (kind, stop) = (traffic.kind.name(), stop.clone());
        let options = traffic.options(options);
        kinds.spawn(async move {
            let tally = send_until(&options, None, stop).await?;
            anyhow::Ok((kind, Report::new(&tally, began.elapsed())))
        });
    }
    let mut reports = BTreeMap::new();
    loop {
        tokio::select! {
            _ = termination.next() => stop.cancel(),
            over = kinds.join_next() => match over {
                Some(over) => reports.extend([over??]),
                None => return Ok(reports),
            },
        }
    }
}

/// One part of `short=50,exec=1`: a kind and its requests a second.
pub(super) fn part(text: &str) -> Result<Traffic, String> {
    let (kind, rate) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not a kind and its rate, such as short=50"))?;
    let rate = rate.trim_end_matches("/s").parse();
    let rate = rate.map_err(|_| format!("{text:?} has no number of requests a second"))?;
    Traffic::at(kind, rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Kind;

    #[test]
    fn parts_are_kinds_and_rates() {
        let exec = part("exec=2.5/s").unwrap();

        assert_eq!((exec.kind, exec.rate), (Kind::Exec, Some(2.5)));
        assert!(part("exec").unwrap_err().contains("short=50"));
        assert!(part("exec=often").unwrap_err().contains("number"));
        assert!(part("exec=0").is_err());
        let typo = part("exce=1").unwrap_err();
        assert!(typo.contains("did you mean `exec`?"), "{typo}");
    }
}
