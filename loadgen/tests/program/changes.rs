//! Results across commits in a git repository of their own: change points, their confirmation, a
//! bisection, and the site. A script in the place of scripts/ab.sh stores recorded duels.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::documents::root;
use super::{Scratch, loadgen, output, text};

const COMMITS: usize = 20;
/// The first commit whose server takes 5 % more.
const SLOWER: usize = 13;

/// The place of scripts/ab.sh: stores the duel that was recorded for the second commit.
const AB: &str = r#"#!/bin/bash
set -eu
a=$1 b=$2 results=
while [ $# -gt 0 ]; do
    [ "$1" != --results ] || results=$2
    shift
done
echo "a table"
[ -e "duels/$b.json" ] || exit "${NO_DUEL:-1}"
mkdir -p "$results/machine"
n=$(find "$results/machine" -name '2030*' | wc -l)
sed -e "s/@A@/$a/; s/@B@/$b/g; s/@START@/$(printf '2030-01-01T00:%02d:%02d.000Z' $((n / 60)) $((n % 60)))/" \
    "duels/$b.json" >"$results/machine/$(printf '2030%04d' "$n").json"
"#;

struct Repository {
    scratch: Scratch,
    commits: Vec<String>,
}

impl Repository {
    /// Returns a repository of commits that each change the server; `None` without git.
    fn new(name: &str) -> Option<Self> {
        let repository = Self { scratch: Scratch::new(name), commits: Vec::new() };
        if !Command::new("git").arg("--version").output().is_ok_and(|git| git.status.success()) {
            println!("skipped: no git");
            return None;
        }
        repository.git(&["init", "--quiet"]);
        for folder in ["scripts", "server", "duels", "results"] {
            fs::create_dir(repository.scratch.0.join(folder)).expect("a folder");
        }
        let ab = repository.scratch.0.join("scripts/ab.sh");
        fs::write(&ab, AB).expect("written");
        fs::set_permissions(&ab, fs::Permissions::from_mode(0o755)).expect("executable");
        fs::copy(root().join("scripts/bisect.sh"), repository.scratch.0.join("scripts/bisect.sh"))
            .expect("the script");
        let commits = (0..COMMITS).map(|number| repository.commit(number)).collect();
        Some(Self { commits, ..repository })
    }

    fn git(&self, words: &[&str]) -> String {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let output = Command::new("git")
            .args(identity)
            .args(words)
            .current_dir(&self.scratch.0)
            .output()
            .expect("git");
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    fn commit(&self, number: usize) -> String {
        fs::write(self.scratch.0.join("server/a.rs"), number.to_string()).expect("written");
        self.git(&["add", "server"]);
        self.git(&["commit", "--quiet", "-m", &format!("Do {number}")]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn run(&self, mut command: Command) -> Output {
        command.current_dir(&self.scratch.0).output().expect("it runs")
    }

    fn history(&self, more: &[&str]) -> Output {
        let words = ["history", "echo", "server-cpu", "--results", "results"];
        let mut command = loadgen(&[&words, more].concat());
        command.env("COLUMNS", "240");
        self.run(command)
    }

    /// Writes the recorded duel of GOOD with each commit from `slower` on 5 % slower.
    fn record_duels(&self, slower: usize) {
        for (number, commit) in self.commits.iter().enumerate() {
            let factor = if number >= slower { 1.05 } else { 1.0 };
            let duel = duel(factor, number).to_string();
            fs::write(self.scratch.0.join(format!("duels/{commit}.json")), duel).expect("written");
        }
    }
}

/// Returns the recorded pairs of a server against itself.
fn recorded() -> Vec<Value> {
    let path = root().join("bench-results/2cb6ad84d164/proof/pairs.jsonl");
    let recording = fs::read_to_string(path).expect("the recording");
    let sessions = recording.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    sessions.filter(|one: &Value| one["session"]["tag"] == "same").collect()
}

/// Returns a duel of eight recorded pairs whose second server takes `factor` times the time.
fn duel(factor: f64, first: usize) -> Value {
    let all = recorded();
    let mut duel = all[0].clone();
    let mut runs = Vec::new();
    for number in 0..4 {
        for run in all[(first + number) % all.len()]["runs"].as_array().expect("runs") {
            let mut run = run.clone();
            run["pair"] = json!(2 * number as u64 + run["pair"].as_u64().expect("a pair"));
            (run["valid"], run["interrupted"]) = (json!(true), json!(false));
            let cpu = run["server"]["cpu_ns_per_message"].as_f64().expect("known");
            if run["arm"] == "B" {
                run["server"]["cpu_ns_per_message"] = json!(cpu * factor);
            }
            runs.push(run);
        }
    }
    duel["runs"] = json!(runs);
    for (arm, commit) in ["@A@", "@B@"].into_iter().enumerate() {
        duel["arms"][arm]["subject"]["commit"] = json!(commit);
    }
    duel["subject"]["commit"] = json!("@B@");
    duel["session"]["start"] = json!("@START@");
    let interval = [factor * 0.995, factor * 1.005];
    duel["verdict"] = json!({
        "sides": ["A", "B"], "overall": "unchanged", "interleaved": true, "notes": [],
        "judgements": [{
            "scenario": "echo", "metric": "server_cpu", "a": 1.0, "b": factor, "ratio": factor,
            "interval": interval, "pairs": 8, "p": 0.5, "p_adjusted": 0.5,
            "threshold": { "relative": 0.02, "source": "default" }, "verdict": "unchanged",
            "more_pairs": null
        }]
    });
    duel
}

impl Repository {
    /// Stores a session of each commit on this machine. From `SLOWER` on the server takes 5 % more.
    fn store_sessions(&self) -> String {
        let nothing = text(&self.history(&[]).stderr);
        let machine = nothing.split("on machine ").nth(1).and_then(|rest| rest.split(' ').next());
        let machine = machine.unwrap_or_else(|| panic!("{nothing}")).to_owned();
        let folder = self.scratch.0.join("results").join(&machine);
        fs::create_dir_all(&folder).expect("a folder");
        for (number, commit) in self.commits.iter().enumerate() {
            let mut session = duel(if number >= SLOWER { 1.05 } else { 1.0 }, 2 * number);
            session["machine"]["id"] = json!(machine);
            session["session"]["start"] = json!(format!("2026-03-01T10:{number:02}:00.000Z"));
            session["session"]["kind"] = json!("suite");
            session["session"]["suite"] = json!("quick");
            (session["arms"], session["verdict"]) = (json!([]), Value::Null);
            session["subject"]["commit"] = json!(commit);
            let runs = session["runs"].as_array_mut().expect("runs");
            runs.retain(|run| run["arm"] == "B" && run["scenario"] == "echo");
            for run in runs.iter_mut() {
                run["arm"] = json!("A");
                // Steady: the noise of sessions is not the question here.
                let slower = if number >= SLOWER { 1.05 } else { 1.0 };
                let cpu = 4000.0 * slower * (1.0 + (number * 7 % 5) as f64 / 2000.0);
                run["server"]["cpu_ns_per_message"] = json!(cpu);
            }
            let path = folder.join(format!("20260301T10{number:02}00Z-quick.json"));
            fs::write(path, session.to_string()).expect("written");
        }
        machine
    }
}

#[test]
fn change_points_are_shown_drawn_and_written() {
    let Some(repository) = Repository::new("change-points") else { return };
    repository.store_sessions();
    let shown = repository.history(&["--change-points", "--json", "h.json", "--svg", "h.svg"]);
    let (said, why) = (text(&shown.stdout), text(&shown.stderr));
    assert_eq!(shown.status.code(), Some(0), "{why}");
    assert!(said.contains("change points") && said.contains("Do 13"), "{said}");
    let read = |name: &str| fs::read_to_string(repository.scratch.0.join(name)).expect("written");
    let json: Value = serde_json::from_str(&read("h.json")).expect("JSON");
    let change = &json["change_points"][0];
    assert_eq!(
        (&change["last"], &change["first"], &change["commits"]),
        (&json!(12), &json!(13), &json!(1))
    );
    assert_eq!(json["points"][13]["commit"], json!(repository.commits[13]));
    assert!(read("h.svg").contains("class=\"change\""));
}

#[test]
fn a_change_point_is_confirmed_by_duels_of_its_commits() {
    let Some(repository) = Repository::new("confirm") else { return };
    repository.store_sessions();
    for (slower, cause) in [
        (SLOWER, "code, +5.0 % (4.5 to 5.5)"),
        (COMMITS, "the machine: both commits are equal today, 0.0 % (-0.5 to 0.5)"),
    ] {
        repository.record_duels(slower);
        let shown = repository.history(&["--confirm"]);
        let (said, why) = (text(&shown.stdout), text(&shown.stderr));
        assert_eq!(shown.status.code(), Some(0), "{why}");
        assert!(said.contains(cause), "{said}\n{why}");
        // The output of the duels does not mix with the table.
        assert!(why.contains("a table") && !said.contains("a table"), "{said}");
        // The recorded duels have the scenario of these sessions, and would be points of the next.
        fs::remove_dir_all(repository.scratch.0.join("results/machine")).expect("stored duels");
    }
    fs::remove_file(repository.scratch.file("duels/") + &repository.commits[13] + ".json")
        .expect("it was there");
    let said = text(&repository.history(&["--confirm"]).stdout);
    assert!(said.contains("cannot tell: the duel of "), "{said}");
}

#[test]
fn a_confirmation_that_cannot_be_is_refused() {
    let Some(repository) = Repository::new("refused") else { return };
    for (words, code, part) in [
        (&["history", "echo", "enters", "--confirm"][..], 2, "--confirm cannot judge `enters`"),
        (&["history", "echo", "p50", "--confirm", "--machine", "x"], 2, "leave --machine out"),
        (&["history", "echo", "p50", "--pairs", "9"], 2, "--confirm"),
    ] {
        let refused = repository.run(loadgen(words));
        let why = text(&refused.stderr);
        assert!(refused.status.code() == Some(code) && why.contains(part), "{words:?}: {why}");
    }
    fs::remove_file(repository.scratch.0.join("scripts/ab.sh")).expect("it was there");
    let refused = repository.run(loadgen(&["history", "echo", "p50", "--confirm"]));
    assert!(text(&refused.stderr).contains("start it in a checkout"), "{refused:?}");
}

#[test]
fn the_script_bisects_and_leaves_out_what_does_not_build() {
    let Some(repository) = Repository::new("bisect") else { return };
    repository.record_duels(SLOWER);
    // Commit 9 does not build.
    fs::remove_file(repository.scratch.file("duels/") + &repository.commits[9] + ".json")
        .expect("it was there");
    let script = || {
        let mut script = Command::new("scripts/bisect.sh");
        script.args([&repository.commits[0], "HEAD", "--folder", "state"]);
        script.env("SPARRING_LOADGEN", env!("CARGO_BIN_EXE_sparring-loadgen"));
        repository.run({
            script.env("NO_DUEL", "125");
            script
        })
    };
    let ended = script();
    let (said, why) = (text(&ended.stdout), text(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{said}\n{why}");
    assert!(said.trim_end().ends_with("Do 13"), "{said}");
    assert!(said.contains("probability 0.99") || said.contains("probability 1.0"), "{said}");
    let state = fs::read_to_string(repository.scratch.file("state/state.json")).expect("a state");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    let skipped = state["skipped"].as_array().expect("a list");
    assert!(skipped.iter().all(|commit| *commit == json!(repository.commits[9])), "{skipped:?}");
    // The same command has nothing left to measure.
    let again = script();
    assert!(again.status.success() && text(&again.stdout).contains("continuing"), "{again:?}");
}

#[test]
fn a_bisection_refuses_what_does_not_belong_to_it() {
    let scratch = Scratch::new("bisection");
    let state = scratch.file("state.json");
    let begin = ["bisect", "begin", &state, "aaaaaaa", "bbbbbbb", "ccccccc", "--metric"];
    assert!(output(&[&begin[..], &["server-cpu"]].concat()).status.success());
    assert_eq!(text(&output(&["bisect", "next", &state]).stdout), "measure ccccccc 10\n");
    for (words, code, part) in [
        ([&begin[..], &["server-cpu"]].concat(), 2, "exists"),
        ([&begin[..], &["enters"]].concat(), 2, "a duel judges"),
        ([&begin[..], &["p50", "--confidence", "2"]].concat(), 2, "`2` is not a valid share"),
        (vec!["bisect", "skip", &state, "ddddddd"], 1, "`ddddddd` is not a commit"),
        (vec!["bisect", "skip", &state, "ccccccc"], 1, "cannot be skipped"),
        (vec!["bisect", "next", "/nonexistent"], 1, "cannot read /nonexistent"),
    ] {
        let refused = output(&words);
        let why = text(&refused.stderr);
        assert!(refused.status.code() == Some(code) && why.contains(part), "{words:?}: {why}");
    }
    let duel_of_others = scratch.file("duel.json");
    let duel = duel(1.0, 0).to_string().replace("@START@", "2030-01-01T00:00:00.000Z");
    fs::write(&duel_of_others, duel).expect("written");
    let refused = output(&["bisect", "add", &state, &duel_of_others]);
    assert!(text(&refused.stderr).contains("no duel of GOOD (`aaaaaaa`)"), "{refused:?}");
}

#[test]
fn the_site_has_all_stored_sessions() {
    let Some(repository) = Repository::new("site") else { return };
    let machine = repository.store_sessions();
    let written = repository.run(loadgen(&["report", "--site", "site", "--results", "results"]));
    assert!(written.status.success(), "{written:?}");
    let site = repository.scratch.0.join("site");
    let read = |path: &str| fs::read_to_string(site.join(path)).expect("written");
    assert!(read("index.html").contains(&format!("machines/{machine}.html")));
    let page = read(&format!("machines/{machine}.html"));
    assert!(page.contains("server CPU, us per message") && page.contains("class=\"change\""));
    let sessions = fs::read_dir(site.join("sessions").join(&machine)).expect("a folder").count();
    assert_eq!(sessions, COMMITS);
    let empty = output(&["report", "--site", "s", "--results", &repository.scratch.file("duels")]);
    assert!(empty.status.code() == Some(1) && !Path::new("s").exists(), "{empty:?}");
    let both = output(&["report", "last", "--site", "s"]);
    assert_eq!(both.status.code(), Some(2));
}
