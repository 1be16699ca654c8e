//! shim
use std::path::PathBuf;
#[derive(Debug, thiserror::Error)]
#[error("shim")]
pub struct SourceError;
pub struct Provenance;
impl std::fmt::Display for Provenance { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("local") } }
impl Provenance { pub fn revision(&self) -> Option<&str> { None } }
pub struct ModelFiles { pub directory: PathBuf, pub notes: Vec<String>, pub provenance: Provenance }
pub fn resolve(r: &PathBuf, _: &dyn Fn(String)) -> Result<ModelFiles, SourceError> { Ok(ModelFiles { directory: r.clone(), notes: vec![], provenance: Provenance }) }
