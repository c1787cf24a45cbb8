//! Values of flags: numbers, rates, times, sizes.

use std::time::Duration;

use bytesize::ByteSize;

/// Longest time of a flag. A longer one is a mistyped value, and its sum might overflow.
const MAX_TIME: Duration = Duration::from_secs(100 * 24 * 60 * 60);

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let span = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) };
    let span = span.map_err(|error| format!("{error}, as in 500ms or 10s"))?;
    if span > MAX_TIME { Err("expected at most 100days".to_owned()) } else { Ok(span) }
}

/// Reads a rate a second: `50`, `50k`, `1.5M`, or a number in a time: `200/100ms`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (count, span) = match text.split_once('/') {
        Some((count, span)) => (count, time(span)?),
        None => (text, Duration::from_secs(1)),
    };
    let (digits, unit) = with_unit(count);
    let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
    let number = number.ok_or("expected a number, as in 500, 50k, 50/1s or 200/100ms")?;
    if span.is_zero() {
        Err("the time of a rate is 0: expected a longer one, as in 50/1s".to_owned())
    } else {
        Ok(number * unit as f64 / span.as_secs_f64())
    }
}

/// Splits a number into its digits and the factor of its unit: `k` for thousands, `M` for millions.
fn with_unit(text: &str) -> (&str, u64) {
    match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    }
}

/// Reads a count: `500`, `50k`, `2M`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let (digits, unit) = with_unit(text);
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| "expected a number, as in 500, 50k or 2M".to_owned())
}

/// Reads a [`count`] that fits a `u32`.
pub(crate) fn small_count(text: &str) -> Result<u32, String> {
    u32::try_from(count(text)?).map_err(|_| format!("expected at most {}", u32::MAX))
}

/// Reads a share in percent: `50%`, or `50`.
pub(crate) fn percent(text: &str) -> Result<u8, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let percent = digits.parse().ok().filter(|percent| *percent <= 100);
    percent.ok_or_else(|| "expected a whole number of percent from 0 to 100, as in 90%".to_owned())
}

pub(crate) fn size(text: &str) -> Result<usize, String> {
    let size =
        text.parse::<ByteSize>().map_err(|_| "expected a size, as in 4096 or 64KiB".to_owned())?;
    usize::try_from(size.as_u64()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units() {
        for (text, number) in [("500", 500), ("50k", 50_000), ("2M", 2_000_000)] {
            assert_eq!(count(text), Ok(number), "{text}");
        }
        for text in ["", "k", "many", "1.5k", "-5", "99999999999999999M"] {
            assert!(count(text).is_err(), "{text}");
        }
        assert!(small_count("5000M").is_err_and(|error| error.contains("at most")));
    }

    #[test]
    fn rates_are_read_in_all_forms() {
        for (text, per_s) in [
            ("50", 50.0),
            ("50k", 50e3),
            ("1.5M", 1.5e6),
            ("50/1s", 50.0),
            ("200/100ms", 2000.0),
            ("1k/2s", 500.0),
        ] {
            assert_eq!(rate(text), Ok(per_s), "{text}");
        }
        for text in ["", "k", "many", "5/", "/1s", "5/0", "5/soon", "inf", "NaN"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
