//! Ranks of samples with ties.

/// The ranks of `values` in their order, **doubled** so that the mean of tied ranks is a whole number.
///
/// Equal values share the mean of the ranks they take up together (midranks). Values must not be NaN.
pub(super) fn doubled_midranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..].iter().take_while(|&&index| values[index] == values[order[first]]).count();
        // Ranks first + 1 to first + tied, whose mean is half the sum of the outer two.
        for &index in &order[first..first + tied] {
            ranks[index] = 2 * first + tied + 1;
        }
        first += tied;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::doubled_midranks;

    #[test]
    fn tied_values_share_the_mean_of_their_ranks() {
        assert_eq!(doubled_midranks(&[3.0, 1.0, 2.0]), [6, 2, 4]);
        assert_eq!(doubled_midranks(&[1.0, 2.0, 2.0, 3.0]), [2, 5, 5, 8]);
        assert_eq!(doubled_midranks(&[0.0, -0.0, 1.0]), [3, 3, 6]);
        assert_eq!(doubled_midranks(&[]), [0; 0]);
    }
}
