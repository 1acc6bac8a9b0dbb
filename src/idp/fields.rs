//! The fields of a JSON object, read as far as it is one.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// Whether the bytes are one JSON object with its end, whatever follows it.
pub(super) fn is_whole_object(bytes: &[u8]) -> bool {
    let text = Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
    Fields::read(&text).extent == Extent::Whole
}

/// How much of a JSON object a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// It is not one.
    None,
    /// It begins one and breaks off, or goes on as something else.
    Cut,
    /// It begins with one and has its end.
    Whole,
}

/// The top-level fields of a JSON object, each still as it came.
pub(super) struct Fields<'a> {
    entries: Vec<(String, &'a RawValue)>,
    extent: Extent,
}

impl<'a> Fields<'a> {
    /// Reads as far as the text is JSON; what stands before a fault counts.
    pub(super) fn read(text: &'a str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let begins = if text.starts_with('{') { Extent::Cut } else { Extent::None };
        let mut fields = Self { entries: Vec::new(), extent: begins };
        // The error holds a place and no content, and the fields until there
        // are all that can be had.
        if (&mut fields).deserialize(&mut serde_json::Deserializer::from_str(text)).is_ok() {
            fields.extent = Extent::Whole;
        }
        fields
    }

    /// Whether the text is one JSON object with its end.
    pub(super) fn are_whole(&self) -> bool {
        self.extent == Extent::Whole
    }

    /// Whether the text begins one and has no end.
    pub(super) fn break_off(&self) -> bool {
        self.extent == Extent::Cut
    }

    /// Every field with its value as it came.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.get()))
    }

    /// A field that is a text and not empty; of several the last.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.last_text_as_it_came(name).and_then(|raw| serde_json::from_str(raw).ok())
    }

    /// The same with its quotes and escapes.
    pub(super) fn last_text_as_it_came(&self, name: &str) -> Option<&'a str> {
        let filled = |raw: &&str| serde_json::from_str::<String>(raw).is_ok_and(|text| !text.is_empty());
        self.all(name).map(RawValue::get).find(filled)
    }

    /// A field as a value; of several the last.
    pub(super) fn parsed(&self, name: &str) -> Option<Value> {
        self.raw(name).and_then(|raw| serde_json::from_str(raw).ok())
    }

    /// A field as it came; of several the last.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.all(name).next().map(RawValue::get)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a RawValue> {
        self.entries.iter().rev().filter(move |(n, _)| n == name).map(|(_, raw)| *raw)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Fields<'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Fields<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            // A name that is no text is nobody's name.
            if let Ok(name) = serde_json::from_str::<String>(name.get()) {
                self.entries.push((name, value));
            }
        }
        Ok(())
    }
}
