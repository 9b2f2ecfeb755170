//! A table too large for memory is compared in parts, each in a pass over the topics.

/// Rows are put into so many buckets by a hash; a pass takes some of them.
pub(super) const BUCKETS: usize = 1024;

/// What the hash is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Divided {
    /// The Kafka key, so that all rows of a key are in one pass and their order can be judged.
    ByKey,
    /// The id, which spreads evenly whatever the keys are.
    ById,
}

/// A part of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) divided: Divided,
    /// From and to, both included; none for all.
    pub(super) buckets: Option<(usize, usize)>,
}

/// The one pass over all rows.
pub(super) const WHOLE: Pass = Pass { divided: Divided::ByKey, buckets: None };

/// Neighbouring buckets as passes of at most `most` rows each; `None` when a bucket alone has more.
pub(super) fn divide(divided: Divided, counts: &[u64], most: u64) -> Option<Vec<Pass>> {
    let mut passes = Vec::new();
    let (mut from, mut rows) = (0, 0);
    for (bucket, count) in counts.iter().enumerate() {
        if *count > most && divided == Divided::ByKey {
            return None;
        }
        if rows + count > most && bucket > from {
            passes.push(Pass { divided, buckets: Some((from, bucket - 1)) });
            (from, rows) = (bucket, 0);
        }
        rows += count;
    }
    passes.push(Pass { divided, buckets: Some((from, BUCKETS - 1)) });
    Some(passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_every_bucket_once_and_stay_below_the_bound() {
        let mut counts = [0; BUCKETS];
        for (bucket, count) in counts.iter_mut().enumerate() {
            *count = (bucket % 7) as u64;
        }
        let passes = divide(Divided::ByKey, &counts, 10).unwrap();
        let mut next = 0;
        for pass in &passes {
            let (from, to) = pass.buckets.unwrap();
            assert_eq!(from, next);
            assert!(counts[from..=to].iter().sum::<u64>() <= 10, "{pass:?}");
            next = to + 1;
        }
        assert_eq!(next, BUCKETS);
        assert!(passes.len() > 300, "{}", passes.len());
    }

    #[test]
    fn a_key_with_more_rows_than_fit_divides_by_id() {
        let mut counts = [1; BUCKETS];
        counts[5] = 11;
        assert_eq!(divide(Divided::ByKey, &counts, 10), None);
        // There is no smaller part: it has to fit.
        assert!(divide(Divided::ById, &counts, 10).unwrap().iter().any(|pass| pass.buckets == Some((5, 5))));
    }
}
