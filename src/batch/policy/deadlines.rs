//! Requests: texts that are formed into batches when a worker asks, with deadlines.
//!
//! A batch is built around one text, its head, from texts of about its length. Requests take turns to give the head, so
//! that a request of thousands of texts does not hold up one of a single text; every other head comes from the oldest
//! request that has waited too long, so that neither length nor priority keeps a text waiting for ever.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::{Consumer, Full, Next, Policy, Ticket};

/// When batches leave, and how much waits.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most texts of a batch.
    pub batch_texts: usize,
    /// How long a batch that is not full waits for more, from its oldest text on.
    pub max_delay: Duration,
    /// Whether it waits also while a device is idle.
    pub strict_delay: bool,
    /// Most texts that wait.
    pub queue_texts: usize,
    /// Most of their tokens.
    pub queue_tokens: usize,
    /// How many texts are compared in length for a batch.
    pub look_ahead: usize,
    /// A request that has waited so long comes before others.
    pub max_age: Duration,
}

/// One text of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<T> {
    /// The request and the text's index in it.
    pub ticket: Ticket,
    /// Index of the model.
    pub model: usize,
    /// Its length.
    pub tokens: usize,
    /// When the request came.
    pub arrived: Duration,
    /// When nobody waits for it any longer.
    pub deadline: Option<Duration>,
    /// Larger ones come first.
    pub priority: u8,
    /// What is to be encoded.
    pub input: T,
}

/// Texts of requests.
#[derive(Debug)]
pub struct Deadlines<T> {
    rules: Rules,
    /// In the order of their turns, none without texts.
    requests: VecDeque<Request<T>>,
    texts: usize,
    tokens: usize,
    /// Models whose last head was from a request that had waited too long.
    favoured: HashSet<usize>,
    drain: Drain,
}

/// Texts of one request that wait, in order.
#[derive(Debug)]
struct Request<T> {
    submitter: u32,
    model: usize,
    arrived: Duration,
    deadline: Option<Duration>,
    priority: u8,
    texts: VecDeque<Text<T>>,
}

/// How fast the queue gets shorter: sums over batches, of which older ones count less.
#[derive(Debug, Default)]
struct Drain {
    /// When the last batch left, if something waits since then.
    last: Option<Duration>,
    seconds: f64,
    texts: f64,
    tokens: f64,
}

/// A text by its place: the index of its request, and in it.
type Place = (usize, usize);

/// What remains of the weight of a batch with each one after it: some ten batches count.
const MEMORY: f64 = 0.9;

/// What is advised when no rate is known, and the bounds of what is advised otherwise. Clients obey at most 120 s.
const UNKNOWN_RETRY: Duration = Duration::from_secs(1);
const MIN_RETRY: Duration = Duration::from_millis(10);
const MAX_RETRY: Duration = Duration::from_mins(2);

impl<T> Deadlines<T> {
    /// Nothing waits.
    pub fn new(rules: Rules) -> Self {
        let (requests, favoured, drain) = (VecDeque::new(), HashSet::new(), Drain::default());
        Self { rules, requests, texts: 0, tokens: 0, favoured, drain }
    }

    /// Removes these requests, and gives their texts.
    fn remove(&mut self, is_meant: impl Fn(&Request<T>) -> bool) -> Vec<Text<T>> {
        if !self.requests.iter().any(&is_meant) {
            return Vec::new();
        }
        let (removed, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.requests).into_iter().partition(is_meant);
        self.requests = kept;
        let removed: Vec<Text<T>> = removed.into_iter().flat_map(|request| request.texts).collect();
        self.count_out(&removed);
        removed
    }

    fn count_out(&mut self, texts: &[Text<T>]) {
        self.texts -= texts.len();
        self.tokens -= texts.iter().map(|text| text.tokens).sum::<usize>();
    }

    /// The models of which something waits, the one with the oldest request first.
    fn models(&self, has: &[bool]) -> Vec<(usize, Duration)> {
        let mut models: Vec<(usize, Duration)> = Vec::new();
        for request in self.requests.iter().filter(|request| has[request.model]) {
            match models.iter_mut().find(|(model, _)| *model == request.model) {
                Some((_, oldest)) => *oldest = request.arrived.min(*oldest),
                None => models.push((request.model, request.arrived)),
            }
        }
        models.sort_by_key(|(model, oldest)| (*oldest, *model));
        models
    }

    /// The request that gives the head, and whether because it has waited too long.
    fn head(&self, now: Duration, model: usize) -> Option<(usize, bool)> {
        let of_model = || self.requests.iter().enumerate().filter(|(_, request)| request.model == model);
        let too_old = |request: &Request<T>| request.arrived + self.rules.max_age <= now;
        let favoured = of_model().filter(|(_, request)| too_old(request)).min_by_key(|(_, request)| request.arrived);
        let turn = of_model().min_by_key(|(index, request)| (Reverse(request.priority), *index));
        match favoured {
            Some((index, _)) if !self.favoured.contains(&model) => Some((index, true)),
            _ => turn.map(|(index, _)| (index, false)),
        }
    }

    /// Texts that a batch may be formed of: the head, and then one of each request in turn.
    fn window(&self, head: usize, model: usize) -> Vec<Place> {
        let mut order: Vec<usize> =
            (0..self.requests.len()).filter(|&index| self.requests[index].model == model).collect();
        order.sort_by_key(|&index| (index != head, Reverse(self.requests[index].priority)));
        let mut window = Vec::new();
        for round in 0.. {
            order.retain(|&index| round < self.requests[index].texts.len());
            let room = self.rules.look_ahead.max(self.rules.batch_texts) - window.len();
            if order.is_empty() || room == 0 {
                return window;
            }
            window.extend(order.iter().take(room).map(|&index| (index, round)));
        }
        window
    }

    /// The texts of the next batch, and whether it is full.
    fn form(&self, head: usize, model: usize, consumer: Consumer<'_>) -> (Vec<Place>, bool) {
        let tokens_of = |(request, text): Place| self.requests[request].texts[text].tokens;
        let mut window = self.window(head, model);
        let length = tokens_of(window[0]);
        window[1..].sort_by_key(|&place| tokens_of(place).abs_diff(length));
        let mut batch = vec![window[0]];
        let (mut tokens, mut longest) = (length, length);
        for &place in &window[1..] {
            let (more, longer) = (tokens + tokens_of(place), longest.max(tokens_of(place)));
            let limits = (consumer.limits)(model, longer);
            if batch.len() < limits.sequences.min(self.rules.batch_texts) && more <= limits.tokens {
                batch.push(place);
                (tokens, longest) = (more, longer);
            }
        }
        let limits = (consumer.limits)(model, longest);
        let is_full = batch.len() < window.len()
            || batch.len() >= limits.sequences.min(self.rules.batch_texts)
            || tokens >= limits.tokens;
        (batch, is_full)
    }

    /// Takes these texts out; the request of the head has had its turn.
    fn take(&mut self, batch: Vec<Place>, head: usize) -> Vec<Text<T>> {
        let mut by_place = batch;
        by_place.sort_unstable_by_key(|&place| Reverse(place));
        let mut texts: Vec<Text<T>> =
            by_place.into_iter().filter_map(|(request, text)| self.requests[request].texts.remove(text)).collect();
        texts.sort_by_key(|text| (Reverse(text.tokens), text.ticket));
        self.count_out(&texts);
        if let Some(request) = self.requests.remove(head) {
            self.requests.push_back(request);
        }
        self.requests.retain(|request| !request.texts.is_empty());
        texts
    }

    /// Puts a text where it was, and its request before all others.
    fn put_back(&mut self, text: Text<T>) {
        self.texts += 1;
        self.tokens += text.tokens;
        let place = self.requests.iter().position(|request| request.submitter == text.ticket.submitter);
        let request = match place.and_then(|place| self.requests.remove(place)) {
            None => Request::of(text),
            Some(mut request) => {
                let place = request.texts.partition_point(|other| other.ticket.part < text.ticket.part);
                request.texts.insert(place, text);
                request
            }
        };
        self.requests.push_front(request);
    }

    /// When so much will have left that these find room.
    fn retry_after(&self, texts: usize, tokens: usize) -> Duration {
        let texts = (self.texts + texts).saturating_sub(self.rules.queue_texts) as f64 / self.drain.texts;
        let tokens = (self.tokens + tokens).saturating_sub(self.rules.queue_tokens) as f64 / self.drain.tokens;
        let seconds = texts.max(tokens) * self.drain.seconds;
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) => time.clamp(MIN_RETRY, MAX_RETRY),
            Err(_) => UNKNOWN_RETRY,
        }
    }
}

impl<T> Request<T> {
    fn of(text: Text<T>) -> Self {
        let Text { ticket, model, arrived, deadline, priority, .. } = text;
        Self { submitter: ticket.submitter, model, arrived, deadline, priority, texts: [text].into() }
    }
}

impl Drain {
    fn left(&mut self, now: Duration, texts: usize, tokens: usize, more_waits: bool) {
        if let Some(last) = self.last {
            let add = |sum: &mut f64, last: f64| *sum = *sum * MEMORY + last;
            add(&mut self.seconds, now.saturating_sub(last).as_secs_f64());
            add(&mut self.texts, texts as f64);
            add(&mut self.tokens, tokens as f64);
        }
        self.last = more_waits.then_some(now);
    }
}

impl<T: Send> Policy for Deadlines<T> {
    type Item = Text<T>;
    type Batch = Vec<Text<T>>;

    /// A request that is larger than the queue is taken when nothing waits.
    fn admit(&mut self, _: Duration, items: Vec<Text<T>>) -> Result<(), Full<Text<T>>> {
        let tokens = items.iter().map(|text| text.tokens).sum::<usize>();
        let fits = self.texts + items.len() <= self.rules.queue_texts
            && self.tokens.saturating_add(tokens) <= self.rules.queue_tokens;
        if !fits && self.texts > 0 {
            let retry_after = Some(self.retry_after(items.len(), tokens));
            return Err(Full { items, retry_after });
        }
        self.texts += items.len();
        self.tokens += tokens;
        let mut items = items.into_iter();
        if let Some(first) = items.next() {
            let mut request = Request::of(first);
            request.texts.extend(items);
            self.requests.push_back(request);
        }
        Ok(())
    }

    fn next(&mut self, now: Duration, consumer: Consumer<'_>) -> Next<Vec<Text<T>>, Text<T>> {
        let expired = self.remove(|request| request.deadline.is_some_and(|deadline| deadline <= now));
        if !expired.is_empty() {
            return Next::Expired(expired);
        }
        let mut wait = self.requests.iter().filter_map(|request| request.deadline).min();
        for (model, oldest) in self.models(consumer.models) {
            let Some((head, favoured)) = self.head(now, model) else { continue };
            let (batch, is_full) = self.form(head, model, consumer);
            let leaves_at = oldest + self.rules.max_delay;
            if is_full || leaves_at <= now || (consumer.idle && !self.rules.strict_delay) {
                let texts = self.take(batch, head);
                let _ = if favoured { self.favoured.insert(model) } else { self.favoured.remove(&model) };
                let tokens = texts.iter().map(|text| text.tokens).sum();
                self.drain.left(now, texts.len(), tokens, self.texts > 0);
                return Next::Batch(texts);
            }
            wait = Some(wait.map_or(leaves_at, |wait| wait.min(leaves_at)));
        }
        wait.map_or(Next::Idle, Next::WaitUntil)
    }

    fn has_work(&self, consumer: Consumer<'_>) -> bool {
        self.requests.iter().any(|request| consumer.models[request.model])
    }

    fn give_back(&mut self, batch: Vec<Text<T>>) {
        batch.into_iter().for_each(|text| self.put_back(text));
    }

    fn committed(&mut self, _: usize, _: Ticket) {}

    fn cancel(&mut self, submitter: u32) -> Vec<Text<T>> {
        self.remove(|request| request.submitter == submitter)
    }

    fn fail(&mut self, model: usize) -> Vec<Text<T>> {
        self.remove(|request| request.model == model)
    }

    fn waits_for(&self, model: usize) -> bool {
        self.requests.iter().any(|request| request.model == model)
    }

    fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests;
