//! Single decisions, and a simulation: requests that come at random, workers that take time.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::batch::BatchLimits;

const RULES: Rules = Rules {
    batch_texts: 8,
    max_delay: ms(50),
    strict_delay: false,
    queue_texts: 100,
    queue_tokens: 20_000,
    look_ahead: 32,
    max_age: ms(500),
};

const BUDGET: usize = 1024;

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn request(submitter: u32, arrived: Duration, lengths: &[usize]) -> Vec<Text<()>> {
    let text = |(part, &tokens)| {
        let ticket = Ticket { submitter, part };
        Text { ticket, model: 0, tokens, arrived, deadline: None, priority: 0, input: () }
    };
    (0..).zip(lengths).map(text).collect()
}

fn limits(_: usize, longest: usize) -> BatchLimits {
    BatchLimits { tokens: if longest > 400 { BUDGET / 2 } else { BUDGET }, sequences: 64 }
}

const IDLE: Consumer<'_> = Consumer { models: &[true, true], idle: true, limits: &limits };
const BUSY: Consumer<'_> = Consumer { idle: false, ..IDLE };

fn queue(rules: Rules, requests: impl IntoIterator<Item = Vec<Text<()>>>) -> Deadlines<()> {
    let mut queue = Deadlines::new(rules);
    requests.into_iter().for_each(|request| queue.admit(request[0].arrived, request).unwrap());
    queue
}

fn batch(queue: &mut Deadlines<()>, now: Duration, consumer: Consumer<'_>) -> Vec<Text<()>> {
    match queue.next(now, consumer) {
        Next::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

fn tickets(batch: &[Text<()>]) -> Vec<(u32, u32)> {
    batch.iter().map(|text| (text.ticket.submitter, text.ticket.part)).collect()
}

#[test]
fn a_batch_leaves_when_it_is_full_or_old_or_a_device_is_idle() {
    let mut queue = queue(RULES, [request(1, ms(0), &[10; 3])]);
    assert_eq!(queue.next(ms(10), BUSY), Next::WaitUntil(ms(50)));
    queue.admit(ms(10), request(2, ms(10), &[10; 4])).unwrap();
    assert_eq!(queue.next(ms(11), BUSY), Next::WaitUntil(ms(50)));
    queue.admit(ms(12), request(3, ms(12), &[10; 2])).unwrap();
    assert_eq!(batch(&mut queue, ms(12), BUSY).len(), 8, "full");
    assert_eq!(batch(&mut queue, ms(13), IDLE).len(), 1, "idle");
    queue.admit(ms(20), request(4, ms(20), &[10])).unwrap();
    assert_eq!(batch(&mut queue, ms(70), BUSY).len(), 1, "old");
    assert_eq!(queue.next(ms(70), IDLE), Next::Idle);
    queue.rules.strict_delay = true;
    queue.admit(ms(80), request(5, ms(80), &[10])).unwrap();
    assert_eq!(queue.next(ms(80), IDLE), Next::WaitUntil(ms(130)));
}

#[test]
fn texts_of_about_one_length_go_together_and_a_long_one_alone() {
    let lengths = |length| move |submitter| request(submitter, ms(0), &[length; 2]);
    let mut queue = queue(RULES, (0..4).map(lengths(10)).chain((4..6).map(lengths(300))));
    queue.admit(ms(0), request(9, ms(0), &[5000])).unwrap();
    assert!(batch(&mut queue, ms(1), IDLE).iter().all(|text| text.tokens == 10));
    assert_eq!(tickets(&batch(&mut queue, ms(1), IDLE)), [(4, 0), (4, 1), (5, 0)], "three fill the budget");
    assert_eq!(tickets(&batch(&mut queue, ms(1), IDLE)), [(5, 1)]);
    assert_eq!(tickets(&batch(&mut queue, ms(1), IDLE)), [(9, 0)]);
}

#[test]
fn a_request_is_admitted_whole_or_not_at_all() {
    let mut queue = queue(RULES, [request(1, ms(0), &[100; 96])]);
    let refused = queue.admit(ms(1), request(2, ms(1), &[1; 5])).unwrap_err();
    assert_eq!((refused.items.len(), refused.retry_after), (5, Some(UNKNOWN_RETRY)));
    queue.admit(ms(1), request(3, ms(1), &[1; 4])).unwrap();
    assert!(queue.admit(ms(1), request(4, ms(1), &[1])).is_err());
    // Eight texts in 10 ms.
    for time in [10, 20, 30, 40] {
        assert_eq!(batch(&mut queue, ms(time), IDLE).len(), 8);
    }
    let refused = queue.admit(ms(40), request(5, ms(40), &[1; 72])).unwrap_err();
    let retry = refused.retry_after.unwrap();
    assert!(retry.abs_diff(ms(50)) < ms(1), "{retry:?}");
    assert!(queue.admit(ms(40), request(6, ms(40), &[20_000])).is_err(), "too many tokens");
    queue.fail(0);
    queue.admit(ms(50), request(7, ms(50), &[1; 2000])).unwrap();
    assert!(queue.admit(ms(50), request(8, ms(50), &[1])).is_err(), "larger than the queue, but nothing waited");
}

#[test]
fn one_text_does_not_wait_for_a_large_request() {
    let rules = Rules { queue_texts: 5000, queue_tokens: 1 << 20, ..RULES };
    let mut queue = queue(rules, [request(0, ms(0), &[20; 2000])]);
    for time in 0..3 {
        batch(&mut queue, ms(time), IDLE);
    }
    // Of another length, so that it is in no batch that is not its own.
    queue.admit(ms(3), request(1, ms(3), &[900])).unwrap();
    let batches: Vec<_> = (3..5).map(|time| tickets(&batch(&mut queue, ms(time), IDLE))).collect();
    assert!(batches.iter().any(|batch| batch.contains(&(1, 0))), "{batches:?}");
}

#[test]
fn age_comes_before_priority_and_length() {
    let mut queue = queue(RULES, [request(0, ms(0), &[900])]);
    let urgent = |submitter, time| {
        let mut texts = request(submitter, time, &[10; 8]);
        texts.iter_mut().for_each(|text| text.priority = 9);
        texts
    };
    let mut left = None;
    for (submitter, time) in (1..).zip((0..1000).step_by(10)) {
        queue.admit(ms(time), urgent(submitter, ms(time))).unwrap();
        if batch(&mut queue, ms(time), IDLE).iter().any(|text| text.ticket.submitter == 0) {
            left.get_or_insert(time);
        }
    }
    assert_eq!(left, Some(500));
}

#[test]
fn the_models_of_a_worker_decide_what_it_takes() {
    let mut texts = request(1, ms(0), &[10; 2]);
    texts.iter_mut().for_each(|text| text.model = 1);
    let mut queue = queue(RULES, [request(0, ms(1), &[10]), texts]);
    let first = Consumer { models: &[true, false], ..IDLE };
    assert_eq!(tickets(&batch(&mut queue, ms(2), first)), [(0, 0)]);
    assert_eq!(queue.next(ms(2), first), Next::Idle);
    assert!(!queue.has_work(first) && queue.has_work(IDLE) && queue.waits_for(1) && !queue.waits_for(0));
    assert_eq!(tickets(&batch(&mut queue, ms(2), IDLE)), [(1, 0), (1, 1)]);
}

#[test]
fn requests_that_are_cancelled_or_late_are_taken_out() {
    let mut late = request(1, ms(0), &[10; 3]);
    late.iter_mut().for_each(|text| text.deadline = Some(ms(30)));
    let mut queue = queue(RULES, [request(0, ms(0), &[10; 4]), late, request(2, ms(0), &[20])]);
    assert_eq!(tickets(&queue.cancel(0)), [(0, 0), (0, 1), (0, 2), (0, 3)]);
    assert_eq!(queue.next(ms(1), BUSY), Next::WaitUntil(ms(30)));
    match queue.next(ms(30), IDLE) {
        Next::Expired(texts) => assert_eq!(tickets(&texts), [(1, 0), (1, 1), (1, 2)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(tickets(&batch(&mut queue, ms(30), IDLE)), [(2, 0)]);
    assert_eq!((queue.texts, queue.tokens), (0, 0));
}

#[test]
fn what_is_given_back_comes_first() {
    let mut queue = queue(RULES, [request(0, ms(0), &[10; 12]), request(1, ms(1), &[700])]);
    let taken = batch(&mut queue, ms(1), IDLE);
    queue.give_back(taken.clone());
    assert_eq!(queue.texts, 13);
    assert_eq!(batch(&mut queue, ms(2), IDLE), taken);
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// The time between arrivals that come independently, `rate` a second.
    fn pause(&mut self, rate: f64) -> Duration {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
    }

    fn request(&mut self, submitter: u32, arrived: Duration) -> Vec<Text<()>> {
        let count = if self.below(10) == 0 { 60 } else { 1 + self.below(6) };
        let longest = if self.below(4) == 0 { 1500 } else { 60 };
        let lengths: Vec<usize> = (0..count).map(|_| 1 + usize::try_from(self.below(longest)).unwrap()).collect();
        let deadline = (self.below(5) == 0).then(|| arrived + ms(20 + self.below(400)));
        let (model, priority) = (usize::from(self.below(3) == 0), u8::from(self.below(5) == 0));
        let mut texts = request(submitter, arrived, &lengths);
        texts.iter_mut().for_each(|text| {
            (text.model, text.priority, text.deadline) = (model, priority, deadline);
        });
        texts
    }
}

/// What became of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Expired,
    Cancelled,
}

/// `None` while a text waits.
type Fates = HashMap<Ticket, Option<Fate>>;

/// Runs requests at `rate` a second through workers, and checks every step; returns how many texts were refused.
fn simulate(seed: u64, rate: f64, workers: usize, rules: Rules) -> usize {
    let mut random = Random(seed);
    let mut queue: Deadlines<()> = Deadlines::new(rules);
    let mut fates: Fates = HashMap::new();
    let mut refused = 0;
    let mut busy: Vec<Option<Duration>> = vec![None; workers];
    let (mut now, mut arrival, mut submitter) = (Duration::ZERO, random.pause(rate), 0_u32);
    let settle = |fates: &mut Fates, texts: Vec<Text<()>>, fate| {
        for text in texts {
            assert_eq!(fates.insert(text.ticket, Some(fate)), Some(None), "{:?}", text.ticket);
        }
    };
    loop {
        if arrival <= now && submitter < 150 {
            submitter += 1;
            arrival = now + random.pause(rate);
            let texts = random.request(submitter, now);
            let tickets: Vec<Ticket> = texts.iter().map(|text| text.ticket).collect();
            match queue.admit(now, texts) {
                Ok(()) => fates.extend(tickets.into_iter().map(|ticket| (ticket, None))),
                Err(full) => {
                    assert_eq!(full.items.len(), tickets.len());
                    assert!((MIN_RETRY..=MAX_RETRY).contains(&full.retry_after.unwrap()));
                    refused += tickets.len();
                }
            }
            assert!(queue.texts <= rules.queue_texts || queue.requests.len() == 1);
            if random.below(8) == 0 {
                let gone = 1 + u32::try_from(random.below(submitter.into())).unwrap();
                settle(&mut fates, queue.cancel(gone), Fate::Cancelled);
            }
        }
        let mut wake = (submitter < 150).then_some(arrival);
        for until in &mut busy {
            *until = until.filter(|until| *until > now);
            while until.is_none() {
                match queue.next(now, IDLE) {
                    Next::Batch(texts) if random.below(20) == 0 => queue.give_back(texts),
                    Next::Batch(texts) => {
                        let tokens: usize = texts.iter().map(|text| text.tokens).sum();
                        let limits = limits(0, texts.iter().map(|text| text.tokens).max().unwrap());
                        assert!(texts.len() == 1 || (texts.len() <= rules.batch_texts && tokens <= limits.tokens));
                        assert!(texts.iter().all(|text| text.model == texts[0].model));
                        assert!(texts.iter().all(|text| text.deadline.is_none_or(|deadline| deadline > now)));
                        *until = Some(now + Duration::from_micros(2000 + 20 * tokens as u64));
                        settle(&mut fates, texts, Fate::Done);
                    }
                    Next::Expired(texts) => settle(&mut fates, texts, Fate::Expired),
                    Next::WaitUntil(time) => {
                        let oldest = queue.requests.iter().map(|request| request.arrived).min().unwrap();
                        assert!(rules.strict_delay && now < time && time <= oldest + rules.max_delay);
                        wake = Some(wake.map_or(time, |wake| wake.min(time)));
                        break;
                    }
                    Next::Idle => {
                        assert!(queue.is_empty());
                        break;
                    }
                }
            }
            wake = [wake, *until].into_iter().flatten().min();
        }
        match wake {
            Some(time) => now = time,
            None => break,
        }
    }
    assert_eq!((queue.texts, queue.tokens, queue.is_empty()), (0, 0, true));
    assert!(fates.values().all(Option::is_some), "a text is lost");
    refused
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_is_lost_or_done_twice(
        seed in any::<u64>(),
        rate in 10.0..1000.0,
        workers in 1_usize..4,
        strict_delay in any::<bool>(),
    ) {
        simulate(seed, rate, workers, Rules { strict_delay, ..RULES });
    }
}

#[test]
fn only_an_overloaded_queue_refuses() {
    assert_eq!(simulate(3, 2.0, 3, Rules { queue_texts: 1000, queue_tokens: 1 << 20, ..RULES }), 0);
    assert!(simulate(3, 1000.0, 1, RULES) > 100);
}
