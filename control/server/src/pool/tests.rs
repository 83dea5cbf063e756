use super::*;
use base::CcbId;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

const CCB: SlotId = SlotId::Ccb(CcbId(7));
const LIMIT: Duration = Duration::from_secs(20);

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    let event = tokio::time::timeout(LIMIT, events.recv()).await;
    event.expect("it is told in time").expect("the keeper lives")
}

async fn next_pid(events: &mut mpsc::UnboundedReceiver<Event>) -> (u32, u64) {
    match next(events).await {
        Event::Runs(CCB, process) => process,
        other => panic!("{other:?}"),
    }
}

fn by(driver: Driver) -> Config {
    Config { slots: Vec::new(), ccbs: driver.clone(), agent_proxies: driver, marks: None }
}

fn sleeper() -> Config {
    by(Driver::Process { program: "/bin/sleep".into(), arguments: vec!["1000%i".into()] })
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("it is a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
}

#[tokio::test]
async fn a_process_is_started_restarted_and_stopped() {
    let (done, mut events) = mpsc::unbounded_channel();
    let keeper = Keeper::new(CCB, &sleeper(), None, done);
    keeper.order(SlotOrder::Start);
    let (first, _) = next_pid(&mut events).await;
    // A process is there a moment before its arguments are.
    let mut line = Vec::new();
    while line.is_empty() {
        line = std::fs::read(format!("/proc/{first}/cmdline")).expect("it runs");
        tokio::task::yield_now().await;
    }
    assert!(line.ends_with(b"10007\0"), "the number stands for %i");
    kill(first);
    let (second, _) = next_pid(&mut events).await;
    assert_ne!(first, second);
    keeper.order(SlotOrder::Stop);
    assert!(matches!(next(&mut events).await, Event::Stopped(CCB)));
    assert!(
        !is_there(second)
            || std::fs::read(format!("/proc/{second}/cmdline")).is_ok_and(|l| l.is_empty())
    );
    // Stopping what is stopped is answered, too.
    keeper.order(SlotOrder::Stop);
    assert!(matches!(next(&mut events).await, Event::Stopped(CCB)));
}

#[tokio::test]
async fn a_later_control_process_takes_over_what_runs() {
    let (done, mut events) = mpsc::unbounded_channel();
    let keeper = Keeper::new(CCB, &sleeper(), None, done.clone());
    keeper.order(SlotOrder::Start);
    let process = next_pid(&mut events).await;
    drop(keeper);
    assert!(is_there(process.0), "it outlives control");
    let keeper = Keeper::new(CCB, &sleeper(), Some(process), done.clone());
    keeper.order(SlotOrder::Start);
    keeper.order(SlotOrder::Stop);
    assert!(matches!(next(&mut events).await, Event::Stopped(CCB)), "none other was started");
    // Of another process of that number it keeps its hands off.
    let mut other =
        std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("it starts");
    let keeper = Keeper::new(CCB, &sleeper(), Some((other.id(), 1)), done);
    keeper.order(SlotOrder::Stop);
    assert!(matches!(next(&mut events).await, Event::Stopped(CCB)));
    assert!(other.try_wait().expect("it is our child").is_none());
    other.kill().expect("it is our child");
    other.wait().expect("it is our child");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_tried_until_it_is_given_up() {
    let (done, mut events) = mpsc::unbounded_channel();
    let driver = Driver::Process { program: "/nonexistent".into(), arguments: vec![] };
    let keeper = Keeper::new(CCB, &by(driver), None, done);
    keeper.order(SlotOrder::Start);
    keeper.order(SlotOrder::Stop);
    assert!(matches!(next(&mut events).await, Event::Stopped(CCB)));
}

#[tokio::test]
async fn systemd_is_asked_for_the_unit_of_the_slot() {
    let folder = tempfile::tempdir().expect("there is room");
    let systemctl = folder.path().join("systemctl");
    let said = folder.path().join("said");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", said.display());
    std::fs::write(&systemctl, script).expect("there is room");
    std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o700)).expect("ours");
    let (done, mut events) = mpsc::unbounded_channel();
    let driver = Driver::Systemd { systemctl, unit: "jackfield-ccb@%i.service".into() };
    let keeper = Keeper::new(CCB, &by(driver), None, done);
    keeper.order(SlotOrder::Start);
    keeper.order(SlotOrder::Stop);
    assert!(matches!(next(&mut events).await, Event::Stopped(CCB)));
    let said = std::fs::read_to_string(said).expect("it was called");
    let lines: Vec<_> = said.lines().collect();
    let of = |verb| format!("--no-ask-password --quiet {verb} jackfield-ccb@7.service");
    assert_eq!(lines, [of("start"), of("stop")]);
}

#[test]
fn slots_are_remembered() {
    let folder = tempfile::tempdir().expect("there is room");
    let slot = |state| Remembered { state, process: None };
    let proxy = SlotId::AgentProxy(1);
    let memory = Memory::from([
        ("1".to_owned(), slot(SlotState::Draining)),
        ("2".to_owned(), slot(SlotState::Stopping)),
        (key(proxy), slot(SlotState::Running)),
    ]);
    write(&folder.path().join(FILE), &memory);
    let ccbs = [1, 2, 3].map(|ccb| SlotId::Ccb(CcbId(ccb)));
    let slots = remembered(folder.path(), &[&ccbs[..], &[proxy]].concat());
    let states: Vec<_> = slots.into_iter().map(|(_, state)| state).collect();
    use SlotState::{Draining, Free, Running};
    assert_eq!(states, [Draining, Free, Free, Running]);
    std::fs::write(folder.path().join(FILE), b"{\"1\":").expect("there is room");
    assert_eq!(remembered(folder.path(), &ccbs[..1]), [(ccbs[0], SlotState::Free)]);
}
