//! The types of the stored document.
//!
//! Times are nanoseconds in integers unless a name says otherwise; sizes are bytes; `null` means
//! "not known" or "not carried by the sample", never zero.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use super::experiment::ExperimentRecord;
use super::invalid::InvalidKind;
use super::latency::Latency;
use super::rounded;
use super::route::Route;
use super::shard::{ShardLine, ShardRecord};
use super::stage::StageRecord;
use super::utc::Utc;
use super::verdict::{Goals, SessionVerdict};
use crate::host::machine::{Machine, short_hash};
use crate::host::procfs::CostSource;
use crate::load::{Load, Transport};
use crate::target::subject::{self, Subject, Tool};

/// The version of the document this program writes, and the highest it reads.
///
/// Raised when the meaning of a field changes or a required field is added, not for an optional
/// one.
pub const SCHEMA: u32 = 2;

/// One measured session: what was measured, by what, where, and every run of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// The generator.
    pub tool: Tool,
    /// The server; in a comparison the newer side, the last of [`Document::arms`] whose commit is
    /// known.
    pub subject: Subject,
    /// The sides of a comparison, by the names that the runs use; empty if there is one side.
    #[serde(default)]
    pub arms: Vec<Arm>,
    /// Where both ran (the generator's machine where they differ).
    pub machine: Machine,
    /// The command that made the runs, and their order.
    pub session: Session,
    /// Scenarios, each once, under the names that the runs use.
    pub scenarios: Vec<Scenario>,
    /// Every run, in the order in which they were made; none in a session of
    /// [`SessionKind::Count`].
    pub runs: Vec<Run>,
    /// Counts that were made without a run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<Count>,
    /// Conclusion of a comparison, or the goals that a run reached and missed; `null` where there
    /// was neither.
    pub verdict: Option<SessionVerdict>,
}

impl Document {
    /// Returns the outcome of the session's goals; `None` where it has none.
    pub(crate) fn goals(&self) -> Option<&Goals> {
        match &self.verdict {
            Some(SessionVerdict::Goals(goals)) => Some(goals),
            _ => None,
        }
    }

    /// Returns the document as it is stored: JSON that people can read, with a line for each arm,
    /// scenario and run, and a final newline.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        let mut frame = self.clone();
        let arms = lines(&std::mem::take(&mut frame.arms))?;
        let scenarios = lines(&std::mem::take(&mut frame.scenarios))?;
        let runs = std::mem::take(&mut frame.runs);
        let runs = runs.iter().map(rounded::to_line).collect::<serde_json::Result<Vec<_>>>()?;
        let mut json = serde_json::to_string_pretty(&frame)? + "\n";
        for (field, lines) in [("arms", arms), ("scenarios", scenarios), ("runs", runs)] {
            if !lines.is_empty() {
                // A line break within a text is escaped, so that this finds only the field itself.
                let list = format!("\n  \"{field}\": [\n    {}\n  ]", lines.join(",\n    "));
                json = json.replacen(&format!("\n  \"{field}\": []"), &list, 1);
            }
        }
        Ok(json)
    }

    /// Returns the document of a session on `machine`, without scenarios, runs and subject.
    /// `engine` is the generator's.
    pub(crate) fn new(session: Session, engine: &str, machine: Machine) -> Self {
        Self {
            schema: SCHEMA,
            tool: Tool::this(engine),
            subject: Subject::default(),
            arms: Vec::new(),
            machine,
            session,
            scenarios: Vec::new(),
            runs: Vec::new(),
            counts: Vec::new(),
            verdict: None,
        }
    }

    /// Returns the scenario of this name.
    pub(crate) fn scenario(&self, name: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }

    /// Returns the number of rounds, or of pairs, that were begun.
    pub(crate) fn rounds(&self) -> u32 {
        self.runs.iter().map(|run| run.pair + 1).max().unwrap_or(0)
    }

    /// Returns the runs of one arm in a scenario.
    pub(crate) fn runs_of(&self, scenario: &str, arm: &str) -> Vec<&Run> {
        self.runs.iter().filter(|run| run.scenario == scenario && run.arm == arm).collect()
    }
}

impl Session {
    /// Returns a session of this process that has lasted since `start`, with one run after the
    /// other.
    pub(crate) fn new(kind: SessionKind, start: Start) -> Self {
        Self {
            kind,
            argv: subject::argv(std::env::args_os()),
            suite: None,
            experiment: None,
            tag: None,
            start: start.at,
            duration_ns: u64::try_from(start.since.elapsed().as_nanos()).unwrap_or(u64::MAX),
            order: "single".to_owned(),
            interrupted: false,
            marks: Vec::new(),
        }
    }

    /// Returns the command that made it, quoted for a shell; `None` where it is not recorded.
    pub(crate) fn command(&self) -> Option<String> {
        let words = self.argv.iter().map(String::as_str);
        shlex::try_join(words).ok().filter(|command| !command.is_empty())
    }
}

/// Beginning of a session, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    at: Utc,
    since: Instant,
}

impl Start {
    /// Returns the present time.
    pub(crate) fn now() -> Self {
        Self { at: Utc::now(), since: Instant::now() }
    }
}

/// Returns each value as JSON in a line.
fn lines<T: Serialize>(values: &[T]) -> serde_json::Result<Vec<String>> {
    values.iter().map(serde_json::to_string).collect()
}

/// Returns true for a value that a reader assumes where the field is absent.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One side of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// As in [`Run::arm`]: `A` and `B`, or a name.
    pub name: String,
    /// The server of this side.
    pub subject: Subject,
    /// Version of another project's server, as its user states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Verdicts about the server's answers to hostile and unusual input (`sparring-loadgen
    /// conformance`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformance: Option<Conformance>,
    /// Command of the proxy before the server of this side; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Reason why it has no runs: it cannot be had, or does not echo right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// Counts of the verdicts of the conformance battery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conformance {
    /// As the RFC asks.
    pub ok: u32,
    /// Tolerated, dropped without a status or a close code, or refused in another way than the most
    /// exact one.
    pub lax: u32,
    /// Another answer.
    pub wrong: u32,
    /// The server ended, or another connection was hurt.
    pub broken: u32,
    /// Needs limits that this server was not given.
    pub skipped: u32,
}

/// The command that made the runs of a document, and their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Kind of command that made it.
    pub kind: SessionKind,
    /// Words of the command that made it, for repeating it. Directories, host names and queries of
    /// URLs, values of handshake fields, and subprotocols are left out. Empty if an earlier
    /// build wrote the document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// The name of the experiment (`quick`, `full`) where the kind is [`SessionKind::Suite`], and
    /// what was counted where it is [`SessionKind::Count`].
    pub suite: Option<String>,
    /// The experiment; `None` for a command that is none, and in sessions of earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<ExperimentRecord>,
    /// The name the user gave with `--tag`.
    pub tag: Option<String>,
    /// Start of the first run.
    pub start: Utc,
    /// Time from there to the end of the last run, nanoseconds, without a pause before it was
    /// resumed.
    pub duration_ns: u64,
    /// Order of the runs: `rounds` (each scenario once, then again) or `single`; comparisons add
    /// theirs.
    pub order: String,
    /// True if the user ended it before it was complete.
    pub interrupted: bool,
    /// Facts to know before comparing: an engine that was not available, a shared core, a debug
    /// build.
    #[serde(default)]
    pub marks: Vec<String>,
}

/// Kind of command that made a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// `run`: one run against one server.
    Single,
    /// `experiment`: several scenarios or arms in rounds.
    Suite,
    /// Two servers in interleaved pairs.
    Ab,
    /// One server against itself.
    Aa,
    /// `count`: instructions of a message, without a run.
    Count,
}

/// Something that a message costs, counted and not measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// [`Scenario::name`].
    pub scenario: String,
    /// Name of the count: `instructions`, as callgrind does.
    pub counter: String,
    /// Count for a message, on average.
    pub per_message: f64,
    /// Number of messages in that average.
    pub messages: u64,
}

/// One scenario: a name for people, a hash for programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Unique within the document, such as `pipeline` or `echo@epoll`.
    pub name: String,
    /// Hash of the values below: results compare only where it is equal. It is computed anew
    /// when a document is read, so that a field that is added later, with its default, leaves
    /// results comparable.
    pub hash: String,
    /// The traffic that was asked for.
    #[serde(serialize_with = "without_nulls")]
    pub parameters: Load,
    /// Settings of the generator. Which processors it had is recorded with the run.
    pub generator: Setting,
    /// Settings of the server, as far as they are known.
    #[serde(default)]
    pub server: Setting,
    /// The way to the server. Absent if it has nothing special.
    #[serde(default, skip_serializing_if = "Route::is_plain")]
    pub route: Route,
}

/// Writes a load without the fields that are not set.
fn without_nulls<S: Serializer>(load: &Load, serializer: S) -> Result<S::Ok, S::Error> {
    let mut fields = serde_json::to_value(load).map_err(S::Error::custom)?;
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    fields.serialize(serializer)
}

/// Settings of one end that decide whether results compare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The engine, by name; `null` where the end is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Threads; `null` as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Congestion control of the sockets; `null`: the machine's default, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    /// Command of the proxy before the server; `null` where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

impl Scenario {
    /// Returns a scenario with its hash.
    pub(crate) fn new(
        name: impl Into<String>,
        parameters: Load,
        generator: Setting,
        server: Setting,
    ) -> Self {
        let mut scenario = Self {
            name: name.into(),
            hash: String::new(),
            parameters,
            generator,
            server,
            route: Route::default(),
        };
        scenario.rehash();
        scenario
    }

    /// Returns the scenario over another way to the server.
    pub(crate) fn with_route(mut self, route: Route) -> Self {
        self.route = route;
        self.rehash();
        self
    }

    /// Sets the hash to twelve hexadecimal digits of SHA-256 over what decides whether results
    /// compare, as JSON with sorted keys.
    pub(crate) fn rehash(&mut self) {
        // `Value`'s map is sorted, so the order of the fields in the struct does not matter.
        let values = (self.parameters.canonical(), &self.generator, &self.server);
        let values = match self.route.is_plain() {
            true => serde_json::to_value(values),
            false => serde_json::to_value((values, &self.route)),
        };
        let canonical = values.map(|value| value.to_string()).unwrap_or_default();
        self.hash = short_hash(canonical.as_bytes());
    }
}

/// One run: one set of connections against one server process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`Scenario::name`].
    pub scenario: String,
    /// Side of a comparison, the name of one of [`Document::arms`]; `A` where there is one side.
    pub arm: String,
    /// The pair or the round it belongs to, from 0.
    pub pair: u32,
    /// Start of connecting.
    pub start: Utc,
    /// Address that the connections were made to, one of the addresses of the URL's host. Several
    /// addresses are separated by `, `. `null` where an earlier build wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Length of each phase. Absent if only figures are kept (runs of an experiment).
    #[serde(default, skip_serializing_if = "is_default")]
    pub phases: Phases,
    /// True if the figures may be compared with others.
    pub valid: bool,
    /// Reasons why not, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_reasons: Vec<String>,
    /// Kinds of these reasons, in the same order; empty if there is none, and where an earlier
    /// build wrote it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_kinds: Vec<InvalidKind>,
    /// Notes to the reader, one sentence each: what was the limit where that is not certain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// True if the user ended it before its time; its figures cover what was measured.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interrupted: bool,
    /// Messages planned for the measured window. Absent in a closed loop, which plans what it
    /// sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<u64>,
    /// Messages sent within the measured window.
    pub sent: u64,
    /// Echoes received within the measured window. The latencies of a closed loop also include
    /// echoes of messages that were outstanding at its end. The latencies of an open loop are those
    /// of the messages planned in the window, whenever their echoes came.
    pub received: u64,
    /// Outcomes of all messages, over the whole run. Absent if an earlier build wrote the
    /// document, and in a compact run where all came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// `received` per second of the measured window.
    pub rate_per_s: f64,
    /// Message bytes received per second of the measured window, headers not counted.
    pub bytes_per_s: f64,
    /// Errors of connections, over the whole run; absent if there was none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub errors: Errors,
    /// Echoes that were not what was sent, over the whole run; absent if there was none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub integrity: Integrity,
    /// Latencies of messages and of connecting.
    pub latency_ns: Latencies,
    /// Reason why some figures of `latency_ns` are lower bounds; `null` where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub censored: Option<Censored>,
    /// Cause that ended the load early, other than the user. The figures are of what was measured
    /// until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_early: Option<EndedEarly>,
    /// Periods in which a lost connection was being reopened (`--reconnect`); `null` where there
    /// was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outages: Option<Outages>,
    /// Periods in the window in which the generator did not run; `null` where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstill: Option<Standstill>,
    /// Connections closed and replaced in the window; `null` where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles: Option<Cycles>,
    /// Pings over the whole run; `null` where none were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pings: Option<Pings>,
    /// Cost of own messages, and of answers that are not echoes, for the generator; `null` where
    /// messages were generated and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_cost: Option<MessageCost>,
    /// Compression; `null` where none was offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Cost for the server; `null` where its process was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// Cost for the proxy before the server, per message of the generator; `null` where there was
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Server>,
    /// Cost for the generator.
    pub client: Client,
    /// Time that others took in the measured window; `null` where it was not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disturbance: Option<Disturbance>,
    /// The part of the load that this run took; `null` where it took the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardRecord>,
    /// The runs that `merge` has added to this one, in the order of their numbers; empty where none
    /// were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardLine>,
    /// Reasons why earlier attempts at this run were put aside, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeated: Vec<String>,
    /// The stages of the load that were begun (`--stages`); empty where it has one rate, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageRecord>,
    /// Seconds of the measured window. The last one is as long as the window has it (a day at
    /// most). `sent` and `received` add up to the run's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Second>,
}

impl Run {
    /// Returns the number of messages planned for the measured window.
    pub fn offered(&self) -> u64 {
        self.offered.unwrap_or(self.sent)
    }
}

/// Returns a count per second of a window; 0 where that is empty.
pub(crate) fn per_second(count: f64, window: Duration) -> f64 {
    let seconds = window.as_secs_f64();
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

/// Outcomes of all messages, over the whole run, warm-up and drain included.
///
/// `planned = sent + not_sent` and `sent = echoed + wrong + lost + outstanding` hold for every run,
/// connection by connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// Messages planned. In a closed loop without a number of messages: the messages that were
    /// sent.
    pub planned: u64,
    /// Messages planned and not sent. The generator was too late, no connection was open or had
    /// room, or the run ended before.
    pub not_sent: u64,
    /// Messages handed to the connection.
    pub sent: u64,
    /// Messages that came back as they were sent.
    pub echoed: u64,
    /// Messages that came back and differed from what was sent, in content, opcode or order.
    pub wrong: u64,
    /// Messages that will not come back: [`Integrity::lost`].
    pub lost: u64,
    /// Messages without an echo when the drain ended. The server may still have sent one.
    pub outstanding: u64,
}

/// Messages that are in the latencies with their age at the end of the run. Their latencies were at
/// least as long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Censored {
    /// Number of such messages.
    pub count: u64,
    /// Percentile (0 to 100) up to which they change nothing. Percentiles above it, the mean and
    /// the maximum are lower bounds.
    pub exact_up_to: f64,
    /// Age of the youngest of them, in nanoseconds; `null` where an earlier build wrote the
    /// document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub youngest_ns: Option<u64>,
}

impl Censored {
    /// Returns the description of `count` messages of at least this age in `latencies`. They change
    /// nothing up to the percentile at which the youngest of them lies.
    pub(crate) fn of(latencies: &Histogram<u64>, count: u64, youngest_ns: u64) -> Self {
        let lowest = latencies.lowest_equivalent(youngest_ns);
        let below = latencies.count_between(0, lowest.saturating_sub(1));
        let exact_up_to = below as f64 * 100.0 / latencies.len() as f64;
        Self { count, exact_up_to, youngest_ns: Some(youngest_ns) }
    }

    /// Returns true if the quantile `q` (0 to 1) is a lower bound.
    pub fn bounds(self, q: f64) -> bool {
        q * 100.0 > self.exact_up_to
    }
}

/// Time and cause of an early end of the load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedEarly {
    /// Time of the end, in nanoseconds from the beginning of the load (warm-up included).
    pub after_ns: u64,
    /// Cause of the end, in a sentence.
    pub cause: String,
}

/// Periods in which lost connections were being reopened, summed over the connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outages {
    /// Number of periods.
    pub count: u64,
    /// Sum of the periods, in nanoseconds.
    pub total_ns: u64,
    /// Longest period, in nanoseconds.
    pub longest_ns: u64,
}

/// Periods in which a thread of the generator should have run and did not, summed over its threads.
/// Lateness of up to 10 ms is ordinary and does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    /// Sum of the periods, in nanoseconds.
    pub total_ns: u64,
    /// Longest period, in nanoseconds.
    pub longest_ns: u64,
}

/// Time that others took from a run, as shares (0 to 1) of the measured window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Disturbance {
    /// Share of the server's thread that waited most: time runnable without a processor, because
    /// something else had it. `null` where the server's process was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_waited: Option<f64>,
    /// Share of the generator's thread that waited most.
    pub generator_waited: f64,
    /// Time that the hypervisor gave to others, counted in ticks of 10 ms. It is that of the most
    /// affected processor to which the run was confined.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stolen: f64,
}

/// Length of each phase of a run, nanoseconds. Phases are separated by barriers over all threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Time until every connection was open (and had shaken hands).
    pub connect: u64,
    /// Rest between connecting and the first message.
    pub settle: u64,
    /// Load that is not counted.
    pub warmup: u64,
    /// The measured window.
    pub measure: u64,
    /// Time from the window's end until the last echo was back or given up. It includes the moment
    /// in which an open loop may still send what was due in the window.
    pub drain: u64,
}

/// Connections that sent all they were to send in the measured window, got everything back, and
/// were replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cycles {
    /// Number of connections.
    pub count: u64,
    /// Number per second of the window.
    pub rate_per_s: f64,
}

/// Pings of the generator (RFC 6455 section 5.5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pings {
    /// Sent.
    pub sent: u64,
    /// Pongs that came.
    pub answered: u64,
}

/// Cost of messages for the generator, measured after the run, in nanoseconds for each. Masking,
/// compressing and sending are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageCost {
    /// Time to build a message.
    pub build_ns: f64,
    /// Time to find the message that an answer belongs to, and to compare them.
    pub check_ns: f64,
}

/// Compression of a run that offered it (permessage-deflate, RFC 7692), over the whole run, warm-up
/// and drain included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Compression {
    /// Parameters that the first connection agreed on; `null` where the server declined.
    pub agreed: Option<Agreed>,
    /// Compressed messages that were sent.
    pub sent: CompressedMessages,
    /// Messages that were sent without compression: the server declined, or allowed no window that
    /// the generator can keep to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sent_uncompressed: u64,
    /// Compressed messages that came.
    pub received: CompressedMessages,
    /// The part of them whose bytes were those that were sent. They were compared without
    /// inflating.
    pub same_bytes: u64,
    /// The part of them that was inflated and compared.
    pub inflated: u64,
    /// Messages that came without compression.
    #[serde(default, skip_serializing_if = "is_default")]
    pub received_uncompressed: u64,
    /// Time to compress a message, in nanoseconds, measured after the run. Only where messages are
    /// compressed while they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress_ns_per_message: Option<f64>,
}

/// Negotiated parameters of permessage-deflate (RFC 7692 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// The server compresses each message by itself.
    pub server_no_context_takeover: bool,
    /// The generator does.
    pub client_no_context_takeover: bool,
    /// Largest window of the server, in bits.
    pub server_max_window_bits: u8,
    /// Largest window of the generator, in bits.
    pub client_max_window_bits: u8,
}

/// Count and size of compressed messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressedMessages {
    /// Number of messages.
    pub messages: u64,
    /// Bytes of their payloads as they were sent, headers not counted.
    pub payload_bytes: u64,
    /// Bytes of the messages before compressing. Of received ones it is 0 where echoes are not
    /// checked.
    pub message_bytes: u64,
}

/// Counts of errors over the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// TCP connections that could not be opened.
    pub connect: u64,
    /// Opening handshakes that failed (RFC 6455 section 4.1).
    pub handshake: u64,
    /// Frames that broke the protocol.
    pub protocol: u64,
    /// Connections the peer closed before the end.
    pub closed: u64,
    /// Failed reads and writes.
    pub io: u64,
    /// Connections, handshakes and echoes that did not come in time.
    pub timeout: u64,
}

impl Errors {
    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.connect + self.handshake + self.protocol + self.closed + self.io + self.timeout
    }
}

impl AddAssign for Errors {
    fn add_assign(&mut self, part: Self) {
        let Self { connect, handshake, protocol, closed, io, timeout } = part;
        self.connect += connect;
        self.handshake += handshake;
        self.protocol += protocol;
        self.closed += closed;
        self.io += io;
        self.timeout += timeout;
    }
}

/// Counts of echoes that were not what was sent, over the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integrity {
    /// Messages that never came back and never will. Their connection ended, a later message came
    /// back, or the connection was silent for the answer timeout.
    pub lost: u64,
    /// The part of `lost` whose connection ended.
    #[serde(default)]
    pub lost_with_connection: u64,
    /// Messages that came back more than once.
    pub duplicated: u64,
    /// Messages that came back after a later one (the late ones, as RFC 4737 counts).
    pub reordered: u64,
    /// Messages whose length or content was another.
    pub corrupted: u64,
    /// Text that came back as binary, or the other way round.
    pub wrong_opcode: u64,
    /// Messages from the server that are not echoes, such as a greeting.
    #[serde(default)]
    pub unsolicited: u64,
}

impl Integrity {
    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.reordered
            + self.corrupted
            + self.wrong_opcode
            + self.unsolicited
    }

    /// Returns the number of faults of the server on connections that stayed open. The end of a
    /// connection counts as a connection error instead.
    pub fn faults(&self) -> u64 {
        self.total() - self.lost_with_connection
    }
}

impl AddAssign for Integrity {
    fn add_assign(&mut self, part: Self) {
        let Self {
            lost,
            lost_with_connection,
            duplicated,
            reordered,
            corrupted,
            wrong_opcode,
            unsolicited,
        } = part;
        self.lost += lost;
        self.lost_with_connection += lost_with_connection;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.corrupted += corrupted;
        self.wrong_opcode += wrong_opcode;
        self.unsolicited += unsolicited;
    }
}

/// The four latencies of a run, nanoseconds. A message counts as sent at a clock reading just
/// before the system call that carries it, with at most 16 messages in an open loop. An echo counts
/// as received at the start of the turn. So latencies are exact to one such call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Time from the planned send to the echo.
    pub corrected: Latency,
    /// Time from the actual send to the echo: the server's part. It includes the time in which a
    /// message was due and no connection was open. Absent in a closed loop, where it equals
    /// `corrected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncorrected: Option<Latency>,
    /// Time from the planned to the actual send, without the time in which no connection was open:
    /// the generator's part. Absent in a closed loop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lag: Latency,
    /// Time from the start of connecting to the end of the opening handshake, one sample per
    /// connection. If connections are replaced during the load, only those opened in the window
    /// count. Absent if there are no samples.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect: Latency,
    /// The part of `connect` until TCP had connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_connect: Option<Latency>,
    /// The part of `connect` from there on to the end of the TLS handshake; absent if there is
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_handshake: Option<Latency>,
    /// The whole TLS handshakes of `tls_handshake`; absent if none was to resume a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_full: Option<Latency>,
    /// Those that resumed a session; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_resumed: Option<Latency>,
    /// The part of `connect` from there on: the opening handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Latency>,
    /// Time from there to the end of the first messages (`--first-message`, `--expect-first`,
    /// `--skip-first`), which is not in `connect`; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_messages: Option<Latency>,
}

impl Latencies {
    /// Returns the time from the actual send to the echo, which in a closed loop is `corrected`.
    pub fn uncorrected(&self) -> &Latency {
        self.uncorrected.as_ref().unwrap_or(&self.corrected)
    }
}

impl Sum for CompressedMessages {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}

impl AddAssign for CompressedMessages {
    fn add_assign(&mut self, part: Self) {
        let Self { messages, payload_bytes, message_bytes } = part;
        self.messages += messages;
        self.payload_bytes += payload_bytes;
        self.message_bytes += message_bytes;
    }
}

/// Cost of a run for the server: all its threads and processes, also those that have ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its engine as it said itself; `null` where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The congestion control it said it has set; `None`: the machine's default, or it does not
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    /// The CPUs it was confined to; empty if it was not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpus: Vec<u32>,
    /// CPU time per received message in the measured window, from the scheduler's nanosecond
    /// accounting.
    pub cpu_ns_per_message: f64,
    /// Largest error of that time as a share of it, where it comes from the server's metrics. Above
    /// [`MAX_CPU_UNCERTAINTY`] the time is neither shown nor compared ([`Server::cpu_ns`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_uncertainty: Option<f64>,
    /// Origin of the CPU time. Absent in older documents, which count neither ended threads nor
    /// ended processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_source: Option<CostSource>,
    /// Unit of the least exact count of that origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_resolution_ns: Option<u64>,
    /// The part in user space. Sampled by the timer tick, hence coarse: shown, never judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ns_per_message: Option<f64>,
    /// The part in the kernel; coarse as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ns_per_message: Option<f64>,
    /// Resident memory at the end of the measured window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Growth of resident memory from before the first connection, per connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes_per_connection: Option<f64>,
    /// Context switches per received message in the measured window because a thread waited for
    /// something. Absent if threads that have ended did much of the work, because the kernel
    /// keeps no counts of ended threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voluntary_switches_per_message: Option<f64>,
    /// Context switches per received message in the measured window because another thread was to
    /// run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub involuntary_switches_per_message: Option<f64>,
    /// Page faults per received message in the measured window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_faults_per_message: Option<f64>,
    /// Instructions per received message in the measured window, user space and kernel where the
    /// host lets both be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions_per_message: Option<f64>,
    /// Processor cycles per received message in the measured window, counted in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles_per_message: Option<f64>,
    /// Reason why instructions and cycles are not known, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_counted: Option<String>,
    /// Counters of the server over its whole life, warm-up included (`--stats`); by its metrics,
    /// over the measured window. Empty if it does not say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub counters: BTreeMap<String, u64>,
}

/// Largest error of a server's CPU time, as a share of it, with which it is compared.
pub const MAX_CPU_UNCERTAINTY: f64 = 0.02;

impl Server {
    /// Returns the CPU time per message, unless it is too uncertain.
    pub fn cpu_ns(&self) -> Option<f64> {
        let is_known = self.cpu_uncertainty.is_none_or(|share| share <= MAX_CPU_UNCERTAINTY);
        is_known.then_some(self.cpu_ns_per_message)
    }

    /// `io_uring_enter` (or `epoll_wait`) calls per message over the server's life, where it counts
    /// both.
    ///
    /// In raw bytes a server cannot distinguish messages, and counts its reads as messages. So for
    /// `tcp` the number of messages is calculated from the bytes.
    pub(crate) fn enters_per_message(&self, load: &Load) -> Option<f64> {
        let enters = *self.counters.get("enters")?;
        let messages = match load.transport {
            Transport::Ws | Transport::Wss => *self.counters.get("messages")? as f64,
            Transport::Tcp => *self.counters.get("bytes_in")? as f64 / load.message_bytes.mean(),
        };
        (messages > 0.0).then(|| enters as f64 / messages)
    }
}

/// Cost of a run for the generator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Name of its engine; absent if only [`Scenario::generator`] has it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub engine: String,
    /// The CPUs of its threads, in their order; empty if they were not pinned.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpus: Vec<u32>,
    /// CPU time of its worker threads per received message in the measured window.
    pub cpu_ns_per_message: f64,
    /// Share of the measured window in which each worker thread was on a CPU, 0 to 1.
    pub cpu_utilisation: Vec<f64>,
    /// Messages sent per `io_uring_enter`; `null` if the engine does not count the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_per_enter: Option<f64>,
    /// Way in which an idle thread waits: `sleep` or `spin`.
    pub wait: String,
}

/// One second of the measured window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the window began, at the start of this one.
    pub second: u32,
    /// Length of the part that is in the window, in nanoseconds. Absent if all of it is; the
    /// last one may be shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_ns: Option<u64>,
    /// Messages sent.
    pub sent: u64,
    /// Echoes received.
    pub received: u64,
    /// Errors of any kind.
    #[serde(default, skip_serializing_if = "is_default")]
    pub errors: u64,
    /// Median of the corrected latency, where the second carries it. In a closed loop it covers the
    /// messages received in this second, in an open loop those planned in it. The same holds for
    /// `p99` and `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<u64>,
    /// 99th percentile of the corrected latency, where the second carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<u64>,
    /// Highest corrected latency; `null` in a second without echoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}
