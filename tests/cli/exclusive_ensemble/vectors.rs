//! Whatever the turns and the devices, the vectors are the same.

use std::path::Path;

use embed_collections::config::Mode;
use embed_collections::embedder::EnsembleConfig;
use embed_collections::pipeline::StopSwitch;
use embed_collections::telemetry::event::Observers;
use serde_json::json;

use super::rig::{MODELS, Rig, embedder, ensemble, model};
use crate::program::{OutputRow, check_schema, read_json, read_rows};

/// Every member and the fused vectors are there, row by row, and agree: cosine at least 0.9999, components within 1e-5.
#[track_caller]
fn check_same(one: &Path, other: &Path) {
    let mut compared = 0;
    for collection in collections() {
        for model in MODELS.into_iter().chain(["fused"]) {
            let rows = |root: &Path| read_rows(&root.join(&collection).join(model));
            let (one, other) = (rows(one), rows(other));
            assert!(!one.is_empty() && one.len() == other.len(), "{collection}/{model}");
            for (one, other) in one.iter().zip(&other) {
                assert_eq!(
                    (&one.id, one.row, &one.status, one.tokens),
                    (&other.id, other.row, &other.status, other.tokens)
                );
                compared += usize::from(same_vectors(one, other));
            }
        }
    }
    assert!(compared > 300, "{compared}");
}

fn collections() -> Vec<String> {
    let entries = std::fs::read_dir("tests/data/Chunked").unwrap().map(|entry| entry.unwrap());
    let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    names.collect()
}

#[track_caller]
fn same_vectors(one: &OutputRow, other: &OutputRow) -> bool {
    let (Some(one), Some(other)) = (&one.vector, &other.vector) else {
        assert!(one.vector.is_none() && other.vector.is_none());
        return false;
    };
    assert_eq!(one.len(), other.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(one, other) / (dot(one, one) * dot(other, other)).sqrt();
    let difference = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(cosine >= 0.9999 && difference < 1e-5, "cosine {cosine}, difference {difference:e}");
    true
}

#[test]
fn exclusive_sequential_and_rotating_ensembles_agree() {
    let rig = Rig::cpu();
    for (mode, output) in [(Mode::Exclusive, "exclusive"), (Mode::Sequential, "sequential"), (Mode::Rotate, "rotating")]
    {
        assert_eq!(rig.run(mode, output, &Observers::default()).unwrap().exit_code, 0);
    }
    check_same(&rig.path("exclusive"), &rig.path("rotating"));
    check_same(&rig.path("exclusive"), &rig.path("sequential"));
}

#[test]
fn gpus_and_one_two_and_three_slots_agree() {
    let (rig, gpus) = (Rig::cpu(), Rig::with_gpus());
    gpus.run(Mode::Exclusive, "out", &Observers::default()).unwrap();
    for slots in 1_u32..=3 {
        let output = format!("slots-{slots}");
        let labels: Vec<String> = (0..slots).map(|slot| format!("cpu:{slot}")).collect();
        let config = EnsembleConfig { preferred_devices: labels.clone(), ..ensemble(Mode::Exclusive) };
        let embedder = embedder(&rig, config, &output, |settings| {
            (settings.threads, settings.batch_tokens) = (Some(3), 300);
        });
        assert_eq!(embedder.run(&StopSwitch::default(), &Observers::default()).unwrap().exit_code, 0);
        let summary = rig.summary(&output);
        let used = if slots == 1 { vec!["cpu".to_owned()] } else { labels };
        assert_eq!(summary["passes"][0]["devices"], json!(used));
        assert_eq!(summary["passes"][0]["threads"], 3);
        check_same(&rig.path("slots-1"), &rig.path(&output));
    }
    check_same(&rig.path("slots-1"), &gpus.path("out"));
}

#[test]
fn the_mean_is_that_of_the_members() {
    let rig = Rig::cpu();
    let weights = [(MODELS[0].to_owned(), 0.5), (MODELS[1].to_owned(), 0.3), (MODELS[2].to_owned(), 0.2)];
    let config = EnsembleConfig { weights: weights.clone().into(), ..ensemble(Mode::Exclusive) };
    embedder(&rig, config, "out", |_| {}).run(&StopSwitch::default(), &Observers::default()).unwrap();
    let directory = rig.path("out").join("tidepool");
    let fused = read_rows(&directory.join("fused"));
    let members: Vec<Vec<OutputRow>> = MODELS.iter().map(|model| read_rows(&directory.join(model))).collect();
    let unit = |vector: &[f64]| {
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        vector.iter().map(|x| x / length).collect::<Vec<f64>>()
    };
    let mut worst: f64 = 0.0;
    for (index, row) in fused.iter().enumerate().filter(|(_, row)| row.vector.is_some()) {
        let mut sum = vec![0.0; 32];
        for (rows, (_, weight)) in members.iter().zip(&weights) {
            let vector: Vec<f64> = rows[index].vector.as_ref().unwrap().iter().map(|x| f64::from(*x)).collect();
            sum.iter_mut().zip(unit(&vector)).for_each(|(sum, x)| *sum += weight * x);
        }
        for (found, expected) in row.vector.as_ref().unwrap().iter().zip(unit(&sum)) {
            worst = worst.max((f64::from(*found) - expected).abs());
        }
    }
    assert!(worst > 0.0 && worst < 1e-6, "{worst:e}");
    let summary = rig.summary("out");
    assert_eq!((&summary["fusion"]["method"], &summary["fusion"]["dimension"]), (&json!("mean"), &json!(32)));
    assert_eq!(summary["fusion"]["weights"][1], json!({"model": MODELS[1], "weight": 0.3}));
    let manifest = read_json(&directory.join("fused/manifest.json"));
    check_schema("manifest.schema.json", &manifest);
    assert_eq!(summary["fusion"]["collections"].as_array().unwrap().len(), collections().len());
}

#[test]
fn a_second_run_keeps_members_and_fused_vectors() {
    let rig = Rig::cpu();
    rig.run(Mode::Exclusive, "out", &Observers::default()).unwrap();
    let before = crate::program::tree(&rig.path("out"));
    let again = rig.run(Mode::Rotate, "out", &Observers::default()).unwrap();
    assert_eq!((again.exit_code, again.summary.total_embeddings_generated), (0, 0));
    assert!(crate::program::tree(&rig.path("out")) == before, "another strategy goes on with the same files");
}

#[test]
fn other_weights_need_no_second_embedding() {
    let rig = Rig::cpu();
    rig.run(Mode::Exclusive, "out", &Observers::default()).unwrap();
    let heavier = || {
        let weights = MODELS.iter().zip([1.0, 2.0, 3.0]).map(|(model, weight)| ((*model).to_owned(), weight)).collect();
        let config = EnsembleConfig { weights, ..ensemble(Mode::Exclusive) };
        embedder(&rig, config, "out", |_| {}).run(&StopSwitch::default(), &Observers::default())
    };
    let error = heavier().unwrap_err();
    assert_eq!(error.exit_code(), 8);
    assert!(error.to_string().contains("remove the directory fused"), "{error}");
    for collection in collections() {
        std::fs::remove_dir_all(rig.path("out").join(collection).join("fused")).unwrap();
    }
    let finished = heavier().unwrap();
    assert_eq!((finished.exit_code, finished.summary.total_embeddings_generated), (0, 0));
    assert!(finished.summary.fusion.unwrap().collections.iter().all(|collection| collection.complete));
}

#[test]
fn concatenated_and_cut_vectors() {
    let rig = Rig::cpu();
    let two = EnsembleConfig {
        ensemble_models: MODELS[..2].iter().map(|name| model(name)).collect(),
        ..ensemble(Mode::Exclusive)
    };
    let embedder = embedder(&rig, two, "out", |settings| {
        settings.fusion = embed_collections::config::Fusion::Concat;
        settings.truncate_dim = serde_json::from_value(json!([format!("{}=8", MODELS[1])])).unwrap();
    });
    assert_eq!(embedder.run(&StopSwitch::default(), &Observers::default()).unwrap().exit_code, 0);
    let row = |model: &str| read_rows(&rig.path("out").join("tidepool").join(model)).remove(0).vector.unwrap();
    let (fused, first, second) = (row("fused"), row(MODELS[0]), row(MODELS[1]));
    assert_eq!((fused.len(), first.len(), second.len()), (40, 32, 8));
    let half = std::f32::consts::FRAC_1_SQRT_2;
    let expected: Vec<f32> = first.iter().chain(&second).map(|x| x * half).collect();
    assert!(fused.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{fused:?} {expected:?}");
}
