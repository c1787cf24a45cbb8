//! Arrival: the spread of an open loop's messages over time.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Pattern of the planned times at a given rate. Written `constant`, `poisson`, `burst:16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    /// Even intervals.
    #[default]
    Constant,
    /// Exponentially distributed intervals, as of independent users.
    Poisson,
    /// This number of messages at the same instant, then none until as many are due again.
    Burst(NonZeroU32),
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(size) => write!(f, "burst:{size}"),
        }
    }
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "constant" => Ok(Self::Constant),
            "poisson" => Ok(Self::Poisson),
            _ => {
                let size = text.strip_prefix("burst:").and_then(|size| size.parse().ok());
                let expected = "expected constant, poisson or burst:N, as in burst:16";
                size.map(Self::Burst)
                    .ok_or_else(|| format!("`{text}` is not a valid arrival: {expected}"))
            }
        }
    }
}

impl Serialize for Arrival {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Arrival {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_arrivals_are_read_back() {
        for text in ["constant", "poisson", "burst:16"] {
            assert_eq!(
                text.parse::<Arrival>().map(|arrival| arrival.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in ["burst", "burst:0", "burst:-1", "Poisson", ""] {
            assert!(
                text.parse::<Arrival>().is_err_and(|error| error.contains("burst:N")),
                "{text}"
            );
        }
    }
}
