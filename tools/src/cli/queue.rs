//! `queue ...`: where callers wait for agents, and which agents take them.

use clap::{Args, Subcommand};

use super::Tenant;

/// `queue ...`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Create a queue, or change it; callers reach it by a route to queue:NAME
    Set(SetQueue),
    /// Remove a queue; who waits in it is let go
    Remove(RemoveQueue),
    /// Make an agent ready, as the agent's desk would
    Ready(Seat),
    /// Make an agent not ready; a call that stands goes on
    NotReady(NotReady),
}

/// `queue set`
#[derive(Debug, Args)]
pub struct SetQueue {
    /// The queue
    pub queue: String,
    /// What an agent must be able to do; again for more, all of which are needed
    #[arg(long = "skill", value_name = "SKILL")]
    pub skills: Vec<String>,
    /// How long an agent's phone rings, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub ring: u32,
    /// How long an agent works after a call, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub after_call: u32,
    /// How long a caller waits before the overflow, in seconds; 0 for no limit
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub max_wait: u32,
    /// How many callers may wait; 0 for no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub max_callers: u32,
    /// The number where a caller goes who waited for too long or found no room; without it, they hear goodbye
    #[arg(long, value_name = "NUMBER")]
    pub overflow: Option<String>,
    /// What callers hear: a file of the folder of prompts; without it, the tenant's hold music
    #[arg(long, value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// Callers of queues with a higher one come first
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub priority: u32,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

/// `queue remove`
#[derive(Debug, Args)]
pub struct RemoveQueue {
    /// The queue
    pub queue: String,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

/// `queue ready`
#[derive(Debug, Args)]
pub struct Seat {
    /// The agent's number
    pub number: String,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

/// `queue not-ready`
#[derive(Debug, Args)]
pub struct NotReady {
    /// The agent's number
    pub number: String,
    /// Why
    #[arg(default_value = "")]
    pub reason: String,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}
