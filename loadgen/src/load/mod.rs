//! The traffic of a run as one value.
//!
//! Flags parse into a [`Load`], the catalogue gives names to loads, the client carries one out, and
//! a document stores it as `parameters`. Every field is declared once, here.

mod arguments;
mod arrival;
pub mod catalogue;
mod files;
mod kinds;
mod matching;
mod sizes;
pub(crate) mod span;
pub(crate) mod stages;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, FromArgMatches};
use engine::tls::TlsVersions;
use protocol::deflate::{CompressorSettings, MAX_WINDOW_BITS};
use protocol::handshake::deflate::Offer;
use serde::{Deserialize, Serialize};

pub(crate) use arguments::LoadArguments;
pub use arrival::Arrival;
pub use catalogue::Catalogue;
pub(crate) use files::MAX_MESSAGE_BYTES;
pub use files::{PayloadFile, PayloadOrder, PrivateText};
pub use kinds::{Deflate, Mask, Payload, TlsVersion, Transport};
pub use matching::{Field, Match};
pub use sizes::Sizes;
pub use stages::Stages;
use value::{count, percent, rate, small_count, time};

/// Headings of the flags of a load.
pub(crate) const LOAD: &str = "Load";
const MESSAGES: &str = "Messages";
pub(crate) const CONNECTIONS: &str = "Connections";
const LIMITS: &str = "Limits";
const COMPRESSION: &str = "Compression";
pub(crate) const TLS: &str = "TLS";

/// Everything that defines the traffic of a run. The target and the placement are not part of it.
///
/// Adding a field: give it its flag and its default here, its bounds in `Plan::check`, and a line
/// in `bench-results/schema.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Load {
    /// The protocol of the connections, which is the URL's scheme.
    #[arg(skip = Transport::Ws)]
    pub transport: Transport,

    /// Connections, over all threads.
    #[arg(short, long, value_name = "N", value_parser = small_count, default_value = "64",
          help_heading = LOAD)]
    pub connections: u32,

    /// Messages kept outstanding on each connection of a closed loop; an open loop (-R) is not
    /// bound by it.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = LOAD)]
    pub pipeline: u32,

    /// Open loop: messages a second over all connections, sent at planned times, whether or not
    /// echoes arrive. 500, 50k, 50/1s, 200/100ms.
    #[arg(short = 'R', long = "rate", value_name = "RATE", value_parser = rate, help_heading = LOAD)]
    pub rate_per_s: Option<f64>,

    /// Open loop whose rate changes, in stages of a rate and a time: 10k:30s,50k:10s,50k:1m,0:5s.
    /// Each stage leads evenly from the rate of the one before to its own. The first has its own
    /// throughout, and so has the warm-up. A time of 0 changes the rate at once. The measured time
    /// is that of all stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "RATE:TIME,...", help_heading = LOAD,
          conflicts_with_all = ["rate_per_s", "messages", "measure"])]
    pub stages: Option<Stages>,

    /// Spread of the planned messages: at even intervals, as of independent users, or N at the same
    /// instant.
    #[arg(long, value_name = "constant|poisson|burst:N", default_value = "constant", help_heading = LOAD)]
    pub arrival: Arrival,

    /// Most messages outstanding on a connection of an open loop. Reaching it makes the run
    /// invalid.
    #[arg(long, value_name = "N", value_parser = small_count, default_value = "4096", help_heading = LOAD)]
    pub max_outstanding: u32,

    /// Messages to send in all; the run then ends. -d is its longest window [default: 1h], and -w
    /// is 0.
    #[arg(short = 'n', long, value_name = "N", value_parser = count, help_heading = LOAD)]
    pub messages: Option<u64>,

    /// Measured time.
    #[serde(rename = "measure_ns", with = "span")]
    #[arg(short = 'd', long = "duration", value_name = "TIME", value_parser = time, default_value = "10s",
          help_heading = LOAD)]
    pub measure: Duration,

    /// Warm-up: load before the measured time, which does not count.
    #[serde(rename = "warmup_ns", with = "span")]
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "2s", help_heading = LOAD)]
    pub warmup: Duration,

    /// Pause between connecting and the first message.
    #[serde(rename = "settle_ns", with = "span")]
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "100ms", help_heading = LOAD)]
    pub settle: Duration,

    /// Bytes of each message; over tcp:// the raw bytes sent and expected back. Several sizes have
    /// weights, as in 64:9,4096:1.
    #[arg(short = 's', long = "size", visible_alias = "payload-size-list", value_name = "SIZE",
          default_value = "32", help_heading = MESSAGES)]
    pub message_bytes: Sizes,

    /// Content of messages, set by --text, --binary and --text-kind. Over `tcp` it is always bytes.
    #[arg(skip = Payload::Binary)]
    pub payload: Payload,

    /// Send the content of this file as every message, as it is: as text with --text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "FILE", value_parser = PayloadFile::one,
          conflicts_with_all = ["message_bytes", "payload_lines"], help_heading = MESSAGES)]
    pub payload_file: Option<PayloadFile>,

    /// Send the lines of this file, each as a message, as they are: as text with --text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "FILE", value_parser = PayloadFile::lines,
          conflicts_with = "message_bytes", help_heading = MESSAGES)]
    pub payload_lines: Option<PayloadFile>,

    /// Order of these lines: on each connection from the first to the last and again, or at random
    /// from --seed.
    #[serde(skip_serializing_if = "is_default")]
    #[arg(long, value_enum, default_value_t = PayloadOrder::InTurn, value_name = "in-turn|random",
          hide_possible_values = true, help_heading = MESSAGES)]
    pub payload_order: PayloadOrder,

    /// Replace {seq}, {connection}, {time_ns} and {random:16} in own messages. Any brace before a
    /// letter is one of these, or {{ for a plain brace; others stay, as in JSON.
    #[serde(skip_serializing_if = "is_default")]
    #[arg(long, help_heading = MESSAGES)]
    pub template: bool,

    /// Answers of the server: the message (echo), one that begins with it or contains it, JSON with
    /// the FIELD of the message in any order, or any message.
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    #[arg(long = "match", value_name = "echo|prefix|contains|id:FIELD|any", default_value = "echo",
          help_heading = MESSAGES)]
    pub matching: Match,

    /// Frames of each message.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = MESSAGES)]
    pub fragments: u32,

    /// Masking keys: a fresh one for each frame, or the same for all.
    #[arg(long, value_enum, value_name = "random|fixed", default_value = "random",
          hide_possible_values = true, help_heading = MESSAGES)]
    pub mask: Mask,

    /// Count echoes without checking their content.
    #[arg(long = "no-verify", action = clap::ArgAction::SetFalse, help_heading = MESSAGES)]
    pub verify: bool,

    /// Seed of payloads, masking keys and handshake keys.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = MESSAGES)]
    pub seed: u64,

    /// Further connections that stay open without messages.
    #[arg(long, value_name = "N", value_parser = small_count, default_value = "0",
          help_heading = CONNECTIONS)]
    pub idle: u32,

    /// Most connections to begin in a second (500, 10k, 50/100ms) [default: 256 at the same time on
    /// each thread].
    #[arg(long, value_name = "RATE", value_parser = rate, help_heading = CONNECTIONS)]
    pub connect_rate: Option<f64>,

    /// Time between the pings of each connection, idle or not.
    #[serde(rename = "ping_interval_ns", with = "span::option")]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = CONNECTIONS)]
    pub ping_interval: Option<Duration>,

    /// Messages of a connection. When all are back it is closed, and another is opened in its
    /// place.
    #[arg(long, value_name = "N", help_heading = CONNECTIONS)]
    pub messages_per_connection: Option<u32>,

    /// Lifetime of a connection. It is then closed when all messages are back, and another is
    /// opened in its place.
    #[serde(rename = "lifetime_ns", with = "span::option")]
    #[arg(long = "channel-lifetime", value_name = "TIME", value_parser = time, help_heading = CONNECTIONS)]
    pub lifetime: Option<Duration>,

    /// Open lost connections again, after pauses that grow from 0.1 s to 5 s while attempts fail.
    /// They count as errors.
    #[arg(long, help_heading = CONNECTIONS)]
    pub reconnect: bool,

    /// Wait for N messages of the server on each new connection, and skip them.
    #[serde(skip_serializing_if = "is_default")]
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = CONNECTIONS)]
    pub skip_first: u32,

    /// Send this text on each new connection, before the load, such as a login.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "TEXT", help_heading = CONNECTIONS)]
    pub first_message: Option<PrivateText>,

    /// Wait for a message that matches, before the load: the answer to --first-message, or else the
    /// server's own. A regular expression that finds a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "REGEX", help_heading = CONNECTIONS)]
    pub expect_first: Option<PrivateText>,

    /// Longest time for connecting, again for the handshakes, and again for first messages.
    #[serde(rename = "connect_timeout_ns", with = "span")]
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", help_heading = LIMITS)]
    pub connect_timeout: Duration,

    /// Longest time without any echo. After it the server counts as not answering. The run waits as
    /// long for the last echoes.
    #[serde(rename = "answer_timeout_ns", with = "span")]
    #[arg(long = "timeout", value_name = "TIME", value_parser = time, default_value = "5s",
          help_heading = LIMITS)]
    pub answer_timeout: Duration,

    /// Compression to offer (permessage-deflate, RFC 7692): none, each message by itself, or with
    /// context takeover.
    #[serde(skip_serializing_if = "is_off")]
    #[arg(long, value_enum, default_value_t = Deflate::Off, value_name = "off|on|takeover",
          hide_possible_values = true, help_heading = COMPRESSION)]
    pub deflate: Deflate,

    /// Largest window of either end, in bits: 9 (512 bytes) to 15 (32 KiB).
    #[serde(skip_serializing_if = "is_usual_window")]
    #[arg(long, value_name = "BITS", default_value_t = USUAL_WINDOW_BITS,
          help_heading = COMPRESSION)]
    pub deflate_window_bits: u8,

    /// Memory of the generator's compressor, from 1 to 9: 2^(N + 9) bytes beside its window.
    #[serde(skip_serializing_if = "is_usual_memory")]
    #[arg(long, value_name = "N", default_value_t = USUAL_MEMORY_LEVEL,
          help_heading = COMPRESSION)]
    pub deflate_memory_level: u8,

    /// Lowest version of TLS to agree to [default: 1.2].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_enum, value_name = "1.2|1.3", hide_possible_values = true,
          help_heading = TLS)]
    pub tls_min: Option<TlsVersion>,

    /// Highest version of TLS to agree to [default: 1.3].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_enum, value_name = "1.2|1.3", hide_possible_values = true,
          help_heading = TLS)]
    pub tls_max: Option<TlsVersion>,

    /// Share of TLS handshakes that resume an earlier session, where the server lets them. The
    /// result has both kinds apart.
    #[serde(skip_serializing_if = "is_default")]
    #[arg(long = "tls-resume", value_name = "0..100%", value_parser = percent, default_value = "0%",
          help_heading = TLS)]
    pub tls_resume_percent: u8,

    /// Fields of a later version, which keep results with them apart from others.
    #[serde(flatten)]
    #[arg(skip)]
    pub(crate) unknown: BTreeMap<String, serde_json::Value>,
}

/// Effort of compressing that is zlib's default.
const USUAL_LEVEL: u8 = 6;
const USUAL_WINDOW_BITS: u8 = MAX_WINDOW_BITS;
const USUAL_MEMORY_LEVEL: u8 = 8;

// Loads without compression are stored, hashed and read as before there was any.

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_off(deflate: &Deflate) -> bool {
    *deflate == Deflate::Off
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_usual_window(bits: &u8) -> bool {
    *bits == USUAL_WINDOW_BITS
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_usual_memory(level: &u8) -> bool {
    *level == USUAL_MEMORY_LEVEL
}

/// Returns true for a value that a reader assumes where the field is absent.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Load {
    /// The load of a command line without flags, so that a default is written down once.
    fn default() -> Self {
        let command = Self::augment_args(clap::Command::new("load").no_binary_name(true));
        let parsed = command
            .try_get_matches_from([""; 0])
            .and_then(|matches| Self::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| unreachable!("every flag of a load has a default: {error}"))
    }
}

impl Load {
    /// Returns the measured window. For a limited number of messages at even intervals it is the
    /// time that they are planned to take.
    pub fn window(&self) -> Duration {
        match (self.messages, self.rate_per_s) {
            (Some(messages), Some(rate)) if !self.ends_with_last_echo() => {
                let planned_ns = (messages as f64 * (1e9 / rate)).round();
                Duration::from_nanos(planned_ns as u64).min(self.measure)
            }
            _ => self.measure,
        }
    }

    /// Returns true if messages are sent at planned times.
    pub fn is_open_loop(&self) -> bool {
        self.rate_per_s.is_some() || self.stages.is_some()
    }

    /// Returns true if connections are closed and replaced during the load.
    pub(crate) fn replaces_connections(&self) -> bool {
        self.messages_per_connection.is_some() || self.lifetime.is_some()
    }

    /// Returns true if the number of messages is limited and the window ends with the last echo.
    /// That is so in a closed loop. It is also so where the plan does not reach that number at an
    /// even interval from its beginning.
    pub(crate) fn ends_with_last_echo(&self) -> bool {
        let Some(messages) = self.messages else { return false };
        !self.is_open_loop()
            || match self.arrival {
                Arrival::Constant => false,
                Arrival::Burst(size) => messages % u64::from(size.get()) != 0,
                Arrival::Poisson => true,
            }
    }

    /// Returns the number of messages that the plan of an open loop has at the same instant.
    pub(crate) fn burst(&self) -> u32 {
        match self.arrival {
            Arrival::Burst(size) if self.is_open_loop() => size.get(),
            _ => 1,
        }
    }

    /// Returns the number of all connections, idle ones included.
    pub fn all_connections(&self) -> u64 {
        u64::from(self.connections) + u64::from(self.idle)
    }

    /// Returns true if the messages are the user's own, in place of generated ones.
    pub(crate) fn has_own_messages(&self) -> bool {
        self.payload_file.is_some() || self.payload_lines.is_some()
    }

    /// Returns true if messages are exchanged on each new connection before its load.
    pub(crate) fn has_first_messages(&self) -> bool {
        self.skip_first > 0 || self.first_message.is_some() || self.expect_first.is_some()
    }

    /// Returns true if the user's own messages are compressed while they are sent.
    pub(crate) fn compresses_own_messages_on_send(&self) -> bool {
        let is_varied = self.deflate == Deflate::On && self.template;
        self.has_own_messages() && (self.deflate == Deflate::Takeover || is_varied)
    }

    /// Reads the files that a catalogue names by their paths.
    pub(crate) fn read_files(&mut self) -> Result<(), String> {
        let read = |file: &mut Option<PayloadFile>, read| match file {
            None => Ok(()),
            Some(known) => known.again(read).map(|known| *file = Some(known)),
        };
        read(&mut self.payload_file, PayloadFile::one)?;
        read(&mut self.payload_lines, PayloadFile::lines)?;
        self.take_sizes();
        Ok(())
    }

    /// Sets the size of messages to that of the user's own: of lines, their mean.
    pub(crate) fn take_sizes(&mut self) {
        if let Some(file) = &self.payload_file {
            self.message_bytes = (file.bytes() as usize).into();
        } else if let Some(file) =
            self.payload_lines.as_ref().filter(|file| file.content().is_some())
        {
            let (count, bytes) =
                file.each_line().fold((0, 0), |sum, line| (sum.0 + 1, sum.1 + line.len()));
            self.message_bytes = (bytes / usize::max(count, 1)).into();
        }
    }

    /// Returns the offer of compression in the opening handshake.
    pub(crate) fn offer(&self) -> Option<Offer> {
        self.deflate.offer(self.deflate_window_bits)
    }

    /// Returns the versions of TLS to offer.
    pub(crate) fn tls_versions(&self) -> TlsVersions {
        let usual = TlsVersions::default();
        TlsVersions {
            min: self.tls_min.map_or(usual.min, Into::into),
            max: self.tls_max.map_or(usual.max, Into::into),
        }
    }

    /// Returns the settings of a compressor with this window. Where the generator compresses the
    /// user's own messages while it sends, it takes the least effort, so that it is not the limit.
    pub(crate) fn compressor(&self, window_bits: u8) -> CompressorSettings {
        let level = if self.compresses_own_messages_on_send() { 1 } else { USUAL_LEVEL };
        CompressorSettings { level, window_bits, memory_level: self.deflate_memory_level }
    }

    /// Returns the load with defaults for what does not matter in it: a closed loop has no arrival,
    /// an open loop no pipeline, and timeouts change no successful run. Results compare where this
    /// is equal.
    pub(crate) fn canonical(&self) -> Self {
        let usual = Self::default();
        let load = Self {
            connect_timeout: usual.connect_timeout,
            answer_timeout: usual.answer_timeout,
            ..self.clone()
        };
        match load.is_open_loop() {
            true => Self { pipeline: usual.pipeline, ..load },
            false => {
                Self { arrival: usual.arrival, max_outstanding: usual.max_outstanding, ..load }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_load_has_the_documented_values() {
        let load = Load::default();
        assert_eq!((load.connections, load.pipeline, load.rate_per_s), (64, 1, None));
        assert_eq!(
            (load.message_bytes.to_string().as_str(), load.payload),
            ("32", Payload::Binary)
        );
        assert!(load.verify && !load.reconnect);
        assert_eq!(
            (load.warmup.as_secs(), load.measure.as_secs(), load.settle.as_millis()),
            (2, 10, 100)
        );
    }

    #[test]
    fn fields_without_effect_keep_no_results_apart() {
        let closed = Load::default();
        let same = Load {
            arrival: "poisson".parse().expect("an arrival"),
            max_outstanding: 9,
            answer_timeout: Duration::from_secs(30),
            ..closed.clone()
        };
        assert_eq!(same.canonical(), closed.canonical());
        let open = |pipeline| Load { rate_per_s: Some(5e3), pipeline, ..closed.clone() };
        assert_eq!(open(1).canonical(), open(16).canonical());
        assert_ne!(open(1).canonical(), closed.canonical());
        let later: Load = serde_json::from_value(serde_json::json!({ "of_a_later_build": true }))
            .expect("a load");
        assert_ne!(later.canonical(), closed.canonical());
    }

    #[test]
    fn load_without_compression_is_stored_as_before() {
        let json = serde_json::to_value(Load::default()).expect("JSON");
        assert!(
            json.as_object().is_some_and(|load| load.keys().all(|key| !key.contains("deflate")))
        );
        let deflated = Load { deflate: Deflate::On, deflate_window_bits: 9, ..Load::default() };
        let json = serde_json::to_value(&deflated).expect("JSON");
        assert_eq!((&json["deflate"], &json["deflate_window_bits"]), (&"on".into(), &9.into()));
        assert_eq!(serde_json::from_value::<Load>(json).expect("a load"), deflated);
        assert_ne!(deflated.canonical(), Load::default().canonical());
    }

    #[test]
    fn load_without_own_messages_is_stored_as_before() {
        let json = serde_json::to_value(Load::default()).expect("JSON");
        for key in [
            "payload_file",
            "payload_lines",
            "payload_order",
            "template",
            "match",
            "skip_first",
            "first_message",
            "expect_first",
        ] {
            assert!(json.get(key).is_none(), "{key}");
        }
        let own = Load {
            payload_order: PayloadOrder::Random,
            template: true,
            matching: "id:id".parse().expect("a rule"),
            skip_first: 1,
            first_message: Some("in".into()),
            ..Load::default()
        };
        let json = serde_json::to_value(&own).expect("JSON");
        assert_eq!(
            (&json["match"], &json["payload_order"], &json["first_message"]["bytes"]),
            (&"id:id".into(), &"random".into(), &2.into())
        );
        assert_ne!(own.canonical(), Load::default().canonical());
    }

    #[test]
    fn stored_load_is_read_back() {
        let load = Load {
            message_bytes: "64:9,4096:1".parse().expect("sizes"),
            arrival: "burst:16".parse().expect("an arrival"),
            rate_per_s: Some(50e3),
            lifetime: Some(Duration::from_millis(1500)),
            mask: Mask::Fixed,
            verify: false,
            ..Load::default()
        };
        let json = serde_json::to_value(&load).expect("JSON");
        assert_eq!(
            (json["message_bytes"].as_str(), json["lifetime_ns"].as_u64()),
            (Some("64:9,4096:1"), Some(1_500_000_000))
        );
        assert_eq!(serde_json::from_value::<Load>(json).expect("a load"), load);
        let few = serde_json::json!({ "connections": 8, "measure_ns": "3s" });
        let few: Load = serde_json::from_value(few).expect("a load");
        assert_eq!(
            few,
            Load { connections: 8, measure: Duration::from_secs(3), ..Load::default() }
        );
    }
}
