//! Why a run is not valid: kinds for programs, beside the sentences for people.

use serde::{Deserialize, Serialize};

use super::Run;

/// Kind of one of [`Run::invalid_reasons`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InvalidKind {
    /// The generator is a debug build.
    DebugGenerator,
    /// The server is a debug build.
    DebugServer,
    /// Connections were lost.
    LostConnections,
    /// Echoes were not what was sent.
    WrongEchoes,
    /// Messages never came back on connections that stayed open.
    LostMessages,
    /// Messages came that are not echoes of any message.
    Unsolicited,
    /// Messages had no echo when the drain ended.
    Outstanding,
    /// Connections had waited for their echoes for much longer than the percentiles when the window
    /// ended.
    CutTail,
    /// The server's process ended.
    ServerEnded,
    /// The process of the proxy before the server ended.
    ProxyEnded,
    /// The server was started again within the run.
    ServerRestarted,
    /// The server closed all connections.
    AllClosed,
    /// The server stopped answering.
    StoppedAnswering,
    /// The generator's engine failed.
    EngineFailed,
    /// The generator's own counts do not add up.
    Imbalance,
    /// No echo was received in the window.
    NoEcho,
    /// A connection had as many messages outstanding as it may have.
    OutstandingLimit,
    /// Fewer echoes came back than the plan has.
    RateNotKept,
    /// Connections agreed on different compression.
    MixedCompression,
    /// The generator sent late: the latency is its own.
    LateSends,
    /// The generator had no idle time where the server had.
    BusyGenerator,
    /// The clock went backwards.
    Clock,
    /// The machine stood still.
    Standstill,
    /// A shard of the load has no document.
    MissingShard,
    /// A shard of the load has several documents.
    RepeatedShard,
    /// A shard had another load, or is of another number of shards.
    OtherLoad,
    /// The clocks of shards differ.
    ClockSkew,
    /// Shards measured at different times.
    WindowsApart,
    /// A shard was ended before its time.
    InterruptedShard,
    /// One that a later version has added.
    #[serde(other)]
    Unknown,
}

impl InvalidKind {
    /// Returns true if it is the server's doing, where the generator was in time.
    pub(crate) fn is_servers(self) -> bool {
        matches!(
            self,
            Self::LostConnections
                | Self::WrongEchoes
                | Self::LostMessages
                | Self::Unsolicited
                | Self::Outstanding
                | Self::CutTail
                | Self::ServerEnded
                | Self::ProxyEnded
                | Self::ServerRestarted
                | Self::AllClosed
                | Self::StoppedAnswering
                | Self::NoEcho
                | Self::OutstandingLimit
                | Self::RateNotKept
                | Self::MixedCompression
        )
    }

    /// Returns true if it holds for every run of these programs, whatever the load.
    pub fn is_of_the_build(self) -> bool {
        matches!(self, Self::DebugGenerator | Self::DebugServer)
    }
}

impl Run {
    /// Says that the figures may not be compared with others, and why: a sentence for people.
    pub(crate) fn invalidate(&mut self, kind: InvalidKind, reason: impl Into<String>) {
        self.valid = false;
        // In a document of an earlier version the kinds of the reasons before this one are not
        // known.
        self.invalid_kinds.resize(self.invalid_reasons.len(), InvalidKind::Unknown);
        self.invalid_kinds.push(kind);
        self.invalid_reasons.push(reason.into());
    }

    /// Returns the reasons why the run is not valid, each with its kind.
    pub fn invalid(&self) -> impl Iterator<Item = (InvalidKind, &str)> {
        let kinds =
            self.invalid_kinds.iter().copied().chain(std::iter::repeat(InvalidKind::Unknown));
        kinds.zip(self.invalid_reasons.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn kinds_stand_beside_their_sentences() {
        let mut run = example::document().runs.remove(0);
        run.invalid_reasons = vec!["as an earlier version said it".to_owned()];
        run.invalidate(InvalidKind::LateSends, "the generator sent late");
        assert!(!run.valid);
        assert_eq!(
            run.invalid().collect::<Vec<_>>(),
            [
                (InvalidKind::Unknown, "as an earlier version said it"),
                (InvalidKind::LateSends, "the generator sent late")
            ]
        );
    }

    #[test]
    fn a_kind_of_a_later_version_is_read() {
        let read = |text| serde_json::from_str::<InvalidKind>(text).expect("a kind");
        assert_eq!(read("\"late-sends\""), InvalidKind::LateSends);
        assert_eq!(read("\"solar-flare\""), InvalidKind::Unknown);
    }
}
