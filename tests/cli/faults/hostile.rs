//! Input, names and settings that mean harm: they cost themselves, and nobody and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::models::copy;
use crate::program::{Finished, Program, TINY_MODEL, read_json, read_rows};

/// Clears the screen, changes the colour, sets the title, and one of the C1 controls that some terminals obey.
const ESCAPES: &str = "\u{1b}[2J\u{1b}[31m\u{1b}]0;x\u{7}\r\u{9b}5m";

fn embed(root: &Path) -> Program {
    Program::bare()
        .path("--chunked-dir", &root.join("in"))
        .path("--output-dir", &root.join("out"))
        .arguments(&["--offline", "--force-cpu"])
        .variable("EMBED_LEASE_DIR", root.join("leases").to_str().unwrap())
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join("in").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

#[track_caller]
fn check_plain(run: &Finished) {
    for text in [&run.stdout, &run.stderr] {
        assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
    }
}

/// Names of what is directly in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn hostile_files_cost_only_themselves() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    write(root, "c/a.json", r#"["the first"]"#);
    write(root, "c/b-deep-metadata.json", format!(r#"[{{"text": "deep", "metadata": {deep}}}]"#));
    write(root, "c/c-deep-text.json", format!(r#"[{{"text": {deep}}}]"#));
    write(root, "c/d-deep-file.json", "{\"chunks\":".repeat(1_000_000));
    write(root, "c/y-numbers.json.zst", zstd(format!("[{}0]", "0,".repeat(20_000)).as_bytes()));
    let wide = format!(r#"[{{"text": "wide", "metadata": [{}0]}}]"#, "0,".repeat(5_000_000));
    write(root, "c/f-wide-metadata.json.zst", zstd(wide.as_bytes()));
    // Three hundred million characters out of a few kilobytes.
    let bomb = zstd(format!(r#"[{{"text": "{}"}}, "behind the bomb"]"#, "x".repeat(300_000_000)).as_bytes());
    assert!(bomb.len() < 100_000, "{} bytes", bomb.len());
    write(root, "c/g-bomb.json.zst", bomb);
    symlink("/dev/zero", root.join("in/c/h-device.json")).unwrap();
    symlink(root.join("in/c"), root.join("in/c/i-loop")).unwrap();
    symlink("j-itself.json", root.join("in/c/j-itself.json")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("in/c/k-pipe.jsonl")).status().unwrap().success());
    write(root, "c/l-line\nbreak.json", r#"["line break in the name"]"#);
    write(root, "c/m-keys.json", format!(r#"[{{"text": "keys", {} "z": 1}}]"#, r#""k": 1, "#.repeat(200_000)));
    write(root, "c/z.json", r#"["the last"]"#);
    let mut child = embed(root).arguments(&["--model", TINY_MODEL, "--progress", "none"]).start();
    // Nothing is to be had by waiting for a pipe or a device without an end.
    let start = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > std::time::Duration::from_mins(2) {
            child.kill().unwrap();
            panic!("the program hangs");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    for part in
        ["c-deep-text", "d-deep-file", "longer than 268435456 bytes", "h-device", "i-loop", "j-itself", "a named pipe"]
    {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    let rows = read_rows(&root.join("out/c/bert-minilm"));
    let ok: Vec<&str> =
        rows.iter().filter(|row| row.status != "failed").map(|row| row.id.split('.').next().unwrap()).collect();
    let expected = ["a", "b-deep-metadata", "f-wide-metadata", "g-bomb", "l-line\nbreak", "m-keys", "z"];
    assert_eq!(ok, expected);
    let summary = read_json(&root.join("out/run-summary.json"));
    assert_eq!(summary["collections"][0]["chunks"], rows.len());
    let again = embed(root).arguments(&["--model", TINY_MODEL, "--progress", "none"]).run();
    assert_eq!(again.exit_code, 3, "{}", again.stderr);
    assert_eq!(read_json(&root.join("out/run-summary.json"))["total_embeddings_generated"], 0, "all rows are kept");
}

#[test]
fn nothing_that_a_terminal_would_obey_comes_out_of_names_and_texts() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let quoted = serde_json::to_string(ESCAPES).unwrap();
    let all = format!(r#"[{{"text": {quoted}, "id": {quoted}, {quoted}: {quoted}}}, {{"text": 1, "id": {quoted}}}]"#);
    write(root, &format!("c{ESCAPES}/f{ESCAPES}.json"), &all);
    write(root, "plain/a.json", &all);
    write(root, "plain/raw.json", format!("[\"{ESCAPES}\", \"ok\"]"));
    write(root, &format!("empty{ESCAPES}/x.txt"), "");
    for style in ["plain", "json", "none"] {
        let run = embed(root).arguments(&["--model", TINY_MODEL, "--progress", style, "--overwrite"]).run();
        assert_eq!(run.exit_code, 3, "{}", run.stderr);
        check_plain(&run);
    }
    assert!(names(&root.join("out")).contains(&format!("c{ESCAPES}")), "the name itself is kept");

    // Errors, each with the name of something foreign in it.
    let model = root.join(format!("model{ESCAPES}"));
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), format!(r#"{{"model_type": {quoted}}}"#)).unwrap();
    let config = root.join("settings.toml");
    fs::write(&config, format!("{quoted} = 1\n").replace("\\u0007", "").replace('\u{9b}', "")).unwrap();
    let odd = root.join(format!("out{ESCAPES}"));
    fs::write(&odd, "").unwrap();
    for program in [
        embed(root).arguments(&["--model", &format!("no{ESCAPES}/such")]),
        embed(root).path("--model", &model),
        embed(root).arguments(&["--collections", &format!("no{ESCAPES}")]),
        Program::bare().path("--config", &config),
        Program::bare().path("--chunked-dir", &root.join(format!("in/empty{ESCAPES}"))),
        Program::bare().arguments(&["--chunked-dir", "tests/data/Chunked"]).path("--output-dir", &odd),
        Program::bare().arguments(&["models", "show", "--offline"]).path("--", &model),
        Program::bare().arguments(&["models", "verify", "--offline"]).path("--", &model),
    ] {
        let run = program.run();
        assert!(run.exit_code != 0 && run.stderr.contains("error: "), "{} {}", run.exit_code, run.stderr);
        check_plain(&run);
    }
}

#[test]
fn no_name_leads_out_of_the_output_directory() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for name in ["..evil", "a..b", "back\\slash", "events.jsonl", "~", "$HOME", "-rf", "C:", "%2e%2e"] {
        let id = serde_json::to_string(&format!("../../{name}")).unwrap();
        write(
            root,
            &format!("{name}/x.json"),
            format!(r#"[{{"text": "a", "id": {id}}}, {{"text": "b", "id": "/x"}}]"#),
        );
    }
    let run = embed(root).arguments(&["--model", TINY_MODEL, "--run-id", "../../../evil", "--progress", "none"]);
    let run = run.path("--cache-dir", &root.join("cache/of/vectors")).run();
    // The directory that is called as the list of events is cannot have its output.
    assert!([0, 3, 9].contains(&run.exit_code), "{}: {}", run.exit_code, run.stderr);
    copy(Path::new(TINY_MODEL), &root.join("model..dir"));
    let model = root.join("in/../model..dir");
    let run = embed(root).path("--model", &model).arguments(&["--progress", "none", "--collections", "a..b"]).run();
    assert!([0, 3].contains(&run.exit_code), "{}: {}", run.exit_code, run.stderr);
    let written = names(&root.join("out/a..b"));
    assert!(written.contains(&"model..dir".to_owned()), "{written:?}");
    let kept: Vec<String> = names(root).into_iter().filter(|name| name != "cache" && name != "leases").collect();
    assert_eq!(kept, ["in", "model..dir", "out"]);
    assert!(!root.parent().unwrap().join("evil-0.partial").exists());
}
