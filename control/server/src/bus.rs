//! The bus on which blades meet: what the core says to the others goes out, what they say comes in as [`Ask::Bus`].
//!
//! Whatever carries it keeps these rules: a question gets one answer or none, a claim one word of what became of
//! it, and nothing that a blade says is held up by another blade.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use control_core::cluster::{BladeName, Heard, Say};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock;
use crate::owner::{Ask, BladeHandle};
use rounds::{OpenRounds, Rounds};

mod local;
mod names;
mod nats;
mod rounds;

pub use local::LocalBus;
pub use nats::NatsConfig;

/// What the core says that waits for the bus; what comes when it is full is refused at once.
const SAYS: usize = 16_384;

/// Which bus a blade meets the others on.
#[derive(Clone, Debug, Default)]
pub enum BusConfig {
    /// None: it is alone.
    #[default]
    Alone,
    /// A NATS server with JetStream.
    Nats(NatsConfig),
    /// One for the controls of this process.
    Local(LocalBus),
}

/// What a blade is called, and where.
#[derive(Clone, Debug)]
pub struct Place {
    /// The blade, unique in its cluster.
    pub blade: BladeName,
    /// The cluster: blades of another one on the same bus are not seen.
    pub cluster: String,
}

/// How it goes with the bus, for status tools.
#[derive(Debug, Default)]
pub struct BusState {
    connected: AtomicBool,
    counts: BTreeMap<Count, AtomicU64>,
    /// From asking for an agent's lease to the home's answer.
    grants: Rounds,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Times that the bus came, or came back.
    Connects,
    /// Times that it was lost.
    Losses,
    /// Questions that we asked.
    Asked,
    /// Questions of ours that nobody was there for.
    NobodyThere,
    /// Questions of ours that got no answer in time.
    Unanswered,
    /// Questions of others.
    Questions,
    /// Facts that others, or we, put.
    Facts,
    /// Messages dropped because they made no sense.
    DropGarbled,
    /// Messages dropped because too many waited.
    DropFull,
    /// What was said while the bus was away.
    DropAway,
}

impl Count {
    const ALL: [Count; 10] = [
        Count::Connects,
        Count::Losses,
        Count::Asked,
        Count::NobodyThere,
        Count::Unanswered,
        Count::Questions,
        Count::Facts,
        Count::DropGarbled,
        Count::DropFull,
        Count::DropAway,
    ];

    fn name(self) -> &'static str {
        match self {
            Count::Connects => "connects",
            Count::Losses => "losses",
            Count::Asked => "asked",
            Count::NobodyThere => "nobody_there",
            Count::Unanswered => "unanswered",
            Count::Questions => "questions",
            Count::Facts => "facts",
            Count::DropGarbled => "drop_garbled",
            Count::DropFull => "drop_full",
            Count::DropAway => "drop_away",
        }
    }
}

impl BusState {
    /// Nothing happened yet.
    pub fn new() -> Self {
        let counts = Count::ALL.iter().map(|count| (*count, AtomicU64::new(0))).collect();
        BusState { connected: AtomicBool::new(false), counts, grants: Rounds::default() }
    }

    /// Counts one more.
    pub fn add(&self, count: Count) {
        if let Some(count) = self.counts.get(&count) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often that was.
    pub fn count(&self, count: Count) -> u64 {
        self.counts.get(&count).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// True while the bus is there.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// What status tools show.
    pub fn json(&self) -> Value {
        let mut fields = json!({ "connected": self.is_connected() });
        for count in Count::ALL {
            fields[count.name()] = self.count(count).into();
        }
        fields["grants"] = self.grants.json();
        fields
    }
}

/// Where the core's words for the bus go.
#[derive(Debug)]
pub struct Mouth {
    says: mpsc::Sender<Say>,
    state: Arc<BusState>,
    rounds: OpenRounds,
}

impl Mouth {
    /// Hands it over; returns what the core is to be told when it cannot be.
    pub fn say(&mut self, say: Say) -> Option<Heard> {
        self.rounds.said(clock::now(), &say);
        let refused = self.says.try_send(say).err()?;
        self.state.add(Count::DropFull);
        refusal(refused.into_inner())
    }

    /// Takes note of what the core is about to hear.
    pub fn hears(&mut self, heard: &Heard) {
        if let Some(took) = self.rounds.heard(clock::now(), heard) {
            self.state.grants.add(took);
        }
    }
}

/// What the bus works with.
pub struct Ends {
    /// Who we are.
    pub place: Place,
    /// What the core says.
    pub says: mpsc::Receiver<Say>,
    /// The core.
    pub blade: BladeHandle,
    /// How it goes.
    pub state: Arc<BusState>,
}

impl Ends {
    /// Tells the core.
    pub async fn tell(&self, heard: Heard) {
        self.blade.tell(Ask::Bus(heard)).await;
    }

    /// The bus is there, or is gone; said once a change.
    pub async fn connected(&self, is: bool) {
        if self.state.connected.swap(is, Ordering::Relaxed) == is {
            return;
        }
        let Place { blade, cluster } = &self.place;
        match is {
            true => tracing::info!(%blade, cluster, "the bus is there"),
            false => tracing::warn!(%blade, cluster, "the bus is gone; this blade works alone"),
        }
        self.state.add(if is { Count::Connects } else { Count::Losses });
        self.tell(Heard::Connected(is)).await;
    }

    /// Says no to what the core wants while the bus is away.
    pub async fn refuse(&self, say: Say) {
        self.state.add(Count::DropAway);
        if let Some(heard) = refusal(say) {
            self.tell(heard).await;
        }
    }
}

/// What the core is told when nothing comes of what it says.
fn refusal(say: Say) -> Option<Heard> {
    match say {
        Say::Ask { ask, .. } => Some(Heard::Answered { ask, answer: None }),
        Say::Claim { key, .. } => Some(Heard::Claimed { key, term: None }),
        Say::Reply { .. } | Say::Put { .. } | Say::Disclaim { .. } => None,
    }
}

/// A bus that is set up and not yet run.
pub struct Bus {
    kind: BusConfig,
    ends: Ends,
}

/// Sets the bus up. None when the blade is alone.
pub fn open(kind: BusConfig, place: Place, blade: BladeHandle) -> Option<(Mouth, Bus)> {
    if matches!(kind, BusConfig::Alone) {
        return None;
    }
    let (sender, says) = mpsc::channel(SAYS);
    let state = Arc::new(BusState::new());
    let mouth = Mouth { says: sender, state: Arc::clone(&state), rounds: OpenRounds::default() };
    Some((mouth, Bus { kind, ends: Ends { place, says, blade, state } }))
}

impl Bus {
    /// How it goes.
    pub fn state(&self) -> Arc<BusState> {
        Arc::clone(&self.ends.state)
    }

    /// Carries until the core is gone; what is returned then ends.
    pub fn spawn(self, tasks: &mut JoinSet<()>) -> oneshot::Receiver<()> {
        let (ended, end) = oneshot::channel();
        tasks.spawn(async move {
            self.run().await;
            let _ = ended.send(());
        });
        end
    }

    async fn run(self) {
        match self.kind {
            BusConfig::Alone => {}
            BusConfig::Nats(config) => nats::run(config, self.ends).await,
            BusConfig::Local(bus) => bus.run(self.ends).await,
        }
    }
}
