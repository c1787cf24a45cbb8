//! Results as other programs read them: CSV, and the two formats of the HdrHistogram tools.

mod csv;
mod hgrm;
mod interval_log;

pub use csv::csv;
pub use hgrm::hgrm;
pub use interval_log::{IntervalLogError, interval_log};
