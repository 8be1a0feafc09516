//! Free loopback ports.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below the range from which systems take ports for outgoing connections (32768 and up on Linux),
/// so that a port stays free while the server that owns it is down for a restart.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port on which nothing listens and that this process was not given before.
pub fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // A random place to start, so that two test processes at once are unlikely to meet.
    let span = u128::from(RANGE.end - RANGE.start);
    let first = u16::try_from(uuid::Uuid::new_v4().as_u128() % span).unwrap();
    (0..RANGE.end - RANGE.start)
        .map(|step| RANGE.start + (first + step) % (RANGE.end - RANGE.start))
        .find(|port| !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .inspect(|port| {
            taken.insert(*port);
        })
        .unwrap_or_else(|| panic!("no free port on 127.0.0.1 between {} and {}", RANGE.start, RANGE.end))
}
