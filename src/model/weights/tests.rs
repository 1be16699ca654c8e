//! Files as they are found, whole and broken.

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::serialize;

use super::*;
use crate::domain::Digest;

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

#[test]
fn a_tensor_that_is_there_under_two_prefixes_is_ambiguous() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let tensor = |name| (name, Dtype::F32, &[1][..], f32_bytes(&[1.0]));
    write(&path, &[tensor("bert.x"), tensor("x"), tensor("y")]);
    let weights = Weights::open(&[path]).unwrap();
    let error = weights.tensor("x").unwrap_err().to_string();
    assert!(error.contains("as x and as bert.x"), "{error}");
    check_f32(&weights, "y", &[1], &[1.0]);
}

/// A pickle as `torch.save` writes it, made by hand.
mod pickled {
    pub(super) fn text(text: &str) -> Vec<u8> {
        [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn integer(number: usize) -> Vec<u8> {
        [b"J", &i32::try_from(number).unwrap().to_le_bytes()[..]].concat()
    }

    fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
        [b"(", &parts.concat()[..], b"t"].concat()
    }

    pub(super) fn tensor(class: &str, key: &str, offset: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
        let numbers = |numbers: &[usize]| tuple(&numbers.iter().map(|number| integer(*number)).collect::<Vec<_>>());
        let storage = tuple(&[
            text("storage"),
            format!("ctorch\n{class}\n").into_bytes(),
            text(key),
            text("cpu"),
            // How many numbers the storage has; where the archive ends says that better.
            integer(0),
        ]);
        let arguments = tuple(&[
            [&storage[..], b"Q"].concat(),
            integer(offset),
            numbers(shape),
            numbers(strides),
            vec![0x89],
            b"ccollections\nOrderedDict\n)R".to_vec(),
        ]);
        [&b"ctorch._utils\n_rebuild_tensor_v2\n"[..], &arguments, b"R"].concat()
    }

    pub(super) fn dictionary(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let entries: Vec<u8> = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
        [&[0x80, 2][..], b"}q\x00(", &entries, b"u."].concat()
    }
}

/// An archive as `torch.save` writes it.
fn archive(pickle: &[u8], blocks: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> Vec<u8> {
    use std::io::Write;

    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut entry = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    entry("data.pkl", pickle);
    entry("byteorder", b"little");
    for (key, bytes) in blocks {
        entry(&format!("data/{key}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}

fn stored(pickle: &[u8], blocks: &[(&str, Vec<u8>)]) -> Vec<u8> {
    archive(pickle, blocks, zip::CompressionMethod::Stored)
}

/// Three tensors in two blocks, one of them a part of a block.
fn small_archive() -> Vec<u8> {
    let pickle = pickled::dictionary(&[
        ("bert.a", pickled::tensor("FloatStorage", "0", 0, &[2, 2], &[2, 1])),
        ("b", pickled::tensor("FloatStorage", "0", 1, &[3], &[1])),
        ("c", pickled::tensor("LongStorage", "1", 0, &[1, 2], &[7, 1])),
    ]);
    let whole = [5_i64, -6].into_iter().flat_map(i64::to_le_bytes).collect();
    stored(&pickle, &[("0", f32_bytes(&[1.0, 2.0, 3.0, 4.0])), ("1", whole)])
}

fn open_bytes(bytes: &[u8]) -> Result<Weights, WeightError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pytorch_model.bin");
    std::fs::write(&path, bytes).unwrap();
    Weights::open(&[path])
}

/// One tensor of a file that has no others, as an extent of a block of whole numbers from 0 on.
#[track_caller]
fn check_view(offset: usize, shape: &[usize], strides: &[usize], expected: &[f32]) {
    let pickle = pickled::dictionary(&[("x", pickled::tensor("FloatStorage", "0", offset, shape, strides))]);
    let block = f32_bytes(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    check_f32(&open_bytes(&stored(&pickle, &[("0", block)])).unwrap(), "x", shape, expected);
}

#[test]
fn a_view_gives_the_numbers_that_it_shows() {
    check_view(0, &[2, 3], &[1, 2], &[0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    check_view(1, &[3], &[2], &[1.0, 3.0, 5.0]);
    check_view(3, &[4], &[0], &[3.0; 4]);
    check_view(0, &[2, 2, 2], &[1, 4, 2], &[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    check_view(7, &[1, 1], &[0x7fff_ffff, 5], &[7.0]);
    check_view(0, &[0, 3], &[1, 9], &[]);
}

#[test]
fn a_view_with_the_other_sign_is_read_so_and_any_other_property_is_refused() {
    let of = |class: &str, properties: &[u8]| {
        let mut tensor = pickled::tensor(class, "0", 0, &[2], &[1]);
        // Before the end of the arguments.
        tensor.splice(tensor.len() - 2.., [properties, b"tR"].concat());
        stored(&pickled::dictionary(&[("x", tensor)]), &[("0", f32_bytes(&[1.5, -2.0, 0.0, 0.0]))])
    };
    let property = |name: &str, value: u8| [b"}", &pickled::text(name)[..], &[value, b's']].concat();
    let check = |properties: &[u8], expected: &[f32]| {
        check_f32(&open_bytes(&of("FloatStorage", properties)).unwrap(), "x", &[2], expected);
    };
    check(&property("neg", 0x88), &[-1.5, 2.0]);
    check(&property("neg", 0x89), &[1.5, -2.0]);
    check(b"}", &[1.5, -2.0]);
    check_refused(&of("FloatStorage", &property("conj", 0x88)), "property that is not known");
    check_refused(&of("FloatStorage", b"K\x01"), "another way than torch does");
    check_refused(&of("LongStorage", &property("neg", 0x88)), "tensor x is a view");
}

#[test]
fn what_is_no_tensor_is_passed_over_if_it_holds_none() {
    let tensor = pickled::tensor("FloatStorage", "0", 0, &[1], &[1]);
    let entries =
        [("epoch", b"K\x03".to_vec()), ("name", pickled::text("x")), ("nothing", b"N".to_vec()), ("x", tensor)];
    let weights = open_bytes(&stored(&pickled::dictionary(&entries), &[("0", f32_bytes(&[4.0]))])).unwrap();
    check_f32(&weights, "x", &[1], &[4.0]);
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x"]);
    let nested = pickled::dictionary(&[("state_dict", b"}".to_vec())]);
    check_refused(&stored(&nested, &[]), "\"state_dict\" is not a tensor; if you trust it, load it with torch");
}

/// A file as torch before 1.6 wrote it: two blocks, the second of whole numbers.
fn legacy_file() -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    bytes.extend(pickled::dictionary(&[("little_endian", vec![0x88])]));
    // Each storage has one part more.
    let tensor = |class: &str, key: &str, offset, shape: &[usize], strides: &[usize]| {
        let tensor = pickled::tensor(class, key, offset, shape, strides);
        let end = tensor.windows(2).position(|window| window == b"tQ").unwrap();
        [&tensor[..end], b"N", &tensor[end..]].concat()
    };
    bytes.extend(pickled::dictionary(&[
        ("a", tensor("FloatStorage", "94057352091136", 1, &[2], &[1])),
        ("b", tensor("LongStorage", "7", 0, &[2], &[1])),
        ("c", tensor("FloatStorage", "94057352091136", 0, &[3, 2], &[1, 0])),
    ]));
    bytes.extend([&b"\x80\x02]q\x00("[..], &pickled::text("7"), &pickled::text("94057352091136"), b"e."].concat());
    bytes.extend([2_i64, 5, -6].into_iter().flat_map(i64::to_le_bytes));
    bytes.extend(3_i64.to_le_bytes());
    bytes.extend(f32_bytes(&[1.0, 2.0, 3.0]));
    bytes
}

#[test]
fn a_file_of_torch_before_1_6_gives_the_tensors_that_were_saved() {
    let weights = open_bytes(&legacy_file()).unwrap();
    check_f32(&weights, "a", &[2], &[2.0, 3.0]);
    check_f32(&weights, "c", &[3, 2], &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    assert_eq!(weights.tensor("b").unwrap().to_i64().unwrap(), [5, -6]);
    let whole = legacy_file();
    for length in 21..whole.len() {
        assert!(open_bytes(&whole[..length]).is_err(), "{length}");
    }
    let mut other = whole.clone();
    let truth = other.windows(3).position(|window| window == [b'n', 0x88, b'u']).unwrap();
    other[truth + 1] = 0x89;
    check_refused(&other, "\"big\"-endian");
}

#[test]
fn digests_of_tensors_do_not_depend_on_where_and_how_they_are_stored() {
    let directory = tempfile::tempdir().unwrap();
    let values = [1.0, 2.0, 3.0, 4.0];
    let digests = |paths: &[PathBuf]| Weights::open(paths).unwrap().tensor_digests().unwrap().own;
    let path = |name: &str| directory.path().join(name);
    let tensor = |name| (name, Dtype::F32, &[2, 2][..], f32_bytes(&values));
    let whole = digests(&[write(&path("model.safetensors"), &[tensor("a"), tensor("b")])]);
    let shards = [write(&path("2.safetensors"), &[tensor("b")]), write(&path("1.safetensors"), &[tensor("a")])];
    assert_eq!(digests(&shards), whole);
    let transposed = f32_bytes(&[1.0, 3.0, 2.0, 4.0]);
    let pickle = pickled::dictionary(&[
        ("b", pickled::tensor("FloatStorage", "0", 0, &[2, 2], &[2, 1])),
        ("a", pickled::tensor("FloatStorage", "1", 0, &[2, 2], &[1, 2])),
    ]);
    std::fs::write(path("pytorch_model.bin"), stored(&pickle, &[("0", f32_bytes(&values)), ("1", transposed)]))
        .unwrap();
    assert_eq!(digests(&[path("pytorch_model.bin")]), whole);

    let others: [(Dtype, &[usize], Vec<u8>); 3] = [
        (Dtype::F32, &[2, 2], f32_bytes(&[1.0, 2.0, 3.0, 5.0])),
        (Dtype::F32, &[4], f32_bytes(&values)),
        (Dtype::I32, &[2, 2], f32_bytes(&values)),
    ];
    for (dtype, shape, bytes) in others {
        let other = digests(&[write(&path("other.safetensors"), &[tensor("a"), ("b", dtype, shape, bytes)])]);
        assert_eq!((&other[0], other[1] == whole[1]), (&whole[0], false), "{dtype} {shape:?}");
    }
}

/// What the error of a file says.
fn refusal(bytes: &[u8]) -> String {
    open_bytes(bytes).map(|_| ()).unwrap_err().to_string()
}

#[track_caller]
fn check_refused(bytes: &[u8], part: &str) {
    let error = refusal(bytes);
    assert!(error.contains("pytorch_model.bin") && error.contains(part), "{error:?} lacks {part:?}");
}

#[test]
fn a_file_of_pytorch_gives_the_tensors_that_were_saved() {
    let weights = open_bytes(&small_archive()).unwrap();
    check_f32(&weights, "a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    check_f32(&weights, "b", &[3], &[2.0, 3.0, 4.0]);
    assert_eq!(weights.tensor("c").unwrap().expect_shape(&[1, 2]).unwrap().to_i64().unwrap(), [5, -6]);
    assert_eq!(weights.numbers(), 9);
    for (class, bytes) in [
        ("HalfStorage", f16::from_f32(1.5).to_le_bytes().to_vec()),
        ("BFloat16Storage", bf16::from_f32(1.5).to_le_bytes().to_vec()),
        ("DoubleStorage", 1.5_f64.to_le_bytes().to_vec()),
    ] {
        let pickle = pickled::dictionary(&[("x", pickled::tensor(class, "0", 0, &[1], &[1]))]);
        check_f32(&open_bytes(&stored(&pickle, &[("0", bytes)])).unwrap(), "x", &[1], &[1.5]);
    }
}

#[test]
fn a_pickle_that_names_anything_else_than_tensors_is_refused_by_that_name() {
    let check = |value: &[u8], part: &str| {
        let pickle = pickled::dictionary(&[("x", value.to_vec())]);
        check_refused(&stored(&pickle, &[("0", f32_bytes(&[1.0]))]), part);
    };
    check(b"cos\nsystem\n(X\x02\0\0\0lstR", "os.system");
    check(b"cbuiltins\neval\n", "builtins.eval");
    check(b"ctorch\nQuantizedStorage\n", "torch.QuantizedStorage");
    check(b"}", "\"x\" is not a tensor");
    check(b"ccollections\nOrderedDict\n(K\x01tR", "called in another way");
    // An instance (`i`, `o`), an object (0x81), and an extension (0x82) all call code.
    for code in [b'i', b'o', 0x81, 0x82, 0x92, 0x93] {
        check(&[code], &format!("{code:#04x}"));
    }
}

#[test]
fn a_tensor_that_does_not_lie_in_its_block_is_an_error() {
    let check = |offset, shape: &[usize], strides: &[usize], part: &str| {
        let pickle = pickled::dictionary(&[("x", pickled::tensor("FloatStorage", "0", offset, shape, strides))]);
        check_refused(&stored(&pickle, &[("0", f32_bytes(&[1.0, 2.0]))]), part);
    };
    check(0, &[3], &[1], "tensor x is larger than the block data/0");
    check(2, &[1], &[1], "tensor x is larger");
    check(0, &[0x7fff_ffff, 0x0002_0001, 1], &[0x0002_0001, 1, 1], "tensor x is larger");
    check(0, &[1, 2], &[1], "tensor x is a view");
    check(0, &[2, 1], &[2, 1], "tensor x is larger");
    check(0, &[2, 2], &[1, 2], "tensor x is larger");
    // A gigabyte of one number.
    check(0, &[1 << 14, 1 << 14], &[0, 0], "tensor x is larger");
    let pickle = pickled::dictionary(&[("x", pickled::tensor("FloatStorage", "7", 0, &[1], &[1]))]);
    check_refused(&stored(&pickle, &[]), "no entry data/7");
}

#[test]
fn what_is_no_archive_of_today_is_refused_with_the_way_out() {
    check_refused(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.more", "before 1.6");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    check_refused(pointer.as_bytes(), "run `git lfs pull`");
    check_refused(b"", "no whole zip");
    check_refused(b"PK\x03\x04", "no whole zip");
    let pickle = pickled::dictionary(&[]);
    check_refused(&archive(&pickle, &[], zip::CompressionMethod::Deflated), "is not stored whole and as it is");
    check_refused(&stored(b"\x80\x02}", &[]), "middle of an instruction");
    let long = pickled::dictionary(&[("x", pickled::text(&"x".repeat(17 << 20)))]);
    check_refused(&stored(&long, &[]), "far more");
}

#[test]
fn a_damaged_number_is_found_when_its_tensor_is_wanted() {
    let mut bytes = small_archive();
    let number = 3.0_f32.to_le_bytes();
    let place = bytes.windows(4).position(|window| window == number).unwrap();
    bytes[place] ^= 1;
    let weights = open_bytes(&bytes).unwrap();
    let error = weights.tensor("b").unwrap_err().to_string();
    assert!(error.contains("tensor b in") && error.contains("pytorch_model.bin"), "{error}");
    assert_eq!(weights.tensor("c").unwrap().to_i64().unwrap(), [5, -6]);
}

#[test]
fn a_small_pickle_cannot_ask_for_much_memory() {
    // A long name recalled as often as there is room.
    let value = pickled::tensor("FloatStorage", "0", 0, &[1], &[1]);
    let mut pickle = vec![0x80, 2, b'}'];
    pickle.extend(pickled::text(&"x".repeat(1 << 20)));
    pickle.extend(b"q\x01");
    pickle.extend(&value);
    pickle.extend(b"q\x02s");
    pickle.extend(b"h\x01h\x02s".repeat(100_000));
    pickle.push(b'.');
    check_refused(&stored(&pickle, &[("0", f32_bytes(&[1.0]))]), "twice");
    // Tuples of tuples: nothing is nested, so nothing overflows when it is dropped.
    let deep = [&[0x80, 2, b')'][..], &vec![0x85; 1 << 20], b"."].concat();
    check_refused(&stored(&deep, &[]), "no dictionary");
}

/// Reads whatever can be read, as a model would.
fn read_all(bytes: &[u8]) {
    let Ok((tensors, blocks)) = pytorch::find(bytes) else { return };
    for tensor in tensors {
        assert!(tensor.bytes.end <= bytes.len());
        let size = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        let found = match tensor.view {
            Some(view) => view.gather(&tensor.shape, tensor.dtype, &bytes[tensor.bytes]).len(),
            None => tensor.bytes.len(),
        };
        assert_eq!(found, size);
        blocks[tensor.block].is_whole(bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_file_of_pytorch_with_other_bytes_never_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = small_archive();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    #[test]
    fn a_file_of_torch_before_1_6_with_other_bytes_never_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = legacy_file();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read_all(&bytes);
    }

    #[test]
    fn a_pickle_of_any_bytes_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        _ = pickle::tensors(&bytes);
        // The archive's checksum would keep most changes from the pickle.
        let mut pickle = pickled::dictionary(&[
            ("a", pickled::tensor("FloatStorage", "0", 0, &[2, 2], &[2, 1])),
            ("b", pickled::tensor("LongStorage", "1", 1, &[3], &[1])),
        ]);
        for (place, byte) in changes {
            let place = place.index(pickle.len());
            pickle[place] = byte;
        }
        _ = pickle::tensors(&pickle);
    }

    #[test]
    fn safetensors_with_other_bytes_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let values = f32_bytes(&[1.0, 2.0]);
        let view = RawView::new(Dtype::F32, vec![2], &values).unwrap();
        let mut bytes = serialize([("x", view)], None).unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(tensors) = SafeTensors::deserialize(&bytes) {
            for (_, tensor) in tensors.iter() {
                let size = tensor.shape().iter().product::<usize>() * tensor.dtype().bitsize() / 8;
                prop_assert_eq!(tensor.data().len(), size);
            }
        }
    }
}
