//! What goes to a worker next. Pure: time is an argument, and the caller acts on what it is told.

mod deadlines;
mod parts;

use std::time::Duration;

use super::BatchLimits;

pub use deadlines::{Deadlines, Rules, Text};
pub use parts::{PartWork, Parts};

/// Where work comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Who submitted it: a collection, or a request.
    pub submitter: u32,
    /// Which part of the collection, or which text of the request.
    pub part: u32,
}

/// A worker that asks for work.
#[derive(Clone, Copy)]
pub struct Consumer<'a> {
    /// Whether it has each model, by index.
    pub models: &'a [bool],
    /// Whether its device has nothing to do.
    pub idle: bool,
    /// What holds for a batch of this model whose longest sequence has this length.
    pub limits: &'a dyn Fn(usize, usize) -> BatchLimits,
}

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<Batch, Item> {
    /// This batch.
    Batch(Batch),
    /// Report that the deadlines of these have passed, and ask again.
    Expired(Vec<Item>),
    /// Ask again at this time, or when something was submitted or committed.
    WaitUntil(Duration),
    /// Ask again when something was submitted or committed.
    Idle,
}

/// There is no room: nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full<Item> {
    /// What was to be submitted.
    pub items: Vec<Item>,
    /// When there will be room, where that can be told.
    pub retry_after: Option<Duration>,
}

/// Holds what waits, and decides about it.
pub trait Policy: Send {
    /// What is submitted.
    type Item;
    /// What a worker does at once.
    type Batch;

    /// Takes all of these, which are of one submitter, or none.
    ///
    /// # Errors
    /// There is no room for them.
    fn admit(&mut self, now: Duration, items: Vec<Self::Item>) -> Result<(), Full<Self::Item>>;

    /// What this worker is to do.
    fn next(&mut self, now: Duration, consumer: Consumer<'_>) -> Next<Self::Batch, Self::Item>;

    /// Whether there is something that this worker could begin at once.
    fn has_work(&self, consumer: Consumer<'_>) -> bool;

    /// A batch that a worker took is for another one, before all others.
    fn give_back(&mut self, batch: Self::Batch);

    /// Everything of this ticket is durable, or was answered.
    fn committed(&mut self, model: usize, ticket: Ticket);

    /// A submitter no longer wants results. Returns what waited of it.
    fn cancel(&mut self, submitter: u32) -> Vec<Self::Item>;

    /// A model has failed. Returns what waited for it.
    fn fail(&mut self, model: usize) -> Vec<Self::Item>;

    /// Whether anything waits for this model.
    fn waits_for(&self, model: usize) -> bool;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;
}
