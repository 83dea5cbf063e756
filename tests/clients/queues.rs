//! Queues with phones and desks: who waits hears music, is served in turn, and loses nothing when control dies.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::demo::Demo;
use crate::desk::Desk;
use crate::lab::{jackfield, run, turn, wait_for};
use crate::phone::Softphone;
use crate::{FLAGS, LOOPBACK, Pair, log_in, media};

/// What the prompt of the lab sounds like, in Hz.
const MUSIC_HZ: u32 = 500;
const CALLERS: u32 = 20;
const AGENTS: u32 = 4;
const FIRST_CALLER: u32 = 1_011;

/// `jackfield WHAT... --dir`.
fn tell(demo: &Demo, what: &[&str]) {
    let output = run(Command::new(jackfield()).args(what).arg("--dir").arg(demo.dir()));
    assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn set_queue(demo: &Demo, more: &[&str]) {
    let usual = ["queue", "set", "support", "--skill", "general", "--prompt", "welcome.wav"];
    tell(demo, &[&usual[..], &["--after-call", "1"], more].concat());
}

fn queue(demo: &Demo) -> Option<Value> {
    Some(demo.ask("queues")?["queues"].as_array()?.first()?.clone())
}

fn expect_waiting(demo: &Demo, wanted: u64) {
    let mut last = Value::Null;
    let seen = wait_for(Duration::from_secs(15), || {
        last = queue(demo)?;
        (last["waiting"] == wanted).then_some(())
    });
    assert!(seen.is_some(), "{wanted} do not wait: {last:#}");
}

/// A phone that calls the queue and was answered.
fn caller(number: u32) -> Softphone {
    let phone = Softphone::start(&log_in(&number.to_string(), "local"), LOOPBACK, 440);
    phone.register();
    phone.call("702");
    phone
}

/// An agent with a phone that answers and a desk.
fn agent(number: u32) -> (Softphone, Desk, Value) {
    let login = log_in(&number.to_string(), "local");
    let phone = Softphone::start(&login, LOOPBACK, 700);
    phone.register();
    let desk = Desk::open(&login);
    desk.expect("AgentNotReady");
    (phone, desk, login)
}

/// Serves callers until `all` are served by all; who they were, in the order in which they were delivered.
fn serve(desk: &Desk, served: &AtomicUsize, all: usize, order: &Mutex<Vec<String>>) {
    let end = Instant::now() + Duration::from_secs(60);
    let talk = Duration::from_millis(800);
    let mut hang_up_at: Option<Instant> = None;
    while served.load(Ordering::Relaxed) < all {
        assert!(Instant::now() < end, "only {served:?} of {all} were served");
        if hang_up_at.is_some_and(|at| at <= Instant::now()) {
            hang_up_at = None;
            desk.say(json!({"v": 1, "type": "hang_up", "id": 9}));
        }
        let Some(message) = desk.next(Duration::from_millis(20)) else { continue };
        match message["type"].as_str().expect("a type") {
            "Delivered" => {
                assert_eq!(message["queue"], "support", "{message}");
                let party = message["party"].as_str().expect("a number").to_owned();
                order.lock().expect("whole").push(party);
            }
            "Established" => hang_up_at = Some(Instant::now() + talk),
            "ConnectionCleared" => _ = served.fetch_add(1, Ordering::Relaxed),
            "reply" => assert_eq!(message["result"], "ok", "{message}"),
            _ => {}
        }
    }
}

/// Nobody is far from their turn; agents who become ready at the same moment may be told in either order.
fn expect_in_turn(order: &[String], wanted: &[u32]) {
    let mut sorted: Vec<String> = wanted.iter().map(u32::to_string).collect();
    assert_eq!(order.len(), sorted.len(), "{order:?}");
    sorted.sort_unstable();
    for (at, party) in order.iter().enumerate() {
        let place = sorted.iter().position(|one| one == party).expect("a caller, once");
        assert!(place.abs_diff(at) < AGENTS as usize, "{party} was overtaken: {order:?}");
    }
}

/// 20 callers, 4 agents: all but who hangs up are served in turn, with RTP both ways, and music until then.
#[test]
fn twenty_callers_wait_for_four_agents() {
    let _turn = turn();
    let prompts = media::prompts();
    let folder = prompts.path().to_str().expect("a path");
    let flags = ["--agents", "32", "--prompts", folder, "--queue", "support"];
    let routes = ["--route", "702=queue:support"];
    let mut demo = Demo::start(None, &[FLAGS, &flags, &routes].concat());
    set_queue(&demo, &["--ring", "5"]);
    let mut callers: Vec<Softphone> = (FIRST_CALLER..FIRST_CALLER + CALLERS).map(caller).collect();
    expect_waiting(&demo, u64::from(CALLERS));
    let all_hear = wait_for(Duration::from_secs(10), || {
        let calls = demo.ask("calls")?;
        let calls = calls["calls"].as_array()?;
        let hears = |call: &Value| call["legs"][0]["packets_out"].as_u64() > Some(60);
        (calls.len() == CALLERS as usize && calls.iter().all(hears)).then_some(())
    });
    assert!(all_hear.is_some(), "{:#}", demo.ask("calls").unwrap_or_default());
    let gone = callers.remove(7);
    gone.hang_up();
    let heard = gone.end().call.heard;
    assert!(heard.tone_hz.abs_diff(MUSIC_HZ) < 10 && heard.received > 50, "{heard:?}");
    expect_waiting(&demo, u64::from(CALLERS) - 1);
    let mut agents: Vec<_> = (1_001..1_001 + AGENTS).map(agent).collect();
    let (served, order) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let all = callers.len();
    std::thread::scope(|scope| {
        for (_, desk, _) in &mut agents {
            desk.say(json!({"v": 1, "type": "ready", "id": 1}));
            let (served, order) = (&served, &order);
            scope.spawn(move || serve(desk, served, all, order));
        }
    });
    let wanted: Vec<u32> =
        (FIRST_CALLER..FIRST_CALLER + CALLERS).filter(|one| *one != FIRST_CALLER + 7).collect();
    expect_in_turn(&order.into_inner().expect("whole"), &wanted);
    let last = queue(&demo).expect("the queue");
    let counts = ["joined", "connected", "abandoned", "overflowed", "waiting"]
        .map(|name| last[name].as_u64());
    assert_eq!(counts, [20, 19, 1, 0, 0].map(Some), "{last:#}");
    demo.expect_all_free();
    for phone in callers {
        let report = phone.end();
        let heard = report.call.heard;
        assert!(heard.tone_hz.abs_diff(700) < 15, "not the agent at last: {report:?}");
        assert_eq!((heard.sources, heard.lost), (1, 0), "one sender all along: {report:?}");
    }
    for (phone, ..) in agents {
        let report = phone.end();
        assert!(report.answered >= 2, "{report:?}");
        let heard = report.call.heard;
        assert!(heard.tone_hz.abs_diff(440) < 10 && heard.received > 20, "{report:?}");
    }
    demo.process.stop();
}

/// Who waits for too long goes elsewhere; an agent whose phone is not answered is not asked again.
#[test]
fn callers_overflow_and_agents_who_do_not_answer_are_left_alone() {
    let _turn = turn();
    let flags = ["--agents", "32", "--queue", "support", "--route", "702=queue:support"];
    let mut demo = Demo::start(None, &[FLAGS, &flags].concat());
    let prompts = ["--max-wait", "4", "--overflow", "1003", "--ring", "2"];
    set_queue(&demo, &prompts);
    let (other, _desk, _) = agent(1_003);
    let (absent, desk, _) = agent(1_001);
    // A phone that never answers: its registration stands, and nobody is there any more.
    absent.end();
    // Which of the two is said first is not said: AgentReady may have passed by with what came before the reply.
    assert_eq!(desk.order(1, "ready"), "ok");
    let caller = caller(FIRST_CALLER);
    let told = wait_for(Duration::from_secs(10), || {
        let message = desk.next(Duration::from_secs(1))?;
        (message["type"] == "AgentNotReady").then_some(message)
    });
    assert_eq!(told.expect("the agent is taken out")["reason"], "no answer");
    other.expect(Duration::from_secs(10), "the overflow", |event| {
        *event == softphone::Event::Answered
    });
    let last = queue(&demo).expect("the queue");
    assert_eq!([&last["overflowed"], &last["not_taken"]].map(Value::as_u64), [Some(1), Some(1)]);
    caller.hang_up();
    other.expect_end();
    demo.expect_all_free();
    demo.process.stop();
}

/// kill -9 of control: who waits keeps the place and the music, agents keep their state, and who has waited for
/// longest is served first.
#[test]
fn callers_keep_their_places_over_the_death_of_control() {
    let _turn = turn();
    let prompts = media::prompts();
    let folder = prompts.path().to_str().expect("a path");
    let flags = ["--agents", "32", "--prompts", folder, "--queue", "support"];
    let mut pair = Pair::with(&[&flags[..], &["--route", "702=queue:support"]].concat());
    set_queue(&pair.demo, &["--ring", "5"]);
    let (phone, mut desk, login) = agent(1_001);
    desk.say(json!({"v": 1, "type": "not_ready", "reason": "lunch", "id": 1}));
    desk.expect("reply");
    let callers: Vec<Softphone> = (FIRST_CALLER..FIRST_CALLER + 6).map(caller).collect();
    expect_waiting(&pair.demo, 6);
    let before = queue(&pair.demo).expect("the queue")["longest_wait_ms"].as_u64();
    pair.control.kill();
    desk.vanish();
    callers.iter().for_each(|phone| _ = phone.longest_gap());
    std::thread::sleep(Duration::from_secs(1));
    pair.control = Pair::process(&pair.demo, "control");
    pair.expect_status("normal", Duration::from_secs(10));
    expect_waiting(&pair.demo, 6);
    let after = queue(&pair.demo).expect("the queue")["longest_wait_ms"].as_u64();
    assert!(after > before.map(|before| before + 1_000), "{before:?} {after:?}");
    let agents = pair.demo.ask("agents").expect("agents");
    let rows = agents["agents"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["number"] == "1001").expect("the agent");
    assert_eq!((&row["seat"], &row["reason"]), (&json!("not_ready"), &json!("lunch")), "{row}");
    for phone in &callers {
        let gap = phone.longest_gap();
        assert!(gap < Duration::from_millis(400), "the music stopped for {gap:?}");
    }
    let desk = Desk::open(&login);
    desk.say(json!({"v": 1, "type": "ready", "id": 1}));
    let (served, order) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    serve(&desk, &served, 6, &order);
    let order = order.into_inner().expect("whole");
    let wanted: Vec<String> = (FIRST_CALLER..FIRST_CALLER + 6).map(|one| one.to_string()).collect();
    assert_eq!(order, wanted);
    drop((phone, callers));
    pair.demo.expect_all_free();
    pair.stop();
}
