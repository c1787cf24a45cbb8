//! Points in time as they are stored: UTC, ISO 8601, milliseconds.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The point `unix_ms` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        Self { unix_ms }
    }

    /// The same point for the system's clock.
    #[must_use]
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.unix_ms)
    }

    /// For file names: `20260301T093000Z`. Sorts by time.
    #[must_use]
    pub fn compact(self) -> String {
        let (year, month, day) = civil(self.unix_ms / 86_400_000);
        let (hour, minute, second) = clock(self.unix_ms);
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.unix_ms / 86_400_000);
        let (hour, minute, second) = clock(self.unix_ms);
        let ms = self.unix_ms % 1000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl From<Utc> for String {
    fn from(utc: Utc) -> Self {
        utc.to_string()
    }
}

impl TryFrom<String> for Utc {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Utc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("`{text}` is not a time such as 2026-03-01T09:30:00.123Z"))
    }
}

/// The inverse of `Display`, and nothing more lenient.
fn parse(text: &str) -> Option<Utc> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00.000Z";
    let fits = bytes.len() == shape.len()
        && bytes.iter().zip(shape).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s });
    if !fits {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second, ms) = (number(11..13)?, number(14..16)?, number(17..19)?, number(20..23)?);
    if year < 1970
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let days = days_since_epoch(year, month, day);
    Some(Utc::from_unix_ms(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + ms))
}

fn clock(unix_ms: u64) -> (u64, u64, u64) {
    let seconds = unix_ms / 1000 % 86_400;
    (seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day of the `days`-th day after 1970-01-01.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin in March, so that
/// the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`], from the same source.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let y = year - u64::from(month <= 2);
    let era = y / 400;
    let year_of_era = y % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
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
            assert_eq!(utc.to_string().parse(), Ok(utc));
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in
            ["", "2024-02-29", "2024-02-29T23:59:59Z", "2024-13-29T23:59:59.000Z", "2024-02-29t23:59:59.000Z"]
        {
            assert!(text.parse::<Utc>().is_err(), "{text}");
        }
    }
}
