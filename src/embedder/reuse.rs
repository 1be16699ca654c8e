//! Vectors that a model need not compute again: those of outputs set aside, and those of the cache.

use super::job::{Job, Member};
use crate::domain::CollectionName;
use crate::known::{Known, Unusable};
use crate::output::{StorageError, previous};
use crate::telemetry::event::{Event, Observer};

/// What is known of the texts of a collection; `None` where nothing is, and nothing is to be learned.
///
/// # Errors
/// When the outputs that were set aside cannot be listed.
pub(super) fn known(
    job: Job<'_>,
    collection: &CollectionName,
    member: &Member<'_>,
) -> Result<Option<Known>, StorageError> {
    let settings = job.settings;
    let vector_space = member.staged.info.vector_space.to_string();
    let earlier = previous(&settings.output_dir, collection, member.staged.name())?;
    if earlier.is_empty() && settings.cache_dir.is_none() {
        return Ok(None);
    }
    let mut known = Known::new(&vector_space, member.staged.widths());
    for (directory, manifest) in earlier.iter().filter(|(_, manifest)| manifest.vector_space == vector_space) {
        tell(job.observer, &known.add_output(directory, manifest));
    }
    if let Some(root) = &settings.cache_dir {
        tell(job.observer, &known.add_cache(root, &format!("{}-{}", job.run_id, std::process::id())));
    }
    Ok(Some(known))
}

fn tell(observer: &dyn Observer, unusable: &[Unusable]) {
    for unusable in unusable {
        observer.observe(&Event::RunNote { note: unusable.to_string() });
    }
}
