//! All stored sessions as a static site: an index, a page for each session and for each machine.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{file_name, history_chart, layout, page};
use crate::compare::Conclusion;
use crate::compare::history::History;
use crate::format::{commit, count, tone};
use crate::host::machine::Machine;
use crate::report::text::list::kind;
use crate::report::text::sessions::machine as facts;
use crate::result::{Document, Stored};

/// A session with the conclusion about its sides, where it has two.
pub(crate) struct SiteSession {
    pub(crate) stored: Stored,
    pub(crate) conclusion: Option<Conclusion>,
}

/// Everything that a site shows.
pub(crate) struct Site {
    /// Oldest first.
    pub(crate) sessions: Vec<SiteSession>,
    /// Figures over commits, by the machine's id.
    pub(crate) histories: BTreeMap<String, Vec<History>>,
}

/// Returns the files of a site: paths below its folder, and their texts.
pub(crate) fn site(site: &Site) -> Vec<(String, String)> {
    let mut files = vec![("index.html".to_owned(), index(site).into_string())];
    for id in site.machines().keys() {
        files.push((machine_path(id), machine_page(site, id).into_string()));
    }
    for session in &site.sessions {
        let SiteSession { stored, conclusion } = session;
        let home = html! { a href="../../index.html" { "All sessions" } " · "
        a href={ "../../" (machine_path(&stored.document.machine.id)) } { "Machine" } };
        let page = page(std::slice::from_ref(stored), conclusion.as_ref(), &[], Some(&home));
        files.push((session_path(stored), page.html));
    }
    files
}

impl Site {
    /// Returns the machines by their id, each as its newest session describes it.
    fn machines(&self) -> BTreeMap<&str, &Machine> {
        let machines = self.sessions.iter().map(|one| &one.stored.document.machine);
        machines.map(|machine| (machine.id.as_str(), machine)).collect()
    }

    /// Returns the sessions of a machine, newest first.
    fn sessions_of(&self, id: &str) -> Vec<&SiteSession> {
        let of_machine = |one: &&SiteSession| one.stored.document.machine.id == id;
        self.sessions.iter().rev().filter(of_machine).collect()
    }
}

fn machine_path(id: &str) -> String {
    format!("machines/{}.html", file_name(id))
}

fn session_path(stored: &Stored) -> String {
    let name = stored.file_name();
    let stem = name.strip_suffix(".json").unwrap_or(&name);
    format!("sessions/{}/{}.html", file_name(&stored.document.machine.id), file_name(stem))
}

fn index(site: &Site) -> Markup {
    let machines = site.machines();
    let body = html! {
        div.verdict {
            h1 { "Measured sessions" }
            p { (count(site.sessions.len() as u64, "session")) " on " (count(machines.len() as u64, "machine")) }
        }
        @for (id, machine) in &machines {
            h2 { a href=(machine_path(id)) { "Machine " (id) } }
            p.soft { (machine.cpu) ", " (count(machine.cores.into(), "core")) }
            (table(&site.sessions_of(id), ""))
        }
    };
    layout("Measured sessions", None, &body)
}

fn machine_page(site: &Site, id: &str) -> Markup {
    let title = format!("Machine {id}");
    let sessions = site.sessions_of(id);
    let histories = site.histories.get(id).map_or(&[][..], Vec::as_slice);
    let home = html! { a href="../index.html" { "All sessions" } };
    let mut scenarios: Vec<&str> = histories.iter().map(|one| one.scenario.as_str()).collect();
    scenarios.dedup();
    let body = html! {
        div.verdict {
            h1 { (title) }
            @if let Some(machine) = site.machines().get(id) { p { (facts(machine)) } }
        }
        @if !histories.is_empty() {
            h2 { "Over the commits" }
            p.soft {
                "Each dot is a session, its figure the median of its valid runs. A dashed line is a change point; "
                "it may be the machine's, until the commits on both sides are compared."
            }
            @for scenario in scenarios {
                h3 { (scenario) }
                div.charts {
                    @for history in histories.iter().filter(|one| one.scenario == scenario) {
                        (history_chart(history).inline())
                    }
                }
            }
        }
        h2 { "Sessions" }
        (table(&sessions, "../"))
    };
    layout(&title, Some(&home), &body)
}

/// Returns the commits of a session's servers, each once.
fn commits_of(document: &Document) -> String {
    let mut commits: Vec<&str> = Vec::new();
    for one in document.commits().map(|one| commit(Some(one))) {
        if !commits.contains(&one) {
            commits.push(one);
        }
    }
    commits.join("..")
}

/// The sessions as a table with links, from a page from which `up` leads to the site's folder.
fn table(sessions: &[&SiteSession], up: &str) -> Markup {
    let verdict = |session: &SiteSession| {
        let overall = session.conclusion.as_ref().and_then(|one| one.overall);
        overall.map_or("", crate::compare::Verdict::name)
    };
    let class = |word: &str| tone(word).map(|tone| format!("{tone:?}").to_lowercase());
    html! {
        div.scroll {
            table {
                tr { th { "measured" } th { "kind" } th { "verdict" } th { "commit" } th { "tag" } th.n { "runs" } }
                @for session in sessions {
                    @let document = &session.stored.document;
                    tr {
                        td { a href={ (up) (session_path(&session.stored)) } {
                            (document.session.start.to_string().chars().take(16).collect::<String>().replace('T', " "))
                        } }
                        td { (kind(document)) }
                        td class=[class(verdict(session))] { (verdict(session)) }
                        td { (commits_of(document)) }
                        td { (document.session.tag.as_deref().unwrap_or("")) }
                        td.n { (document.runs.len()) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::compare::Metric;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;
    use crate::result::{Utc, example};

    fn stored(number: u64, mut document: Document) -> Stored {
        document.session.start = Utc::from_unix_ms(1_800_000_000_000 + number * 1000);
        document.subject.commit = Some(format!("{number:012x}"));
        let path = format!("r/{}/2026030{number}T093000Z-<x>.json", document.machine.id).into();
        Stored { path, document }
    }

    fn example() -> Site {
        let mut other = example::document();
        other.machine.id = "ffffffffffff".to_owned();
        other.session.tag = Some("<script>alert(1)</script>".to_owned());
        let documents = [example::document(), example::document(), duel(10, 1.1), other];
        let found: Vec<Stored> =
            (1..).zip(documents).map(|(number, document)| stored(number, document)).collect();
        let log: Vec<(String, String)> = found
            .iter()
            .map(|one| (one.document.subject.commit.clone().expect("set"), String::new()))
            .collect();
        let mut history = History::of("echo", Metric::Throughput, &log, &found[..3]);
        history.find_changes();
        let sessions = found.into_iter().map(|stored| {
            let is_duel = stored.document.arms.len() == 2;
            let conclusion =
                is_duel.then(|| Conclusion::of_arms(&stored.document, &default_thresholds));
            SiteSession { stored, conclusion }
        });
        let histories = BTreeMap::from([("0123456789ab".to_owned(), vec![history])]);
        Site { sessions: sessions.collect(), histories }
    }

    /// Returns the file that a link of the file at `path` leads to.
    fn target(path: &str, link: &str) -> String {
        let mut folders: Vec<&str> = path.split('/').collect();
        folders.pop();
        for part in link.split('/') {
            if part == ".." {
                let _ = folders.pop();
            } else {
                folders.push(part);
            }
        }
        folders.join("/")
    }

    #[test]
    fn every_page_is_reached_from_the_index_and_every_link_leads_to_one() {
        let files: BTreeMap<String, String> = site(&example()).into_iter().collect();
        assert_eq!(files.len(), 1 + 2 + 4);
        let (mut reached, mut open) = (BTreeSet::new(), vec!["index.html".to_owned()]);
        while let Some(path) = open.pop() {
            let page = files.get(&path).unwrap_or_else(|| panic!("no {path}"));
            if reached.insert(path.clone()) {
                let links = page.split("href=\"").skip(1);
                let links = links.filter_map(|rest| rest.split_once('"'));
                open.extend(links.map(|(link, _)| target(&path, link)));
            }
        }
        assert_eq!(reached.len(), files.len());
    }

    #[test]
    fn pages_need_no_network_and_escape_what_is_stored() {
        for (path, page) in site(&example()) {
            let page = page.replace("http://www.w3.org/2000/svg", "");
            for outside in ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "<x>"]
            {
                assert!(!page.contains(outside), "{path}: {outside}");
            }
            assert!(
                page.contains("prefers-color-scheme: dark") && page.contains("width=device-width")
            );
            assert!(!path.contains(['<', '>']), "{path}");
        }
    }

    #[test]
    fn the_index_has_the_newest_session_first_and_a_verdict_in_its_colour() {
        let files = site(&example());
        let index = &files[0].1;
        assert!(index.contains("<td class=\"bad\">regressed</td>"), "{index}");
        let [duel, first] = ["000000000003", "000000000001"].map(|commit| index.find(commit));
        assert!(first.is_none() || duel < first, "{index}");
        assert!(index.contains("4 sessions on 2 machines"), "{index}");
        let machine = files.iter().find(|(path, _)| path == "machines/0123456789ab.html");
        assert!(machine.expect("a page").1.contains("Over the commits"));
    }
}
