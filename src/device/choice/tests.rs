//! Wishes against machines.

use proptest::prelude::*;

use super::*;
use crate::device::DeviceUuid;

const ALL: &[DeviceKind] = &[DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Cpu];
const CPU_ONLY: &[DeviceKind] = &[DeviceKind::Cpu];

fn device(kind: DeviceKind, index: u32, uuid: &str) -> DeviceInfo {
    let uuid = DeviceUuid(uuid.to_owned());
    DeviceInfo { kind, index, uuid, name: "T4".to_owned(), total: None, compute_capability: None, mig: None }
}

fn two_gpus() -> Vec<DeviceInfo> {
    vec![
        device(DeviceKind::Cuda, 0, "GPU-aa"),
        device(DeviceKind::Cuda, 1, "GPU-ab"),
        device(DeviceKind::Cpu, 0, "cpu"),
    ]
}

/// What is chosen of two GPUs and four cores, in few letters.
fn choice(wanted: &str, encoders: &[DeviceKind]) -> Result<String, String> {
    let wanted: Vec<Wanted> = wanted
        .split(',')
        .filter(|entry| !entry.is_empty())
        .map(str::parse)
        .collect::<Result<_, ChoiceError>>()
        .map_err(|error| error.to_string())?;
    let choice = choose(&wanted, &two_gpus(), encoders, 4).map_err(|error| error.to_string())?;
    Ok(match choice.chosen {
        Chosen::Gpus(gpus) => gpus.iter().map(|gpu| gpu.uuid.0.clone()).collect::<Vec<_>>().join(" "),
        Chosen::Cpu(slots) => {
            slots.iter().map(|slot| format!("{}x{}", slot.index, slot.cores)).collect::<Vec<_>>().join(" ")
        }
    })
}

#[track_caller]
fn check(wanted: &str, encoders: &[DeviceKind], expected: Result<&str, &str>) {
    assert_eq!(choice(wanted, encoders), expected.map(str::to_owned).map_err(str::to_owned), "{wanted:?}");
}

#[test]
fn the_best_kind_with_an_encoder_is_taken_without_a_wish() {
    check("", ALL, Ok("GPU-aa GPU-ab"));
    check("", CPU_ONLY, Ok("0x4"));
    let choice = choose(&[], &two_gpus(), CPU_ONLY, 4).unwrap();
    assert_eq!(choice.unused_devices, two_gpus()[..2]);
    let all = [device(DeviceKind::Metal, 0, "metal"), device(DeviceKind::Cpu, 0, "cpu")];
    assert_eq!(choose(&[], &all, ALL, 4).unwrap().chosen, Chosen::Gpus(all[..1].to_vec()));
}

#[test]
fn a_wish_is_followed_in_its_order() {
    check("cuda:1,cuda:0", ALL, Ok("GPU-ab GPU-aa"));
    check("cuda", ALL, Ok("GPU-aa GPU-ab"));
    check("GPU-ab", ALL, Ok("GPU-ab"));
    check("cpu", ALL, Ok("0x4"));
    check("cpu:0,cpu:1", ALL, Ok("0x2 1x2"));
    check("cpu:2,cpu:0,cpu:1", CPU_ONLY, Ok("2x2 0x1 1x1"));
}

#[test]
fn a_wish_that_cannot_be_followed_says_what_is_there() {
    let there = "cuda:0 (T4, GPU-aa), cuda:1 (T4, GPU-ab), cpu";
    check("cuda:7", ALL, Err(&format!("there is no device cuda:7; there is {there}")));
    check("metal", ALL, Err(&format!("there is no device metal; there is {there}")));
    check("GPU-x", ALL, Err(&format!("there is no device GPU-x; there is {there}")));
    check("GPU-a", ALL, Err(&format!("GPU-a may be several devices; there is {there}; write more of the UUID")));
    check("cuda:0,GPU-aa", ALL, Err("device cuda:0 is named twice; name each device once"));
    check("cpu,cpu:0", ALL, Err("device cpu:0 is named twice; name each device once"));
    check("cuda:0,cpu", ALL, Err("GPUs and CPU slots cannot be used together; name either"));
    check(
        "cuda:1",
        CPU_ONLY,
        Err(
            "cuda:1 (T4, GPU-ab) is there, but this program was built without cuda; use --devices cpu, or a build with cuda",
        ),
    );
    check(
        "cpu:0,cpu:1,cpu:2,cpu:3,cpu:4",
        ALL,
        Err("5 CPU slots are asked for, but this process may use 4 of the cores; ask for at most 4"),
    );
    for entry in ["gpu:0", "cuda:", "cuda:x", "cuda:+1", "cuda:-1", "cuda:0:1", "0"] {
        let expected =
            format!("{entry:?} is no device; write cuda:0, metal:0, cpu, cpu:0 or the beginning of a UUID (GPU-…)");
        check(entry, ALL, Err(&expected));
    }
}

proptest! {
    #[test]
    fn what_is_read_is_shown_as_it_was_written(kind in prop::sample::select(ALL), index in any::<Option<u32>>()) {
        let written = index.map_or_else(|| kind.to_string(), |index| format!("{kind}:{index}"));
        prop_assert_eq!(written.parse::<Wanted>().unwrap().to_string(), written);
    }

    #[test]
    fn any_order_of_all_gpus_is_kept(order in Just(vec![0_u32, 1]).prop_shuffle()) {
        let wanted: Vec<Wanted> = order.iter().map(|index| Wanted::One(DeviceKind::Cuda, *index)).collect();
        let Chosen::Gpus(gpus) = choose(&wanted, &two_gpus(), ALL, 4).unwrap().chosen else { panic!("no GPUs") };
        prop_assert_eq!(gpus.iter().map(|gpu| gpu.index).collect::<Vec<_>>(), order);
    }
}
