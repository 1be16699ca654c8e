//! Models of a hub as a user has them: pulled, shown, verified, embedded with and exported, while the hub misbehaves.

mod carried;
mod no_network;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::program::{Finished, Program, TINY_MODEL, check_schema, read_json};
use crate::stand_in_hub::{COMMIT, Fault, Hub, REPOSITORY};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// One user's home, in which nothing is.
struct Home {
    root: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A command of this user, who knows one hub.
    fn program(&self, hub: &str) -> Program {
        let root = self.root.path().to_str().unwrap();
        let program = Program::bare().variable("HOME", root).variable("XDG_CACHE_HOME", root).variable("HF_HOME", root);
        let program = program.variable("HF_HUB_CACHE", "").variable("HF_ENDPOINT", hub).variable("HF_TOKEN_PATH", "");
        program.variable("EMBED_LEASE_DIR", self.path("leases").to_str().unwrap())
    }

    fn models(&self, hub: &Hub, arguments: &[&str]) -> Finished {
        self.program(&hub.endpoint()).arguments(&["models"]).arguments(arguments).run()
    }

    fn pull(&self, hub: &Hub) -> Finished {
        self.models(hub, &["pull", REPOSITORY])
    }

    fn embed(&self, endpoint: &str, output: &str, arguments: &[&str]) -> Finished {
        let program = self.program(endpoint).arguments(&["--chunked-dir", "tests/data/Chunked"]).arguments(arguments);
        program.path("--output-dir", &self.path(output)).run()
    }

    fn repository(&self) -> PathBuf {
        self.path("hub/models--someone--tiny-bert")
    }

    /// Names of what the cache holds of the repository's files.
    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.repository().join("blobs")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn size_of_weights() -> usize {
    let bytes = fs::metadata(Path::new(TINY_MODEL).join(WEIGHTS)).unwrap().len();
    usize::try_from(bytes).unwrap()
}

#[track_caller]
fn check_whole(home: &Home, hub: &Hub, pulled: &Finished) {
    assert_eq!(pulled.exit_code, 0, "{}\n{}", pulled.stdout, pulled.stderr);
    let verified = home.models(hub, &["verify", REPOSITORY, "--offline"]);
    assert_eq!(verified.exit_code, 0, "{}\n{}", verified.stdout, verified.stderr);
    assert!(verified.stdout.contains("checked against the hub"), "{}", verified.stdout);
    let blobs = home.blobs();
    assert!(!blobs.iter().any(|name| name.ends_with("incomplete")), "{blobs:?}");
}

#[track_caller]
fn json(run: &Finished) -> Value {
    let value: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout));
    check_schema("models.schema.json", &value);
    value
}

#[test]
fn a_pull_says_what_the_branch_is_and_how_to_keep_to_it() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    let pulled = home.pull(&hub);
    check_whole(&home, &hub, &pulled);
    assert!(pulled.stdout.contains(&format!("main is not pinned, and is {COMMIT} now")), "{}", pulled.stdout);
    let pulled = json(&home.models(&hub, &["pull", REPOSITORY, "--json"]));
    let file = home.path("models.toml");
    fs::write(&file, pulled["pin"].as_str().unwrap()).unwrap();
    let again = home.models(&hub, &["pull", "tiny-bert", "--offline", "--models-file", file.to_str().unwrap()]);
    assert_eq!(again.exit_code, 0, "{}", again.stderr);
    assert!(again.stdout.contains(COMMIT) && !again.stdout.contains("not pinned"), "{}", again.stdout);
    let row = format!("hub = \"{REPOSITORY}\"");
    assert!(pulled["pin"].as_str().unwrap().contains(&row), "{pulled}");
}

#[test]
fn a_run_records_the_commit_that_the_hub_gave() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    let run = home.embed(&hub.endpoint(), "out", &["--model", REPOSITORY]);
    assert_eq!(run.exit_code, 0, "{}", run.stderr);
    let summary = read_json(&home.path("out/run-summary.json"));
    assert_eq!(summary["passes"][0]["revision"], COMMIT, "{summary}");
    // Offline it is still known.
    let run = home.embed("http://127.0.0.1:9", "out-offline", &["--model", REPOSITORY, "--offline"]);
    assert_eq!(run.exit_code, 0, "{}", run.stderr);
    assert_eq!(read_json(&home.path("out-offline/run-summary.json"))["passes"][0]["revision"], COMMIT);
}

#[test]
fn a_cut_connection_is_gone_on_with_where_it_was_cut() {
    let cut = Fault::Cut { path: WEIGHTS, after: 50_000, times: 3 };
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(cut));
    check_whole(&home, &hub, &home.pull(&hub));
    let ranges: Vec<_> = hub
        .requests_for(WEIGHTS)
        .iter()
        .map(|request| request.headers.get("range").cloned().unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=50000-", "bytes=100000-", "bytes=150000-"]);
    assert_eq!(hub.served(WEIGHTS), size_of_weights(), "no byte comes twice");
}

#[test]
fn a_server_that_knows_no_ranges_is_asked_for_all_of_it_again() {
    let cut = Fault::Cut { path: WEIGHTS, after: 50_000, times: 1 };
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(cut).with(Fault::NoRanges));
    check_whole(&home, &hub, &home.pull(&hub));
    assert_eq!(hub.served(WEIGHTS), size_of_weights() + 50_000);
}

#[test]
fn errors_of_the_server_are_waited_out_with_growing_delays() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(Fault::status(WEIGHTS, 500, 2)));
    let hub = hub.with(Fault::status("revision/main", 502, 1));
    let pulled = home.pull(&hub);
    check_whole(&home, &hub, &pulled);
    let times: Vec<Instant> = hub.requests_for(WEIGHTS).iter().map(|request| request.at).collect();
    assert_eq!(times.len(), 3);
    assert!(times[1] - times[0] >= Duration::from_millis(500) && times[2] - times[1] >= Duration::from_secs(1));
    assert!(pulled.stderr.contains("answer 500: said no; asking again in 0.5 s"), "{}", pulled.stderr);
}

#[test]
fn a_hub_that_has_had_too_many_questions_is_let_alone_as_long_as_it_says() {
    for (path, headers) in
        [(WEIGHTS, ("Retry-After", "2".to_owned())), ("revision/main", ("RateLimit", "\"api\";r=0;t=2".to_owned()))]
    {
        let busy = Fault::Status { path, status: 429, times: 1, headers: vec![headers] };
        let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(busy));
        let pulled = home.pull(&hub);
        check_whole(&home, &hub, &pulled);
        let times: Vec<Instant> = hub.requests_for(path).iter().map(|request| request.at).collect();
        assert_eq!(times.len(), 2, "{path}");
        assert!(times[1] - times[0] >= Duration::from_secs(2), "{:?}", times[1] - times[0]);
        assert!(pulled.stderr.contains("asking again in 2 s"), "{}", pulled.stderr);
    }
}

#[test]
fn redirects_are_followed_and_the_token_stays_with_the_hub() {
    let elsewhere = Hub::serving("bert-minilm").with(Fault::Cut { path: WEIGHTS, after: 50_000, times: 1 });
    let away = format!("{}/elsewhere/{WEIGHTS}", elsewhere.endpoint());
    let hub = Hub::serving("bert-minilm").with(Fault::Redirect {
        path: "resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors",
        location: away,
    });
    let hub = hub.with(Fault::Redirect {
        path: "resolve/0123456789abcdef0123456789abcdef01234567/vocab.txt",
        location: "/elsewhere/vocab.txt".to_owned(),
    });
    let home = Home::new();
    let pulled = home
        .program(&hub.endpoint())
        .arguments(&["models", "pull", REPOSITORY])
        .variable("HF_TOKEN", "hf_secret")
        .run();
    check_whole(&home, &hub, &pulled);
    assert!(hub.requests().iter().all(|request| request.headers.contains_key("authorization")));
    let away = elsewhere.requests();
    assert_eq!(away.len(), 2);
    assert!(away.iter().all(|request| !request.headers.contains_key("authorization")), "{away:#?}");
    assert_eq!(elsewhere.served(WEIGHTS), size_of_weights(), "a redirect keeps the range");
}

#[test]
fn a_token_that_was_stored_at_login_is_used() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    fs::write(home.path("token"), "hf_stored\n").unwrap();
    check_whole(&home, &hub, &home.pull(&hub));
    assert!(hub.requests().iter().all(|request| request.headers["authorization"] == "bearer hf_stored"));
}

#[test]
fn a_token_from_the_environment_needs_not_be_clean_nor_have_the_newer_name() {
    for (name, token) in [("HF_TOKEN", " hf_copied\n"), ("HUGGING_FACE_HUB_TOKEN", "hf_copied")] {
        let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
        let program = home.program(&hub.endpoint()).arguments(&["models", "pull", REPOSITORY]);
        check_whole(&home, &hub, &program.variable(name, token).run());
        assert!(hub.requests().iter().all(|request| request.headers["authorization"] == "bearer hf_copied"));
    }
}

#[test]
fn progress_of_a_slow_file_is_told_in_lines() {
    let slow = Fault::Slow { path: WEIGHTS, bytes_per_second: 28_000 };
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(slow));
    let pulled = home.pull(&hub);
    check_whole(&home, &hub, &pulled);
    let line = pulled.stderr.lines().find(|line| line.starts_with("fetching model.safetensors: "));
    let line = line.unwrap_or_else(|| panic!("{}", pulled.stderr));
    assert!(line.contains("of 0.2 MB") && line.ends_with("left"), "{line}");
}

#[test]
fn a_pull_that_is_killed_leaves_no_model_and_the_next_one_goes_on() {
    let slow = Fault::Slow { path: WEIGHTS, bytes_per_second: 50_000 };
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(slow));
    let mut pull = home.program(&hub.endpoint()).arguments(&["models", "pull", REPOSITORY]).start();
    while hub.served(WEIGHTS) < 60_000 {
        assert!(pull.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SIGKILL, which nothing can prepare for.
    pull.kill().unwrap();
    pull.wait().unwrap();
    let before = hub.served(WEIGHTS);
    for arguments in [&["verify", REPOSITORY][..], &["pull", REPOSITORY, "--offline"]] {
        let run = home.models(&hub, arguments);
        assert_eq!(run.exit_code, 5, "{}\n{}", run.stdout, run.stderr);
    }
    assert!(!home.repository().join("snapshots").exists());
    hub.recover();
    let pulled = home.pull(&hub);
    check_whole(&home, &hub, &pulled);
    assert!(pulled.stderr.contains("are here; going on after them"), "{}", pulled.stderr);
    let again = hub.served(WEIGHTS) - before;
    // What the kernel held for the process at its end is lost.
    assert!(again < size_of_weights() - 20_000, "{again} of {} bytes came again", size_of_weights());
}

#[test]
fn two_pulls_at_once_fetch_every_file_once() {
    let slow = Fault::Slow { path: WEIGHTS, bytes_per_second: 150_000 };
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm").with(slow));
    let runs: Vec<Finished> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| home.pull(&hub))).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    runs.iter().for_each(|run| check_whole(&home, &hub, run));
    assert_eq!(hub.served(WEIGHTS), size_of_weights());
    assert!(runs.iter().any(|run| run.stderr.contains("another program is fetching")), "{}", runs[0].stderr);
}

#[test]
fn a_model_is_shown_before_its_weights_are_here() {
    let (home, hub) = (Home::new(), Hub::serving("bert-bge"));
    let shown = home.models(&hub, &["show", REPOSITORY, "--json"]);
    assert_eq!(shown.exit_code, 0, "{}", shown.stderr);
    let shown = json(&shown);
    let files = &shown["files"];
    assert_eq!((&files["directory"], &files["pooling"]), (&Value::Null, &json!(["cls"])));
    assert_eq!((&files["commit"], &files["architecture"]), (&json!(COMMIT), &json!("bert")));
    assert!(files["bytes_to_fetch"].as_u64().unwrap() > 180_000, "{files}");
    let asked = hub.requests();
    assert!(!asked.iter().any(|request| request.path.ends_with("safetensors")), "{asked:#?}");
    assert!(asked.iter().any(|request| request.path.ends_with("/config.json")), "{asked:#?}");
    let text = home.models(&hub, &["show", REPOSITORY]).stdout;
    assert!(text.contains("not on this machine") && text.contains("fetches 0.2 MB"), "{text}");
    // What was fetched is not fetched again, and is no model.
    let count = hub.requests_for("tokenizer.json").len();
    assert_eq!(home.models(&hub, &["verify", REPOSITORY]).exit_code, 5);
    check_whole(&home, &hub, &home.pull(&hub));
    assert_eq!((count, hub.requests_for("tokenizer.json").len()), (1, 1));
    assert!(
        !fs::read_dir(home.path("embed-collections"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_str().unwrap().starts_with("peek") })
    );
}

#[test]
fn a_length_above_the_models_limit_is_refused_with_its_place_and_the_way_out() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    let run = home.embed(&hub.endpoint(), "out", &["--model", REPOSITORY, "--max-length", "90"]);
    assert_eq!(run.exit_code, 2, "{}", run.stderr);
    let parts = ["80 tokens", "max_seq_length in ", "sentence_bert_config.json", "96 positions", "models export"];
    parts.iter().for_each(|part| assert!(run.stderr.contains(part), "{part}: {}", run.stderr));
    // The way out leads out.
    let copy = home.path("copy");
    let exported = home.models(&hub, &["export", REPOSITORY, "--to", copy.to_str().unwrap()]);
    assert_eq!(exported.exit_code, 0, "{}", exported.stderr);
    fs::write(copy.join("sentence_bert_config.json"), r#"{"max_seq_length": 96}"#).unwrap();
    let run = home.embed(&hub.endpoint(), "out", &["--model", copy.to_str().unwrap(), "--max-length", "90"]);
    assert_eq!(run.exit_code, 0, "{}", run.stderr);
}
