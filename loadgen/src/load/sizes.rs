//! Sizes of messages, with weights.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::size;

/// The sizes of a load's messages, bytes: the payload over `ws`, everything over `tcp`.
///
/// Written as one size (`4096`, `64KiB`), or as sizes with weights (`64:9,4096:1`). There is always
/// at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<(usize, u32)>);

impl Sizes {
    /// Returns each size in bytes, with its weight.
    pub fn weighted(&self) -> &[(usize, u32)] {
        &self.0
    }

    /// Returns the largest size, bytes.
    pub fn largest(&self) -> usize {
        self.0.iter().map(|(bytes, _)| *bytes).max().unwrap_or_default()
    }

    /// Returns the mean size, bytes.
    pub fn mean(&self) -> f64 {
        let weights: f64 = self.0.iter().map(|(_, weight)| f64::from(*weight)).sum();
        self.0.iter().map(|(bytes, weight)| *bytes as f64 * f64::from(*weight)).sum::<f64>()
            / weights
    }
}

impl From<usize> for Sizes {
    /// Returns one size for all messages.
    fn from(bytes: usize) -> Self {
        Self(vec![(bytes, 1)])
    }
}

impl<const N: usize> From<[usize; N]> for Sizes {
    /// Returns sizes of equal weight.
    fn from(sizes: [usize; N]) -> Self {
        Self(sizes.map(|bytes| (bytes, 1)).to_vec())
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(bytes, _)] = self.0[..] {
            return write!(f, "{bytes}");
        }
        let sizes: Vec<String> =
            self.0.iter().map(|(bytes, weight)| format!("{bytes}:{weight}")).collect();
        f.write_str(&sizes.join(","))
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            let (bytes, weight) = part.split_once(':').unwrap_or((part, "1"));
            let weight = weight.parse().map_err(|_| {
                format!("`{weight}` is not a valid weight: expected a number, as in 64:9,4096:1")
            })?;
            Ok((size(bytes)?, weight))
        };
        text.split(',').map(one).collect::<Result<_, String>>().map(Self)
    }
}

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0[..] {
            [(bytes, _)] => serializer.serialize_u64(bytes as u64),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a size: bytes, 64KiB, or several as in 64:9,4096:1"
        )]
        enum Written {
            Bytes(usize),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(bytes.into()),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_weights_and_units() {
        let sizes: Sizes = "64:9,4KiB:1,7".parse().expect("sizes");
        assert_eq!(sizes.weighted(), [(64, 9), (4096, 1), (7, 1)]);
        assert_eq!((sizes.to_string().as_str(), sizes.largest()), ("64:9,4096:1,7:1", 4096));
        assert_eq!("1KiB".parse::<Sizes>().map(|sizes| sizes.to_string()).as_deref(), Ok("1024"));
        for text in ["", "64:", "64:x", "many:1", "64:-1"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }

    #[test]
    fn mean_size_is_weighted() {
        assert!(("64:9,4096:1".parse::<Sizes>().expect("sizes").mean() - 467.2).abs() < 1e-9);
        assert!((Sizes::from(32).mean() - 32.0).abs() < 1e-9);
    }
}
