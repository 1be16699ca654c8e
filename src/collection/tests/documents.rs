//! JSON and JSON Lines: shapes, faults and their places.

use super::*;

#[test]
fn the_shapes_of_a_json_file() {
    check_file("a.json", r#"["x", {"text": "y"}, {"text": ""}]"#, &["0 a.json#0 x", "1 a.json#1 y", "2 a.json#2 "]);
    check_file("a.json", r#"{"text": "one", "id": "i"}"#, &["0 i one"]);
    check_file("a.json", " \n\"bare\" \r\n", &["0 a.json#0 bare"]);
    check_file("a.json", r#"{"n": 2, "chunks": ["x"], "more": [1]}"#, &["0 a.json#0 x"]);
    check_file("a.json", "[]", &[]);
    check_file("a.json", r#"{"items": []}"#, &[]);
}

#[test]
fn the_first_list_key_that_holds_a_list_wins_wherever_it_stands() {
    check_file("a.json", r#"{"items": ["i"], "data": ["d"], "records": ["r"], "chunks": ["c"]}"#, &["0 a.json#0 c"]);
    check_file("a.json", r#"{"items": ["i"], "records": ["r"], "data": {"chunks": ["no"]}}"#, &["0 a.json#0 r"]);
    check_file("a.json", r#"{"chunks": 3, "items": ["i"]}"#, &["0 a.json#0 i"]);
    check_file("a.json", r#"{"chunks": ["first"], "chunks": ["last"]}"#, &["0 a.json#0 last"]);
    check_file("a.json", r#"{"chunks": ["first"], "data": ["d"], "chunks": null}"#, &["0 a.json#0 d"]);
    check_file("a.json", r#"{"\u0063hunks": ["escaped"]}"#, &["0 a.json#0 escaped"]);
    check_file(
        "a.json",
        r#"{"chunks": 3}"#,
        &[r#"! a.json:1:1 (entry 0): no text: the keys are "chunks""#, "0 a.json#0 -"],
    );
    check_file(
        "a.json",
        r#"{"text": "t", "data": ["d"]}"#,
        &[
            r#"? a.json:1:23: the object has a text of its own beside the list "data"; only the list is read"#,
            "0 a.json#0 d",
        ],
    );
}

#[test]
fn a_broken_entry_fails_alone() {
    check_file(
        "a.json",
        "[\n  {\"text\": \"a\"},\n  {\"text\": nope},\n  7,\n  {\"title\": \"t\", \"id\": \"kept\"},\n  {\"text\": \"z\"}\n]",
        &[
            "0 a.json#0 a",
            "! a.json:3:13 (entry 1): invalid JSON: expected ident",
            "1 a.json#1 -",
            "! a.json:4:3 (entry 2): expected an object or a string, found a number",
            "2 a.json#2 -",
            "! a.json:5:3 (entry 3): no text: the keys are \"title\", \"id\"",
            "3 kept -",
            "4 a.json#4 z",
        ],
    );
}

#[test]
fn lost_structure_is_told_where_it_is_lost_and_what_came_before_stands() {
    let rest = "; the rest of the file is not read";
    check_file(
        "a.json",
        "[\"a\",\n {\"text\": \"b\"",
        &[
            "0 a.json#0 a",
            &format!("! a.json:2:14 (entry 1): the file ends too early, in the entry that begins at line 2{rest}"),
        ],
    );
    check_file("a.json", "[\"a\"", &["0 a.json#0 a", "! a.json:1:5: the file ends inside the list of chunks"]);
    check_file("a.json", "[\"a\",", &["0 a.json#0 a", "! a.json:1:6: the file ends inside the list of chunks"]);
    check_file(
        "a.json",
        "[\"a\",\n {\"text\": [1}},\n \"c\"]",
        &[
            "0 a.json#0 a",
            &format!(
                "! a.json:2:13 (entry 1): a bracket closes what is not open, in the entry that begins at line 2{rest}"
            ),
        ],
    );
    // The missing quote is what is wrong, not the end of the file to which it leads.
    check_file(
        "a.json",
        "[\"a\",\n {\"text\": \"b},\n \"c\"]",
        &[
            "0 a.json#0 a",
            &format!(
                "! a.json:2:14 (entry 1): invalid JSON: control character (\\u0000-\\u001F) found while parsing a \
                 string; then the file ends too early{rest}"
            ),
        ],
    );
    check_file("a.json", "", &["! a.json: the file is empty"]);
    check_file("a.json", " \n ", &["! a.json: the file is empty"]);
    let end = format!("! a.json:1:11 (entry 0): the file ends too early, in the entry that begins at line 1{rest}");
    check_file("a.json", "{\"text\": 1", &[&end]);
}

#[test]
fn punctuation_that_is_wrong_costs_no_entry() {
    let comma = "expected `,` or `]` behind an entry";
    check_file("a.json", r#"["a" "b"]"#, &["0 a.json#0 a", &format!("! a.json:1:6: {comma}"), "1 a.json#1 b"]);
    check_file("a.json", r#"["a",]"#, &["0 a.json#0 a", "! a.json:1:5: expected a chunk behind the comma"]);
    check_file(
        "a.json",
        r#"["a",,"b"]"#,
        &["0 a.json#0 a", "! a.json:1:5: expected a chunk behind the comma", "1 a.json#1 b"],
    );
    check_file("a.json", r#"[,"a"]"#, &["! a.json:1:2: expected a chunk before the comma", "0 a.json#0 a"]);
    let trailing =
        "more follows behind the end of the value and is not read; if each line is a chunk, name the file *.jsonl";
    check_file("a.json", r#"["a"] x"#, &["0 a.json#0 a", &format!("! a.json:1:7: {trailing}")]);
    check_file(
        "a.json",
        "{\"text\": \"a\"}\n{\"text\": \"b\"}",
        &["0 a.json#0 a", &format!("! a.json:2:1: {trailing}")],
    );
    check_file("a.json", r#"{"chunks": ["a"]}]"#, &["0 a.json#0 a", &format!("! a.json:1:18: {trailing}")]);
}

#[test]
fn faults_around_the_list_of_an_object_come_after_its_chunks() {
    check_file("a.json", r#"{"chunks": ["a"]"#, &["0 a.json#0 a", "! a.json:1:17: the file ends too early"]);
    check_file("a.json", r#"{"chunks": ["a"], x: 1}"#, &["0 a.json#0 a", "! a.json:1:19: expected a key in quotes"]);
    check_file(
        "a.json",
        r#"{"chunks": ["a"] "x": 1}"#,
        &["0 a.json#0 a", "! a.json:1:18: expected `,` or `}` behind a value"],
    );
    check_file(
        "a.json",
        r#"{"n" 1, "chunks": ["a"]}"#,
        &["! a.json:1:6 (entry 0): invalid JSON: expected `:`", "0 a.json#0 -"],
    );
    check_file(
        "a.json",
        r#"{"chunks": ["a", "b"#,
        &[
            "0 a.json#0 a",
            "! a.json:1:20 (entry 1): the file ends too early, in the entry that begins at line 1; the rest of the file is not read",
        ],
    );
}

#[test]
fn json_lines_fail_line_by_line() {
    check_file(
        "a.jsonl",
        "\u{feff}{\"text\": \"a\"}\r\n\r\n   \n\"b\"\r\n{\"text\": \"c\"\n[\"d\"]\n{\"_id\": \"e\", \"title\": \"T\", \"text\": \"e\"}",
        &[
            "0 a.jsonl#0 a",
            "1 a.jsonl#1 b",
            "! a.jsonl:5:12 (entry 2): invalid JSON: EOF while parsing an object",
            "2 a.jsonl#2 -",
            "! a.jsonl:6:1 (entry 3): expected an object or a string, found an array",
            "3 a.jsonl#3 -",
            "4 e e",
        ],
    );
    check_file("a.ndjson", "", &[]);
    check_file("a.ndjson", "\n\n", &[]);
}

#[test]
fn ids_that_repeat_are_replaced_and_told() {
    check_file(
        "a.jsonl",
        "{\"id\":\"x\",\"text\":\"1\"}\n{\"id\":\"x\",\"text\":\"2\"}\n{\"id\":\"x\"}\n{\"id\":[],\"text\":\"4\"}\n",
        &[
            "0 x 1",
            "? a.jsonl:2:1 (entry 1): the collection has had the id \"x\" before; this chunk is called \"a.jsonl#1\"",
            "1 a.jsonl#1 2",
            "! a.jsonl:3:1 (entry 2): no text: the keys are \"id\"",
            "? a.jsonl:3:1 (entry 2): the collection has had the id \"x\" before; this chunk is called \"a.jsonl#2\"",
            "2 a.jsonl#2 -",
            "? a.jsonl:4:1 (entry 3): id is not used as an id: it is an array",
            "3 a.jsonl#3 4",
        ],
    );
    let root = Root::with(&[("A/a.json", r#"[{"id":"x","text":"1"}]"#), ("A/b.json", r#"[{"id":"x","text":"2"}]"#)]);
    let collection = &root.discover().collections[0];
    assert_eq!(chunks(collection.read())[1].id.as_str(), "b.json#0");
    assert_eq!(chunks(collection.read()), chunks(collection.read()), "each reading starts anew");
}

#[test]
fn metadata_and_what_stands_beside_it_reach_the_chunk() {
    let root = Root::with(&[(
        "A/a.json",
        r#"[{"text": "a", "metadata": {"chunk_id": "m", "s": 0.8999999999999999}, "advanced_scores": {"b": 1, "a": 2}}]"#,
    )]);
    let chunk = chunks(root.discover().collections[0].read()).remove(0);
    assert_eq!(chunk.id.as_str(), "m");
    assert_eq!(raw(chunk.metadata.as_ref()), Some(r#"{"chunk_id":"m","s":0.8999999999999999}"#));
    assert_eq!(raw(chunk.extra.as_ref()), Some(r#"{"advanced_scores":{"b":1,"a":2}}"#));
}

#[test]
fn a_file_cut_short_anywhere_keeps_the_entries_before_the_cut() {
    let whole = r#"[{"text": "a"}, {"text": "b\\"}, "c\"", {"text": "d", "metadata": {"x": [1, {}]}}]"#;
    let ends: Vec<_> = [r#"{"text": "a"}"#, r#"{"text": "b\\"}"#, r#""c\"""#, r"{}]}}"]
        .map(|entry| whole.find(entry).unwrap() + entry.len())
        .into();
    for cut in 0..whole.len() {
        let told = told_of_file("a.json", &whole.as_bytes()[..cut]);
        let complete = ends.iter().filter(|&&end| end <= cut).count();
        let (faults, chunks): (Vec<_>, Vec<_>) = told.iter().partition(|line| line.starts_with('!'));
        assert_eq!((chunks.len(), faults.len()), (complete, 1), "cut at {cut}: {told:?}");
    }
}
