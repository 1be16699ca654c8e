//! What is a collection, and what is not.

use super::*;

fn names(discovery: &Discovery) -> Vec<&str> {
    discovery.collections.iter().map(|collection| collection.name().as_str()).collect()
}

fn faults(root: &Root, discovery: &Discovery) -> Vec<String> {
    discovery.faults.iter().map(|fault| format!("{}: {}", root.shown(&fault.path), fault.reason)).collect()
}

#[track_caller]
fn check_error(root: &Path, only: &[&str], expected: &[&str]) {
    let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
    let error = discover(&Request { root, only: &only }).unwrap_err().to_string();
    for part in expected {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn first_level_directories_are_collections_read_in_path_order() {
    let root = Root::with(&[
        ("B/b.json", r#"["b"]"#),
        ("B/a/z.json", r#"["a/z"]"#),
        ("B/a.json", r#"["a."]"#),
        ("B/a-/x.json", r#"["a-/x"]"#),
        ("A/deep/er/x_chunks.json", r#"["x"]"#),
        ("processing_summary.json", "{}"),
        ("A/A_processing_summary.json", "{}"),
        ("A/README.md", "no chunks"),
        ("A/__pycache__/x.json", r#"["no"]"#),
        ("A/.hidden/x.json", r#"["no"]"#),
        (".git/x.json", r#"["no"]"#),
        ("A/.x.json", r#"["no"]"#),
        ("none/.gitkeep", ""),
        ("other/a.txt", ""),
    ]);
    let discovery = root.discover();
    assert_eq!(names(&discovery), ["A", "B"]);
    assert_eq!(discovery.empty, [root.path().join("none"), root.path().join("other")]);
    assert_eq!(faults(&root, &discovery), [""; 0]);
    let (a, b) = (&discovery.collections[0], &discovery.collections[1]);
    assert_eq!((a.files(), a.bytes(), a.other_files()), (1, 5, 1));
    assert_eq!((b.files(), b.root()), (4, &*root.path().join("B")));
    assert_eq!(told(&root, a.read()), ["0 deep/er/x_chunks.json#0 x"]);
    // Component by component: the directory `a` comes before `a-`, and both before `a.json`.
    let order = ["0 a/z.json#0 a/z", "1 a-/x.json#0 a-/x", "2 a.json#0 a.", "3 b.json#0 b"];
    assert_eq!(told(&root, b.read()), order);
}

#[test]
fn a_root_of_chunk_files_alone_is_one_collection() {
    let root = Root::with(&[("Notes/a.jsonl", "\"a\"\n"), ("Notes/empty/.gitkeep", ""), ("Notes/x/y.txt", "")]);
    let directory = root.path().join("Notes");
    let discovery = discover(&Request { root: &directory, only: &[] }).unwrap();
    assert_eq!((names(&discovery), discovery.collections[0].other_files()), (vec!["Notes"], 1));
    assert!(discovery.empty.is_empty());
    assert_eq!(told(&root, discovery.collections[0].read()), ["0 a.jsonl#0 a"]);
    let dots = directory.join("empty/..");
    assert_eq!(names(&discover(&Request { root: &dots, only: &[] }).unwrap()), ["Notes"]);
    let only = ["Notes".to_owned()];
    assert_eq!(names(&discover(&Request { root: &directory, only: &only }).unwrap()), ["Notes"]);
}

#[test]
fn loose_files_beside_collections_are_faults() {
    let root = Root::with(&[("A/a.json", "[]"), ("loose.json", r#"["x"]"#), ("README.md", "")]);
    let discovery = root.discover();
    assert_eq!(names(&discovery), ["A"]);
    let expected = "loose.json: belongs to no collection, because the root has directories with chunk files; move it \
                    into a directory, or give it as the root";
    assert_eq!(faults(&root, &discovery), [expected]);
    let only = ["A".to_owned()];
    assert!(discover(&Request { root: root.path(), only: &only }).unwrap().faults.is_empty());
}

#[test]
fn a_file_given_as_the_root_is_read_whatever_its_name() {
    let root = Root::with(&[
        ("processing_summary.json", r#"["s"]"#),
        (".hidden_chunks.jsonl", "\"h\""),
        ("a.txt", ""),
        ("b/c.json", "[]"),
    ]);
    for (file, name, expected) in [
        ("processing_summary.json", "processing_summary", "0 processing_summary.json#0 s"),
        (".hidden_chunks.jsonl", ".hidden", "0 .hidden_chunks.jsonl#0 h"),
    ] {
        let path = root.path().join(file);
        let discovery = discover(&Request { root: &path, only: &[] }).unwrap();
        assert_eq!((names(&discovery), discovery.collections[0].files()), (vec![name], 1));
        assert_eq!(told(&root, discovery.collections[0].read()), [expected]);
    }
    check_error(&root.path().join("a.txt"), &[], &["a.txt", "neither a directory nor a chunk file", "*.jsonl"]);
}

#[test]
fn only_chooses_and_an_unknown_name_lists_what_exists() {
    let root = Root::with(&[("A/a.json", "[]"), ("B/b.json", "[]"), ("C/c.json", "[]"), ("none/.gitkeep", "")]);
    let only = ["C", "A", "C"].map(str::to_owned);
    assert_eq!(names(&discover(&Request { root: root.path(), only: &only }).unwrap()), ["A", "C"]);
    check_error(root.path(), &["A", "X", "a"], &[r#"no collection "X", "a""#, r#""A", "B", "C""#]);
    check_error(root.path(), &["none"], &["no chunk file"]);
}

#[test]
fn a_root_with_nothing_to_read_says_what_a_root_looks_like() {
    let root = Root::with(&[("none/.gitkeep", ""), ("a.txt", "")]);
    check_error(root.path(), &[], &["no chunk file", "*.parquet", "one directory per collection"]);
    check_error(&root.path().join("none"), &[], &["no chunk file", "none"]);
    check_error(&root.path().join("missing"), &[], &["missing", "cannot be read", "one directory per collection"]);
}

#[cfg(unix)]
#[test]
fn names_that_no_output_directory_can_have_are_faults() {
    use std::os::unix::ffi::OsStrExt;
    let root = Root::with(&[("A/a.json", "[]"), ("b\\c/b.json", "[\"b\"]")]);
    let latin = root.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    std::fs::create_dir(&latin).unwrap();
    std::fs::write(latin.join("c.json"), "[]").unwrap();
    let discovery = root.discover();
    assert_eq!(names(&discovery), ["A"]);
    let reason = "not read: the directory's name cannot be that of an output directory; rename it (1 files)";
    assert_eq!(faults(&root, &discovery), [format!("b\\c: {reason}"), format!("caf\u{fffd}: {reason}")]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_broken_ones_are_told_once() {
    use std::os::unix::fs::symlink;
    let root = Root::with(&[("A/a.json", r#"["a"]"#), ("elsewhere/.b/b.json", r#"["b"]"#)]);
    let (a, path) = (root.path().join("A"), root.path());
    symlink(path, a.join("loop")).unwrap();
    symlink(path.join("nothing"), a.join("gone.json")).unwrap();
    symlink(path.join("nothing"), a.join(".gone.json")).unwrap();
    symlink(path.join("nothing"), path.join("gone")).unwrap();
    symlink(path.join("elsewhere/.b"), path.join("B")).unwrap();
    symlink(path, path.join("round")).unwrap();
    let discovery = root.discover();
    assert_eq!(names(&discovery), ["A", "B"]);
    let shown = path.canonicalize().unwrap().display().to_string();
    let expected =
        ["gone: a symbolic link to nothing".to_owned(), format!("round: a symbolic link that leads back to {shown}")];
    assert_eq!(faults(&root, &discovery), expected);
    let expected = [
        "0 a.json#0 a".to_owned(),
        "! A/gone.json: a symbolic link to nothing".to_owned(),
        format!("! A/loop: a symbolic link that leads back to {}", path.canonicalize().unwrap().display()),
    ];
    assert_eq!(told(&root, discovery.collections[0].read()), expected);
    assert_eq!(told(&root, discovery.collections[1].read()), ["0 b.json#0 b"]);
}
