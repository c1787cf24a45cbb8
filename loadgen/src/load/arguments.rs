//! The flags of a load on a command line, on top of a scenario.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

use super::value::rate;
use super::{Catalogue, LOAD, Load, MESSAGES, Payload};

/// Longest window of a run that ends by the number of its messages, unless -d says otherwise.
const LONGEST: Duration = Duration::from_secs(3600);

/// A load from a command line: that of `--scenario`, or the default, changed by the typed flags.
#[derive(Clone, Debug)]
pub(crate) struct LoadArguments {
    pub(crate) load: Load,
    pub(crate) scenario: Option<String>,
    /// Ids of the flags that were typed.
    typed: Vec<String>,
}

/// Flags that are not fields of a load, but set fields.
#[derive(Debug, Args)]
struct Shorthands {
    /// A load of the catalogue by its name (`sparring-loadgen scenarios`); other flags change it.
    #[arg(long, value_name = "NAME", help_heading = LOAD)]
    scenario: Option<String>,

    /// A file with more scenarios, as `sparring-loadgen scenarios --help` describes.
    #[arg(long, value_name = "FILE", help_heading = LOAD)]
    catalogue: Option<PathBuf>,

    /// Open loop: messages a second on each connection.
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with_all = ["rate_per_s", "stages"],
          help_heading = LOAD)]
    rate_per_connection: Option<f64>,

    /// Text messages (see --text-kind).
    #[arg(long, conflicts_with = "binary", help_heading = MESSAGES)]
    text: bool,

    /// Binary messages of seeded random bytes (the default).
    #[arg(long, help_heading = MESSAGES)]
    binary: bool,

    /// Content of text messages: Latin, Cyrillic, CJK and emoji, ASCII alone, or JSON records.
    /// Implies --text.
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(["mixed", "ascii", "json"]).map(text_kind),
          conflicts_with_all = ["binary", "payload_file", "payload_lines"], help_heading = MESSAGES)]
    text_kind: Option<Payload>,
}

fn text_kind(name: String) -> Payload {
    match name.as_str() {
        "ascii" => Payload::TextAscii,
        "json" => Payload::TextJson,
        _ => Payload::TextMixed,
    }
}

impl Shorthands {
    /// Returns the named scenario, if there is one, and the load that the flags change.
    fn preset(&self) -> anyhow::Result<(Option<String>, Load)> {
        let catalogue = Catalogue::with(self.catalogue.as_deref())?;
        let Some(name) = &self.scenario else { return Ok((None, Load::default())) };
        let scenario = catalogue.find(name)?;
        Ok((Some(scenario.name.clone()), scenario.load.clone()))
    }

    fn payload(&self) -> Option<Payload> {
        let text = self.text_kind.or(self.text.then_some(Payload::TextMixed));
        text.or(self.binary.then_some(Payload::Binary))
    }
}

impl LoadArguments {
    /// Returns the first typed flag that only an open loop has.
    pub(crate) fn of_open_loop(&self) -> Option<&'static str> {
        let flags = [("arrival", "--arrival"), ("max_outstanding", "--max-outstanding")];
        flags.into_iter().find(|(id, _)| self.is_typed(id)).map(|(_, flag)| flag)
    }

    pub(crate) fn has_scenarios_rate(&self) -> bool {
        let is_typed = self.is_typed("rate_per_s") || self.is_typed("rate_per_connection");
        self.load.rate_per_s.is_some() && self.scenario.is_some() && !is_typed
    }

    /// Makes typed stages replace the rate of a scenario, and a typed rate its stages. The measured
    /// time is that of the stages.
    fn replace_rate(&mut self) {
        if self.is_typed("stages") {
            (self.load.rate_per_s, self.load.messages) = (None, None);
        } else if self.is_typed("rate_per_s") || self.is_typed("rate_per_connection") {
            self.load.stages = None;
        }
        if let Some(stages) = &self.load.stages
            && !self.is_typed("measure")
        {
            self.load.measure = stages.total();
        }
    }

    /// Applies the defaults of a run that ends by the number of its messages.
    fn limit_messages(&mut self) {
        let usual = Load::default();
        if self.load.messages.is_none() {
            return;
        }
        if !self.is_typed("measure") && self.load.measure == usual.measure {
            self.load.measure = LONGEST;
        }
        if !self.is_typed("warmup") && self.load.warmup == usual.warmup {
            self.load.warmup = Duration::ZERO;
        }
    }

    /// Takes the messages that were typed in place of the scenario's.
    fn choose_messages(&mut self) -> anyhow::Result<()> {
        if self.is_typed("payload_file") {
            self.load.payload_lines = None;
        } else if self.is_typed("payload_lines") {
            self.load.payload_file = None;
        } else if self.is_typed("message_bytes") && self.load.has_own_messages() {
            bail!("-s and the scenario's own messages do not go together: these have their sizes");
        }
        self.load.take_sizes();
        Ok(())
    }

    fn is_typed(&self, id: &str) -> bool {
        self.typed.iter().any(|typed| typed == id)
    }
}

impl Args for LoadArguments {
    fn augment_args(command: Command) -> Command {
        Shorthands::augment_args(Load::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LoadArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let shorthands = Shorthands::from_arg_matches(matches)?;
        let refused = |error| Error::raw(ErrorKind::ValueValidation, format!("{error:#}"));
        let (scenario, mut load) = shorthands.preset().map_err(refused)?;
        let mut typed = matches.clone();
        let flags = Load::augment_args(Command::new("load"));
        let (mut ids, mut defaults) = (Vec::new(), Vec::new());
        for id in flags.get_arguments().map(|flag| flag.get_id().as_str()) {
            let is_typed = matches.value_source(id) == Some(ValueSource::CommandLine);
            if is_typed { &mut ids } else { &mut defaults }.push(id.to_owned());
        }
        // A default must not replace a value of the scenario.
        for id in &defaults {
            typed.try_clear_id(id).map_err(|error| Error::raw(ErrorKind::InvalidValue, error))?;
        }
        load.update_from_arg_matches(&typed)?;
        if let Some(each) = shorthands.rate_per_connection {
            load.rate_per_s = Some(each * f64::from(load.connections));
            ids.push("rate_per_connection".to_owned());
        }
        load.payload = shorthands.payload().unwrap_or(load.payload);
        let mut arguments = Self { load, scenario, typed: ids };
        arguments.replace_rate();
        arguments.limit_messages();
        arguments.choose_messages().map_err(refused)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Deflate, Mask, PayloadOrder, Sizes, TlsVersion};

    fn parse(line: &str) -> Result<LoadArguments, String> {
        let command = LoadArguments::augment_args(Command::new("load").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_ascii_whitespace());
        matches.and_then(|m| LoadArguments::from_arg_matches(&m)).map_err(|error| error.to_string())
    }

    fn load(line: &str) -> Load {
        parse(line).expect(line).load
    }

    #[test]
    fn no_flag_changes_nothing() {
        assert_eq!(load(""), Load::default());
    }

    #[test]
    fn flags_change_a_scenario() {
        let preset = load("--scenario echo-ws-pipeline");
        assert_eq!(
            (preset.connections, preset.pipeline, preset.message_bytes.largest()),
            (512, 16, 5)
        );
        assert_eq!(
            load("--scenario echo-ws-pipeline -c 9"),
            Load { connections: 9, ..preset.clone() }
        );
        let changed = Load { verify: false, payload: Payload::Binary, ..preset };
        assert_eq!(load("--scenario echo-ws-pipeline --no-verify --binary"), changed);
        // A flag that repeats the default changes a scenario, too.
        assert_eq!(load("--scenario pipeline --pipeline 1").pipeline, 1);
    }

    #[test]
    fn limited_messages_have_other_defaults() {
        let times = |line| {
            let load = load(line);
            (load.warmup.as_secs(), load.measure.as_secs())
        };
        assert_eq!(times("-n 5"), (0, 3600));
        assert_eq!(times("-n 5 -d 3s -w 2s"), (2, 3));
    }

    #[test]
    fn a_typed_rate_is_not_the_scenarios() {
        let has = |line| parse(line).expect("flags").has_scenarios_rate();
        assert!(has("--scenario rate-20k") && has("--scenario rate-20k -c 9"));
        for line in [
            "-R 5k",
            "--scenario echo",
            "--scenario rate-20k -R 5k",
            "--scenario rate-20k --rate-per-connection 5",
        ] {
            assert!(!has(line), "{line}");
        }
    }

    #[test]
    fn former_names_become_present_ones() {
        let name = |line| parse(line).expect("a scenario").scenario;
        assert_eq!(name("--scenario echo-ws-pipe").as_deref(), Some("echo-ws-pipeline"));
        assert_eq!(name(""), None);
    }

    #[test]
    fn every_flag_reaches_the_load() {
        let all = load(
            "-c 9 --pipeline 4 -R 50k --arrival burst:8 --max-outstanding 9 -n 1000 -d 3s -w 0 --settle 1ms \
             --payload-size-list 64:9,4096:1 --text-kind ascii --payload-order random --template \
             --match id:a.b --skip-first 2 --first-message hi --expect-first ok --fragments 3 --mask fixed --no-verify \
             --seed 7 --idle 7 --connect-rate 10k --ping-interval 1s --messages-per-connection 10 \
             --channel-lifetime 5s --reconnect --connect-timeout 2s --timeout 1s --deflate takeover \
             --deflate-window-bits 12 --deflate-memory-level 3 --tls-min 1.2 --tls-max 1.3 --tls-resume 90%",
        );
        let expected = Load {
            transport: all.transport,
            connections: 9,
            pipeline: 4,
            rate_per_s: Some(50e3),
            stages: None,
            arrival: "burst:8".parse().expect("an arrival"),
            max_outstanding: 9,
            messages: Some(1000),
            measure: Duration::from_secs(3),
            warmup: Duration::ZERO,
            settle: Duration::from_millis(1),
            message_bytes: "64:9,4096:1".parse().expect("sizes"),
            payload: Payload::TextAscii,
            payload_file: None,
            payload_lines: None,
            payload_order: PayloadOrder::Random,
            template: true,
            matching: "id:a.b".parse().expect("a rule"),
            fragments: 3,
            mask: Mask::Fixed,
            verify: false,
            seed: 7,
            idle: 7,
            connect_rate: Some(10e3),
            ping_interval: Some(Duration::from_secs(1)),
            messages_per_connection: Some(10),
            lifetime: Some(Duration::from_secs(5)),
            reconnect: true,
            skip_first: 2,
            first_message: Some("hi".into()),
            expect_first: Some("ok".into()),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(1),
            deflate: Deflate::Takeover,
            deflate_window_bits: 12,
            deflate_memory_level: 3,
            tls_min: Some(TlsVersion::Tls12),
            tls_max: Some(TlsVersion::Tls13),
            tls_resume_percent: 90,
            unknown: Default::default(),
        };
        assert_eq!(all, expected);
        assert_eq!(load("-c 8 --rate-per-connection 200/100ms").rate_per_s, Some(16e3));
        assert_eq!(load("-s 1KiB").message_bytes, Sizes::from(1024));
    }

    #[test]
    fn files_of_messages_reach_the_load() {
        let path = std::env::temp_dir().join(format!("sparring-flags-{}", std::process::id()));
        std::fs::write(&path, "one\nthree\n").expect("a temporary file");
        let path = path.to_str().expect("UTF-8");
        let one = load(&format!("--payload-file {path} --text"));
        assert_eq!((one.message_bytes.largest(), one.payload), (10, Payload::TextMixed));
        let lines = load(&format!("--payload-lines {path}"));
        assert_eq!((lines.message_bytes.largest(), lines.payload), (4, Payload::Binary));
        for (line, named) in [
            (format!("--payload-file {path} -s 5"), "--size"),
            (format!("--payload-file {path} --payload-lines {path}"), "--payload-lines"),
            (format!("--payload-lines {path} --text-kind json"), "--text-kind"),
            ("--payload-file /dev/null".to_owned(), "it is empty"),
            ("--payload-lines /no/such/file".to_owned(), "cannot open it"),
        ] {
            let error = parse(&line).expect_err(&line);
            assert!(error.contains(named) && error.contains("--payload"), "{error}");
        }
        std::fs::remove_file(path).expect("own file");
    }

    #[test]
    fn stages_set_the_measured_time_and_replace_a_rate() {
        let staged = load("--scenario rate-20k --stages 10k:30s,50k:10s");
        assert_eq!((staged.rate_per_s, staged.measure), (None, Duration::from_secs(40)));
        let stages = staged.stages.expect("stages");
        assert_eq!(stages.to_string(), "10k:30s,50k:10s");
        for flags in ["-R 5k", "-d 5s", "-n 9", "--rate-per-connection 5"] {
            let error = parse(&format!("--stages 10k:1s {flags}")).expect_err(flags);
            assert!(error.contains("--stages") && error.contains("cannot be used"), "{error}");
        }
        let error = parse("--stages 10k:-1s").expect_err("backwards");
        assert!(error.contains("--stages") && error.contains("as in 10k:30s"), "{error}");
    }

    #[test]
    fn kinds_of_payload() {
        assert_eq!(load("--binary").payload, Payload::Binary);
        assert_eq!(load("--text").payload, Payload::TextMixed);
        assert_eq!(load("--text --text-kind ascii").payload, Payload::TextAscii);
        assert_eq!(load("--text-kind json").payload, Payload::TextJson);
        assert!(parse("--text --binary").is_err_and(|error| error.contains("--binary")));
    }

    #[test]
    fn unknown_scenario_is_refused_with_the_nearest() {
        let error = parse("--scenario pipline").expect_err("unknown");
        assert!(error.contains("did you mean `pipeline`"), "{error}");
    }
}
