//! What decides what a fused vector means, as a digest and in words.

use serde_json::json;

use super::plan::Method;
use crate::domain::{Digest, FieldDigest};
use crate::output::{Manifest, Provenance};

/// Version of the list of fields under the digest; whoever changes the list changes the version.
const VERSION: &str = "fusion 1";

/// Equal exactly when the method, the members' vector spaces, their weights and their order are equal.
pub(super) fn vector_space(method: Method, members: &[(&Manifest, f64)]) -> Digest {
    let mut fields = FieldDigest::default();
    fields.push(VERSION);
    fields.push(method.as_str());
    for (member, weight) in members {
        fields.push(member.vector_space.as_bytes());
        fields.push(weight.to_le_bytes());
    }
    fields.finish()
}

/// What the fused output is made of. `shards_sha256` stands for the members' very files, so that members that were
/// embedded again, even in the same space, are noticed.
pub(super) fn provenance(method: Method, members: &[(&Manifest, f64)]) -> Provenance {
    let member = |(manifest, weight): &(&Manifest, f64)| {
        json!({
            "model": manifest.model,
            "vector_space": manifest.vector_space,
            "weight": weight,
            "dimension": manifest.dimension,
            "shards_sha256": shards_digest(manifest),
        })
    };
    let mut provenance = Provenance::new();
    provenance.insert("fusion".to_owned(), method.as_str().into());
    provenance.insert("members".to_owned(), members.iter().map(member).collect());
    provenance
}

fn shards_digest(manifest: &Manifest) -> Digest {
    let mut fields = FieldDigest::default();
    for file in manifest.shards.iter().flat_map(|shard| &shard.files) {
        fields.push(&file.name);
        fields.push(file.sha256.as_bytes());
    }
    fields.finish()
}
