//! The part of a load that this process takes, where several processes share the load.
//!
//! Of connections and messages the process has every `count`-th, from its index on. Its worker
//! threads divide that part in the same way. So the number of a connection over all processes
//! decides its payloads, planned times and source address, and no process needs to know how many
//! threads the others have.

use std::fmt;
use std::str::FromStr;

use super::schedule::Shard;

/// Variables with index and number of a process, from 0: Slurm's, and those of a Kubernetes Indexed
/// Job. Kubernetes has no variable for the number, so that the manifest sets it.
const VARIABLES: [[&str; 2]; 2] =
    [["SLURM_PROCID", "SLURM_NTASKS"], ["JOB_COMPLETION_INDEX", "SPARRING_SHARDS"]];

/// Most processes of a load.
const MOST: u32 = 65_536;

/// One of several processes that share a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessShard {
    /// From 0.
    index: u32,
    count: u32,
}

impl ProcessShard {
    /// The only process of a load.
    pub(crate) const WHOLE: Self = Self { index: 0, count: 1 };

    /// Returns the shard of this number, from 1; `None` where there is none.
    pub fn new(number: u32, count: u32) -> Option<Self> {
        (count <= MOST && (1..=count).contains(&number)).then(|| Self { index: number - 1, count })
    }

    /// Returns its number, from 1.
    pub fn number(self) -> u32 {
        self.index + 1
    }

    /// Returns the number of all shards.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Returns the shard that the environment names.
    pub(crate) fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let Some(names) = VARIABLES.into_iter().find(|names| variable(names[0]).is_some()) else {
            let [slurm, job] = VARIABLES.map(|names| names.join(" and "));
            return Err(format!("auto needs {slurm} (srun), or {job} (a Kubernetes Indexed Job)"));
        };
        let read = |name: &str| {
            let text = variable(name).ok_or_else(|| format!("auto needs {name} too"))?;
            text.parse::<u32>().map_err(|_| format!("auto: {name} is `{text}`, which is no count"))
        };
        let [index, count] = [read(names[0])?, read(names[1])?];
        Self::new(index.saturating_add(1), count).ok_or_else(|| {
            let [first, second] = names;
            format!("auto: {first} is {index}, which is not below {second}, {count}")
        })
    }

    /// Returns the size of its part of `all`.
    pub(crate) fn part(self, all: u64) -> u64 {
        let (index, count) = (u64::from(self.index), u64::from(self.count));
        all / count + u64::from(index < all % count)
    }

    /// Returns the size of its part of `all` connections.
    pub(crate) fn connections(self, all: u32) -> u32 {
        all / self.count + u32::from(self.index < all % self.count)
    }

    /// Returns the part of one of its `threads` workers, of all `connections`.
    pub(crate) fn worker(self, worker: u32, threads: u32, connections: u32) -> Shard {
        Shard {
            worker: worker * self.count + self.index,
            threads: threads * self.count,
            connections,
        }
    }
}

impl fmt::Display for ProcessShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number(), self.count)
    }
}

impl FromStr for ProcessShard {
    type Err = String;

    /// Reads `2/4`, or `auto` for the shard that the environment names.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Self::from_variables(|name| std::env::var(name).ok());
        }
        let expected = "expected a number from 1 and how many there are, as in 1/4 to 4/4, or auto";
        let (number, count) = text.split_once('/').ok_or(expected)?;
        let (number, count) = (number.parse(), count.parse());
        let (number, count) = number.ok().zip(count.ok()).ok_or(expected)?;
        Self::new(number, count).ok_or_else(|| match (1..=MOST).contains(&count) {
            true => format!("expected 1/{count} to {count}/{count}"),
            false => format!("expected 1 to {MOST} shards"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use engine::{EngineKind, Nanos};

    use super::super::client::Client;
    use super::super::own::tests::lines;
    use super::super::plan::Plan;
    use super::super::schedule::Schedule;
    use super::super::shared::Shared;
    use super::super::template::Place;
    use super::*;
    use crate::load::{Load, PayloadOrder, Transport};

    /// Everything that a process plans, over its threads.
    #[derive(Debug, Default, PartialEq)]
    struct Planned {
        /// Number of each connection, with the address it is made from.
        connections: Vec<(u32, Option<IpAddr>)>,
        /// Planned time, connection and bytes of each message.
        messages: Vec<(u64, u32, Vec<u8>)>,
        /// Messages that may be sent where their number is limited.
        budget: u64,
    }

    impl Planned {
        fn add(&mut self, load: &Load, shard: Option<ProcessShard>, threads: u32) {
            let url = "ws://127.0.0.1:9001/".parse().expect("url");
            let plan = Plan::new(url, EngineKind::Epoll).with(|plan| {
                plan.load = load.clone();
                (plan.placement.shard, plan.placement.threads) = (shard, threads);
                plan.placement.source_ips = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
                    .map(|ip| ip.parse().expect("an address"))
                    .to_vec();
            });
            let to = "127.0.0.1:9001".parse().expect("an address");
            let shared = Arc::new(Shared::new(&plan, vec![vec![to]]).expect("a plan"));
            for worker in 0..threads as usize {
                // Without a limit every thread has the highest number.
                let is_limited = load.ends_with_last_echo();
                self.budget += if is_limited { shared.budget(worker) } else { 0 };
                let part = shared.shard(worker);
                let client = Client::new(shared.clone(), worker, channel().0);
                for link in 0..part.count() + shared.idle_shard(worker).count() {
                    let number = client.number(link);
                    self.connections.push((number, shared.source_ip(&to, number)));
                }
                self.add_messages(&shared, part);
            }
        }

        fn add_messages(&mut self, shared: &Shared, part: Shard) {
            let (load, source) = (&shared.load, shared.rules().source);
            let mut schedule = Schedule::of(load, Nanos(0), part).expect("an open loop");
            let mut sequences = vec![0; part.count() as usize];
            while schedule.due() < Nanos(20_000_000) {
                let (link, number) = (schedule.link(), part.number(schedule.link()));
                let sequence = &mut sequences[link as usize];
                let place = Place { connection: number, sequence: *sequence, time_ns: 0 };
                let bytes = source.message(place, &mut Vec::new()).to_vec();
                self.messages.push((schedule.due().0, number, bytes));
                *sequence += 1;
                schedule.advance();
            }
        }

        fn sorted(mut self) -> Self {
            self.connections.sort_unstable();
            self.messages.sort_unstable();
            self
        }
    }

    /// Checks that the parts of all shards are the whole load, for several numbers of shards.
    fn assert_union(load: &Load) {
        let mut whole = Planned::default();
        whole.add(load, None, 1);
        let whole = whole.sorted();
        assert!(whole.messages.len() > 500 && whole.connections.len() == 48);
        for count in [1, 2, 3, 4, 7] {
            for threads in [1, 2, 4] {
                let mut union = Planned::default();
                for number in 1..=count {
                    union.add(load, ProcessShard::new(number, count), threads);
                }
                let union = union.sorted();
                assert!(union == whole, "{load:?}: {count} shards of {threads} threads");
            }
        }
    }

    #[test]
    fn shards_together_are_the_whole_load() {
        for arrival in ["constant", "poisson", "burst:7"] {
            assert_union(&Load {
                transport: Transport::Ws,
                connections: 31,
                idle: 17,
                rate_per_s: Some(33_333.3),
                arrival: arrival.parse().expect("an arrival"),
                message_bytes: "40:2,16:1,5:1".parse().expect("sizes"),
                messages: Some(1003),
                seed: 9,
                ..Load::default()
            });
        }
    }

    #[test]
    fn shards_send_the_users_own_messages_of_the_whole_load() {
        let content = b"plain\n{connection}/{seq}\n{random:9}\n";
        for payload_order in [PayloadOrder::InTurn, PayloadOrder::Random] {
            assert_union(&Load {
                connections: 31,
                idle: 17,
                rate_per_s: Some(33_333.3),
                payload_order,
                ..lines(content, true)
            });
        }
    }

    #[test]
    fn shards_are_numbered_from_1() {
        let shard: ProcessShard = "4/4".parse().expect("the last");
        assert_eq!((shard.number(), shard.count(), shard.to_string().as_str()), (4, 4, "4/4"));
        for (text, expected) in [
            ("0/4", "expected 1/4 to 4/4"),
            ("5/4", "expected 1/4 to 4/4"),
            ("1/0", "expected 1 to 65536 shards"),
            ("1/65537", "expected 1 to 65536 shards"),
            ("4", "as in 1/4 to 4/4, or auto"),
            ("a/4", "as in 1/4 to 4/4, or auto"),
            ("-1/4", "as in 1/4 to 4/4, or auto"),
        ] {
            let error = text.parse::<ProcessShard>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_environment_names_the_shard() {
        let named = |set: &[(&str, &str)]| {
            ProcessShard::from_variables(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
            .map(|shard| shard.to_string())
        };
        let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        let job = [("JOB_COMPLETION_INDEX", "3"), ("SPARRING_SHARDS", "4")];
        assert_eq!(named(&slurm).as_deref(), Ok("1/4"));
        assert_eq!(named(&job).as_deref(), Ok("4/4"));
        assert_eq!(named(&[slurm, job].concat()).as_deref(), Ok("1/4"));
        let error = |set: &[(&str, &str)]| named(set).expect_err("no shard");
        let none = error(&[]);
        assert!(none.contains("SLURM_PROCID and SLURM_NTASKS (srun)"), "{none}");
        assert!(none.contains("JOB_COMPLETION_INDEX and SPARRING_SHARDS"), "{none}");
        assert_eq!(error(&job[..1]), "auto needs SPARRING_SHARDS too");
        let other = error(&[("SLURM_PROCID", "4"), ("SLURM_NTASKS", "4")]);
        assert_eq!(other, "auto: SLURM_PROCID is 4, which is not below SLURM_NTASKS, 4");
        let other = error(&[("SLURM_PROCID", "x"), ("SLURM_NTASKS", "4")]);
        assert_eq!(other, "auto: SLURM_PROCID is `x`, which is no count");
    }

    #[test]
    fn workers_of_all_shards_divide_the_connections() {
        for count in [1, 2, 3, 4, 7] {
            for connections in [7, 64, 1001] {
                let mut numbers = Vec::new();
                for number in 1..=count {
                    let shard = ProcessShard::new(number, count).expect("a shard");
                    // Each process may have another number of threads.
                    let threads = 1 + number % 3;
                    let parts: Vec<Shard> =
                        (0..threads).map(|w| shard.worker(w, threads, connections)).collect();
                    let own: u32 = parts.iter().map(|part| part.count()).sum();
                    assert_eq!(own, shard.connections(connections));
                    assert_eq!(u64::from(own), shard.part(connections.into()));
                    for part in parts {
                        numbers.extend((0..part.count()).map(|link| part.number(link)));
                    }
                }
                numbers.sort_unstable();
                assert!(numbers.into_iter().eq(0..connections), "{connections} of {count}");
            }
        }
    }
}
