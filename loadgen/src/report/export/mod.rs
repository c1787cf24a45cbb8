//! Results as other programs read them: CSV, and the two formats of the HdrHistogram tools.

mod csv;
mod hgrm;
mod interval_log;

pub(crate) use csv::csv;
pub(crate) use hgrm::hgrm;
pub(crate) use interval_log::interval_log;
