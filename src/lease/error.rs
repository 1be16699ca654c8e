//! Why devices cannot be leased, for now or at all.

use std::fmt;
use std::time::Duration;

use super::foreign::{self, Occupied};
use super::holder::{Holder, plain};
use super::{DeviceKey, FileError};

/// A device that somebody else holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// The device.
    pub device: DeviceKey,
    /// Who holds it, if its lock file says so.
    pub holder: Option<Holder>,
    /// Whether the wrapper of this process has the device, and another program that it runs is using it.
    pub inside: bool,
}

/// What keeps devices from being leased for the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Another lease.
    Held(Busy),
    /// Programs without a lease.
    Foreign(Vec<Occupied>),
}

/// Devices could not be leased. None is held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds one.
    #[error("{busy}; {}", remedy(*waited, busy.inside))]
    Held {
        /// The device and its holder.
        busy: Box<Busy>,
        /// For how long it was waited for.
        waited: Option<Duration>,
    },
    /// Somebody uses one without a lease.
    #[error("{}; {}", foreign::list(occupied), foreign_remedy(*waited))]
    Foreign {
        /// The devices and who uses them.
        occupied: Vec<Occupied>,
        /// For how long it was waited for.
        waited: Option<Duration>,
    },
    /// Whoever watched the waiting ended it.
    #[error("gave up waiting: {obstacle}")]
    GivenUp {
        /// What was waited for.
        obstacle: Box<Obstacle>,
    },
    /// A lock file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A lease of nothing protects nothing.
    #[error("a lease needs at least one device; name it with --devices")]
    NoDevice,
}

impl fmt::Display for Busy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.device.is_gpu() { "gpu" } else { "device" };
        let how = if self.inside { "is used inside its lease by" } else { "is leased by" };
        write!(formatter, "{kind} {} {how} ", self.device)?;
        match &self.holder {
            Some(holder) => write!(formatter, "{holder} since {}", plain(&holder.since)),
            None => formatter.write_str("a process that has not written its name into the lock file"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(busy) => busy.fmt(formatter),
            Self::Foreign(occupied) => formatter.write_str(&foreign::list(occupied)),
        }
    }
}

fn remedy(waited: Option<Duration>, inside: bool) -> String {
    let free = if inside { "run one after the other" } else { "free it" };
    match waited {
        None => format!("pass --lease-wait 30m or {free}"),
        Some(waited) => format!("waited {}; pass a longer --lease-wait or {free}", whole_seconds(waited)),
    }
}

fn foreign_remedy(waited: Option<Duration>) -> String {
    const OR_ELSE: &str = "end it, name another device, or share the device with --foreign share";
    match waited {
        None => format!("wait for it with --foreign wait, {OR_ELSE}"),
        Some(waited) => format!("waited {}; pass a longer --lease-wait, {OR_ELSE}", whole_seconds(waited)),
    }
}

/// In seconds, or in milliseconds if there is no whole second.
fn whole_seconds(span: Duration) -> humantime::FormattedDuration {
    let seconds = Duration::from_secs(span.as_secs());
    humantime::format_duration(if seconds.is_zero() {
        Duration::from_millis(u64::from(span.subsec_millis()))
    } else {
        seconds
    })
}
