//! A hub and a pip that live on this machine, and keep count of who asks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use embed_collections::domain::Digest;
use embed_collections::model::source::PipCommand;
use zip::write::SimpleFileOptions;

/// The commit that every revision of the stand-in hub is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub answers.
pub(crate) enum Reply {
    Files(Files),
    Status(u16),
    /// Status 200 and a page, as a network gives that wants a login first.
    LoginPage,
}

/// A repository.
#[derive(Default)]
pub(crate) struct Files {
    contents: BTreeMap<String, Vec<u8>>,
    /// Files whose body is an error page, though their head is fine.
    broken: Vec<String>,
    /// Files of which one byte is another.
    twisted: Vec<String>,
}

/// A hub that serves one repository.
pub(crate) struct Hub {
    address: SocketAddr,
    /// One entry a connection: the request line and the headers, in lower case.
    requests: Arc<Mutex<Vec<String>>>,
    reply: Arc<Mutex<Reply>>,
    is_closing: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hub {
    /// A hub with the files of a fixture, and some that nobody should fetch.
    pub(crate) fn serving(fixture: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(fixture);
        let mut files = Files::default();
        for path in files_below(&root) {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            files.contents.insert(name, fs::read(path).unwrap());
        }
        files.contents.insert("onnx/model.onnx".to_owned(), vec![0; 10]);
        files.contents.insert("README.md".to_owned(), Vec::new());
        Self::replying(Reply::Files(files))
    }

    pub(crate) fn replying(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, reply) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(reply)));
        let is_closing = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (requests, reply, is_closing) = (Arc::clone(&requests), Arc::clone(&reply), Arc::clone(&is_closing));
            move || {
                for stream in listener.incoming() {
                    if is_closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    let request = read_request(&stream);
                    let answer = answer(&request, &reply.lock().unwrap());
                    requests.lock().unwrap().push(request);
                    // The other side may hang up when it has seen enough.
                    let _ = stream.write_all(&answer);
                }
            }
        });
        Self { address, requests, reply, is_closing, thread: Some(thread) }
    }

    fn change(self, change: impl FnOnce(&mut Files)) -> Self {
        if let Reply::Files(files) = &mut *self.reply.lock().unwrap() {
            change(files);
        }
        self
    }

    pub(crate) fn breaking(self, name: &str) -> Self {
        self.change(|files| files.broken.push(name.to_owned()))
    }

    pub(crate) fn twisting(self, name: &str) -> Self {
        self.change(|files| files.twisted.push(name.to_owned()))
    }

    pub(crate) fn without(self, name: &str) -> Self {
        self.change(|files| assert!(files.contents.remove(name).is_some()))
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) fn every_request_had(&self, header: &str) -> bool {
        self.requests.lock().unwrap().iter().all(|text| text.lines().any(|line| line == header))
    }

    /// Stops listening; the endpoint refuses connections from then on.
    pub(crate) fn close(self) -> String {
        self.endpoint()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.is_closing.store(true, Ordering::SeqCst);
        // Wakes the thread; if it is gone already, there is nothing to wake.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn read_request(stream: &TcpStream) -> String {
    let mut text = String::new();
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        text.push_str(&line.to_lowercase());
        text.push('\n');
    }
    text
}

fn answer(request: &str, reply: &Reply) -> Vec<u8> {
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match reply {
        Reply::Status(status) => response(*status, &[], b"{\"error\": \"said no\"}", method),
        Reply::LoginPage => response(200, &[], b"<html>who are you?</html>", method),
        Reply::Files(files) => serve(files, method, path.split('?').next().unwrap_or_default()),
    }
}

fn serve(files: &Files, method: &str, path: &str) -> Vec<u8> {
    if let Some(rest) = path.strip_prefix("/api/models/someone/tiny-bert/") {
        let body = if rest.starts_with("revision/") {
            serde_json::json!({"id": "someone/tiny-bert", "sha": COMMIT})
        } else {
            let entry = |(path, bytes): (&String, &Vec<u8>)| serde_json::json!({"type": "file", "oid": "0", "size": bytes.len(), "path": path});
            files.contents.iter().map(entry).collect()
        };
        return response(200, &[], body.to_string().as_bytes(), method);
    }
    let Some(name) = path.strip_prefix(&format!("/someone/tiny-bert/resolve/{COMMIT}/")) else {
        return response(404, &[], b"{}", method);
    };
    // Requests are compared in lower case.
    let Some((name, bytes)) = files.contents.iter().find(|(known, _)| known.to_lowercase() == name) else {
        return response(404, &[], b"{}", method);
    };
    let headers = [("ETag", format!("\"{}\"", Digest::of(bytes))), ("X-Repo-Commit", COMMIT.to_owned())];
    if method == "get" && files.broken.contains(name) {
        return response(503, &headers, b"come back later", method);
    }
    let mut bytes = bytes.clone();
    if files.twisted.contains(name) {
        *bytes.last_mut().unwrap() ^= 1;
    }
    response(200, &headers, &bytes, method)
}

fn response(status: u16, headers: &[(&str, String)], body: &[u8], method: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text = text + name + ": " + value + "\r\n";
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if method != "head" {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// A pip that "downloads" by copying one wheel.
pub(crate) struct Pip {
    wheel: PathBuf,
    log: tempfile::NamedTempFile,
}

impl Pip {
    pub(crate) fn new(wheel: &Path) -> Self {
        Self { wheel: wheel.to_owned(), log: tempfile::NamedTempFile::new().unwrap() }
    }

    /// The last argument but one is the directory, as in a real call.
    pub(crate) fn command(&self) -> PipCommand {
        let script =
            r#"echo run >> "$0"; wheel="$1"; shift; while [ "$1" != --dest ]; do shift; done; cp "$wheel" "$2""#;
        let (log, wheel) = (self.log.path().to_str().unwrap(), self.wheel.to_str().unwrap());
        ["sh", "-c", script, log, wheel].map(str::to_owned).to_vec()
    }

    pub(crate) fn runs(&self) -> usize {
        fs::read_to_string(self.log.path()).unwrap().lines().count()
    }
}

/// Writes a wheel with the given entries.
pub(crate) fn wheel(path: &Path, entries: &[(&str, &[u8])]) -> PathBuf {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    path.to_owned()
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    for path in files_below(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
