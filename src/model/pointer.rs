//! Pointers of git-lfs: what a clone without git-lfs has in the place of large files.

use std::path::Path;

/// How every pointer begins.
const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Whether a file's content is a pointer to it.
pub(super) fn is_one(content: &[u8]) -> bool {
    content.starts_with(BEGINNING)
}

/// What to say of such a file.
pub(super) fn explained(path: &Path) -> String {
    let path = path.display();
    format!(
        "{path} is a pointer of git-lfs and not the file itself; run `git lfs pull` where it was cloned, or fetch it anew"
    )
}
