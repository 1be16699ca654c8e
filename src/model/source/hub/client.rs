//! Asking the hub: one request, one answer, and asking again where that may help.
//!
//! Redirects are followed wherever they lead, and the token goes to the hub alone. Nobody waits long for a hub that is
//! not there: there is a limit on connecting, and one on silence.

use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::blocking::Response;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderMap, LINK, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::Answer;
use super::patience::{Patience, asked_delay};
use crate::domain::Fetching;

/// A reachable hub answers in a fraction of this; three attempts stay well below a minute.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// Until an answer begins, and between two pieces of one; three attempts stay below a minute.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// Of an answer that says no, as much is read as a person will.
const MAX_SAID: usize = 300;
/// From where a hub says that a file is to where that says it is.
const MAX_STEPS: usize = 5;
/// Lists of files are some kilobytes long.
const MAX_LISTED: u64 = 64 << 20;

/// A connection to one hub.
pub(super) struct Client<'run> {
    http: reqwest::blocking::Client,
    /// The same, which goes nowhere else.
    staying: reqwest::blocking::Client,
    hub: Url,
    token: Option<&'run str>,
    /// How often a question is asked.
    attempts: u32,
    on_event: &'run dyn Fn(Fetching),
}

impl<'run> Client<'run> {
    pub(super) fn new(
        endpoint: &str,
        token: Option<&'run str>,
        attempts: u32,
        on_event: &'run dyn Fn(Fetching),
    ) -> Result<Self, Answer> {
        let hub = Url::parse(endpoint).ok().filter(|hub| matches!(hub.scheme(), "http" | "https"));
        let hub = hub.ok_or(Answer::Unaddressed)?;
        // An error means that the program around this library has chosen its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            reqwest::blocking::Client::builder()
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_LIMIT)
                .timeout(SILENCE_LIMIT)
        };
        let http = builder().build().map_err(Answer::None)?;
        let staying = builder().redirect(Policy::none()).build().map_err(Answer::None)?;
        Ok(Self { http, staying, hub, token, attempts, on_event })
    }

    /// The address of something on the hub; each segment may hold any characters.
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.hub.clone();
        // Only addresses that cannot be a base have no path, and those were refused.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// All pages of a list.
    pub(super) fn ask_list<T: DeserializeOwned>(&self, url: Url) -> Result<Vec<T>, Answer> {
        let (mut list, mut next) = (Vec::new(), Some(url));
        while let Some(url) = next {
            let (page, headers): (Vec<T>, _) = self.ask(&url)?;
            list.extend(page);
            next = next_page(&headers).filter(|next| *next != url);
        }
        Ok(list)
    }

    /// Asks until there is an answer or no patience; returns it with its headers.
    pub(super) fn ask<T: DeserializeOwned>(&self, url: &Url) -> Result<(T, HeaderMap), Answer> {
        let mut patience = Patience::new(self.attempts);
        loop {
            let answer = self.get(url, 0).and_then(|response| {
                let headers = response.headers().clone();
                let mut text = Vec::new();
                response.take(MAX_LISTED).read_to_end(&mut text).map_err(Answer::Cut)?;
                serde_json::from_slice(&text)
                    .map(|value| (value, headers))
                    .map_err(|error| Answer::malformed(error.to_string()))
            });
            match answer {
                Ok(value) => return Ok(value),
                Err(answer) => self.wait(&mut patience, answer)?,
            }
        }
    }

    /// One request for what is at an address, from a byte on. An answer may begin elsewhere, as [`begins_at`] tells.
    pub(super) fn get(&self, url: &Url, from: u64) -> Result<Response, Answer> {
        let mut request = self.http.get(url.clone());
        if let Some(token) = self.token.filter(|_| url.origin() == self.hub.origin()) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().map_err(Answer::None)?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response)) }
    }

    /// What is said of a file without sending it; asked until there is an answer or no patience.
    pub(super) fn ask_about(&self, url: &Url) -> Result<About, Answer> {
        let mut patience = Patience::new(self.attempts);
        loop {
            match self.about(url) {
                Ok(about) => return Ok(about),
                Err(answer) => self.wait(&mut patience, answer)?,
            }
        }
    }

    /// Large files are elsewhere, and what they are is told by whoever sends there; only the hub itself is asked.
    fn about(&self, url: &Url) -> Result<About, Answer> {
        let mut url = url.clone();
        for _ in 0..MAX_STEPS {
            let mut request = self.staying.head(url.clone());
            if let Some(token) = self.token {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.send().map_err(Answer::None)?;
            let header = |name: &str| header(response.headers(), name);
            let next = header(LOCATION.as_str()).filter(|_| response.status().is_redirection());
            if let (Some(tag), Some(bytes)) = (header("x-linked-etag"), header("x-linked-size")) {
                return About::new(&tag, &bytes);
            }
            match next.and_then(|next| url.join(&next).ok()).filter(|next| next.origin() == self.hub.origin()) {
                Some(next) => url = next,
                None if response.status().is_success() => {
                    return About::new(
                        &header("etag").unwrap_or_default(),
                        &header("content-length").unwrap_or_default(),
                    );
                }
                None => return Err(refusal(response)),
            }
        }
        Err(Answer::malformed("it sends from place to place"))
    }

    /// Waits for the time after which it is sensible to ask again, and says so; fails where it is not.
    pub(super) fn wait(&self, patience: &mut Patience, answer: Answer) -> Result<(), Answer> {
        let Some(delay) = patience.after(&answer) else { return Err(answer) };
        let reason = match std::error::Error::source(&answer).and_then(|it| innermost(it)) {
            Some(cause) => format!("{answer} ({cause})"),
            None => answer.to_string(),
        };
        (self.on_event)(Fetching::Waiting { reason, seconds: delay.as_secs_f64() });
        std::thread::sleep(delay);
        Ok(())
    }
}

/// What a hub says of a file without sending it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) bytes: u64,
    /// SHA-256 of a large file, git's name for a small one.
    pub(super) digest: String,
}

impl About {
    fn new(tag: &str, bytes: &str) -> Result<Self, Answer> {
        let bytes = bytes.parse().map_err(|_| Answer::malformed("a file without its size"))?;
        Ok(Self { bytes, digest: tag.trim_start_matches("W/").trim_matches('"').to_owned() })
    }
}

/// What began it all.
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source()).last()
}

/// The first byte of what an answer holds.
pub(super) fn begins_at(response: &Response) -> Result<u64, Answer> {
    if response.status() != 206 {
        return Ok(0);
    }
    let range = header(response.headers(), CONTENT_RANGE.as_str());
    let start = range.as_deref().and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    start.ok_or_else(|| Answer::malformed("a part of a file without its place"))
}

fn refusal(response: Response) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    let headers = response.headers();
    let (after, limit) = (header(headers, RETRY_AFTER.as_str()), header(headers, "ratelimit"));
    let wait = asked_delay(after.as_deref(), limit.as_deref(), SystemTime::now());
    let (status, code) = (response.status().as_u16(), header(headers, "x-error-code"));
    let message = header(headers, "x-error-message").unwrap_or_else(|| {
        let mut body = Vec::new();
        // A reason that cannot be read is none.
        let _ = response.take(1 << 16).read_to_end(&mut body);
        serde_json::from_slice::<Body>(&body).map(|body| body.error).unwrap_or_default()
    });
    let said = message.chars().filter(|character| !character.is_control()).take(MAX_SAID).collect();
    Answer::Status { status, code, said, wait }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The address of the next page: `Link: <address>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<Url> {
    let links = header(headers, LINK.as_str())?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    Url::parse(next.split_once('<')?.1.split_once('>')?.0).ok()
}
