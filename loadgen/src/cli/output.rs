//! Where a result goes: `--json FILE` and its like, or `-` for standard output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use hdrhistogram::Histogram;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{OUTPUT, print, print_plain, terminal, usage, with_causes};
use crate::report::export::run::{csv, hgrm, interval_log};
use crate::report::{Blocks, Format};
use crate::result::{Document, Run};

/// The figures to show, and the files beside the document.
#[derive(Debug, Default, Args)]
pub(super) struct OutputArguments {
    /// Percentiles of the latency to show, as in 50,99,99.9. One that the sample does not carry (a
    /// hundred samples above it) is not shown.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = percent, help_heading = OUTPUT)]
    pub(super) percentiles: Vec<f64>,

    /// Write a line for each second of the window: sent, received, errors and latencies in
    /// nanoseconds.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) csv: Option<PathBuf>,

    /// Write an HdrHistogram interval log (.hlog): a histogram of the latencies of each second.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) hdr_log: Option<PathBuf>,

    /// Write the percentile distribution of the latency, in milliseconds, as the HdrHistogram tools
    /// plot it (.hgrm).
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
    pub(super) fn new(markdown: bool) -> Self {
        Self { markdown }
    }

    pub(super) fn format(self) -> Format {
        if self.markdown { Format::Markdown } else { Format::Terminal { width: terminal::width() } }
    }

    /// Prints blocks to the stream that no document uses.
    pub(super) fn print(self, blocks: &Blocks, to_error: bool) -> anyhow::Result<()> {
        self.print_text(&blocks.render(self.format()), to_error)
    }

    /// Prints a text that has this format already. Markdown has no colour.
    pub(super) fn print_text(self, text: &str, to_error: bool) -> anyhow::Result<()> {
        if self.markdown && !to_error { print_plain(text) } else { print(text, to_error) }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text
        .trim_start_matches('p')
        .parse::<f64>()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent < 100.0);
    percent.ok_or_else(|| "a percentile is more than 0 and less than 100, as in 99.9".to_owned())
}

/// Bytes that are reserved for a result, more than most results need.
const RESERVED: u64 = 1 << 20;

/// A place for a text, checked before anything is measured, with the flag that asked for it.
#[derive(Debug)]
pub(super) struct Output {
    flag: &'static str,
    path: PathBuf,
    place: OutputPlace,
}

#[derive(Debug)]
enum OutputPlace {
    /// `-`.
    Standard,
    /// A file that is there in whole or not at all: written beside its place and renamed.
    File { partial: PathBuf, file: File },
    /// Something else with a name, such as a pipe or a device.
    Special(File),
}

impl Output {
    /// Opens the place; a file that is already there keeps its content until there is a new one.
    pub(super) fn open(flag: &'static str, path: &Path) -> anyhow::Result<Self> {
        let place =
            OutputPlace::open(path).with_context(|| format!("{flag} {}", path.display()))?;
        Ok(Self { flag, path: path.to_owned(), place })
    }

    /// Returns true if standard output belongs to it alone.
    pub(super) fn is_standard(&self) -> bool {
        matches!(self.place, OutputPlace::Standard)
    }

    pub(super) fn write(&mut self, text: &[u8]) -> anyhow::Result<()> {
        let written = self.place.write(&self.path, text);
        written.with_context(|| format!("{} {}", self.flag, self.path.display()))
    }

    pub(super) fn write_document(&mut self, document: &Document) -> anyhow::Result<()> {
        self.write(document.to_json()?.as_bytes())
    }
}

impl OutputPlace {
    fn open(path: &Path) -> io::Result<Self> {
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
        // Reserves space for a usual result, so that a full disk is found before anything is
        // measured.
        let reserved = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RESERVED);
        let place = Self::File { partial, file };
        match reserved {
            // Not every file system can reserve space.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(place),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, path: &Path, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => io::stdout().lock().write_all(text),
            Self::Special(file) => file.write_all(text),
            Self::File { partial, file } => {
                file.write_all(text)?;
                // Frees the reserved space beyond the text.
                file.set_len(text.len() as u64)?;
                fs::rename(partial, path)
            }
        }
    }
}

impl Drop for OutputPlace {
    fn drop(&mut self) {
        if let Self::File { partial, .. } = self {
            // Gone where the text was written, and no use where it was not.
            let _ = fs::remove_file(partial);
        }
    }
}

/// Writes a document that could not be written to its place to standard output, so that no result
/// is lost. Returns the failure with what became of it.
pub(super) fn rescue(document: &Document, failure: &anyhow::Error) -> anyhow::Error {
    let failure = with_causes(failure);
    let json = document.to_json().map_err(io::Error::from);
    match json.and_then(|json| io::stdout().lock().write_all(json.as_bytes())) {
        Ok(()) => anyhow!("{failure}; the result is on standard output"),
        Err(error) => anyhow!("{failure}; standard output: {error}"),
    }
}

/// Everything that is written of a run, opened before it begins.
#[derive(Debug)]
pub(super) struct Files(Vec<Output>);

impl Files {
    pub(super) fn open(json: Option<&Path>, files: &OutputArguments) -> anyhow::Result<Self> {
        let wanted = [
            ("--json", json),
            ("--csv", files.csv.as_deref()),
            ("--hdr-log", files.hdr_log.as_deref()),
            ("--hgrm", files.hgrm.as_deref()),
        ];
        let mut outputs: Vec<Output> = Vec::new();
        for (flag, path) in wanted.into_iter().filter_map(|(flag, path)| Some((flag, path?))) {
            if let Some(before) = outputs.iter().find(|before| before.path == path) {
                let first = before.flag;
                return Err(usage(match before.place {
                    OutputPlace::Standard => format!(
                        "{first} - and {flag} - would be mixed up: only one of them can have standard output"
                    ),
                    _ => format!("{first} and {flag} name the same file, {}", path.display()),
                }));
            }
            outputs.push(Output::open(flag, path)?);
        }
        Ok(Self(outputs))
    }

    /// Returns true if standard output belongs to one of them alone.
    pub(super) fn have_standard_output(&self) -> bool {
        self.0.iter().any(Output::is_standard)
    }

    fn write(
        &mut self,
        flag: &str,
        text: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<()> {
        match self.0.iter_mut().find(|output| output.flag == flag) {
            Some(output) => output.write(&text().with_context(|| flag.to_owned())?),
            None => Ok(()),
        }
    }

    /// Writes what is about one run, with the latencies of each of its seconds.
    pub(super) fn write_run(
        &mut self,
        run: &Run,
        seconds: &[Option<Histogram<u32>>],
    ) -> anyhow::Result<()> {
        // A file that cannot be written does not keep the others from being written.
        let csv = self.write("--csv", || Ok(csv(&run.series).into_bytes()));
        let log = self.write("--hdr-log", || {
            let phases = run.phases;
            let before = Duration::from_nanos(phases.connect + phases.settle + phases.warmup);
            let window = Duration::from_nanos(phases.measure);
            interval_log(run.start.system_time() + before, window, seconds)
        });
        let distribution = self.write("--hgrm", || {
            let histogram = run.latency_ns.corrected.histogram()?;
            let empty =
                || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are legal");
            Ok(hgrm(&histogram.unwrap_or_else(empty)).into_bytes())
        });
        csv.and(log).and(distribution)
    }

    /// Writes the document. Where its file cannot be written any more, the document goes to
    /// standard output.
    pub(super) fn write_document(&mut self, document: &Document) -> anyhow::Result<()> {
        let Some(output) = self.0.iter_mut().find(|output| output.flag == "--json") else {
            return Ok(());
        };
        let written = output.write_document(document);
        if written.is_ok() || output.is_standard() {
            return written;
        }
        output.place = OutputPlace::Standard;
        written.map_err(|failure| rescue(document, &failure))
    }
}
