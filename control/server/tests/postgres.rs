//! Control processes over a directory in PostgreSQL, which may go away.

#[path = "postgres/mod.rs"]
mod cluster;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::Postgres;
use control_server::{Directory, DirectoryPlace, Identity};
use serde_json::json;
use world::World;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it ends well")
}

fn place(url: &str) -> DirectoryPlace {
    url.parse().expect("a place")
}

#[tokio::test]
async fn a_login_over_postgresql_outlives_a_restart() {
    let cluster = blocking(Postgres::shared).await;
    let mut world = World::start_at(folder(), place(&cluster.database())).await;
    let _plane = world.data_plane().await;
    let first = world.login("1001", "").await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.json()["phone"]["user"], "1001.demo");
    assert_eq!(first.json()["phone"]["addresses"][0]["port"], 5060);
    world.stop_control().await;
    world.start_control().await;
    world.until("a CCB", async || world.get("/healthz").await.status == 200).await;
    let token = first.json()["token"].as_str().expect("a token").to_owned();
    let again = world.post("/v1/login", &json!({ "token": token }).to_string()).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(world.login("1002", r#","location":"east""#).await.status, 200);
    let nul = world.login("10\\u000001", "").await;
    assert_eq!(nul.status, 401, "{nul:?}");
    let status = world.admin("GET", "/v1/status").await.json();
    assert_eq!(status["directory"]["kind"], "postgres");
    assert_eq!(status["directory"]["state"], "there");
}

#[tokio::test]
async fn blades_that_share_a_directory_never_draw_the_same_epoch() {
    let cluster = blocking(Postgres::shared).await;
    let url = cluster.database();
    let world = World::start_at(folder(), place(&url)).await;
    let mut draws = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let blade = Directory::open(&place(&url)).await.expect("it opens");
        let tenant = blade.tenant("demo").await.expect("an answer").expect("it is there").id;
        let agent = blade.agent(tenant, Identity::Agent("1001")).await.expect("an answer");
        let agent = agent.expect("it is there").id;
        for _ in 0..4 {
            let blade = blade.clone();
            draws.spawn(async move {
                let mut drawn = Vec::new();
                for _ in 0..50 {
                    drawn.push(blade.next_epoch(agent).await.expect("an epoch"));
                }
                drawn
            });
        }
    }
    let drawn: Vec<u32> = draws.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<u32> = drawn.iter().copied().collect();
    assert_eq!(distinct, (1..=400).collect(), "each epoch is drawn once");
    assert_eq!(drawn.len(), 400);
    drop(world);
}

#[tokio::test]
async fn a_killed_database_costs_logins_a_503_and_nothing_else() {
    let cluster = Arc::new(blocking(Postgres::start).await);
    let url = cluster.database();
    let mut world = World::start_at(folder(), place(&url)).await;
    let _plane = world.data_plane().await;
    let first = world.login("1001", "").await;
    assert_eq!(first.status, 200, "{first:?}");

    // Logins go on while it is killed: each is granted or told why not.
    let killer = {
        let cluster = cluster.clone();
        tokio::task::spawn_blocking(move || cluster.kill())
    };
    let mut refused = None;
    for _ in 0..40 {
        let answer = world.login("1002", "").await;
        match answer.status {
            200 => {}
            503 => {
                refused = Some(answer);
                break;
            }
            _ => panic!("{answer:?}"),
        }
    }
    killer.await.expect("it ends well");
    let refused = refused.expect("a login finds nobody");
    assert_eq!(refused.json()["error"]["code"], "directory_away");
    assert!(refused.head.contains("retry-after: 2"), "{refused:?}");
    let status = world.admin("GET", "/v1/status").await;
    assert_eq!(status.json()["directory"]["state"], "away");
    assert!(!status.body.contains(&url), "the URL is not shown whole");
    assert_eq!(world.get("/healthz").await.status, 503);
    assert_eq!(world.admin("GET", "/v1/agents").await.status, 200, "who is in is known");
    assert_eq!(world.admin("GET", "/v1/directory").await.status, 503);
    let token = json!({ "token": first.json()["token"] }).to_string();
    assert_eq!(world.post("/v1/logout", &token).await.status, 204, "a login ends without it");

    // A control process starts without it, too.
    world.stop_control().await;
    world.start_control().await;
    assert_eq!(world.login("1001", "").await.status, 503);
    {
        let cluster = cluster.clone();
        blocking(move || cluster.start_again()).await;
    }
    let mut tries = 0;
    loop {
        let answer = world.login("1001", "").await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        tries += 1;
        assert!(tries < 60, "{answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    world.until("health", async || world.get("/healthz").await.status == 200).await;
}

#[tokio::test]
async fn a_database_that_comes_later_is_waited_for() {
    let cluster = blocking(Postgres::shared).await;
    let url = cluster.url("later");
    let folder = folder();
    let opened = Directory::open(&place(&url)).await.expect("it is waited for");
    assert!(opened.is_away());
    {
        let cluster = cluster.clone();
        blocking(move || cluster.sql("postgres", "CREATE DATABASE later")).await;
    }
    let world = World::start_at(folder, place(&url)).await;
    // Whoever has just failed does not try again at once.
    world
        .until("directory", async || {
            opened.tenant("demo").await.is_ok_and(|tenant| tenant.is_some()) && !opened.is_away()
        })
        .await;
    drop(world);
}

#[tokio::test]
async fn another_blades_import_is_taken_over_and_logs_the_removed_out() {
    let cluster = blocking(Postgres::shared).await;
    let url = cluster.database();
    let world = World::start_at(folder(), place(&url)).await;
    let _plane = world.data_plane().await;
    for agent in ["1001", "1002", "1003"] {
        assert_eq!(world.login(agent, "").await.status, 200);
    }
    let files = world.admin("GET", "/v1/directory?format=csv").await.json();
    let without = |agent: &str| {
        let mut files = files.clone();
        let file = files["files"].as_array_mut().expect("files").iter_mut();
        let agents = file.into_iter().find(|file| file["name"] == "agents.csv").expect("agents");
        let text = agents["text"].as_str().expect("text").to_owned();
        let kept = text.lines().filter(|line| !line.starts_with(&format!("demo,{agent},")));
        agents["text"] = (kept.collect::<Vec<_>>().join("\n") + "\n").into();
        files
    };
    let same = world.admin_with("PUT", "/v1/directory?prune=true", &files).await;
    assert_eq!((same.status, &same.json()["changed"]), (200, &json!(0)), "{same:?}");
    let fewer = without("1001");
    let checked = world.admin_with("PUT", "/v1/directory?prune=true&check=true", &fewer).await;
    assert_eq!(checked.json()["tables"]["agent"]["removed"], 1);
    assert_eq!(world.states().await.len(), 3, "a check changes nothing");
    let here = world.admin_with("PUT", "/v1/directory?prune=true", &fewer).await;
    assert_eq!(here.json()["logged_out"], 1, "{here:?}");
    let names =
        async || world.states().await.into_iter().map(|(name, ..)| name).collect::<BTreeSet<_>>();
    assert_eq!(names().await.len(), 2);
    assert_eq!(world.login("1001", "").await.status, 401);

    // Another blade does it; nobody tells this one.
    let other = Directory::open(&place(&url)).await.expect("it opens");
    let gone = without("1002");
    let file =
        gone["files"].as_array().expect("files").iter().find(|it| it["name"] == "agents.csv");
    let mut file: control_server::SourceFile =
        serde_json::from_value(file.expect("agents").clone()).expect("a file");
    let kept = file.text.lines().filter(|line| !line.starts_with("demo,1001,"));
    file.text = kept.collect::<Vec<_>>().join("\n") + "\n";
    let options = control_server::ImportOptions { prune: true, ..Default::default() };
    let done = other.import(&[file], &options).await.expect("it is imported");
    assert_eq!(done.changes, ["removed agent demo/1002"]);
    for _ in 0..100 {
        if names().await == BTreeSet::from(["1003".to_owned()]) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("still there: {:?}", names().await);
}
