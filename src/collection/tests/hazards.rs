//! What real disks and hostile files do.

use super::*;
use crate::collection::reader::CollectionReader;

#[test]
fn encodings_are_told_apart() {
    check_file("a.json", b"\xef\xbb\xbf[\"bom\"]", &["0 a.json#0 bom"]);
    check_file("a.json", b"\xff\xfe[\0]\0", &["! a.json: cannot be read: it is UTF-16; store it as UTF-8"]);
    check_file("a.jsonl", b"\xfe\xff\0\"", &["! a.jsonl: cannot be read: it is UTF-16; store it as UTF-8"]);
    check_file(
        "a.json",
        b"[\"a\", \"b\xe9\", \"c\"]",
        &["0 a.json#0 a", "! a.json:1:9 (entry 1): invalid UTF-8", "1 a.json#1 -", "2 a.json#2 c"],
    );
    check_file("a.json", br#"["nul \u0000"]"#, &["0 a.json#0 nul \0"]);
}

#[test]
fn compressed_files_are_read_and_damaged_ones_told() {
    let array = br#"["a", "b"]"#;
    check_file("a.json.gz", gzip(array), &["0 a.json.gz#0 a", "1 a.json.gz#1 b"]);
    check_file("a.json.zst", zstd::encode_all(&array[..], 3).unwrap(), &["0 a.json.zst#0 a", "1 a.json.zst#1 b"]);
    let members = [gzip(b"\"a\"\n"), gzip(b"\"b\"\n")].concat();
    check_file("a.jsonl.gz", members, &["0 a.jsonl.gz#0 a", "1 a.jsonl.gz#1 b"]);
    let object = br#"{"chunks": ["a"]}"#;
    check_file("a.json.gz", gzip(object), &["0 a.json.gz#0 a"]);
    check_file("a.json.gz", array, &["! a.json.gz: cannot be read as gzip: invalid gzip header"]);
    let told = told_of_file("a.jsonl.zst", b"plain\n");
    assert!(told.len() == 1 && told[0].starts_with("! a.jsonl.zst: cannot be read as zstd: "), "{told:?}");
}

#[test]
fn a_compressed_file_cut_short_keeps_what_came_before() {
    let mut lines = String::new();
    for line in 0..20_000_u64 {
        lines.extend(["\"", &line.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_string(), "\"\n"]);
    }
    for (name, mut stored) in
        [("a.jsonl.gz", gzip(lines.as_bytes())), ("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap())]
    {
        stored.truncate(stored.len() / 2);
        let told = told_of_file(name, &stored);
        let (last, chunks) = told.split_last().unwrap();
        assert!(chunks.len() > 1_000, "{name}: {}", chunks.len());
        assert!(chunks.iter().all(|line| !line.starts_with('!')), "{name}");
        assert!(last.starts_with("! ") && last.contains("cannot be read as"), "{name}: {last}");
    }
}

#[test]
fn an_entry_beyond_the_limit_fails_and_the_next_is_read() {
    let root = Root::new();
    let long = "x".repeat(50);
    for (name, content) in [
        ("a.json", format!("[\"a\", {{\"text\": \"{long}\"}}, \"c\"]")),
        ("a.jsonl", format!("\"a\"\n{{\"text\": \"{long}\"}}\n\"c\"\n")),
    ] {
        let path = root.write(name, content.as_bytes());
        let told = told(&root, CollectionReader::new(&path, 20));
        assert!(told[1].ends_with("(entry 1): longer than 20 bytes"), "{told:?}");
        assert_eq!(
            [&told[0], &told[2], &told[3]],
            [&format!("0 {name}#0 a"), &format!("1 {name}#1 -"), &format!("2 {name}#2 c")]
        );
    }
}

#[test]
fn a_line_of_exactly_the_limit_is_read() {
    let root = Root::new();
    for end in ["", "\n"] {
        let path = root.write("a.jsonl", format!("\"{}\"{end}", "x".repeat(18)).as_bytes());
        assert_eq!(told(&root, CollectionReader::new(&path, 20)), [format!("0 a.jsonl#0 {}", "x".repeat(18))]);
    }
}

#[test]
fn deep_nesting_is_no_danger() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    check_file("a.json", format!(r#"[{{"text": "a", "metadata": {deep}}}, "b"]"#), &["0 a.json#0 a", "1 a.json#1 b"]);
    check_file("a.json", format!(r#"{{"meta": {deep}, "chunks": ["b"]}}"#), &["0 a.json#0 b"]);
    let told = told_of_file("a.json", "[".repeat(2_000_000).as_bytes());
    assert!(told.len() == 1 && told[0].contains("nested too deep"), "{told:?}");
}

#[test]
fn progress_counts_stored_bytes_once() {
    let lines = "{\"text\": \"something\"}\n".repeat(10_000);
    let root = Root::new();
    root.write("A/a.jsonl.gz", &gzip(lines.as_bytes()));
    root.write("A/b.json", format!("{{\"chunks\": [{}\"x\"]}}", "\"y\",".repeat(50_000)).as_bytes());
    let collection = &root.discover().collections[0];
    let mut reader = collection.read();
    let mut last = reader.bytes_read();
    assert_eq!(last, 0);
    while reader.next().is_some() {
        assert!(reader.bytes_read() >= last, "progress goes forward");
        last = reader.bytes_read();
    }
    assert_eq!(last, collection.bytes());
}

#[test]
fn files_that_change_or_vanish_are_told_and_the_next_is_read() {
    let root = Root::new();
    for name in ["A/a.jsonl", "A/b.jsonl", "A/c.jsonl"] {
        root.write(name, b"\"1\"\n\"2\"\n");
    }
    let mut reader = root.discover().collections[0].read();
    let first = reader.next();
    root.write("A/a.jsonl", b"\"1\"\n");
    std::fs::remove_file(root.path().join("A/b.jsonl")).unwrap();
    let told = told(&root, first.into_iter().chain(reader));
    let (before, after) = (&told[..3], &told[3..]);
    assert_eq!(
        before,
        ["0 a.jsonl#0 1", "1 a.jsonl#1 2", "! A/a.jsonl: changed while it was read: 8 bytes at first, 4 at the end"]
    );
    assert!(after[0].starts_with("! A/b.jsonl: cannot be "), "{told:?}");
    assert_eq!(after[1..], ["2 c.jsonl#0 1", "3 c.jsonl#1 2"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_sockets_are_never_opened() {
    let root = Root::with(&[("A/c.json", r#"["c"]"#)]);
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("A/a.json")).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(root.path().join("A/editor.sock")).unwrap();
    let pipe = root.path().join("A/b.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let collection = &root.discover().collections[0];
    assert_eq!((collection.files(), collection.other_files()), (1, 1));
    assert_eq!(
        told(&root, collection.read()),
        [
            "! A/a.json: a socket, not a regular file; it is not opened",
            "! A/b.jsonl: a named pipe, not a regular file; it is not opened",
            "0 c.json#0 c",
        ]
    );
    assert!(matches!(discover(&Request { root: &pipe, only: &[] }), Err(DiscoverError::NotChunks { .. })));
}

#[cfg(unix)]
#[test]
fn a_file_name_that_is_not_utf8_is_read_and_told() {
    use std::os::unix::ffi::OsStrExt;
    let root = Root::with(&[("A/a.json", r#"["a"]"#)]);
    for name in [&b"caf\xe9.json"[..], b"caf\xe8.json"] {
        std::fs::write(root.path().join("A").join(std::ffi::OsStr::from_bytes(name)), r#"["c"]"#).unwrap();
    }
    let told = told(&root, root.discover().collections[0].read());
    let warning = "? A/caf\u{fffd}.json: the name is not UTF-8; ids and sources call the file \"caf\u{fffd}.json\"";
    assert_eq!(told[..4], ["0 a.json#0 a", warning, "1 caf\u{fffd}.json#0 c", warning]);
    assert_eq!(told[5], "2 caf\u{fffd}.json#0#2 c");
}

#[test]
fn a_reader_can_move_to_another_thread() {
    let root = Root::with(&[("A/a.json", r#"["a"]"#)]);
    let reader = root.discover().collections[0].read();
    assert_eq!(std::thread::spawn(move || reader.count()).join().unwrap(), 1);
}
