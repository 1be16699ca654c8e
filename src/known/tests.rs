//! What is stored comes back as it was; what is damaged, of another space or incomplete does not.

use super::*;
use crate::domain::CollectionName;
use crate::output::fixture::{ALL_KINDS, plan, record, shard, with_all_kinds};
use crate::output::{CollectionWriter, Existing, Format, Plan};

const SPACE: &str = "5pace";

fn known(widths: Widths, cache: &Path) -> (Known, Vec<String>) {
    let mut known = Known::new(SPACE, widths);
    let unusable = known.add_cache(cache, "run").iter().map(ToString::to_string).collect();
    (known, unusable)
}

/// Three rows, the second without a vector.
fn rows() -> Shard {
    let records = vec![record("a", RowStatus::Ok), record("b", RowStatus::Empty), record("c", RowStatus::Truncated)];
    shard(0, 0, records)
}

#[track_caller]
fn check(known: &Known, shard: &Shard) {
    for (_, record, vectors) in shard.rows() {
        let found = record.text_sha256.and_then(|text| known.get(&text));
        let expected = vectors.map(|vectors| KnownRow {
            status: record.status,
            tokens: record.tokens,
            dense: vectors.dense.unwrap_or_default().to_vec(),
            sparse: vectors.sparse.cloned(),
            multi: vectors.multi.map(<[f32]>::to_vec),
        });
        assert_eq!(found, expected, "{:?}", record.id);
    }
}

#[test]
fn what_was_learned_is_known_to_this_run_and_to_later_ones() {
    let cache = tempfile::tempdir().unwrap();
    let shard = rows();
    let widths = Widths::dense(shard.dimension);
    let (first, _) = known(widths, cache.path());
    assert_eq!(first.texts(), 0);
    first.learn(&shard).unwrap();
    check(&first, &shard);
    // Nothing of it is news any more.
    first.learn(&shard).unwrap();
    let (second, unusable) = known(widths, cache.path());
    assert_eq!((second.texts(), unusable), (2, vec![]));
    check(&second, &shard);
    assert_eq!(segments(&cache.path().join(SPACE)).unwrap().len(), 1);
}

#[test]
fn every_kind_of_vectors_comes_back() {
    let cache = tempfile::tempdir().unwrap();
    let shard = with_all_kinds(rows());
    known(ALL_KINDS, cache.path()).0.learn(&shard).unwrap();
    check(&known(ALL_KINDS, cache.path()).0, &shard);
    // Of more kinds than are wanted, only these.
    let dense = known(Widths { sparse: None, multi: None, ..ALL_KINDS }, cache.path()).0;
    check(&dense, &rows());
    // And without one that is wanted, none.
    let cache = tempfile::tempdir().unwrap();
    known(Widths::dense(shard.dimension), cache.path()).0.learn(&rows()).unwrap();
    assert_eq!(known(ALL_KINDS, cache.path()).0.texts(), 0);
}

#[test]
fn a_damaged_file_of_the_cache_is_named_and_not_used() {
    let cache = tempfile::tempdir().unwrap();
    let shard = rows();
    known(Widths::dense(shard.dimension), cache.path()).0.learn(&shard).unwrap();
    let path = segments(&cache.path().join(SPACE)).unwrap().remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (found, unusable) = known(Widths::dense(shard.dimension), cache.path());
    assert_eq!(found.texts(), 0);
    assert!(unusable.len() == 1 && unusable[0].contains(&path.display().to_string()), "{unusable:?}");
}

#[test]
fn a_file_of_another_space_or_width_is_not_used() {
    let cache = tempfile::tempdir().unwrap();
    let shard = rows();
    let widths = Widths::dense(shard.dimension);
    known(widths, cache.path()).0.learn(&shard).unwrap();
    let wide = known(Widths::dense(shard.dimension + 1), cache.path());
    assert!(wide.0.texts() == 0 && wide.1[0].contains("other vectors"), "{:?}", wide.1);
    std::fs::rename(cache.path().join(SPACE), cache.path().join("other")).unwrap();
    let mut other = Known::new("other", widths);
    assert_eq!(other.add_cache(cache.path(), "run").len(), 1);
    assert_eq!(other.texts(), 0);
}

#[test]
fn a_file_that_goes_while_it_is_in_use_is_not_known_any_more() {
    let cache = tempfile::tempdir().unwrap();
    let shard = rows();
    let widths = Widths::dense(shard.dimension);
    known(widths, cache.path()).0.learn(&shard).unwrap();
    let (known, _) = known(widths, cache.path());
    std::fs::remove_dir_all(cache.path()).unwrap();
    assert_eq!(known.get(&shard.records[0].text_sha256.unwrap()), None);
}

#[test]
fn outputs_of_every_format_that_names_its_texts_are_known() {
    let shard = rows();
    for format in Format::ALL {
        let root = tempfile::tempdir().unwrap();
        let collection = CollectionName::new("Docling").unwrap();
        let plan = Plan { formats: vec![format], ..plan("m", Existing::Resume) };
        let mut writer = CollectionWriter::open(root.path(), &collection, &plan).unwrap().writer;
        writer.commit(&shard).unwrap();
        let known = Known::new(&plan.vector_space, plan.widths);
        let unusable = known.add_output(writer.directory(), writer.manifest());
        if format == Format::Npy {
            assert!(unusable[0].to_string().contains("npy alone"), "{unusable:?}");
        } else {
            assert_eq!(unusable.len(), 0, "{unusable:?}");
            check(&known, &shard);
        }
    }
}
