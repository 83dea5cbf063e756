//! The control process as agents, phones and the command line see it.

mod world;

use std::time::Duration;

use abi::{
    AgentState, CallRow, CallState, Command, Event, LegRow, LegState, MediaOrder, MediaPath, Party,
    Purpose, SpoolState,
};
use base::{CallRef, CcbId, LocationId, Medium, TenantId, Text};
use futures_util::{SinkExt, StreamExt};
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use world::{DataPlane, World, now};

type Ws =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn desk(world: &World, token: &str) -> Ws {
    let url = format!("ws://{}/v1/cti?token={token}", world.http);
    tokio_tungstenite::connect_async(url).await.expect("it is upgraded").0
}

/// The next message of the server; a close is its code.
/// What is said next that is not of the agent's seat.
async fn next(ws: &mut Ws) -> Value {
    loop {
        let said = hear(ws).await;
        if !said["type"].as_str().is_some_and(|kind| kind.starts_with("Agent")) {
            return said;
        }
    }
}

async fn hear(ws: &mut Ws) -> Value {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(5), ws.next()).await;
        match next.expect("the server says something").expect("it is open") {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).expect("JSON"),
            Ok(Message::Close(frame)) => {
                return json!({ "closed": frame.map(|frame| u16::from(frame.code)) });
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn say(ws: &mut Ws, message: Value) {
    ws.send(Message::text(message.to_string())).await.expect("it is sent");
}

/// A login with phone and desk; the token and the desk.
async fn online(world: &World, plane: &DataPlane, agent: &str) -> (String, Ws) {
    let answer = world.login(agent, "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    plane.register(agent);
    let mut ws = desk(world, &token).await;
    while next(&mut ws).await != json!({"v":1,"type":"login_progress","state":"logged_in"}) {}
    (token, ws)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_wrong_is_told_how() {
    let world = World::start().await;
    let health = world.get("/healthz").await;
    assert_eq!(health.status, 503);
    let none = world.login("1001", "").await;
    assert_eq!((none.status, &none.json()["error"]["code"]), (503, &json!("no_ccb")));
    assert!(none.head.contains("\r\nretry-after: "), "{}", none.head);

    let _plane = world.data_plane().await;
    let wrong = [
        r#"{"tenant":"demo","agent":"1001","password":"wrong"}"#,
        r#"{"tenant":"demo","agent":"9999","password":"demo-9999"}"#,
        r#"{"tenant":"nobody","agent":"1001","password":"demo-1001"}"#,
        r#"{"tenant":"demo","operator":"1001","password":"demo-1001"}"#,
        r#"{"token":"no.token.at-all"}"#,
    ];
    let mut bodies = Vec::new();
    for body in wrong {
        let answer = world.post("/v1/login", body).await;
        assert_eq!(answer.status, 401, "{body}");
        assert!(answer.head.contains("\r\nconnection: close"), "{}", answer.head);
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "one and the same answer: {bodies:?}");

    for (body, field) in [
        ("not json", Value::Null),
        (r#"{"agent":"1001","password":"demo-1001"}"#, json!("tenant")),
        (r#"{"tenant":"demo","password":"demo-1001"}"#, json!("agent")),
        (r#"{"tenant":"demo","agent":1001,"password":"demo-1001"}"#, json!("agent")),
        (r#"{"tenant":"demo","agent":"1001"}"#, json!("password")),
    ] {
        let answer = world.post("/v1/login", body).await;
        assert_eq!((answer.status, &answer.json()["error"]["field"]), (400, &field), "{body}");
        assert!(!answer.json()["error"]["message"].as_str().expect("a rule").is_empty());
    }
    let unknown = world.login("1001", r#","location":"mars""#).await;
    assert_eq!(unknown.status, 422);
    assert_eq!(unknown.json()["error"]["locations"], json!(["east", "local"]));
    // Whoever is not authenticated does not learn a tenant's locations.
    let body = r#"{"tenant":"demo","agent":"1001","password":"wrong","location":"mars"}"#;
    assert_eq!(world.post("/v1/login", body).await.status, 401);
    let far = r#"{"tenant":"far","agent":"1001","password":"x"}"#;
    assert_eq!(world.post("/v1/login", far).await.status, 401);
    assert_eq!(world.get("/v1/login").await.status, 405);
    let big = "x".repeat(20_000);
    let big = world.post("/v1/login", &big).await;
    assert_eq!((big.status, &big.json()["error"]["code"]), (413, &json!("unreadable")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_guesses_has_to_wait_whether_the_agent_exists_or_not() {
    let world = World::start().await;
    let _plane = world.data_plane().await;
    let wrong = |agent: &str| format!(r#"{{"tenant":"demo","agent":"{agent}","password":"x"}}"#);
    let mut waits = Vec::new();
    for agent in ["1001", "9999"] {
        for _ in 0..30 {
            assert_eq!(world.post("/v1/login", &wrong(agent)).await.status, 401);
        }
        let answer = world.post("/v1/login", &wrong(agent)).await;
        assert_eq!(answer.status, 503);
        assert!(answer.head.contains("\r\nretry-after: "), "{}", answer.head);
        waits.push(answer.body);
    }
    waits.dedup();
    assert_eq!(waits.len(), 1, "one and the same answer: {waits:?}");
    assert_eq!(world.login("1001", "").await.status, 503);
    assert_eq!(world.login("1002", "").await.status, 200);
    let status = world.admin("GET", "/v1/status").await.json();
    let counts = ["logins_ok", "logins_refused", "logins_throttled"].map(|name| &status[name]);
    assert_eq!(counts, [&json!(1), &json!(60), &json!(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_511_to_515_and_the_ways_back() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let body = r#"{"tenant":"demo","operator":"op1001","password":"demo-1001","location":"east"}"#;
    let answer = world.post("/v1/login", body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("\r\nconnection: close"), "{}", answer.head);
    let login = answer.json();
    assert_eq!(login["agent"]["number"], "1001");
    assert_eq!(login["agent"]["skills"], json!(["general"]));
    assert_eq!(login["ccb"]["device_number"], 1);
    assert_eq!(login["cti"]["url"], "ws://[::1]:8080/v1/cti");
    let sbc = json!([{"host":"::1","port":5061,"transport":"udp"}]);
    assert_eq!(login["phone"]["addresses"], sbc);
    assert_eq!(login["phone"]["user"], "1001.demo");
    assert_eq!(login["phone"]["auth_user"], "1001.demo");
    assert_eq!(login["phone"]["expires_s"], 3600);
    let (secret, realm) = (&login["phone"]["secret"], &login["phone"]["realm"]);
    let (secret, realm) = (secret.as_str().expect("text"), realm.as_str().expect("text"));
    assert_eq!((secret.len(), realm), (32, "demo.jackfield.local"));

    let slot = plane.slot("1001").expect("a row");
    let row = plane.region.secrets().read(slot).expect("a row");
    let text = format!("1001.demo:{realm}:{secret}");
    assert_eq!(row.ha1_md5, <[u8; 16]>::from(Md5::digest(&text)));
    assert_eq!(row.ha1_sha256, <[u8; 32]>::from(Sha256::digest(&text)));
    assert_eq!(plane.region.agents().read(slot).expect("a row").location, 1);
    assert_eq!(world.ccb().await["grants"], 1);

    let token = login["token"].as_str().expect("a token").to_owned();
    let mut ws = desk(&world, &token).await;
    let waiting = json!({"v":1,"type":"login_progress","state":"waiting_for_phone"});
    assert_eq!(next(&mut ws).await, waiting);
    plane.register("1001");
    let registered = json!({"v":1,"type":"phone_registered","address":"127.0.0.9:5062"});
    assert_eq!(next(&mut ws).await, registered);
    let complete = json!({"v":1,"type":"login_progress","state":"logged_in"});
    assert_eq!(next(&mut ws).await, complete);
    assert_eq!(
        (&world.ccb().await["online"], &world.ccb().await["grants"]),
        (&1.into(), &0.into())
    );
    assert_eq!(world.states().await, [("1001".to_owned(), "online".to_owned(), true)]);

    say(&mut ws, json!({"type":"ping"})).await;
    assert_eq!(next(&mut ws).await, json!({"v":1,"type":"pong"}));
    say(&mut ws, json!({"type":"dance"})).await;
    assert_eq!(next(&mut ws).await["code"], "malformed");
    // Without its WebSocket the session lives on, and takes the next one.
    drop(ws);
    world.until("lost desk", async || world.states().await[0].1 == "lost").await;
    assert_eq!(world.ccb().await["online"], 1);
    let mut ws = desk(&world, &token).await;
    assert_eq!(next(&mut ws).await, complete);

    say(&mut ws, json!({"type":"exit"})).await;
    assert_eq!(next(&mut ws).await, json!({"v":1,"type":"logged_out","reason":"exit"}));
    assert_eq!(next(&mut ws).await, json!({"closed":1000}));
    assert_eq!(world.ccb().await["online"], 0);
    assert_eq!(plane.slot("1001"), None);
    assert_eq!(plane.region.secrets().read(slot).expect("a row").epoch, 0);
    world
        .until("free slot", async || {
            plane.region.agents().read(slot).expect("a row").state() == AgentState::Empty
        })
        .await;
    // The token died with its login.
    let again = world.post("/v1/login", &json!({ "token": token }).to_string()).await;
    assert_eq!(again.status, 401);
    let mut ws = desk(&world, &token).await;
    assert_eq!(next(&mut ws).await["code"], "unauthorized");
    assert_eq!(next(&mut ws).await, json!({"closed":4401}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_replace_log_out_and_are_refused() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let (token, mut ws) = online(&world, &plane, "1001").await;
    let other = json!({ "token": token, "agent": "1002" }).to_string();
    assert_eq!(world.post("/v1/login", &other).await.status, 401);
    let second = world.post("/v1/login", &json!({ "token": token }).to_string()).await;
    assert_eq!(second.status, 200, "{}", second.body);
    assert_eq!(next(&mut ws).await, json!({"v":1,"type":"replaced"}));
    assert_eq!(next(&mut ws).await, json!({"closed":4001}));
    let newer = second.json()["token"].as_str().expect("a token").to_owned();
    assert_ne!(newer, token);

    let logout = |token: &str| json!({ "token": token }).to_string();
    assert_eq!(world.post("/v1/logout", &logout(&token)).await.status, 401);
    assert_eq!(world.post("/v1/logout", &logout(&newer)).await.status, 204);
    assert_eq!(world.post("/v1/logout", &logout(&newer)).await.status, 401);
    assert_eq!(world.post("/v1/logout", "{}").await.status, 400);
    assert!(world.states().await.is_empty());

    let url = format!("ws://{}/v1/cti?token=nonsense", world.http);
    match tokio_tungstenite::connect_async(url).await {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 401),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_may_come_in_four_ways() {
    let world = World::start().await;
    let _plane = world.data_plane().await;
    let token = world.login("1001", "").await.json()["token"].as_str().expect("text").to_owned();
    let url = format!("ws://{}/v1/cti", world.http);
    let waiting = json!({"v":1,"type":"login_progress","state":"waiting_for_phone"});

    let (mut first, _) = tokio_tungstenite::connect_async(&url).await.expect("it is upgraded");
    say(&mut first, json!({"type":"login","token":token})).await;
    assert_eq!(next(&mut first).await, waiting);

    let mut request = url.as_str().into_client_request().expect("a request");
    let bearer = format!("Bearer {token}").parse().expect("a header");
    request.headers_mut().insert("authorization", bearer);
    let (mut second, _) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
    assert_eq!(next(&mut second).await, waiting);
    assert_eq!(next(&mut first).await, json!({"closed":4002}), "the session was taken");

    let mut request = url.as_str().into_client_request().expect("a request");
    let protocols = format!("jackfield.cti, {token}").parse().expect("a header");
    request.headers_mut().insert("sec-websocket-protocol", protocols);
    let (mut third, answer) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "jackfield.cti");
    assert_eq!(next(&mut third).await, waiting);

    let (mut fourth, _) = tokio_tungstenite::connect_async(&url).await.expect("it is upgraded");
    say(&mut fourth, json!({"type":"exit"})).await;
    assert_eq!(next(&mut fourth).await["code"], "unauthorized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_during_a_call_needs_force() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let (_, mut ws) = online(&world, &plane, "1001").await;
    let slot = plane.slot("1001").expect("a row");
    let leases = plane.region.leases();
    let counter =
        leases.reserve(slot, Medium::Voice, CcbId(1), Purpose::Call, now()).expect("free");
    assert!(leases.bind(slot, Medium::Voice, CcbId(1), counter));
    let refused = world.login("1001", "").await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &json!("in_call")));
    assert_eq!(world.login("1001", r#","force":true"#).await.status, 200);
    assert_eq!(next(&mut ws).await["type"], "replaced");
}

fn write_call(plane: &DataPlane, agents: [&str; 2], state: CallState) -> CallRef {
    let call = CallRef { slot: 9, generation: 4 };
    for (leg, number) in agents.iter().enumerate() {
        let slot = plane.slot(number).expect("a login");
        let held = plane.region.agents().read(slot).expect("a row");
        let mut row = LegRow {
            state: LegState::Answered.into(),
            leg: leg as u32,
            packets_in: 50,
            packets_out: 49,
            lost: 3,
            foreign: 2,
            path: MediaPath::Xdp.into(),
            jitter_us: 1_500,
            mos_hundredths: 437,
            ..LegRow::default()
        };
        row.set_call(call);
        row.set_party(Party::Agent(slot, held.login_epoch));
        row.set_number(Text::new(number.as_bytes()).expect("it fits"));
        plane.region.legs().write(18 + leg as u32, &row);
    }
    let at = now().as_nanos();
    let row = CallRow {
        state: state.into(),
        generation: 4,
        serial: 123_456,
        tenant: 1,
        started_at: at - 3_000_000_000,
        answered_at: at - 2_000_000_000,
        ended_at: if state == CallState::Ended { at } else { 0 },
        incarnation: plane.region.header().data_plane().incarnation,
        legs: 2,
        ..CallRow::default()
    };
    plane.region.calls().write(call.slot, &row);
    plane.event(1, Event::CallChanged { call, serial: 123_456, state, cause: 0 }, &[]);
    call
}

/// S1-004: the desk hears of its seat, and changes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desk_hears_of_its_seat() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let login = world.login("1001", "").await.json();
    let mut ws = desk(&world, login["token"].as_str().expect("a token")).await;
    plane.register("1001");
    let mut expected = vec!["AgentLoggedOn", "AgentNotReady"];
    while !expected.is_empty() {
        let kind = hear(&mut ws).await["type"].clone();
        expected.retain(|wanted| kind != *wanted);
    }
    say(&mut ws, json!({"v":1,"type":"ready","id":7})).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let said = hear(&mut ws).await;
        if said["type"] == "reply" || said["type"] == "AgentReady" {
            heard.push(said);
        }
    }
    let reply = heard.iter().find(|said| said["type"] == "reply").expect("one reply");
    assert_eq!(reply["id"], 7);
    assert!(heard.iter().any(|said| said["type"] == "AgentReady"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn desks_see_a_call_and_its_record_is_kept() {
    let mut world = World::start().await;
    let plane = world.data_plane().await;
    let (_, mut caller) = online(&world, &plane, "1001").await;
    let (token, mut callee) = online(&world, &plane, "1002").await;
    write_call(&plane, ["1001", "1002"], CallState::Ringing);
    let seen = next(&mut callee).await;
    let expected = json!({"v":1,"type":"Delivered","call":"00000000000000123456","party":"1001",
        "direction":"in","cause":0});
    assert_eq!(seen, expected);
    assert_eq!(next(&mut caller).await["direction"], "out");
    let call = write_call(&plane, ["1001", "1002"], CallState::Answered);
    assert_eq!(next(&mut callee).await["type"], "Established");
    assert_eq!(next(&mut caller).await["party"], "1002");

    let calls = world.admin("GET", "/v1/calls").await.json();
    let shown = &calls["calls"][0];
    assert_eq!((&shown["state"], &shown["call"]), (&json!("answered"), &json!("9.4")));
    assert_eq!(shown["legs"][1]["packets_in"], 50);
    assert!(shown["duration_ms"].as_u64().is_some_and(|ms| (3_000..60_000).contains(&ms)));
    assert_eq!(world.admin("POST", "/v1/calls/9.5/release").await.status, 404);
    assert_eq!(world.admin("POST", "/v1/calls/9/release").await.status, 400);
    assert_eq!(world.admin("POST", "/v1/calls/9.4/release").await.status, 200);
    let is_release =
        |one: &Command| matches!(one, Command::Release { call: of, .. } if *of == call);
    assert!(plane.seen().iter().any(is_release));

    // It ends while control is away, and the next one makes the record.
    world.stop_control().await;
    write_call(&plane, ["1001", "1002"], CallState::Ended);
    world.start_control().await;
    world.until("acknowledgement", async || plane.region.calls().is_acknowledged(call)).await;
    let lines = world.records();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let expected = json!({"serial": "00000000000000123456", "leg": 1, "direction": "out",
        "party": "agent", "agent": "1002", "caller": "1001", "called": "", "tenant": "demo",
        "location": "local", "foreign": 2, "path": "xdp", "round_trip_ms": null});
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&lines[1][name], value, "{name}");
    }
    assert_eq!(lines[1]["in"]["packets"], 50);
    assert_eq!((&lines[1]["in"]["lost"], &lines[1]["in"]["jitter_ms"]), (&json!(3), &json!(1.5)));
    assert_eq!(lines[1]["in"]["mos"], 4.37);
    // Once more, as after a death between the line and the acknowledgement.
    world.stop_control().await;
    plane.region.calls().acknowledge(CallRef { generation: 3, ..call });
    assert!(!plane.region.calls().is_acknowledged(call));
    world.start_control().await;
    world.until("acknowledgement", async || plane.region.calls().is_acknowledged(call)).await;
    assert_eq!(world.admin("GET", "/v1/status").await.json()["records"]["written"], 0);
    assert_eq!(world.records().len(), 2);
    // Nobody logs in anew.
    let state = |one: &str| (one.to_owned(), "lost".to_owned(), true);
    assert_eq!(world.states().await, [state("1001"), state("1002")]);
    let mut ws = desk(&world, &token).await;
    assert_eq!(next(&mut ws).await["state"], "logged_in");
    assert_eq!(world.ccb().await["control_incarnation"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_plane_that_dies_is_reported_and_comes_back_with_its_phones() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let (_, _ws) = online(&world, &plane, "1001").await;
    let died_at = now();
    plane.die();
    world.until("CCB that is down", async || world.ccb().await["status"] == "down").await;
    assert!(now().since(died_at) < Duration::from_secs(1));
    assert_eq!(world.get("/healthz").await.status, 503);
    assert_eq!(world.login("1002", "").await.status, 503);
    let _plane = world.data_plane().await;
    let ccb = world.ccb().await;
    assert_eq!((&ccb["incarnation"], &ccb["online"]), (&2.into(), &1.into()));
    assert_eq!(ccb["workers"].as_array().map(Vec::len), Some(2));
    assert_eq!(ccb["counters"]["drop_sip_malformed"], 0);
    assert_eq!(world.login("1002", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_plane_with_a_fresh_region_gets_its_rows_again() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let (_, _ws) = online(&world, &plane, "1001").await;
    plane.die();
    for name in ["region", "region.secrets", "region.lock"] {
        let _ = std::fs::remove_file(world.path(name));
    }
    let plane = world.data_plane().await;
    world.until("row", async || plane.slot("1001").is_some()).await;
    assert_eq!(world.states().await[0].1, "waiting_for_phone");
    plane.register("1001");
    world.until("online agent", async || world.ccb().await["online"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_tables_do_not_answer_is_asked_and_answered() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let (_, _ws) = online(&world, &plane, "1001").await;
    let slot = plane.slot("1001").expect("a row");
    let caller = Party::Agent(slot, plane.region.agents().read(slot).expect("a row").login_epoch);
    let (tenant, location) = (TenantId(1), LocationId(0));
    for (generation, number) in [(1, "95555"), (2, "7")] {
        let call = CallRef { slot: 1, generation };
        let op = u64::from(generation);
        plane.event(
            1,
            Event::Asked { op, call, tenant, caller, location, why: abi::Why::Called },
            number.as_bytes(),
        );
    }
    let answered = |one: &Command| {
        matches!(one, Command::Dial { ask: 1, address, .. } if address.port() == 5080)
            || matches!(one, Command::Reject { ask: 2, status: 404, .. })
    };
    world
        .until("answers", async || plane.seen().iter().filter(|one| answered(one)).count() == 2)
        .await;
    world.until("completions", async || world.ccb().await["open_commands"] == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_administrator_sees_all_and_logs_out() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::start().await;
    let plane = world.data_plane().await;
    let (_, mut ws) = online(&world, &plane, "1001").await;
    let mode = std::fs::metadata(world.path("control.sock")).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let agents = world.admin("GET", "/v1/agents").await.json();
    let agent = &agents["agents"][0];
    assert_eq!((&agent["tenant"], &agent["ccb"]), (&json!("demo"), &json!(1)));
    assert_eq!((&agent["location"], &agent["lease"]), (&json!("local"), &json!("free")));
    assert_eq!(agent["phone"], "127.0.0.9:5062");
    assert_eq!(world.admin("POST", "/v1/agents/demo/1002/logout").await.status, 404);
    assert_eq!(world.admin("POST", "/v1/agents/none/1001/logout").await.status, 404);
    assert_eq!(world.admin("POST", "/v1/agents/demo/1001/logout").await.status, 204);
    assert_eq!(next(&mut ws).await["reason"], "ordered");
    let api = world.get("/v1/openapi.json").await.json();
    for path in ["/v1/login", "/v1/logout", "/v1/cti", "/healthz"] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    assert!(api["components"]["schemas"]["LoginAnswer"].is_object());
    assert!(world.get("/v1/status").await.status == 404, "the admin API is not on the network");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_orders_media_and_is_told_how_it_went() {
    let mut world = World::start().await;
    let plane = world.data_plane().await;
    let (_, mut ws) = online(&world, &plane, "1001").await;
    let (_, _callee) = online(&world, &plane, "1002").await;
    let call = write_call(&plane, ["1001", "1002"], CallState::Answered);
    assert_eq!(next(&mut ws).await["type"], "Established");
    let collect = json!({"order": "collect", "max": 4, "first_ms": 5_000, "next_ms": 3_000,
        "ends": "#"});
    for (leg, body, status, part) in [
        ("9.4/legs/0", json!({"order": "play", "prompt": "hi.wav", "wait": true}), 200, "done"),
        ("9.4/legs/0", json!({"order": "play", "prompt": "hi.wav", "times": 0}), 200, "begun"),
        ("9.4/legs/0", json!({"order": "play", "prompt": "no.wav"}), 404, "such prompt"),
        (
            "9.4/legs/0",
            json!({"order": "play", "prompt": "../no.wav"}),
            400,
            "\"field\":\"prompt\"",
        ),
        ("9.4/legs/1", json!({"order": "stop_playing"}), 200, "done"),
        ("9.4/legs/1", collect, 200, "\"digits\":\"42\""),
        (
            "9.4/legs/0",
            json!({"order": "collect", "max": 65, "first_ms": 1, "next_ms": 1}),
            400,
            "max",
        ),
        ("9.4/legs/0", json!({"order": "record"}), 200, "\"recording\":\""),
        ("9.4/legs/0", json!({"order": "mix", "mix": 1}), 200, "done"),
        ("9.4/legs/0", json!({"order": "mix", "mix": 0}), 400, "1 to 4095"),
        (
            "9.4/legs/0",
            json!({"order": "mix", "mix": 1, "role": "whisper"}),
            400,
            "\"field\":\"to\"",
        ),
        (
            "9.4/legs/0",
            json!({"order": "mix", "mix": 1, "role": "whisper", "to": "8.1"}),
            404,
            "whisper",
        ),
        ("9.4/legs/0", json!({"order": "mix", "mix": 1, "to_leg": 1}), 400, "\"field\":\"to_leg\""),
        ("9.4/legs/0", json!({"order": "pause_recording"}), 409, "paused already"),
        ("9.4/legs/0", json!({"order": "leave_mix"}), 409, "in no mix"),
        ("9.4/legs/2", json!({"order": "record"}), 404, "such leg"),
        ("9.5/legs/0", json!({"order": "record"}), 404, "such call"),
        ("9.4/legs/x", json!({"order": "record"}), 400, "\"field\":\"leg\""),
        ("9.4/legs/0", json!({"order": "dance"}), 400, "dance"),
        ("9.4/legs/0", json!({"order": "play"}), 400, "prompt"),
    ] {
        let answer = world.order(leg, body.clone()).await;
        assert_eq!(answer.status, status, "{leg} {body}: {}", answer.body);
        assert!(answer.body.contains(part), "{leg} {body}: {}", answer.body);
    }
    let event = Event::Digit { call, leg: 1, digit: 11, duration_ms: 90 };
    plane.event(1, event, &[]);
    let expected = json!({"v":1,"type":"DTMFDetected","call":"00000000000000123456","party":"1002",
        "by":"other","digit":"#","duration_ms":90});
    assert_eq!(next(&mut ws).await, expected);
    plane.event(1, Event::Spool { state: SpoolState::Slow, lost: 4_096 }, &[]);
    world.until("spool", async || world.ccb().await["spool"]["state"] == "slow").await;
    assert_eq!(world.ccb().await["spool"]["lost_bytes"], 4_096);

    // What waits is told when the data plane dies.
    let body = json!({"order": "play", "prompt": "hi.wav", "times": 0, "wait": true});
    let (answer, ()) = tokio::join!(world.order("9.4/legs/0", body), async {
        world.until("an order", async || world.ccb().await["open_commands"] == 2).await;
        plane.die();
    });
    assert_eq!(answer.status, 502, "{}", answer.body);
    world.stop_control().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ccb_without_a_spool_records_nothing_and_says_so() {
    let mut world = World::start().await;
    world.stop_control().await;
    world.has_spool = false;
    world.start_control().await;
    let plane = world.data_plane().await;
    let (_, mut ws) = online(&world, &plane, "1001").await;
    let (_, _callee) = online(&world, &plane, "1002").await;
    write_call(&plane, ["1001", "1002"], CallState::Answered);
    assert_eq!(next(&mut ws).await["type"], "Established");
    let answer = world.order("9.4/legs/0", json!({"order": "record"})).await;
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body.contains("CCB 1") && answer.body.contains("`spool`"), "{}", answer.body);
    let is_record = |one: &Command| matches!(one, Command::Media { .. });
    assert!(!plane.seen().iter().any(is_record));
    world.stop_control().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_leads_to_a_prompt() {
    let world = World::start().await;
    let plane = world.data_plane().await;
    let call = CallRef { slot: 1, generation: 1 };
    let asked = Event::Asked {
        op: 5,
        call,
        tenant: TenantId(1),
        caller: Party::Trunk(0),
        location: LocationId(0),
        why: abi::Why::Called,
    };
    plane.event(1, asked, b"70");
    // Trunks of routes are watched meanwhile.
    let seen = || -> Vec<Command> {
        let seen = plane.seen().into_iter();
        seen.filter(|one| !matches!(one, Command::Watch { .. })).collect()
    };
    world.until("release", async || seen().len() == 3).await;
    let seen = seen();
    let [Command::Answer { ask: 5, .. }, Command::Media { order, leg: 0, .. }, last] = seen[..]
    else {
        panic!("{seen:?}")
    };
    assert_eq!(order, MediaOrder::Play { times: 1 });
    assert!(matches!(last, Command::Release { cause: 0, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_ordered_of_every_worker_and_goes_to_this_machine_only() {
    let mut world = World::start().await;
    let body = |to: &str| json!({"to": to, "seconds": 9});
    let answer = world.admin_with("POST", "/v1/traces", &body("127.0.0.1:9060")).await;
    assert_eq!(answer.status, 502, "no data plane: {}", answer.body);
    let plane = world.data_plane().await;
    for (body, status, part) in [
        (json!({"to": "192.0.2.1:9060", "seconds": 9}), 400, "loopback"),
        (json!({"to": "127.0.0.1:9060", "seconds": 0}), 400, "seconds"),
        (json!({"to": "127.0.0.1:9060", "seconds": 3601}), 400, "seconds"),
        (json!({"to": "127.0.0.1:9060", "seconds": 9, "call": "x"}), 400, "serial number"),
        (json!({"to": "127.0.0.1:9060", "seconds": 9, "call": "9.4"}), 404, "call"),
        (json!({"to": "127.0.0.1:9060", "seconds": 9, "number": "a b"}), 400, "number"),
        (json!({"to": "127.0.0.1:9060"}), 400, "seconds"),
    ] {
        let answer = world.admin_with("POST", "/v1/traces", &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body.contains(part), "{body}: {}", answer.body);
    }
    let traces = || -> Vec<(u32, std::net::SocketAddr, u64, u64)> {
        let seen = plane.seen().into_iter().filter_map(|command| match command {
            Command::Trace { trace, to, until, serial, .. } => Some((trace, to, until, serial)),
            _ => None,
        });
        seen.collect()
    };
    assert!(traces().is_empty());
    let body = json!({"to": "127.0.0.1:9060", "seconds": 9, "call": "00000000000000123456"});
    let answer = world.admin_with("POST", "/v1/traces", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id = answer.json()["trace"].as_u64().expect("a number");
    let seen = traces();
    assert_eq!(seen.len(), 2, "both workers: {seen:?}");
    for (trace, to, until, serial) in seen {
        assert_eq!((u64::from(trace), to.to_string().as_str()), (id, "127.0.0.1:9060"));
        assert_eq!(serial, 123_456);
        assert!(until > now().as_nanos() && until < now().as_nanos() + 10_000_000_000);
    }
    assert_eq!(world.admin("DELETE", &format!("/v1/traces/{id}")).await.status, 200);
    let ends: Vec<_> =
        traces().into_iter().skip(2).map(|(trace, _, until, _)| (trace, until)).collect();
    assert_eq!(ends, [(id as u32, 0); 2]);
    // Others are shown it where the configuration says so.
    world.stop_control().await;
    world.trace_to = vec!["192.0.2.0/24".parse().expect("a network")];
    world.start_control().await;
    world
        .until("a CCB that runs normally", async || world.get("/healthz").await.status == 200)
        .await;
    for (to, status) in [("192.0.2.77:9060", 200), ("192.0.3.1:9060", 400), ("[::1]:9060", 200)] {
        let answer = world.admin_with("POST", "/v1/traces", &json!({"to": to, "seconds": 9})).await;
        assert_eq!(answer.status, status, "{to}: {}", answer.body);
    }
}
