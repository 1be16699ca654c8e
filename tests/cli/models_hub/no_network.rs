//! `--offline` opens no connection: the program is run with a library that ends it where it would open one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Home, REPOSITORY};
use crate::program::{Finished, TINY_MODEL};
use crate::stand_in_hub::Hub;

/// Ends the process where it asks for a socket of the Internet, or for the address of a name.
const GUARD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static void refuse(void) {
    static const char message[] = "a connection was to be opened\n";
    if (write(2, message, sizeof message - 1)) {}
    _exit(99);
}
int socket(int domain, int type, int protocol) {
    if (domain == AF_INET || domain == AF_INET6) refuse();
    int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    return real(domain, type, protocol);
}
int getaddrinfo(const char *n, const char *s, const struct addrinfo *h, struct addrinfo **r) {
    refuse();
    return EAI_FAIL;
}
"#;

struct Guard {
    directory: TempDir,
}

impl Guard {
    fn new() -> Self {
        let guard = Self { directory: tempfile::tempdir().unwrap() };
        let source = guard.directory.path().join("guard.c");
        fs::write(&source, GUARD).unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(guard.library()).arg(&source);
        assert!(command.arg("-ldl").status().unwrap().success());
        guard
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("guard.so")
    }

    fn run(&self, home: &Home, endpoint: &str, arguments: &[&str]) -> Finished {
        let program = home.program(endpoint).variable("LD_PRELOAD", self.library().to_str().unwrap());
        program.arguments(arguments).run()
    }
}

const OPENED: &str = "a connection was to be opened";

#[track_caller]
fn check_silent(run: &Finished, exit_code: i32) {
    assert!(!run.stderr.contains(OPENED), "{}", run.stderr);
    assert_eq!(run.exit_code, exit_code, "{}\n{}", run.stdout, run.stderr);
}

#[track_caller]
fn check_opened(run: &Finished) {
    assert_eq!((run.exit_code, run.stderr.contains(OPENED)), (99, true), "{}\n{}", run.stdout, run.stderr);
}

#[test]
fn offline_nothing_opens_a_connection_and_otherwise_it_shows() {
    let (home, hub, guard) = (Home::new(), Hub::serving("bert-minilm"), Guard::new());
    assert_eq!(home.pull(&hub).exit_code, 0);
    let endpoint = hub.endpoint();
    let chunks = ["--chunked-dir", "tests/data/Chunked"];
    let output = home.path("out");
    let embed = |model: &str, more: &[&str]| {
        let _ = fs::remove_dir_all(&output);
        let model = ["--output-dir", output.to_str().unwrap(), "--model", model];
        guard.run(&home, &endpoint, &[&chunks[..], &model, more].concat())
    };

    check_silent(&embed(REPOSITORY, &["--offline"]), 0);
    check_silent(&embed(TINY_MODEL, &["--offline"]), 0);
    check_silent(&embed("someone/other", &["--offline"]), 5);
    check_silent(&embed("all-MiniLM-L6-v2", &["--offline"]), 5);
    check_opened(&embed("someone/other", &[]));
    // What is here and whole needs no question, whatever is allowed.
    check_silent(&embed(REPOSITORY, &[]), 0);

    for (arguments, exit_code) in [
        (&["models", "list"][..], 0),
        (&["models", "show", "bge-m3"], 0),
        (&["models", "show", REPOSITORY], 0),
        (&["models", "show", "someone/other"], 5),
        (&["models", "pull", REPOSITORY], 0),
        (&["models", "pull", "someone/other"], 5),
        (&["models", "pull", "all-MiniLM-L6-v2"], 5),
        (&["models", "verify", REPOSITORY], 0),
    ] {
        check_silent(&guard.run(&home, &endpoint, &[arguments, &["--offline"]].concat()), exit_code);
    }
    check_opened(&guard.run(&home, &endpoint, &["models", "pull", "someone/other"]));
    check_opened(&guard.run(&home, "http://hub.example", &["models", "show", "bge-m3"]));
    assert!(Path::new(&guard.library()).exists());
}
