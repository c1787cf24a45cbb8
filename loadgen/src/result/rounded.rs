//! JSON with figures as exact as they were measured.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};

/// Digits of a measured figure: enough for ratios of a hundred with three decimals.
const DIGITS: i32 = 7;

/// Returns `value` as JSON in a line, with every float rounded.
pub(super) fn to_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut line = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut line, Rounded))?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

struct Rounded;

impl Formatter for Rounded {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        CompactFormatter.write_f64(writer, rounded(value))
    }
}

/// Rounds to [`DIGITS`] digits, and never to less than a tenth: tables show whole numbers.
fn rounded(value: f64) -> f64 {
    if value == 0.0 {
        return value;
    }
    let decimals = (DIGITS - 1 - value.abs().log10().floor() as i32).max(1);
    format!("{value:.*}", usize::try_from(decimals).unwrap_or(0)).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_seven_digits_and_a_tenth() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0 / 3.0, "0.3333333"),
            (1.015_411_406_6e-5, "0.00001015411"),
            (3_021.836_445_146, "3021.836"),
            (5_583_651.249, "5583651.2"),
            (-2.0 / 3.0, "-0.6666667"),
        ] {
            assert_eq!(to_line(&value).expect("JSON"), text);
        }
        assert_eq!(
            to_line(&(f64::NAN, 7, "1.23456789")).expect("JSON"),
            r#"[null,7,"1.23456789"]"#
        );
    }
}
