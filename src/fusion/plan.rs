//! Whether members can be fused: asked before any work, since the answer after hours of embedding would come late.

use std::fmt;

use crate::config::Fusion;
use crate::output::directory_name;

/// What a fused output is called, in the place of a model; its directory is kept free for it.
pub const FUSED: &str = "fused";

/// How the vectors of a row become one.
///
/// Both scale each vector to unit length first, so that a model whose vectors are long does not drown the others, and
/// the result once more. All sums are in f64, and each component is rounded once, at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Weighted mean of the members' unit vectors: Σ wᵢ·vᵢ/‖vᵢ‖. With equal weights this is the averaging of Coates and
    /// Bollegala, "Frustratingly Easy Meta-Embedding" (2018, <https://aclanthology.org/N18-2031>); it keeps the
    /// dimension, and its cosine mixes in products between unrelated axes of different models.
    Mean,
    /// The weighted unit vectors wᵢ·vᵢ/‖vᵢ‖ one after the other, in the order of the members; as CONC of Yin and Schütze,
    /// "Learning Word Meta-Embeddings" (2016, <https://aclanthology.org/P16-1128>). No axis of one model meets one of
    /// another: the cosine of two fused vectors is Σ wᵢ²·cosᵢ / Σ wᵢ².
    Concat,
}

impl Method {
    /// The method that a setting asks for; `None` for no fusion.
    pub fn of(fusion: Fusion) -> Option<Self> {
        match fusion {
            Fusion::Mean => Some(Self::Mean),
            Fusion::Concat => Some(Self::Concat),
            Fusion::None => None,
        }
    }

    /// The name used in settings and outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Concat => "concat",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A member as far as its vectors' length goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberShape {
    /// The model as it was asked for.
    pub model: String,
    /// Length of its vectors as they are written.
    pub dimension: usize,
}

impl fmt::Display for MemberShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {}", self.model, self.dimension)
    }
}

/// Members that cannot be fused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// There are none.
    #[error("there is no model to fuse (name some with --ensemble-models)")]
    NoMembers,
    /// A mean needs one dimension.
    #[error(
        "a mean needs vectors of one dimension, but {} (--truncate-dim {} brings them to one: cut, then normalised; or pass --fusion concat or --fusion none)",
        join(members),
        smallest(members)
    )]
    DimensionsDiffer {
        /// All members.
        members: Vec<MemberShape>,
    },
    /// A member's directory is that of the fused output.
    #[error(
        "the output of {model} would be in the directory that is kept for fused vectors, {FUSED:?} (give the model's directory another name)"
    )]
    Reserved {
        /// The member.
        model: String,
    },
    /// Two members share a directory.
    #[error(
        "the outputs of {first} and {second} would both be in the directory {directory:?} (name a model once, or give its directory another name)"
    )]
    SameDirectory {
        /// The earlier member.
        first: String,
        /// The later one.
        second: String,
        /// Their directory.
        directory: String,
    },
}

fn join(members: &[MemberShape]) -> String {
    members.iter().map(MemberShape::to_string).collect::<Vec<_>>().join(", ")
}

fn smallest(members: &[MemberShape]) -> usize {
    members.iter().map(|member| member.dimension).min().unwrap_or_default()
}

/// The dimension of the fused vectors.
///
/// # Errors
/// When the members cannot be fused in this way; the message says what would help.
pub fn plan(method: Method, members: &[MemberShape]) -> Result<usize, ShapeError> {
    let first = members.first().ok_or(ShapeError::NoMembers)?;
    check_directories(members)?;
    match method {
        Method::Mean if members.iter().all(|member| member.dimension == first.dimension) => Ok(first.dimension),
        Method::Mean => Err(ShapeError::DimensionsDiffer { members: members.to_vec() }),
        Method::Concat => Ok(members.iter().map(|member| member.dimension).sum()),
    }
}

fn check_directories(members: &[MemberShape]) -> Result<(), ShapeError> {
    for (index, member) in members.iter().enumerate() {
        let directory = directory_name(&member.model);
        // Some file systems hold "Fused" and "fused" for one name.
        if directory.to_lowercase() == FUSED {
            return Err(ShapeError::Reserved { model: member.model.clone() });
        }
        if let Some(earlier) = members[..index].iter().find(|earlier| directory_name(&earlier.model) == directory) {
            let (first, second) = (earlier.model.clone(), member.model.clone());
            return Err(ShapeError::SameDirectory { first, second, directory });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, members: &[(&str, usize)], expected: Result<usize, &str>) {
        let shape = |&(model, dimension): &(&str, usize)| MemberShape { model: model.to_owned(), dimension };
        let members: Vec<_> = members.iter().map(shape).collect();
        assert_eq!(plan(method, &members).map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn a_mean_keeps_the_dimension_and_a_concatenation_adds_them_up() {
        check(Method::Mean, &[("a", 384)], Ok(384));
        check(Method::Mean, &[("a", 384), ("b", 384)], Ok(384));
        check(Method::Concat, &[("a", 384), ("b", 1024), ("c", 1)], Ok(1409));
    }

    #[test]
    fn a_mean_over_dimensions_that_differ_names_them_and_the_ways_out() {
        check(
            Method::Mean,
            &[("BAAI/bge-m3", 1024), ("all-MiniLM-L6-v2", 384), ("c", 1024)],
            Err("a mean needs vectors of one dimension, but BAAI/bge-m3 has 1024, all-MiniLM-L6-v2 has 384, \
                 c has 1024 (--truncate-dim 384 brings them to one: cut, then normalised; \
                 or pass --fusion concat or --fusion none)"),
        );
    }

    #[test]
    fn members_without_a_directory_of_their_own_are_refused() {
        check(Method::Mean, &[], Err("there is no model to fuse (name some with --ensemble-models)"));
        for model in ["fused", "org/Fused", "./models/FUSED/"] {
            let expected = format!(
                "the output of {model} would be in the directory that is kept for fused vectors, \"fused\" \
                 (give the model's directory another name)"
            );
            check(Method::Concat, &[("a", 1), (model, 1)], Err(&expected));
        }
        check(Method::Concat, &[("fused-v2", 1), ("confused", 1)], Ok(2));
        check(
            Method::Concat,
            &[("org/a", 1), ("b", 1), ("a", 2)],
            Err("the outputs of org/a and a would both be in the directory \"a\" \
                 (name a model once, or give its directory another name)"),
        );
    }

    #[test]
    fn each_setting_has_its_method_of_the_same_name() {
        for fusion in [Fusion::Mean, Fusion::Concat] {
            let method = Method::of(fusion).unwrap();
            assert_eq!(serde_json::to_value(fusion).unwrap(), method.to_string());
        }
        assert_eq!(Method::of(Fusion::None), None);
    }
}
