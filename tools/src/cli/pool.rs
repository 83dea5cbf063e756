//! `pool ...`: slots that run a CCB or an AgentProxy by order or with the load.

use clap::{Args, Subcommand};

use super::View;

/// `pool ...`
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Show the slots of all blades
    List(List),
    /// Start a CCB or an AgentProxy in a slot of any blade
    Apply(Apply),
    /// Give one back: it takes nothing new, and is stopped when its agents and calls are gone
    Release(Release),
}

/// `pool list`
#[derive(Debug, Args)]
pub struct List {
    /// Whom to ask.
    #[command(flatten)]
    pub view: View,
}

/// `pool apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// The number of the CCB or the AgentProxy; any free slot without, on the blade with the fewest that run
    pub number: Option<u16>,
    /// An AgentProxy, not a CCB
    #[arg(long)]
    pub agent_proxy: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub view: View,
}

/// `pool release`
#[derive(Debug, Args)]
pub struct Release {
    /// The number of the CCB or the AgentProxy
    pub number: u16,
    /// An AgentProxy, not a CCB
    #[arg(long)]
    pub agent_proxy: bool,
    /// How long its calls may take to end, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub within: Option<u32>,
    /// Whom to ask.
    #[command(flatten)]
    pub view: View,
}
