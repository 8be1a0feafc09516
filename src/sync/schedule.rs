//! When what is read: refreshes at intervals, and re-reads of what an event announced.
//!
//! Times are durations since the session began, so that a clock that is set changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::RemoteKey;

/// How long after a gap in the events everything is read: the changes of the gap may be under way.
const AFTER_GAP: Duration = Duration::from_millis(100);
/// How long a server may take from being asked for events until it sends them.
const SUBSCRIBED: Duration = Duration::from_secs(60);

/// When the keys of each interval are due.
///
/// All keys of one interval are read together. The first time comes early by up to a half, differently for each
/// workspace, so that the workspaces of one server do not march in step.
#[derive(Debug)]
pub struct Schedule {
    due: BTreeMap<Duration, Duration>,
    /// When everything is due once more, whatever is read before.
    once_more: Duration,
    /// From 0 to 1.
    spread: f64,
}

impl Schedule {
    /// Nothing is due yet. `spread`, from 0 to 1, tells this workspace from others.
    #[must_use]
    pub fn new(spread: f64) -> Self {
        Self { due: BTreeMap::new(), once_more: Duration::ZERO, spread: spread.clamp(0.0, 1.0) }
    }

    /// These are the intervals that are asked for. A new one begins now: whoever asks for it has just been read.
    pub fn keep(&mut self, intervals: &BTreeSet<Duration>, now: Duration) {
        self.due.retain(|interval, _| intervals.contains(interval));
        for interval in intervals {
            let next = self.after(now, now + *interval - interval.mul_f64(self.spread / 2.0));
            self.due.entry(*interval).or_insert(next);
        }
    }

    /// The intervals whose keys are due.
    #[must_use]
    pub fn due(&self, now: Duration) -> BTreeSet<Duration> {
        self.due.iter().filter(|(_, due)| **due <= now).map(|(interval, _)| *interval).collect()
    }

    /// When something is due next.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.due.values().min().copied()
    }

    /// The keys of these intervals have been read, from `began` to `now`. What has become due meanwhile stays so.
    pub fn read(&mut self, intervals: &BTreeSet<Duration>, began: Duration, now: Duration) {
        for interval in intervals {
            let next = self.after(began, now + *interval);
            if let Some(due) = self.due.get_mut(interval)
                && *due <= began
            {
                *due = next;
            }
        }
    }

    /// When what was read at `began` is due: at `next`, or before that once more.
    fn after(&self, began: Duration, next: Duration) -> Duration {
        if self.once_more > began { next.min(self.once_more) } else { next }
    }

    /// Everything is due at `at`, or before where it is anyway.
    pub fn all_due(&mut self, at: Duration) {
        for due in self.due.values_mut() {
            *due = at.min(*due);
        }
    }

    /// Events are heard from `now` on, or soon: a busy server takes a while to send them, and does not say when it
    /// does. A minute later everything is read once more, unless it is due before that anyway. After a gap, when
    /// something was read before, at once as well.
    pub fn events_are_heard(&mut self, after_gap: bool, now: Duration) {
        self.once_more = now + SUBSCRIBED;
        self.all_due(if after_gap { now + AFTER_GAP } else { self.once_more });
    }
}

/// How long after an event the key that it announced is read: an event precedes what it announces, which may be
/// committed late or never.
const RUNGS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(1000), Duration::from_millis(3000)];

/// Keys that events announced, and when each is read.
#[derive(Debug, Default)]
pub struct Ladder(BTreeMap<RemoteKey, Climb>);

#[derive(Debug)]
struct Climb {
    announced: Duration,
    rung: usize,
    next: Duration,
}

impl Ladder {
    /// Events announced these keys at `now`. One that is on the ladder already begins anew, but is not read later for
    /// it.
    pub fn announce(&mut self, keys: BTreeSet<RemoteKey>, now: Duration) {
        for key in keys {
            let next = now + RUNGS[0];
            let climb = self.0.entry(key).or_insert(Climb { announced: now, rung: 0, next });
            if climb.rung > 0 {
                (climb.announced, climb.rung) = (now, 0);
            }
            climb.next = climb.next.min(next);
        }
    }

    /// When a key is to be read next.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.0.values().map(|climb| climb.next).min()
    }

    /// The keys to read at `now`. Keys that would soon be due go along, so that many events cost few requests.
    pub fn climb(&mut self, now: Duration) -> BTreeSet<RemoteKey> {
        if self.next().is_none_or(|next| next > now) {
            return BTreeSet::new();
        }
        let mut keys = BTreeSet::new();
        for (key, climb) in &mut self.0 {
            let waited = match climb.rung {
                0 => Duration::ZERO,
                rung => (RUNGS[rung] - RUNGS[rung - 1]) / 2,
            };
            if climb.next <= now + waited {
                keys.insert(key.clone());
                climb.rung += 1;
                // From here, so that a rung that came early leaves the next one its distance.
                if let Some(rung) = RUNGS.get(climb.rung) {
                    climb.next = now + (*rung - RUNGS[climb.rung - 1]);
                }
            }
        }
        self.0.retain(|_, climb| climb.rung < RUNGS.len());
        keys
    }

    /// When the key was announced, if it is on the ladder.
    #[must_use]
    pub fn announced(&self, key: &RemoteKey) -> Option<Duration> {
        self.0.get(key).map(|climb| climb.announced)
    }

    /// The keys are not read any more before their next refresh.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn keys(names: &[&str]) -> BTreeSet<RemoteKey> {
        names.iter().map(|name| RemoteKey::Variable { name: (*name).into() }).collect()
    }

    #[test]
    fn each_interval_has_its_own_rhythm_and_the_first_time_is_early_by_the_spread() {
        let mut schedule = Schedule::new(0.5);
        schedule.keep(&BTreeSet::from([s(8), s(80)]), s(0));
        assert_eq!(schedule.next(), Some(s(6)));
        assert!(schedule.due(ms(5_999)).is_empty());
        assert_eq!(schedule.due(s(6)), BTreeSet::from([s(8)]));
        schedule.read(&BTreeSet::from([s(8)]), s(6), s(7));
        assert_eq!(schedule.next(), Some(s(15)), "an interval after it was read, the spread stays");
        assert_eq!(schedule.due(s(60)), BTreeSet::from([s(8), s(80)]));
    }

    #[test]
    fn an_interval_that_nobody_asks_for_any_more_is_dropped_and_a_new_one_begins_now() {
        let mut schedule = Schedule::new(0.0);
        schedule.keep(&BTreeSet::from([s(8), s(80)]), s(0));
        schedule.keep(&BTreeSet::from([s(80), s(2)]), s(1));
        assert_eq!(schedule.due(s(3)), BTreeSet::from([s(2)]));
        assert_eq!(schedule.due(s(79)), BTreeSet::from([s(2)]), "what is kept keeps its time");
        assert_eq!(schedule.due(s(80)), BTreeSet::from([s(2), s(80)]));
    }

    #[test]
    fn after_a_gap_everything_is_due_and_nothing_later_than_it_was() {
        let mut schedule = Schedule::new(0.0);
        schedule.keep(&BTreeSet::from([s(2), s(80)]), s(0));
        schedule.all_due(s(5));
        assert_eq!(schedule.due(s(4)), BTreeSet::from([s(2)]));
        assert_eq!(schedule.due(s(5)), BTreeSet::from([s(2), s(80)]));
        // A gap during a refresh: what was read before it does not count.
        schedule.all_due(s(6));
        schedule.read(&BTreeSet::from([s(2), s(80)]), s(5), s(7));
        assert_eq!(schedule.due(s(8)), BTreeSet::new());
        schedule.all_due(s(8));
        schedule.read(&BTreeSet::from([s(2), s(80)]), s(7), s(9));
        assert_eq!(schedule.due(s(9)), BTreeSet::from([s(2), s(80)]));
    }

    #[test]
    fn a_minute_after_events_are_heard_everything_is_read_once_more_and_more_often_where_it_is_anyway() {
        let mut schedule = Schedule::new(0.0);
        let [often, hourly] = [8, 3_600].map(s);
        schedule.keep(&BTreeSet::from([hourly]), s(0));
        schedule.events_are_heard(true, s(10));
        assert_eq!(schedule.next(), Some(ms(10_100)));
        let all = BTreeSet::from([often, hourly]);
        schedule.read(&all, ms(10_100), s(11));
        assert_eq!(schedule.next(), Some(s(70)), "what was read at once is read once more");
        schedule.keep(&all, s(60));
        assert_eq!(schedule.next(), Some(s(68)));
        schedule.read(&BTreeSet::from([often]), s(68), s(68));
        assert_eq!(schedule.due(s(70)), all);
        schedule.read(&all, s(70), s(71));
        assert_eq!(schedule.due(s(3_670)), BTreeSet::from([often]), "and then as ever");
        // A key that is asked for soon after events are heard may have changed unheard as well.
        schedule.events_are_heard(false, s(5_000));
        let other = BTreeSet::from([s(7_200)]);
        schedule.keep(&other, s(5_010));
        assert_eq!(schedule.due(s(5_060)), other);
    }

    /// Climbs whenever the ladder asks for it; when which keys were read.
    fn climb_all(ladder: &mut Ladder) -> Vec<(u128, usize)> {
        std::iter::from_fn(|| {
            let at = ladder.next()?;
            Some((at.as_millis(), ladder.climb(at).len()))
        })
        .take(20)
        .collect()
    }

    #[test]
    fn an_announced_key_is_read_after_a_tenth_of_a_second_one_and_three() {
        let mut ladder = Ladder::default();
        ladder.announce(keys(&["a"]), s(10));
        assert!(ladder.climb(ms(10_099)).is_empty());
        assert_eq!(climb_all(&mut ladder), [(10_100, 1), (11_000, 1), (13_000, 1)]);
        assert_eq!(ladder.announced(keys(&["a"]).first().unwrap()), None);
    }

    #[test]
    fn a_key_that_is_announced_again_is_read_as_soon_and_climbs_anew() {
        let mut ladder = Ladder::default();
        ladder.announce(keys(&["a"]), s(0));
        ladder.announce(keys(&["a"]), ms(50));
        assert_eq!(ladder.next(), Some(ms(100)), "many events do not put it off");
        ladder.climb(ms(100));
        ladder.announce(keys(&["a"]), ms(900));
        assert_eq!(climb_all(&mut ladder), [(1_000, 1), (1_900, 1), (3_900, 1)]);
    }

    #[test]
    fn many_events_cost_few_reads() {
        let mut ladder = Ladder::default();
        let mut reads = 0;
        // Five changes a second for ten seconds.
        for n in 0..50_u64 {
            let now = ms(n * 200);
            while ladder.next().is_some_and(|next| next <= now) {
                reads += usize::from(!ladder.climb(ladder.next().unwrap()).is_empty());
            }
            ladder.announce(keys(&[&n.to_string()]), now);
        }
        assert!((45..=60).contains(&reads), "{reads} reads for 50 events");
    }
}
