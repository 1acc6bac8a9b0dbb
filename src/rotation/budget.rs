//! How fast each provider is asked by the job: so many requests a second, so
//! many at once, and not at all while it asks for a pause.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::{Instant, SharedClock};
use crate::idp::Budget;

/// Longest pause between two requests, whatever the rate.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// The budgets of all providers, for one run.
#[derive(Default)]
pub struct Budgets {
    providers: Mutex<HashMap<String, Arc<Provider>>>,
}

struct Provider {
    at_once: Arc<Semaphore>,
    gap: Duration,
    /// When the next request may begin.
    next: Mutex<Option<Instant>>,
}

impl Budgets {
    /// Waits until the provider may be asked. The permit is held while it is.
    pub async fn wait(
        &self,
        provider: &str,
        budget: Budget,
        clock: &SharedClock,
    ) -> Option<OwnedSemaphorePermit> {
        let provider = self.provider(provider, budget);
        let permit = Arc::clone(&provider.at_once).acquire_owned().await.ok()?;
        loop {
            let now = clock.instant();
            let pause = provider.reserve(now);
            if pause.is_zero() {
                return Some(permit);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes that the provider asked for a pause.
    pub fn pause(&self, provider: &str, budget: Budget, pause: Duration, clock: &SharedClock) {
        let provider = self.provider(provider, budget);
        let until = clock.instant().plus(pause);
        let mut next = provider.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(next.map_or(until, |known| known.max(until)));
    }

    fn provider(&self, name: &str, budget: Budget) -> Arc<Provider> {
        let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let gap = Duration::try_from_secs_f64(1.0 / budget.requests_per_second).unwrap_or(LONGEST_GAP);
            Arc::new(Provider {
                at_once: Arc::new(Semaphore::new(budget.concurrency.max(1))),
                gap: gap.min(LONGEST_GAP),
                next: Mutex::new(None),
            })
        };
        Arc::clone(providers.entry(name.to_owned()).or_insert_with(new))
    }
}

impl Provider {
    /// Takes the next place in line when it is now; otherwise says how long to
    /// wait before asking again.
    fn reserve(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match *next {
            Some(at) if now < at => at.since(now),
            Some(_) | None => {
                *next = Some(now.plus(self.gap));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const BUDGET: Budget = Budget { requests_per_second: 10.0, concurrency: 2 };

    #[test]
    fn requests_keep_their_distance_and_a_pause_holds_all_of_them() {
        let (budgets, clock) = (Budgets::default(), SystemClock::shared());
        let provider = budgets.provider("p", BUDGET);
        let now = clock.instant();
        assert_eq!(provider.reserve(now), Duration::ZERO);
        assert_eq!(provider.reserve(now), Duration::from_millis(100));
        assert_eq!(provider.reserve(now.plus(Duration::from_millis(100))), Duration::ZERO);
        budgets.pause("p", BUDGET, Duration::from_secs(30), &clock);
        assert!(provider.reserve(now.plus(Duration::from_secs(1))) > Duration::from_secs(28));
    }

    #[tokio::test]
    async fn no_more_at_once_than_the_budget_says() {
        let fast = Budget { requests_per_second: 1e9, concurrency: 2 };
        let (budgets, clock) = (Budgets::default(), SystemClock::shared());
        let held = (budgets.wait("p", fast, &clock).await, budgets.wait("p", fast, &clock).await);
        let third = budgets.wait("p", fast, &clock);
        let mut third = std::pin::pin!(third);
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        drop(held);
        assert!(third.await.is_some(), "the one that waited did not get the place");
    }
}
