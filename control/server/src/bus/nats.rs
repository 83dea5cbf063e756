//! Blades meet at a NATS server with JetStream.
//!
//! Questions are requests to `jackfield.<cluster>.blade.<name>`; facts stand in the key-value buckets
//! `<cluster>-reports`, `<cluster>-homes` and `<cluster>-claims`, which `nats kv` shows. A claim is won by
//! compare-and-swap on its last revision, by who has not seen it renewed for `CLAIM_LIFE_MS` by its own clock,
//! so nothing hangs on when the server drops what is old.
//!
//! All of it is one *session*: a connection, the buckets, the reading of them. Whatever fails of it ends it, the
//! core hears that the bus is gone, and the next session begins with all that stands in the buckets, also when the
//! server came back with none.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, Event, RequestErrorKind, ServerAddr};
use control_core::cluster::{
    Answer, BladeName, Fact, Heard, Key, Question, REPORT_LIFE_MS, Say, To,
};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::names::{self, Bucket};
use super::{Count, Ends};
use crate::secret::Secret;

mod claims;
#[cfg(test)]
mod tests;

use claims::{Attempt, Claims};

/// How long the server may take for anything but an answer of a blade.
const SERVER_MS: u64 = 1_000;
/// How long after a failed session the next one is tried.
const AGAIN_MS: u64 = 250;
/// How often the connection is asked whether it lives.
const PING_S: u64 = 2;
/// How long the reading of a bucket may pause before what came is all that stands in it: what was announced may
/// have grown too old meanwhile.
const SNAPSHOT_MS: u64 = 300;
/// How long claims are kept by the server; who counts is the reader.
const CLAIM_KEPT_S: u64 = 60;
/// Questions of others that wait for our answer; more are dropped.
const OPEN_QUESTIONS: usize = 4_096;
/// How long a question of others is remembered.
const QUESTION_S: u64 = 10;
/// Requests of ours under way; more are refused.
const UNDER_WAY: usize = 8_192;
/// The version of the envelope. What it does not know is passed over, so that a later version can speak to it.
const VERSION: u32 = 1;
/// The header by which a bucket is told that a key is taken away.
const OPERATION: &str = "KV-Operation";

/// Where the NATS server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// `nats://host:port` or `tls://host:port`, without credentials.
    pub server: String,
    /// Who we are there; none when the server asks for nobody.
    pub user: Option<(String, Secret)>,
}

impl NatsConfig {
    /// Reads `nats://[USER:PASSWORD@]HOST[:PORT]` or the same with `tls://`. Says which rule is broken, and never
    /// shows the password.
    pub fn parse(url: &str) -> Result<NatsConfig, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("must begin with nats:// or tls://")?;
        if !matches!(scheme, "nats" | "tls") {
            return Err("must begin with nats:// or tls://");
        }
        let (user, host) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((user, host)) => {
                let (user, password) =
                    user.split_once(':').ok_or("must have a password after the user")?;
                (Some((user.to_owned(), Secret::new(password))), host)
            }
        };
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
        if host.is_empty() || !host.bytes().all(is_plain) {
            return Err("must name a host and, if it is not 4222, a port");
        }
        let server = format!("{scheme}://{host}");
        server.parse::<ServerAddr>().map_err(|_| "must name a host and a port")?;
        Ok(NatsConfig { server, user })
    }

    /// As it was read, with the password.
    pub fn url(&self) -> String {
        match (&self.user, self.server.split_once("://")) {
            (Some((user, password)), Some((scheme, host))) => {
                format!("{scheme}://{user}:{}@{host}", password.expose())
            }
            _ => self.server.clone(),
        }
    }

    /// Adds the credentials of a file: `USER:PASSWORD` in its first line.
    pub fn with_credentials(mut self, text: &str) -> Result<NatsConfig, &'static str> {
        let line = text.lines().next().unwrap_or_default().trim();
        let (user, password) = line.split_once(':').ok_or("must hold USER:PASSWORD")?;
        self.user = Some((user.to_owned(), Secret::new(password)));
        Ok(self)
    }
}

/// Everything that travels: who says it, in which version.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    from: String,
    body: T,
}

/// What stands under a key.
#[derive(Debug, Serialize, Deserialize)]
struct Stands {
    fact: Fact,
    /// The term of a claim.
    #[serde(default)]
    term: u64,
}

impl Stands {
    fn fits(&self, bucket: Bucket) -> bool {
        matches!(
            (bucket, &self.fact),
            (Bucket::Reports, Fact::Blade(_))
                | (Bucket::Homes, Fact::Home(_))
                | (Bucket::Claims, Fact::Claim(_))
        )
    }
}

/// What a request of ours came to.
enum Done {
    /// A question got this.
    Answered { ask: u64, answer: Option<Box<Answer>>, count: Option<Count> },
    /// A fact stands, or does not.
    Stands(Result<(), String>),
    /// A claim was tried.
    Claimed { key: Key, attempt: Attempt, revision: Result<u64, ClaimFailed> },
}

/// Why a claim was not won.
enum ClaimFailed {
    /// Somebody else was first.
    Lost,
    /// The server did not say.
    Server(String),
}

type Watched = (Bucket, Result<jetstream::Message, String>);

/// One connection and what is read and awaited on it. Dropped, all of it ends.
struct Session<'a> {
    ends: &'a mut Ends,
    client: Client,
    context: jetstream::Context,
    events: mpsc::UnboundedReceiver<Event>,
    questions: async_nats::Subscriber,
    watched: SelectAll<BoxStream<'static, Watched>>,
    under_way: JoinSet<Done>,
    /// Where the answers go to questions of others, and since when they wait.
    replies: HashMap<u64, (async_nats::Subject, Instant)>,
    claims: Claims,
    /// Our questions that are open.
    asks: HashSet<u64>,
}

/// What outlives a session.
#[derive(Default)]
struct Memory {
    /// The homes that the core was told of.
    homes: BTreeSet<Key>,
    next_reply: u64,
}

/// Carries until the core is gone.
pub async fn run(config: NatsConfig, mut ends: Ends) {
    let mut memory = Memory::default();
    let mut said = String::new();
    while !ends.blade.is_closed() {
        let opened = while_away(&mut ends, connect(&config)).await;
        let ended = match opened {
            Some(Ok((client, events))) => {
                match Session::open(&mut ends, client, events, &mut memory).await {
                    Ok(mut session) => session.serve(&mut memory).await,
                    Err(why) => why,
                }
            }
            Some(Err(why)) => why,
            None => return,
        };
        ends.connected(false).await;
        if said != ended {
            tracing::warn!(server = config.server, why = ended, "no bus");
            said = ended;
        }
        let pause = tokio::time::sleep(Duration::from_millis(AGAIN_MS));
        if while_away(&mut ends, pause).await.is_none() {
            return;
        }
    }
}

/// Waits for `future` while what the core says is refused; none when the core is gone.
async fn while_away<T>(ends: &mut Ends, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    loop {
        tokio::select! {
            done = &mut future => return Some(done),
            say = ends.says.recv() => {
                let say = say?;
                ends.refuse(say).await;
            }
        }
    }
}

async fn connect(config: &NatsConfig) -> Result<(Client, mpsc::UnboundedReceiver<Event>), String> {
    // A connection makes a handful of events in its life.
    let (sender, events) = mpsc::unbounded_channel();
    let mut options = ConnectOptions::new()
        .name("jackfield")
        .connection_timeout(Duration::from_millis(SERVER_MS))
        .request_timeout(Some(Duration::from_millis(SERVER_MS)))
        .ping_interval(Duration::from_secs(PING_S))
        // The next session connects anew.
        .max_reconnects(1)
        .event_callback(move |event| {
            let _ = sender.send(event);
            std::future::ready(())
        });
    if let Some((user, password)) = &config.user {
        options = options.user_and_password(user.clone(), password.expose().to_owned());
    }
    let connected = options.connect(config.server.as_str()).await;
    let client = connected.map_err(|why| format!("it cannot be reached: {why}"))?;
    Ok((client, events))
}

/// A bucket as `nats kv add` makes it.
fn bucket_config(cluster: &str, bucket: Bucket) -> stream::Config {
    let name = format!("{cluster}-{}", bucket.name());
    let (storage, max_age) = match bucket {
        Bucket::Reports => (stream::StorageType::Memory, Duration::from_millis(REPORT_LIFE_MS)),
        Bucket::Homes => (stream::StorageType::File, Duration::ZERO),
        Bucket::Claims => (stream::StorageType::Memory, Duration::from_secs(CLAIM_KEPT_S)),
    };
    stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_age,
        storage,
        num_replicas: 1,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    }
}

/// Opens a bucket, and reads it from its beginning. With it, how many entries stand in it.
async fn watch(
    context: &jetstream::Context,
    cluster: &str,
    bucket: Bucket,
) -> Result<(u64, BoxStream<'static, Watched>), String> {
    let config = bucket_config(cluster, bucket);
    let name = config.name.clone();
    let failed = |why: &dyn std::fmt::Display| format!("bucket {name}: {why}");
    context.create_or_update_stream(config).await.map_err(|why| failed(&why))?;
    let consumer = push::OrderedConfig {
        deliver_subject: context.client().new_inbox(),
        deliver_policy: DeliverPolicy::All,
        ..Default::default()
    };
    let consumer = context.create_consumer_on_stream(consumer, name.as_str()).await;
    let consumer = consumer.map_err(|why| failed(&why))?;
    let standing = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.map_err(|why| failed(&why))?;
    let messages = messages.map(move |message| (bucket, message.map_err(|why| why.to_string())));
    Ok((standing, messages.boxed()))
}

impl<'a> Session<'a> {
    /// Opens the buckets, tells the core what stands in them, and that the bus is there.
    async fn open(
        ends: &'a mut Ends,
        client: Client,
        events: mpsc::UnboundedReceiver<Event>,
        memory: &mut Memory,
    ) -> Result<Session<'a>, String> {
        let context = jetstream::ContextBuilder::new()
            .timeout(Duration::from_millis(SERVER_MS))
            .ack_timeout(Duration::from_millis(SERVER_MS))
            .build(client.clone());
        let cluster = ends.place.cluster.clone();
        let subject = subject(&cluster, &ends.place.blade);
        let questions = client.subscribe(subject).await.map_err(|why| why.to_string())?;
        let mut session = Session {
            ends,
            client,
            context,
            events,
            questions,
            watched: SelectAll::new(),
            under_way: JoinSet::new(),
            replies: HashMap::new(),
            claims: Claims::default(),
            asks: HashSet::new(),
        };
        let mut stand = BTreeSet::new();
        for bucket in Bucket::ALL {
            let opened = watch(&session.context, &cluster, bucket);
            let (standing, mut messages) =
                while_away(session.ends, opened).await.ok_or("the process stops")??;
            let mut pending = standing;
            let pause = Duration::from_millis(SNAPSHOT_MS);
            while pending > 0
                && let Ok(Some((_, message))) = tokio::time::timeout(pause, messages.next()).await
            {
                let message = message?;
                pending = message.info().map_or(0, |info| info.pending);
                stand.extend(session.take_fact(bucket, &message).await);
            }
            session.watched.push(messages);
        }
        // What the core knows and the bus does not: the store was lost, or it was taken away meanwhile.
        for gone in memory.homes.difference(&stand).cloned().collect::<Vec<_>>() {
            session.ends.tell(Heard::Fact { key: gone, fact: None }).await;
        }
        stand.retain(|key| matches!(key, Key::Number(..)));
        memory.homes = stand;
        session.ends.connected(true).await;
        Ok(session)
    }

    /// Serves until something fails; says what.
    async fn serve(&mut self, memory: &mut Memory) -> String {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            let failed = tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Connected) => None,
                    Some(Event::SlowConsumer(_)) => Some("we do not keep up".to_owned()),
                    Some(Event::ServerError(why)) => Some(why.to_string()),
                    _ => Some("the connection ended".to_owned()),
                },
                say = self.ends.says.recv() => match say {
                    Some(say) => self.say(say).await.err(),
                    None => {
                        self.finish().await;
                        Some("the process stops".to_owned())
                    }
                },
                question = self.questions.next() => match question {
                    Some(message) => { self.asked(message, memory).await; None }
                    None => Some("the connection ended".to_owned()),
                },
                Some((bucket, message)) = self.watched.next() => match message {
                    Ok(message) => {
                        if let Some(key) = self.take_fact(bucket, &message).await {
                            memory.homes.insert(key);
                        }
                        None
                    }
                    Err(why) => Some(format!("the reading of {}: {why}", bucket.name())),
                },
                Some(done) = self.under_way.join_next() => match done {
                    Ok(done) => self.done(done).await.err(),
                    Err(why) => Some(why.to_string()),
                },
                _ = ticks.tick() => {
                    let life = Duration::from_secs(QUESTION_S);
                    self.replies.retain(|_, (_, since)| since.elapsed() < life);
                    None
                }
            };
            if let Some(failed) = failed {
                self.give_up().await;
                return failed;
            }
        }
    }

    /// The core is gone. What it said last is still to arrive.
    async fn finish(&mut self) {
        let all = async { while self.under_way.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(SERVER_MS), all).await;
        let _ = self.client.flush().await;
    }

    /// Nothing comes any more of what is under way.
    async fn give_up(&mut self) {
        self.under_way.abort_all();
        for key in self.claims.give_up() {
            self.ends.tell(Heard::Claimed { key, term: None }).await;
        }
        for ask in std::mem::take(&mut self.asks) {
            self.ends.tell(Heard::Answered { ask, answer: None }).await;
        }
    }

    /// Does what the core says.
    async fn say(&mut self, say: Say) -> Result<(), String> {
        match say {
            Say::Ask { ask, to, question, within_ms } => {
                self.ask(ask, to, *question, Duration::from_millis(within_ms)).await;
            }
            Say::Reply { reply, answer } => {
                if let Some((subject, _)) = self.replies.remove(&reply) {
                    let text = self.envelope(&*answer);
                    self.client
                        .publish(subject, text.into())
                        .await
                        .map_err(|why| why.to_string())?;
                }
            }
            Say::Put { key, fact: Some(fact) } => {
                let text = self.envelope(&Stands { fact, term: 0 });
                self.put(&key, PublishMessage::build().payload(text.into())).await?;
            }
            Say::Put { key, fact: None } => {
                self.put(&key, PublishMessage::build().header(OPERATION, "DEL")).await?;
            }
            Say::Claim { key, claim } => match self.claims.attempt(&key, claim, Instant::now()) {
                Some(attempt) => self.claim(key, attempt).await?,
                None => self.ends.tell(Heard::Claimed { key, term: None }).await,
            },
            Say::Disclaim { key } => {
                if let Some(revision) = self.claims.disclaim(&key) {
                    let message = PublishMessage::build().header(OPERATION, "DEL");
                    self.put(&key, message.expected_last_subject_sequence(revision)).await?;
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, ask: u64, to: To, question: Question, within: Duration) {
        let To::Blade(blade) = to;
        self.ends.state.add(Count::Asked);
        if self.under_way.len() >= UNDER_WAY {
            self.ends.state.add(Count::DropFull);
            return self.ends.tell(Heard::Answered { ask, answer: None }).await;
        }
        self.asks.insert(ask);
        let request = async_nats::Request::new()
            .payload(self.envelope(&question).into())
            .timeout(Some(within));
        let (client, subject) = (self.client.clone(), subject(&self.ends.place.cluster, &blade));
        self.under_way.spawn(async move {
            let (answer, count) = match client.send_request(subject, request).await {
                Ok(message) => match serde_json::from_slice::<Envelope<Answer>>(&message.payload) {
                    Ok(envelope) => (Some(Box::new(envelope.body)), None),
                    Err(_) => (None, Some(Count::DropGarbled)),
                },
                Err(why) if why.kind() == RequestErrorKind::NoResponders => {
                    (None, Some(Count::NobodyThere))
                }
                Err(_) => (None, Some(Count::Unanswered)),
            };
            Done::Answered { ask, answer, count }
        });
    }

    /// Puts a message under a key, behind all that was put before; its outcome comes as [`Done::Stands`].
    async fn put(&mut self, key: &Key, message: PublishMessage) -> Result<(), String> {
        let sent = self.context.send_publish(self.key_subject(key), message).await;
        let acknowledged = sent.map_err(|why| why.to_string())?;
        self.under_way.spawn(async move {
            let stands = acknowledged.await.map(drop);
            Done::Stands(stands.or_else(|why| match why.kind() {
                // Only what is taken away expects a revision, and then somebody else has put something newer.
                PublishErrorKind::WrongLastSequence => Ok(()),
                _ => Err(why.to_string()),
            }))
        });
        Ok(())
    }

    async fn claim(&mut self, key: Key, attempt: Attempt) -> Result<(), String> {
        let fact = Fact::Claim(attempt.claim.clone());
        let text = self.envelope(&Stands { fact, term: attempt.term });
        let message = PublishMessage::build()
            .payload(text.into())
            .expected_last_subject_sequence(attempt.expected);
        let sent = self.context.send_publish(self.key_subject(&key), message).await;
        let acknowledged = sent.map_err(|why| why.to_string())?;
        self.under_way.spawn(async move {
            let revision = acknowledged.await.map(|ack| ack.sequence);
            let revision = revision.map_err(|why| match why.kind() {
                PublishErrorKind::WrongLastSequence => ClaimFailed::Lost,
                _ => ClaimFailed::Server(why.to_string()),
            });
            Done::Claimed { key, attempt, revision }
        });
        Ok(())
    }

    async fn done(&mut self, done: Done) -> Result<(), String> {
        match done {
            Done::Answered { ask, answer, count } => {
                if let Some(count) = count {
                    self.ends.state.add(count);
                }
                self.asks.remove(&ask);
                self.ends.tell(Heard::Answered { ask, answer }).await;
            }
            Done::Stands(stands) => stands?,
            Done::Claimed { key, attempt, revision: Ok(revision) } => {
                let term = Some(attempt.term);
                self.claims.won(&key, attempt, revision, Instant::now());
                self.ends.tell(Heard::Claimed { key, term }).await;
            }
            Done::Claimed { key, attempt, revision: Err(ClaimFailed::Lost) } => {
                // The server may have dropped what stood there, since it was old.
                match attempt.on_nothing() {
                    Some(attempt) => self.claim(key, attempt).await?,
                    None => {
                        self.claims.lost(&key);
                        self.ends.tell(Heard::Claimed { key, term: None }).await;
                    }
                }
            }
            Done::Claimed { revision: Err(ClaimFailed::Server(why)), .. } => return Err(why),
        }
        Ok(())
    }

    /// A question of another blade. One that we do not know is answered so.
    async fn asked(&mut self, message: async_nats::Message, memory: &mut Memory) {
        let Some(subject) = message.reply else {
            return self.ends.state.add(Count::DropGarbled);
        };
        if self.replies.len() >= OPEN_QUESTIONS {
            return self.ends.state.add(Count::DropFull);
        }
        let Ok(envelope) = serde_json::from_slice::<Envelope<Question>>(&message.payload) else {
            self.ends.state.add(Count::DropGarbled);
            let text = self.envelope(&Answer::NotHere);
            let _ = self.client.publish(subject, text.into()).await;
            return;
        };
        self.ends.state.add(Count::Questions);
        memory.next_reply += 1;
        let reply = memory.next_reply;
        self.replies.insert(reply, (subject, Instant::now()));
        let (from, question) = (envelope.from.into(), Box::new(envelope.body));
        self.ends.tell(Heard::Asked { reply, from, question }).await;
    }

    /// Tells the core what stands under a key; returns the key of a home that stands.
    async fn take_fact(&mut self, bucket: Bucket, message: &jetstream::Message) -> Option<Key> {
        let prefix = format!("$KV.{}-{}.", self.ends.place.cluster, bucket.name());
        let key = message.subject.strip_prefix(prefix.as_str());
        let key = key.and_then(|name| names::to_key(bucket, name));
        let revision = message.info().ok().map(|info| info.stream_sequence);
        let (Some(key), Some(revision)) = (key, revision) else {
            self.ends.state.add(Count::DropGarbled);
            return None;
        };
        self.ends.state.add(Count::Facts);
        let is_gone = message.headers.as_ref().is_some_and(|all| all.get(OPERATION).is_some());
        if is_gone {
            self.claims.gone(&key, revision);
            self.ends.tell(Heard::Fact { key, fact: None }).await;
            return None;
        }
        let read = serde_json::from_slice::<Envelope<Stands>>(&message.payload);
        let Some(stands) = read.ok().map(|envelope| envelope.body).filter(|it| it.fits(bucket))
        else {
            self.ends.state.add(Count::DropGarbled);
            return None;
        };
        if let Fact::Claim(claim) = &stands.fact {
            self.claims.seen(&key, claim, stands.term, revision, Instant::now());
        }
        self.ends.tell(Heard::Fact { key: key.clone(), fact: Some(stands.fact) }).await;
        (bucket == Bucket::Homes).then_some(key)
    }

    fn key_subject(&self, key: &Key) -> String {
        let (bucket, name) = names::of_key(key);
        format!("$KV.{}-{}.{name}", self.ends.place.cluster, bucket.name())
    }

    fn envelope(&self, body: &impl Serialize) -> Vec<u8> {
        let from = self.ends.place.blade.to_string();
        let envelope = Envelope { v: VERSION, from, body };
        serde_json::to_vec(&envelope).expect("our messages have no map with keys that are no text")
    }
}

/// Where a blade is asked.
fn subject(cluster: &str, blade: &BladeName) -> String {
    format!("jackfield.{}.blade.{}", names::escape(cluster), names::escape(blade))
}
