//! Several tests at once.

/// Adjusts p-values so that the chance of *any* false rejection among them stays what it is for one.
///
/// S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979): the smallest is multiplied by
/// their number, the next by one less, and so on; none becomes smaller than the one before. In the order given.
pub(crate) fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (position, &index) in order.iter().enumerate() {
        let hypotheses_left = (p_values.len() - position) as f64;
        least = least.max(p_values[index] * hypotheses_left).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::holm;

    #[test]
    fn the_smallest_is_multiplied_most_and_none_overtakes_another() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        // R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[]), [0.0; 0]);
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
    }
}
