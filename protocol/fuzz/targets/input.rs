//! A fuzzer's input: options, cuts, and the bytes that are cut.

use std::ops::Range;

/// Input of a fuzzer: a byte of options, a byte with the number of cuts (0 to 7), the lengths of
/// the pieces, and the bytes to be read.
#[derive(Debug)]
pub struct Input<'a> {
    /// Eight options, whose meaning each target defines.
    pub options: u8,
    /// Lengths of the pieces, used in a cycle.
    pub cuts: &'a [u8],
    /// Input that is cut into pieces.
    pub bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// Splits a fuzzer's input; missing parts are empty or zero.
    pub fn parse(data: &'a [u8]) -> Self {
        let (&options, data) = data.split_first().unwrap_or((&0, &[]));
        let (&count, data) = data.split_first().unwrap_or((&0, &[]));
        let (cuts, bytes) = data.split_at(usize::from(count % 8).min(data.len()));
        Input { options, cuts, bytes }
    }

    /// Returns whether the option with this number, 0 to 7, is chosen.
    pub fn option(&self, number: u32) -> bool {
        self.options >> number & 1 != 0
    }

    /// Returns the pieces, without a gap; some may be empty. Without cuts, or with empty ones only,
    /// all bytes are one piece.
    pub fn pieces(&self) -> Vec<Range<usize>> {
        let len = self.bytes.len();
        if self.cuts.iter().all(|&cut| cut == 0) {
            return std::iter::once(0..len).collect();
        }
        let lengths = self.cuts.iter().copied().cycle().map(usize::from);
        let starts = lengths.scan(0, |end, length| Some(std::mem::replace(end, *end + length)));
        let starts: Vec<usize> = starts.take_while(|&start| start < len).chain([len]).collect();
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }
}
