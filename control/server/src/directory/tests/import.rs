//! Files into the directory and out of it, over both databases.

use super::*;
use crate::config::HashCost;
use crate::directory::file::{self, Entries, Faults, TenantEntry};
use crate::directory::import::{Counts, Imported};

const SMALL: &str = r#"
[[tenant]]
name = "acme"
realm = "acme.example"
default_location = "berlin"
hold_music = "hold.wav"

[[location]]
tenant = "acme"
name = "berlin"

[[agent]]
tenant = "acme"
agent = "7"
operator = "op7"
number = "70"
name = "Grace; \"Hopper\""
skills = ["sales", "night shift"]
rights = []
incoming_limit = 5
password = "compiler"

[[agent]]
tenant = "acme"
agent = "8"
operator = "op8"
number = "80"
name = "Ada"
password = "engine"

[[forward]]
tenant = "acme"
number = "70"
when = "no_answer"
after_s = 20
to = "80"

[[mapping]]
ccb = 3
location = "berlin"
cti = ["ws:cti.example:8080", "ws:192.0.2.1:8080"]
sbc = ["udp:[2001:db8::1]:5060", "tls:sbc.example:5061"]
own = ["http:10.0.0.3:8080"]
"#;

fn toml(text: &str) -> Vec<SourceFile> {
    vec![SourceFile { name: "x.toml".into(), table: None, text: text.into() }]
}

fn options() -> ImportOptions {
    ImportOptions { cost: Some(HashCost::DEMO), ..ImportOptions::default() }
}

async fn import(directory: &Directory, text: &str) -> Imported {
    directory.import(&toml(text), &options()).await.expect("it is imported")
}

async fn export(directory: &Directory, format: Format) -> Vec<SourceFile> {
    directory.export(format, None, true).await.expect("it is exported")
}

async fn faults(
    directory: &Directory,
    files: &[SourceFile],
    options: &ImportOptions,
) -> Vec<String> {
    let before = directory.version().await.expect("a version");
    let Err(ImportError::Faults(faults)) = directory.import(files, options).await else {
        panic!("it must not be imported");
    };
    assert_eq!(directory.version().await.expect("a version"), before, "nothing was changed");
    let line = |it: &file::Fault| format!("{}:{} {}: {}", it.file, it.line, it.field, it.rule);
    faults.faults.iter().map(line).collect()
}

on_both! {
#[allow(clippy::needless_pass_by_value, reason = "as the others")]
async fn what_a_file_says_is_there_and_a_second_import_changes_nothing(directory: Directory) {
    let first = import(&directory, SMALL).await;
    assert_eq!(first.changed(), 6);
    assert_eq!(first.tables["agent"], Counts { added: 2, ..Counts::default() });
    assert!(first.changes.contains(&"added agent acme/7".to_owned()), "{:?}", first.changes);
    let tenant = directory.tenant("acme").await.expect("an answer").expect("it is there");
    assert_eq!(tenant.locations, ["berlin"]);
    let agent = directory.agent(tenant.id, Identity::Operator("op7")).await.expect("an answer");
    let agent = agent.expect("it is there");
    assert!(crate::password::verify("compiler", &agent.password));
    assert_eq!(agent.parameters.skills, ["sales", "night shift"]);
    assert_eq!(agent.parameters.rights, [""; 0]);
    assert_eq!(agent.parameters.incoming_limit, Some(5));
    assert_eq!(directory.reachable("berlin").await.expect("an answer"), [CcbId(3)]);
    let sbc = directory.addresses(CcbId(3), "berlin", AddressKind::Sbc).await.expect("an answer");
    assert_eq!(sbc[0].host, "2001:db8::1");
    assert_eq!(directory.next_epoch(agent.id).await.expect("an epoch"), 1);

    let version = directory.version().await.expect("a version");
    // Passwords that are right already keep their hashes.
    assert_eq!(import(&directory, SMALL).await.changed(), 0);
    for format in [Format::Toml, Format::Csv] {
        for with_secrets in [false, true] {
            let files = directory.export(format, None, with_secrets).await.expect("files");
            let shown = files.iter().any(|file| file.text.contains("$argon2id$"));
            assert_eq!(shown, with_secrets);
            let again = directory.import(&files, &ImportOptions { prune: true, ..options() }).await;
            assert_eq!(again.expect("it is imported").changed(), 0, "{files:?}");
        }
    }
    assert_eq!(directory.version().await.expect("a version"), version);

    let changed = import(&directory, &SMALL.replace("Ada", "Ada Lovelace")).await;
    assert_eq!(changed.changes, ["changed agent acme/8"]);
    assert_eq!(directory.next_epoch(agent.id).await.expect("an epoch"), 2, "epochs go on");
    assert!(directory.version().await.expect("a version") > version);
}

async fn agents_may_take_each_others_numbers(directory: Directory) {
    import(&directory, SMALL).await;
    let swapped = SMALL.replace("number = \"70\"\nname", "number = \"?\"\nname");
    let swapped = swapped.replace("number = \"80\"", "number = \"70\"");
    let swapped = swapped.replace("number = \"?\"", "number = \"80\"");
    let swapped = swapped.replace("op7", "?").replace("op8", "op7").replace('?', "op8");
    assert_eq!(import(&directory, &swapped).await.tables["agent"].changed, 2);
    let tenant = directory.tenant("acme").await.expect("an answer").expect("it is there").id;
    let agent = directory.agent(tenant, Identity::Agent("8")).await.expect("an answer");
    let agent = agent.expect("it is there");
    assert_eq!((agent.number.as_str(), agent.operator_id.as_str()), ("70", "op7"));
}

async fn only_pruning_removes_and_keys_are_not_given_twice(directory: Directory) {
    import(&directory, SMALL).await;
    import(&directory, &SMALL.replace("acme", "other").replace("ccb = 3", "ccb = 4")).await;
    let tenant = directory.tenant("acme").await.expect("an answer").expect("it is there").id;
    let agent = async |name| {
        let agent = directory.agent(tenant, Identity::Agent(name)).await;
        agent.expect("an answer").map(|agent| agent.id)
    };
    let key = agent("8").await.expect("it is there");
    let at = SMALL.find("[[agent]]\ntenant = \"acme\"\nagent = \"8\"").expect("agent 8");
    let until = SMALL.find("[[forward]]").expect("the rule");
    let without = SMALL[..at].to_owned() + &SMALL[until..];
    assert_eq!(import(&directory, &without).await.changed(), 0);
    let all = directory.agent_keys().await.expect("keys").len();

    // Of one tenant, and only in the tables of the file.
    let one = ImportOptions { prune: true, tenant: Some("acme".into()), ..options() };
    let scoped = &without[..without.find("[[mapping]]").expect("the mapping")];
    let check = ImportOptions { check: true, ..one.clone() };
    for (options, left) in [(&check, all), (&one, all - 1)] {
        let pruned = directory.import(&toml(scoped), options).await.expect("it is imported");
        assert_eq!(pruned.changes, ["removed agent acme/8"]);
        assert_eq!(directory.agent_keys().await.expect("keys").len(), left);
    }
    assert_eq!(agent("8").await, None);
    import(&directory, SMALL).await;
    assert!(agent("8").await.expect("it is there again") > key);

    let whole = ImportOptions { prune: true, ..options() };
    let pruned = directory.import(&toml(SMALL), &whole).await.expect("it is imported");
    assert_eq!(pruned.tables["tenant"].removed, 1);
    assert_eq!(pruned.tables["agent"].removed, 2);
    assert_eq!(pruned.tables["mapping"].removed, 1);
    assert!(directory.tenant("other").await.expect("an answer").is_none());
    let id = directory.put_tenant("third", "third", &[]).await.expect("it is put");
    assert!(id.0 > tenant.0 + 1, "the removed tenant's key is not given again");
}

async fn each_fault_is_told_with_its_line_and_nothing_is_done(directory: Directory) {
    import(&directory, SMALL).await;
    let wrong = r#"
colour = "red"
[[tenant]]
name = "acme two"
realm = "r"
[[agent]]
tenant = "acme"
agent = "9"
operator = "op9"
number = "70"
name = "x"
type = "robot"
skills = "sales"
shoe = 44
[[agent]]
tenant = "nobody"
agent = "9"
operator = "op9"
number = 9
name = "x"
password_hash = "hunter2"
[[forward]]
tenant = "acme"
number = "70"
when = "busy"
after_s = 5
to = "70"
[[mapping]]
ccb = 0
location = "l"
sbc = ["udp:host"]
"#;
    let told = faults(&directory, &toml(wrong), &options()).await;
    let lines = [
        "x.toml:2 colour: unknown",
        "x.toml:13 agent.skills: must be a list",
        "x.toml:14 agent.shoe: unknown field; there are tenant, agent",
        "x.toml:19 agent.number: must be a text in quotes",
        "x.toml:3 tenant.name: must be 1 to 23",
        "x.toml:6 agent.type: must be voice, chat",
        "x.toml:15 agent.password_hash: must be an argon2 hash",
        "x.toml:22 forward.after_s: must be there for no_answer, and",
        "x.toml:22 forward.to: a number is not forwarded to itself",
        "x.toml:28 mapping.ccb: must be 1 to 65535",
        "x.toml:28 mapping.sbc: must be addresses as in udp:192.0.2.1:5060",
    ];
    for line in lines {
        assert!(told.iter().any(|it| it.starts_with(line)), "{line} is not in {told:#?}");
    }
    assert!(!told.iter().any(|line| line.contains("hunter2")), "{told:?}");
    let between = SMALL.replace("\"7\"", "\"9\"").replace("op7", "op8").replace("Grace", "\\u0007");
    let told = faults(&directory, &toml(&between), &options()).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let twice = SMALL.replace("agent = \"8\"", "agent = \"7\"");
    let told = faults(&directory, &toml(&twice), &options()).await;
    assert_eq!(told, ["x.toml:23 agent: is said already, in line 12 of x.toml"]);
    let taken = SMALL.replace("\"7\"", "\"9\"").replace("op7", "op8");
    let told = faults(&directory, &toml(&taken), &options()).await;
    let expected = [
        "x.toml:12 agent.number: 70 is that of agent 7, too",
        "x.toml:12 agent.operator: op8 is that of agent 8, too",
    ];
    assert_eq!(told, expected);
    let new = SMALL.replace("password = \"engine\"", "").replace("\"8\"", "\"9\"");
    let told = faults(&directory, &toml(&new), &options()).await;
    assert!(told[0].starts_with("x.toml:23 agent.password: a new agent needs"), "{told:?}");
    let other = ImportOptions { tenant: Some("other".into()), ..options() };
    let told = faults(&directory, &toml(SMALL), &other).await;
    assert_eq!(told[0], "x.toml:2 tenant.name: must be other, which this is about");
    assert_eq!(told.len(), 6);
    let none = ImportOptions { prune: true, ..options() };
    let told = faults(&directory, &csv("locations.csv", "tenant,name\n"), &none).await;
    assert_eq!(told.len(), 1, "the default location would go: {told:?}");
}

async fn csv_is_read_by_its_header(directory: Directory) {
    let agents = "\u{feff}number,tenant,agent,operator,name,password_hash,rights,incoming_limit\r\n\
                  70,acme,7,op7,\"Hopper, \"\"Grace\"\"\",HASH,call; hold,\r\n\
                  80,acme,8,op8,Ada,HASH,,3\r\n";
    let hash = crate::password::hash("x", HashCost::DEMO);
    let mut files = csv("data/agents.csv", &agents.replace("HASH", &format!("\"{}\"", hash.expose())));
    files.extend(csv("tenants.csv", "name,realm\nacme,acme.example\n"));
    let imported = directory.import(&files, &options()).await.expect("it is imported");
    assert_eq!(imported.changed(), 3);
    let tenant = directory.tenant("acme").await.expect("an answer").expect("it is there").id;
    let agent = async |name| {
        let agent = directory.agent(tenant, Identity::Agent(name)).await;
        agent.expect("an answer").expect("it is there")
    };
    let (grace, ada) = (agent("7").await, agent("8").await);
    assert_eq!(grace.name, "Hopper, \"Grace\"");
    assert_eq!((&grace.parameters.rights[..], grace.parameters.incoming_limit), (&["call".into(), "hold".into()][..], None));
    assert_eq!((ada.parameters.rights.len(), ada.parameters.incoming_limit), (0, Some(3)));
    assert_eq!(ada.parameters.media_format, Parameters::default().media_format);

    let wrong = "tenant,agent,shoe,agent\nacme,9\nacme,9,1,2\n\"\n";
    let mut files = csv("agents.csv", wrong);
    files.extend(csv("shoes.csv", "x\n"));
    files.extend(csv("forwards.csv", ""));
    let told = faults(&directory, &files, &options()).await;
    for line in [
        "agents.csv:1 agent.shoe: unknown field",
        "agents.csv:1 agent.agent: is in the header twice",
        "agents.csv:2 agent: has 2 fields, the header has 4",
        "shoes.csv:1 : no table is named so",
        "forwards.csv:1 : there must be a header",
    ] {
        assert!(told.iter().any(|it| it.starts_with(line)), "{line} is not in {told:#?}");
    }
}

async fn ten_thousand_agents_with_hashes_take_seconds(directory: Directory) {
    let hash = crate::password::hash("x", HashCost::DEMO);
    let mut agents = "tenant,agent,operator,number,name,skills,password_hash\n".to_owned();
    for number in 10_000..20_000 {
        let line = format!("acme,{number},op{number},{number},A {number},a;b,\"{}\"\n", hash.expose());
        agents += &line;
    }
    let mut files = csv("agents.csv", &agents);
    files.extend(csv("tenants.csv", "name,realm\nacme,acme.example\n"));
    let begun = std::time::Instant::now();
    let imported = directory.import(&files, &options()).await.expect("it is imported");
    let first = begun.elapsed();
    assert_eq!(imported.changed(), 10_001);
    assert_eq!(directory.import(&files, &options()).await.expect("again").changed(), 0);
    println!("10,000 agents: {first:?}, again {:?}", begun.elapsed() - first);
    assert!(first < std::time::Duration::from_secs(30), "it took {first:?}");
}

async fn faults_are_bounded(directory: Directory) {
    let rows = "acme,x\n".repeat(1_000);
    let files = csv("agents.csv", &format!("tenant,number\n{rows}"));
    let Err(ImportError::Faults(faults)) = directory.import(&files, &options()).await else {
        panic!("it must not be imported");
    };
    assert_eq!(faults.faults.len(), 100);
    assert!(faults.more > 1_000, "{}", faults.more);
}
}

fn csv(name: &str, text: &str) -> Vec<SourceFile> {
    vec![SourceFile { name: name.into(), table: None, text: text.into() }]
}

/// A small generator of numbers, so that a seed makes a directory.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // The generator of Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn text(&mut self) -> String {
        let parts = ["a", "Z", "7", "ß", "日本", "\"", "'", ",", "\\", "#", "=", "- ", "[", "'''"];
        let count = 1 + self.roll(5);
        let text: String =
            (0..count).map(|_| parts[self.roll(parts.len() as u64) as usize]).collect();
        format!("{}.", text.trim())
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.roll(4)).map(|_| self.text()).collect()
    }
}

fn random(seed: u64) -> Entries {
    let dice = &mut Dice(seed);
    let mut entries = Entries::default();
    for number in 0..1 + dice.roll(3) {
        let tenant = format!("T-{number}");
        let place = format!("Place_{}", dice.roll(9));
        let entry = TenantEntry {
            realm: format!("realm{}", dice.roll(9)),
            default_location: (dice.roll(2) == 0).then(|| place.clone()),
            hold_music: (dice.roll(2) == 0).then(|| "hold.wav".to_owned()),
            srtp: (dice.roll(2) == 0).then(|| "required".to_owned()),
        };
        entries.tenants.insert(tenant.clone(), entry);
        for name in [place, "another".into()] {
            entries.locations.insert((tenant.clone(), name.clone()), ());
            let lists = [("ws", "cti"), ("udp", "2001:db8::7"), ("http", "own.example")];
            let lists = lists.map(|(transport, host)| {
                let address =
                    |port| Address { host: host.into(), port, transport: transport.into() };
                (0..1 + dice.roll(3)).map(|_| address(1 + dice.roll(60_000) as u16)).collect()
            });
            entries.mappings.insert((1 + dice.roll(9) as u16, name), lists);
        }
        for number in 0..dice.roll(20) {
            let agent_id = format!("{} {number}", dice.text());
            let agent = Agent {
                id: 0,
                agent_id: agent_id.clone(),
                operator_id: format!("{number} {}", dice.text()),
                number: format!("+{number}"),
                name: dice.text(),
                password: crate::password::hash("x", HashCost::DEMO),
                parameters: Parameters {
                    skills: dice.texts(),
                    rights: dice.texts(),
                    media_format: dice.texts(),
                    incoming_limit: (dice.roll(2) == 0).then(|| 1 + dice.roll(8) as u32),
                    recording_path: if dice.roll(2) == 0 { dice.text() } else { String::new() },
                    ..Parameters::default()
                },
            };
            entries.agents.insert((tenant.clone(), agent_id), agent);
            let when = ["always", "busy", "no_answer"][dice.roll(3) as usize];
            let after_s = if when == "no_answer" { 1 + dice.roll(180) as i64 } else { 0 };
            let rule = (tenant.clone(), format!("+{number}"), when.to_owned());
            let to = ["0", "1001/20,+49301/180,0"][dice.roll(2) as usize];
            entries.forwards.insert(rule, (after_s, to.to_owned()));
        }
    }
    entries
}

#[tokio::test]
async fn a_directory_moves_to_the_other_database_and_back_unchanged() {
    for seed in 0..12 {
        let entries = random(seed);
        let made = file::write(&entries, Format::Toml, None, true);
        let (here, there, back) = (sqlite().await, postgres().await, sqlite().await);
        here.directory.import(&made, &options()).await.expect("it is imported");
        for (from, to, format) in [(&here, &there, Format::Toml), (&there, &back, Format::Csv)] {
            let files = export(&from.directory, format).await;
            to.directory
                .import(&files, &options())
                .await
                .unwrap_or_else(|why| panic!("seed {seed}: {why:?}\n{files:#?}"));
            assert_eq!(export(&to.directory, format).await, files, "seed {seed}");
            assert_eq!(export(&to.directory, Format::Toml).await, made, "seed {seed}");
        }
    }
}

#[test]
fn no_text_makes_the_readers_panic() {
    let files = file::write(&random(1), Format::Toml, None, true);
    let files = files.into_iter().chain(file::write(&random(2), Format::Csv, None, true));
    for mut file in files {
        let dice = &mut Dice(3);
        for _ in 0..400 {
            let mut bytes = file.text.clone().into_bytes();
            for _ in 0..1 + dice.roll(4) {
                let at = dice.roll(bytes.len() as u64) as usize;
                bytes[at] = b"\"[]=,\n\\x;\xff"[dice.roll(10) as usize];
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mutated = SourceFile { text, ..file.clone() };
            let mut faults = Faults::default();
            let records = file::read(&[mutated], &mut faults);
            file::Wanted::of(records, None, &mut faults);
        }
        file.text.clear();
    }
}
