//! Turns, leases and memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use embed_collections::config::Mode;
use embed_collections::embedder::EnsembleConfig;
use embed_collections::exit;
use embed_collections::pipeline::StopSwitch;
use embed_collections::telemetry::event::{Event, LeaseSample, Observers};
use serde_json::{Value, json};

use super::rig::{
    At, GIB, IDLE, MODELS, Notes, Rig, embedder, ensemble, for_each_model, of_kind, sequence, two_gpus, wait_until,
};

#[track_caller]
fn check_turns(rig: &Rig, devices: usize, device_ids: &Value) {
    let observer = At(|event: &Event| match event {
        // Staging means files: nothing is on a device, and nobody needs it.
        Event::ModelStaged { .. } | Event::Predicted(_) | Event::RunFinished { .. } => rig.check_free(),
        Event::Acquire(LeaseSample { model, .. })
        | Event::ModelLoaded { model, .. }
        | Event::ShardCommitted { model, .. }
        | Event::ModelEvicted { model }
        | Event::Release(LeaseSample { model, .. }) => rig.check_held(devices, model),
        _ => {}
    });
    let finished = rig.run(Mode::Exclusive, "out", &observer).unwrap();
    assert_eq!((finished.exit_code, finished.summary.ensemble_mode), (0, "exclusive"));
    rig.check_free();
    let summary = rig.summary("out");
    assert_eq!(summary["models_executed"], json!(MODELS));
    let events = rig.events("out");
    let turn = ["acquire", "pass_started", "model_loaded", "warm_up", "pass_finished", "model_evicted", "release"];
    assert_eq!(sequence(&events, &turn), for_each_model(&turn, &MODELS));
    let raw = of_kind(&events, "acquire").into_iter().chain(of_kind(&events, "release"));
    raw.for_each(|event| assert_eq!(event["device_ids"], *device_ids));
    // In the summary as in the stream, key for key.
    let told: Vec<Value> = events
        .iter()
        .filter(|event| event["event_type"] == "acquire" || event["event_type"] == "release")
        .map(|event| json!([event["event_type"], event["model"], event["device_ids"], event["vram"]]))
        .collect();
    let summed: Vec<Value> = summary["gpu_lease_events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| json!([event["event_type"], event["model"], event["device_ids"], event["vram"]]))
        .collect();
    assert_eq!(told, summed);
    assert_eq!(summary["lease_events"].as_array().unwrap().len(), MODELS.len());
}

#[test]
fn each_model_is_loaded_inside_its_own_lease_and_nowhere_else() {
    check_turns(&Rig::cpu(), 1, &json!([]));
}

#[test]
fn two_gpus_are_leased_together_for_each_model() {
    let rig = Rig::with_gpus();
    check_turns(&rig, 2, &json!([0, 1]));
    let event = rig.summary("out")["gpu_lease_events"][0].clone();
    let gib = |mib: u64| json!((mib << 20) as f64 / GIB);
    let vram = json!({"allocated_gb": null, "reserved_gb": null, "used_gb": gib(300), "free_gb": gib(15060), "total_gb": gib(15360)});
    assert_eq!(event["vram"], json!({"0": vram, "1": vram}));
    // The work is spread over both through one queue.
    for pass in rig.summary("out")["passes"].as_array().unwrap() {
        assert_eq!(pass["devices"], json!(["cuda:0", "cuda:1"]));
        assert!(
            pass["batches_by_device"].as_object().unwrap().values().all(|batches| batches.as_u64() > Some(0)),
            "{pass}"
        );
    }
}

#[test]
fn one_replica_is_enough_if_no_more_are_wanted() {
    let rig = Rig::with_gpus();
    let config = EnsembleConfig { sequential_data_parallel: Some(false), ..ensemble(Mode::Exclusive) };
    embedder(&rig, config, "out", |_| {}).run(&StopSwitch::default(), &Observers::default()).unwrap();
    let summary = rig.summary("out");
    for pass in summary["passes"].as_array().unwrap() {
        assert_eq!(pass["batches_by_device"].as_object().unwrap().keys().collect::<Vec<_>>(), ["cuda:0"]);
    }
    assert_eq!(summary["gpu_lease_events"][0]["device_ids"], json!([0, 1]), "all devices are leased nevertheless");
}

#[test]
fn rotation_leases_once_for_all_models() {
    let rig = Rig::with_gpus();
    let finished = rig.run(Mode::Rotate, "out", &Observers::default()).unwrap();
    assert_eq!((finished.exit_code, finished.summary.ensemble_mode), (0, "sequential"));
    assert_eq!(finished.summary.models_executed, MODELS);
    let together = MODELS.join("+");
    assert_eq!(
        sequence(&rig.events("out"), &["acquire", "release"]),
        for_each_model(&["acquire", "release"], &[&together])
    );
}

#[test]
fn memory_is_back_between_passes() {
    let rig = Rig::with_gpus();
    let gpus = rig.gpus.as_ref().unwrap();
    let told = AtomicUsize::new(0);
    let observer = At(|event: &Event| match event {
        Event::ModelLoaded { .. } => {
            told.store(0, Ordering::SeqCst);
            // So much that it is told, by which it is known that somebody has looked.
            gpus.change(&two_gpus([13800, 13600], ""));
            wait_until("somebody has looked", || told.load(Ordering::SeqCst) == 2);
        }
        Event::MemoryLevel { to: "warning", .. } => {
            told.fetch_add(1, Ordering::SeqCst);
        }
        Event::ModelEvicted { .. } => gpus.change(&two_gpus(IDLE, "")),
        _ => {}
    });
    assert_eq!(rig.run(Mode::Exclusive, "out", &observer).unwrap().exit_code, 0);
    let summary = rig.summary("out");
    for pass in summary["passes"].as_array().unwrap() {
        let used = |moment: &str| {
            ["gpu_0", "gpu_1"].map(|gpu| pass["vram"][gpu][moment]["used_gb"].as_f64().unwrap() * 1024.0)
        };
        assert_eq!((used("before"), used("peak"), used("after")), ([300.0; 2], [13800.0, 13600.0], [300.0; 2]));
        assert_eq!(pass["leaks"], json!([]));
    }
    for lease in summary["lease_events"].as_array().unwrap() {
        assert_eq!(lease["vram_delta_gb"], json!({"gpu_0": 0.0, "gpu_1": 0.0}));
    }
}

#[test]
fn memory_that_does_not_come_back_is_a_leak() {
    let rig = Rig::with_gpus();
    let gpus = rig.gpus.as_ref().unwrap();
    let observer = At(|event: &Event| {
        if let Event::ModelLoaded { model, .. } = event
            && model == MODELS[1]
        {
            gpus.change(&two_gpus([300, 2300], ""));
        }
    });
    assert_eq!(rig.run(Mode::Exclusive, "out", &observer).unwrap().exit_code, 0);
    let (events, summary) = (rig.events("out"), rig.summary("out"));
    let leaks = of_kind(&events, "leak");
    assert_eq!(leaks.len(), 1, "the next model begins with what is left");
    assert_eq!((&leaks[0]["models"], &leaks[0]["device"]), (&json!([MODELS[1]]), &json!("cuda:1")));
    assert_eq!((&leaks[0]["before_bytes"], &leaks[0]["after_bytes"]), (&json!(300 << 20), &json!(2300_u64 << 20)));
    let delta = summary["lease_events"][1]["vram_delta_gb"]["gpu_1"].as_f64().unwrap();
    assert!((delta - 2000.0 / 1024.0).abs() < 1e-9);
}

#[test]
fn a_panic_gives_the_devices_back() {
    let rig = Rig::with_gpus();
    let panicked = AtomicBool::new(false);
    let observer = At(|event: &Event| {
        if let Event::WarmUp { model, .. } = event
            && model == MODELS[1]
            && !panicked.swap(true, Ordering::SeqCst)
        {
            panic!("the observer panics on purpose");
        }
    });
    let error = rig.run(Mode::Exclusive, "out", &observer).unwrap_err();
    assert_eq!(error.exit_code(), exit::INTERNAL, "{error}");
    assert!(rig.summary("out")["error"].as_str().unwrap().contains("panicked"));
    rig.check_free();
    let turns = for_each_model(&["acquire", "release"], &MODELS[..2]);
    assert_eq!(sequence(&rig.events("out"), &["acquire", "release"]), turns);
}

#[test]
fn an_exclusive_model_gets_larger_batches_than_one_in_rotation() {
    let rig = Rig::with_gpus();
    let hints = |mode: Mode, output: &str| {
        rig.run(mode, output, &Observers::default()).unwrap();
        let summary = rig.summary(output);
        let passes = summary["passes"].as_array().unwrap().iter();
        passes.map(|pass| pass["batch_size"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let (exclusive, rotating) = (hints(Mode::Exclusive, "exclusive"), hints(Mode::Rotate, "rotating"));
    assert!(exclusive.iter().zip(&rotating).all(|(alone, beside)| alone > beside), "{exclusive:?} {rotating:?}");
    // Fresh for each model: two of one shape have one hint.
    assert_eq!(exclusive[0], exclusive[1]);
}

#[test]
fn warm_models_stay_until_the_run_ends() {
    let rig = Rig::with_gpus();
    let config = EnsembleConfig { warm_cache_after_release: true, ..ensemble(Mode::Exclusive) };
    let notes = Notes::default();
    let observer = At(|event: &Event| {
        notes.take(event);
        // As long as models are on the devices, the devices are ours.
        if let Event::Release(_) | Event::CollectionFound { .. } = event {
            assert_eq!(rig.locks().len(), if notes.of(&["model_loaded"]).is_empty() { 0 } else { 2 });
        }
    });
    let finished = embedder(&rig, config, "out", |_| {}).run(&StopSwitch::default(), &observer);
    assert_eq!(finished.unwrap().exit_code, 0);
    rig.check_free();
    let turn = ["acquire", "model_kept", "release"];
    assert_eq!(sequence(&rig.events("out"), &turn), for_each_model(&turn, &MODELS));
    assert_eq!(of_kind(&rig.events("out"), "model_evicted").len(), 3, "at the end nothing stays");
}

#[test]
fn models_that_do_not_fit_together_do_not_stay() {
    let rig = Rig::with_gpus();
    // Beside 512 MiB for a context there is room for one tiny model and its batches, not for three.
    let limit = f64::from((512 << 20) + 800_000) / GIB;
    let config = EnsembleConfig { warm_cache_after_release: true, ..ensemble(Mode::Exclusive) };
    let embedder = embedder(&rig, config, "out", |settings| settings.soft_limit_gb = Some(limit));
    assert_eq!(embedder.run(&StopSwitch::default(), &Observers::default()).unwrap().exit_code, 0);
    let events = rig.events("out");
    assert_eq!(of_kind(&events, "model_kept").len(), 0);
    assert!(of_kind(&events, "run_note").iter().any(|note| note["note"].as_str().unwrap().contains("do not fit")));
    assert!(rig.summary("out")["passes"].as_array().unwrap().iter().all(|pass| pass["warm"] == false));
}
