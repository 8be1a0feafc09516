//! Chance, so that what waits alike does not come back in step.

use uuid::Uuid;

/// A random number from 0 to 1. Not for secrets.
pub(crate) fn random() -> f64 {
    // A random UUID is the random number at hand.
    let (random, ..) = Uuid::new_v4().as_fields();
    f64::from(random) / f64::from(u32::MAX)
}
