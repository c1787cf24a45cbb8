//! Which processor the server gets and which the generator.

use engine::affinity;

/// One logical CPU for each side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// The server's.
    pub(crate) server: usize,
    /// The generator's.
    pub(crate) client: usize,
    /// What a reader must know where the two are not on cores of their own.
    pub(crate) mark: Option<String>,
}

impl Places {
    /// The best that this process's affinity allows; `None` where the kernel does not tell it.
    pub(crate) fn here() -> Option<Self> {
        Self::among(&affinity::allowed().ok()?, affinity::siblings)
    }

    /// The best among `cpus`, of which `siblings` tells the ones that share a core.
    fn among(cpus: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Option<Self> {
        let core = |cpu: usize| siblings(cpu).into_iter().chain([cpu]).min().unwrap_or(cpu);
        let mut cores: Vec<usize> = Vec::new();
        for &cpu in cpus {
            if !cores.iter().any(|&seen| core(seen) == core(cpu)) {
                cores.push(cpu);
            }
        }
        // The first core usually takes the interrupts of devices and most of what else runs.
        let cores = if cores.len() > 2 { &cores[1..] } else { &cores[..] };
        match (cores, cpus) {
            ([server, client, ..], _) => Some(Self { server: *server, client: *client, mark: None }),
            (_, [server, client, ..]) => Some(Self {
                server: *server,
                client: *client,
                mark: Some("server and generator shared one physical core (two threads of it).".to_owned()),
            }),
            (_, [only]) => Some(Self {
                server: *only,
                client: *only,
                mark: Some("server and generator shared one CPU.".to_owned()),
            }),
            (_, []) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(cpus: &[usize], siblings: fn(usize) -> Vec<usize>) -> (usize, usize, bool) {
        let places = Places::among(cpus, siblings).expect("there are processors");
        (places.server, places.client, places.mark.is_some())
    }

    #[test]
    fn two_cores_are_one_for_each() {
        assert_eq!(places(&[0, 1], |cpu| vec![cpu]), (0, 1, false));
        // Two cores of two threads each, side by side and half the machine apart.
        assert_eq!(places(&[0, 1, 2, 3], |cpu| vec![cpu & !1, cpu | 1]), (0, 2, false));
        assert_eq!(places(&[0, 1, 2, 3], |cpu| vec![cpu % 2, cpu % 2 + 2]), (0, 1, false));
    }

    #[test]
    fn with_more_cores_the_first_is_left_to_the_interrupts() {
        assert_eq!(places(&[0, 1, 2, 3], |cpu| vec![cpu]), (1, 2, false));
    }

    #[test]
    fn sharing_is_marked() {
        assert_eq!(places(&[4, 5], |_| vec![4, 5]), (4, 5, true));
        assert_eq!(places(&[7], |_| Vec::new()), (7, 7, true));
        assert_eq!(Places::among(&[], |_| Vec::new()), None);
    }

    #[test]
    fn this_machine_has_places() {
        assert!(Places::here().is_some());
    }
}
