//! `lease` as it is typed.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::Seconds;

const RUN_NOTES: &str = "\
The command holds the devices from its start until it and the processes that inherit from it
have ended, even if this program is killed. Its CUDA_VISIBLE_DEVICES names the leased GPUs.
Leases are kept in EMBED_LEASE_DIR, else /run/lock/embed-collections, else the user's runtime
directory.

Exit codes: that of the command, 128 and the number of the signal that ended it, 2 usage,
6 leased by somebody else, 9 lock files cannot be used, 126 the command cannot be executed,
127 there is no such command.";

/// What to do with leases.
#[derive(Debug, Clone, Subcommand)]
pub enum LeaseCommand {
    /// Show each device that was ever leased, and who holds it now
    #[command(visible_alias = "list")]
    Status {
        /// One JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Run any command while no other lease holder uses the devices
    #[command(after_help = RUN_NOTES)]
    Run(LeaseRun),
}

/// `lease run`.
#[derive(Debug, Clone, Args)]
pub struct LeaseRun {
    /// Devices: UUIDs of GPUs (see nvidia-smi -L), slots on the processor such as cpu:0
    #[arg(long, value_name = "DEVICE", num_args = 1.., value_delimiter = ',', required = true)]
    pub devices: Vec<String>,

    /// What to do if one is leased already [default: fail; wait if --lease-wait is given]
    #[arg(long, value_name = "POLICY")]
    pub lease_policy: Option<LeasePolicy>,

    /// Wait so long for the devices, for example 90s, 30m, 2h [default with --lease-policy wait: 30m]
    #[arg(long, value_name = "TIME")]
    pub lease_wait: Option<Seconds>,

    /// Name that others see [default: the command's and a number]
    #[arg(long, value_name = "NAME")]
    pub run_id: Option<String>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What to do if a device is leased already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LeasePolicy {
    /// Leave with exit code 6.
    Fail,
    /// Wait for it.
    Wait,
}
