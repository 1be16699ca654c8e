use proptest::prelude::*;

use super::Pressure::{Critical, None as Relief, Warning};
use super::*;
use crate::batch::Costs;

const HINT: BatchLimits = BatchLimits { tokens: 1000, sequences: 64 };
const SPAN: Span = Span { start: HINT, most_tokens: 1000 };
const GIB: u64 = 1 << 30;

#[track_caller]
fn check(pressures: &[Pressure], tokens: usize, sequences: usize) {
    let mut controller = Controller::new(SPAN, true);
    for pressure in pressures {
        controller.feel(*pressure);
    }
    assert_eq!(controller.limits(10), BatchLimits { tokens, sequences }, "{pressures:?}");
}

fn batch(tokens: usize, longest: usize) -> Finished {
    Finished { tokens, longest, seconds: 0.01, peak_bytes: None }
}

#[test]
fn batches_shrink_under_pressure_and_recover() {
    check(&[], 1000, 64);
    check(&[Warning], 750, 48);
    check(&[Warning, Critical], 375, 24);
    check(&[Critical, Relief], 1000, 64);
    check(&[Warning, Critical, Relief], 750, 48);
    check(&[Relief], 1000, 64);
    assert_eq!(Controller::new(SPAN, false).feel(Critical), None);
    let mut controller = Controller::new(SPAN, true);
    [Warning, Critical, Relief].iter().for_each(|pressure| {
        controller.feel(*pressure);
    });
    let changes = (0..100).filter_map(|_| controller.encoded(batch(700, 10)));
    assert_eq!(changes.map(|change| change.limits).collect::<Vec<_>>(), [HINT], "it was calm for long enough");
}

/// 100 KB a token and 1 KB a pair, on a device with 10 GiB for batches.
fn with_memory(most_tokens: usize) -> Controller {
    let model = MemoryModel::new(Costs { token_bytes: 100_000, pair_bytes: 1000 });
    let room = Occupancy::new(1.0, u64::MAX, 20 * GIB, 0, 9 * GIB);
    Controller::new(Span { start: HINT, most_tokens }, true).with_memory(model, room, true)
}

#[test]
fn batches_grow_to_what_memory_has_room_for_at_their_length() {
    let mut controller = with_memory(1 << 20);
    let mut grown = 0;
    // A device that computes the faster the more it has at once.
    for _ in 0..100 {
        let tokens = controller.limits(100).tokens;
        let seconds = (tokens as f64).sqrt() / 1000.0;
        grown += usize::from(controller.encoded(Finished { seconds, ..batch(tokens, 100) }).is_some());
    }
    let [short, long] = [100, 1000].map(|length| controller.limits(length).tokens);
    assert!(grown > 3 && (40_000..60_000).contains(&short), "{short}");
    assert!((6_000..10_000).contains(&long), "{long}: five times as much a token");
}

#[test]
fn a_neighbour_that_grows_shrinks_batches_and_one_that_leaves_lets_them_grow() {
    let mut controller = with_memory(1000);
    let full = controller.limits(1000).tokens;
    controller.see(20 * GIB, 19 * GIB, Some(9 * GIB));
    assert!(controller.limits(1000).tokens < full / 2);
    controller.see(20 * GIB, 20 * GIB, Some(9 * GIB));
    assert_eq!(controller.limits(1000).tokens, 1, "one text at a time");
    controller.see(20 * GIB, 9 * GIB, Some(9 * GIB));
    assert_eq!(controller.limits(1000).tokens, full);
}

#[test]
fn a_size_that_failed_is_not_reached_again_soon() {
    check_failure(with_memory(1000));
    check_failure(Controller::new(SPAN, true));
    let mut fixed = Controller::new(SPAN, false);
    assert_eq!(fixed.out_of_memory(1000, 100), HINT, "batches that are to keep their size do");
}

#[track_caller]
fn check_failure(mut controller: Controller) {
    assert_eq!(controller.out_of_memory(1000, 100).tokens, 500);
    for _ in 0..63 {
        controller.encoded(batch(500, 100));
        let tokens = controller.limits(100).tokens;
        assert!((500..=900).contains(&tokens), "{tokens}");
    }
    controller.encoded(batch(500, 100));
    assert_eq!(controller.limits(100).tokens, 1000);
}

#[test]
fn pressure_takes_its_part_of_what_there_is_room_for() {
    let mut controller = with_memory(1 << 20);
    controller.see(20 * GIB, 19 * GIB, Some(9 * GIB));
    let roomy = controller.limits(1000).tokens;
    assert!((10..900).contains(&roomy), "{roomy}");
    controller.feel(Warning);
    assert_eq!(controller.limits(1000).tokens, (roomy * 3).div_ceil(4));
    assert!(controller.begin(10, 10), "and what is kept without need is freed");
    assert!(!controller.begin(10, 10), "once");
}

#[test]
fn a_look_that_another_model_may_explain_says_nothing() {
    let seen = |alone: bool| {
        let model = MemoryModel::new(Costs { token_bytes: 100_000, pair_bytes: 1000 });
        let room = Occupancy::new(1.0, u64::MAX, 20 * GIB, 0, 9 * GIB);
        let mut controller = Controller::new(SPAN, true).with_memory(model, room, alone);
        controller.begin(1000, 100);
        controller.see(20 * GIB, 19 * GIB, Some(19 * GIB));
        controller.limits(100).tokens
    };
    assert_eq!((seen(false), seen(true) < 1000), (1000, true));
}

#[derive(Debug, Clone)]
enum Happening {
    Feel(Pressure),
    See { used_gib: u64, own_gib: Option<u64> },
    Loaded { own_gib: u64 },
    Encoded { part: usize, longest: usize, milliseconds: u64, peak_gib: Option<u64> },
    OutOfMemory { part: usize, longest: usize },
}

fn happening() -> impl Strategy<Value = Happening> {
    let gib = || prop::option::of(0_u64..30);
    prop_oneof![
        (0_usize..3).prop_map(|index| Happening::Feel([Relief, Warning, Critical][index])),
        (0_u64..30, gib()).prop_map(|(used_gib, own_gib)| Happening::See { used_gib, own_gib }),
        (0_u64..30).prop_map(|own_gib| Happening::Loaded { own_gib }),
        (1_usize..100, 1_usize..5000, 0_u64..100, gib()).prop_map(|(part, longest, milliseconds, peak_gib)| {
            Happening::Encoded { part, longest, milliseconds, peak_gib }
        }),
        (1_usize..100, 1_usize..5000).prop_map(|(part, longest)| Happening::OutOfMemory { part, longest }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn limits_stay_between_one_and_the_hint(
        tokens in 1_usize..1_000_000,
        sequences in 1_usize..10_000,
        pressures in prop::collection::vec(0_usize..3, 0..60),
    ) {
        let hint = BatchLimits { tokens, sequences };
        let mut controller = Controller::new(Span { start: hint, most_tokens: tokens }, true);
        for pressure in pressures {
            let before = controller.limits(1);
            let told = controller.feel([Relief, Warning, Critical][pressure]);
            let now = controller.limits(1);
            prop_assert_eq!(told.map_or(before, |change| change.limits), now);
            prop_assert!((1..=tokens).contains(&now.tokens) && (1..=sequences).contains(&now.sequences));
            let in_direction = if pressure == 0 { now.tokens >= before.tokens } else { now.tokens <= before.tokens };
            prop_assert!(in_direction, "{:?} after {:?}", now, before);
        }
    }

    #[test]
    fn nothing_leads_to_empty_batches_or_beyond_memory(
        happenings in prop::collection::vec(happening(), 0..200),
        most_tokens in 1000_usize..1_000_000,
    ) {
        let mut controller = with_memory(most_tokens);
        for happening in happenings {
            match happening.clone() {
                Happening::Feel(pressure) => { controller.feel(pressure); }
                Happening::See { used_gib, own_gib } => controller.see(20 * GIB, used_gib * GIB, own_gib.map(|own| own * GIB)),
                Happening::Loaded { own_gib } => controller.loaded(own_gib * GIB),
                Happening::Encoded { part, longest, milliseconds, peak_gib } => {
                    let tokens = (controller.limits(longest).tokens * part / 100).max(1);
                    controller.begin(tokens, longest);
                    let seconds = milliseconds as f64 / 1000.0;
                    let peak_bytes = peak_gib.map(|peak| peak * GIB);
                    controller.encoded(Finished { tokens, longest, seconds, peak_bytes });
                }
                Happening::OutOfMemory { part, longest } => {
                    let tokens = (controller.limits(longest).tokens * part / 100).max(1);
                    let told = controller.out_of_memory(tokens, longest);
                    prop_assert_eq!(told, controller.limits(longest));
                    prop_assert!(told.tokens <= (tokens / 2).max(1), "{} after {} of {}", told.tokens, tokens, longest);
                }
            }
            let memory = controller.memory.as_ref().unwrap();
            for longest in [1, 10, 127, 128, 129, 1000, 5000] {
                let limits = controller.limits(longest);
                prop_assert!(limits.tokens >= 1 && limits.sequences >= 1 && limits.sequences <= HINT.sequences);
                prop_assert!(limits.tokens <= most_tokens);
                let fits = memory.model.predict(limits.tokens, longest) <= memory.room.room_bytes();
                prop_assert!(limits.tokens == 1 || fits, "{:?} of {} after {:?}", limits, longest, happening);
            }
        }
    }
}
