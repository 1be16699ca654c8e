//! The committed collections: `Chunked` is what a first-time user runs, `Broken` is all that may be wrong.

use std::collections::BTreeMap;
use std::path::Path;

use embed_collections::collection::{Discovery, Entry, Request, discover};
use embed_collections::domain::{Chunk, ChunkText};

fn discovered(root: &str) -> Discovery {
    discover(&Request { root: Path::new(root), only: &[] }).unwrap()
}

/// One line an entry: `row id text` (`-` without one), `! ` before faults, `? ` before warnings.
fn told(name: &str) -> Vec<String> {
    let discovery = discovered("tests/data/Broken");
    let collection = discovery.collections.iter().find(|collection| collection.name().as_str() == name).unwrap();
    collection
        .read()
        .map(|entry| match entry {
            Entry::Fault(fault) => format!("! {fault}"),
            Entry::Warning(warning) => format!("? {warning}"),
            Entry::Chunk(chunk) => match chunk.text {
                ChunkText::Present(text) => format!("{} {} {text}", chunk.row, chunk.id),
                ChunkText::Unusable { .. } => format!("{} {} -", chunk.row, chunk.id),
            },
        })
        .map(|line| line.replace("tests/data/Broken/", ""))
        .collect()
}

#[track_caller]
fn check(name: &str, expected: &[&str]) {
    assert_eq!(told(name), expected);
}

#[test]
fn the_first_collections_of_a_user_are_without_fault() {
    let discovery = discovered("tests/data/Chunked");
    assert_eq!((discovery.faults, discovery.empty), (vec![], vec![]));
    let mut counts = BTreeMap::new();
    let mut chunks: Vec<Chunk> = Vec::new();
    for collection in &discovery.collections {
        for entry in collection.read() {
            match entry {
                Entry::Chunk(chunk) => chunks.push(chunk),
                told => panic!("{told:?}"),
            }
            *counts.entry(collection.name().as_str()).or_insert(0) += 1;
        }
    }
    let expected = [("field-guide", 25), ("polyglot", 28), ("qa-corpus", 17), ("tidepool", 24)];
    assert_eq!(counts, BTreeMap::from(expected));
    let texts: Vec<_> = chunks
        .iter()
        .map(|chunk| match &chunk.text {
            ChunkText::Present(text) => text.as_str(),
            ChunkText::Unusable { reason } => panic!("{}: {reason}", chunk.id),
        })
        .collect();
    assert_eq!(texts.iter().filter(|text| text.is_empty()).count(), 1);
    assert_eq!(texts.iter().filter(|text| **text == "See also: Rivers.").count(), 3);
    assert_eq!(texts.iter().filter(|text| text.split_whitespace().count() > 256).count(), 3);
    let back_slashes = chunks.iter().filter_map(|chunk| chunk.metadata.as_ref());
    assert!(back_slashes.filter(|metadata| metadata.as_str().contains(r"Docs\\")).count() > 30);
    assert!(chunks.iter().any(|chunk| chunk.extra.is_some()));
}

#[test]
fn beir_titles_stay_in_the_metadata() {
    let discovery = discovered("tests/data/Chunked");
    let corpus = discovery.collections.iter().find(|collection| collection.name().as_str() == "qa-corpus").unwrap();
    let Some(Entry::Chunk(chunk)) = corpus.read().nth(2) else { panic!("the third entry is a chunk") };
    assert_eq!(chunk.id.as_str(), "d3");
    assert!(matches!(chunk.text, ChunkText::Present(text) if text.starts_with("A starter is ready")));
    assert_eq!(chunk.extra.unwrap().as_str(), r#"{"_id":"d3","title":"Sourdough"}"#);
    assert_eq!(chunk.metadata.unwrap().as_str(), "{}");
}

#[test]
fn what_belongs_to_no_collection_is_told() {
    let discovery = discovered("tests/data/Broken");
    assert_eq!(discovery.empty, [Path::new("tests/data/Broken/empty")]);
    let faults: Vec<_> = discovery.faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(faults, ["tests/data/Broken/stray_chunks.json"]);
}

#[test]
fn broken_structure() {
    check(
        "structure",
        &[
            "0 middle-0 The first chunk is whole.",
            "! structure/1-invalid-in-the-middle_chunks.json:3:13 (entry 1): invalid JSON: expected ident",
            "1 1-invalid-in-the-middle_chunks.json#1 -",
            "2 middle-2 The third chunk is read all the same.",
            "3 truncated-0 Written before the disk was full.",
            "! structure/2-truncated_chunks.json:3:35 (entry 1): the file ends too early, in the entry that begins at line 3; the rest of the file is not read",
            "4 3-missing-comma_chunks.json#0 A comma is missing behind this chunk.",
            "! structure/3-missing-comma_chunks.json:3:3: expected `,` or `]` behind an entry",
            "5 3-missing-comma_chunks.json#1 And this one is there.",
            "6 4-lines-named-json.json#0 One object a line, but the name says JSON.",
            "! structure/4-lines-named-json.json:2:1: more follows behind the end of the value and is not read; if each line is a chunk, name the file *.jsonl",
            "7 5-broken-line.jsonl#0 line one",
            "! structure/5-broken-line.jsonl:2:18 (entry 1): invalid JSON: EOF while parsing a string",
            "8 5-broken-line.jsonl#1 -",
            "9 5-broken-line.jsonl#2 line four",
        ],
    );
}

#[test]
fn broken_entries() {
    check(
        "entries",
        &[
            "0 odd-entries.json#0 a string alone is a chunk",
            "! entries/odd-entries.json:3:3 (entry 1): no text: the keys are \"title\", \"id\"",
            "1 no-text -",
            "2 odd-entries.json#2 ",
            "3 odd-entries.json#3  \n\t ",
            "! entries/odd-entries.json:6:3 (entry 4): expected an object or a string, found a number",
            "4 odd-entries.json#4 -",
            "! entries/odd-entries.json:7:3 (entry 5): expected an object or a string, found null",
            "5 odd-entries.json#5 -",
            "! entries/odd-entries.json:8:3 (entry 6): text is a number, not a string",
            "6 odd-entries.json#6 -",
            "! entries/odd-entries.json:9:3 (entry 7): text has the lone surrogate \\ud83d at byte 17, which is not Unicode",
            "7 odd-entries.json#7 -",
            "8 odd-entries.json#8 a lone surrogate in the metadata",
            "9 odd-entries.json#9 a NUL \0 inside",
            "! entries/odd-entries.json:12:66 (entry 10): invalid JSON: expected value (NaN and Infinity are not JSON: write null)",
            "10 odd-entries.json#10 -",
            "11 odd-entries.json#11 the last one is whole",
        ],
    );
}

#[test]
fn odd_encodings() {
    check(
        "encoding",
        &[
            "0 bom-and-crlf.jsonl#0 behind a byte order mark",
            "1 bom-and-crlf.jsonl#1 behind a blank line",
            "2 latin-1.json#0 plain",
            "! encoding/latin-1.json:3:16 (entry 1): invalid UTF-8",
            "3 latin-1.json#1 -",
            "! encoding/not-gzip.json.gz: cannot be read as gzip: invalid gzip header",
            "! encoding/utf-16.json: cannot be read: it is UTF-16; store it as UTF-8",
            "! encoding/zero-bytes.json: the file is empty",
        ],
    );
}

#[test]
fn repeated_ids() {
    check(
        "identity",
        &[
            "0 one first",
            "? identity/a.json:1:34 (entry 1): the collection has had the id \"one\" before; this chunk is called \"a.json#1\"",
            "1 a.json#1 again, in the same file",
            "2 b.json#1 takes the name of a place",
            "? identity/b.json:1:2 (entry 0): the collection has had the id \"one\" before; this chunk is called \"b.json#0\"",
            "3 b.json#0 again, in another file",
            "? identity/b.json:1:51 (entry 1): the collection has had the id \"b.json#1\" before; this chunk is called \"b.json#1#2\"",
            "4 b.json#1#2 its place is taken",
            "? identity/b.json:1:83 (entry 2): id is not used as an id: it is a boolean",
            "5 b.json#2 no id to speak of",
            "6 7.50 a number for an id",
        ],
    );
}

#[test]
fn odd_tables() {
    check(
        "tables",
        &[
            "! tables/no-text.parquet: there is no column text; the columns are id, body",
            "! tables/not-parquet.parquet: cannot be read as parquet: Parquet error: Invalid Parquet file. Corrupt footer",
            "0 a a row with a text",
            "! tables/null-text.parquet (entry 1): text is null, not a string",
            "1 b -",
        ],
    );
}
