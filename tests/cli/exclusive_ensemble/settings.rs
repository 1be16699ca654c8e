//! How an ensemble is asked for: flags, variables, machines.

use embed_collections::config::Mode;
use embed_collections::embedder::{EmbedError, Embedder, EnsembleConfig};
use embed_collections::pipeline::StopSwitch;
use serde_json::json;

use super::rig::{MODELS, Rig, ensemble, model};
use crate::program::{Finished, Program};

fn program(rig: &Rig, output: &str) -> Program {
    Program::new(&rig.path(output)).arguments(&["--offline"]).path("--lease-dir", &rig.leases())
}

fn models() -> String {
    MODELS.map(model).join(" ")
}

#[track_caller]
fn check_usage(run: &Finished, message: &[&str]) {
    assert_eq!(run.exit_code, 2, "{}", run.stderr);
    for part in message {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn the_environment_asks_for_it_and_the_command_line_wins() {
    let rig = Rig::cpu();
    program(&rig, "out")
        .variable("EMBEDDER_EXCLUSIVE_ENSEMBLE", "1")
        .variable("EMBEDDER_SEQUENTIAL_ENSEMBLE", "yes")
        .variable("EMBEDDER_ENSEMBLE_MODELS", &models())
        .variable("EMBEDDER_SEQUENTIAL_DEVICES", "cpu:0")
        .variable("EMBEDDER_SEQUENTIAL_DATA_PARALLEL", "on")
        .variable("EMBEDDER_FUSION", "none")
        .succeed();
    let summary = rig.summary("out");
    assert_eq!((&summary["ensemble_mode"], &summary["models_executed"]), (&json!("exclusive"), &json!(MODELS)));
    assert_eq!(summary["config_provenance"]["exclusive_ensemble"], "environment EMBEDDER_EXCLUSIVE_ENSEMBLE");
    assert_eq!(summary["fusion"], json!(null));
    program(&rig, "other")
        .arguments(&["--no-exclusive-ensemble", "--ensemble-models", &model(MODELS[0]), &model(MODELS[2])])
        .variable("EMBEDDER_EXCLUSIVE_ENSEMBLE", "1")
        .variable("EMBEDDER_ENSEMBLE_MODELS", &models())
        .succeed();
    let summary = rig.summary("other");
    assert_eq!(
        (&summary["ensemble_mode"], &summary["models_executed"]),
        (&json!("sequential"), &json!([MODELS[0], MODELS[2]]))
    );
}

#[test]
fn contradictions_are_refused_by_name() {
    let rig = Rig::cpu();
    let exclusive =
        || program(&rig, "out").arguments(&["--exclusive-ensemble", "--ensemble-models", &model(MODELS[0])]);
    let run = exclusive().variable("EMBEDDER_SEQUENTIAL_ENSEMBLE", "0").run();
    check_usage(&run, &["--exclusive-ensemble", "EMBEDDER_SEQUENTIAL_ENSEMBLE", "contradict"]);
    check_usage(&exclusive().arguments(&["--strategy", "parallel"]).run(), &["parallel", "rotate", "exclusive"]);
    check_usage(&exclusive().arguments(&["--strategy", "rotate"]).run(), &["--strategy", "contradict"]);
    let weights = exclusive().arguments(&["--ensemble-weights", "nobody=1"]).run();
    check_usage(&weights, &["--ensemble-weights", "there is none for"]);
    assert!(!rig.path("out").exists(), "nothing is begun");
}

#[test]
fn dimensions_that_differ_are_refused_before_any_work() {
    let rig = Rig::cpu();
    let run = program(&rig, "out")
        .arguments(&["--exclusive-ensemble", "--ensemble-models", &model(MODELS[0]), &model(MODELS[1])])
        .arguments(&["--truncate-dim", "bert-bge=8"])
        .run();
    check_usage(&run, &["bert-minilm", "32", "bert-bge", "8", "--truncate-dim", "concat"]);
    let events = rig.events("out");
    assert!(!events.iter().any(|event| event["event_type"] == "acquire" || event["event_type"] == "pass_started"));
}

#[test]
fn two_models_of_one_name_are_refused() {
    let rig = Rig::cpu();
    std::os::unix::fs::symlink(std::env::current_dir().unwrap().join(model(MODELS[0])), rig.path("link")).unwrap();
    let models = vec![model(MODELS[0]), rig.path("link").to_str().unwrap().to_owned()];
    let config = EnsembleConfig { ensemble_models: models, ..ensemble(Mode::Exclusive) };
    let embedder = Embedder::of_program(rig.settings(config, "out")).unwrap();
    let outcome = embedder.run(&StopSwitch::default(), &embed_collections::telemetry::event::Observers::default());
    assert!(matches!(outcome, Err(EmbedError::SameName { .. })), "{outcome:?}");
}

#[test]
fn kaggle_turns_exclusive_turns_on_and_says_so() {
    let rig = Rig::cpu();
    let run = program(&rig, "out")
        .arguments(&["--model", &model(MODELS[0])])
        .variable("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
        .succeed();
    assert!(run.stderr.contains("this is Kaggle") && run.stderr.contains("--no-exclusive-ensemble"), "{}", run.stderr);
    let summary = rig.summary("out");
    assert_eq!((&summary["ensemble_mode"], &summary["models_executed"]), (&json!("exclusive"), &json!([MODELS[0]])));
    assert_eq!(summary["config_provenance"]["exclusive_ensemble"], "default on Kaggle");
    let input =
        Program::bare().path("--output-dir", &rig.path("none")).variable("KAGGLE_KERNEL_RUN_TYPE", "Batch").run();
    assert_eq!(input.exit_code, 4);
    assert!(input.stderr.contains("/kaggle/working/Chunked"), "{}", input.stderr);
}

#[test]
fn variables_without_effect_are_told_of() {
    let rig = Rig::cpu();
    let run = program(&rig, "out")
        .arguments(&["--model", &model(MODELS[0])])
        .variable("GPU_MAX_MODEL_INSTANCES", "2")
        .variable("GPU_BATCH_SIZE", "3")
        .succeed();
    assert!(run.stderr.contains("GPU_MAX_MODEL_INSTANCES is set"), "{}", run.stderr);
    assert_eq!(rig.summary("out")["passes"][0]["batch_size"], 3);
}
