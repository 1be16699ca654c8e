//! The pipeline on made-up devices whose memory does not suffice, whose arithmetic does not, or which are lost: the
//! vectors are those of an undisturbed run, or the row says why there is none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::batch::{Costs, MemoryModel, Occupancy};
use crate::domain::FailureKind;
use crate::encoder::Begun;

/// A device, by what goes wrong on it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// Room for so many tokens at once.
    Room(usize),
    /// Room for so many tokens at once, of which every batch leaves some in pieces until caches are freed.
    Pieces(usize),
    /// Every so manieth try fails, whatever its size.
    Sometimes(usize),
    /// No room for anything.
    Full,
    /// No room for anything, and lost when caches are freed for the time after so many.
    Dying(usize),
    /// Nothing can be computed any more after so many batches.
    Poisoned(usize),
    /// An error that speaks of memory and is none of the device's.
    Talk,
    /// Vectors that are no numbers, for texts of this many tokens.
    Useless(usize),
}

struct Gpu {
    trouble: Trouble,
    tries: Arc<AtomicUsize>,
    in_pieces: usize,
    settled: usize,
    /// What was begun and not asked for; `None` where nothing is begun before it is asked for.
    begun: Option<VecDeque<(u64, Result<Embeddings, EncodeError>)>>,
    number: u64,
    /// How often two batches were under way at once.
    overlaps: Arc<AtomicUsize>,
}

fn out_of_memory() -> EncodeError {
    NnError::Failed { kind: FailureKind::OutOfMemory, source: "CUDA_ERROR_OUT_OF_MEMORY".into() }.into()
}

fn device_lost() -> EncodeError {
    NnError::Failed { kind: FailureKind::DeviceLost, source: "CUDA_ERROR_ILLEGAL_ADDRESS".into() }.into()
}

/// What a text's ids and their number are, whatever it travels with.
fn vector(ids: &[u32]) -> [f32; 2] {
    [ids.len() as f32, ids.iter().map(|id| *id as f32).sum()]
}

impl Encoder for Gpu {
    fn encode(&mut self, batch: &PackedBatch, _: &Profile) -> Result<Embeddings, EncodeError> {
        let number = self.tries.fetch_add(1, Ordering::SeqCst) + 1;
        let tokens = batch.tokens();
        match self.trouble {
            Trouble::Room(room) if tokens > room => return Err(out_of_memory()),
            Trouble::Pieces(room) if tokens + self.in_pieces > room => return Err(out_of_memory()),
            Trouble::Pieces(_) => self.in_pieces += 12,
            Trouble::Sometimes(every) if number.is_multiple_of(every) => return Err(out_of_memory()),
            Trouble::Full | Trouble::Dying(_) => return Err(out_of_memory()),
            Trouble::Poisoned(after) if number > after => {
                return Err(device_lost());
            }
            Trouble::Talk => {
                return Err(NnError::other("the teacher ran out of memory").into());
            }
            _ => {}
        }
        let mut values = Vec::new();
        for bounds in batch.cu_seqlens().windows(2) {
            let ids = &batch.ids()[bounds[0]..bounds[1]];
            let useless = matches!(self.trouble, Trouble::Useless(length) if length == ids.len());
            values.extend(if useless { [f32::NAN, 1.0] } else { vector(ids) });
        }
        Ok(Embeddings::dense(2, values))
    }

    fn computes_apart(&self) -> bool {
        self.begun.is_some()
    }

    /// Memory runs out at once; what else goes wrong is known later.
    fn begin(&mut self, batch: &PackedBatch, profile: &Profile) -> Result<Begun, EncodeError> {
        let result = match self.encode(batch, profile) {
            Err(error) if error.kind() == FailureKind::OutOfMemory => return Err(error),
            result => result,
        };
        self.number += 1;
        let begun = self.begun.as_mut().unwrap();
        begun.push_back((self.number, result));
        assert!(begun.len() <= 2, "one more may be begun, and no third");
        self.overlaps.fetch_add(begun.len() - 1, Ordering::SeqCst);
        Ok(Begun(self.number))
    }

    fn finish(&mut self, Begun(number): Begun, _: &PackedBatch, _: &Profile) -> Result<Embeddings, EncodeError> {
        let (oldest, result) = self.begun.as_mut().unwrap().pop_front().unwrap();
        assert_eq!(oldest, number);
        result
    }

    fn settle(&mut self) -> Result<(), EncodeError> {
        self.in_pieces = 0;
        self.settled += 1;
        if matches!(self.trouble, Trouble::Dying(after) if self.settled > after) {
            return Err(device_lost());
        }
        Ok(())
    }
}

struct Run {
    outcome: Outcome,
    tries: usize,
    overlaps: usize,
}

/// What devices tell of themselves, and how they work.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// Whether the sizes of the model and the device are known.
    sized: bool,
    /// Whether they compute while the worker goes on.
    apart: bool,
}

const UNSIZED: Kind = Kind { sized: false, apart: false };
const SIZED: Kind = Kind { sized: true, apart: false };
const KINDS: [Kind; 4] = [UNSIZED, SIZED, Kind { apart: true, ..UNSIZED }, Kind { apart: true, ..SIZED }];

const START: BatchLimits = BatchLimits { tokens: 120, sequences: 8 };

/// Tokens of the longest of the texts.
const LONGEST: usize = 36;

/// 53 texts of 6 to 36 tokens, in shards of 16 and batches of up to 120 tokens.
fn embed(troubles: &[Trouble], fallback: Option<Trouble>, exact: Option<Trouble>, kind: Kind) -> Run {
    embed_growing(troubles, fallback, exact, kind, START.tokens)
}

/// The same with batches that may grow up to so many tokens.
fn embed_growing(
    troubles: &[Trouble],
    fallback: Option<Trouble>,
    exact: Option<Trouble>,
    kind: Kind,
    most_tokens: usize,
) -> Run {
    let (tries, overlaps): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let gpu = |trouble| Gpu {
        trouble,
        tries: Arc::clone(&tries),
        in_pieces: 0,
        settled: 0,
        begun: kind.apart.then(VecDeque::new),
        number: 0,
        overlaps: Arc::clone(&overlaps),
    };
    let label = |number: usize| format!("cuda:{number}");
    let mut workers: Vec<Worker<'_>> = troubles
        .iter()
        .enumerate()
        .map(|(number, trouble)| Worker {
            device: label(number),
            lost: Arc::default(),
            encoders: vec![Box::new(gpu(*trouble))],
        })
        .collect();
    let controller = || {
        let controller = Controller::new(Span { start: START, most_tokens }, true);
        let model = MemoryModel::new(Costs { token_bytes: 1 << 20, pair_bytes: 0 });
        let room = Occupancy::new(1.0, u64::MAX, 1 << 30, 0, 0);
        if kind.sized { controller.with_memory(model, room, true) } else { controller }
    };
    let controllers = (0..troubles.len()).map(|number| (label(number), controller())).collect();
    let controllers = Mutex::new(Controllers::new(controllers));
    let (fallback, exact) = (fallback.map(|trouble| Mutex::new(gpu(trouble))), exact.map(|it| Mutex::new(gpu(it))));
    let (events, mut memory) = (Events::default(), Memory { shards: Vec::new(), room: usize::MAX });
    let line = Line {
        rows: 53,
        shard_rows: 16,
        controllers: &controllers,
        fallback: fallback.as_ref().map(|fallback| fallback as &dyn SharedEncoder),
        exact: exact.as_ref().map(|exact| exact as &dyn SharedEncoder),
    };
    let end = line.run(&mut workers, &mut memory, &events);
    let outcome = Outcome { end, shards: memory.shards, events: events.0.into_inner().unwrap() };
    Run { outcome, tries: tries.load(Ordering::SeqCst), overlaps: overlaps.load(Ordering::SeqCst) }
}

impl Run {
    /// Status, reason and vector of each row.
    fn rows(&self) -> Vec<(RowStatus, Option<String>, Option<Vec<f32>>)> {
        let of = |(_, record, vectors): (_, &crate::domain::RowRecord, Option<crate::domain::RowVectors<'_>>)| {
            let dense = vectors.and_then(|vectors| vectors.dense).map(<[f32]>::to_vec);
            (record.status, record.error.clone(), dense)
        };
        self.outcome.shards.iter().flat_map(Shard::rows).map(of).collect()
    }

    /// How often each step was taken.
    fn steps(&self) -> BTreeMap<String, usize> {
        let mut steps = BTreeMap::new();
        for event in &self.outcome.events {
            if let Event::Mitigation(mitigation) = event {
                *steps.entry(mitigation.action.clone()).or_default() += 1;
            }
        }
        steps
    }

    fn encoded_on(&self, wanted: &str) -> u64 {
        let rows = |event: &Event| match event {
            Event::BatchEncoded { device, rows, .. } if device == wanted => *rows,
            _ => 0,
        };
        self.outcome.events.iter().map(rows).sum()
    }
}

/// All vectors are those of an undisturbed run, and these steps were taken.
#[track_caller]
fn check(troubles: &[Trouble], fallback: Option<Trouble>, steps: &[&str]) -> Run {
    let undisturbed = embed(&[Trouble::None], None, None, UNSIZED);
    assert!(undisturbed.steps().is_empty());
    let mut last = None;
    for kind in KINDS {
        let run = embed(troubles, fallback, None, kind);
        assert!(matches!(run.outcome.end, Ok(PassEnd::Complete { rows: 53 })), "{:?}", run.outcome.end);
        assert_eq!(run.rows(), undisturbed.rows());
        assert_eq!(run.steps().keys().collect::<Vec<_>>(), steps, "{:?}", run.steps());
        assert!(run.tries <= 53 * 6, "{} tries", run.tries);
        last = Some(run);
    }
    last.unwrap()
}

#[test]
fn batches_that_are_too_large_are_split_and_nothing_is_lost() {
    check(&[Trouble::Room(50)], None, &["free_caches", "split_batch"]);
    check(&[Trouble::Room(LONGEST), Trouble::Room(60)], None, &["free_caches", "split_batch"]);
}

#[test]
fn what_is_in_pieces_is_freed() {
    check(&[Trouble::Pieces(124)], None, &["free_caches"]);
}

#[test]
fn a_failure_that_passes_costs_a_try() {
    let run = check(&[Trouble::Sometimes(4)], None, &["free_caches"]);
    assert!(run.steps()["free_caches"] > 1);
}

#[test]
fn what_no_device_has_room_for_is_done_by_the_processor() {
    let run = check(&[Trouble::Full], Some(Trouble::None), &["free_caches", "split_batch", "use_cpu"]);
    assert_eq!((run.encoded_on("cpu"), run.encoded_on("cuda:0"), run.steps()["use_cpu"]), (53, 0, 53));
    let run = check(&[Trouble::Room(LONGEST - 4)], Some(Trouble::None), &["free_caches", "split_batch", "use_cpu"]);
    assert!(run.encoded_on("cpu") < 20 && run.encoded_on("cpu") + run.encoded_on("cuda:0") == 53);
}

/// Each row has its vector, or the reason; returns how many have none.
fn failed_rows(run: &Run, reason: &str) -> usize {
    let undisturbed = embed(&[Trouble::None], None, None, UNSIZED).rows();
    assert!(matches!(run.outcome.end, Ok(PassEnd::Complete { rows: 53 })), "{:?}", run.outcome.end);
    assert_eq!(run.rows().len(), 53);
    let mut failed = 0;
    for (row, expected) in run.rows().into_iter().zip(undisturbed) {
        if row.0 == RowStatus::Failed {
            assert!(row.2.is_none() && row.1.as_ref().is_some_and(|told| told.contains(reason)), "{row:?}");
            failed += 1;
        } else {
            assert_eq!(row, expected);
        }
    }
    let told = run.outcome.events.iter().filter(|event| matches!(event, Event::RowFailed { .. })).count();
    assert_eq!(told, failed);
    failed
}

#[test]
fn a_text_that_is_too_long_for_the_device_fails_alone() {
    let run = embed(&[Trouble::Room(LONGEST - 4)], None, None, SIZED);
    let failed = failed_rows(&run, "out of memory");
    assert!((1..20).contains(&failed), "{failed}");
    assert_eq!(run.steps()["fail_row"], failed);
    let run = embed(&[Trouble::Full, Trouble::Full], None, None, SIZED);
    assert_eq!(failed_rows(&run, "even for this text"), 53);
    let run = embed(&[Trouble::Full], Some(Trouble::Talk), None, SIZED);
    assert_eq!(failed_rows(&run, "the teacher"), 53, "what the processor says is told as well");
}

#[test]
fn an_error_that_only_speaks_of_memory_ends_the_lane() {
    let run = embed(&[Trouble::Talk], Some(Trouble::None), None, SIZED);
    assert!(run.outcome.end.unwrap_err().contains("the teacher ran out of memory"));
}

#[test]
fn a_poisoned_device_is_left_and_others_do_its_work() {
    let undisturbed = embed(&[Trouble::None], None, None, UNSIZED);
    for kind in KINDS {
        let run = embed(&[Trouble::Poisoned(2), Trouble::None], None, None, kind);
        assert!(matches!(run.outcome.end, Ok(PassEnd::Complete { rows: 53 })), "{:?}", run.outcome.end);
        assert_eq!(run.rows(), undisturbed.rows());
        assert!(!run.steps().contains_key("split_batch"));
        let told = run.outcome.events.iter().filter(|event| matches!(event, Event::DeviceLost { .. })).count();
        assert!(told <= 1, "the other may have done everything before");
    }
    let alone = embed(&[Trouble::Poisoned(2)], None, None, SIZED).outcome;
    assert!(alone.end.unwrap_err().contains("every device"));
    assert!(alone.events.iter().any(|event| matches!(event, Event::DeviceLost { .. })));
}

#[test]
fn a_device_that_is_lost_when_caches_are_freed_leaves_its_row_to_others() {
    for after in 0..20 {
        let run = embed(&[Trouble::Dying(after), Trouble::None], None, None, SIZED);
        let failed = failed_rows(&run, "even for this text");
        assert_eq!(failed, run.steps().get("fail_row").copied().unwrap_or(0), "{after}");
    }
}

#[test]
fn the_next_batch_is_begun_before_the_vectors_of_the_last_are_asked_for() {
    let one_at_a_time = embed(&[Trouble::None], None, None, UNSIZED);
    let apart = embed(&[Trouble::None], None, None, Kind { apart: true, ..UNSIZED });
    assert_eq!(apart.rows(), one_at_a_time.rows());
    assert_eq!((one_at_a_time.overlaps, apart.overlaps > 0), (0, true), "{}", apart.overlaps);
    // Whatever becomes of one of them, the other one's vectors are its own.
    for trouble in (0..20).map(Trouble::Poisoned).chain((1..9).map(Trouble::Sometimes)) {
        let run = embed(&[trouble, Trouble::None], None, None, Kind { apart: true, ..SIZED });
        failed_rows(&run, "even for this text");
    }
}

#[test]
fn useless_vectors_are_tried_again_in_f32_and_fail_if_that_is_no_better() {
    let undisturbed = embed(&[Trouble::None], None, None, UNSIZED).rows();
    let length = undisturbed[3].2.as_ref().map(|vector| vector[0]).unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of tokens")]
    let useless = Trouble::Useless(length as usize);
    let run = embed(&[useless], None, Some(Trouble::None), SIZED);
    assert_eq!(run.rows(), undisturbed);
    let retried = run.steps()["retry_in_f32"];
    assert!(retried > 1);
    let run = embed(&[useless], None, Some(useless), SIZED);
    assert_eq!((failed_rows(&run, "not finite"), run.steps()["retry_in_f32"]), (retried, retried));
    let run = embed(&[useless], None, None, SIZED);
    assert_eq!((failed_rows(&run, "not finite"), run.steps().is_empty()), (retried, true));
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        Just(Trouble::None),
        (0_usize..130).prop_map(Trouble::Room),
        (0_usize..130).prop_map(Trouble::Pieces),
        (1_usize..9).prop_map(Trouble::Sometimes),
        Just(Trouble::Full),
        (0_usize..40).prop_map(Trouble::Dying),
        (0_usize..30).prop_map(Trouble::Poisoned),
        (6_usize..40).prop_map(Trouble::Useless),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_row_ends_once_with_its_vector_or_a_reason(
        troubles in prop::collection::vec(trouble(), 1..4),
        fallback in prop::option::of(Just(Trouble::None)),
        (sized, apart) in any::<(bool, bool)>(),
        most_tokens in START.tokens..1000,
    ) {
        let run = embed_growing(&troubles, fallback, None, Kind { sized, apart }, most_tokens);
        match &run.outcome.end {
            Ok(_) => {
                let failed = failed_rows(&run, "");
                let steps = run.steps();
                let useless = troubles.iter().any(|trouble| matches!(trouble, Trouble::Useless(_)));
                prop_assert!(useless || failed == steps.get("fail_row").copied().unwrap_or(0));
                prop_assert!(fallback.is_none() || useless || failed == 0);
            }
            Err(error) => {
                let is_lost = |trouble: &Trouble| matches!(trouble, Trouble::Poisoned(_) | Trouble::Dying(_));
                prop_assert!(troubles.iter().all(is_lost) && error.contains("every device"), "{error}");
            }
        }
    }
}
