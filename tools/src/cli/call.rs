//! `call ...`: orders for a call that stands, or that is to begin.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use control_server::{MIXES, PROMPT_RULE, is_prompt_name};

use super::Where;

/// `call ...`
#[derive(Debug, Subcommand)]
pub enum CallCommand {
    /// Play a prompt to a leg; what its peer says is not heard meanwhile
    Play(Play),
    /// Stop what is played to a leg
    Stop(OnLeg),
    /// Collect digits that are pressed on a leg, and print them
    Collect(Collect),
    /// Record both directions of a leg, and print the recording's number
    Record(Record),
    /// Put a leg into a mix (a conference), which the first one makes
    Mix(Mix),
    /// Take a leg out of its mix, back to the other leg of its call
    Leave(OnLeg),
    /// Give a leg's peer to somebody else
    Transfer(Transfer),
    /// Call an agent's phone, and then a number
    Dial(Dial),
    /// End a call
    HangUp(HangUp),
}

/// Where control is found and how it is to answer.
#[derive(Debug, Clone, Args)]
pub struct To {
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
    /// The CCB that carries the call; needed when several have a call of that name
    #[arg(long, value_name = "NUMBER")]
    pub ccb: Option<u16>,
    /// Print what control answers, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `call stop`, `call leave`
#[derive(Debug, Args)]
pub struct OnLeg {
    /// The call as `jackfield calls` prints it, and the leg; without one the caller's, 0
    #[arg(value_name = "CALL[:LEG]")]
    pub leg: Leg,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call play`
#[derive(Debug, Args)]
pub struct Play {
    /// The call as `jackfield calls` prints it, and the leg; without one the caller's, 0
    #[arg(value_name = "CALL[:LEG]")]
    pub leg: Leg,
    /// The prompt: a file of the folder of prompts
    #[arg(value_parser = parse_prompt)]
    pub name: String,
    /// How often; 0 is until it is stopped
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub times: u32,
    /// Return when it has been played, and exit with 5 when it was stopped
    #[arg(long)]
    pub wait: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call collect`
#[derive(Debug, Args)]
pub struct Collect {
    /// The call as `jackfield calls` prints it, and the leg; without one the caller's, 0
    #[arg(value_name = "CALL[:LEG]")]
    pub leg: Leg,
    /// It is done after so many digits
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=64),
    )]
    pub max: u8,
    /// How long the first digit may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub first: Duration,
    /// How long each further one may take
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_time)]
    pub next: Duration,
    /// Digits that end it and are not counted
    #[arg(long, value_name = "DIGITS", default_value = "", value_parser = parse_digits)]
    pub end: String,
    /// The first digit stops what is played
    #[arg(long)]
    pub barge_in: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call record`
#[derive(Debug, Args)]
pub struct Record {
    /// The call as `jackfield calls` prints it, and the leg; without one the caller's, 0
    #[arg(value_name = "CALL[:LEG]")]
    pub leg: Leg,
    /// Leave out what is said from now on
    #[arg(long, group = "what")]
    pub pause: bool,
    /// Record again
    #[arg(long, group = "what")]
    pub resume: bool,
    /// End the recording
    #[arg(long, group = "what")]
    pub stop: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call mix`
#[derive(Debug, Args)]
pub struct Mix {
    /// The call as `jackfield calls` prints it, and the leg; without one the caller's, 0
    #[arg(value_name = "CALL[:LEG]")]
    pub leg: Leg,
    /// The mix's number in the call's tenant
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MIXES)))]
    pub mix: u32,
    /// What the leg hears and who hears it
    #[arg(long, value_enum, default_value_t = Role::Participant)]
    pub role: Role,
    /// Whom a whisper is for
    #[arg(long = "to", value_name = "CALL[:LEG]", required_if_eq("role", "whisper"))]
    pub listener: Option<Leg>,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call transfer`
#[derive(Debug, Args)]
pub struct Transfer {
    /// The call as `jackfield calls` prints it, and the leg whose peer is given away; without one the caller's, 0
    #[arg(value_name = "CALL[:LEG]")]
    pub leg: Leg,
    /// The number that takes over
    pub number: String,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call dial`
#[derive(Debug, Args)]
pub struct Dial {
    /// The agent's number, whose phone rings first
    #[arg(long, value_name = "NUMBER")]
    pub from: String,
    /// The number that is called then
    #[arg(long = "to", value_name = "NUMBER")]
    pub number: String,
    /// The agent's tenant; needed where there are several
    #[arg(long, value_name = "NAME", default_value = "-", hide_default_value = true)]
    pub tenant: String,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// `call hang-up`
#[derive(Debug, Args)]
pub struct HangUp {
    /// The call as `jackfield calls` prints it; all of its legs end
    #[arg(value_name = "CALL", value_parser = parse_call)]
    pub call: Leg,
    /// Whom to ask.
    #[command(flatten)]
    pub to: To,
}

/// What a leg is in a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Hears all others and is heard by all
    Participant,
    /// Hears all and is heard by none
    Monitor,
    /// Hears all and is heard by one
    Whisper,
}

impl Role {
    /// The admin API's name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Participant => "participant",
            Role::Monitor => "monitor",
            Role::Whisper => "whisper",
        }
    }
}

/// A leg of a call, as `12.3:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The call's slot.
    pub slot: u32,
    /// Tells the calls of the slot apart.
    pub generation: u32,
    /// The leg's number in the call.
    pub leg: u8,
}

impl Leg {
    /// The call's name.
    pub fn call(&self) -> String {
        format!("{}.{}", self.slot, self.generation)
    }
}

impl FromStr for Leg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (call, leg) = text.split_once(':').unwrap_or((text, "0"));
        let parts = call.split_once('.').and_then(|(slot, generation)| {
            let (slot, generation) = (slot.parse().ok()?, generation.parse().ok()?);
            Some(Leg { slot, generation, leg: leg.parse().ok()? })
        });
        parts.ok_or_else(|| "must be a call such as 12.3, or a leg of it such as 12.3:1".into())
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}:{}", self.slot, self.generation, self.leg)
    }
}

/// A call without a leg.
fn parse_call(text: &str) -> Result<Leg, String> {
    if text.contains(':') {
        return Err("must be a call such as 12.3: a leg cannot be hung up alone".into());
    }
    text.parse().map_err(|_| "must be a call such as 12.3".into())
}

fn parse_prompt(text: &str) -> Result<String, String> {
    if is_prompt_name(text) { Ok(text.to_owned()) } else { Err(PROMPT_RULE.to_owned()) }
}

/// `5s`, `500ms`, `2m`; at most an hour.
fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let found = units.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, *ms)));
    let ms = found.and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit));
    match ms {
        Some(ms @ 1..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err("must be a time of 1ms to 60m, such as 500ms, 5s or 2m".into()),
    }
}

fn parse_digits(text: &str) -> Result<String, String> {
    let is_digit = |c: char| matches!(c, '0'..='9' | '*' | '#' | 'A'..='D' | 'a'..='d');
    if text.chars().all(is_digit) {
        return Ok(text.to_owned());
    }
    Err("must be digits of 0 to 9, *, #, A to D".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_is_written_as_calls_prints_it() {
        let leg = |leg| Leg { slot: 12, generation: 3, leg };
        assert_eq!("12.3".parse(), Ok(leg(0)));
        assert_eq!("12.3:1".parse(), Ok(leg(1)));
        assert_eq!(leg(1).to_string(), "12.3:1");
        for text in ["", "12", "12.3:", "12.3:256", "a.b", "12.3.4", "12:1"] {
            assert!(text.parse::<Leg>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units_and_an_end() {
        for (text, ms) in [
            ("5s", Some(5_000)),
            ("250ms", Some(250)),
            ("60m", Some(3_600_000)),
            ("61m", None),
            ("5", None),
            ("0s", None),
            ("s", None),
            ("-1s", None),
            ("1h", None),
        ] {
            assert_eq!(parse_time(text).ok(), ms.map(Duration::from_millis), "{text}");
        }
    }
}
