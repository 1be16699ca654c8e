//! The pipeline with encoders that misbehave and a commit that remembers.

mod memory;
mod window;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::batch::{BatchLimits, Controller, Controllers, Span};
use crate::collection::{Request, discover};
use crate::domain::{Embeddings, PackedBatch, RowStatus, Widths};
use crate::encoder::{EncodeError, SharedEncoder};
use crate::model::Profile;
use crate::nn::NnError;
use crate::output::{Committed, StorageError};
use crate::prepare::Tokenizer;
use crate::telemetry::event::Event;

/// Gives each sequence a vector that tells how long it is, or misbehaves at a batch that holds the token `trigger`.
struct Fake {
    trigger: Option<u32>,
    behaviour: Behaviour,
}

#[derive(Clone, Copy)]
enum Behaviour {
    NotFinite,
    Zero,
    Fail,
    Panic,
    /// The encoder is sound; who is told of its batches is not.
    PanicOutside,
}

impl Encoder for Fake {
    fn encode(&mut self, batch: &PackedBatch, _: &Profile) -> Result<Embeddings, EncodeError> {
        let mut values = Vec::new();
        for bounds in batch.cu_seqlens().windows(2) {
            let ids = &batch.ids()[bounds[0]..bounds[1]];
            let vector = if self.trigger.is_some_and(|trigger| ids.contains(&trigger)) {
                match self.behaviour {
                    Behaviour::NotFinite => [1.0, f32::NAN],
                    Behaviour::Zero => [0.0, 0.0],
                    Behaviour::Fail => {
                        return Err(NnError::other("the encoder gives up").into());
                    }
                    Behaviour::Panic => panic!("the encoder panics"),
                    Behaviour::PanicOutside => [1.0, 1.0],
                }
            } else {
                [ids.len() as f32, 1.0]
            };
            values.extend(vector);
        }
        Ok(Embeddings::dense(2, values))
    }
}

/// Keeps shards in memory, up to a limit.
struct Memory {
    shards: Vec<Shard>,
    room: usize,
}

impl Commit for Memory {
    fn commit(&mut self, shard: &Shard) -> Result<(), CommitError> {
        if self.shards.len() == self.room {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(StorageError { action: "write", path: "part".into(), source }.into());
        }
        self.shards.push(shard.clone());
        Ok(())
    }
}

#[derive(Default)]
struct Events(Mutex<Vec<Event>>, bool);

impl Observer for Events {
    fn observe(&self, event: &Event) {
        // Told by the workers, outside of what they guard against panics of the model.
        assert!(!(self.1 && matches!(event, Event::BatchEncoded { .. })), "the observer panics");
        self.0.lock().unwrap().push(event.clone());
    }
}

/// `rows` texts of different lengths, no two of them equal; the text with a zebra is row 7.
fn collection(directory: &Path, rows: usize) -> Collection {
    let texts: Vec<String> = (0..rows)
        .map(|row| {
            let animal = if row == 7 { "zebra" } else { "horse" };
            // Spaces are no tokens, but make another text.
            format!("{}{animal}{}", "word ".repeat(row % 11), " ".repeat(row))
        })
        .collect();
    fs::create_dir_all(directory.join("c")).unwrap();
    fs::write(directory.join("c/x.json"), serde_json::to_vec(&texts).unwrap()).unwrap();
    discover(&Request { root: directory, only: &[] }).unwrap().collections.remove(0)
}

fn tokenizer() -> Tokenizer {
    let path = Path::new("tests/fixtures/models/bert-minilm/tokenizer.json");
    Tokenizer::load(path, 80, String::new()).unwrap()
}

/// A pass of one lane over so many texts.
struct Line<'a> {
    rows: usize,
    shard_rows: usize,
    controllers: &'a Mutex<Controllers>,
    fallback: Option<&'a dyn SharedEncoder>,
    exact: Option<&'a dyn SharedEncoder>,
}

impl Line<'_> {
    fn run(
        self,
        workers: &mut [Worker<'_>],
        commit: &mut dyn Commit,
        observer: &dyn Observer,
    ) -> Result<PassEnd, String> {
        let directory = tempfile::tempdir().unwrap();
        let collection = collection(directory.path(), self.rows);
        let lane = Lane {
            model: "fake",
            profile: &Profile::default(),
            tokenizer: &tokenizer(),
            widths: Widths::dense(2),
            shard_rows: self.shard_rows,
            known: None,
            committed: &Committed::default(),
            controllers: self.controllers,
            fallback: self.fallback,
            exact: self.exact,
            clock: &StageClock::default(),
        };
        let pass = Pass {
            collection: &collection,
            lanes: &[lane],
            tokenizer_threads: 2,
            workers,
            stop: &StopSwitch::default(),
            clock: &StageClock::default(),
            observer,
        };
        let mut ends = run(pass, &mut [commit]).map_err(|error| error.to_string())?;
        assert_eq!(ends.len(), 1);
        ends.remove(0).map_err(|error| error.to_string())
    }
}

struct Outcome {
    end: Result<PassEnd, String>,
    shards: Vec<Shard>,
    events: Vec<Event>,
}

fn run_with(rows: usize, workers: usize, behaviour: Behaviour, room: usize) -> Outcome {
    let tokenizer = tokenizer();
    // A token that only row 7 has.
    let horse = tokenizer.encode("horse").unwrap().ids;
    let trigger = tokenizer.encode("zebra").unwrap().ids.into_iter().find(|id| !horse.contains(id));
    assert!(trigger.is_some());
    let mut workers: Vec<Worker<'_>> = (0..workers)
        .map(|number| Worker {
            device: format!("cpu:{number}"),
            lost: Arc::default(),
            encoders: vec![Box::new(Fake { trigger, behaviour })],
        })
        .collect();
    let (events, mut memory) =
        (Events(Mutex::default(), matches!(behaviour, Behaviour::PanicOutside)), Memory { shards: Vec::new(), room });
    let start = BatchLimits { tokens: 30, sequences: 4 };
    let span = Span { start, most_tokens: start.tokens };
    let controllers = Mutex::new(Controllers::one("cpu:0", Controller::new(span, true)));
    let line = Line { rows, shard_rows: 5, controllers: &controllers, fallback: None, exact: None };
    let end = line.run(&mut workers, &mut memory, &events);
    Outcome { end, shards: memory.shards, events: events.0.into_inner().unwrap() }
}

#[track_caller]
fn check_useless(behaviour: Behaviour, reason: &str) {
    let Outcome { end, shards, events } = run_with(53, 3, behaviour, usize::MAX);
    assert!(matches!(end, Ok(PassEnd::Complete { rows: 53 })), "{end:?}");
    let rows: Vec<_> = shards.iter().flat_map(Shard::rows).collect();
    assert_eq!(rows.len(), 53);
    for (index, (row, record, vector)) in rows.into_iter().enumerate() {
        assert_eq!(row, crate::domain::Row(index as u64));
        if index == 7 {
            assert_eq!((record.status, record.error.as_deref()), (RowStatus::Failed, Some(reason)));
            assert!(vector.is_none());
        } else {
            let dense = vector.and_then(|vectors| vectors.dense);
            assert_eq!(dense, Some(&[record.tokens as f32, 1.0][..]), "row {index} has its own vector");
        }
    }
    let told = events.iter().filter(|event| matches!(event, Event::RowFailed { reason: told, .. } if told == reason));
    assert_eq!(told.count(), 1);
}

#[test]
fn useless_vectors_fail_their_own_row_alone() {
    check_useless(Behaviour::NotFinite, "the model gave a vector that is not finite");
    check_useless(Behaviour::Zero, "the model gave a zero vector");
}

#[track_caller]
fn check_failure(behaviour: Behaviour, workers: usize, room: usize, message: &str) {
    // More shards than may be in flight, so that every stage is blocked when the failure comes.
    let Outcome { end, shards, .. } = run_with(500, workers, behaviour, room);
    let error = end.unwrap_err();
    assert!(error.contains(message), "{error}");
    for (number, shard) in shards.iter().enumerate() {
        assert_eq!(shard.number as usize, number, "what was committed is a prefix");
    }
}

#[test]
fn a_failing_encoder_ends_the_pass() {
    check_failure(Behaviour::Fail, 1, usize::MAX, "the encoder gives up");
    check_failure(Behaviour::Fail, 4, usize::MAX, "the encoder gives up");
}

#[test]
fn a_panicking_encoder_ends_the_pass() {
    check_failure(Behaviour::Panic, 1, usize::MAX, "panicked");
    check_failure(Behaviour::Panic, 4, usize::MAX, "panicked");
}

#[test]
fn a_worker_that_panics_outside_its_encoder_ends_the_pass() {
    check_failure(Behaviour::PanicOutside, 1, usize::MAX, "panicked");
    check_failure(Behaviour::PanicOutside, 4, usize::MAX, "panicked");
}

#[test]
fn a_full_disk_ends_the_pass() {
    check_failure(Behaviour::Zero, 2, 3, "part");
}
