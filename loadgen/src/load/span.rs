//! Times in documents and catalogues: written as nanoseconds, read also with a unit (`1500ms`).

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::time;

/// Longest time in nanoseconds: more than a century.
const MOST_NS: u64 = u64::MAX >> 2;

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a time: nanoseconds, or a number with a unit as in 1500ms")]
enum Span {
    Nanoseconds(u64),
    Text(String),
}

impl Span {
    fn duration<E: Error>(self) -> Result<Duration, E> {
        match self {
            Self::Nanoseconds(ns) if ns <= MOST_NS => Ok(Duration::from_nanos(ns)),
            Self::Nanoseconds(ns) => {
                Err(E::custom(format!("{ns} ns is not a valid time: expected at most {MOST_NS}")))
            }
            Self::Text(text) => time(&text).map_err(E::custom),
        }
    }
}

pub(crate) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    option::serialize(&Some(*span), serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    Span::deserialize(deserializer)?.duration()
}

/// Times that may be absent.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer, Span};

    pub(crate) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        span.map(|span| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<Span>::deserialize(deserializer)?.map(Span::duration).transpose()
    }
}
