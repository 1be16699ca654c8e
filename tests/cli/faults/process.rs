//! The process is disturbed: by signals, by limits of the system, by a clock that jumps.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::rig::{Fault, Rig, UnderFault, committed_rows};
use crate::program::Program;

const EAGAIN: i32 = 11;

/// Longer than anything here takes on a machine that is busy.
const FOR_EVER: Duration = Duration::from_mins(1);

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// How it ended; killed if it hangs.
#[track_caller]
fn ended(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    while start.elapsed() < FOR_EVER {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    panic!("the program hangs");
}

#[track_caller]
fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < FOR_EVER, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_signal_at_any_moment_costs_nothing() {
    use std::os::unix::process::ExitStatusExt;
    let rig = Rig::new();
    let mut stopped = 0;
    for (number, (signal, exit_code)) in
        [("-INT", 130), ("-TERM", 143), ("-HUP", 143)].into_iter().cycle().take(15).enumerate()
    {
        let output = rig.path(&format!("out-{number}"));
        let mut child = rig.program_to(&output).start();
        std::thread::sleep(Duration::from_millis(12 * number as u64));
        send(signal, &child);
        let status = ended(&mut child);
        // At the very beginning, before anything is touched, the system's own answer to signals is as good.
        let in_time = status.signal().is_some() && !output.exists();
        assert!(in_time || [Some(0), Some(exit_code)].contains(&status.code()), "{signal}: {status}");
        stopped += usize::from(status.code() == Some(exit_code));
        rig.check_goes_on(&output);
    }
    assert!(stopped > 0, "every signal came too early or too late");
}

#[test]
fn a_second_signal_ends_at_once_what_the_first_could_not() {
    let rig = Rig::new();
    let output = rig.path("out");
    // A disk that does not answer: the first signal waits for the commit under way.
    let hangs = Fault { nth: 1, ..Fault::always("fsync", "part-00003", 0) };
    let mut child = rig.program_to(&output).under(hangs).variable("FAULT_RUN", "hang").start();
    wait_for(&output.join("many/bert-minilm/part-00003.jsonl.partial"));
    send("-INT", &child);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits for the commit");
    send("-INT", &child);
    assert_eq!(ended(&mut child).code(), Some(130));
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("once more to stop at once"), "{told}");
    assert_eq!(committed_rows(&output), 90);
    rig.check_goes_on(&output);
}

#[test]
fn a_thread_that_cannot_be_started_ends_the_run_and_never_hangs_it() {
    let rig = Rig::new();
    let mut failed = 0;
    for nth in 1..=12 {
        let output = rig.path(&format!("out-{nth}"));
        let fault = Fault { nth, ..Fault::always("thread", "", EAGAIN) };
        let mut child = rig.program_to(&output).under(fault).start();
        let status = ended(&mut child);
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        match status.code() {
            Some(0) => {}
            Some(70) => {
                assert!(told.contains("thread") && told.contains("error: internal error"), "{nth}: {told}");
                failed += 1;
            }
            other => panic!("thread {nth}: exit code {other:?}: {told}"),
        }
        rig.check_goes_on(&output);
    }
    assert!(failed > 5, "only {failed} runs failed");
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let rig = Rig::new();
    for (every, jump) in [("1", "-3000000000"), ("2", "-1800000000"), ("2", "1000000000")] {
        let output = rig.path(&format!("out{every}{jump}"));
        let run = rig.program_to(&output).shimmed().variable("CLOCK_EVERY", every).variable("CLOCK_JUMP", jump).run();
        assert_eq!(run.exit_code, 0, "{jump}: {}", run.stderr);
        rig.check_whole(&output);
    }
}

#[track_caller]
fn check_limit(rig: &Rig, limit: &str, run: Program, exit_codes: &[i32]) -> i32 {
    let output = rig.path(&limit.replace(' ', "-"));
    let run = run.limited(limit).run();
    assert!(exit_codes.contains(&run.exit_code), "{limit}: exit code {}: {}", run.exit_code, run.stderr);
    rig.check_goes_on(&output);
    run.exit_code
}

#[test]
fn a_low_limit_on_open_files_is_an_error_or_nothing() {
    let rig = Rig::new();
    let mut found = Vec::new();
    for files in 5..=14 {
        let limit = format!("ulimit -n {files}");
        let run = rig.program(&limit.replace(' ', "-"));
        found.push(check_limit(&rig, &limit, run, &[0, 4, 5, 9]));
    }
    assert!(found.contains(&9) && found.last() == Some(&0), "{found:?}");
}

#[test]
fn too_little_memory_ends_the_run_and_costs_nothing() {
    let rig = Rig::new();
    for kilobytes in [48, 64, 96, 128, 192, 320].map(|megabytes| megabytes << 10) {
        let limit = format!("ulimit -v {kilobytes}");
        let run = rig.program(&limit.replace(' ', "-"));
        // -1 is the abort of an allocation that is refused; 127, 139 and 70 that of a program that cannot begin.
        let exit_code = check_limit(&rig, &limit, run, &[0, 5, 7, 9, 70, 127, 139, -1]);
        println!("{} MB of address space: exit code {exit_code}", kilobytes >> 10);
    }
}
