//! A carrier that speaks TLS both ways: it demands our certificate, and is known by its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use softphone::{Event, Order, Why};

use crate::baresip::{Baresip, Way};
use crate::demo::Demo;
use crate::kamailio::{Kamailio, PLAIN, SECRET, expect_talk, start, tls_section};
use crate::lab::{Host, turn, wait_for};
use crate::phone::Softphone;
use crate::sipp::{Line, Sipp};
use crate::{FLAGS, log_in};

/// Whom the carrier's certificate is for.
const CARRIER: &str = "sip.carrier.example";
const LIMIT: Duration = Duration::from_secs(15);

/// Somebody who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Its root is `NAME.pem` in the folder.
    fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root");
        std::fs::write(folder.join(format!("{name}.pem")), root.pem()).expect("written");
        Authority { issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate for that name, and its key, as `FILE.pem` and `FILE.key`.
    fn sign(&self, folder: &Path, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).expect("written");
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).expect("written");
    }
}

/// A demo whose numbers 9... go to the carrier as `route` says, and the folder of its certificates.
fn demo(route: &str) -> (Demo, PathBuf, tempfile::TempDir) {
    let kept = tempfile::tempdir().expect("a folder");
    let folder = kept.path().to_owned();
    let carriers = Authority::new(&folder, "carriers");
    carriers.sign(&folder, "carrier", CARRIER);
    Authority::new(&folder, "members").sign(&folder, "us", "sbc.jackfield.example");
    Authority::new(&folder, "nobody").sign(&folder, "stranger", "sbc.jackfield.example");
    let root = folder.join("carriers.pem").display().to_string();
    let place = folder.display().to_string();
    let (route, trunk) = (format!("9={SECRET};transport=tls;{route}"), format!("tls:{CARRIER}"));
    let flags = [
        "--tls",
        "15061",
        "--tls-ca",
        &root,
        "--certificates",
        &place,
        "--trunk",
        &trunk,
        "--route",
        &route,
        "--options-s",
        "1",
    ];
    (Demo::start(None, &[FLAGS, &flags].concat()), folder, kept)
}

/// The carrier: it demands a certificate of its members.
fn carrier(demo: &Demo, folder: &Path) -> Kamailio {
    let file = |name: &str| folder.join(name);
    let of_server = demo.dir().join("tls-root.pem");
    let roots = Some((of_server.as_path(), &*file("members.pem")));
    start(
        "sip",
        "tls",
        demo.folder(),
        &tls_section(&file("carrier.pem"), &file("carrier.key"), roots),
    )
}

/// What `status` says of the one trunk, once that is so.
fn expect_trunk(demo: &Demo, is_so: impl Fn(&Value) -> bool) {
    let trunk = || demo.status().map(|status| status["ccbs"][0]["trunks"][0].clone());
    let found = wait_for(LIMIT, || trunk().filter(&is_so));
    assert!(found.is_some(), "{:?}", trunk());
}

#[test]
fn a_carrier_and_we_know_each_other_by_certificates() {
    let _turn = turn();
    let (mut demo, certificates, _kept) = demo(&format!("tls_name={CARRIER};tls_identity=us"));
    let folder = demo.folder().to_owned();
    let kamailio = carrier(&demo, &certificates);
    expect_trunk(&demo, |trunk| trunk["up"] == true);
    let phone = Softphone::start(&log_in("1001", "local"), [127, 0, 0, 2].into(), 440);
    phone.register();
    // Out; the carrier's process dies meanwhile, and the end goes by a new connection.
    let one: Line = ["0301234".into(), String::new(), "1001".into()];
    let flags = ["-rtp_echo", "-mp", "17300"];
    let lines = std::slice::from_ref(&one);
    let mut callee =
        Sipp::start_at("127.0.0.5", "carrier-patient", PLAIN, 17_070, lines, &flags, &folder);
    phone.call("95555");
    expect_talk(&demo, 50);
    drop(kamailio);
    let gone = wait_for(LIMIT, || (demo.counter("connections_tls") == 0).then_some(()));
    assert!(gone.is_some(), "the connection stays");
    let kamailio = carrier(&demo, &certificates);
    expect_talk(&demo, 100);
    phone.hang_up();
    callee.expect_success(&folder);
    demo.expect_all_free();
    // In, from an address that is no trunk's.
    let proved = demo.counter("trunks_proved");
    let flags = ["-mp", "17400"];
    let mut caller =
        Sipp::start_at("127.0.0.5", "carrier-caller", PLAIN, 17_071, &[one], &flags, &folder);
    caller.expect_success(&folder);
    demo.expect_all_free();
    assert!(demo.counter("trunks_proved") > proved, "its own connection proved it");
    assert_eq!(demo.counter("drop_sip_unauthorised"), 0);
    let records = demo.records();
    for legs in records.chunks(2) {
        let talked =
            |leg: &Value| ["in", "out"].iter().all(|way| leg[*way]["packets"].as_u64() > Some(20));
        assert!(legs.iter().all(talked), "{legs:#?}");
    }
    let of_trunk = records.iter().filter(|leg| leg["trunk"] == format!("tls:{CARRIER}"));
    assert_eq!(of_trunk.count(), 2, "one leg of each call: {records:#?}");
    assert!(phone.end().rtp_received > 100);
    drop(kamailio);
    demo.process.stop();
}

#[test]
fn a_carrier_with_a_wrong_certificate_gets_no_call_and_status_says_why() {
    let _turn = turn();
    let its_name = format!("tls_name={CARRIER}");
    for (route, why, counter) in [
        (
            "tls_name=other.example;tls_identity=us",
            "its certificate is for another name",
            "tls_wrong_name",
        ),
        (
            &format!("{its_name};tls_ca=members;tls_identity=us"),
            "its certificate leads to no root that is believed",
            "tls_untrusted",
        ),
        (
            &format!("{its_name};tls_identity=stranger"),
            "it does not take our certificate",
            "tls_not_taken",
        ),
        (
            &format!("{its_name};tls_identity=missing"),
            "our certificates for it cannot be read",
            "tls_files",
        ),
    ] {
        let (mut demo, certificates, _kept) = demo(route);
        let kamailio = carrier(&demo, &certificates);
        expect_trunk(&demo, |trunk| trunk["why"] == why);
        assert!(demo.counter(counter) >= 1, "{counter}");
        let phone = Softphone::start(&log_in("1001", "local"), [127, 0, 0, 2].into(), 440);
        phone.register();
        phone.order(Order::Call("95555".to_owned()));
        let refused = |event: &Event| *event == Event::Ended(Why::Refused(503));
        phone.expect(LIMIT, "refused at once", refused);
        demo.expect_all_free();
        let _ = phone.end();
        drop(kamailio);
        demo.process.stop();
    }
}

/// RFC 5630: the carrier calls a sips URI. A phone that registered by TLS gets the call, one that did not gets none.
#[test]
fn a_call_to_sips_reaches_a_phone_that_speaks_tls_and_no_other() {
    let _turn = turn();
    let (sbc, east) = (Host::new("sbc"), Host::new("east"));
    sbc.connect("10.77.1.1", &east, "10.77.1.2");
    let flags = ["--tls", "15061", "--location", "east=10.77.1.1", "--trunk", "127.0.0.1/32"];
    let mut demo = Demo::start(Some(&sbc), &[FLAGS, &flags].concat());
    let folder = demo.folder().to_owned();
    let (certificate, key) = (demo.dir().join("tls.pem"), demo.dir().join("tls.key"));
    let tls = tls_section(&certificate, &key, None);
    let kamailio = sbc.enter(|| start("sips", "tls", &folder, &tls));
    for (agent, transport, scenario) in
        [("1001", "tls", "carrier-caller"), ("1002", "tcp", "carrier-refused")]
    {
        let body = json!({"tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": "east"});
        let (status, login) = sbc.post("http://127.0.0.1:18080/v1/login", &body);
        assert_eq!(status, 200, "{login}");
        let way = Way { transport, ca: Some(demo.dir().join("tls-root.pem")) };
        let mut phone = Baresip::start_by(&way, &east, "10.77.1.2", &login, 700, None, &folder);
        phone.expect(LIMIT, "200 OK");
        let one: Line = ["0301234".into(), String::new(), agent.into()];
        let flags = ["-mp", "17400"];
        let mut caller = sbc.enter(|| {
            Sipp::start_at(
                "127.0.0.5",
                scenario,
                PLAIN,
                17_071,
                std::slice::from_ref(&one),
                &flags,
                &folder,
            )
        });
        caller.expect_success(&folder);
        demo.expect_all_free();
        phone.process.stop();
    }
    assert_eq!(demo.counter("sips_refused"), 1);
    let records = demo.records();
    let talked =
        |leg: &Value| ["in", "out"].iter().all(|way| leg[*way]["packets"].as_u64() > Some(20));
    assert!(records.len() >= 2 && records[..2].iter().all(talked), "{records:#?}");
    drop(kamailio);
    demo.process.stop();
}
