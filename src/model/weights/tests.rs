//! Files as they are found, whole and broken.

use safetensors::serialize;

use super::*;

/// Writes a file with the given tensors.
fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> PathBuf {
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| (*name, RawView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
    path.to_owned()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[track_caller]
fn check_f32(weights: &Weights, name: &str, shape: &[usize], expected: &[f32]) {
    let tensor = weights.tensor(name).unwrap().expect_shape(shape).unwrap();
    assert_eq!(tensor.to_f32().unwrap(), expected, "{name}");
}

#[test]
fn every_stored_kind_of_number_is_read_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let values = [1.5, -0.25, 0.0, 1024.0];
    let halves = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
    let brains = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
    let path = write(
        &directory.path().join("model.safetensors"),
        &[
            ("a", Dtype::F32, &[2, 2], f32_bytes(&values)),
            ("b", Dtype::F16, &[4], halves),
            ("c", Dtype::BF16, &[4, 1], brains),
            ("d", Dtype::I64, &[1], vec![0; 8]),
        ],
    );
    let weights = Weights::open(std::slice::from_ref(&path)).unwrap();
    check_f32(&weights, "a", &[2, 2], &values);
    check_f32(&weights, "b", &[4], &values);
    check_f32(&weights, "c", &[4, 1], &values);
    let error = weights.tensor("d").unwrap().to_f32().unwrap_err().to_string();
    assert!(error.contains("tensor d in") && error.contains("I64"), "{error}");
    assert_eq!(weights.bytes(), std::fs::metadata(&path).unwrap().len());
    assert_eq!(weights.digests(), [Digest::of(&std::fs::read(&path).unwrap())]);
}

#[test]
fn a_tensor_is_found_under_any_known_prefix_and_in_any_shard() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = |name: &'static str, value: f32| [(name, Dtype::F32, &[1][..], f32_bytes(&[value]))];
    let paths = [
        write(&directory.path().join("1.safetensors"), &tensors("bert.x", 1.0)),
        write(&directory.path().join("2.safetensors"), &tensors("0.auto_model.y", 2.0)),
        write(&directory.path().join("3.safetensors"), &tensors("model.z", 3.0)),
        write(&directory.path().join("4.safetensors"), &tensors("plain", 4.0)),
    ];
    let weights = Weights::open(&paths).unwrap();
    for (name, value) in [("x", 1.0), ("y", 2.0), ("z", 3.0), ("plain", 4.0)] {
        check_f32(&weights, name, &[1], &[value]);
        assert!(weights.contains(name));
    }
    assert!(!weights.contains("w"));
    let error = weights.tensor("w").unwrap_err().to_string();
    assert!(error.contains("no tensor w") && error.contains("4.safetensors"), "{error}");
}

#[test]
fn a_wrong_shape_names_the_tensor_the_file_and_both_shapes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, &[("bert.x", Dtype::F32, &[2], f32_bytes(&[1.0, 2.0]))]);
    let weights = Weights::open(&[path]).unwrap();
    let error = weights.tensor("x").unwrap().expect_shape(&[3]).unwrap_err().to_string();
    for part in ["bert.x", "model.safetensors", "[2]", "[3]"] {
        assert!(error.contains(part), "{error} lacks {part}");
    }
}

#[test]
fn a_tensor_in_two_files_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = [("x", Dtype::F32, &[1][..], f32_bytes(&[1.0]))];
    let paths = ["a", "b"].map(|name| write(&directory.path().join(name), &tensors));
    assert!(matches!(Weights::open(&paths), Err(WeightError::Duplicate { tensor, .. }) if tensor == "x"));
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, &[("x", Dtype::F32, &[2], f32_bytes(&[1.0, 2.0])), ("y", Dtype::F32, &[1], f32_bytes(&[3.0]))]);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Weights::open(std::slice::from_ref(&path)).err();
        assert!(matches!(error, Some(WeightError::Corrupt { .. })), "{length} bytes: {error:?}");
    }
    std::fs::write(&path, b"\x08\0\0\0\0\0\0\0not json").unwrap();
    assert!(matches!(Weights::open(std::slice::from_ref(&path)), Err(WeightError::Corrupt { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Weights::open(&[path]), Err(WeightError::Open { .. })));
}
