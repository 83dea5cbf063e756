use super::media::XdpMode;
use super::*;

const GOOD: &str = r#"
[control]
http = "127.0.0.1:8080"
admin = "/run/jackfield/admin.sock"
directory = "/var/lib/jackfield/directory.sqlite"
state = "/var/lib/jackfield"

[[ccb]]
number = 1
socket = "/run/jackfield/ccb-1.sock"
cores = [0, 1]
rtp_ports = "30000-40000"

[[ccb.location]]
name = "local"
ip = "127.0.0.1"

[[ccb.location]]
name = "branch"
ip = "::1"
sip_port = 5070
"#;

fn faults(text: &str) -> Vec<String> {
    let Err(faults) = Config::parse("jackfield.toml", text) else { return Vec::new() };
    faults.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_good_file_is_read_with_its_defaults() {
    let config = Config::parse("jackfield.toml", GOOD).unwrap();
    let ccb = config.ccb(None).unwrap();
    assert_eq!(ccb.region, Path::new("/dev/shm/jackfield-1"));
    assert_eq!(ccb.rtp_ports, (30_000, 40_000));
    assert_eq!(ccb.sizes, Sizes::default());
    assert_eq!(ccb.locations[0].sip_port, 5060);
    assert_eq!(ccb.media, MediaConfig::of_ccb(1));
    assert_eq!(config.control.recordings, Path::new("/var/lib/jackfield/recordings"));
    assert_eq!(config.control.records, None);
    assert_eq!((&config.control.trace_to, &ccb.hep, ccb.hep_agent), (&Vec::new(), &None, 1));
    assert_eq!(config.control.http, ["127.0.0.1:8080".parse().unwrap()]);
    assert!(config.summary().contains("location branch: SIP udp [::1]:5070"));
}

#[test]
fn what_is_written_reads_back_the_same() {
    let mut config = Config::parse("jackfield.toml", GOOD).unwrap();
    config.control.state = PathBuf::from("/a \"quoted\" \\ place");
    config.ccbs[0].sizes.agents = 77;
    let media = &mut config.ccbs[0].media;
    (media.media, media.mode, media.timeout_s) = (Media::Recvmmsg, XdpMode::Generic, 0);
    media.interfaces.insert("eth0.7".into(), XdpMode::Native);
    (media.prompts, media.spool) = (Some("/p q".into()), Some("/s".into()));
    let streams = &mut config.ccbs[0].locations[0].streams;
    (streams.tcp, streams.verify) = (false, false);
    (streams.tls_port, streams.ws_port, streams.wss_port) = (Some(5061), Some(80), Some(443));
    streams.identity = Some(("/c d.pem".into(), "/k".into()));
    (streams.ca, streams.ask_clients) = (Some("/ca".into()), true);
    config.ccbs[0].certificates = Some("/certificates of ours".into());
    config.control.records = Some("/r \"s\"".into());
    config.control.trace_to = vec!["192.0.2.0/24".parse().unwrap(), "::1".parse().unwrap()];
    config.control.balancers = vec!["192.0.2.1".parse().unwrap()];
    (config.ccbs[0].hep, config.ccbs[0].hep_agent) = (Some("[::1]:9060".into()), u32::MAX);
    config.control.bus = Bus {
        server: Some(control_server::NatsConfig::parse("tls://u:p@bus:4223").unwrap()),
        credentials: Some("/c \"d\"".into()),
        blade: "b-7".into(),
        cluster: "north".into(),
        strategy: control_server::Strategy::LeastLoaded,
        token_key: Some("/k \"e\"".into()),
    };
    config.control.http.push("[::1]:80".parse().unwrap());
    assert_eq!(Config::parse("again.toml", &config.to_toml()), Ok(config));
}

#[test]
fn other_blades_are_met_where_control_says_and_no_password_is_shown() {
    let with = |fields: &str| GOOD.replace("[control]\n", &format!("[control]\n{fields}\n"));
    let alone = Config::parse("jackfield.toml", GOOD).unwrap().control.bus;
    assert_eq!((alone.server.clone(), alone.cluster.as_str()), (None, "jackfield"));
    assert!(!alone.blade.is_empty());
    let good = with("bus = \"nats://jack:hush@bus:4222\"\ncdm_strategy = \"round_robin\"");
    let config = Config::parse("jackfield.toml", &good).unwrap();
    assert_eq!(config.control.bus.strategy, control_server::Strategy::RoundRobin);
    assert!(config.summary().contains("at nats://bus:4222, CCBs by round_robin"));
    assert!(!config.summary().contains("hush") && !format!("{config:?}").contains("hush"));
    let wrong = with("bus = \"http://jack:hush@bus\"\nblade = \"a b\"\ncdm_strategy = \"best\"");
    assert_eq!(
        faults(&wrong),
        [
            "jackfield.toml:3: control.bus: must be nats://[USER:PASSWORD@]HOST[:PORT], or the same \
             with tls://",
            "jackfield.toml:4: control.blade: \"a b\" must be 1 to 64 letters, digits, dashes or \
             underscores",
            "jackfield.toml:5: control.cdm_strategy: \"best\" must be one of least_agents, \
             least_loaded, location, round_robin",
        ]
    );
}

#[test]
fn a_fault_names_file_line_field_and_rule() {
    let text = GOOD.replace("30000-40000", "60000-30000");
    assert_eq!(
        faults(&text),
        ["jackfield.toml:12: ccb[0].rtp_ports: \"60000-30000\" must be LOW-HIGH with LOW < HIGH, \
          both 1024..65535"]
    );
}

#[test]
fn all_faults_are_reported_in_the_order_of_lines() {
    let text = GOOD
        .replace("127.0.0.1:8080", "127.0.0.1")
        .replace("admin = ", "admim = ")
        .replace("cores = [0, 1]", "cores = [0, 0]")
        .replace("\"::1\"", "\"0.0.0.0\"")
        .replace("sip_port = 5070", "sip_port = \"5070\"");
    let faults = faults(&text);
    let expected = [
        "jackfield.toml:2: control.admin: must be there",
        "jackfield.toml:3: control.http: \"127.0.0.1\" must be ADDRESS:PORT, as in 192.0.2.1:8080",
        "jackfield.toml:4: control.admim: unknown field; known are http, admin, directory, state, \
         recordings, options_s, records, trace_to, balancers, dns, bus, bus_credentials, \
         blade, cluster, cdm_strategy, token_key",
        "jackfield.toml:11: ccb[0].cores: must name each core once",
        "jackfield.toml:20: ccb[0].location[1].ip: \"0.0.0.0\" must be the one IPv4 or IPv6 \
         address that phones reach, not a wildcard",
        "jackfield.toml:21: ccb[0].location[1].sip_port: must be a whole number in 1..=65535",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_missing_part_is_named() {
    assert_eq!(
        faults("[control]\n"),
        [
            "jackfield.toml:1: control.http: must be there",
            "jackfield.toml:1: control.admin: must be there",
            "jackfield.toml:1: control.directory: must be there",
            "jackfield.toml:1: control.state: must be there",
            "jackfield.toml:1: ccb: at least one [[ccb]] must be there",
        ]
    );
    let text = GOOD.replace("[[ccb.location]]", "[[ccb.place]]");
    let faults = faults(&text);
    assert!(faults.contains(
        &"jackfield.toml:8: ccb[0].location: at least one [[ccb.location]] must be there".into()
    ));
    assert!(faults.iter().any(|fault| fault.contains("ccb[0].place: unknown field")));
}

#[test]
fn what_is_no_toml_is_named_by_its_line() {
    let faults = faults("[control]\nhttp = \nadmin = \"/a\n");
    assert!(faults[0].starts_with("jackfield.toml:2: "), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.starts_with("jackfield.toml:3: ")), "{faults:?}");
}

#[test]
fn two_ccbs_must_not_share_anything() {
    let second = GOOD[GOOD.find("[[ccb]]").unwrap()..].to_owned();
    let faults = faults(&format!("{GOOD}{second}"));
    let rules: Vec<_> = faults.iter().map(|fault| fault.split(": ").nth(1).unwrap()).collect();
    for field in ["ccb[1].number", "ccb[1].region", "ccb[1].socket", "ccb[1].cores"] {
        assert!(rules.contains(&field), "{field} in {faults:?}");
    }
    assert!(faults.iter().any(|fault| fault.contains("overlap another CCB's on 127.0.0.1")));
}

#[test]
fn connections_have_rules() {
    let with = |fields: &str| GOOD.replace("sip_port = 5070", fields);
    let config = Config::parse("jackfield.toml", GOOD).unwrap();
    assert_eq!(config.ccbs[0].locations[1].streams, Streams::default());
    assert!(config.summary().contains("SIP udp [::1]:5070, tcp [::1]:5070"));
    for (fields, expected) in [
        ("tcp = \"no\"", "location[1].tcp: must be true or false"),
        ("tls_port = 5061", "location[1].tls_port: needs tls_certificate and tls_key beside it"),
        ("wss_port = 443", "location[1].wss_port: needs tls_certificate and tls_key beside it"),
        ("tls_key = \"/k\"", "location[1].tls_key: needs tls_certificate beside it"),
        ("tls_certificate = \"/c\"", "location[1].tls_certificate: needs tls_key beside it"),
        ("tls_ca = \"ca\"", "location[1].tls_ca: \"ca\" must be an absolute path"),
        ("ws_port = 0", "location[1].ws_port: must be a whole number in 1..=65535"),
        ("tls_verify = 1", "location[1].tls_verify: must be true or false"),
    ] {
        assert_eq!(faults(&with(fields)), [format!("jackfield.toml:21: ccb[0].{expected}")]);
    }
    let taken = GOOD.replace("ip = \"127.0.0.1\"", "ip = \"127.0.0.1\"\nws_port = 8080");
    assert_eq!(
        faults(&taken),
        ["jackfield.toml:14: ccb[0].location: 127.0.0.1:8080 over ws is in use by another field"]
    );
}

#[test]
fn sizes_have_rules() {
    let text = GOOD.replace("cores = [0, 1]", "cores = [0, 1]\nring_slots = 1000\nagents = 0");
    assert_eq!(
        faults(&text),
        [
            "jackfield.toml:12: ccb[0].ring_slots: must be a power of two",
            "jackfield.toml:13: ccb[0].agents: must be a whole number in 1..=1048576",
        ]
    );
}

#[test]
fn one_of_several_ccbs_must_be_named() {
    let mut config = Config::parse("jackfield.toml", GOOD).unwrap();
    assert_eq!(config.ccb(Some(2)).unwrap_err(), "no CCB 2 in the configuration, only 1");
    let mut second = config.ccbs[0].clone();
    second.number = CcbId(2);
    config.ccbs.push(second);
    assert_eq!(config.ccb(None).unwrap_err(), "which CCB? name one with --ccb: 1, 2");
    assert_eq!(config.ccb(Some(2)).unwrap().number, CcbId(2));
}

#[test]
fn control_s_paths_and_addresses_differ_from_each_other_and_from_the_ccbs() {
    let text = GOOD
        .replace("\"127.0.0.1:8080\"", "[\"127.0.0.1:8080\", \"127.0.0.1:8080\"]")
        .replace("/var/lib/jackfield/directory.sqlite", "/run/jackfield/admin.sock")
        .replace("/run/jackfield/ccb-1.sock", "/run/jackfield/admin.sock");
    let expected = |field: &str, what: &str| format!("{field}: {what} is in use by another field");
    let faults = faults(&text);
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[0].contains(&expected("control.http", "127.0.0.1:8080")), "{faults:?}");
    let path = "/run/jackfield/admin.sock";
    assert!(faults[1].contains(&expected("control.directory", path)), "{faults:?}");
    assert!(faults[2].contains(&expected("ccb[0].socket", path)), "{faults:?}");
}

#[test]
fn each_worker_needs_two_pairs_and_a_socket_a_path_that_fits() {
    let with = |ports: &str| faults(&GOOD.replace("30000-40000", ports));
    assert_eq!(with("30000-30007"), Vec::<String>::new());
    assert_eq!(
        with("30001-30008"),
        ["jackfield.toml:12: ccb[0].rtp_ports: 3 port pairs are too few for 2 workers, which \
          need 4"]
    );
    assert!(!with("65535-65535").is_empty());
    let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
    let socket = |bytes| faults(&GOOD.replace("/run/jackfield/ccb-1.sock", &path(bytes)));
    assert_eq!(socket(SOCKET_PATH_BYTES), Vec::<String>::new());
    let faults = socket(SOCKET_PATH_BYTES + 1);
    assert!(faults[0].ends_with("must be an absolute path of at most 103 bytes"), "{faults:?}");
}

#[test]
fn media_has_fields_with_rules() {
    let with = |fields: &str| GOOD.replace("cores = [0, 1]", &format!("cores = [0, 1]\n{fields}"));
    let good = with(
        "media = \"xdp\"\nprompts = \"/p\"\nspool = \"/s\"\nmedia_timeout_s = 60\n\
         xdp = { mode = \"off\", interfaces = { eth0 = \"native\" }, bpffs = \"/b\" }",
    );
    let config = Config::parse("jackfield.toml", &good).unwrap();
    let media = &config.ccbs[0].media;
    assert_eq!((media.media, media.mode, media.timeout_s), (Media::Xdp, XdpMode::Off, 60));
    assert_eq!(media.interfaces.get("eth0"), Some(&XdpMode::Native));
    assert_eq!(media.bpffs, Path::new("/b"));
    assert!(config.summary().contains("media xdp, XDP off, native on eth0; prompts /p"));
    for (fields, expected) in [
        ("media = \"fast\"", "ccb[0].media: \"fast\" must be one of auto, io_uring, recvmmsg, xdp"),
        ("prompts = \"here\"", "ccb[0].prompts: \"here\" must be an absolute path"),
        ("spool = 3", "ccb[0].spool: must be a text in quotes"),
        (
            "spool = \"/dev/shm/jackfield-1\"",
            "ccb[0].spool: /dev/shm/jackfield-1 is in use by another field",
        ),
        ("media_timeout_s = -1", "ccb[0].media_timeout_s: must be a whole number in 0..=86400"),
        ("xdp = \"native\"", "ccb[0].xdp: must be a table"),
        (
            "xdp = { mode = \"fast\" }",
            "ccb[0].xdp.mode: \"fast\" must be one of auto, native, generic, off",
        ),
        (
            "xdp = { interfaces = { eth0 = \"fast\" } }",
            "ccb[0].xdp.interfaces: eth0: must be an interface's name and one of auto, native, generic, off",
        ),
        (
            "xdp = { interface = 1 }",
            "ccb[0].xdp.interface: unknown field; known are mode, bpffs, interfaces",
        ),
    ] {
        assert_eq!(faults(&with(fields)), [format!("jackfield.toml:12: {expected}")], "{fields}");
    }
}

#[test]
fn a_capture_server_is_a_host_and_a_port_and_faults_of_records_are_named() {
    for good in ["192.0.2.9:9060", "capture.example.net:1", "[2001:db8::1]:65535", "localhost:9060"]
    {
        assert!(is_host_and_port(good), "{good}");
    }
    for bad in ["", "host", "host:", ":9060", "host:0", "host:65536", "::1:9060", "a b:1", "[x]:1"]
    {
        assert!(!is_host_and_port(bad), "{bad}");
    }
    let text = GOOD
        .replace("state = \"/var", "records = \"rel\"\ntrace_to = [\"nowhere\"]\nstate = \"/var")
        .replace("cores = ", "hep = \"capture\"\nhep_agent = -1\ncores = ");
    let expected = [
        "jackfield.toml:6: control.records: \"rel\" must be an absolute path",
        "jackfield.toml:7: control.trace_to: \"nowhere\" must be an address or a network, as in \
         192.0.2.0/24",
        "jackfield.toml:13: ccb[0].hep: \"capture\" must be HOST:PORT, as in 192.0.2.9:9060 or \
         capture.example.net:9060",
        "jackfield.toml:14: ccb[0].hep_agent: must be a whole number in 0..=4294967295",
    ];
    assert_eq!(faults(&text), expected);
}

#[test]
fn a_directory_may_be_in_postgresql_and_its_password_shows_nowhere() {
    let with = |place: &str| GOOD.replace("/var/lib/jackfield/directory.sqlite", place);
    let url = "postgres://jack:hunter2@db.example/jackfield?sslmode=require";
    let config = Config::parse("jackfield.toml", &with(url)).unwrap();
    assert_eq!(config.control.directory.expose(), url);
    let summary = config.summary();
    assert!(summary.contains("directory postgres://jack@db.example/jackfield,"), "{summary}");
    assert!(!format!("{summary} {config:?}").contains("hunter2"));
    assert_eq!(Config::parse("again", &config.to_toml()).unwrap(), config);
    for wrong in ["postgres://jack:hunter2@db/x?sslmod=on", "postgres://jack:hunter2@db:port/x"] {
        let faults = faults(&with(wrong));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("jackfield.toml:5: control.directory: "), "{faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
    let relative = faults(&with("directory.sqlite"));
    assert!(relative[0].contains("must be an absolute path, or a URL"), "{relative:?}");
}

const WITH_PROXIES: &str = r#"
[[agent_proxy]]
number = 4
http = "127.0.0.1:8090"
admin = "/run/jackfield/proxy-4.sock"
drain_s = 2

[pool]
slots = [1]
agent_proxies = [4]
at_once = 2
logins_s = 20
"#;

#[test]
fn agent_proxies_and_the_pool_have_rules() {
    let bus = GOOD.replace("[control]\n", "[control]\nbus = \"nats://bus\"\nblade = \"b1\"\n");
    let good = format!("{bus}{WITH_PROXIES}");
    let config = Config::parse("jackfield.toml", &good).unwrap();
    assert_eq!(Config::parse("again.toml", &config.to_toml()), Ok(config.clone()));
    let proxy = &config.agent_proxies[0];
    assert_eq!((proxy.number, proxy.drain_s), (4, 2));
    assert_eq!(proxy.state, Path::new("/var/lib/jackfield/agentproxy-4"));
    assert_eq!(proxy.blade(&config.control), "b1-proxy-4");
    assert!(config.summary().contains("pool: CCBs [1], AgentProxies [4] by process"));
    let alone = faults(&format!("{GOOD}{WITH_PROXIES}"));
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert!(alone[0].contains("agent_proxy[0].number: needs a bus"), "{alone:?}");
    for (right, wrong, expected) in [
        ("agent_proxies = [4]", "agent_proxies = [5]", "must name AgentProxies of this file"),
        ("slots = [1]", "slots = [1, 1]", "must name CCBs of this file, each once"),
        ("\"127.0.0.1:8090\"", "\"127.0.0.1:8080\"", "is in use by another field"),
        ("drain_s = 2", "drain_s = 9", "must be a whole number in 0..=8"),
    ] {
        let faults = faults(&good.replace(right, wrong));
        assert!(faults.first().is_some_and(|fault| fault.contains(expected)), "{faults:?}");
    }
    // Without a CCB a blade takes logins for the others.
    let end = bus.find("[[ccb]]").unwrap();
    let none = format!("{}[pool]\nhigh = 70\n", &bus[..end]);
    assert!(Config::parse("jackfield.toml", &none).unwrap().ccbs.is_empty());
}
