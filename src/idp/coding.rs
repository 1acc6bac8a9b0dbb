//! Content codings (RFC 9110 section 8.4). The vault asks for none; what comes
//! coded all the same is decoded, since a new refresh token may be in it.
//!
//! The bytes decide before the header does: something between the provider and
//! the vault may have coded an answer without saying so, or decoded it and left
//! the header standing. What decoders keep in their own windows is not wiped.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use zeroize::Zeroizing;

use super::body::{Arrived, TOO_LONG, append};
use super::fields::is_whole_object;

/// Most codings of one answer, one around the other.
const MOST_CODINGS: usize = 4;

/// Largest window of a zstd frame (RFC 9659 section 3).
const MOST_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Debug, Clone, Copy)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Undoes the codings that the value of Content-Encoding names, and those the
/// bytes show themselves. Of a coding that is not known nothing can be read.
pub(super) fn decode(named: &str, mut body: Arrived) -> Arrived {
    // They are named in the order in which they were applied.
    let mut named = named.rsplit(',').map(str::trim).filter(|word| !word.is_empty() && !is("identity", word));
    for _ in 0..MOST_CODINGS {
        if is_plain(&body.bytes) {
            return body;
        }
        let coding = match named.next() {
            Some(word) => Coding::named(word),
            None => match Coding::shown_by(&body.bytes) {
                Some(coding) => Some(coding),
                None => return body,
            },
        };
        body = match coding {
            Some(coding) => coding.undo(body),
            None => Arrived {
                bytes: Zeroizing::default(),
                fault: body.fault.or_else(|| Some("its content coding is not known".into())),
            },
        };
    }
    if !is_plain(&body.bytes) && (named.next().is_some() || Coding::shown_by(&body.bytes).is_some()) {
        body = Arrived { bytes: Zeroizing::default(), fault: Some("it has too many content codings".into()) };
    }
    body
}

/// Nothing, or what a token endpoint answers: no coding is left around it.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.is_empty() || is_whole_object(bytes)
}

fn is(name: &str, word: &str) -> bool {
    word.eq_ignore_ascii_case(name)
}

impl Coding {
    fn named(word: &str) -> Option<Self> {
        let names = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
        ];
        names.into_iter().find(|(name, _)| is(name, word)).map(|(_, coding)| coding)
    }

    /// The coding that the first bytes cannot but belong to; no JSON begins so.
    fn shown_by(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What can be decoded before the first fault.
    fn undo(self, body: Arrived) -> Arrived {
        let mut bytes = Zeroizing::new(Vec::new());
        let coded = &body.bytes[..];
        let fault = match self {
            Self::Gzip => read(MultiGzDecoder::new(coded), &mut bytes),
            // RFC 9110 means zlib; some servers send it without its frame.
            Self::Deflate if is_zlib(coded) => read(ZlibDecoder::new(coded), &mut bytes),
            Self::Deflate => read(DeflateDecoder::new(coded), &mut bytes),
            Self::Brotli => read(Decompressor::new(coded, 4096), &mut bytes),
            Self::Zstd => read_frames(coded, &mut bytes),
        };
        Arrived { bytes, fault: body.fault.or_else(|| fault.map(str::to_owned)) }
    }
}

/// RFC 1950 section 2.2: the method, and the check over both bytes.
fn is_zlib(coded: &[u8]) -> bool {
    matches!(coded, [first, second, ..]
        if first & 0x0f == 8 && (u16::from(*first) * 256 + u16::from(*second)).is_multiple_of(31))
}

/// Reads within the bounds of an answer, so that a small body cannot become an
/// endless one; says what is wrong with the rest.
fn read(mut decoder: impl Read, bytes: &mut Zeroizing<Vec<u8>>) -> Option<&'static str> {
    let mut chunk = Zeroizing::new([0; 4096]);
    loop {
        match decoder.read(&mut *chunk) {
            Ok(0) => return None,
            Ok(count) if append(bytes, &chunk[..count]) => {}
            Ok(_) => return Some(TOO_LONG),
            // The texts of decoders are not known to hold nothing of the data.
            Err(_) => return Some("its content coding breaks off"),
        }
    }
}

/// Zstandard's frames, one after the other (RFC 8878 section 3.1). The decoder
/// gives nothing of a frame that breaks off in its first window.
fn read_frames(mut coded: &[u8], bytes: &mut Zeroizing<Vec<u8>>) -> Option<&'static str> {
    const BROKEN: &str = "its content coding breaks off";
    let mut frame = FrameDecoder::new();
    frame.set_max_window_size(MOST_WINDOW_BYTES);
    while !coded.is_empty() {
        match StreamingDecoder::new_with_decoder(&mut coded, &mut frame) {
            Ok(decoder) => {
                if let Some(fault) = read(decoder, bytes) {
                    return Some(fault);
                }
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let Some(rest) = usize::try_from(length).ok().and_then(|length| coded.get(length..)) else {
                    return Some(BROKEN);
                };
                coded = rest;
            }
            Err(_) => return Some(BROKEN),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::super::answer::MOST_ANSWER_BYTES;
    use super::*;

    const PLAIN: &str = r#"{"access_token":"at-secret","refresh_token":"rt-1","expires_in":3600}"#;
    /// `PLAIN` as the encoders of others write it.
    const BROTLI: &str = "1b4400e0ad8eb709663db8b2ba268d7d2d3263b3b763cad2e854985cb1e8144c5f8ab47c39e534600ba2b64093\
                          aeefd42a349af3e8884f8e73680c1e5840f08d3502";
    const ZSTD: &str = "28b52ffd24452902007b226163636573735f746f6b656e223a2261742d736563726574222c22726566726573685f\
                        746f6b656e223a2272742d31222c22657870697265735f696e223a333630307d111f97da";
    /// Three mebibytes of spaces.
    const BROTLI_BOMB: &str = "9bffff2ff82540e2b14020f7fe05";
    /// A frame to be skipped, with two bytes in it.
    const SKIPPED: [u8; 10] = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7];

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// A frame of many blocks that each say "this byte, 128 KiB of it".
    fn zstd_bomb() -> Vec<u8> {
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
        let block = |last: u32| {
            let [one, two, three, _] = (((128 * 1024) << 3) | (1 << 1) | last).to_le_bytes();
            [one, two, three, b' ']
        };
        [&header[..], &block(0).repeat(23), &block(1)].concat()
    }

    fn decoded(named: &str, coded: &[u8]) -> (Vec<u8>, Option<String>) {
        let body = Arrived { bytes: Zeroizing::new(coded.to_vec()), fault: None };
        let Arrived { bytes, fault } = decode(named, body);
        (bytes.to_vec(), fault)
    }

    #[test]
    fn every_known_coding_is_undone_however_it_is_named() {
        let plain = PLAIN.as_bytes();
        let (one, two) = plain.split_at(20);
        let frames = [&SKIPPED, &bytes(ZSTD)[..]].concat();
        for (named, coded) in [
            ("", plain.to_vec()),
            ("identity", plain.to_vec()),
            ("gzip", gzip(plain)),
            ("GZip", gzip(plain)),
            ("x-gzip", gzip(plain)),
            ("gzip", [gzip(one), gzip(two)].concat()),
            ("deflate", zlib(plain)),
            ("Deflate", deflate(plain)),
            ("br", bytes(BROTLI)),
            ("zstd", bytes(ZSTD)),
            ("zstd", frames),
            ("deflate, gzip", gzip(&zlib(plain))),
            ("br , identity,, x-gzip", gzip(&bytes(BROTLI))),
            ("gzip,gzip,gzip,gzip", gzip(&gzip(&gzip(&gzip(plain))))),
        ] {
            assert_eq!(decoded(named, &coded), (plain.to_vec(), None), "{named}");
        }
    }

    /// What a proxy on the way leaves behind.
    #[test]
    fn the_bytes_are_believed_before_the_header() {
        let plain = PLAIN.as_bytes();
        for (named, sent) in [
            ("gzip", plain.to_vec()),
            ("br", plain.to_vec()),
            ("deflate", plain.to_vec()),
            ("utf-8", plain.to_vec()),
            ("", gzip(plain)),
            ("", bytes(ZSTD)),
            ("gzip", gzip(&gzip(plain))),
        ] {
            assert_eq!(decoded(named, &sent), (plain.to_vec(), None), "{named}");
        }
        assert_eq!(decoded("gzip", b""), (Vec::new(), None), "nothing is not coded");
    }

    #[test]
    fn of_an_unknown_coding_and_of_too_many_nothing_is_read() {
        let five = (0..5).fold(PLAIN.as_bytes().to_vec(), |inner, _| gzip(&inner));
        for (named, coded) in [
            ("compress", b"\x1f\x9d\x90".to_vec()),
            ("gzip, aes128gcm", b"....".to_vec()),
            ("gzip,gzip,gzip,gzip,gzip", five.clone()),
            ("", five),
        ] {
            let (bytes, fault) = decoded(named, &coded);
            assert!(bytes.is_empty() && fault.is_some(), "{named}: {fault:?}");
        }
    }

    #[test]
    fn a_small_body_cannot_become_an_endless_one() {
        let spaces = vec![b' '; 3 * 1024 * 1024];
        for (named, bomb) in [
            ("gzip", gzip(&spaces)),
            ("deflate", zlib(&spaces)),
            ("deflate", deflate(&spaces)),
            ("br", bytes(BROTLI_BOMB)),
            ("zstd", zstd_bomb()),
            ("gzip, gzip", gzip(&gzip(&spaces))),
        ] {
            let (bytes, fault) = decoded(named, &bomb);
            assert_eq!((bytes.len(), fault.as_deref()), (MOST_ANSWER_BYTES, Some(TOO_LONG)), "{named}");
        }
    }

    #[test]
    fn a_coding_that_breaks_off_gives_what_stands_before() {
        // Long enough that no coder keeps all of it for the last block.
        let plain = format!("{{\"refresh_token\":\"rt-1\",\"x\":\"{}", noise(40_000));
        for (named, coded) in [
            ("gzip", gzip(plain.as_bytes())),
            ("deflate", zlib(plain.as_bytes())),
            ("deflate", deflate(plain.as_bytes())),
        ] {
            let (bytes, fault) = decoded(named, &coded[..coded.len() - 100]);
            assert!(bytes.len() > 1000 && plain.as_bytes().starts_with(&bytes), "{named}");
            assert!(fault.is_some(), "{named}");
        }
        let (bytes, fault) = decoded("br", &bytes(BROTLI)[..60]);
        assert!(bytes.len() > 40 && PLAIN.as_bytes().starts_with(&bytes), "{}", bytes.len());
        assert!(fault.is_some());
    }

    /// Text that does not compress well.
    fn noise(length: usize) -> String {
        let mut state = 1_u32;
        let next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + u8::try_from((state >> 24) % 26).unwrap())
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    proptest! {
        #[test]
        fn whatever_comes_is_decoded_within_bounds(
            named in "(gzip|deflate|br|zstd|,| ){0,5}",
            coded in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(decoded(&named, &coded).0.len() <= MOST_ANSWER_BYTES);
        }

        #[test]
        fn a_cut_never_gives_other_bytes(cut in 0..70_usize) {
            for (named, coded) in [
                ("gzip", gzip(PLAIN.as_bytes())),
                ("deflate", zlib(PLAIN.as_bytes())),
                ("br", bytes(BROTLI)),
                ("zstd", bytes(ZSTD)),
            ] {
                let (bytes, fault) = decoded(named, &coded[..cut.min(coded.len() - 1)]);
                prop_assert!(PLAIN.as_bytes().starts_with(&bytes) && (fault.is_some() || cut == 0), "{}", named);
            }
        }
    }
}
