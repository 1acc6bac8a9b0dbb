//! The log: what `tracing` events become, and which of them.
//!
//! Lines go to standard error, those of the demonstration to a file, as JSON
//! objects or as text. Libraries are held
//! at `warn` whatever the configuration says: some of them log what they send,
//! and what this process sends are tokens (invariant 1). Counters are in
//! [`crate::metrics`].

use std::fs::File;
use std::io;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, filter};

use crate::config::{Log, LogFormat};

/// Starts the log of this process. A log that was started before stays.
pub fn init(log: &Log) {
    // The error says that another subscriber is in place, which tests have.
    let _ = subscriber(log, io::stderr).try_init();
}

/// The same into a file.
pub fn init_in(log: &Log, file: File) {
    let _ = subscriber(log, Arc::new(file)).try_init();
}

fn subscriber<W>(log: &Log, writer: W) -> impl tracing::Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    // The configuration has checked the directives; `new` drops what is wrong.
    let asked = EnvFilter::new(&log.level);
    // A filter without a hint would be asked about every event of every library,
    // at whatever level; the two together then know no highest level.
    let held = filter::filter_fn(held).with_max_level_hint(Level::TRACE);
    Registry::default().with(lines.with_filter(asked.and(held)))
}

/// Whether an event may be logged if the configuration asks for it.
fn held(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().split("::").next() == Some("obo_vault");
    own || *metadata.level() <= Level::WARN
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: &Log, events: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(log, move || writer.clone()), events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_cannot_log_what_they_send() {
        let log = Log { format: LogFormat::Text, level: "trace".into() };
        let text = logged(&log, || {
            tracing::debug!(target: "hyper::proto", "refresh_token=hunter2");
            tracing::trace!(target: "obo_vault::redeem", "own");
            tracing::warn!(target: "h2", "loud");
        });
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("own") && text.contains("loud"), "{text}");
    }

    #[test]
    fn what_nobody_asked_for_costs_nothing() {
        let log = Log { format: LogFormat::Text, level: "info".into() };
        let subscriber = subscriber(&log, io::sink);
        assert_eq!(tracing::Subscriber::max_level_hint(&subscriber), Some(filter::LevelFilter::INFO));
    }

    #[test]
    fn a_json_line_carries_the_fields_of_its_event_and_span() {
        let log = Log { format: LogFormat::Json, level: "info".into() };
        let text = logged(&log, || {
            let _span = tracing::info_span!("call", request.id = "r1").entered();
            tracing::info!(tenant.id = "acme", "refused");
            tracing::debug!("not this");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["tenant.id"], "acme");
        assert_eq!(line["span"]["request.id"], "r1");
        assert_eq!(line["message"], "refused");
    }
}
