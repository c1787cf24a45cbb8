//! The conclusion of a comparison, to be stored and as it was stored.

use super::noise::Noise;
use super::sides::Comparison;
use crate::result::{Conclusion, Document, SessionVerdict, default_sides};

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
    pub fn stored(document: &Document) -> Option<&Self> {
        let Some(SessionVerdict::Comparison(conclusion)) = &document.verdict else { return None };
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::{noise, sides};
    use crate::result::SessionKind;

    /// Against the schema that other programs read.
    fn assert_valid(document: &Document) {
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
            document.verdict = Some(conclusion.into());
            assert_valid(&document);
            let json = serde_json::to_string(&document).expect("JSON");
            assert_eq!(serde_json::from_str::<Document>(&json).expect("readable"), document);
        }
    }

    #[test]
    fn recorded_noise_follows_the_schema() {
        let mut document = duel(10, 1.0);
        document.session.kind = SessionKind::Aa;
        document.verdict = Some(Conclusion::of_noise(noise::of_session(&document, 10)).into());
        assert_valid(&document);
    }
}
