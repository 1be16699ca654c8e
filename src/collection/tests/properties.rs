//! What holds for any chunks and any damage.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A chunk as (JSON, text): texts with quotes, brackets and line breaks, sometimes bare, sometimes with metadata.
fn entry() -> impl Strategy<Value = (String, String)> {
    let text = proptest::collection::vec(
        prop_oneof![Just('"'), Just('\\'), Just('['), Just('}'), Just(','), Just('\n'), Just('é'), any::<char>()],
        0..12,
    );
    (text, 0..4_u8).prop_map(|(text, shape)| {
        let text: String = text.into_iter().collect();
        let quoted = serde_json::to_string(&text).unwrap();
        let json = match shape {
            0 => quoted,
            1 => format!(r#"{{"text": {quoted}}}"#),
            2 => format!(r#"{{"score":1.0, "text" :{quoted},"metadata":{{"a": [{quoted}, 0.10]}} }}"#),
            _ => format!(r#"{{"title":{quoted},"text":{quoted}}}"#),
        };
        (json, text)
    })
}

fn array(entries: &[(String, String)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(json, _)| json.as_str()).collect();
    format!("[{}]", entries.join(",\n "))
}

/// The chunks of a file without what its name puts into them; panics if anything else is told.
fn content(name: &str, stored: &[u8]) -> Vec<(ChunkText, Option<RawJson>, Option<RawJson>)> {
    let root = Root::new();
    let path = root.write(name, stored);
    let collections = discover(&Request { root: &path, only: &[] }).unwrap().collections;
    collections[0]
        .read()
        .map(|entry| match entry {
            Entry::Chunk(chunk) => (chunk.text, chunk.metadata, chunk.extra),
            told => panic!("{told:?}"),
        })
        .collect()
}

proptest! {
    #[test]
    fn all_ways_to_store_chunks_give_the_same_chunks(entries in proptest::collection::vec(entry(), 0..8)) {
        let array = array(&entries);
        let object = format!(r#"{{"n": [{array}], "data": {array}, "x": "]"}}"#);
        let lines: String = entries.iter().flat_map(|(json, _)| [json.as_str(), "\n"]).collect();
        let expected = content("a.json", array.as_bytes());
        let texts: Vec<_> = entries.iter().map(|(_, text)| ChunkText::Present(text.clone())).collect();
        prop_assert_eq!(expected.iter().map(|(text, ..)| text.clone()).collect::<Vec<_>>(), texts);
        for (name, stored) in [
            ("a.json", object.clone().into_bytes()),
            ("a.jsonl", lines.clone().into_bytes()),
            ("a.ndjson", lines.replace('\n', "\r\n\r\n").into_bytes()),
            ("a.json.gz", gzip(object.as_bytes())),
            ("a.jsonl.gz", gzip(lines.as_bytes())),
            ("a.json.zst", zstd::encode_all(array.as_bytes(), 1).unwrap()),
            ("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap()),
        ] {
            prop_assert_eq!(&content(name, &stored), &expected, "{}", name);
        }
    }

    #[test]
    fn damage_never_panics_and_never_costs_an_earlier_chunk(
        entries in proptest::collection::vec(entry(), 1..8),
        at in any::<Index>(),
        damage in prop_oneof![Just(None), any::<u8>().prop_map(Some), proptest::sample::select(&b"\"\\[]{},:\n"[..]).prop_map(Some)],
        in_lines in any::<bool>(),
    ) {
        let (name, open, between) = if in_lines { ("a.jsonl", "", "\n") } else { ("a.json", "[", ",") };
        let mut stored = open.to_owned();
        let mut ends = Vec::new();
        for (json, _) in &entries {
            stored += json;
            // A line is not over before its line break.
            ends.push(stored.len() + usize::from(in_lines));
            stored += between;
        }
        if !in_lines {
            stored.pop();
            stored.push(']');
        }
        let mut stored = stored.into_bytes();
        // The opening bracket is before every entry, so its loss may cost them all.
        let at = open.len() + at.index(stored.len() - open.len());
        match damage {
            Some(byte) => stored[at] = byte,
            None => drop(stored.remove(at)),
        }
        let root = Root::new();
        let path = root.write(name, &stored);
        let found = chunks(discover(&Request { root: &path, only: &[] }).unwrap().collections[0].read());
        let earlier = ends.iter().filter(|&&end| end <= at).count();
        prop_assert!(found.len() >= earlier);
        for ((_, text), chunk) in entries.iter().zip(&found).take(earlier) {
            prop_assert_eq!(&chunk.text, &ChunkText::Present(text.clone()));
        }
        for (row, chunk) in found.iter().enumerate() {
            prop_assert_eq!(chunk.row.0, row as u64);
        }
    }

    #[test]
    fn any_bytes_are_survived(
        stored in proptest::collection::vec(prop_oneof![proptest::sample::select(&b"\"\\[]{},: \n1nt\xef\xbb\xbf"[..]), any::<u8>()], 0..60),
    ) {
        for name in ["a.json", "a.jsonl", "a.json.gz", "a.json.zst", "a.parquet"] {
            told_of_file(name, &stored);
        }
    }
}
