//! The directories that embedding writes to or reads from.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use super::Check;
use crate::config::Resolved;
use crate::domain::Bytes;
use crate::exit;
use crate::lease::Candidates;

/// A shard of a large model with its temporary files.
const NO_SPACE: Bytes = Bytes::mib(64);

/// A model and the vectors of a hundred thousand chunks.
const LITTLE_SPACE: Bytes = Bytes::mib(1024);

/// Looks at all of them.
pub(super) fn examine(resolved: &Resolved) -> Vec<Check> {
    let Resolved { settings, places, .. } = resolved;
    let hub = settings.hf_hub_cache.clone().unwrap_or_else(|| {
        settings.hf_cache_dir.clone().unwrap_or_else(|| places.cache.join("huggingface")).join("hub")
    });
    vec![
        output(&settings.output_dir, &Place::look(&settings.output_dir)),
        cache("hub cache", &hub, &Place::look(&hub)),
        cache(
            "own cache",
            &places.cache.join("embed-collections"),
            &Place::look(&places.cache.join("embed-collections")),
        ),
        leases(&Candidates::new(places.leases.clone(), places.runtime.as_deref()), Place::look),
    ]
}

/// What is known of a directory that is there or would be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The directory itself, or the nearest one above that is there.
    nearest: PathBuf,
    /// Whether it is there itself.
    exists: bool,
    /// Why nothing can be written to it.
    obstacle: Option<Obstacle>,
    /// Space for this user.
    free: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    NotADirectory,
    ReadOnly,
    NoRight,
}

impl Obstacle {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotADirectory => "is no directory",
            Self::ReadOnly => "lies on a file system that is mounted read-only",
            Self::NoRight => "may not be written by this user",
        }
    }
}

impl Place {
    fn look(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // Something that is there but cannot be looked at stops the search: it is what stands in the way.
        let missing = [ErrorKind::NotFound, ErrorKind::NotADirectory];
        let there = |path: &&Path| path.metadata().map_or_else(|error| !missing.contains(&error.kind()), |_| true);
        let nearest = path.ancestors().find(there).unwrap_or(Path::new("/")).to_owned();
        let space = statvfs(&nearest).ok();
        let read_only = space.as_ref().is_some_and(|space| space.f_flag.contains(StatVfsMountFlags::RDONLY));
        let obstacle = if read_only {
            Some(Obstacle::ReadOnly)
        } else if nearest.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            Some(Obstacle::NotADirectory)
        } else {
            access(&nearest, Access::WRITE_OK | Access::EXEC_OK).err().map(|_| Obstacle::NoRight)
        };
        let free = space.map(|space| Bytes(space.f_bavail.saturating_mul(space.f_frsize)));
        Self { exists: nearest == path, nearest, obstacle, free }
    }

    fn describe(&self, path: &Path) -> String {
        let free = self.free.map_or_else(|| "free space unknown".to_owned(), |free| format!("{free} free"));
        let made = if self.exists { "" } else { ", will be made" };
        format!("{}, {free}{made}", path.display())
    }

    fn obstacle(&self) -> Option<String> {
        Some(format!("{} {}", self.nearest.display(), self.obstacle?.as_str()))
    }
}

fn output(path: &Path, place: &Place) -> Check {
    const SUBJECT: &str = "output";
    if let Some(obstacle) = place.obstacle() {
        return Check::problem(SUBJECT, exit::OUTPUT, obstacle)
            .advise("choose another --output-dir, or change its rights");
    }
    let finding = place.describe(path);
    match place.free {
        Some(free) if free < NO_SPACE => Check::problem(SUBJECT, exit::OUTPUT, finding)
            .advise("free some space, or choose an --output-dir elsewhere"),
        Some(free) if free < LITTLE_SPACE => Check::warning(SUBJECT, finding)
            .advise("a thousand vectors of 384 components take about 5 MiB as JSON Lines"),
        _ => Check::ok(SUBJECT, finding),
    }
}

/// A cache that cannot be written is in the way only of models that are not there yet.
fn cache(subject: &'static str, path: &Path, place: &Place) -> Check {
    match place.obstacle() {
        Some(obstacle) => Check::warning(subject, obstacle).advise(
            "models that are not there yet cannot be fetched; set HF_HOME or XDG_CACHE_HOME, or use --model DIR",
        ),
        None => Check::ok(subject, place.describe(path)),
    }
}

/// Only GPUs are locked, so that this is never a problem for a CPU. A directory that is there is not passed over, even
/// if it cannot be used: the leases of others are in it.
fn leases(candidates: &Candidates, look: impl Fn(&Path) -> Place) -> Check {
    const SUBJECT: &str = "locks";
    let places: Vec<(&Path, Place)> = candidates.in_order().into_iter().map(|(path, _)| (path, look(path))).collect();
    let obstacles = match places.iter().find(|(_, place)| place.exists || place.obstacle.is_none()) {
        Some((path, place)) if place.obstacle.is_none() => return Check::ok(SUBJECT, place.describe(path)),
        Some((_, place)) => place.obstacle().into_iter().collect(),
        None => places.iter().filter_map(|(_, place)| place.obstacle()).collect::<Vec<String>>(),
    };
    Check::warning(SUBJECT, obstacles.join("; ")).advise(
        "devices cannot be locked against other processes; set EMBED_LEASE_DIR to a directory that all users can write",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn place(obstacle: Option<Obstacle>, free_mib: u64) -> Place {
        Place { nearest: "/data".into(), exists: true, obstacle, free: Some(Bytes::mib(free_mib)) }
    }

    #[track_caller]
    fn check(place: &Place, output_state: State, cache_state: State) {
        assert_eq!(output(Path::new("/data"), place).state, output_state, "{place:?}");
        assert_eq!(cache("hub cache", Path::new("/data"), place).state, cache_state, "{place:?}");
    }

    #[test]
    fn an_output_that_cannot_be_written_is_a_problem_and_a_cache_is_not() {
        let problem = State::Problem(exit::OUTPUT);
        check(&place(None, 10_000), State::Ok, State::Ok);
        check(&place(None, 500), State::Warning, State::Ok);
        check(&place(None, 10), problem, State::Ok);
        for obstacle in [Obstacle::NotADirectory, Obstacle::ReadOnly, Obstacle::NoRight] {
            check(&place(Some(obstacle), 10_000), problem, State::Warning);
        }
    }

    #[test]
    fn a_directory_that_would_be_made_is_judged_by_the_one_above() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::look(&directory.path().join("a/b"));
        assert_eq!((place.nearest.as_path(), place.exists, place.obstacle), (directory.path(), false, None));
        assert!(place.free.unwrap() > Bytes(0));
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Place::look(&file.join("below")).obstacle, Some(Obstacle::NotADirectory));
    }

    #[test]
    fn the_first_directory_that_is_there_or_can_be_made_is_judged() {
        let candidates = Candidates {
            chosen: None,
            shared: "/run/lock/embed-collections".into(),
            private: Some("/run/user/1/embed-collections".into()),
        };
        let refused = |exists| Place { exists, ..place(Some(Obstacle::NoRight), 1) };
        let look =
            |exists| move |path: &Path| if path.starts_with("/run/lock") { refused(exists) } else { place(None, 1) };
        assert!(leases(&candidates, look(false)).finding.starts_with("/run/user/1/embed-collections, "));
        assert_eq!(leases(&candidates, look(true)).state, State::Warning);
        assert_eq!(leases(&candidates, |_| refused(false)).state, State::Warning);
        let asked = Candidates { chosen: Some("/l".into()), ..candidates };
        assert!(leases(&asked, |_| place(None, 1)).finding.starts_with("/l, "));
    }
}
