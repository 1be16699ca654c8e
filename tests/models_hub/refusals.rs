//! What a user is told when the hub does not give a model, or not the right one.

use super::{Home, REPOSITORY, WEIGHTS, check_whole, size_of_weights};
use crate::stand_in_hub::{Fault, Hub};

#[track_caller]
fn check(fault: Fault, name: &str, expected: &[&str]) {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(fault));
    let run = home.models(&hub, &["pull", name]);
    assert_eq!(run.exit_code, 5, "{}\n{}", run.stdout, run.stderr);
    expected.iter().for_each(|part| assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr));
    assert!(!home.repository().join("snapshots").exists(), "{}", run.stderr);
}

fn with_code(path: &'static str, status: u16, code: &str) -> Fault {
    Fault::Status { path, status, times: usize::MAX, headers: vec![("X-Error-Code", code.to_owned())] }
}

#[test]
fn a_gated_model_is_refused_with_what_to_do() {
    for status in [401, 403] {
        let terms = format!("/{REPOSITORY} in a browser");
        check(with_code(WEIGHTS, status, "GatedRepo"), REPOSITORY, &["accepted its terms", &terms, "HF_TOKEN"]);
    }
}

#[test]
fn a_model_that_is_private_or_misspelt_is_refused_with_what_to_do() {
    let misspelt = "someone/bge_m3";
    check(
        with_code("revision/main", 401, "RepoNotFound"),
        misspelt,
        &["there is no such model, or it is private", "HF_TOKEN", "check the name (did you mean bge-m3?)"],
    );
    let absent = ["has no repository someone/bge_m3", "check the name (did you mean bge-m3?)"];
    check(Fault::status("none", 404, 0), misspelt, &absent);
}

#[test]
fn a_revision_or_a_file_that_is_not_there_is_named() {
    check(
        with_code("revision/main", 404, "RevisionNotFound"),
        REPOSITORY,
        &["has no revision main of someone/tiny-bert"],
    );
    check(Fault::status("tokenizer.json", 404, 99), REPOSITORY, &["has no tokenizer.json in", "though it lists it"]);
}

#[test]
fn a_file_of_another_length_or_content_is_refused_and_the_next_pull_starts_it_anew() {
    for (fault, expected) in [
        (Fault::Short { path: WEIGHTS, by: 9 }, "bytes instead of"),
        (Fault::Twisted { path: WEIGHTS }, "arrived broken"),
        (Fault::Twisted { path: "1_Pooling/config.json" }, "1_Pooling/config.json arrived broken"),
    ] {
        check(fault.clone(), REPOSITORY, &[expected]);
        let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(fault));
        assert_eq!(home.pull(&hub).exit_code, 5);
        assert!(!home.blobs().iter().any(|name| name.ends_with("incomplete")), "{:?}", home.blobs());
        hub.recover();
        check_whole(&home, &hub, &home.pull(&hub));
    }
}

#[test]
fn a_beginning_that_is_of_something_else_is_thrown_away() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    let digest = embed_collections::domain::Digest::of(
        &std::fs::read(std::path::Path::new(crate::program::TINY_MODEL).join(WEIGHTS)).unwrap(),
    );
    let partial = home.repository().join(format!("blobs/{digest}.incomplete"));
    for wrong in [vec![1; 1000], vec![1; size_of_weights()], vec![1; size_of_weights() + 1]] {
        let _ = std::fs::remove_dir_all(home.repository());
        std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
        std::fs::write(&partial, wrong).unwrap();
        check_whole(&home, &hub, &home.pull(&hub));
    }
}

#[test]
fn what_never_works_is_given_up_and_what_came_is_kept() {
    let hub = Hub::serving("bert-minilm").with(Fault::Cut { path: WEIGHTS, after: 30_000, times: 1 });
    let hub = hub.with(Fault::status(WEIGHTS, 503, usize::MAX));
    let home = Home::new();
    let run = home.pull(&hub);
    assert_eq!(run.exit_code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("could not be reached") && run.stderr.contains("answer 503"), "{}", run.stderr);
    // Counted from the attempt that brought something.
    assert_eq!(hub.requests_for(WEIGHTS).len(), 5);
    hub.recover();
    check_whole(&home, &hub, &home.pull(&hub));
    assert_eq!(hub.served(WEIGHTS), size_of_weights());
}
