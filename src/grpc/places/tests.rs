use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::ShiftedClock;

struct Stand {
    clock: Arc<ShiftedClock>,
    places: Arc<Places>,
}

impl Stand {
    fn new(limits: Limits) -> Self {
        let clock = Arc::new(ShiftedClock::new());
        let places = Places::new(limits, clock.clone(), Arc::new(Counters::new()));
        Self { clock, places }
    }

    fn enter(&self, address: &str) -> Place {
        self.places.enter(address.parse().unwrap())
    }

    /// A connection of the caller, later than all before it.
    fn connect(&self, address: &str, caller: &str) -> Option<Place> {
        self.clock.advance(Duration::from_secs(1));
        let place = self.enter(address);
        place.serves(&CallerId::new(caller).unwrap()).then_some(place)
    }
}

fn limits() -> Limits {
    Limits {
        connections: 6,
        connections_per_address: 4,
        connections_per_caller: 2,
        handshakes: 8,
        handshakes_per_address: 3,
        ..Limits::default()
    }
}

fn gone(place: &Place) -> bool {
    place.leave.is_cancelled()
}

#[test]
fn silent_strangers_take_places_from_each_other() {
    let stand = Stand::new(limits());
    let good = stand.enter("10.0.0.1");
    good.speaks();
    let strangers: Vec<_> = (0..300).map(|_| stand.enter("10.0.0.1")).collect();
    assert!(!gone(&good), "it speaks, they do not");
    assert_eq!(strangers.iter().filter(|place| !gone(place)).count(), 2);
    assert!(!gone(strangers.last().unwrap()), "a newcomer gets a place at once");
}

#[test]
fn one_address_cannot_push_another_out() {
    let stand = Stand::new(Limits { handshakes: 4, ..limits() });
    let good = stand.enter("10.0.0.1");
    let strangers: Vec<_> = (0..300).map(|_| stand.enter("10.0.0.2")).collect();
    let more: Vec<_> = (0..300).map(|_| stand.enter("10.0.0.3")).collect();
    assert!(!gone(&good));
    let held = strangers.iter().chain(&more).filter(|place| !gone(place)).count();
    assert_eq!(held, 3);
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let stand = Stand::new(limits());
    let strangers: Vec<_> = (0..9).map(|n| stand.enter(&format!("2001:db8::{n}"))).collect();
    assert_eq!(strangers.iter().filter(|place| !gone(place)).count(), 3);
    assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), network("10.0.0.1".parse().unwrap()));
}

#[test]
fn one_more_connection_of_a_caller_takes_its_longest_idle_one() {
    let stand = Stand::new(limits());
    let first = stand.connect("10.0.0.1", "urn:a").unwrap();
    let second = stand.connect("10.0.0.2", "urn:a").unwrap();
    drop(first.activity().begin());
    let third = stand.connect("10.0.0.3", "urn:a").unwrap();
    assert_eq!([gone(&first), gone(&second), gone(&third)], [false, true, false]);
    // What is at work is not interrupted for it.
    let (_first, _third) = (first.activity().begin(), third.activity().begin());
    assert!(stand.connect("10.0.0.4", "urn:a").is_none());
    assert_eq!([gone(&first), gone(&third)], [false, false]);
}

#[test]
fn whoever_holds_most_gives_way_to_others() {
    let stand = Stand::new(Limits { connections_per_caller: 4, ..limits() });
    let modest = stand.connect("10.0.0.1", "urn:modest").unwrap();
    let greedy: Vec<_> =
        (2..6).map(|n| stand.connect(&format!("10.0.0.{n}"), "urn:greedy").unwrap()).collect();
    let other = stand.connect("10.0.0.7", "urn:other").unwrap();
    let newcomer = stand.connect("10.0.0.8", "urn:newcomer").unwrap();
    assert!([&modest, &other, &newcomer].iter().all(|place| !gone(place)));
    assert_eq!(greedy.iter().map(gone).collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn a_place_that_is_given_back_is_free() {
    let stand = Stand::new(limits());
    for _ in 0..20 {
        let busy: Vec<_> = (0..2).map(|_| stand.connect("10.0.0.1", "urn:a").unwrap()).collect();
        let _calls: Vec<_> = busy.iter().map(|place| place.activity().begin()).collect();
    }
    assert_eq!(stand.places.book().entries.len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in whatever order: no bound is passed.
    #[test]
    fn no_bound_is_ever_passed(
        comers in prop::collection::vec((0..4_u8, 0..4_u8, any::<bool>(), any::<bool>()), 0..80),
    ) {
        let stand = Stand::new(limits());
        let mut held = Vec::new();
        for (address, caller, connects, works) in comers {
            let address = format!("10.0.0.{address}");
            let place = if connects {
                stand.connect(&address, &format!("urn:{caller}"))
            } else {
                Some(stand.enter(&address))
            };
            let call = place.as_ref().filter(|_| works).map(|place| place.activity().begin());
            held.push((place, call));
            let book = stand.places.book();
            prop_assert!(book.handshakes().count() <= 8);
            prop_assert!(book.connections().count() <= 6);
            for n in 0..4 {
                let network: IpAddr = format!("10.0.0.{n}").parse().unwrap();
                let caller = CallerId::new(&format!("urn:{n}")).unwrap();
                prop_assert!(book.handshakes().filter(|(_, e)| e.network == network).count() <= 3);
                prop_assert!(book.connections().filter(|(_, e, _)| e.network == network).count() <= 4);
                prop_assert!(book.connections().filter(|(_, _, owner)| **owner == caller).count() <= 2);
            }
        }
    }
}
