//! Re-seals per second: a run of the rotation job with a new key version, from
//! its request to its end, against a batch update of the same rows by SQLite.
//! And how long a vault with that many grants takes to start.

use std::fs;

use obo_vault::clock::{Clock as _, SystemClock};
use obo_vault::proto::{RotationPhase, RunRotationRequest};

use crate::bed::{self, Bed};
use crate::{Scale, floor, median, print_table};

/// Grants per transaction, as the job's default.
const BATCH: usize = 500;

pub(crate) fn run(scale: Scale) {
    let bed = Bed::new(scale.resealed, "fsync", 10);
    let clock = SystemClock::new();
    let (mut rounds, mut floors, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds.div_ceil(2) {
        let begun = clock.instant();
        let vault = bed.start();
        let mut client = bed.connect(&vault, "mail", 1).remove(0);
        let request = bed::requests(1)[0].clone();
        bed.callers.block_on(client.tokens.get_access_token(request)).unwrap();
        starts.push(clock.instant().since(begun).as_secs_f64() * 1e3);

        let mut rotator = bed.connect(&vault, "rotator", 1).remove(0);
        let begun = clock.instant();
        let resealed = bed.callers.block_on(async {
            let request = RunRotationRequest { force_new_versions: true, refresh_all: false };
            let mut reports = rotator.rotation.run_rotation(request).await.unwrap().into_inner();
            let mut run = None;
            while let Some(report) = reports.message().await.unwrap() {
                run = report.run;
            }
            let run = run.unwrap();
            assert_eq!(run.phase(), RotationPhase::Done);
            run.resealed
        });
        assert_eq!(resealed, u64::try_from(scale.resealed).unwrap());
        let rows = f64::from(u32::try_from(resealed).unwrap());
        rounds.push(rows / clock.instant().since(begun).as_secs_f64());
        bed.stop(vault);

        let (store, copy) = (bed.directory.path().join("vault.db"), bed.directory.path().join("copy.db"));
        floors.push(floor::updates_per_second(&store, &copy, BATCH));
        fs::remove_file(copy).unwrap();
    }
    let ratio = median(rounds.iter().zip(&floors).map(|(round, floor)| round / floor));
    print_table(
        &format!("Re-seals: {} grants of one tenant, {BATCH} per transaction", scale.resealed),
        &["per second", "ratio"],
        &[
            (
                "SQLite, the same rows updated".to_owned(),
                vec![format!("{:.0}", median(floors)), "1.00".to_owned()],
            ),
            (
                "vault, the whole run".to_owned(),
                vec![format!("{:.0}", median(rounds)), format!("{ratio:.2}")],
            ),
        ],
    );
    println!(
        "\nfrom start to the first token, {} grants in the store: {:.0} ms",
        scale.resealed,
        median(starts)
    );
}
