//! The conclusion of a comparison, as it is stored.

use serde::{Deserialize, Serialize};

use super::noise::Noise;
use super::sides::{Comparison, default_sides};
use super::verdict::{Judgement, Verdict};
use crate::result::Document;

/// The `verdict` of a stored session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// Names of the sides: the second was compared with the first.
    #[serde(default = "default_sides")]
    pub sides: [String; 2],
    /// The worst of the judged metrics; `null` where none was judged.
    #[serde(default)]
    pub overall: Option<Verdict>,
    /// True where the runs of both sides alternated.
    #[serde(default)]
    pub interleaved: bool,
    /// Each metric.
    #[serde(default)]
    pub judgements: Vec<Judgement>,
    /// Differences between identical servers on the machine, in a session that recorded them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Noise>,
    /// Notes to the reader, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Conclusion {
    /// Returns the conclusion of a comparison.
    #[must_use]
    pub fn of(comparison: &Comparison) -> Self {
        Self {
            sides: comparison.sides.clone(),
            overall: comparison.overall(),
            interleaved: comparison.interleaved,
            judgements: comparison.judgements.clone(),
            noise: Vec::new(),
            notes: comparison.left_out.clone(),
        }
    }

    /// Returns the conclusion of a stored session; `None` where it has no verdict of a comparison,
    /// or one that this program cannot read.
    #[must_use]
    pub fn stored(document: &Document) -> Option<Self> {
        let conclusion: Self = serde_json::from_value(document.verdict.clone()?).ok()?;
        (!conclusion.judgements.is_empty()).then_some(conclusion)
    }

    /// Returns the comparison it came from.
    #[must_use]
    pub fn comparison(&self) -> Comparison {
        Comparison {
            sides: self.sides.clone(),
            interleaved: self.interleaved,
            judgements: self.judgements.clone(),
            left_out: self.notes.clone(),
        }
    }

    /// Returns the conclusion of recorded noise.
    #[must_use]
    pub fn of_noise(noise: Vec<Noise>) -> Self {
        Self { sides: default_sides(), interleaved: true, noise, ..Self::default() }
    }

    /// Returns the value that a document has.
    #[must_use]
    pub fn to_json(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::{noise, sides};
    use crate::result::SessionKind;

    /// Against the schema that other programs read.
    fn assert_valid(document: &crate::result::Document) {
        let schema = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
        let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
        let json = serde_json::to_value(document).expect("JSON");
        jsonschema::validate(&schema, &json).expect("the document follows the schema");
    }

    #[test]
    fn a_judged_duel_follows_the_schema_and_reads_back_equal() {
        for (pairs, factor) in [(10, 1.06), (3, 1.0)] {
            let mut document = duel(pairs, factor);
            let conclusion = Conclusion::of(&Comparison::of_arms(&document, &sides::default_thresholds));
            document.verdict = conclusion.to_json();
            assert_valid(&document);
            let back = serde_json::from_value(document.verdict.expect("there")).expect("readable");
            assert_eq!(conclusion, back);
        }
    }

    #[test]
    fn recorded_noise_follows_the_schema() {
        let mut document = duel(10, 1.0);
        document.session.kind = SessionKind::Aa;
        document.verdict = Conclusion::of_noise(noise::of_session(&document, 10)).to_json();
        assert_valid(&document);
    }
}
