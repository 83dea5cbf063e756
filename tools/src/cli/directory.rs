//! `directory ...`: the directory to files and from files.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Where;

/// `directory ...`
#[derive(Debug, Subcommand)]
pub enum DirectoryCommand {
    /// Write tenants, locations, agents, forwarding rules and mappings
    Export(Export),
    /// Make the directory what files say, all of it or nothing
    Import(Import),
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One file.
    Toml,
    /// A file a table.
    Csv,
}

/// `directory export`
#[derive(Debug, Args)]
pub struct Export {
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Toml)]
    pub format: Format,
    /// Only this tenant; mappings are no tenant's
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Only this table, such as agents; CSV without --output needs it
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// With the hashes of the passwords, so that logins move along
    #[arg(long)]
    pub with_secrets: bool,
    /// The file of TOML, or the folder of CSV files [default: printed]
    #[arg(long, short, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
}

/// `directory import`
#[derive(Debug, Args)]
pub struct Import {
    /// TOML files, CSV files named by their tables (agents.csv), or a folder of such
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Only say what would change
    #[arg(long)]
    pub check: bool,
    /// Remove what the files do not say, in the tables that they have
    #[arg(long)]
    pub prune: bool,
    /// Only this tenant: whatever else the files say is a fault, and nothing else is touched
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// The table that a CSV file of another name holds
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Print what control answers, as JSON
    #[arg(long)]
    pub json: bool,
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
}
