//! Directories and files as several users with bad manners leave them.

use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn chosen(path: PathBuf) -> Candidates {
    Candidates { chosen: Some(path), shared: "not/looked/at".into(), private: None }
}

fn key(identity: &str) -> DeviceKey {
    DeviceKey::new(identity).unwrap()
}

fn outermost(device: &DeviceKey) -> LockName<'_> {
    LockName::outer(device)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_missing_directory_is_made_with_its_parents_and_open_to_all() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a/b");
    let directory = LeaseDirectory::open(&chosen(path.clone())).unwrap();
    drop(directory.lock_file(outermost(&key("cpu-0"))).unwrap());
    assert_eq!((mode(&path), mode(&path.join("cpu-0.lock"))), (0o1777, 0o666));
    assert_eq!(directory.devices().unwrap(), [key("cpu-0")]);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn a_directory_keeps_the_mode_that_its_owner_gave_it() {
    let root = TempDir::new().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    LeaseDirectory::open(&chosen(root.path().to_owned())).unwrap();
    assert_eq!(mode(root.path()), 0o2770);
}

#[test]
fn a_shared_directory_comes_before_a_private_one_which_is_closed_to_others() {
    let root = TempDir::new().unwrap();
    let (shared, private) = (root.path().join("shared"), root.path().join("private"));
    let both = Candidates { chosen: None, shared: shared.clone(), private: Some(private.clone()) };
    assert!(LeaseDirectory::find(&both).unwrap().is_none());
    let missing_parent = Candidates { shared: root.path().join("missing/shared"), ..both.clone() };
    let second = LeaseDirectory::open(&missing_parent).unwrap();
    assert_eq!((second.path(), second.reach(), mode(&private)), (&*private, Reach::OneUser, 0o700));
    assert_eq!(LeaseDirectory::find(&both).unwrap().unwrap().path(), private);
    let first = LeaseDirectory::open(&both).unwrap();
    assert_eq!((first.path(), first.reach(), mode(&shared)), (&*shared, Reach::AllUsers, 0o1777));
    assert_eq!(LeaseDirectory::find(&both).unwrap().unwrap().path(), shared);
}

#[test]
fn a_shared_directory_that_cannot_be_used_is_not_passed_over() {
    let root = TempDir::new().unwrap();
    let shared = root.path().join("shared");
    fs::write(&shared, "").unwrap();
    let candidates = Candidates { chosen: None, shared, private: Some(root.path().join("private")) };
    let error = LeaseDirectory::open(&candidates).unwrap_err().to_string();
    assert!(error.contains("shared: it is a symbolic link or no directory; put it right"), "{error}");
}

#[test]
fn without_any_directory_all_that_was_tried_is_said() {
    let root = TempDir::new().unwrap();
    let shared = root.path().join("missing/shared");
    let candidates = Candidates { chosen: None, shared: shared.clone(), private: None };
    let error = LeaseDirectory::open(&candidates).unwrap_err().to_string();
    let expected = format!(
        "no directory for leases ({}: No such file or directory (os error 2); XDG_RUNTIME_DIR is not set); \
         set EMBED_LEASE_DIR to a directory that all users can write",
        shared.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn a_link_is_no_directory_for_leases() {
    let root = TempDir::new().unwrap();
    let link = root.path().join("link");
    symlink(root.path(), &link).unwrap();
    let error = LeaseDirectory::open(&chosen(link)).unwrap_err().to_string();
    assert!(error.contains("link: it is a symbolic link or no directory"), "{error}");
}

#[track_caller]
fn check_planted(plant: impl FnOnce(&Path)) {
    let root = TempDir::new().unwrap();
    plant(&root.path().join("cpu-0.lock"));
    let directory = LeaseDirectory::open(&chosen(root.path().to_owned())).unwrap();
    let error = directory.lock_file(outermost(&key("cpu-0"))).unwrap_err();
    assert!(matches!(&error, FileError::NotRegular { path } if path.ends_with("cpu-0.lock")), "{error}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_followed() {
    let target = TempDir::new().unwrap();
    let (existing, missing) = (target.path().join("existing"), target.path().join("missing"));
    fs::write(&existing, "precious").unwrap();
    check_planted(|path| symlink(&existing, path).unwrap());
    check_planted(|path| symlink(&missing, path).unwrap());
    check_planted(|path| fs::create_dir(path).unwrap());
    check_planted(|path| {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, FILE_MODE, 0).unwrap();
    });
    assert_eq!(fs::read_to_string(&existing).unwrap(), "precious");
    assert!(!missing.exists());
}

#[test]
fn a_file_that_was_removed_or_replaced_is_not_the_current_one() {
    let root = TempDir::new().unwrap();
    let directory = LeaseDirectory::open(&chosen(root.path().to_owned())).unwrap();
    let file = directory.lock_file(outermost(&key("cpu-0"))).unwrap();
    assert!(directory.is_current(&file, outermost(&key("cpu-0"))).unwrap());
    fs::remove_file(root.path().join("cpu-0.lock")).unwrap();
    assert!(!directory.is_current(&file, outermost(&key("cpu-0"))).unwrap());
    drop(directory.lock_file(outermost(&key("cpu-0"))).unwrap());
    assert!(!directory.is_current(&file, outermost(&key("cpu-0"))).unwrap());
}

#[test]
fn only_lock_files_of_devices_are_listed() {
    let root = TempDir::new().unwrap();
    for name in ["GPU-ab.lock", "cpu-0.lock", "GPU-AB.lock", ".new-1", "notes.txt", ".lock", "a b.lock", "cpu-1.inner"]
    {
        fs::write(root.path().join(name), "").unwrap();
    }
    let directory = LeaseDirectory::open(&chosen(root.path().to_owned())).unwrap();
    assert_eq!(directory.devices().unwrap(), [key("GPU-ab"), key("cpu-0")]);
}
