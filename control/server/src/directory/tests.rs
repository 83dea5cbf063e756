use super::*;

fn spec(agents: u32) -> DemoSpec {
    DemoSpec {
        tenant: "demo".into(),
        agents,
        ccbs: vec![(
            CcbId(1),
            vec![
                DemoLocation {
                    name: "local".into(),
                    ip: "127.0.0.1".parse().expect("an address"),
                    sip: vec![(base::Transport::Udp, 5060), (base::Transport::Tcp, 5060)],
                    http_port: 8080,
                },
                DemoLocation {
                    name: "east".into(),
                    ip: "127.0.0.2".parse().expect("an address"),
                    sip: vec![(base::Transport::Udp, 5061)],
                    http_port: 8081,
                },
            ],
        )],
        trunks: vec!["10.0.0.0/8".parse().expect("a network")],
        queues: Vec::new(),
        srtp: Default::default(),
        routes: vec![("9".into(), "10.1.2.3:5060".parse().expect("an address"))],
    }
}

#[path = "../../tests/postgres/mod.rs"]
#[allow(dead_code, reason = "tests of the process kill clusters")]
mod postgres;

/// An empty directory, and what it lives in.
struct Fresh {
    directory: Directory,
    _folder: tempfile::TempDir,
    _cluster: Option<std::sync::Arc<postgres::Postgres>>,
}

async fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::Sqlite(folder.path().join("a directory?100%.sqlite"));
    let directory = Directory::open(&place).await.expect("it opens");
    Fresh { directory, _folder: folder, _cluster: None }
}

async fn postgres() -> Fresh {
    let cluster = tokio::task::spawn_blocking(postgres::Postgres::shared).await.expect("it starts");
    let place = cluster.database().parse().expect("a place");
    let directory = Directory::open(&place).await.expect("it opens");
    let folder = tempfile::tempdir().expect("a folder");
    Fresh { directory, _folder: folder, _cluster: Some(cluster) }
}

/// Each test runs over both databases.
macro_rules! on_both {
    ($($(#[$attribute:meta])* async fn $name:ident($directory:ident: Directory) $body:block)*) => {
        $(mod $name {
            use super::*;
            $(#[$attribute])*
            async fn holds($directory: Directory) $body
            #[tokio::test]
            async fn on_sqlite() {
                let fresh = sqlite().await;
                holds(fresh.directory.clone()).await;
            }
            #[tokio::test]
            async fn on_postgres() {
                let fresh = postgres().await;
                holds(fresh.directory.clone()).await;
            }
        })*
    };
}

mod import;

on_both! {
async fn the_demo_holds_what_its_spec_says(directory: Directory) {
    let id = directory.create_demo(&spec(3)).await.expect("it is created");
    let tenant = directory.tenant("demo").await.expect("an answer").expect("it is there");
    assert_eq!(tenant.id, id);
    assert_eq!(tenant.realm, "demo.jackfield.local");
    assert_eq!(tenant.default_location.as_deref(), Some("local"));
    assert_eq!(tenant.locations, ["east", "local"]);
    let agent = directory.agent(id, Identity::Agent("1003")).await.expect("an answer");
    let agent = agent.expect("it is there");
    assert!(crate::password::verify("demo-1003", &agent.password));
    assert!(!crate::password::verify("demo-1002", &agent.password));
    let by_operator = directory.agent(id, Identity::Operator("op1003")).await.expect("an answer");
    assert_eq!(by_operator.expect("it is there").id, agent.id);
    let by_key = directory.agent(id, Identity::Key(agent.id)).await.expect("an answer");
    assert_eq!(by_key.expect("it is there").agent_id, "1003");
    assert!(directory.agent(id, Identity::Agent("1004")).await.expect("an answer").is_none());
    assert!(directory.tenant("other").await.expect("an answer").is_none());
    assert_eq!(directory.reachable("east").await.expect("an answer"), [CcbId(1)]);
    assert_eq!(directory.reachable("west").await.expect("an answer"), []);
    let sbc = directory.addresses(CcbId(1), "east", AddressKind::Sbc).await.expect("an answer");
    assert_eq!(sbc, [Address { host: "127.0.0.2".into(), port: 5061, transport: "udp".into() }]);
    let provision = directory.provision().await.expect("an answer");
    assert_eq!(provision.tenants.len(), 1);
    assert_eq!(provision.trunks[0].by.to_string(), "10.0.0.0/8");
    assert_eq!(provision.routes[0].prefix, "9");
}

async fn a_second_demo_keeps_epochs_and_drops_agents_beyond_its_count(directory: Directory) {
    let id = directory.create_demo(&spec(3)).await.expect("it is created");
    let agent = directory.agent(id, Identity::Agent("1001")).await.expect("an answer");
    let key = agent.expect("it is there").id;
    assert_eq!(directory.next_epoch(key).await.expect("an epoch"), 1);
    directory.create_demo(&spec(2)).await.expect("it is created again");
    assert_eq!(directory.next_epoch(key).await.expect("an epoch"), 2);
    assert!(directory.agent(id, Identity::Agent("1003")).await.expect("an answer").is_none());
}

async fn a_demo_of_twenty_thousand_agents_takes_seconds(directory: Directory) {
    let id = directory.create_demo(&spec(20_000)).await.expect("it is created");
    let agent = directory.agent(id, Identity::Agent("21000")).await.expect("an answer");
    assert!(crate::password::verify("demo-21000", &agent.expect("it is there").password));
}

async fn an_address_list_keeps_its_order(directory: Directory) {
    let list: Vec<Address> = ["b", "a", "c"]
        .iter()
        .map(|host| Address { host: (*host).into(), port: 1, transport: "udp".into() })
        .collect();
    for _ in 0..2 {
        directory.put_addresses(CcbId(7), "x", AddressKind::Sbc, &list).await.expect("it is put");
    }
    let read = directory.addresses(CcbId(7), "x", AddressKind::Sbc).await.expect("an answer");
    assert_eq!(read, list);
}
}
