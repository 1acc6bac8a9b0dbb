//! Redemptions of refresh tokens per second: each is three durable commits and
//! four durable audit entries, against one durable commit of SQLite.

use std::time::Duration;

use crate::bed::{self, Bed, CONNECTIONS, TOKEN_BYTES};
use crate::load::{self, Until};
use crate::{Scale, floor, median, print_table};

pub(crate) fn run(scale: Scale) {
    let bed = Bed::new(scale.redeemed, "fsync", 10);
    let vault = bed.start();
    let clients = bed.connect(&vault, "mail", CONNECTIONS);
    let connections: Vec<_> = clients.into_iter().map(|client| client.tokens).collect();
    let requests = bed::requests(scale.redeemed);
    let (mut rounds, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds.div_ceil(2) {
        rounds.push(bed.callers.block_on(load::round(&connections, &requests, Until::AllAnswered)));
        floors.push(floor::commits_per_second(bed.directory.path(), 500, TOKEN_BYTES));
        // All tokens in memory expire.
        bed.clock.advance(Duration::from_secs(4000));
    }
    bed.stop(vault);
    let floor = median(floors.iter().copied());
    let ratio = median(rounds.iter().zip(&floors).map(|(round, floor)| round.per_second / floor));
    print_table(
        &format!("Redemptions: {} calls in flight, a token endpoint that answers at once", load::IN_FLIGHT),
        &["per second", "ratio", "p50 ms", "p99 ms"],
        &[
            (
                "SQLite, one row per durable commit, one after the other".to_owned(),
                vec![format!("{floor:.0}"), "1.00".to_owned(), "-".to_owned(), "-".to_owned()],
            ),
            (
                "vault, audit fsync".to_owned(),
                vec![
                    format!("{:.0}", median(rounds.iter().map(|r| r.per_second))),
                    format!("{ratio:.2}"),
                    format!("{:.1}", median(rounds.iter().map(|r| r.p50))),
                    format!("{:.1}", median(rounds.iter().map(|r| r.p99))),
                ],
            ),
        ],
    );
}
