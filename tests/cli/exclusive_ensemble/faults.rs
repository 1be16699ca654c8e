//! What goes wrong while models take turns: each with its event, its message and its exit code, and nothing committed is
//! lost.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use embed_collections::config::{Foreign, Mode};
use embed_collections::embedder::EnsembleConfig;
use embed_collections::pipeline::StopSwitch;
use embed_collections::telemetry::event::{Event, Observers};
use serde_json::{Value, json};

use super::rig::{
    At, IDLE, MODELS, Rig, embedder, ensemble, for_each_model, model, of_kind, sequence, two_gpus, wait_until,
};
use crate::program::read_rows;

const INTRUDER: &str = "process 1 4711 900 /usr/bin/python3 train.py\n";

/// Runs the ensemble on two GPUs that become something else while this model has them, which goes on once that is told.
fn run_with_change(
    rig: &Rig,
    during: &str,
    state: &str,
    told: impl Fn(&Event) -> bool + Send + Sync,
) -> (u8, Value, Vec<Value>) {
    let gpus = rig.gpus.as_ref().unwrap();
    let is_told = AtomicBool::new(false);
    let observer = At(|event: &Event| match event {
        Event::ModelLoaded { model, .. } if model == during => {
            gpus.change(state);
            wait_until("the change is told", || is_told.load(Ordering::SeqCst));
        }
        Event::Release(_) => gpus.change(&two_gpus(IDLE, "")),
        event if told(event) => is_told.store(true, Ordering::SeqCst),
        _ => {}
    });
    let finished = rig.run(Mode::Exclusive, "out", &observer).unwrap();
    (finished.exit_code, rig.summary("out"), rig.events("out"))
}

#[test]
fn a_model_that_cannot_be_found_or_loaded_leaves_the_others_alone() {
    let rig = Rig::cpu();
    // A model whose weights lack a tensor: everything about it can be read, and it cannot be loaded.
    let broken = rig.path("broken");
    fs::create_dir(&broken).unwrap();
    for file in fs::read_dir(model(MODELS[1])).unwrap().map(|entry| entry.unwrap().path()) {
        if file.is_file() {
            fs::copy(&file, broken.join(file.file_name().unwrap())).unwrap();
        } else {
            fs::create_dir(broken.join(file.file_name().unwrap())).unwrap();
            for inner in fs::read_dir(&file).unwrap().map(|entry| entry.unwrap().path()) {
                fs::copy(&inner, broken.join(file.file_name().unwrap()).join(inner.file_name().unwrap())).unwrap();
            }
        }
    }
    let config = fs::read_to_string(broken.join("config.json")).unwrap();
    fs::write(broken.join("config.json"), config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"))
        .unwrap();
    let models = vec![
        model(MODELS[0]),
        broken.to_str().unwrap().to_owned(),
        rig.path("nowhere").to_str().unwrap().to_owned(),
        model(MODELS[2]),
    ];
    let ensemble = EnsembleConfig { ensemble_models: models, ..ensemble(Mode::Exclusive) };
    let finished = embedder(&rig, ensemble, "out", |_| {}).run(&StopSwitch::default(), &Observers::default()).unwrap();
    assert_eq!(
        (finished.exit_code, finished.summary.models_executed.as_slice()),
        (5, &[MODELS[0].to_owned(), MODELS[2].to_owned()][..])
    );
    let (summary, events) = (rig.summary("out"), rig.events("out"));
    let failures: Vec<&str> =
        summary["failures"].as_array().unwrap().iter().map(|failure| failure["error"].as_str().unwrap()).collect();
    assert_eq!(failures.len(), 2);
    assert!(failures[0].contains("nowhere"), "{failures:?}");
    assert!(failures[1].contains("broken") && failures[1].contains("layer.2"), "{failures:?}");
    let leases = sequence(&events, &["acquire", "release", "pass_failed", "model_loaded"]);
    let expected = [("acquire", "broken"), ("pass_failed", "broken"), ("release", "broken")]
        .map(|(kind, model)| (kind.to_owned(), model.to_owned()));
    assert!(leases.windows(3).any(|window| window == expected), "{leases:?}");
    assert_eq!((&summary["status"], &summary["fusion"]), (&json!("failed"), &Value::Null));
    assert!(
        finished
            .summary
            .closing_lines("x".as_ref())
            .iter()
            .any(|line| line.starts_with("FAILED") && line.contains("nowhere"))
    );
    rig.check_free();
}

#[test]
fn rotation_goes_on_without_the_model_that_fails() {
    let rig = Rig::cpu();
    let models = vec![model(MODELS[0]), rig.path("nowhere").to_str().unwrap().to_owned(), model(MODELS[2])];
    let config = EnsembleConfig { ensemble_models: models, ..ensemble(Mode::Rotate) };
    let finished = embedder(&rig, config, "out", |_| {}).run(&StopSwitch::default(), &Observers::default()).unwrap();
    assert_eq!((finished.exit_code, finished.summary.models_executed.len()), (5, 2));
}

#[test]
fn a_program_without_a_lease_is_refused_or_shared_with() {
    let rig = Rig::with_gpus();
    rig.gpus.as_ref().unwrap().change(&two_gpus([300, 1200], INTRUDER));
    let error = rig.run(Mode::Exclusive, "out", &Observers::default()).unwrap_err();
    assert_eq!(error.exit_code(), 6);
    let message = error.to_string();
    for part in ["4711", "python3", "--foreign"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(rig.summary("out")["exit_code"], 6);
    rig.check_free();
    let sharing = embedder(&rig, ensemble(Mode::Exclusive), "out", |settings| settings.foreign = Foreign::Share);
    assert_eq!(sharing.run(&StopSwitch::default(), &Observers::default()).unwrap().exit_code, 0);
    assert_eq!(of_kind(&rig.events("out"), "intrusion").len(), 0, "who was there before has not come in");
}

#[test]
fn a_program_that_comes_in_meanwhile_is_told_of() {
    let rig = Rig::with_gpus();
    let (exit_code, summary, events) = run_with_change(&rig, MODELS[0], &two_gpus([300, 1200], INTRUDER), |event| {
        matches!(event, Event::Intrusion { .. })
    });
    assert_eq!(exit_code, 0);
    let intrusions = of_kind(&events, "intrusion");
    assert_eq!(intrusions.len(), 1, "once, though it is seen again and again");
    assert_eq!(intrusions[0]["device"], "cuda:1");
    assert!(intrusions[0]["processes"][0].as_str().unwrap().contains("4711 (python3"), "{intrusions:?}");
    assert_eq!(summary["passes"][0]["intrusions"][0]["device"], "cuda:1");
    assert_eq!(of_kind(&events, "leak").len(), 0, "what others hold is not ours to give back");
}

#[test]
fn batches_shrink_when_memory_does() {
    let rig = Rig::with_gpus();
    // 94 % are taken by nobody who is known: over the first threshold, not over the second.
    let (exit_code, summary, events) = run_with_change(
        &rig,
        MODELS[2],
        &two_gpus([14500, 300], ""),
        |event| matches!(event, Event::Mitigation(mitigation) if mitigation.action == "shrink_batch"),
    );
    assert_eq!(exit_code, 0);
    let level = of_kind(&events, "memory_level")[0];
    assert_eq!(
        (&level["device"], &level["from"], &level["to"]),
        (&json!("cuda:0"), &json!("normal"), &json!("warning"))
    );
    let mitigation = &summary["passes"][2]["mitigation_events"][0];
    assert_eq!((&mitigation["action"], &mitigation["device"]), (&json!("shrink_batch"), &json!("cuda:0")));
    assert_eq!(mitigation["batch_tokens"], 768);
    assert_eq!(summary["passes"][2]["batch_trajectory"][1]["tokens"], 768);
    assert_eq!(summary["passes"][0]["mitigation_events"], json!([]), "each model begins afresh");
    assert_eq!(summary["models_executed"], json!(MODELS));
}

#[test]
fn a_model_without_room_on_one_device_uses_the_other_and_without_any_the_processor() {
    let rig = Rig::with_gpus();
    rig.gpus.as_ref().unwrap().change(&two_gpus([14500, 300], ""));
    rig.run(Mode::Exclusive, "one", &Observers::default()).unwrap();
    let summary = rig.summary("one");
    assert_eq!(summary["passes"][0]["devices"], json!(["cuda:1"]));
    assert_eq!(summary["passes"][0]["predictions"][0]["fits"], false);
    rig.gpus.as_ref().unwrap().change(&two_gpus([14500, 14500], ""));
    rig.run(Mode::Exclusive, "none", &Observers::default()).unwrap();
    assert_eq!(rig.summary("none")["passes"][0]["devices"], json!(["cpu"]));
    let events = rig.events("none");
    let note = of_kind(&events, "run_note")[0]["note"].as_str().unwrap();
    assert!(note.contains("bert-minilm does not fit on cuda:0") && note.contains("processor"), "{note}");
}

/// GPUs of which some are lost from now on.
fn lost(which: [bool; 2]) -> String {
    let [first, second] = which.map(|lost| if lost { 0 } else { -1 });
    format!(
        "driver 580.65.06\ncuda 13000\n\
         gpu GPU-aaaa1111-0000 7.5 15360 300 0 {first} 0 Tesla T4\n\
         gpu GPU-bbbb2222-0000 7.5 15360 300 0 {second} 0 Tesla T4\n"
    )
}

/// Loses GPUs in the middle of the second model's pass, which goes on once that is told.
fn run_and_lose(rig: &Rig, which: [bool; 2]) -> Result<u8, (u8, String)> {
    let (done, told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let all = which.iter().filter(|lost| **lost).count();
    let observer = At(|event: &Event| match event {
        Event::ShardCommitted { model, .. } if model == MODELS[1] && !done.swap(true, Ordering::SeqCst) => {
            rig.gpus.as_ref().unwrap().change(&lost(which));
            wait_until("the loss is told", || told.load(Ordering::SeqCst) == all);
        }
        Event::DeviceLost { .. } => {
            told.fetch_add(1, Ordering::SeqCst);
        }
        _ => {}
    });
    let embedder = embedder(rig, ensemble(Mode::Exclusive), "out", |settings| settings.part_rows = 4);
    let outcome = embedder.run(&StopSwitch::default(), &observer);
    outcome.map(|finished| finished.exit_code).map_err(|error| (error.exit_code(), error.to_string()))
}

#[test]
fn the_work_of_a_lost_gpu_is_done_by_the_other() {
    let rig = Rig::with_gpus();
    assert_eq!(run_and_lose(&rig, [false, true]), Ok(0));
    let (summary, events) = (rig.summary("out"), rig.events("out"));
    assert_eq!(summary["models_executed"], json!(MODELS));
    assert_eq!(summary["passes"][1]["lost_devices"], json!(["cuda:1"]));
    assert_eq!(summary["passes"][2]["devices"], json!(["cuda:0"]), "the next model does without it");
    assert!(of_kind(&events, "device_lost")[0]["reason"].as_str().unwrap().contains("is lost"));
    // Every row has its own vector: the same as on a machine that lost nothing.
    let other = Rig::cpu();
    other.run(Mode::Exclusive, "out", &Observers::default()).unwrap();
    let rows = |rig: &Rig| read_rows(&rig.path("out").join("tidepool").join(MODELS[1]));
    let (found, expected) = (rows(&rig), rows(&other));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        let pairs = found.vector.iter().flatten().zip(expected.vector.iter().flatten());
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5) && found.id == expected.id);
    }
}

#[test]
fn when_all_gpus_are_lost_what_is_committed_stays_and_the_same_command_goes_on() {
    let rig = Rig::with_gpus();
    let (exit_code, message) = run_and_lose(&rig, [true, true]).unwrap_err();
    assert_eq!(exit_code, 6);
    assert!(message.contains("every device of the pass was lost"), "{message}");
    let summary = rig.summary("out");
    assert_eq!((&summary["models_executed"], &summary["exit_code"]), (&json!([MODELS[0]]), &json!(6)));
    let turns = for_each_model(&["acquire", "release"], &MODELS[..2]);
    assert_eq!(sequence(&rig.events("out"), &["acquire", "release"]), turns);
    let committed = of_kind(&rig.events("out"), "shard_committed").len();
    assert!(committed > 0);
    rig.check_free();
    rig.gpus.as_ref().unwrap().change(&two_gpus(IDLE, ""));
    let embedder = embedder(&rig, ensemble(Mode::Exclusive), "out", |settings| settings.part_rows = 4);
    assert_eq!(embedder.run(&StopSwitch::default(), &Observers::default()).unwrap().exit_code, 0);
    let kept: u64 = of_kind(&rig.events("out"), "resumed").iter().map(|event| event["shards"].as_u64().unwrap()).sum();
    assert_eq!(kept, committed as u64, "nothing that was committed is made again");
}

#[test]
fn without_the_drivers_library_the_processor_does_the_work() {
    let rig = Rig::cpu();
    let embedder = embedder(&rig, ensemble(Mode::Exclusive), "out", |settings| settings.rehearse = true);
    assert_eq!(embedder.run(&StopSwitch::default(), &Observers::default()).unwrap().exit_code, 0);
    let events = rig.events("out");
    assert!(of_kind(&events, "device_note")[0]["note"].as_str().unwrap().contains("without a GPU"));
    let summary = rig.summary("out");
    assert_eq!((&summary["environment"]["driver"], &summary["passes"][0]["devices"]), (&Value::Null, &json!(["cpu"])));
    assert_eq!((&summary["passes"][0]["vram"], &summary["gpu_lease_events"][0]["vram"]), (&json!({}), &json!({})));
}
