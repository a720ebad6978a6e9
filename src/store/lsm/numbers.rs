//! The sequence numbers of the batches of a journal, of which some may be damaged.
//!
//! They ascend, and of two records with one key fjall takes the one with the higher number. It leaves out a batch
//! whose number is not above all that are in its tables, and one beyond the highest is the end of the process.

/// Numbers are below it.
const END: u64 = 1 << 63;

/// The numbers of a journal; in place of each that does not fit between the others, one that does.
pub(super) fn in_order(found: &[u64]) -> Vec<u64> {
    let mut right: Vec<u64> = Vec::with_capacity(found.len());
    for (n, own) in found.iter().enumerate() {
        let behind = found.get(n + 1..).unwrap_or_default();
        right.push(fitting(right.last().copied(), *own, behind));
    }
    right
}

/// The number between one that is right and those behind.
fn fitting(before: Option<u64>, own: u64, behind: &[u64]) -> u64 {
    let is_later = before.is_none_or(|before| own > before) && own < END;
    let has_room = |next: u64| before.is_none_or(|before| next > before + 1);
    // If the next one is not above it, one of the two is wrong: that one, if it would have room behind this one.
    let is_beyond = match *behind {
        [next, after, ..] => next <= own && has_room(next) && after <= own.saturating_add(1),
        [next] => next <= own && has_room(next),
        [] => false,
    };
    match before {
        _ if is_later && !is_beyond => own,
        Some(before) => before + 1,
        None => behind.first().map_or(own % END, |next| next.saturating_sub(1) % END),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_order_stays() {
        for numbers in [&[][..], &[7], &[7, 8], &[7, 9, 100, 101], &[0, END - 1]] {
            assert_eq!(in_order(numbers), numbers);
        }
    }

    /// A first one that is too low, and a last one that is too high, are in their order.
    #[test]
    fn a_flipped_bit_is_set_right() {
        let right: Vec<u64> = (1_000..1_006).collect();
        for (n, bit) in (0..right.len()).flat_map(|n| (0..u64::BITS).map(move |bit| (n, bit))) {
            let mut found = right.clone();
            found[n] ^= 1 << bit;
            let is_in_order = found.is_sorted_by(|one, next| one < next) && found[n] < END;
            assert_eq!(
                in_order(&found),
                if is_in_order { found } else { right.clone() },
                "{bit} of {n}"
            );
        }
    }

    #[test]
    fn whatever_was_found_is_in_order() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let found: Vec<_> =
                (0..random.usize(..8)).map(|_| random.u64(..) >> random.u8(..64)).collect();
            let right = in_order(&found);
            let are_in_order = right.is_sorted_by(|one, next| one < next);
            assert!(
                are_in_order && right.iter().all(|number| *number < END),
                "{found:?}: {right:?}"
            );
        }
    }
}
