//! Interleaved sampling: every case once per round, and the best sample of each.

use std::time::Instant;

/// One way of one operation.
pub struct Case {
    pub row: &'static str,
    pub column: String,
    /// Amount of work of one run, in the unit of the table.
    units: f64,
    run: Box<dyn FnMut()>,
    /// Number of runs in a sample.
    repeat: u32,
    best_ns: f64,
}

impl Case {
    pub fn new(row: &'static str, column: &str, units: f64, run: impl FnMut() + 'static) -> Self {
        Case {
            row,
            column: column.into(),
            units,
            run: Box::new(run),
            repeat: 1,
            best_ns: f64::INFINITY,
        }
    }

    /// Returns the nanoseconds per unit in the best sample.
    pub fn ns_per_unit(&self) -> f64 {
        self.best_ns / self.units
    }

    /// Returns the nanoseconds of one run in this sample.
    fn sample(&mut self) -> f64 {
        let begun = Instant::now();
        (0..self.repeat).for_each(|_| (self.run)());
        begun.elapsed().as_nanos() as f64 / f64::from(self.repeat)
    }

    /// Makes a sample long enough for the clock, and short enough to end before other work disturbs
    /// it.
    fn calibrate(&mut self) {
        const SAMPLE_NS: f64 = 10_000.0;
        for _ in 0..3 {
            self.repeat = (SAMPLE_NS / self.sample()).clamp(1.0, 10_000.0) as u32;
        }
    }
}

pub fn measure(cases: &mut [Case], rounds: usize) {
    cases.iter_mut().for_each(Case::calibrate);
    for _ in 0..rounds {
        for case in &mut *cases {
            case.best_ns = case.best_ns.min(case.sample());
        }
    }
}

/// Prints one row per way and one column per size. `cell` formats each cell from its case and that
/// of `limit`.
pub fn print(cases: &[Case], limit: &str, cell: impl Fn(f64, f64) -> String) {
    let mut rows: Vec<&str> = cases.iter().map(|case| case.row).collect();
    let mut columns: Vec<&str> = cases.iter().map(|case| case.column.as_str()).collect();
    columns.dedup();
    rows.truncate(rows.len() / columns.len());
    let of = |row: &str, column: &str| {
        let case = cases.iter().find(|case| case.row == row && case.column == column);
        case.map_or(f64::NAN, Case::ns_per_unit)
    };
    println!("| | {} |", columns.join(" | "));
    println!("|---{}|", "|---:".repeat(columns.len()));
    for row in rows {
        let cells = columns.iter().map(|column| cell(of(row, column), of(limit, column)));
        println!("| {row} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}
