//! Proof that the simulation detects faults: each mutation of the engine fails some seed.

use engine::sim::{Mutation, switch_on};

use crate::seeds::run;

/// Returns the first seed that fails with a mutation switched on.
fn caught_at(mutation: Mutation, within: u64) -> u64 {
    let guard = switch_on(Some(mutation));
    let caught = (0..within).find_map(|seed| run(seed).err().map(|what| (seed, what)));
    drop(guard);
    let (seed, what) =
        caught.unwrap_or_else(|| panic!("{mutation:?} is not caught within {within} seeds"));
    println!("{mutation:?}: caught at seed {seed}: {}", what.lines().next().unwrap_or_default());
    seed
}

macro_rules! caught {
    ($($name:ident: $mutation:ident within $seeds:literal;)*) => {
        $(#[test]
        fn $name() {
            let seed = caught_at(Mutation::$mutation, $seeds);
            assert_eq!(run(seed).err(), None, "and without it the seed is clean");
        })*
    };
}

caught! {
    an_unchecked_generation_is_caught: GenerationUnchecked within 100;
    a_buffer_returned_early_is_caught: BufferReturnedEarly within 100;
    an_ignored_end_of_a_multishot_receive_is_caught: MoreIgnored within 100;
    a_dropped_tail_of_a_backlog_is_caught: BacklogTailDropped within 100;
    a_buffer_returned_twice_is_caught: BufferReturnedTwice within 100;
    a_descriptor_kept_after_a_hand_over_is_caught: HandedOverKept within 100;
}
