use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use base::{CcbId, TenantId};
use control_core::LoginKey;
use control_core::cluster::{CLAIM_LIFE_MS, Claim, Home, Place as Placing, Placed};

use super::super::{Bus, BusConfig, Mouth, Place, open};
use super::*;
use crate::owner::{Ask, Asks, channel};

/// An address of the loopback's own for each server: a port of 127.0.0.1 that is free now may be somebody's own end of a
/// connection before the server takes it.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A NATS server of its own, at an address and in a folder of its own.
struct Nats {
    ip: Ipv4Addr,
    folder: tempfile::TempDir,
    process: Child,
}

impl Nats {
    fn start() -> Nats {
        let (ip, folder) = (own_address(), tempfile::tempdir().expect("a folder"));
        let process = Nats::spawn(ip, folder.path());
        Nats { ip, folder, process }
    }

    fn spawn(ip: Ipv4Addr, folder: &std::path::Path) -> Child {
        let mut server = Command::new("nats-server");
        server.args(["-a", &ip.to_string(), "-p", "4222", "-js", "-sd"]).arg(folder);
        server.args(["--user", "jack", "--pass", "field"]);
        server.stdout(Stdio::null()).stderr(Stdio::null());
        server.spawn().expect("nats-server is installed")
    }

    fn die(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ended");
    }

    /// Comes back with nothing of what it stored.
    fn start_anew(&mut self) {
        self.folder = tempfile::tempdir().expect("a folder");
        self.process = Nats::spawn(self.ip, self.folder.path());
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A blade's end of the bus without a core.
struct End {
    name: BladeName,
    mouth: Mouth,
    asks: Asks,
    state: std::sync::Arc<super::super::BusState>,
    _task: tokio::task::JoinSet<()>,
}

impl End {
    fn join(nats: &Nats, name: &str) -> End {
        let url = format!("nats://jack:field@{}:4222", nats.ip);
        let config = BusConfig::Nats(NatsConfig::parse(&url).expect("it is right"));
        let (blade, asks) = channel();
        let place = Place { blade: name.into(), cluster: "test".into() };
        let (mouth, bus): (Mouth, Bus) = open(config, place, blade).expect("it is not alone");
        let state = bus.state();
        let mut task = tokio::task::JoinSet::new();
        bus.spawn(&mut task);
        End { name: name.into(), mouth, asks, state, _task: task }
    }

    fn say(&mut self, say: Say) {
        assert!(self.mouth.say(say).is_none(), "there is room");
    }

    /// The next thing heard that `want` makes something of.
    async fn hear<T>(&mut self, what: &str, mut want: impl FnMut(Heard) -> Option<T>) -> T {
        let heard = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match self.asks.recv().await {
                    Some(Ask::Bus(heard)) => {
                        if let Some(found) = want(heard) {
                            return found;
                        }
                    }
                    _ => panic!("the bus says nothing else"),
                }
            }
        });
        heard.await.unwrap_or_else(|_| panic!("{} hears no {what}", self.name))
    }

    async fn connected(&mut self, want: bool) {
        self.hear("connection", |heard| match heard {
            Heard::Connected(is) => (is == want).then_some(()),
            _ => None,
        })
        .await;
    }

    async fn claimed(&mut self) -> Option<u64> {
        self.hear("claim", |heard| match heard {
            Heard::Claimed { key: Key::Leader, term } => Some(term),
            _ => None,
        })
        .await
    }

    async fn answer(&mut self, want: u64) -> Option<Answer> {
        self.hear("answer", |heard| match heard {
            Heard::Answered { ask, answer } if ask == want => Some(answer.map(|answer| *answer)),
            _ => None,
        })
        .await
    }

    fn ask(&mut self, ask: u64, to: &str) {
        let login = LoginKey { tenant: TenantId(1), agent: 5, epoch: 7 };
        let place = Placing {
            login,
            location: "local".into(),
            eligible: vec![CcbId(2)],
            refused: Vec::new(),
        };
        let question = Box::new(Question::Place(place));
        self.say(Say::Ask { ask, to: To::Blade(to.into()), question, within_ms: 1_000 });
    }

    fn claim(&self) -> Claim {
        Claim { blade: self.name.clone(), incarnation: 1 }
    }
}

fn number(text: &str) -> Key {
    Key::Number(TenantId(1), text.into())
}

fn home(blade: &str, epoch: u32) -> Fact {
    Fact::Home(Home { blade: blade.into(), ccb: CcbId(1), agent: 5, epoch, turn: 0 })
}

#[tokio::test]
async fn a_question_gets_its_answer_and_one_to_nobody_fails_at_once() {
    let nats = Nats::start();
    let (mut a, mut b) = (End::join(&nats, "a"), End::join(&nats, "b"));
    a.connected(true).await;
    b.connected(true).await;
    a.ask(9, "b");
    let reply = b
        .hear("question", |heard| match heard {
            Heard::Asked { reply, from, question } => {
                assert_eq!(&*from, "a");
                assert!(matches!(*question, Question::Place(place) if place.login.agent == 5));
                Some(reply)
            }
            _ => None,
        })
        .await;
    let placed = Placed { blade: "b".into(), ccb: CcbId(2) };
    b.say(Say::Reply { reply, answer: Box::new(Answer::Placed(Some(placed.clone()))) });
    let Some(Answer::Placed(Some(answer))) = a.answer(9).await else { panic!("an answer") };
    assert_eq!(answer, placed);
    let asked_at = Instant::now();
    a.ask(10, "nobody");
    assert!(a.answer(10).await.is_none());
    assert!(asked_at.elapsed() < Duration::from_millis(800), "it did not wait for the time-out");
    assert_eq!(a.state.count(Count::NobodyThere), 1);
    // B hears it and says nothing.
    a.ask(11, "b");
    assert!(a.answer(11).await.is_none());
    assert_eq!(a.state.count(Count::Unanswered), 1);
}

#[tokio::test]
async fn facts_are_seen_by_all_and_by_those_who_come_later() {
    let nats = Nats::start();
    let mut a = End::join(&nats, "a");
    a.connected(true).await;
    a.say(Say::Put { key: number("1001"), fact: Some(home("a", 1)) });
    a.say(Say::Put { key: number("1001"), fact: Some(home("a", 2)) });
    a.say(Say::Put { key: number("1002"), fact: Some(home("a", 3)) });
    a.say(Say::Put { key: number("1002"), fact: None });
    let is_gone = |heard| match heard {
        Heard::Fact { key, fact: None } => (key == number("1002")).then_some(()),
        _ => None,
    };
    a.hear("end of a home", is_gone).await;
    let mut b = End::join(&nats, "b");
    let mut seen = Vec::new();
    b.hear("connection", |heard| match heard {
        Heard::Fact { key, fact: Some(fact) } => {
            seen.push((key, fact));
            None
        }
        Heard::Connected(true) => Some(()),
        _ => None,
    })
    .await;
    assert_eq!(seen, [(number("1001"), home("a", 2))]);
}

#[tokio::test]
async fn one_at_a_time_has_a_claim_and_its_term_grows() {
    let nats = Nats::start();
    let (mut a, mut b) = (End::join(&nats, "a"), End::join(&nats, "b"));
    a.connected(true).await;
    b.connected(true).await;
    a.say(Say::Claim { key: Key::Leader, claim: a.claim() });
    let first = a.claimed().await.expect("nobody had it");
    let claimed_at = Instant::now();
    b.hear("claim of a", |heard| match heard {
        Heard::Fact { key: Key::Leader, fact } => fact,
        _ => None,
    })
    .await;
    b.say(Say::Claim { key: Key::Leader, claim: b.claim() });
    assert_eq!(b.claimed().await, None);
    a.say(Say::Claim { key: Key::Leader, claim: a.claim() });
    assert_eq!(a.claimed().await, Some(first), "it was renewed");
    // A is silent from here on.
    let second = loop {
        b.say(Say::Claim { key: Key::Leader, claim: b.claim() });
        if let Some(term) = b.claimed().await {
            break term;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(second > first);
    assert!(claimed_at.elapsed() >= Duration::from_millis(CLAIM_LIFE_MS));
    a.say(Say::Claim { key: Key::Leader, claim: a.claim() });
    assert_eq!(a.claimed().await, None, "it is b's");
    b.say(Say::Disclaim { key: Key::Leader });
    a.hear("end of the claim", |heard| match heard {
        Heard::Fact { key: Key::Leader, fact: None } => Some(()),
        _ => None,
    })
    .await;
    a.say(Say::Claim { key: Key::Leader, claim: a.claim() });
    assert!(a.claimed().await.is_some_and(|third| third > second), "it is free at once");
}

#[tokio::test]
async fn the_bus_is_said_to_be_gone_and_comes_back_with_nothing() {
    let mut nats = Nats::start();
    let mut a = End::join(&nats, "a");
    a.connected(true).await;
    a.say(Say::Put { key: number("1001"), fact: Some(home("a", 1)) });
    a.hear("its home", |heard| match heard {
        Heard::Fact { fact, .. } => fact,
        _ => None,
    })
    .await;
    nats.die();
    a.connected(false).await;
    a.ask(1, "b");
    assert!(a.answer(1).await.is_none());
    a.say(Say::Claim { key: Key::Leader, claim: a.claim() });
    assert_eq!(a.claimed().await, None);
    assert!(a.state.count(Count::DropAway) >= 2);
    nats.start_anew();
    let mut is_gone = false;
    a.hear("connection", |heard| match heard {
        Heard::Fact { key, fact: None } => {
            is_gone |= key == number("1001");
            None
        }
        Heard::Connected(true) => Some(()),
        _ => None,
    })
    .await;
    assert!(is_gone, "what the store lost is told");
    a.say(Say::Claim { key: Key::Leader, claim: a.claim() });
    assert!(a.claimed().await.is_some());
}

#[tokio::test]
async fn what_makes_no_sense_is_counted_and_dropped() {
    let nats = Nats::start();
    let mut a = End::join(&nats, "a");
    a.connected(true).await;
    let url = format!("nats://jack:field@{}:4222", nats.ip);
    let (client, _events) = connect(&NatsConfig::parse(&url).expect("right")).await.expect("there");
    let say = async |subject: &'static str, text: &'static str| {
        client.publish(subject, text.into()).await.expect("it is sent");
    };
    let answer =
        client.request("jackfield.test.blade.a", r#"{"v":9,"from":"x","body":{"new":1}}"#.into());
    let answer = answer.await.expect("what is not known is answered so").payload;
    assert!(std::str::from_utf8(&answer).expect("text").contains("not_here"));
    say("jackfield.test.blade.a", "no reply subject").await;
    say("$KV.test-homes.1.1001", "[]").await;
    say("$KV.test-homes.nonsense", "{}").await;
    say("$KV.test-reports.c", r#"{"v":1,"from":"c","body":{"fact":{"home":{}}}}"#).await;
    let late = r#"{"v":2,"from":"b","more":1,"body":{"fact":{"blade":{"sequence":3,"new":{}}}}}"#;
    say("$KV.test-reports.b", late).await;
    a.hear("report of a later version", |heard| match heard {
        Heard::Fact { key: Key::Blade(blade), fact: Some(Fact::Blade(report)) } => {
            (&*blade == "b" && report.sequence == 3).then_some(())
        }
        Heard::Fact { .. } => panic!("it made no sense"),
        _ => None,
    })
    .await;
    assert!(a.state.is_connected());
    // The buckets are read each for itself.
    let all = tokio::time::timeout(Duration::from_secs(5), async {
        while a.state.count(Count::DropGarbled) < 5 {
            tokio::task::yield_now().await;
        }
    });
    assert!(all.await.is_ok(), "{}", a.state.json());
}

#[test]
fn an_address_is_read_and_its_password_never_shown() {
    let config = NatsConfig::parse("tls://jack:pa:ss@bus.example:4223").expect("it is right");
    assert_eq!(config.server, "tls://bus.example:4223");
    assert!(!format!("{config:?}").contains("pa:ss"));
    assert_eq!(config.user.expect("a user").1.expose(), "pa:ss");
    assert_eq!(NatsConfig::parse("nats://[::1]:4222").expect("right").user, None);
    let filed = NatsConfig::parse("nats://h").expect("right").with_credentials("u:p\nrest");
    assert_eq!(filed.expect("right").user, Some(("u".into(), Secret::new("p"))));
    for wrong in ["", "http://h", "nats://", "nats://u@h", "nats://h/x", "nats://a b"] {
        assert!(NatsConfig::parse(wrong).is_err(), "{wrong}");
    }
}
