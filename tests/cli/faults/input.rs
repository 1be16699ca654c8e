//! The input changes or cannot be read while it is read: what was read is kept, what was not is told, and nothing of it
//! is taken for the whole.

use std::fs;

use super::rig::{Fault, Rig, UnderFault, committed_rows};
use crate::program::read_json;

const EIO: i32 = 5;

/// The fault is in the input's error list, the run says that it was not as it should be, and a run over the input as it is
/// now has every row.
#[track_caller]
fn check(rig: &Rig, run: &crate::program::Finished, reason: &str) {
    assert_eq!(run.exit_code, 3, "{}", run.stderr);
    assert!(run.stderr.contains("many/m.jsonl") && run.stderr.contains(reason), "{}", run.stderr);
    let summary = read_json(&rig.path("out/run-summary.json"));
    let error = &summary["collections"][0]["loading_errors"][0];
    assert!(error["reason"].as_str().unwrap().contains(reason), "{error}");
    assert_eq!(committed_rows(&rig.path("out")), summary["collections"][0]["chunks"].as_u64().unwrap());
}

#[test]
fn a_file_that_grows_while_it_is_read_is_told() {
    let rig = Rig::new();
    let grows = Fault { times: 1, ..Fault::always("read", "many/m.jsonl", 0) };
    let line = "{\"text\": \"come late\", \"metadata\": {\"chunk_id\": \"late\"}}\n";
    let run = rig.program("out").under(grows).variable("FAULT_RUN", line).run();
    check(&rig, &run, "changed while it was read");
    assert!(fs::read_to_string(rig.path("in/many/m.jsonl")).unwrap().ends_with(line));
    rig.program("grown").succeed();
    rig.program("out").arguments(&["--incremental"]).succeed();
    assert_eq!((committed_rows(&rig.path("out")), committed_rows(&rig.path("grown"))), (201, 201));
}

#[test]
fn what_of_a_file_could_not_be_read_is_embedded_once_it_can_be() {
    let rig = Rig::new();
    let run = rig.program("out").under(Fault { nth: 2, ..Fault::always("read", "many/m.jsonl", EIO) }).run();
    check(&rig, &run, "Input/output error");
    let rows = committed_rows(&rig.path("out"));
    assert!(rows < 200, "{rows}");

    // As all there was it was embedded; that there is more is told, and not passed over.
    let refused = rig.program("out").run();
    assert_eq!(refused.exit_code, 8, "{}", refused.stderr);
    assert!(refused.stderr.contains("the input has grown"), "{}", refused.stderr);
    assert_eq!(committed_rows(&rig.path("out")), rows, "a refusal changes nothing");
    rig.program("out").arguments(&["--incremental"]).succeed();
    rig.check_whole(&rig.path("out"));
}

#[test]
fn an_output_inside_of_the_input_is_refused_before_it_feeds_itself() {
    let rig = Rig::new();
    for output in ["in", "in/out", "in/many", "in/a/b/../c"] {
        let run = rig.program(output).run();
        assert_eq!(run.exit_code, 2, "{}", run.stderr);
        assert!(run.stderr.contains("--output-dir") && run.stderr.contains("inside"), "{}", run.stderr);
    }
    assert_eq!(fs::read_dir(rig.path("in")).unwrap().count(), 1, "nothing was made there");
}
