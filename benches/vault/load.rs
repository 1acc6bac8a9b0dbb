//! Callers: a fixed number of calls in flight over a few connections, and what
//! the servers' threads spent on them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use obo_vault::clock::{Clock as _, SystemClock};
use obo_vault::proto::GetAccessTokenRequest;
use obo_vault::proto::token_service_client::TokenServiceClient;
use tonic::transport::Channel;

use crate::bed::CALLERS;

/// Calls in flight.
pub(crate) const IN_FLIGHT: usize = 64;

/// When a round ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After a time; the requests are asked round and round.
    Passed(Duration),
    /// When each request was answered once.
    AllAnswered,
}

/// What a round has shown.
pub(crate) struct Round {
    pub(crate) per_second: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
    /// Microseconds of the servers' threads per call, where the system tells.
    pub(crate) server_micros: Option<f64>,
}

/// Calls until the end of the round. Every answer must be a token.
pub(crate) async fn round(
    connections: &[TokenServiceClient<Channel>],
    requests: &Arc<[GetAccessTokenRequest]>,
    until: Until,
) -> Round {
    let clock = Arc::new(SystemClock::new());
    let (next, start, cpu) = (Arc::new(AtomicUsize::new(0)), clock.instant(), server_seconds());
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|n| {
            let mut connection = connections[n % connections.len()].clone();
            let (requests, next, clock) = (Arc::clone(requests), Arc::clone(&next), Arc::clone(&clock));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let asked = clock.instant();
                    let over = match until {
                        Until::Passed(span) => asked.since(start) >= span,
                        Until::AllAnswered => n >= requests.len(),
                    };
                    if over {
                        return latencies;
                    }
                    let request = requests[n % requests.len()].clone();
                    let answer = connection.get_access_token(request).await.unwrap().into_inner();
                    assert_eq!(answer.access_token.len(), crate::bed::TOKEN_BYTES);
                    latencies.push(clock.instant().since(asked));
                }
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.append(&mut caller.await.unwrap());
    }
    let (span, cpu) = (clock.instant().since(start), server_seconds().zip(cpu).map(|(now, then)| now - then));
    latencies.sort_unstable();
    let calls = f64::from(u32::try_from(latencies.len()).unwrap());
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_secs_f64() * 1e3;
    Round {
        per_second: calls / span.as_secs_f64(),
        p50: at(50),
        p99: at(99),
        server_micros: cpu.map(|seconds| seconds * 1e6 / calls),
    }
}

/// Processor time of all threads of this process but the callers' and the one
/// that waits for them. The system counts in hundredths of a second.
fn server_seconds() -> Option<f64> {
    let main = std::process::id().to_string();
    let mut ticks = 0;
    for thread in fs::read_dir("/proc/self/task").ok()? {
        let thread = thread.ok()?;
        // One that has ended meanwhile was not busy.
        let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { continue };
        let (name, numbers) = stat.split_once('(')?.1.rsplit_once(") ")?;
        if name != CALLERS && thread.file_name() != *main {
            let times = numbers.split(' ').skip(11).take(2);
            ticks += times.map(|n| n.parse::<u32>().unwrap_or(0)).sum::<u32>();
        }
    }
    Some(f64::from(ticks) / 100.0)
}
