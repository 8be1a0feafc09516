//! Loops that must turn: each shows now and then that it does, and `/livez` fails when one does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// All loops that must turn.
#[derive(Clone, Default)]
pub struct Pulses(Arc<Mutex<BTreeMap<u64, Loop>>>);

struct Loop {
    name: String,
    limit: Duration,
    last: Instant,
}

/// One loop; it is forgotten when this is dropped.
pub struct Pulse {
    pulses: Pulses,
    number: u64,
}

impl Pulses {
    /// A loop of this name that shows that it turns at least as often as `limit`.
    #[must_use]
    pub fn register(&self, name: impl Into<String>, limit: Duration) -> Pulse {
        let number = self.with(|loops| {
            let number = loops.last_key_value().map_or(0, |(last, _)| last + 1);
            loops.insert(number, Loop { name: name.into(), limit, last: Instant::now() });
            number
        });
        Pulse { pulses: self.clone(), number }
    }

    /// The loops that have not turned for too long, each with for how long.
    #[must_use]
    pub fn stalled(&self) -> Vec<(String, Duration)> {
        self.with(|loops| {
            let stalled = loops.values().filter(|turning| turning.last.elapsed() > turning.limit);
            stalled.map(|turning| (turning.name.clone(), turning.last.elapsed())).collect()
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<u64, Loop>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pulse {
    /// It turns.
    pub fn beat(&self) {
        self.pulses.with(|loops| {
            if let Some(turning) = loops.get_mut(&self.number) {
                turning.last = Instant::now();
            }
        });
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.pulses.with(|loops| loops.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_named_until_it_turns_again_or_is_gone() {
        let pulses = Pulses::default();
        let slow = pulses.register("slow", Duration::from_secs(60));
        let fast = pulses.register("fast", Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(pulses.stalled(), [("fast".to_owned(), Duration::from_secs(11))]);
        fast.beat();
        assert!(pulses.stalled().is_empty());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(pulses.stalled().len(), 2);
        drop(fast);
        drop(slow);
        assert!(pulses.stalled().is_empty());
    }
}
