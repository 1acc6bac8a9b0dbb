//! Reading the body of an answer: within bounds, and keeping what has arrived
//! when the rest does not.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use zeroize::Zeroizing;

use super::answer::MOST_ANSWER_BYTES;

/// What is said of a body that is longer than the vault reads.
pub(super) const TOO_LONG: &str = "answer too long";

/// What of a body arrived.
pub(super) struct Arrived {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Why there is no more of it, where it may not be all.
    pub(super) fault: Option<String>,
}

/// Collects `chunks` until they end, fail or are too many, or `limit` is over.
/// `announced` is the length that the answer names, which proves nothing.
pub(super) async fn collect(
    chunks: impl Stream<Item = Result<Bytes, String>>,
    announced: Option<u64>,
    mut limit: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Arrived {
    let mut chunks = std::pin::pin!(chunks);
    let announced = announced.and_then(|length| usize::try_from(length).ok());
    let mut bytes = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(16 * 1024).min(MOST_ANSWER_BYTES)));
    let fault = loop {
        let chunk = tokio::select! {
            // What is there already counts, however late it is.
            biased;
            chunk = chunks.next() => chunk,
            () = limit.as_mut() => break Some("no answer within the limit".to_owned()),
        };
        match chunk {
            None => break None,
            Some(Err(fault)) => break Some(fault),
            Some(Ok(chunk)) if !append(&mut bytes, &chunk) => break Some(TOO_LONG.to_owned()),
            Some(Ok(_)) => {}
        }
    };
    Arrived { bytes, fault }
}

/// Appends what fits; false when not all of it did.
pub(super) fn append(bytes: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) -> bool {
    let fits = chunk.get(..MOST_ANSWER_BYTES - bytes.len()).unwrap_or(chunk);
    let needed = bytes.len() + fits.len();
    if needed > bytes.capacity() {
        // Grown by hand, so that the memory left behind is wiped.
        let mut larger =
            Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().min(MOST_ANSWER_BYTES)));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(fits);
    fits.len() == chunk.len()
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    fn collected(chunks: &[Vec<u8>], end: Option<Result<Bytes, String>>) -> Arrived {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from(chunk.clone()))).chain(end).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(collect(stream::iter(chunks), None, pin!(pending())))
    }

    #[tokio::test]
    async fn at_the_limit_there_is_what_had_arrived() {
        let chunks = stream::iter([Ok(Bytes::from_static(b"ab"))]).chain(stream::pending());
        let arrived = collect(chunks, Some(100), pin!(std::future::ready(()))).await;
        assert_eq!((&arrived.bytes[..], arrived.fault.is_some()), (&b"ab"[..], true));
    }

    #[test]
    fn a_body_of_the_most_bytes_is_whole_and_one_of_more_is_cut() {
        for (extra, whole) in [(0, true), (1, false)] {
            let chunks = [vec![b'x'; MOST_ANSWER_BYTES - 1], vec![b'y'; 1 + extra]];
            let arrived = collected(&chunks, None);
            assert_eq!((arrived.bytes.len(), arrived.fault.is_none()), (MOST_ANSWER_BYTES, whole));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_arrived_is_dropped(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            broken: bool,
        ) {
            let arrived = collected(&chunks, broken.then(|| Err("reset".into())));
            prop_assert_eq!(&arrived.bytes[..], &chunks.concat()[..]);
            prop_assert_eq!(arrived.fault.is_some(), broken);
        }
    }
}
