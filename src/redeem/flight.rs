//! One flight per grant in the process (rule 1), and one answer for all who ask
//! for the same thing.
//!
//! [`GrantLocks`] gives each grant one owner at a time, and callers their turn:
//! one caller's many requests delay another's by no more than the one under way.
//! [`Flights`] lets requests of one caller that want the same result wait for one
//! task, which goes on when they leave.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::domain::grant::GrantKey;
use crate::domain::id::CallerId;

type Waiting = HashMap<GrantKey, Turns>;

/// A lock per grant.
#[derive(Debug, Clone, Default)]
pub struct GrantLocks {
    held: Arc<Mutex<Waiting>>,
}

/// Who waits for a grant that is held: callers in the order of their turns, each
/// with its own requests in order.
#[derive(Debug)]
struct Turns {
    /// Whose request holds it. The same caller's next one comes after everybody
    /// else's, also after those who came later.
    holder: CallerId,
    waiting: VecDeque<(CallerId, VecDeque<oneshot::Sender<GrantLock>>)>,
}

/// Held while a grant's refresh token is being used, replaced or deleted.
#[derive(Debug)]
pub struct GrantLock {
    /// `None`: given on to the next.
    of: Option<(GrantKey, Arc<Mutex<Waiting>>)>,
}

impl GrantLocks {
    /// Waits for the caller's turn at the grant.
    pub async fn lock(&self, key: &GrantKey, caller: &CallerId) -> GrantLock {
        loop {
            let turn = {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                match held.entry(key.clone()) {
                    Entry::Vacant(free) => {
                        free.insert(Turns { holder: caller.clone(), waiting: VecDeque::new() });
                        return GrantLock { of: Some((key.clone(), Arc::clone(&self.held))) };
                    }
                    Entry::Occupied(mut turns) => turns.get_mut().join(caller),
                }
            };
            // The sender is dropped only with the whole map.
            if let Ok(lock) = turn.await {
                return lock;
            }
        }
    }
}

impl Turns {
    fn join(&mut self, caller: &CallerId) -> oneshot::Receiver<GrantLock> {
        let (give, turn) = oneshot::channel();
        match self.waiting.iter_mut().find(|(known, _)| known == caller) {
            Some((_, requests)) => requests.push_back(give),
            None => self.waiting.push_back((caller.clone(), VecDeque::from([give]))),
        }
        turn
    }

    /// The next request; its caller goes to the end of the line.
    fn next(&mut self) -> Option<oneshot::Sender<GrantLock>> {
        let another = self.waiting.iter().position(|(caller, _)| *caller != self.holder);
        let (caller, mut requests) = self.waiting.remove(another.unwrap_or(0))?;
        let next = requests.pop_front();
        self.holder = caller.clone();
        if !requests.is_empty() {
            self.waiting.push_back((caller, requests));
        }
        next
    }
}

impl Drop for GrantLock {
    fn drop(&mut self) {
        let Some((key, waiting)) = self.of.take() else { return };
        loop {
            let next = {
                let mut held = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let next = held.get_mut(&key).and_then(Turns::next);
                if next.is_none() {
                    held.remove(&key);
                }
                next
            };
            let Some(next) = next else { return };
            let lock = Self { of: Some((key.clone(), Arc::clone(&waiting))) };
            match next.send(lock) {
                Ok(()) => return,
                // Its request has gone away; without a recursion to the next.
                Err(mut unwanted) => drop(unwanted.of.take()),
            }
        }
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

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// How many flights are under way that `which` picks.
    pub fn count(&self, which: impl Fn(&K) -> bool) -> usize {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.keys().filter(|key| which(key)).count()
    }

    /// Whether there is a flight for `key`.
    pub fn has(&self, key: &K) -> bool {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Joins the flight for `key`, or starts it as a detached task: a caller that
    /// goes away ends its own waiting and nothing else (rule 3). Does not wait.
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
                let completed = Completed { flights: Arc::clone(&self.under_way), key };
                tasks.spawn(async move {
                    let answer = flight.await;
                    // Out of the map first: who comes after the answer starts anew.
                    drop(completed);
                    let _ = sender.send(Some(answer));
                });
                receiver
            }
        }
    }
}

/// Takes the flight out of the map, also when its task panics.
struct Completed<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Completed<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;
    use tokio::sync::mpsc;

    use super::*;
    use crate::domain::id::{ClientId, SubjectId, TenantId};

    fn grant() -> GrantKey {
        GrantKey {
            tenant: TenantId::new("acme").unwrap(),
            client: ClientId::new("mail").unwrap(),
            subject: SubjectId::new("ada").unwrap(),
        }
    }

    fn caller(name: &str) -> CallerId {
        CallerId::new(name).unwrap()
    }

    fn waiting(locks: &GrantLocks) -> usize {
        locks.held.lock().unwrap().get(&grant()).map_or(0, |t| t.waiting.iter().map(|(_, r)| r.len()).sum())
    }

    /// Starts a request that reports its name when it has the lock.
    async fn queue(locks: &GrantLocks, name: &'static str, order: &mpsc::UnboundedSender<&'static str>) {
        let before = waiting(locks);
        let (locks_of_task, order) = (locks.clone(), order.clone());
        tokio::spawn(async move {
            let _lock = locks_of_task.lock(&grant(), &caller(name)).await;
            order.send(name).unwrap();
        });
        while waiting(locks) == before {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn callers_take_turns_however_many_requests_each_has() {
        let locks = GrantLocks::default();
        let held = locks.lock(&grant(), &caller("first")).await;
        let (order, mut came) = mpsc::unbounded_channel();
        for _ in 0..32 {
            queue(&locks, "greedy", &order).await;
        }
        queue(&locks, "modest", &order).await;
        queue(&locks, "late", &order).await;
        drop(held);
        let mut names = Vec::new();
        for _ in 0..34 {
            names.push(came.recv().await.unwrap());
        }
        assert_eq!(names[..4], ["greedy", "modest", "late", "greedy"]);
        while !locks.held.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_holders_next_request_comes_after_those_of_others() {
        let locks = GrantLocks::default();
        let held = locks.lock(&grant(), &caller("greedy")).await;
        let (order, mut came) = mpsc::unbounded_channel();
        for name in ["greedy", "greedy", "modest"] {
            queue(&locks, name, &order).await;
        }
        drop(held);
        let mut names = Vec::new();
        for _ in 0..3 {
            names.push(came.recv().await.unwrap());
        }
        assert_eq!(names, ["modest", "greedy", "greedy"]);
    }

    #[tokio::test]
    async fn a_request_that_goes_away_holds_nobody_up() {
        let locks = GrantLocks::default();
        let held = locks.lock(&grant(), &caller("first")).await;
        let (order, mut came) = mpsc::unbounded_channel();
        let impatient = {
            let locks = locks.clone();
            tokio::spawn(async move { locks.lock(&grant(), &caller("impatient")).await })
        };
        while waiting(&locks) == 0 {
            tokio::task::yield_now().await;
        }
        impatient.abort();
        assert!(impatient.await.is_err());
        queue(&locks, "patient", &order).await;
        drop(held);
        assert_eq!(came.recv().await, Some("patient"));
    }

    #[tokio::test]
    async fn all_who_ask_while_it_is_under_way_share_one_flight() {
        let (flights, tasks) = (Arc::new(Flights::<u8, u32>::default()), TaskTracker::new());
        let (starts, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let mut callers: Vec<_> = (0..50)
            .map(|_| {
                let (starts, go) = (starts.clone(), go.clone());
                flights.start(&tasks, 7, || async move {
                    go.notified().await;
                    starts.fetch_add(1, Ordering::SeqCst)
                })
            })
            .collect();
        go.notify_one();
        for caller in &mut callers {
            assert_eq!(*caller.wait_for(Option::is_some).await.unwrap(), Some(0));
        }
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_caller_leaves() {
        let (flights, tasks) = (Flights::<u8, u32>::default(), TaskTracker::new());
        let (go, completed) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (go2, completed2) = (go.clone(), completed.clone());
        drop(flights.start(&tasks, 7, || async move {
            go2.notified().await;
            completed2.fetch_add(1, Ordering::SeqCst)
        }));
        go.notify_one();
        tasks.close();
        tasks.wait().await;
        assert_eq!(completed.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_leaves_no_flight_behind() {
        let (flights, tasks) = (Flights::<u8, u32>::default(), TaskTracker::new());
        let mut lost = flights.start(&tasks, 7, || async { panic!("a defect") });
        assert!(lost.wait_for(Option::is_some).await.is_err());
        let mut found = flights.start(&tasks, 7, || async { 1 });
        assert_eq!(*found.wait_for(Option::is_some).await.unwrap(), Some(1));
    }
}
