//! One flight per grant in the process (rule 1), and one answer for all who ask
//! for the same thing.
//!
//! [`GrantLocks`] gives each grant one owner at a time. [`Flights`] lets callers
//! who want the same result wait for one task, which goes on when they leave.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio_util::task::TaskTracker;

use crate::domain::grant::GrantKey;

/// A lock per grant.
#[derive(Debug, Default)]
pub struct GrantLocks {
    locks: Mutex<HashMap<GrantKey, Weak<AsyncMutex<()>>>>,
}

/// Held while a grant's refresh token is being used, replaced or deleted.
#[derive(Debug)]
pub struct GrantLock {
    _guard: OwnedMutexGuard<()>,
}

impl GrantLocks {
    /// Waits for the grant's lock.
    pub async fn lock(&self, key: &GrantKey) -> GrantLock {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 1024 && locks.len().is_power_of_two() {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            match locks.get(key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    locks.insert(key.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        GrantLock { _guard: lock.lock_owned().await }
    }
}

/// Tasks under way, by what they will answer.
#[derive(Debug)]
pub struct Flights<K, V> {
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

/// The task ended without an answer; it panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlightLost;

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the flight for `key`, or starts it as a detached task: a caller
    /// that goes away ends its own waiting and nothing else (rule 3).
    ///
    /// # Errors
    ///
    /// When the task panicked.
    pub async fn join<F>(
        &self,
        tasks: &TaskTracker,
        key: K,
        start: impl FnOnce() -> F,
    ) -> Result<V, FlightLost>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut answer = self.start(tasks, key, start);
        let answer = answer.wait_for(Option::is_some).await.map_err(|_| FlightLost)?;
        answer.clone().ok_or(FlightLost)
    }

    /// How many flights are under way that `which` picks.
    pub fn count(&self, which: impl Fn(&K) -> bool) -> usize {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.keys().filter(|key| which(key)).count()
    }

    /// Starts the flight when there is none, without waiting.
    pub fn start<F>(
        &self,
        tasks: &TaskTracker,
        key: K,
        start: impl FnOnce() -> F,
    ) -> watch::Receiver<Option<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        match under_way.entry(key.clone()) {
            Entry::Occupied(flight) => flight.get().clone(),
            Entry::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                place.insert(receiver.clone());
                let flight = start();
                let landing = Landing { flights: Arc::clone(&self.under_way), key };
                tasks.spawn(async move {
                    let answer = flight.await;
                    // Out of the map first: who comes after the answer starts anew.
                    drop(landing);
                    let _ = sender.send(Some(answer));
                });
                receiver
            }
        }
    }
}

/// Takes the flight out of the map, also when its task panics.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_while_it_flies_share_one_flight() {
        let (flights, tasks) = (Arc::new(Flights::<u8, u32>::default()), TaskTracker::new());
        let (starts, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (flights, tasks, starts, go) =
                    (flights.clone(), tasks.clone(), starts.clone(), go.clone());
                tokio::spawn(async move {
                    flights
                        .join(&tasks, 7, || async move {
                            go.notified().await;
                            starts.fetch_add(1, Ordering::SeqCst)
                        })
                        .await
                })
            })
            .collect();
        while flights.under_way.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(0));
        }
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_caller_leaves() {
        let (flights, tasks) = (Flights::<u8, u32>::default(), TaskTracker::new());
        let (go, landed) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (go2, landed2) = (go.clone(), landed.clone());
        let waiting = flights.join(&tasks, 7, || async move {
            go2.notified().await;
            landed2.fetch_add(1, Ordering::SeqCst)
        });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), waiting).await.is_err());
        go.notify_one();
        tasks.close();
        tasks.wait().await;
        assert_eq!(landed.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_leaves_no_flight_behind() {
        let (flights, tasks) = (Flights::<u8, u32>::default(), TaskTracker::new());
        let lost = flights.join(&tasks, 7, || async { panic!("a defect") }).await;
        assert_eq!(lost, Err(FlightLost));
        assert_eq!(flights.join(&tasks, 7, || async { 1 }).await, Ok(1));
    }
}
