//! Where a result goes: `--json FILE` and its like, or `-` for standard output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{Failure, OUTPUT, print, print_plain, terminal};
use crate::report::export::{csv, hgrm, interval_log};
use crate::report::{Blocks, Format};
use crate::result::{Document, Run};

/// The figures to show, and the files beside the document.
#[derive(Debug, Default, Args)]
pub(super) struct OutputArguments {
    /// Percentiles of the latency to show, as in 50,99,99.9. One that the sample does not carry (a hundred samples above it) is
    /// not shown.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = percent, help_heading = OUTPUT)]
    pub(super) percentiles: Vec<f64>,

    /// Write a line for each second of the window: sent, received, errors and latencies in nanoseconds.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) csv: Option<PathBuf>,

    /// Write an HdrHistogram interval log (.hlog): a histogram of the latencies of each second.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) hdr_log: Option<PathBuf>,

    /// Write the percentile distribution of the latency, in milliseconds, as the HdrHistogram tools plot it (.hgrm).
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) hgrm: Option<PathBuf>,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct FormatArguments {
    /// Print Markdown in place of text for a terminal: every table, and all columns.
    #[arg(long, help_heading = OUTPUT)]
    markdown: bool,
}

impl FormatArguments {
    pub(super) fn format(self) -> Format {
        if self.markdown { Format::Markdown } else { Format::Terminal { width: terminal::width() } }
    }

    /// Prints blocks to the stream that no document uses.
    pub(super) fn print(self, blocks: &Blocks, to_error: bool) -> Result<(), Failure> {
        self.print_text(&blocks.render(self.format()), to_error)
    }

    /// Prints a text that has this format already. Markdown has no colour.
    pub(super) fn print_text(self, text: &str, to_error: bool) -> Result<(), Failure> {
        if self.markdown && !to_error {
            return print_plain(text);
        }
        print(text, to_error).map_err(|error| Failure::Error(format!("cannot print: {error}")))
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent =
        text.trim_start_matches('p').parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent < 100.0);
    percent.ok_or_else(|| "a percentile is more than 0 and less than 100, as in 99.9".to_owned())
}

/// Bytes that are reserved for a result, more than most results need.
const RESERVED: u64 = 1 << 20;

/// A place for a text, checked before anything is measured.
#[derive(Debug)]
pub(super) enum Output {
    /// `-`.
    Standard,
    /// A file that is there in whole or not at all: written beside its place and renamed.
    File { path: PathBuf, partial: PathBuf, file: File },
    /// Something else with a name, such as a pipe or a device.
    Special(File),
}

impl Output {
    /// Opens the place; a file that is already there keeps its content until there is a new one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return File::options().write(true).open(path).map(Self::Special);
        }
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::create_new(&partial)?;
        let output = Self::File { path: path.to_owned(), partial, file };
        output.reserve()?;
        Ok(output)
    }

    /// Reserves space for a usual result, so that a full disk is found before anything is measured.
    fn reserve(&self) -> io::Result<()> {
        let Self::File { file, .. } = self else { return Ok(()) };
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, RESERVED) {
            // Not every file system can reserve space.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Returns true where standard output belongs to it alone.
    pub(super) fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }

    /// Writes a document.
    pub(super) fn write(&mut self, document: &Document) -> io::Result<()> {
        self.write_text(document.to_json()?.as_bytes())
    }

    /// Writes all of a text.
    pub(super) fn write_text(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => io::stdout().lock().write_all(text),
            Self::Special(file) => file.write_all(text),
            Self::File { path, partial, file } => {
                file.write_all(text)?;
                // Frees the reserved space beyond the text.
                file.set_len(text.len() as u64)?;
                fs::rename(partial, path)
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { partial, .. } = self {
            // Gone where the text was written, and no use where it was not.
            let _ = fs::remove_file(partial);
        }
    }
}

/// The place of `--json`.
pub(super) fn open_output(path: &Path) -> Result<Output, Failure> {
    Output::open(path).map_err(|error| Failure::Error(format!("--json {}: {error}", path.display())))
}

/// An output with the flag that asked for it.
#[derive(Debug)]
struct Place {
    flag: &'static str,
    path: PathBuf,
    output: Output,
}

impl Place {
    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("{} {}: {error}", self.flag, self.path.display())
    }
}

/// Everything that is written of a run, opened before it begins.
#[derive(Debug)]
pub(super) struct Files(Vec<Place>);

impl Files {
    /// Opens all places.
    pub(super) fn open(json: Option<&Path>, files: &OutputArguments) -> Result<Self, Failure> {
        let wanted = [
            ("--json", json),
            ("--csv", files.csv.as_deref()),
            ("--hdr-log", files.hdr_log.as_deref()),
            ("--hgrm", files.hgrm.as_deref()),
        ];
        let mut places: Vec<Place> = Vec::new();
        for (flag, path) in wanted.into_iter().filter_map(|(flag, path)| Some((flag, path?.to_owned()))) {
            if let Some(Place { flag: first, output, .. }) = places.iter().find(|before| before.path == path)
            {
                return Err(Failure::Usage(match output {
                    Output::Standard => format!(
                        "{first} - and {flag} - would be mixed up: only one of them can have standard output"
                    ),
                    _ => format!("{first} and {flag} name the same file, {}", path.display()),
                }));
            }
            let output = Output::open(&path)
                .map_err(|error| Failure::Error(format!("{flag} {}: {error}", path.display())))?;
            places.push(Place { flag, path, output });
        }
        Ok(Self(places))
    }

    /// Returns true where standard output belongs to one of them alone.
    pub(super) fn have_standard_output(&self) -> bool {
        self.0.iter().any(|place| place.output.is_standard())
    }

    fn place(&mut self, flag: &str) -> Option<&mut Place> {
        self.0.iter_mut().find(|place| place.flag == flag)
    }

    /// Writes a text where the flag was given.
    fn write(&mut self, flag: &str, text: impl FnOnce() -> Result<Vec<u8>, String>) -> Result<(), Failure> {
        let Some(place) = self.place(flag) else { return Ok(()) };
        let written =
            text().and_then(|text| place.output.write_text(&text).map_err(|error| error.to_string()));
        written.map_err(|error| Failure::Error(place.failed(&error)))
    }

    /// Writes what is about one run, with the latencies of each of its seconds.
    pub(super) fn write_run(&mut self, run: &Run, seconds: &[Option<Histogram<u32>>]) -> Result<(), Failure> {
        // A file that cannot be written does not keep the others from being written.
        let csv = self.write("--csv", || Ok(csv(&run.series).into_bytes()));
        let log = self.write("--hdr-log", || {
            let phases = run.phases;
            let before = Duration::from_nanos(phases.connect + phases.settle + phases.warmup);
            let window = Duration::from_nanos(phases.measure);
            let log = interval_log(run.start.system_time() + before, window, seconds);
            log.map_err(|error| error.to_string())
        });
        let distribution = self.write("--hgrm", || {
            let histogram = run.latency_ns.corrected.histogram().map_err(|error| error.to_string())?;
            let empty = || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are legal");
            Ok(hgrm(&histogram.unwrap_or_else(empty)).into_bytes())
        });
        csv.and(log).and(distribution)
    }

    /// Writes the document. Where its file cannot be written any more, the document goes to standard output,
    /// so that no result is lost.
    pub(super) fn write_document(&mut self, document: &Document) -> Result<(), Failure> {
        let Some(place) = self.place("--json") else { return Ok(()) };
        let Err(error) = place.output.write(document) else { return Ok(()) };
        let failed = place.failed(&error);
        if place.output.is_standard() {
            return Err(Failure::Error(failed));
        }
        place.output = Output::Standard;
        place.output.write(document).map_err(|error| Failure::Error(place.failed(&error)))?;
        Err(Failure::Error(format!("{failed}; the result is on standard output")))
    }
}
