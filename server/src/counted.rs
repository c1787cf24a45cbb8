//! Numbers with their nouns, for messages.

/// Returns the number and the noun, which gets its plural where the number is not 1.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "worker")), ["0 workers", "1 worker", "2 workers"]);
    }
}
