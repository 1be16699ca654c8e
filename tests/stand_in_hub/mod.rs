//! A hub that lives on this machine, misbehaves as it is told, and keeps count of who asks for what.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use embed_collections::domain::Digest;
use serde_json::json;
use sha1::{Digest as _, Sha1};

/// The commit that every revision of the stand-in hub is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Its only repository.
pub const REPOSITORY: &str = "someone/tiny-bert";

/// What it does wrong, with requests whose path ends with `path`.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, so many times, with these headers.
    Status { path: &'static str, status: u16, times: usize, headers: Vec<(&'static str, String)> },
    /// An answer that sends elsewhere.
    Redirect { path: &'static str, location: String },
    /// The connection ends after so many bytes, so many times.
    Cut { path: &'static str, after: usize, times: usize },
    /// The file is shorter, and says so.
    Short { path: &'static str, by: usize },
    /// The file is shorter, and nothing says how long it is.
    Unmeasured { path: &'static str, by: usize },
    /// Always the whole file, and the connection ends after each of these numbers of bytes in turn.
    Restless { path: &'static str, after: Vec<usize> },
    /// One byte is another.
    Twisted { path: &'static str },
    /// So many bytes a second.
    Slow { path: &'static str, bytes_per_second: usize },
    /// Always the whole file.
    NoRanges,
    /// Every answer is a page that wants a login, as networks give it.
    LoginPage,
}

impl Fault {
    pub fn status(path: &'static str, status: u16, times: usize) -> Self {
        Self::Status { path, status, times, headers: Vec::new() }
    }
}

/// What somebody asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// In lower case.
    pub headers: BTreeMap<String, String>,
    pub at: Instant,
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    faults: Mutex<Vec<Fault>>,
    requests: Mutex<Vec<Request>>,
    /// Bytes of bodies, by the end of the path.
    served: Mutex<BTreeMap<String, usize>>,
    is_closing: AtomicBool,
}

/// A hub that serves one repository.
pub struct Hub {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hub {
    /// A hub with the files of a fixture, and many that nobody should fetch.
    pub fn serving(fixture: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(fixture);
        let hub = Self::empty();
        for path in files_below(&root) {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            hub.put(&name, fs::read(path).unwrap());
        }
        for name in [
            "README.md",
            "onnx/model.onnx",
            "openvino/openvino_model.bin",
            "tf_model.h5",
            "flax_model.msgpack",
            "rust_model.ot",
            "model-q4.gguf",
            "pytorch_model.bin",
            "training_args.bin",
        ] {
            hub.put(name, vec![7; 10]);
        }
        hub
    }

    /// A hub that answers every question with this status.
    pub fn refusing(status: u16) -> Self {
        Self::empty().with(Fault::status("", status, usize::MAX))
    }

    pub fn empty() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let thread = std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for stream in listener.incoming() {
                    if state.is_closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let state = Arc::clone(&state);
                    // The other side may hang up when it has seen enough.
                    std::thread::spawn(move || drop(state.answer(&mut stream.unwrap())));
                }
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(name.to_owned(), bytes);
    }

    pub fn with(self, fault: Fault) -> Self {
        self.state.faults.lock().unwrap().push(fault);
        self
    }

    /// From now on all is well.
    pub fn recover(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    pub fn without(self, name: &str) -> Self {
        assert!(self.state.files.lock().unwrap().remove(name).is_some(), "{name}");
        self
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The requests for one file.
    pub fn requests_for(&self, name: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.ends_with(name)).collect()
    }

    /// How many bytes of a file were sent in all.
    pub fn served(&self, name: &str) -> usize {
        self.state.served.lock().unwrap().iter().filter(|(path, _)| path.ends_with(name)).map(|(_, bytes)| bytes).sum()
    }

    /// Stops listening; the endpoint refuses connections from then on.
    pub fn close(self) -> String {
        self.endpoint()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.state.is_closing.store(true, Ordering::SeqCst);
        // Wakes the thread; if it is gone already, there is nothing to wake.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl State {
    fn answer(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let request = read_request(stream);
        self.requests.lock().unwrap().push(request.clone());
        let fault = self.fault_of(&request.path);
        match fault {
            Some(Fault::LoginPage) => return respond(stream, 200, &[], b"<html>who are you?</html>"),
            Some(Fault::Redirect { location, .. }) => return respond(stream, 302, &[("Location", location)], b""),
            Some(Fault::Status { status, headers, .. }) => {
                return respond(stream, status, &headers, br#"{"error": "said no"}"#);
            }
            _ => {}
        }
        let path = request.path.split('?').next().unwrap_or_default();
        if request.method == "HEAD" {
            return self.describe(stream, path);
        }
        match self.body(path) {
            Some(body) => self.serve(stream, &request, body, fault.as_ref()),
            None => respond(stream, 404, &[("X-Error-Code", "RepoNotFound".to_owned())], b"{}"),
        }
    }

    /// The first fault that is not used up, and that bears on the path.
    fn fault_of(&self, path: &str) -> Option<Fault> {
        let found_path = path;
        self.faults.lock().unwrap().iter_mut().find_map(|fault| {
            let found = fault.clone();
            let (end, times) = match fault {
                Fault::Status { path, times, .. } | Fault::Cut { path, times, .. } => (*path, Some(times)),
                Fault::Redirect { path, .. }
                | Fault::Short { path, .. }
                | Fault::Unmeasured { path, .. }
                | Fault::Twisted { path }
                | Fault::Slow { path, .. } => (*path, None),
                Fault::Restless { path, after } => {
                    if !found_path.ends_with(*path) || after.is_empty() {
                        return None;
                    }
                    after.remove(0);
                    return Some(found);
                }
                Fault::NoRanges | Fault::LoginPage => ("", None),
            };
            if !path.ends_with(end) {
                return None;
            }
            match times {
                Some(0) => return None,
                Some(times) => *times -= 1,
                None => {}
            }
            Some(found)
        })
    }

    /// The answer to a question, or a file; files are also under `/elsewhere`, where redirects may lead.
    fn body(&self, path: &str) -> Option<Vec<u8>> {
        let files = self.files.lock().unwrap();
        if let Some(rest) = path.strip_prefix(&format!("/api/models/{REPOSITORY}/")) {
            let body = if rest.starts_with("revision/") {
                let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
                json!({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings})
            } else {
                files.iter().map(|(path, bytes)| entry(path, bytes)).collect()
            };
            return Some(body.to_string().into_bytes());
        }
        let resolved = format!("/{REPOSITORY}/resolve/{COMMIT}/");
        let name = path.strip_prefix(&resolved).or_else(|| path.strip_prefix("/elsewhere/"))?;
        files.get(name).cloned()
    }

    /// What a file is without its bytes; large ones are elsewhere.
    fn describe(&self, stream: &mut TcpStream, path: &str) -> std::io::Result<()> {
        let Some(bytes) = self.body(path) else { return respond(stream, 404, &[], b"") };
        let entry = entry(path, &bytes);
        let quoted = |text: &serde_json::Value| format!("{:?}", text.as_str().unwrap_or_default());
        match entry.get("lfs") {
            None => write_head(stream, 200, &[("ETag", quoted(&entry["oid"]))], bytes.len())?,
            Some(large) => {
                let (tag, size) = (quoted(&large["oid"]), bytes.len().to_string());
                let location = "http://elsewhere.invalid/large".to_owned();
                let headers = [("X-Linked-Etag", tag), ("X-Linked-Size", size), ("Location", location)];
                write_head(stream, 302, &headers, 0)?;
            }
        }
        stream.shutdown(Shutdown::Write)
    }

    fn serve(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        mut body: Vec<u8>,
        fault: Option<&Fault>,
    ) -> std::io::Result<()> {
        let total = body.len();
        match fault {
            Some(Fault::Short { by, .. } | Fault::Unmeasured { by, .. }) => body.truncate(total - by),
            Some(Fault::Twisted { .. }) => *body.last_mut().unwrap() ^= 1,
            _ => {}
        }
        let knows_ranges = !matches!(fault, Some(Fault::NoRanges | Fault::Restless { .. }));
        let range = request.headers.get("range").filter(|_| knows_ranges);
        let start = range.map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
        if start >= body.len() && start > 0 {
            return respond(stream, 416, &[], b"");
        }
        let status = if range.is_some() { 206 } else { 200 };
        let place = format!("bytes {start}-{}/{total}", total - 1);
        let headers: &[_] = if range.is_some() { &[("Content-Range", place)] } else { &[] };
        let body = &body[start..];
        if matches!(fault, Some(Fault::Unmeasured { .. })) {
            stream.write_all(format!("HTTP/1.1 {status} x\r\nConnection: close\r\n").as_bytes())?;
            headers.iter().try_for_each(|(name, value)| stream.write_all(format!("{name}: {value}\r\n").as_bytes()))?;
            stream.write_all(b"\r\n")?;
        } else {
            write_head(stream, status, headers, body.len())?;
        }
        let sent = match fault {
            Some(Fault::Cut { after, .. }) => &body[..body.len().min(*after)],
            Some(Fault::Restless { after, .. }) => &body[..body.len().min(after[0])],
            _ => body,
        };
        let piece = match fault {
            Some(Fault::Slow { bytes_per_second, .. }) => (bytes_per_second / 20).max(1),
            _ => sent.len().max(1),
        };
        for piece in sent.chunks(piece) {
            stream.write_all(piece)?;
            *self.served.lock().unwrap().entry(request.path.clone()).or_default() += piece.len();
            if matches!(fault, Some(Fault::Slow { .. })) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        stream.shutdown(Shutdown::Write)
    }
}

/// An entry of the list of files; the weights are large files, which have a SHA-256.
fn entry(path: &str, bytes: &[u8]) -> serde_json::Value {
    let git = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    let git = git.iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
    let mut entry = json!({"type": "file", "oid": git, "size": bytes.len(), "path": path});
    if Path::new(path).extension().is_some_and(|extension| extension == "safetensors" || extension == "bin") {
        let sha256 = Digest::of(bytes).to_string();
        entry["oid"] = json!("f".repeat(40));
        entry["lfs"] = json!({"oid": sha256, "size": bytes.len(), "pointerSize": 134});
    }
    entry
}

fn read_request(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut words = first.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_lowercase()))
    });
    Request { method, path, headers: headers.collect(), at: Instant::now() }
}

fn write_head(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        text = text + name + ": " + value + "\r\n";
    }
    stream.write_all((text + "\r\n").as_bytes())
}

fn respond(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) -> std::io::Result<()> {
    write_head(stream, status, headers, body.len())?;
    stream.write_all(body)?;
    stream.shutdown(Shutdown::Write)
}

pub fn copy_directory(from: &Path, to: &Path) {
    for path in files_below(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
