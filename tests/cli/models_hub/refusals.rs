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
    let parts = ["does not serve now", "answer 503", "try again later"];
    parts.iter().for_each(|part| assert!(run.stderr.contains(part), "{part}: {}", run.stderr));
    assert!(!run.stderr.contains("could not be reached"), "{}", run.stderr);
    // Counted from the attempt that brought something.
    assert_eq!(hub.requests_for(WEIGHTS).len(), 5);
    hub.recover();
    check_whole(&home, &hub, &home.pull(&hub));
    assert_eq!(hub.served(WEIGHTS), size_of_weights());
}

#[test]
fn a_file_that_is_shorter_than_it_should_be_is_given_up_though_nothing_says_how_long_it_is() {
    let (home, hub) =
        (Home::new(), Hub::serving("bert-minilm").with(Fault::Unmeasured { path: "tokenizer.json", by: 7 }));
    let run = home.pull(&hub);
    assert_eq!(run.exit_code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("tokenizer.json arrived broken"), "{}", run.stderr);
    // To its end, on from there, once more from the beginning, on from there.
    assert_eq!(hub.requests_for("tokenizer.json").len(), 4);
}

#[test]
fn a_server_that_begins_anew_and_never_gets_further_is_given_up() {
    let after = [4000, 3000, 2000, 3900, 1000, 4000, 500, 5000, 100].to_vec();
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(Fault::Restless { path: WEIGHTS, after }));
    let run = home.pull(&hub);
    assert_eq!(run.exit_code, 5, "{}", run.stderr);
    assert_eq!(hub.requests_for(WEIGHTS).len(), 5, "only the first one brought something");
    // One that gets a little further each time is not.
    let after: Vec<usize> = (1..9).map(|step| step * 1000).collect();
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(Fault::Restless { path: WEIGHTS, after }));
    check_whole(&home, &hub, &home.pull(&hub));
}

#[test]
fn a_hub_that_is_busy_for_long_says_for_how_long() {
    let headers = vec![("Retry-After", "3600".to_owned())];
    let busy = Fault::Status { path: "revision/main", status: 429, times: usize::MAX, headers };
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(busy));
    let run = home.pull(&hub);
    assert_eq!(run.exit_code, 5, "{}", run.stderr);
    let parts = ["has been asked too often; it asks to wait for 1h", "answer 429", "try again in 1h", "HF_TOKEN"];
    parts.iter().for_each(|part| assert!(run.stderr.contains(part), "{part}: {}", run.stderr));
    assert!(!run.stderr.contains("could not be reached") && hub.requests().len() == 1, "{}", run.stderr);
}

#[test]
fn a_model_that_cannot_be_used_is_refused_before_its_weights_are_fetched() {
    for (file, text, expected) in [
        ("config.json", r#"{"model_type": "xlnet", "hidden_size": 32}"#, "config.json: "),
        ("adapter_config.json", "{}", "adapter_config.json: an adapter is not supported"),
    ] {
        let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
        hub.put(file, text.into());
        for run in [home.pull(&hub), home.embed(&hub.endpoint(), "out", &["--model", REPOSITORY])] {
            assert_eq!(run.exit_code, 5, "{}\n{}", run.stdout, run.stderr);
            for part in [expected, "not supported", REPOSITORY, "whose weights were not fetched"] {
                assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
            }
            assert!(!run.stderr.contains("check-"), "{}", run.stderr);
        }
        assert_eq!(hub.requests_for(WEIGHTS).len(), 0);
        let left = std::fs::read_dir(home.path("embed-collections")).into_iter().flatten();
        assert!(!left.flatten().any(|entry| entry.file_name().to_str().unwrap().starts_with("check")));
    }
}

#[test]
fn a_repository_with_an_adapter_alone_is_named_so() {
    let hub = Hub::serving("bert-minilm").without(WEIGHTS).without("pytorch_model.bin");
    hub.put("adapter_config.json", b"{}".to_vec());
    hub.put("adapter_model.safetensors", vec![1; 10]);
    let run = Home::new().pull(&hub);
    assert_eq!(run.exit_code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("it is an adapter for another model"), "{}", run.stderr);
}

#[test]
fn an_endpoint_that_is_no_address_is_named_with_what_one_is() {
    for endpoint in ["huggingface.co", "localhost:8080", "ftp://hub.example"] {
        let run = Home::new().program(endpoint).arguments(&["models", "pull", REPOSITORY]).run();
        assert_eq!(run.exit_code, 5, "{}", run.stderr);
        let named = format!("HF_ENDPOINT is {endpoint:?}");
        for part in [&named, "begins with https://"] {
            assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
        }
    }
}

#[test]
fn a_mirror_without_lists_is_asked_about_each_file() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(Fault::status("recursive=true", 404, usize::MAX)));
    check_whole(&home, &hub, &home.pull(&hub));
    assert!(hub.requests_for(WEIGHTS).iter().any(|request| request.method == "HEAD"));
    assert_eq!(hub.served(WEIGHTS), size_of_weights());
}

#[test]
fn modules_may_be_in_directories_of_any_name() {
    let hub = Hub::serving("bert-minilm").without("1_Pooling/config.json");
    let file = |name: &str| std::fs::read(std::path::Path::new(crate::program::TINY_MODEL).join(name)).unwrap();
    let modules = String::from_utf8(file("modules.json")).unwrap().replace("1_Pooling", "pool");
    hub.put("modules.json", modules.into());
    hub.put("pool/config.json", file("1_Pooling/config.json"));
    let home = Home::new();
    check_whole(&home, &hub, &home.pull(&hub));
    let run = home.embed(&hub.endpoint(), "out", &["--model", REPOSITORY]);
    assert_eq!(run.exit_code, 0, "{}", run.stderr);
}

#[test]
fn what_cannot_be_kept_in_mind_is_said_and_the_model_is_used() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    std::fs::write(home.path("embed-collections"), "no directory").unwrap();
    let run = home.pull(&hub);
    assert_eq!(run.exit_code, 0, "{}\n{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("the hub will be asked again next time"), "{}", run.stdout);
    // Whoever wrote the cache wrote what the revision is; nobody else can write there.
    let refs = home.repository().join("refs");
    let hidden = home.path("refs");
    std::fs::rename(&refs, &hidden).unwrap();
    std::fs::write(&refs, "no directory").unwrap();
    let run = home.pull(&hub);
    assert_eq!(run.exit_code, 0, "{}\n{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("nothing here tells what main is"), "{}", run.stdout);
    assert_eq!(hub.served(WEIGHTS), size_of_weights());
}

#[test]
fn a_pull_of_what_is_here_and_cannot_be_used_says_so() {
    let (home, hub) = (Home::new(), Hub::empty());
    let directory = home.path("xlnet");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("config.json"), r#"{"model_type": "xlnet", "d_model": 32}"#).unwrap();
    let run = home.models(&hub, &["pull", directory.to_str().unwrap()]);
    assert_eq!(run.exit_code, 5, "{}", run.stdout);
    assert!(run.stderr.contains("xlnet") && run.stderr.contains("not supported"), "{}", run.stderr);
}
