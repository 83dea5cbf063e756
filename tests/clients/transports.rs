//! SIP by every transport, spoken by clients of other houses: baresip, SIPp, tungstenite.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use sip::digest::{Challenge, answer};
use sip::sdp::{self, Codec, Direction, Own};
use sip::wire::{Header, Message, Method, RequestWriter, Start, lex, response};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, WebSocket};

use crate::baresip::{Baresip, Way};
use crate::demo::Demo;
use crate::lab::{Host, turn, wait_for};
use crate::phone::Softphone;
use crate::sipp::{Line, Sipp};
use crate::{FLAGS, LOOPBACK, log_in};

/// Two baresips, each on a host of its own, talk by a transport for some seconds, with RTP both ways.
fn two_baresips_talk_by(transport: &'static str) {
    let _turn = turn();
    let (sbc, east, west) = (Host::new("sbc"), Host::new("east"), Host::new("west"));
    sbc.connect("10.77.1.1", &east, "10.77.1.2");
    sbc.connect("10.77.2.1", &west, "10.77.2.2");
    let flags = ["--bind", "10.77.1.1", "--location", "west=10.77.2.1", "--tls", "5061"];
    let mut demo = Demo::start(Some(&sbc), &flags);
    let login = |host: &Host, gateway: &str, agent: &str, location: &str| {
        let body = json!({"tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": location});
        let (status, answer) = host.post(&format!("http://{gateway}:8080/v1/login"), &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let callee = login(&west, "10.77.2.1", "1002", "west");
    let caller = login(&east, "10.77.1.1", "1001", "local");
    let way = Way { transport, ca: Some(demo.dir().join("tls-root.pem")) };
    let folder = demo.folder();
    let mut callee = Baresip::start_by(&way, &west, "10.77.2.2", &callee, 700, None, folder);
    callee.expect(Duration::from_secs(15), "200 OK");
    let number = Some("1002");
    let mut caller = Baresip::start_by(&way, &east, "10.77.1.2", &caller, 440, number, folder);
    callee.expect(Duration::from_secs(15), "audio: start");
    caller.expect(Duration::from_secs(15), "audio: start");
    expect_talk(&demo, 150);
    assert!(demo.counter(&format!("sip_received_{transport}")) >= 10);
    assert_eq!(demo.counter(&format!("connections_{transport}")), 2);
    for (phone, tone) in [(&mut caller, 700.0), (&mut callee, 440.0)] {
        let sound = phone.heard();
        assert!(sound.seconds > 2.0, "heard {sound:?}");
        assert!((sound.hz - tone).abs() < tone * 0.03, "heard {sound:?} instead of {tone} Hz");
    }
    demo.expect_all_free();
    demo.process.stop();
}

/// Waits until each leg of the one call has received and sent so many packets.
fn expect_talk(demo: &Demo, packets: u64) {
    let talked = wait_for(Duration::from_secs(30), || {
        let legs = demo.ask("calls")?["calls"][0]["legs"].as_array()?.clone();
        let many = |leg: &Value, way: &str| leg[way].as_u64() > Some(packets);
        let whole = |leg| many(leg, "packets_in") && many(leg, "packets_out");
        (legs.len() == 2 && legs.iter().all(whole)).then_some(())
    });
    assert!(talked.is_some(), "no RTP both ways: {:#?}", demo.ask("calls"));
}

#[test]
fn two_baresips_talk_over_tcp() {
    two_baresips_talk_by("tcp");
}

#[test]
fn two_baresips_talk_over_tls_that_they_verify() {
    two_baresips_talk_by("tls");
}

/// A trunk calls and is called over TCP; its crowd is heard by a conference.
#[test]
fn sipp_is_a_trunk_over_tcp() {
    let _turn = turn();
    let flags = [
        "--trunk",
        "127.0.0.3/32",
        "--route",
        "9=127.0.0.3:17075;transport=tcp",
        "--route",
        "702=mix:1",
    ];
    let mut demo = Demo::start(None, &[FLAGS, &flags].concat());
    let folder = demo.folder().to_owned();
    let sbc = "127.0.0.1:15060";
    // In, fifty at a time.
    let guests: Vec<Line> =
        (0..50).map(|guest| [format!("03{guest:04}"), String::new(), "702".into()]).collect();
    let flags = ["-t", "t1", "-r", "25", "-mp", "18000"];
    let mut calling = Sipp::start_at("127.0.0.3", "guest", sbc, 17_076, &guests, &flags, &folder);
    calling.expect_success(&folder);
    assert_eq!(demo.counter("calls_answered"), 50);
    assert!(demo.counter("sip_received_tcp") >= 150);
    // Out; the trunk sends back what it hears.
    let phone = Softphone::start(&log_in("1001", "local"), LOOPBACK, 440);
    phone.register();
    let flags = ["-t", "t1", "-rtp_echo", "-mp", "17300"];
    let one: Line = ["0301234".into(), String::new(), String::new()];
    let mut trunk = Sipp::start_at("127.0.0.3", "callee", sbc, 17_075, &[one], &flags, &folder);
    phone.call("95555");
    expect_talk(&demo, 50);
    assert_eq!(demo.counter("connections_opened"), 1);
    phone.hang_up();
    trunk.expect_success(&folder);
    demo.expect_all_free();
    let heard = phone.end();
    assert!(heard.rtp_received > 50 && heard.rtp_lost == 0, "{heard:?}");
    demo.process.stop();
}

/// A browser's way: everything by one WebSocket, no address of its own.
#[test]
fn a_phone_on_a_websocket_registers_and_gets_a_call() {
    let _turn = turn();
    let mut demo = Demo::start(None, &[FLAGS, &["--ws", "15080"]].concat());
    let login = log_in("1002", "local");
    let addresses = login["phone"]["addresses"].as_array().expect("addresses");
    let by_ws = addresses.iter().find(|address| address["transport"] == "ws").expect("one by ws");
    assert_eq!(by_ws["port"], 15_080, "a login tells every transport: {login}");
    let browser = Browser::start(&login);
    let phone = Softphone::start(&log_in("1001", "local"), LOOPBACK, 440);
    phone.register();
    phone.call("1002");
    expect_talk(&demo, 50);
    assert_eq!(demo.counter("connections_ws"), 1);
    phone.hang_up();
    demo.expect_all_free();
    let heard = phone.end();
    assert!(heard.rtp_received > 50 && heard.rtp_lost == 0, "{heard:?}");
    browser.end();
    // Its registration ends with its WebSocket.
    let gone =
        wait_for(Duration::from_secs(5), || (demo.counter("connections_ws") == 0).then_some(()));
    assert!(gone.is_some(), "the connection stays");
    demo.process.stop();
}

/// A phone that answers by WebSocket and sends back what RTP it hears.
struct Browser {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// RFC 7118, 8: a browser does not know its own address.
const HOST: &str = "df7jal23ls0d.invalid";

impl Browser {
    fn start(login: &Value) -> Browser {
        let address: SocketAddr = "127.0.0.1:15080".parse().expect("an address");
        let stream = TcpStream::connect(address).expect("the demo listens");
        let mut request = format!("ws://{address}/").into_client_request().expect("a request");
        let subprotocol = "sip".parse().expect("a value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol);
        let Ok((mut web, _)) = tungstenite::client(request, stream) else {
            panic!("no handshake");
        };
        register(&mut web, &login["phone"]);
        let rtp = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
        let own = rtp.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let wait = Some(Duration::from_millis(20));
        web.get_ref().set_read_timeout(wait).expect("a timeout");
        rtp.set_read_timeout(wait).expect("a timeout");
        let (for_sip, for_rtp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || serve(&mut web, own, &for_sip)),
            std::thread::spawn(move || {
                let mut buffer = [0; 2_048];
                while !for_rtp.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = rtp.recv_from(&mut buffer) {
                        let _ = rtp.send_to(&buffer[..len], from);
                    }
                }
            }),
        ];
        Browser { stop, threads }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("it ends well"));
    }
}

fn register(web: &mut WebSocket<TcpStream>, phone: &Value) {
    let text = |field: &str| phone[field].as_str().expect("text");
    let (user, realm) = (text("user"), text("realm"));
    let (address, uri) = (format!("<sip:{user}@{realm}>"), format!("sip:{realm}"));
    let request = |cseq: u32| {
        RequestWriter::new(b"REGISTER", uri.as_bytes())
            .header("Via", format!("SIP/2.0/WS {HOST};branch=z9hG4bKr{cseq}"))
            .header("Max-Forwards", "70")
            .header("From", format!("{address};tag=1"))
            .header("To", &address)
            .header("Call-ID", "reg")
            .header("CSeq", format!("{cseq} REGISTER"))
            .header("Contact", format!("<sip:{user}@{HOST};transport=ws>;expires=600"))
    };
    send(web, request(1).finish(None));
    let challenged = web.read().expect("an answer").into_data();
    let message = lex(&challenged).expect("a response");
    assert_eq!(message.status(), Some(401));
    let challenge = Challenge::choose(message.headers(Header::WwwAuthenticate)).expect("one");
    let (name, secret) = (text("auth_user"), text("secret"));
    let proof = answer(&challenge, name, secret, b"REGISTER", uri.as_bytes(), 1, "c");
    send(web, request(2).header("Authorization", proof).finish(None));
    let answered = web.read().expect("an answer").into_data();
    assert_eq!(lex(&answered).expect("a response").status(), Some(200));
}

fn send(web: &mut WebSocket<TcpStream>, message: Vec<u8>) {
    let text = String::from_utf8(message).expect("text");
    web.send(tungstenite::Message::text(text)).expect("the demo reads");
}

fn serve(web: &mut WebSocket<TcpStream>, rtp: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let bytes = match web.read() {
            Ok(message) => message.into_data(),
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => panic!("the WebSocket broke: {error}"),
        };
        let message = lex(&bytes).expect("a message");
        let Start::Request { method, .. } = message.start() else { continue };
        match method {
            Method::Ack => {}
            Method::Invite => accept(web, &message, rtp),
            _ => send(web, response(&message, 200, "OK", None, rtp, &[], None)),
        }
    }
    let _ = web.close(None);
    let _ = web.flush();
}

fn accept(web: &mut WebSocket<TcpStream>, invite: &Message<'_>, rtp: SocketAddr) {
    let own = Own {
        address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        port: rtp.port(),
        session_id: 1,
        version: 1,
        direction: Direction::SendRecv,
        codecs: &[Codec::Pcmu],
    };
    let offer = sdp::parse(invite.body()).expect("an offer");
    let body = sdp::answer(&offer, &own).expect("an answer");
    let contact = format!("<sip:x@{HOST};transport=ws>");
    let extra: [(&str, &[u8]); 1] = [("Contact", contact.as_bytes())];
    let body = Some(("application/sdp", body.as_slice()));
    send(web, response(invite, 200, "OK", Some("ws"), rtp, &extra, body));
}
