//! Points in time as they are stored: UTC, ISO 8601, milliseconds.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::{format_rfc3339_millis, format_rfc3339_seconds, parse_rfc3339};
use serde::{Deserialize, Serialize};

/// A point in time, to the millisecond: `2026-03-01T09:30:00.123Z` in documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Utc {
    /// Since 1970-01-01T00:00:00Z, leap seconds not counted.
    unix_ms: u64,
}

impl Utc {
    /// Now, by the system's clock.
    pub(crate) fn now() -> Self {
        Self::at(SystemTime::now())
    }

    /// A point of the system's clock.
    pub(crate) fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The point `unix_ms` milliseconds after 1970-01-01T00:00:00Z.
    pub(crate) fn from_unix_ms(unix_ms: u64) -> Self {
        Self { unix_ms }
    }

    /// Returns the nanoseconds since 1970.
    pub(crate) fn unix_ns(self) -> u64 {
        self.unix_ms.saturating_mul(1_000_000)
    }

    /// The same point for the system's clock.
    pub(crate) fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.unix_ms)
    }

    /// Returns the point for file names: `20260301T093000Z`. Sorts by time.
    pub(crate) fn compact(self) -> String {
        let text = format_rfc3339_seconds(self.system_time()).to_string();
        text.replace(['-', ':'], "")
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_rfc3339_millis(self.system_time()).fmt(f)
    }
}

impl From<Utc> for String {
    fn from(utc: Utc) -> Self {
        utc.to_string()
    }
}

impl TryFrom<String> for Utc {
    type Error = String;

    /// Reads what `Display` writes, and nothing more lenient.
    fn try_from(text: String) -> Result<Self, String> {
        let point =
            parse_rfc3339(&text).ok().and_then(|point| point.duration_since(UNIX_EPOCH).ok());
        let utc =
            point.and_then(|since| u64::try_from(since.as_millis()).ok()).map(Self::from_unix_ms);
        utc.filter(|utc| utc.to_string() == text).ok_or_else(|| {
            format!("`{text}` is not a valid time: expected one such as 2026-03-01T09:30:00.123Z")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points_in_time_are_written_as_iso_8601() {
        assert_eq!(Utc::from_unix_ms(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Utc::from_unix_ms(951_827_696_789).to_string(), "2000-02-29T12:34:56.789Z");
        assert_eq!(Utc::from_unix_ms(1_709_251_199_999).to_string(), "2024-02-29T23:59:59.999Z");
        assert_eq!(Utc::from_unix_ms(951_827_696_789).compact(), "20000229T123456Z");
    }

    #[test]
    fn every_day_of_two_centuries_reads_back() {
        for day in 0..73_000 {
            let utc = Utc::from_unix_ms(day * 86_400_000 + 12_345_678);
            assert_eq!(Utc::try_from(utc.to_string()), Ok(utc));
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "2024-02-29",
            "2024-02-29T23:59:59Z",
            "2024-13-29T23:59:59.000Z",
            "2024-02-29t23:59:59.000Z",
        ] {
            assert!(Utc::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
