//! loadgen

pub mod machine;
pub mod result;
pub mod subject;
