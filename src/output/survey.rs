//! What lies in an output directory: complete, unfinished, damaged, or nobody's. Nothing is written and no lock is kept,
//! so that it can be asked of a directory that cannot be written and while a run is at work.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::format::Format;
use super::ledger::ChunksManifest;
use super::lock::{Writers, writers};
use super::manifest::{MANIFEST_FILE, Manifest, read_manifest};
use super::place::{Place, share_manifest_file, share_of_manifest};
use super::strays::{self, Stray};
use super::{glance, verify};
use crate::domain::{CollectionName, Share};

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Manifests, and the lengths of the files that they list.
    Lengths,
    /// Every byte, and what it means.
    Content,
}

/// An output directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The directory.
    pub directory: PathBuf,
    /// The worst state of any output.
    pub state: OutputState,
    /// Who is writing into it at this moment, in words.
    pub written_by: Option<String>,
    /// Collections, by name.
    pub collections: Vec<CollectionSurvey>,
    /// Files that no manifest lists.
    pub strays: Vec<Stray>,
}

/// A collection below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CollectionSurvey {
    /// Its name.
    pub name: CollectionName,
    /// Rows of the published ledger, if there is one.
    pub ledger_rows: Option<u64>,
    /// What is wrong with the ledger.
    pub faults: Vec<Damaged>,
    /// What to do about the ledger, if anything is to be done.
    pub remedy: Option<String>,
    /// Outputs of models, by the names of their directories.
    pub outputs: Vec<OutputSurvey>,
}

/// The output of one model for a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputSurvey {
    /// Name of its directory.
    pub directory: String,
    /// The model; none if no manifest can be read.
    pub model: Option<String>,
    /// How it is.
    pub state: OutputState,
    /// Hash over everything that shapes the vectors.
    pub vector_space: Option<String>,
    /// Length of a dense vector; 0 where there are none.
    pub dimension: usize,
    /// Formats of each part.
    pub formats: Vec<Format>,
    /// Rows committed.
    pub rows: u64,
    /// Rows of the collection, where it is known.
    pub rows_of: Option<u64>,
    /// Rows that could not be embedded.
    pub failed: u64,
    /// Parts committed.
    pub parts: u64,
    /// Parts that there will be, where it is known.
    pub parts_of: Option<u64>,
    /// The shares, if it is divided among machines.
    pub shares: Vec<ShareSurvey>,
    /// What is wrong.
    pub faults: Vec<Damaged>,
    /// What to do, if anything is to be done.
    pub remedy: Option<String>,
}

/// A share of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShareSurvey {
    /// Which one.
    pub share: Share,
    /// How it is.
    pub state: OutputState,
    /// Rows committed.
    pub rows: u64,
    /// Parts committed.
    pub parts: u64,
}

/// How an output is; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputState {
    /// All rows are there.
    Complete,
    /// All shares are there, and not merged.
    Unmerged,
    /// Some rows are there.
    Unfinished,
    /// Nothing is there.
    Missing,
    /// Something is not as it was committed, or does not go together.
    Damaged,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// Whether the command that made it notices as well, and redoes it; else it must be told to start anew.
    pub redone: bool,
}

impl Damaged {
    /// Something that a resumed run redoes.
    pub(super) fn redone(path: PathBuf, what: String) -> Self {
        Self { path, what, redone: true }
    }

    /// Something that a resumed run takes for sound, or refuses.
    pub(super) fn lasting(path: PathBuf, what: String) -> Self {
        Self { path, what, redone: false }
    }
}

/// Looks at everything below an output directory.
///
/// # Errors
/// If the directory itself cannot be read.
pub fn survey(output_dir: &Path, depth: Depth) -> io::Result<Survey> {
    let directories = output_directories(output_dir)?;
    let writers = writers(output_dir);
    let names: BTreeSet<&CollectionName> = directories.iter().map(|(collection, _)| collection).collect();
    let collections: Vec<CollectionSurvey> = names
        .into_iter()
        .map(|name| {
            let own = directories.iter().filter(|(collection, _)| collection == name);
            let models: Vec<&str> = own.map(|(_, directory)| directory.as_str()).collect();
            Looking { output_dir, collection: name, depth }.collection(&models)
        })
        .collect();
    let states = collections.iter().flat_map(|collection| {
        let ledger = (!collection.faults.is_empty()).then_some(OutputState::Damaged);
        collection.outputs.iter().map(|output| output.state).chain(ledger)
    });
    let state = states.max().unwrap_or(OutputState::Missing);
    let strays = strays::find(output_dir, &directories, writers == Writers::None);
    Ok(Survey { directory: output_dir.to_owned(), state, written_by: in_words(&writers), collections, strays })
}

fn in_words(writers: &Writers) -> Option<String> {
    match writers {
        Writers::None => None,
        Writers::Run(None) => Some("a run".to_owned()),
        Writers::Run(Some(pid)) => Some(format!("a run (pid {pid})")),
        Writers::Shares(shares) => {
            let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
            Some(format!("share{} {}", if shares.len() == 1 { "" } else { "s" }, shares.join(", ")))
        }
    }
}

/// The directories below an output directory that have a manifest, of a whole output or of shares, in order.
pub(super) fn output_directories(output_dir: &Path) -> io::Result<Vec<(CollectionName, String)>> {
    let mut found = Vec::new();
    for collection in directories(output_dir)? {
        let Some(name) = CollectionName::new(&collection) else { continue };
        let path = output_dir.join(&collection);
        for model in directories(&path)?.into_iter().filter(|model| !model.starts_with('.')) {
            let names = file_names(&path.join(&model))?;
            if names.iter().any(|name| name == MANIFEST_FILE || share_of_manifest(name).is_some()) {
                found.push((name.clone(), model));
            }
        }
    }
    Ok(found)
}

pub(super) fn directories(path: &Path) -> io::Result<Vec<String>> {
    entries(path, fs::FileType::is_dir)
}

pub(super) fn file_names(path: &Path) -> io::Result<Vec<String>> {
    entries(path, fs::FileType::is_file)
}

fn entries(path: &Path, wanted: impl Fn(&fs::FileType) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| wanted(&kind)) {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What helps where going on does not.
const START_ANEW: &str = "put the files back as they were, or run the same command with --overwrite, which embeds \
                          everything again";

/// One collection that is looked at.
struct Looking<'a> {
    output_dir: &'a Path,
    collection: &'a CollectionName,
    depth: Depth,
}

impl Looking<'_> {
    fn collection(&self, models: &[&str]) -> CollectionSurvey {
        let place = Place::of_directory(self.output_dir, self.collection, "");
        let (ledger, faults) = glance::ledger(&place);
        let ledger = ledger.as_ref();
        let mut outputs: Vec<OutputSurvey> =
            models.iter().map(|directory| self.output(directory, ledger, faults.is_empty())).collect();
        let known = outputs.iter().filter_map(|output| output.rows_of).chain(ledger.map(|ledger| ledger.rows)).next();
        for output in outputs.iter_mut().filter(|output| output.rows_of.is_none()) {
            output.rows_of = known;
        }
        CollectionSurvey {
            name: self.collection.clone(),
            ledger_rows: ledger.map(|ledger| ledger.rows),
            remedy: (!faults.is_empty()).then(|| START_ANEW.to_owned()),
            faults,
            outputs,
        }
    }

    fn output(&self, directory: &str, ledger: Option<&ChunksManifest>, ledger_is_sound: bool) -> OutputSurvey {
        let place = Place::of_directory(self.output_dir, self.collection, directory);
        let names = file_names(&place.model).unwrap_or_default();
        let mut shares: Vec<Share> = names.iter().filter_map(|name| share_of_manifest(name)).collect();
        shares.sort_unstable();
        let mut survey = OutputSurvey::nothing(directory);
        let has_whole = names.iter().any(|name| name == MANIFEST_FILE);
        if has_whole {
            let manifest = survey.read(&place);
            if let Some(manifest) = &manifest {
                self.look_at(&place, manifest, ledger, ledger_is_sound, &mut survey);
                survey.state = if manifest.complete { OutputState::Complete } else { OutputState::Unfinished };
            }
        }
        match shares.first().copied() {
            None => survey.conclude_whole(),
            Some(_) if has_whole => survey.conclude_half_merged(&place, self.output_dir),
            Some(first) => {
                let lasting = self.look_at_shares(&place, first, &shares, ledger, &mut survey);
                survey.conclude_shares(self.output_dir, &lasting);
            }
        }
        survey
    }

    /// Looks at all shares; returns those with faults that they would not notice themselves.
    fn look_at_shares(
        &self,
        place: &Place,
        first: Share,
        found: &[Share],
        ledger: Option<&ChunksManifest>,
        survey: &mut OutputSurvey,
    ) -> Vec<Share> {
        let mut lasting = Vec::new();
        if let Some(other) = found.iter().find(|share| share.of() != first.of()) {
            let what = format!("is of another division of the job than share {first}");
            survey.faults.push(Damaged::lasting(place.of_share(*other).manifest(), what));
        }
        let mut one: Option<Manifest> = None;
        for share in Share::all(first.of()) {
            let own = place.of_share(share);
            let before = survey.faults.len();
            let manifest = found.contains(&share).then(|| survey.read(&own)).flatten();
            if let Some(manifest) = &manifest {
                self.look_at(&own, manifest, ledger, true, survey);
                if let Some(difference) = one.as_ref().and_then(|one| super::merge::difference(one, manifest)) {
                    survey.faults.push(Damaged::lasting(own.manifest(), difference));
                }
            }
            let state = match &manifest {
                _ if survey.faults.len() > before => OutputState::Damaged,
                None => OutputState::Missing,
                Some(manifest) if manifest.complete => OutputState::Complete,
                Some(_) => OutputState::Unfinished,
            };
            let (rows, parts) = manifest.as_ref().map_or((0, 0), |it| (it.totals.rows, it.shards.len() as u64));
            survey.shares.push(ShareSurvey { share, state, rows, parts });
            if survey.faults[before..].iter().any(|fault| !fault.redone) {
                lasting.push(share);
            }
            if one.as_ref().is_none_or(|one| !one.complete) {
                one = manifest.or(one);
            }
        }
        lasting
    }

    /// Takes the figures of a manifest, and looks at what it lists.
    fn look_at(
        &self,
        place: &Place,
        manifest: &Manifest,
        ledger: Option<&ChunksManifest>,
        ledger_is_sound: bool,
        survey: &mut OutputSurvey,
    ) {
        survey.take(manifest);
        let faults = match self.depth {
            Depth::Lengths => glance::lengths(place, manifest),
            Depth::Content => verify::content(self.output_dir, self.collection, place, manifest, ledger),
        };
        survey.faults.extend(faults);
        if let Some(what) = glance::contradiction(manifest, ledger).filter(|_| ledger_is_sound) {
            survey.faults.push(Damaged::lasting(place.manifest(), what));
        }
        if let Some(what) = glance::inconsistency(manifest) {
            survey.faults.push(Damaged::lasting(place.manifest(), what));
        }
    }
}

impl OutputSurvey {
    fn nothing(directory: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            model: None,
            state: OutputState::Missing,
            vector_space: None,
            dimension: 0,
            formats: Vec::new(),
            rows: 0,
            rows_of: None,
            failed: 0,
            parts: 0,
            parts_of: None,
            shares: Vec::new(),
            faults: Vec::new(),
            remedy: None,
        }
    }

    fn read(&mut self, place: &Place) -> Option<Manifest> {
        match read_manifest(&place.manifest()) {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let what = format!("cannot be used: {error}{cause}");
                self.faults.push(Damaged::lasting(place.manifest(), what));
                None
            }
        }
    }

    fn take(&mut self, manifest: &Manifest) {
        self.model = Some(manifest.model.clone());
        self.vector_space = Some(manifest.vector_space.clone());
        self.dimension = manifest.dimension;
        self.formats.clone_from(&manifest.formats);
        self.rows += manifest.totals.rows;
        self.failed += manifest.totals.counts.failed;
        self.parts += manifest.shards.len() as u64;
        self.rows_of = manifest.input.map(|input| input.rows).or(self.rows_of);
        self.parts_of = self.rows_of.map(|rows| rows.div_ceil(u64::from(manifest.shard_rows.max(1))));
    }

    fn conclude_whole(&mut self) {
        if !self.faults.is_empty() {
            self.state = OutputState::Damaged;
        }
        self.remedy = match self.state {
            OutputState::Complete => None,
            OutputState::Damaged if self.faults.iter().all(|fault| fault.redone) => {
                Some("run the same command again: it redoes what is damaged".to_owned())
            }
            OutputState::Damaged => Some(START_ANEW.to_owned()),
            _ => Some("run the same command again: it goes on where it was".to_owned()),
        };
    }

    /// Merging was interrupted after the manifest of the whole was written; or somebody copied files together.
    fn conclude_half_merged(&mut self, place: &Place, output_dir: &Path) {
        self.conclude_whole();
        if self.state == OutputState::Complete {
            self.state = OutputState::Unmerged;
            self.remedy = Some(merge_command(output_dir));
        } else {
            let what = "is there beside manifests of shares".to_owned();
            self.faults.push(Damaged::lasting(place.manifest(), what));
            self.state = OutputState::Damaged;
        }
    }

    fn conclude_shares(&mut self, output_dir: &Path, lasting: &[Share]) {
        let worst = self.shares.iter().map(|share| share.state).max();
        self.state = match worst {
            _ if !self.faults.is_empty() => OutputState::Damaged,
            Some(OutputState::Complete) | None => OutputState::Unmerged,
            _ => OutputState::Unfinished,
        };
        let again = self.shares.iter().filter(|share| share.state != OutputState::Complete);
        let again: Vec<String> = again.map(|share| format!("--shard {}", share.share)).collect();
        self.remedy = Some(if again.is_empty() {
            merge_command(output_dir)
        } else {
            let removed: Vec<String> = lasting.iter().map(|share| share_manifest_file(*share)).collect();
            let first = match removed.as_slice() {
                [] => String::new(),
                removed => format!("remove {}, then ", removed.join(" and ")),
            };
            let again = again.join(" and with ");
            format!("{first}run the same command again with {again}; then {}", merge_command(output_dir))
        });
    }
}

fn merge_command(output_dir: &Path) -> String {
    format!("embed-collections merge {}", output_dir.display())
}
