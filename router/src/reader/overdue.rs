//! Which unread responses of one agent are to be cut. Pure.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

/// Unread bytes from which on the window is scarce: half the window of one connection.
pub(super) const SCARCE_BYTES: usize = 32 << 20;
/// Unread bytes from which on callers with too many are cut at once: three quarters of a window.
const PRESSING_BYTES: usize = 48 << 20;
/// Unread bytes of one caller that are tolerated for longer.
const CALLER_BYTES: usize = 16 << 20;
/// How long a response of a caller with more may go unread while the window is scarce.
const CALLER_STILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long any response may go unread while the window is scarce.
const STILL_TIMEOUT: Duration = Duration::from_secs(30);

/// The unread data of one response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) caller: &'a str,
    /// Bytes that were received and not read.
    pub(super) unread: usize,
    /// For how long nothing was read.
    pub(super) still: Duration,
}

/// The indices of responses to cut: first the caller with most unread data, its longest unread first.
pub(super) fn overdue(held: &[Held<'_>]) -> Vec<usize> {
    let mut total: usize = held.iter().map(|it| it.unread).sum();
    if total <= SCARCE_BYTES {
        return Vec::new();
    }
    let mut of_caller: HashMap<&str, usize> = HashMap::new();
    for it in held {
        *of_caller.entry(it.caller).or_default() += it.unread;
    }
    let mut order: Vec<_> = (0..held.len()).collect();
    order.sort_by_key(|index| {
        let it = &held[*index];
        Reverse((of_caller[it.caller], it.still, it.unread))
    });
    let mut cut = Vec::new();
    for index in order {
        let it = &held[index];
        if total <= SCARCE_BYTES {
            break;
        }
        let Some(callers) = of_caller.get_mut(it.caller) else {
            continue;
        };
        if it.unread == 0 || it.still < still_limit(total, *callers) {
            continue;
        }
        total -= it.unread;
        *callers -= it.unread;
        cut.push(index);
    }
    cut
}

/// How long a response may go unread when so much is unread in all, and of its caller.
fn still_limit(total: usize, of_caller: usize) -> Duration {
    if of_caller <= CALLER_BYTES {
        STILL_TIMEOUT
    } else if total <= PRESSING_BYTES {
        CALLER_STILL_TIMEOUT
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn answers(caller: &str, count: usize, still: u64) -> Vec<Held<'_>> {
        let one = Held {
            caller,
            unread: MIB,
            still: Duration::from_secs(still),
        };
        vec![one; count]
    }

    fn cut_of(held: &[Held<'_>], caller: &str) -> usize {
        let cut = overdue(held);
        cut.iter().filter(|at| held[**at].caller == caller).count()
    }

    #[test]
    fn nobody_is_cut_while_there_is_room() {
        assert!(overdue(&answers("one", 32, 3600)).is_empty());
    }

    #[test]
    fn whoever_holds_most_is_cut_at_once_when_it_presses() {
        let held = [answers("greedy", 100, 0), answers("bystander", 10, 0)].concat();

        // Until there is room again for others, or no more than the caller's part is left.
        assert_eq!(cut_of(&held, "greedy"), 62);
        assert_eq!(cut_of(&held, "bystander"), 0);
    }

    #[test]
    fn a_caller_with_too_many_has_a_moment_while_it_does_not_press() {
        let moved = [answers("greedy", 30, 4), answers("bystander", 10, 29)].concat();
        assert!(overdue(&moved).is_empty());

        let still = [answers("greedy", 30, 5), answers("bystander", 10, 29)].concat();
        assert_eq!((cut_of(&still, "greedy"), overdue(&still).len()), (8, 8));
    }

    #[test]
    fn many_who_hold_little_are_cut_when_they_stand_still() {
        let names: Vec<_> = (0..50).map(|number| format!("user-{number}")).collect();
        let all = |still| -> Vec<_> {
            let each = names.iter().map(|name| answers(name, 1, still));
            each.collect::<Vec<_>>().concat()
        };

        assert!(overdue(&all(29)).is_empty());
        assert_eq!(overdue(&all(30)).len(), 18);
    }

    #[test]
    fn what_is_read_as_it_comes_is_never_cut() {
        let nothing = Held {
            caller: "watcher",
            unread: 0,
            still: Duration::from_secs(3600),
        };
        let held = [vec![nothing; 400], answers("greedy", 60, 60)].concat();

        assert_eq!(cut_of(&held, "watcher"), 0);
        assert!(cut_of(&held, "greedy") > 0);
    }
}
