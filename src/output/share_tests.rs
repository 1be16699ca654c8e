//! Who may write where, what merging refuses, and what is said of an output directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::{plan, shard, shards, write_share};
use super::*;
use crate::domain::{CollectionName, Shard, Share};

const ROWS: u64 = 14;

#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Input(#[from] InputChanged),
}

fn collection() -> CollectionName {
    CollectionName::new("Docling").unwrap()
}

fn totals(rows: u64) -> CollectionTotals {
    CollectionTotals { files: 1, rows, loading_errors: 0 }
}

fn share_plan(share: &str) -> Plan {
    let share = share.parse().unwrap();
    Plan { share: Some(PlannedShare { share, model_place: 0 }), ..plan("m", Existing::Resume) }
}

fn write_of(root: &Path, share: &str, shards: &[Shard]) -> Result<Manifest, Stop> {
    let rows = shards.iter().map(|shard| shard.records.len() as u64).sum();
    write_share(CollectionWriter::open(root, &collection(), &share_plan(share))?, shards, totals(rows))
}

fn write_shares(root: &Path, shares: &[&str]) {
    shares.iter().for_each(|share| drop(write_of(root, share, &shards(ROWS, 3)).unwrap()));
}

fn write_whole(root: &Path) -> Result<Manifest, Stop> {
    let Opened { mut writer, .. } = CollectionWriter::open(root, &collection(), &plan("m", Existing::Resume))?;
    for shard in shards(ROWS, 3) {
        writer.commit(&shard)?;
    }
    Ok(writer.finish(totals(ROWS))?)
}

/// Changes one byte in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn check_not_merged(root: &Path, expected: &str, unfinished: bool) {
    let before = names(root);
    let error = merge(root).unwrap_err();
    assert_eq!(error.to_string().replace(&format!("{}/", root.display()), ""), expected);
    assert_eq!(error.is_unfinished(), unfinished);
    let mut after = names(root);
    after.retain(|name| name != ".lock");
    assert_eq!(after, before, "nothing is changed");
}

/// The share that a part of the collection is of, among three.
fn owner(part: u64) -> Share {
    Share::all(3).find(|share| crate::domain::Portion::new(*share, &collection()).owns(part)).unwrap()
}

#[test]
fn merging_names_every_share_that_is_not_complete() {
    let root = tempfile::tempdir().unwrap();
    write_shares(root.path(), &["1/3"]);
    let opened = CollectionWriter::open(root.path(), &collection(), &share_plan("2/3")).unwrap();
    let first = shards(ROWS, 3).into_iter().position(|shard| opened.committed.wants(shard.first_row.0)).unwrap();
    let mut check = opened.committed.check();
    let mut writer = opened.writer;
    for shard in &shards(ROWS, 3)[..=first] {
        for record in &shard.records {
            check.push(&InputRow::from(record)).unwrap();
        }
    }
    writer.commit(&shards(ROWS, 3)[first]).unwrap();
    check_not_merged(
        root.path(),
        "nothing is merged yet: share 0/3 is missing (Docling/m); share 2/3 is not complete (Docling/m); run the same \
         command again with --shard 0/3 and with --shard 2/3, and merge then",
        true,
    );
    write_shares(root.path(), &["2/3", "0/3"]);
    assert_eq!(merge(root.path()).unwrap().len(), 1);
    assert!(matches!(merge(root.path()), Err(MergeError::NoShares { .. })));
}

#[test]
fn merging_names_what_is_damaged_and_the_share_that_redoes_it() {
    for file in ["m/part-00003.parquet", "chunks.m.jsonl.SHARE.partial"] {
        let root = tempfile::tempdir().unwrap();
        write_shares(root.path(), &["2/3", "0/3", "1/3"]);
        let share = owner(3);
        let file = file.replace("SHARE", &format!("share-{}-of-3", share.number()));
        damage(&root.path().join("Docling").join(&file));
        check_not_merged(
            root.path(),
            &format!(
                "nothing is merged yet: share {share} is damaged: Docling/{file} has other content than was committed \
                 (Docling/m); run the same command again with --shard {share}, and merge then"
            ),
            false,
        );
        write_shares(root.path(), &[&share.to_string()]);
        merge(root.path()).unwrap();
        assert_eq!(survey(root.path(), Depth::Content).unwrap().state, OutputState::Complete, "{file}");
    }
}

#[test]
fn shares_of_different_inputs_are_never_merged() {
    let root = tempfile::tempdir().unwrap();
    write_shares(root.path(), &["0/3", "1/3"]);
    // Only the last row differs, wherever it belongs.
    let mut other = shards(ROWS, 3);
    other.last_mut().unwrap().records.last_mut().unwrap().metadata = None;
    write_of(root.path(), "2/3", &other).unwrap();
    check_not_merged(
        root.path(),
        "nothing is merged yet: share 2/3 is of another job: it was made of another input than the first share \
         (Docling/m); shares of one job have one input, model and settings; do them anew in another --output-dir",
        false,
    );
    assert_eq!(survey(root.path(), Depth::Lengths).unwrap().state, OutputState::Damaged);
}

#[test]
fn a_share_notices_that_rows_of_others_have_changed_since_it_was_complete() {
    let mut other = shards(ROWS, 3);
    other.last_mut().unwrap().records.last_mut().unwrap().metadata = None;
    for share in Share::all(3) {
        let root = tempfile::tempdir().unwrap();
        write_shares(root.path(), &[&share.to_string()]);
        let error = write_of(root.path(), &share.to_string(), &other).unwrap_err();
        match (error, owner(4) == share) {
            (Stop::Input(InputChanged::Metadata { shard: 4, .. }), true) => {}
            (Stop::Input(InputChanged::SinceShare { share: found }), false) => assert_eq!(found, share),
            (error, _) => panic!("{share}: {error}"),
        }
        let longer = shards(ROWS + 4, 3);
        let error = write_of(root.path(), &share.to_string(), &longer).unwrap_err();
        assert!(matches!(error, Stop::Input(_)), "{share}: {error}");
        write_shares(root.path(), &[&share.to_string()]);
    }
}

#[test]
fn shares_and_whole_outputs_are_never_mixed() {
    #[track_caller]
    fn check<T>(result: Result<T, Stop>, expected: &str) {
        match result {
            Err(Stop::Open(OpenError::Shares(error))) => assert!(error.to_string().contains(expected), "{error}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("not refused"),
        }
    }
    let root = tempfile::tempdir().unwrap();
    write_shares(root.path(), &["0/3"]);
    check(write_of(root.path(), "0/2", &shards(ROWS, 3)), "has share 0/3 already, so that share 0/2 has no place");
    check(write_whole(root.path()), "has a share of a job that was divided into 3 shares");
    let other = Plan { vector_space: "ffff".to_owned(), ..share_plan("1/3") };
    let opened = CollectionWriter::open(root.path(), &collection(), &other);
    assert!(matches!(opened, Err(OpenError::Mismatch { .. })), "another model is refused before any work");

    let fresh = tempfile::tempdir().unwrap();
    write_whole(fresh.path()).unwrap();
    check(write_of(fresh.path(), "1/3", &shards(ROWS, 3)), "share 1/3 has no place beside it");

    let overwrite = plan("m", Existing::Overwrite);
    let Opened { mut writer, .. } = CollectionWriter::open(root.path(), &collection(), &overwrite).unwrap();
    for shard in shards(ROWS, 3) {
        writer.commit(&shard).unwrap();
    }
    writer.finish(totals(ROWS)).unwrap();
    assert_eq!(names(root.path()), names(fresh.path()), "--overwrite throws shares away");
}

#[test]
fn a_share_leaves_the_files_of_others_alone() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("Docling/m");
    write_shares(root.path(), &["1/3"]);
    let others: Vec<PathBuf> = [0_u64, 1, 2, 3, 4]
        .into_iter()
        .filter(|part| owner(*part) != "0/3".parse().unwrap())
        .map(|part| model.join(format!("part-{part:05}.jsonl.partial")))
        .collect();
    others.iter().for_each(|path| fs::write(path, "in progress").unwrap());
    let own = (0..3).find(|part| owner(*part) == "0/3".parse().unwrap()).unwrap();
    let own = model.join(format!("part-{own:05}.npy.partial"));
    fs::write(&own, "left behind").unwrap();
    write_shares(root.path(), &["0/3"]);
    assert!(others.iter().all(|path| path.exists()), "{others:?}");
    assert!(!own.exists());
    write_shares(root.path(), &["2/3"]);
    merge(root.path()).unwrap();
    let whole = tempfile::tempdir().unwrap();
    write_whole(whole.path()).unwrap();
    let mut merged = names(root.path());
    merged.retain(|name| name != ".lock");
    assert_eq!(merged, names(whole.path()));
}

#[track_caller]
fn check_survey(root: &Path, depth: Depth, state: OutputState, expected: &[(&str, &str)]) {
    let survey = survey(root, depth).unwrap();
    let collections = survey.collections.iter();
    let faults = collections.flat_map(|it| it.faults.iter().chain(it.outputs.iter().flat_map(|output| &output.faults)));
    let found: Vec<(String, String)> = faults
        .map(|fault| (fault.path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), fault.what.clone()))
        .collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(path, what)| (path.as_str(), what.as_str())).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((path, what), (expected_path, expected_what)) in found.iter().zip(expected) {
        assert_eq!(path, expected_path);
        assert!(what.contains(expected_what), "{what}");
    }
    assert_eq!(survey.state, state);
}

#[test]
fn a_sound_output_is_sound_in_every_depth_and_state() {
    let root = tempfile::tempdir().unwrap();
    write_whole(root.path()).unwrap();
    check_survey(root.path(), Depth::Lengths, OutputState::Complete, &[]);
    check_survey(root.path(), Depth::Content, OutputState::Complete, &[]);

    let shared = tempfile::tempdir().unwrap();
    write_shares(shared.path(), &["2/3", "0/3"]);
    check_survey(shared.path(), Depth::Content, OutputState::Unfinished, &[]);
    write_shares(shared.path(), &["1/3"]);
    check_survey(shared.path(), Depth::Content, OutputState::Unmerged, &[]);
    merge(shared.path()).unwrap();
    check_survey(shared.path(), Depth::Content, OutputState::Complete, &[]);

    let unfinished = tempfile::tempdir().unwrap();
    let plan = plan("m", Existing::Resume);
    let mut writer = CollectionWriter::open(unfinished.path(), &collection(), &plan).unwrap().writer;
    writer.commit(&shards(ROWS, 3)[0]).unwrap();
    check_survey(unfinished.path(), Depth::Content, OutputState::Unfinished, &[]);
}

#[test]
fn whatever_is_damaged_is_named() {
    let root = tempfile::tempdir().unwrap();
    write_whole(root.path()).unwrap();
    let part = |name: &str| root.path().join("Docling/m").join(name);
    damage(&part("part-00001.arrow"));
    check_survey(root.path(), Depth::Lengths, OutputState::Complete, &[]);
    let changed = "has other content than was committed";
    check_survey(root.path(), Depth::Content, OutputState::Damaged, &[("Docling/m/part-00001.arrow", changed)]);
    fs::remove_file(part("part-00002.jsonl")).unwrap();
    let missing = [("Docling/m/part-00002.jsonl", "is missing")];
    check_survey(root.path(), Depth::Lengths, OutputState::Damaged, &missing);
    let found = survey(root.path(), Depth::Lengths).unwrap();
    let remedy = found.collections[0].outputs[0].remedy.as_deref();
    assert_eq!(remedy, Some("run the same command again: it redoes what is damaged"));

    // Going on mends it.
    write_whole_again(root.path());
    check_survey(root.path(), Depth::Content, OutputState::Complete, &[]);

    let ledger = root.path().join("Docling/chunks.jsonl");
    let text = fs::read_to_string(&ledger).unwrap();
    damage(&ledger);
    let lost = "is missing, or is not the one";
    check_survey(root.path(), Depth::Content, OutputState::Damaged, &[("Docling/chunks.jsonl", lost)]);
    fs::write(&ledger, &text[..text.len() - 1]).unwrap();
    check_survey(root.path(), Depth::Lengths, OutputState::Damaged, &[("Docling/chunks.jsonl", "bytes instead of")]);
    fs::write(&ledger, &text).unwrap();

    fs::write(part("manifest.json"), "{}").unwrap();
    check_survey(
        root.path(),
        Depth::Lengths,
        OutputState::Damaged,
        &[("Docling/m/manifest.json", "is not a manifest")],
    );
}

fn write_whole_again(root: &Path) {
    let opened = CollectionWriter::open(root, &collection(), &plan("m", Existing::Resume)).unwrap();
    let mut writer = opened.writer;
    for shard in shards(ROWS, 3).iter().filter(|shard| opened.committed.wants(shard.first_row.0)) {
        writer.commit(shard).unwrap();
    }
    writer.finish(totals(ROWS)).unwrap();
}

/// Replaces a file and vouches for it in the manifest, so that only its content can tell.
fn forge(directory: &Path, name: &str, change: impl Fn(&str) -> String) {
    let path = directory.join(name);
    let before = fs::read(&path).unwrap();
    let after = change(std::str::from_utf8(&before).unwrap());
    assert_ne!(before, after.as_bytes(), "the change changes nothing");
    fs::write(&path, &after).unwrap();
    let manifest = directory.join(MANIFEST_FILE);
    let digest = |bytes: &[u8]| crate::domain::Digest::of(bytes).to_string();
    let mut json: Manifest = read_manifest(&manifest).unwrap();
    for file in json.shards.iter_mut().flat_map(|shard| &mut shard.files).filter(|file| file.name == name) {
        assert_eq!(file.sha256.to_string(), digest(&before));
        file.bytes = after.len() as u64;
        file.sha256 = digest(after.as_bytes()).parse().unwrap();
    }
    fs::write(&manifest, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
}

#[track_caller]
fn check_forged(change: impl Fn(&str) -> String, expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let plan = Plan { formats: vec![Format::Jsonl], ..plan("m", Existing::Resume) };
    let mut writer = CollectionWriter::open(root.path(), &collection(), &plan).unwrap().writer;
    for shard in shards(ROWS, 3) {
        writer.commit(&shard).unwrap();
    }
    writer.finish(totals(ROWS)).unwrap();
    forge(&root.path().join("Docling/m"), "part-00000.jsonl", change);
    let found = survey(root.path(), Depth::Content).unwrap();
    let remedy = found.collections[0].outputs[0].remedy.as_deref().unwrap();
    assert!(remedy.contains("--overwrite"), "going on would take it for sound: {remedy}");
    check_survey(root.path(), Depth::Content, OutputState::Damaged, &[("Docling/m/part-00000.jsonl", expected)]);
}

#[test]
fn what_a_digest_vouches_for_is_still_held_against_the_ledger() {
    check_forged(|text| text.replacen("chunk 1 ", "chunk 9 ", 1), "row 1 (chunk 9 \"é\") has another id");
    check_forged(|text| text.replacen("\"ok\"", "\"truncated\"", 1), "row 0 (chunk 0 \"é\") has another status");
    check_forged(|text| text.replacen("\"tokens\":7", "\"tokens\":8", 1), "has another status or number of tokens");
    check_forged(
        |text| {
            let start = text.find("\"vector\":[").unwrap() + 9;
            let end = start + text[start..].find(']').unwrap() + 1;
            format!("{}null{}", &text[..start], &text[end..])
        },
        "row 0 (chunk 0 \"é\") has no vector",
    );
    check_forged(
        |text| {
            let start = text.find("\"vector\":[").unwrap() + 9;
            let end = start + text[start..].find(']').unwrap() + 1;
            format!("{}[0.0,0.0,0.0,0.0]{}", &text[..start], &text[end..])
        },
        "row 0 (chunk 0 \"é\") has a vector of zeros",
    );
    check_forged(|text| text.replacen("null", "[1.0,2.0,3.0,4.0]", 1), "row 2 (chunk 2 \"é\") has a vector, though");
}

#[test]
fn formats_that_tell_different_vectors_are_found_out() {
    let root = tempfile::tempdir().unwrap();
    write_whole(root.path()).unwrap();
    let directory = root.path().join("Docling/m");
    forge(&directory, "part-00000.jsonl", |text| text.replacen("[0.", "[1.", 1));
    let expected = [("Docling/m/part-00000.jsonl", "has other vectors than the arrow file")];
    check_survey(root.path(), Depth::Content, OutputState::Damaged, &expected);
}

#[test]
fn files_of_nobody_are_named_and_those_in_progress_are_not() {
    let root = tempfile::tempdir().unwrap();
    write_shares(root.path(), &["0/3"]);
    let write = |name: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    };
    let strange = ["notes.txt", "photos/1.jpg", "Docling/m/thesis.pdf"];
    let left_behind = ["Docling/m/part-00099.npy", "Docling/chunks.other.jsonl.partial"];
    let reports = ["run-summary.json", "run-summary.share-0-of-3.json", "events.jsonl", ".lock"];
    strange.into_iter().chain(left_behind).chain(reports).for_each(write);
    let strays = || -> Vec<(String, StrayKind)> {
        let found = survey(root.path(), Depth::Lengths).unwrap().strays.into_iter();
        found.map(|it| (it.path.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned(), it.kind)).collect()
    };
    let foreign = ["Docling/m/thesis.pdf", "notes.txt", "photos"].map(|name| (name.to_owned(), StrayKind::Foreign));
    let stale = ["Docling/chunks.other.jsonl.partial", "Docling/m/part-00099.npy"]
        .map(|name| (name.to_owned(), StrayKind::Stale));
    let mut all = [foreign.to_vec(), stale.to_vec()].concat();
    all.sort();
    assert_eq!(strays(), all);
    let _lock = OutputLock::acquire_share(root.path(), "1/3".parse().unwrap()).unwrap();
    assert_eq!(strays(), foreign);
    assert_eq!(survey(root.path(), Depth::Lengths).unwrap().written_by.as_deref(), Some("share 1/3"));
}

#[test]
fn a_shard_of_an_input_that_nobody_has_read_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = CollectionWriter::open(root.path(), &collection(), &share_plan("0/1")).unwrap().writer;
    let error = writer.commit(&shard(0, 0, shards(3, 3)[0].records.clone())).unwrap_err();
    assert!(matches!(error, CommitError::Invalid { source: InvalidShard::Unread, .. }), "{error}");
}
