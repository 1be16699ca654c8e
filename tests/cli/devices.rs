//! Devices as a user sees them, on machines that a stand-in for the driver's library makes up. Needs a C compiler.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::program::{Finished, Program, TINY_MODEL, check_schema, read_json};
use crate::stand_in::{StandIn, TWO_T4};
use embed_collections::device::{
    DeviceUuid, NvmlProbe, Probe, ProbeError, Request, Sampler, Sampling, Thresholds, detect,
};
use embed_collections::domain::Bytes;
use serde_json::{Value, json};
use tempfile::tempdir;

const FIRST: &str = "GPU-aaaa1111-0000";
const SECOND: &str = "GPU-bbbb2222-0000";

fn uuid(text: &str) -> DeviceUuid {
    DeviceUuid(text.to_owned())
}

/// The program on a machine that is made up.
fn on(machine: &StandIn, arguments: &[&str]) -> Program {
    Program::bare().arguments(arguments).variable("EMBEDDER_NVML_LIBRARY", machine.library().to_str().unwrap())
}

fn json(run: &Finished) -> Value {
    let value: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout));
    check_schema("devices.schema.json", &value);
    value
}

#[test]
fn gpus_are_listed_with_their_memory_and_processes() {
    let machine = StandIn::new(TWO_T4);
    let run = on(&machine, &["devices", "--json"]).succeed();
    let report = json(&run);
    assert_eq!((&report["driver"], &report["cuda"]), (&json!("580.65.06"), &json!("13.0")));
    assert_eq!(report["driver_error"], Value::Null);
    let gib = 1_u64 << 30;
    let first = &report["devices"][0];
    assert_eq!(first["device"], "cuda:0");
    assert_eq!(first["uuid"], FIRST);
    assert_eq!((&first["name"], &first["compute_capability"]), (&json!("Tesla T4"), &json!("7.5")));
    assert_eq!(
        (&first["total_bytes"], &first["mig"], &first["level"]),
        (&json!(15 * gib), &json!(false), &json!("normal"))
    );
    assert_eq!(first["snapshot"]["used_bytes"], 360 << 20);
    assert_eq!(first["snapshot"]["processes"], json!([]));
    for unknown in ["allocated_bytes", "reserved_bytes"] {
        assert_eq!(first["snapshot"][unknown], Value::Null);
    }
    let second = &report["devices"][1];
    assert_eq!(second["level"], "critical");
    assert_eq!(
        second["snapshot"]["processes"],
        json!([
            {"pid": 4711, "name": "python3", "used_bytes": 14000_u64 << 20},
            {"pid": 4712, "name": null, "used_bytes": null}
        ])
    );
    assert_eq!(report["devices"][2]["kind"], "cpu");
    // This build encodes on the CPU alone, and says so.
    assert_eq!(report["encoders"], json!(["cpu"]));
    assert_eq!(report["chosen"][0]["device"], "cpu");
    assert_eq!(
        report["notes"],
        json!(["this program was built without cuda: cuda:0 (Tesla T4), cuda:1 (Tesla T4) will not be used"])
    );
}

#[test]
fn the_table_is_for_people() {
    let run = on(&StandIn::new(TWO_T4), &["devices"]).succeed();
    let lines: Vec<&str> = run.stdout.lines().collect();
    let cells = |line: &str| {
        line.split("  ").filter(|cell| !cell.is_empty()).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(cells(lines[0]), ["device", "name", "memory", "used", "free", "level", "cc", "uuid"]);
    assert_eq!(cells(lines[2]), ["cuda:1", "Tesla T4", "15.0 GiB", "14.4 GiB", "660 MiB", "critical", "7.5", SECOND]);
    assert!(lines[3].starts_with("cpu "), "{}", lines[3]);
    assert!(lines.contains(&"process 4711 (python3, 13.7 GiB) on cuda:1"), "{}", run.stdout);
    assert!(lines.contains(&"NVIDIA driver 580.65.06, CUDA up to 13.0"), "{}", run.stdout);
}

#[track_caller]
fn check_visible(value: &str, labels: &[(Option<&str>, &str)], note: Option<&str>) {
    let run = on(&StandIn::new(TWO_T4), &["devices", "--json"]).variable("CUDA_VISIBLE_DEVICES", value).run();
    let report = json(&run);
    let found: Vec<(Option<&str>, &str)> = report["devices"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|device| device["kind"] == "cuda")
        .map(|device| (device["device"].as_str(), device["uuid"].as_str().unwrap()))
        .collect();
    assert_eq!(found, labels, "{value:?}");
    let notes = report["notes"].to_string();
    assert_eq!(notes.contains("CUDA_VISIBLE_DEVICES"), note.is_some(), "{notes}");
    assert!(notes.contains(note.unwrap_or_default()), "{notes}");
}

#[test]
fn cuda_visible_devices_hides_and_renumbers() {
    check_visible("1", &[(Some("cuda:0"), SECOND), (None, FIRST)], None);
    check_visible("1,0", &[(Some("cuda:0"), SECOND), (Some("cuda:1"), FIRST)], None);
    check_visible("GPU-bbbb", &[(Some("cuda:0"), SECOND), (None, FIRST)], None);
    check_visible("", &[(None, FIRST), (None, SECOND)], None);
    check_visible("-1", &[(None, FIRST), (None, SECOND)], None);
    check_visible("0,9,1", &[(Some("cuda:0"), FIRST), (None, SECOND)], Some("names no GPU of this machine"));
}

#[track_caller]
fn check_choice(arguments: &[&str], expected: &str) {
    let machine = StandIn::new(TWO_T4);
    let run = on(&machine, &[&["devices"], arguments].concat()).run();
    assert_eq!(run.exit_code, 2, "{}", run.stdout);
    assert_eq!(run.stderr.trim(), expected);
    // A run is refused with the same words, before it writes anything.
    let output = tempdir().unwrap();
    let directory = output.path().join("out");
    let embed = on(&machine, &["--chunked-dir", "tests/data/Chunked", "--model", TINY_MODEL, "--offline"]);
    let embed = embed.arguments(arguments).path("--output-dir", &directory).run();
    assert_eq!((embed.exit_code, embed.stderr.trim()), (2, expected));
    assert!(!directory.exists());
}

#[test]
fn devices_that_are_not_there_or_of_no_use_are_refused_with_what_there_is() {
    let there = format!("cuda:0 (Tesla T4, {FIRST}), cuda:1 (Tesla T4, {SECOND}), cpu");
    check_choice(&["--devices", "cuda:2"], &format!("error: --devices: there is no device cuda:2; there is {there}"));
    check_choice(
        &["--devices", "cuda:1,cuda:0"],
        &format!(
            "error: --devices: cuda:1 (Tesla T4, {SECOND}) is there, but this program was built without cuda; use \
             --devices cpu, or a build with cuda"
        ),
    );
    check_choice(
        &["--devices", "cpu,cuda:0"],
        "error: --devices: GPUs and CPU slots cannot be used together; name either",
    );
}

#[test]
fn force_cpu_contradicts_gpus_and_asks_no_driver() {
    let machine = StandIn::new(TWO_T4);
    let run = on(&machine, &["devices", "--force-cpu", "--devices", "cuda:0"]).run();
    assert_eq!(run.exit_code, 2);
    assert!(run.stderr.contains("force_cpu and devices contradict each other"), "{}", run.stderr);
    let report = json(&on(&machine, &["devices", "--force-cpu", "--json"]).run());
    assert_eq!((&report["driver"], report["devices"].as_array().unwrap().len()), (&Value::Null, 1));
}

#[track_caller]
fn check_driver_error(machine: &StandIn, expected: &str) {
    let run = on(machine, &["devices", "--json"]).succeed();
    let report = json(&run);
    let error = report["driver_error"].as_str().unwrap();
    assert!(error.contains(expected), "{error}");
    assert_eq!(report["devices"].as_array().unwrap().len(), 1, "the CPU is still there");
    let doctor = on(machine, &["doctor", "--output-dir", "/tmp"]).run();
    assert_eq!(doctor.exit_code, 0, "{}", doctor.stdout);
    assert!(doctor.stdout.contains(&format!("warning  driver: {error}")), "{}", doctor.stdout);
}

#[test]
fn each_way_in_which_the_driver_is_missing_is_told_apart() {
    check_driver_error(&StandIn::new("init 9\n"), "the NVIDIA driver is installed but not loaded");
    check_driver_error(&StandIn::new("init 18\n"), "library and kernel module are of different versions");
    check_driver_error(&StandIn::new("init 4\n"), "no permission to ask the NVIDIA driver");
    check_driver_error(&StandIn::lacking("INIT", TWO_T4), "has no function nvmlInit_v2: too old");
    check_driver_error(&StandIn::lacking("SHUTDOWN", TWO_T4), "has no function nvmlShutdown: too old");
    let missing = StandIn::new("");
    std::fs::remove_file(missing.library()).unwrap();
    check_driver_error(&missing, "No such file or directory; a machine without NVIDIA GPUs needs none; else install");
    let text = StandIn::new("");
    std::fs::write(text.library(), "not a library, though it has the name of one").unwrap();
    check_driver_error(&text, "cannot load");
}

#[test]
fn a_machine_without_gpus_has_no_notes_and_is_ready() {
    let machine = StandIn::new("driver 580.65.06\ncuda 13000\n");
    let report = json(&on(&machine, &["devices", "--json"]).run());
    assert_eq!((&report["notes"], &report["driver"]), (&json!([]), &json!("580.65.06")));
}

#[test]
fn a_library_without_some_functions_says_what_it_knows() {
    let machine = StandIn::lacking("PROCESSES", TWO_T4);
    let probe = NvmlProbe::open(Some(&machine.library())).unwrap();
    let snapshot = probe.snapshot(&uuid(FIRST)).unwrap();
    assert_eq!((snapshot.processes, snapshot.used), (None, Some(Bytes::mib(360))));
    let machine = StandIn::lacking("MEMORY", TWO_T4);
    let probe = NvmlProbe::open(Some(&machine.library())).unwrap();
    assert_eq!(probe.devices().len(), 2);
    assert_eq!(
        probe.snapshot(&uuid(FIRST)).unwrap_err(),
        ProbeError::SymbolMissing { library: machine.library(), function: "nvmlDeviceGetMemoryInfo_v2".to_owned() }
    );
}

#[test]
fn memory_that_the_driver_does_not_tell_is_unknown_and_not_zero() {
    let machine = StandIn::new("gpu GPU-1 12.1 -1 0 0 -1 0 NVIDIA GB10\n");
    let report = json(&on(&machine, &["devices", "--json"]).run());
    let gpu = &report["devices"][0];
    for unknown in [&gpu["total_bytes"], &gpu["level"], &gpu["snapshot"]["total_bytes"], &gpu["snapshot"]["used_bytes"]]
    {
        assert_eq!(*unknown, Value::Null);
    }
    assert_eq!(gpu["compute_capability"], "12.1");
}

#[test]
fn a_lost_gpu_is_reported_and_the_others_go_on() {
    let lost = TWO_T4.replace("360 0 -1", "360 0 0");
    let machine = StandIn::new(&lost);
    let report = json(&on(&machine, &["devices", "--json"]).run());
    assert_eq!(report["devices"][0]["uuid"], SECOND);
    assert!(report["notes"][0].as_str().unwrap().starts_with("gpu 0 is lost: "), "{}", report["notes"]);

    machine.change(TWO_T4);
    let probe = NvmlProbe::open(Some(&machine.library())).unwrap();
    assert!(probe.snapshot(&uuid(FIRST)).is_ok());
    machine.change(&lost);
    assert_eq!(probe.snapshot(&uuid(FIRST)).unwrap_err(), ProbeError::Lost { index: 0, uuid: Some(uuid(FIRST)) });
    assert_eq!(probe.snapshot(&uuid(SECOND)).unwrap().used, Some(Bytes::mib(14_700)));
}

#[test]
fn a_gpu_that_became_another_is_not_taken_for_it() {
    let machine = StandIn::new(TWO_T4);
    let probe = NvmlProbe::open(Some(&machine.library())).unwrap();
    machine.change(&TWO_T4.replace(FIRST, "GPU-cccc"));
    assert_eq!(probe.snapshot(&uuid(FIRST)).unwrap_err(), ProbeError::Unknown { uuid: uuid(FIRST) });
}

#[test]
fn the_library_can_be_opened_and_closed_again_and_again() {
    let machine = StandIn::new(TWO_T4);
    for _ in 0..20 {
        let library = machine.library();
        let detection = detect(&Request { nvml_library: Some(&library), ..Request::default() });
        assert_eq!(detection.snapshot(&uuid(SECOND)).unwrap().foreign(4711).count(), 1);
    }
}

#[test]
fn watching_tells_when_memory_runs_short_and_when_a_gpu_is_lost() {
    // Detection looks once; then used memory is 10 %, 90 % or more, and 100 % of 1,000 MiB; the other is lost after it.
    let machine =
        StandIn::new("gpu GPU-full 7.5 1000 -700 800 -1 0 Tesla T4\ngpu GPU-lost 7.5 1000 0 0 2 0 Tesla T4\n");
    let run = on(&machine, &["devices", "--watch", "0s", "--samples", "4", "--json"]).succeed();
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |kind: &str| lines.iter().filter(|line| line["event_type"] == kind).collect::<Vec<_>>();
    assert_eq!(told("sample").len(), 4 * 3);
    let crossings: Vec<(&str, &str)> = told("threshold")
        .iter()
        .filter(|line| line["device"] == "cuda:0")
        .map(|line| (line["from"].as_str().unwrap(), line["to"].as_str().unwrap()))
        .collect();
    assert_eq!(crossings, [("normal", "warning"), ("warning", "critical")]);
    let silent = told("silent");
    assert_eq!(silent.len(), 1, "{}", run.stdout);
    assert_eq!(silent[0]["uuid"], "GPU-lost");
    assert!(silent[0]["error"].as_str().unwrap().contains("gpu 1 (GPU-lost) is lost"), "{}", silent[0]);
}

#[test]
fn a_sampler_over_the_library_reports_and_stops() {
    let machine = StandIn::new(TWO_T4);
    let probe = Arc::new(NvmlProbe::open(Some(&machine.library())).unwrap());
    let levels = Arc::new(Mutex::new(Vec::new()));
    let (sender, told) = std::sync::mpsc::channel();
    let heard = Arc::clone(&levels);
    let sampler =
        Sampler::start(probe, Duration::ZERO, Thresholds::new(0.5, 0.97).unwrap(), move |event| match event {
            Sampling::Crossed(crossing) => heard.lock().unwrap().push((crossing.uuid.0.clone(), crossing.to.as_str())),
            Sampling::Sampled(sample) => drop(sender.send(sample.clone())),
            other => panic!("{other:?}"),
        })
        .unwrap();
    for _ in 0..10 {
        told.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    drop(sampler);
    assert_eq!(*levels.lock().unwrap(), [(SECOND.to_owned(), "warning")]);
}

#[test]
fn the_doctor_says_what_is_odd_and_what_to_do() {
    let machine = StandIn::new(&TWO_T4.replace("360 0 -1 0", "360 0 -1 1"));
    let output = tempdir().unwrap();
    let run = on(&machine, &["doctor"]).path("--output-dir", output.path()).succeed();
    for expected in [
        "warning  build: this program was built without cuda: cuda:0 (Tesla T4), cuda:1 (Tesla T4) will not be used",
        "ok       driver: NVIDIA 580.65.06, CUDA up to 13.0, NVML answers; GPUs: 2 visible, 0 hidden",
        "warning  gpu: cuda:0 (GPU-aaaa1111-0000) is divided into MIG instances",
        "warning  gpu: cuda:1 (Tesla T4), 660 MiB free; in use by 4711 (python3, 13.7 GiB), 4712 (?, memory unknown)",
        "ok       devices: embedding uses cpu",
        "ready to embed; warnings: ",
    ] {
        assert!(run.stdout.contains(expected), "{expected}\nis not in\n{}", run.stdout);
    }
    for subject in ["cores", "memory", "output", "hub cache", "own cache", "locks"] {
        assert!(run.stdout.contains(&format!(" {subject}: ")), "{subject}: {}", run.stdout);
    }
}

#[test]
fn the_doctor_fails_where_embedding_would() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let run = Program::bare().arguments(&["doctor"]).path("--output-dir", &file).run();
    assert_eq!(run.exit_code, 9, "{}", run.stdout);
    assert!(run.stdout.contains(&format!("problem  output: {} is no directory", file.display())), "{}", run.stdout);
    assert!(!directory.path().join("file/x").exists());
    let run =
        Program::bare().arguments(&["doctor", "--devices", "cuda:77"]).path("--output-dir", directory.path()).run();
    assert_eq!(run.exit_code, 2, "{}", run.stdout);
    assert!(run.stdout.contains("problem  devices: there is no device cuda:77; there is "), "{}", run.stdout);
}

#[test]
fn a_run_records_the_driver_and_says_that_gpus_stay_idle() {
    let output = tempdir().unwrap();
    let library = StandIn::new(TWO_T4);
    let run =
        Program::tiny(output.path()).variable("EMBEDDER_NVML_LIBRARY", library.library().to_str().unwrap()).succeed();
    assert!(
        run.stderr.contains("built without cuda: cuda:0 (Tesla T4), cuda:1 (Tesla T4) will not be used"),
        "{}",
        run.stderr
    );
    let summary = read_json(&output.path().join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    let environment = &summary["environment"];
    assert_eq!((&environment["driver"], &environment["cuda"]), (&json!("580.65.06"), &json!("13.0")));
    assert_eq!(environment["devices"], json!(["cpu"]));
    assert_eq!(summary["config_provenance"]["devices"], "default");
}

#[test]
fn cpu_slots_share_the_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let names: Vec<String> = (0..cores).map(|slot| format!("cpu:{slot}")).collect();
    let report = json(&Program::bare().arguments(&["devices", "--json", "--devices", &names.join(",")]).run());
    let chosen = report["chosen"].as_array().unwrap();
    assert_eq!(chosen.iter().map(|slot| slot["cores"].as_u64().unwrap()).collect::<Vec<_>>(), vec![1; cores]);
    let one_more = format!("{},cpu:{cores}", names.join(","));
    let run = Program::bare().arguments(&["devices", "--devices", &one_more]).run();
    assert_eq!(run.exit_code, 2);
    assert!(run.stderr.contains(&format!("{} CPU slots are asked for", cores + 1)), "{}", run.stderr);
}
