//! When what is read: refreshes at intervals, and re-reads of what an event announced.
//!
//! Times are durations since the session began, so that a clock that is set changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::RemoteKey;

/// How long after a gap in the events, or one that names no key, everything is read: an event precedes what it
/// announces, and the changes of a gap may be under way.
const AFTER_EVENT: Duration = Duration::from_millis(100);
/// At most this often an event that names no key has everything read.
const ALL_CHANGED: Duration = Duration::from_secs(5);
/// How long a server may take from being asked for events until it sends them.
const SUBSCRIBED: Duration = Duration::from_secs(60);

/// When the keys of each interval are due.
///
/// All keys of one interval are read together. The first time, and the first time after an outage, comes early by up to
/// a half, differently for each workspace, so that the workspaces of one server do not march in step.
#[derive(Debug)]
pub struct Schedule {
    due: BTreeMap<Duration, Duration>,
    /// When what is seldom read is read once more, since events began to be heard.
    once_more: Option<Duration>,
    /// When everything is read, or was last, for an event that named no key.
    all_changed: Option<Duration>,
    /// From 0 to 1.
    spread: f64,
}

impl Schedule {
    /// Nothing is due yet. `spread`, from 0 to 1, tells this workspace from others.
    #[must_use]
    pub fn new(spread: f64) -> Self {
        Self { due: BTreeMap::new(), once_more: None, all_changed: None, spread: spread.clamp(0.0, 1.0) }
    }

    /// These are the intervals that are asked for. A new one begins now: whoever asks for it has just been read.
    pub fn keep(&mut self, intervals: &BTreeSet<Duration>, now: Duration) {
        self.due.retain(|interval, _| intervals.contains(interval));
        for interval in intervals {
            let first = now + self.early(*interval);
            self.due.entry(*interval).or_insert(first);
        }
    }

    /// The interval, or up to a half less.
    fn early(&self, interval: Duration) -> Duration {
        interval - interval.mul_f64(self.spread / 2.0)
    }

    /// When the keys of an interval are due.
    fn at(&self, interval: Duration, regular: Duration) -> Duration {
        self.once_more.filter(|_| interval > SUBSCRIBED).map_or(regular, |once_more| regular.min(once_more))
    }

    /// The intervals whose keys are due.
    #[must_use]
    pub fn due(&self, now: Duration) -> BTreeSet<Duration> {
        let due = self.due.iter().filter(|(interval, regular)| self.at(**interval, **regular) <= now);
        due.map(|(interval, _)| *interval).collect()
    }

    /// When something is due next.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.due.iter().map(|(interval, regular)| self.at(*interval, *regular)).min()
    }

    /// The keys of these intervals have been read, from `began` to `now`. What has become due meanwhile stays so.
    pub fn read(&mut self, intervals: &BTreeSet<Duration>, began: Duration, now: Duration) {
        for interval in intervals {
            let Some(regular) = self.due.get(interval).copied() else { continue };
            if self.at(*interval, regular) <= began {
                // After an outage all come at once.
                let was_missed = regular + *interval <= began;
                self.due.insert(*interval, now + if was_missed { self.early(*interval) } else { *interval });
            }
        }
        self.once_more = self.once_more.filter(|once_more| *once_more > began);
    }

    /// Everything is due at `at`, or before where it is anyway.
    pub fn all_due(&mut self, at: Duration) {
        for due in self.due.values_mut() {
            *due = at.min(*due);
        }
    }

    /// An event named no key: everything is read soon.
    pub fn anything_changed(&mut self, now: Duration) {
        let planned = match self.all_changed {
            Some(planned) if planned > now => planned,
            before => before.map_or(now, |last| last + ALL_CHANGED).max(now + AFTER_EVENT),
        };
        self.all_changed = Some(planned);
        self.all_due(planned);
    }

    /// Events are heard from `now` on. If something was read before, what it missed is read at once. And as a busy server
    /// takes a while to send events, and does not say when it does, keys that are read less than once a minute are read
    /// once more one to one and a half minutes later.
    pub fn events_are_heard(&mut self, has_read: bool, now: Duration) {
        if has_read {
            self.all_due(now + AFTER_EVENT);
        }
        self.once_more = Some(now + SUBSCRIBED.mul_f64(1.0 + self.spread / 2.0));
    }
}

/// How long after an event the key that it announced is read: what it announces may be committed late or never.
const RUNGS: [Duration; 3] = [AFTER_EVENT, Duration::from_millis(1000), Duration::from_millis(3000)];

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
    fn where_events_begin_to_be_heard_what_is_seldom_read_is_read_once_more_a_minute_later() {
        let mut schedule = Schedule::new(0.0);
        let [often, hourly, seldom] = [60, 3_600, 7_200].map(s);
        let all = BTreeSet::from([often, hourly]);
        schedule.keep(&all, s(0));
        for cut in 1..=5 {
            schedule.events_are_heard(true, s(cut));
            assert_eq!(schedule.next(), Some(ms(cut * 1_000 + 100)), "what was missed, at once");
            schedule.read(&all, ms(cut * 1_000 + 100), ms(cut * 1_000 + 200));
        }
        assert_eq!(schedule.due(s(64)), BTreeSet::new());
        // An interval that came meanwhile as well.
        let all = BTreeSet::from([often, hourly, seldom]);
        schedule.keep(&all, s(64));
        assert_eq!(schedule.due(s(65)), BTreeSet::from([hourly, seldom]));
        schedule.read(&BTreeSet::from([hourly, seldom]), s(65), s(66));
        assert_eq!(schedule.due(s(3_665)), BTreeSet::from([often]), "once, and the next time an interval later");
        assert_eq!(schedule.due(s(3_666)), BTreeSet::from([often, hourly]));
    }

    #[test]
    fn what_is_often_read_is_read_no_more_often_for_events() {
        let mut schedule = Schedule::new(0.0);
        let often = BTreeSet::from([s(30)]);
        schedule.keep(&often, s(0));
        schedule.events_are_heard(false, s(1));
        let mut times = Vec::new();
        while let Some(next) = schedule.next().filter(|next| *next <= s(120) && times.len() < 9) {
            times.push(next);
            schedule.read(&often, next, next);
        }
        assert_eq!(times, [30, 60, 90, 120].map(s));
    }

    #[test]
    fn after_an_outage_workspaces_do_not_march_in_step() {
        let next = |spread: f64| {
            let mut schedule = Schedule::new(spread);
            let all = BTreeSet::from([s(30)]);
            schedule.keep(&all, s(0));
            schedule.read(&all, s(300), s(301));
            schedule.next().unwrap()
        };
        assert_eq!((next(0.0), next(1.0)), (s(331), s(316)));
    }

    #[test]
    fn events_that_name_no_key_have_everything_read_soon_and_not_more_often_than_every_five_seconds() {
        let mut schedule = Schedule::new(0.0);
        let all = BTreeSet::from([s(3_600)]);
        schedule.keep(&all, s(0));
        let read_next = |schedule: &mut Schedule| {
            let next = schedule.next().unwrap();
            schedule.read(&schedule.due(next), next, next);
            next
        };
        schedule.anything_changed(s(1));
        schedule.anything_changed(s(1));
        assert_eq!(read_next(&mut schedule), ms(1_100));
        schedule.anything_changed(s(2));
        // An interval that comes in between is not forgotten.
        schedule.keep(&BTreeSet::from([s(7_200)]), s(3));
        schedule.anything_changed(s(4));
        assert_eq!(read_next(&mut schedule), ms(6_100));
        schedule.anything_changed(s(60));
        assert_eq!(read_next(&mut schedule), ms(60_100));
        assert_eq!(schedule.next(), Some(ms(7_260_100)));
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
