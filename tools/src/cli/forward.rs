//! `forward ...`, `hold-music`, `srtp`: what becomes of calls that are not taken, of parties that wait, and of media.

use clap::{Args, Subcommand};

use super::View;

/// `forward ...`
#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// Show the rules
    List(List),
    /// Set where calls to a number go that are not taken there: to another number, or to several that are tried one
    /// after another for so many seconds each, as in 1001/15,1002/20,0301234
    Set(Set),
    /// Remove the rules of a number
    Remove(Remove),
}

/// Whose rules.
#[derive(Debug, Args)]
pub struct Tenant {
    /// The tenant; needed where there are several
    #[arg(long = "tenant", value_name = "NAME", default_value = "-", hide_default_value = true)]
    pub name: String,
    /// Whom to ask.
    #[command(flatten)]
    pub view: View,
}

/// `forward list`
#[derive(Debug, Args)]
pub struct List {
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

/// `forward set`
#[derive(Debug, Args)]
#[group(id = "rule", multiple = false, required = true, args = ["always", "busy", "no_answer", "unavailable"])]
pub struct Set {
    /// The number that is called
    pub number: String,
    /// Before its phone rings: to this number
    #[arg(long, value_name = "TO")]
    pub always: Option<String>,
    /// When it is in a call, or its phone says so: to this number
    #[arg(long, value_name = "TO")]
    pub busy: Option<String>,
    /// When its phone has rung for --after seconds: to this number
    #[arg(long, value_name = "TO")]
    pub no_answer: Option<String>,
    /// When nobody is logged in with it, or no phone can be reached: to this number
    #[arg(long, value_name = "TO")]
    pub unavailable: Option<String>,
    /// How long its phone rings, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20, requires = "no_answer")]
    pub after: u32,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

impl Set {
    /// The rule's case as the admin API names it, and where it leads.
    pub fn rule(&self) -> (&'static str, &str) {
        let cases = [
            ("always", &self.always),
            ("busy", &self.busy),
            ("no_answer", &self.no_answer),
            ("unavailable", &self.unavailable),
        ];
        let given = cases.into_iter().find_map(|(case, to)| Some((case, to.as_deref()?)));
        given.unwrap_or_default()
    }
}

/// `forward remove`
#[derive(Debug, Args)]
pub struct Remove {
    /// The number that is called
    pub number: String,
    /// Only the rule for this case
    #[arg(long, value_name = "CASE", value_parser = ["always", "busy", "no_answer", "unavailable"])]
    pub when: Option<String>,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

/// `hold-music`
#[derive(Debug, Args)]
pub struct HoldMusic {
    /// The prompt: a file of the folder of prompts; without one, held parties hear nothing
    pub prompt: Option<String>,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}

/// `srtp`
#[derive(Debug, Args)]
pub struct Srtp {
    /// no: never. allowed: who offers it gets it, and who speaks SIP over TLS is offered it. offered: all are
    /// offered it, as what may be declined. required: SRTP or no call
    #[arg(value_parser = ["no", "allowed", "offered", "required"])]
    pub policy: String,
    /// The peers of this trunk instead of the tenant's phones
    #[arg(long, value_name = "NAME")]
    pub trunk: Option<String>,
    /// Whose.
    #[command(flatten)]
    pub of: Tenant,
}
