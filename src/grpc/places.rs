//! Who holds a place: handshakes under way, and connections.
//!
//! A place costs a descriptor and memory, and anybody can ask for one. Nobody
//! waits for a place: where they are all held, the newcomer gets that of whoever
//! does least with it, and first of all of those who hold most. So silent
//! strangers take places from each other and not from callers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::clock::{Instant, SharedClock};
use crate::domain::id::CallerId;
use crate::metrics::Counters;

use super::limits::Limits;

/// All places of one listener.
pub(super) struct Places {
    limits: Limits,
    clock: SharedClock,
    metrics: Arc<Counters>,
    book: Mutex<Book>,
}

/// One place. It is given back when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    leave: CancellationToken,
    activity: Arc<Activity>,
}

impl Places {
    pub(super) fn new(limits: Limits, clock: SharedClock, metrics: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { limits, clock, metrics, book: Mutex::default() })
    }

    /// A place for the handshake of a newcomer.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let (leave, activity) = (CancellationToken::new(), Arc::new(Activity::new(Arc::clone(&self.clock))));
        let mut book = self.book();
        let evicted = book.make_room_for_handshake(&self.limits, network(address));
        let number = book.enter(network(address), leave.clone(), Arc::clone(&activity));
        self.metrics.connections_open(book.entries.len());
        drop(book);
        if evicted {
            self.metrics.handshake_evicted();
        }
        Place { places: Arc::clone(self), number, leave, activity }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The peer has sent something.
    pub(super) fn speaks(&self) {
        if let Some(entry) = self.places.book().entries.get_mut(&self.number) {
            entry.stage = Stage::Speaking;
        }
    }

    /// The handshake is over and the peer is this caller. False: there is no
    /// place for one more connection.
    #[must_use]
    pub(super) fn serves(&self, caller: &CallerId) -> bool {
        let mut book = self.places.book();
        let room = book.make_room_for_connection(&self.places.limits, self.number, caller);
        let (evicted, admitted) = match room {
            Room::There => (false, true),
            Room::Made => (true, true),
            Room::None => (true, false),
        };
        match book.entries.get_mut(&self.number) {
            Some(entry) if admitted => entry.stage = Stage::Serving(caller.clone()),
            _ => {}
        }
        drop(book);
        if evicted {
            self.places.metrics.connection_refused();
        }
        admitted
    }

    /// Waits until the place is wanted for somebody else.
    pub(super) async fn evicted(&self) {
        self.leave.cancelled().await;
    }

    /// What its peer does with it.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.places.book();
        book.entries.remove(&self.number);
        self.places.metrics.connections_open(book.entries.len());
    }
}

/// The calls of one connection.
pub(super) struct Activity {
    clock: SharedClock,
    calls: Mutex<Calls>,
}

struct Calls {
    open: usize,
    /// When the last one ended, or the connection was made.
    since: Instant,
}

/// A call that is not over.
pub(super) struct OpenCall(Arc<Activity>);

impl Activity {
    pub(super) fn new(clock: SharedClock) -> Self {
        let since = clock.instant();
        Self { clock, calls: Mutex::new(Calls { open: 0, since }) }
    }

    /// A call begins.
    pub(super) fn begin(self: &Arc<Self>) -> OpenCall {
        self.calls().open += 1;
        OpenCall(Arc::clone(self))
    }

    /// Since when there has been no call, where there is none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let calls = self.calls();
        (calls.open == 0).then_some(calls.since)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let now = self.0.clock.instant();
        let mut calls = self.0.calls();
        calls.open -= 1;
        calls.since = now;
    }
}

#[derive(Default)]
struct Book {
    next: u64,
    /// By number, and so by age.
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    network: IpAddr,
    stage: Stage,
    leave: CancellationToken,
    activity: Arc<Activity>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Connected, and nothing has arrived.
    Silent,
    /// In its handshake.
    Speaking,
    Serving(CallerId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    There,
    /// By closing another's connection.
    Made,
    None,
}

impl Book {
    fn enter(&mut self, network: IpAddr, leave: CancellationToken, activity: Arc<Activity>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries.insert(number, Entry { network, stage: Stage::Silent, leave, activity });
        number
    }

    /// Whether somebody had to leave.
    fn make_room_for_handshake(&mut self, limits: &Limits, network: IpAddr) -> bool {
        let mut per_network = BTreeMap::<IpAddr, usize>::new();
        for (_, entry) in self.handshakes() {
            *per_network.entry(entry.network).or_default() += 1;
        }
        let all: usize = per_network.values().sum();
        let own = per_network.get(&network).copied().unwrap_or(0);
        let among = if own >= limits.handshakes_per_address {
            Some(network)
        } else if all >= limits.handshakes {
            None
        } else {
            return false;
        };
        // Who has said something yields to nobody who has not, however many of its
        // network do: they are cheap to come by from many addresses.
        let victim = self
            .handshakes()
            .filter(|(_, entry)| among.is_none_or(|among| among == entry.network))
            .min_by_key(|(number, entry)| {
                let count = per_network.get(&entry.network).copied().unwrap_or(0);
                (entry.stage != Stage::Silent, std::cmp::Reverse(count), **number)
            })
            .map(|(number, _)| *number);
        self.evict(victim)
    }

    fn make_room_for_connection(&mut self, limits: &Limits, number: u64, caller: &CallerId) -> Room {
        let Some(network) = self.entries.get(&number).map(|entry| entry.network) else { return Room::None };
        let mut room = Room::There;
        for (most, of_caller, from_network) in [
            (limits.connections_per_caller, Some(caller), None),
            (limits.connections_per_address, None, Some(network)),
            (limits.connections, None, None),
        ] {
            let within = |entry: &Entry, owner: &CallerId| {
                of_caller.is_none_or(|caller| caller == owner)
                    && from_network.is_none_or(|network| network == entry.network)
            };
            if self.connections().filter(|(_, entry, owner)| within(entry, owner)).count() < most {
                continue;
            }
            let mut per_caller = BTreeMap::<&CallerId, usize>::new();
            for (_, _, owner) in self.connections() {
                *per_caller.entry(owner).or_default() += 1;
            }
            let victim = self
                .connections()
                .filter(|(_, entry, owner)| within(entry, owner))
                .filter_map(|(number, entry, owner)| {
                    let since = entry.activity.idle_since()?;
                    Some((std::cmp::Reverse(per_caller.get(owner).copied()), since, number))
                })
                .min()
                .map(|(_, _, number)| number);
            if !self.evict(victim) {
                return Room::None;
            }
            room = Room::Made;
        }
        room
    }

    fn evict(&mut self, number: Option<u64>) -> bool {
        let entry = number.and_then(|number| self.entries.remove(&number));
        entry.is_some_and(|entry| {
            entry.leave.cancel();
            true
        })
    }

    fn handshakes(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        self.entries.iter().filter(|(_, entry)| !matches!(entry.stage, Stage::Serving(_)))
    }

    fn connections(&self) -> impl Iterator<Item = (u64, &Entry, &CallerId)> {
        self.entries.iter().filter_map(|(number, entry)| match &entry.stage {
            Stage::Serving(caller) => Some((*number, entry, caller)),
            Stage::Silent | Stage::Speaking => None,
        })
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, since whoever has
/// one address of it has them all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests;
