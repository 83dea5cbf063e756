//! The bus, counted: what each kind of message comes to, in and out.

use std::collections::BTreeMap;
use std::time::Duration;

use control_core::cluster::{Answer, Fact, Heard, Key, Question, Say};
use serde_json::{Value, json};

/// A message of NATS has a line beside its body: its subject, where its answer goes, its length.
const HEAD: usize = 60;

/// What one kind comes to.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    pub said: u64,
    pub said_bytes: u64,
    pub told: u64,
    pub told_bytes: u64,
    /// What cores spend on it.
    pub cpu: Duration,
    /// What reading its JSON costs, estimated from some of them.
    pub read: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub kinds: BTreeMap<&'static str, Kind>,
    pub seconds: f64,
    pub blades: usize,
}

impl Tally {
    pub fn kind(&mut self, name: &'static str) -> &mut Kind {
        self.kinds.entry(name).or_default()
    }

    /// How often it was said.
    pub fn count(&self, name: &str) -> u64 {
        self.kinds.get(name).map_or(0, |kind| kind.said)
    }

    pub fn a_second(&self, name: &str) -> f64 {
        self.count(name) as f64 / self.seconds
    }

    /// For people.
    pub fn print(&self, what: &str) {
        println!(
            "\n{what}, {} blades, a second:\n\n| kind | said | bytes each | told | Mbit/s out | us each told | CPU of a \
             core | of reading JSON |\n|---|---|---|---|---|---|---|---|",
            self.blades
        );
        let mut sum = Kind::default();
        let line = |name: &str, kind: &Kind| {
            let each =
                |time: Duration| time.as_secs_f64() * 1e3 / self.seconds / self.blades as f64;
            println!(
                "| {name} | {:.0} | {} | {:.0} | {:.1} | {} | {:.3} ms | {:.3} ms |",
                kind.said as f64 / self.seconds,
                kind.said_bytes / kind.said.max(1),
                kind.told as f64 / self.seconds,
                kind.told_bytes as f64 * 8.0 / 1e6 / self.seconds,
                match kind.told {
                    0 => "-".to_owned(),
                    told => format!("{:.2}", kind.cpu.as_secs_f64() * 1e6 / told as f64),
                },
                each(kind.cpu),
                each(kind.read),
            );
        };
        for (name, kind) in &self.kinds {
            line(name, kind);
            sum.said += kind.said;
            sum.said_bytes += kind.said_bytes;
            sum.told += kind.told;
            sum.told_bytes += kind.told_bytes;
            sum.cpu += kind.cpu;
            sum.read += kind.read;
        }
        line("all", &sum);
    }
}

/// What kind it is, and how many bytes it has on the wire.
pub fn weigh(from: &str, say: &Say) -> (&'static str, usize) {
    let body = |body: Value| serde_json::to_vec(&json!({"v": 1, "from": from, "body": body}));
    let weight = |value: Value| body(value).map_or(0, |bytes| bytes.len()) + HEAD;
    let stands = |fact: &Fact| weight(json!({ "fact": fact, "term": 0 }));
    match say {
        Say::Ask { question, .. } => {
            let name = match **question {
                Question::Place(_) => "place",
                Question::Login { .. } => "login",
                Question::Leave { .. } => "leave",
                _ => "other question",
            };
            (name, weight(json!(question)))
        }
        Say::Reply { answer, .. } => {
            let name = match **answer {
                Answer::Placed(_) => "place: answer",
                Answer::Login(_) => "login: answer",
                _ => "other answer",
            };
            (name, weight(json!(answer)))
        }
        Say::Put { key, fact } => (of_key(key), fact.as_ref().map_or(HEAD, stands)),
        Say::Claim { claim, .. } => ("claim", stands(&Fact::Claim(claim.clone()))),
        Say::Disclaim { .. } => ("claim", HEAD),
    }
}

fn of_key(key: &Key) -> &'static str {
    match key {
        Key::Blade(_) => "report",
        Key::Number(..) => "home",
        Key::Leader | Key::Queue(..) => "claim",
    }
}

/// How long the reading of this takes, where it is much.
pub fn reading(heard: &Heard) -> Option<Duration> {
    let Heard::Fact { fact: Some(fact), .. } = heard else { return None };
    let text = serde_json::to_vec(fact).ok()?;
    let begun = crate::world::cpu();
    for _ in 0..16 {
        std::hint::black_box(serde_json::from_slice::<Fact>(&text).ok()?);
    }
    Some((crate::world::cpu() - begun) / 16)
}
