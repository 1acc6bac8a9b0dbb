//! An error with what led to it.

use std::error::Error;

/// An error and its sources from the outside in, in one line. A text that
/// repeats its source at its end, as some libraries write it, has it once.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for source in sources(error) {
        let inner = source.to_string();
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
    }
    text
}

/// What led to an error, from the outside in.
pub fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |inner: &&'a (dyn Error + 'static)| (*inner).source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn every_cause_is_named_once() {
        let cause = || io::Error::other("no route");
        assert_eq!(error_chain(&cause()), "no route");
        assert_eq!(error_chain(&Outer("cannot connect", cause())), "cannot connect: no route");
        assert_eq!(error_chain(&Outer("cannot connect: no route", cause())), "cannot connect: no route");
    }
}
