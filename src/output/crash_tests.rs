//! The story these tests are about: a run is killed, or the machine loses power, between any two operations on its
//! files; the same command then ends with the bytes that an uninterrupted run would have left, and redoes no shard
//! that was committed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fixture::{plan, shards, write_share};
use super::merge::merge_in;
use super::open::{OpenError, Opened, open_derived_in, open_in};
use super::storage::Storage;
use super::storage::memory::{Crash, Memory};
use super::{
    CollectionTotals, CollectionWriter, CommitError, Existing, InputChanged, MergeError, Plan, PlannedShare,
    SharesError,
};
use crate::domain::{CollectionName, Shard, Share};

const ROWS: u64 = 8;

/// Name of an output that is made of other outputs.
const DERIVED: &str = "fused";

type Files = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Input(#[from] InputChanged),
    #[error(transparent)]
    Merge(#[from] MergeError),
}

/// How far a run got, in commits that it was told are done.
#[derive(Default)]
struct Progress {
    commits: BTreeMap<String, u32>,
}

impl Progress {
    fn open(&self, memory: &Memory, plan: &Plan) -> Result<Opened, Stop> {
        let collection = CollectionName::new("Docling").unwrap();
        let open = if plan.model == DERIVED { open_derived_in } else { open_in };
        let opened = open(Arc::new(memory.clone()), Path::new("out"), &collection, plan)?;
        assert_eq!(opened.damage, None, "a crash must not look like damage");
        let committed = u32::try_from(opened.committed.shards.len()).unwrap();
        let told = self.commits.get(&plan.model).copied().unwrap_or(0);
        assert!(committed >= told, "{committed} shards of {} are left of {told} committed ones", plan.model);
        Ok(opened)
    }

    fn commit(&mut self, writer: &mut CollectionWriter, shard: &Shard) -> Result<(), Stop> {
        let committed = writer.commit(shard)?.number + 1;
        self.commits.insert(writer.manifest().model.clone(), committed);
        Ok(())
    }
}

fn totals() -> CollectionTotals {
    CollectionTotals { files: 2, rows: ROWS, loading_errors: 1 }
}

fn two_models(existing: Existing) -> [Plan; 2] {
    [plan("org/first", existing), plan("second", existing)]
}

/// One model after the other, as in exclusive passes.
fn one_by_one(memory: &Memory, progress: &mut Progress, existing: Existing) -> Result<(), Stop> {
    write_each(&two_models(existing), memory, progress)
}

/// A model, and then an output that is made of it.
fn and_a_derived_one(memory: &Memory, progress: &mut Progress, existing: Existing) -> Result<(), Stop> {
    write_each(&[plan("org/first", existing), plan(DERIVED, existing)], memory, progress)
}

fn write_each(plans: &[Plan], memory: &Memory, progress: &mut Progress) -> Result<(), Stop> {
    for plan in plans {
        let mut opened = progress.open(memory, plan)?;
        for shard in &shards(ROWS, 3)[opened.committed.shards.len()..] {
            progress.commit(&mut opened.writer, shard)?;
        }
        opened.writer.finish(totals())?;
    }
    Ok(())
}

/// Both models at work on each shard, as when they are all resident.
fn in_turn(memory: &Memory, progress: &mut Progress, existing: Existing) -> Result<(), Stop> {
    let mut outputs = Vec::new();
    for plan in two_models(existing) {
        outputs.push(progress.open(memory, &plan)?);
    }
    for shard in &shards(ROWS, 3) {
        for opened in &mut outputs {
            if shard.number as usize >= opened.committed.shards.len() {
                progress.commit(&mut opened.writer, shard)?;
            }
        }
    }
    for opened in outputs {
        opened.writer.finish(totals())?;
    }
    Ok(())
}

/// The shares of two models, the second machine before the first, and then all of them merged.
fn shares_and_merging(memory: &Memory, _: &mut Progress, existing: Existing) -> Result<(), Stop> {
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let collection = CollectionName::new("Docling").unwrap();
    for share in Share::all(2).collect::<Vec<_>>().into_iter().rev() {
        for (model_place, plan) in (0..).zip(two_models(existing)) {
            let plan = Plan { share: Some(PlannedShare { share, model_place }), ..plan };
            match open_in(Arc::clone(&storage), Path::new("out"), &collection, &plan) {
                // Merging got so far.
                Err(OpenError::Shares(SharesError::Whole { .. })) => {}
                opened => drop(write_share::<Stop>(opened?, &shards(ROWS, 3), totals())?),
            }
        }
    }
    let directories = ["first", "second"].map(|model| (collection.clone(), model.to_owned()));
    merge_in(&storage, Path::new("out"), &directories)?;
    Ok(())
}

type Run = fn(&Memory, &mut Progress, Existing) -> Result<(), Stop>;

/// What lies there at the start, and how the first and the following tries treat it.
struct Story {
    run: Run,
    start: Files,
    first_try: Existing,
    later_tries: Existing,
}

impl Story {
    /// Dies at every operation in turn, and then once more in the repair; the last try ends as if nothing had been.
    #[track_caller]
    fn check(&self, crash: Crash) {
        let Self { run, start, first_try, later_tries } = self;
        let uninterrupted = uninterrupted(*run, start, *first_try);
        let mut crashes = 0;
        for operation in 0.. {
            let memory = planted(start);
            let mut progress = Progress::default();
            memory.die_at(operation);
            if run(&memory, &mut progress, *first_try).is_ok() {
                break;
            }
            crashes += 1;
            memory.restart(crash);
            for second_death in [operation % 17, usize::MAX - 1] {
                if *later_tries == Existing::Overwrite {
                    progress = Progress::default();
                }
                memory.die_at(second_death);
                let outcome = run(&memory, &mut progress, *later_tries);
                assert!(outcome.is_ok() || second_death < 17, "{crash:?} at operation {operation}: {outcome:?}");
                memory.restart(crash);
            }
            let found = memory.snapshot();
            let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(&uninterrupted), "{crash:?} at operation {operation}");
            for (path, bytes) in &uninterrupted {
                assert!(found[path] == *bytes, "{} after {crash:?} at operation {operation}", path.display());
            }
        }
        assert!(crashes > 100, "only {crashes} operations to die at");
    }
}

fn planted(files: &Files) -> Memory {
    let memory = Memory::default();
    for (path, bytes) in files {
        memory.plant(path, bytes);
    }
    memory
}

#[track_caller]
fn uninterrupted(run: Run, start: &Files, existing: Existing) -> Files {
    let memory = planted(start);
    run(&memory, &mut Progress::default(), existing).unwrap();
    memory.snapshot()
}

#[track_caller]
fn check_fresh(run: Run, crash: Crash) {
    Story { run, start: Files::new(), first_try: Existing::Resume, later_tries: Existing::Resume }.check(crash);
}

/// Overwrites the output of an input that had two rows fewer.
#[track_caller]
fn check_overwriting(later_tries: Existing, crash: Crash) {
    let start = match later_tries {
        Existing::Overwrite => {
            let mut other = shards(ROWS - 2, 3);
            other[0].records[1].metadata = None;
            output_of(&other)
        }
        // Going on with what was to be overwritten, before the first commit, is another command on another output.
        _ => uninterrupted(one_by_one, &Files::new(), Existing::Resume),
    };
    Story { run: one_by_one, start, first_try: Existing::Overwrite, later_tries }.check(crash);
}

fn output_of(shards: &[Shard]) -> Files {
    let memory = Memory::default();
    for plan in two_models(Existing::Resume) {
        let mut writer = Progress::default().open(&memory, &plan).unwrap().writer;
        for shard in shards {
            writer.commit(shard).unwrap();
        }
        let rows = shards.iter().map(|shard| shard.records.len() as u64).sum();
        writer.finish(CollectionTotals { rows, ..totals() }).unwrap();
    }
    memory.snapshot()
}

#[test]
fn overwriting_another_input_survives_a_kill_anywhere() {
    check_overwriting(Existing::Overwrite, Crash::Kill);
}

#[test]
fn overwriting_another_input_survives_a_loss_of_power_anywhere() {
    check_overwriting(Existing::Overwrite, Crash::PowerLoss);
    check_overwriting(Existing::Overwrite, Crash::PowerLossOutOfOrder);
}

#[test]
fn overwriting_and_then_resuming_survives_a_kill_anywhere() {
    check_overwriting(Existing::Resume, Crash::Kill);
}

#[test]
fn overwriting_and_then_resuming_survives_a_loss_of_power_anywhere() {
    check_overwriting(Existing::Resume, Crash::PowerLoss);
    check_overwriting(Existing::Resume, Crash::PowerLossOutOfOrder);
}

#[test]
fn models_one_by_one_survive_a_kill_anywhere() {
    check_fresh(one_by_one, Crash::Kill);
}

#[test]
fn models_one_by_one_survive_a_loss_of_power_anywhere() {
    check_fresh(one_by_one, Crash::PowerLoss);
    check_fresh(one_by_one, Crash::PowerLossOutOfOrder);
}

#[test]
fn models_in_turn_survive_a_kill_anywhere() {
    check_fresh(in_turn, Crash::Kill);
}

#[test]
fn models_in_turn_survive_a_loss_of_power_anywhere() {
    check_fresh(in_turn, Crash::PowerLoss);
    check_fresh(in_turn, Crash::PowerLossOutOfOrder);
}

#[test]
fn a_derived_output_survives_a_kill_or_a_loss_of_power_anywhere() {
    for crash in [Crash::Kill, Crash::PowerLoss, Crash::PowerLossOutOfOrder] {
        check_fresh(and_a_derived_one, crash);
    }
}

#[test]
fn overwriting_a_derived_output_survives_a_kill_anywhere() {
    let start = uninterrupted(and_a_derived_one, &Files::new(), Existing::Resume);
    for later_tries in [Existing::Overwrite, Existing::Resume] {
        let (start, first_try) = (start.clone(), Existing::Overwrite);
        Story { run: and_a_derived_one, start, first_try, later_tries }.check(Crash::Kill);
    }
}

#[test]
fn shares_and_merging_survive_a_kill_anywhere() {
    check_fresh(shares_and_merging, Crash::Kill);
}

#[test]
fn shares_and_merging_survive_a_loss_of_power_anywhere() {
    check_fresh(shares_and_merging, Crash::PowerLoss);
    check_fresh(shares_and_merging, Crash::PowerLossOutOfOrder);
}

#[test]
fn merged_shares_are_a_single_run_byte_for_byte() {
    let start = Files::new();
    let single = uninterrupted(one_by_one, &start, Existing::Resume);
    let merged = uninterrupted(shares_and_merging, &start, Existing::Resume);
    assert_eq!(merged.keys().collect::<Vec<_>>(), single.keys().collect::<Vec<_>>());
    for (path, bytes) in &single {
        assert!(merged[path] == *bytes, "{}", path.display());
    }
}

#[test]
fn the_outcome_does_not_depend_on_the_order_of_work() {
    let start = Files::new();
    let (one_by_one, in_turn) =
        (uninterrupted(one_by_one, &start, Existing::Resume), uninterrupted(in_turn, &start, Existing::Resume));
    assert!(one_by_one == in_turn);
    let names: Vec<_> = one_by_one.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(
        names.iter().filter(|name| name.ends_with("chunks.jsonl")).collect::<Vec<_>>(),
        [&"out/Docling/chunks.jsonl"]
    );
    assert_eq!(names.iter().filter(|name| name.contains("/first/part-")).count(), 3 * 5, "{names:#?}");
    assert!(!names.iter().any(|name| name.ends_with(".partial")), "{names:#?}");
}

#[test]
fn overwriting_leaves_what_a_fresh_run_leaves() {
    let fresh = uninterrupted(one_by_one, &Files::new(), Existing::Resume);
    let mut other = output_of(&shards(ROWS - 2, 3));
    other.insert("out/Docling/first/part-00007.jsonl".into(), b"of a longer input".to_vec());
    for run in [one_by_one as Run, in_turn] {
        assert!(uninterrupted(run, &other, Existing::Overwrite) == fresh);
    }
}
