//! `lease` as it is typed.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::config::{Foreign, LeasePolicy, Seconds};

const RUN_NOTES: &str = "\
The command holds the devices from its start until it and the processes that inherit from it
have ended, even if this program is killed. Its CUDA_VISIBLE_DEVICES names the leased GPUs. If it
runs this program, that one works under the same lease; several of them take turns.
Leases are kept in EMBED_LEASE_DIR, else /run/lock/embed-collections, else the user's runtime
directory.

Exit codes: that of the command, 128 and the number of the signal that ended it, 2 usage,
6 leased or used by somebody else, 9 lock files cannot be used, 126 the command cannot be executed,
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
    /// Devices: cuda:1, all of cuda, the UUID of a GPU or its beginning (GPU-3f), the whole UUID of a MIG instance, slots
    /// on the processor such as cpu:0 [default: those of the settings]
    #[arg(long, value_name = "DEVICE", num_args = 1.., value_delimiter = ',')]
    pub devices: Vec<String>,

    /// What to do if one is leased already [default: fail; wait with --lease-wait or --foreign wait]
    #[arg(long, value_name = "POLICY")]
    pub lease_policy: Option<LeasePolicy>,

    /// Wait so long for the devices, for example 90s, 30m, 2h [default where it waits: 30m]
    #[arg(long, value_name = "TIME")]
    pub lease_wait: Option<Seconds>,

    /// What to do if a program without a lease computes on one of the GPUs [default: refuse]
    #[arg(long, value_name = "POLICY")]
    pub foreign: Option<Foreign>,

    /// Name that others see [default: the command's and a number]
    #[arg(long, value_name = "NAME")]
    pub run_id: Option<String>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
