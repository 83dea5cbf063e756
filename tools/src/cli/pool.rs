//! `pool ...`: slots that run a CCB by order or with the load.

use clap::{Args, Subcommand};

use super::View;

/// `pool ...`
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Show the slots
    List(List),
    /// Start a CCB in a slot
    Apply(Apply),
    /// Give a CCB back: it takes nothing new, and is stopped when its agents and calls are gone
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
    /// The CCB; any free slot without
    pub ccb: Option<u16>,
    /// Whom to ask.
    #[command(flatten)]
    pub view: View,
}

/// `pool release`
#[derive(Debug, Args)]
pub struct Release {
    /// The CCB
    pub ccb: u16,
    /// How long its calls may take to end, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub within: Option<u32>,
    /// Whom to ask.
    #[command(flatten)]
    pub view: View,
}
