use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use abi::Counter;
use driver::{Config, DriverError, MediaChoice};

use crate::plane::{Plane, ask_options, config, wait_for};

on_both!(stops_and_starts_on_the_same_ports);
fn stops_and_starts_on_the_same_ports(media: MediaChoice) {
    let mut plane = Plane::start(2, media);
    for round in 1..=3 {
        ask_options(&plane, 0, &format!("r{round}"));
        wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
        let record = plane.region().header().data_plane();
        assert_eq!(record.incarnation, round);
        let (folder, config) = plane.stop();
        plane = Plane::start_with(folder, config);
    }
    assert_eq!(plane.count(Counter::BindFailed), 0, "a stop leaves no port bound");
    plane.stop();
}

/// The other process of the test below; by itself it does nothing.
#[test]
fn killed_child() {
    let Ok(folder) = std::env::var("JACKFIELD_TEST_FOLDER") else { return };
    let sip: u16 = std::env::var("JACKFIELD_TEST_SIP").expect("a port").parse().expect("a port");
    let media = match std::env::var("JACKFIELD_TEST_MEDIA").as_deref() {
        Ok("recvmmsg") => MediaChoice::Recvmmsg,
        Ok("auto") => MediaChoice::Auto,
        _ => MediaChoice::IoUring,
    };
    let config =
        moved(config(&tempfile::tempdir().expect("a folder"), 2, media), folder.as_ref(), sip);
    let running = driver::run_telling(config, Arc::new(AtomicBool::new(false)), |notice| {
        if notice == driver::Notice::Running {
            println!("\nrunning");
        }
    });
    panic!("it is killed, and never ends by itself: {running:?}");
}

fn moved(mut config: Config, folder: &std::path::Path, sip: u16) -> Config {
    config.region = folder.join("region");
    config.socket = folder.join("control.sock");
    for location in &mut config.locations {
        location.sip_port = sip;
    }
    let ports = config.rtp_ports.1 - config.rtp_ports.0;
    config.rtp_ports = (sip + 1, sip + 1 + ports);
    config
}

/// A process that does not outlive its value.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

on_both!(starts_at_once_where_a_process_was_killed);
fn starts_at_once_where_a_process_was_killed(media: MediaChoice) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(&folder, 2, media);
    for round in 0..3 {
        let mut child = Killed(
            Command::new(std::env::current_exe().expect("this test"))
                .args(["restart::killed_child", "--exact", "--nocapture"])
                .env("JACKFIELD_TEST_FOLDER", folder.path())
                .env("JACKFIELD_TEST_SIP", config.locations[0].sip_port.to_string())
                .env(
                    "JACKFIELD_TEST_MEDIA",
                    if media == MediaChoice::Recvmmsg { "recvmmsg" } else { "io_uring" },
                )
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child"),
        );
        let output = BufReader::new(child.0.stdout.take().expect("it is piped"));
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "running"), "round {round}");
        if round == 2 {
            break;
        }
        drop(child);
    }
    // The last child is dead, and so new that the kernel still has its ring.
    let plane = Plane::start_with(folder, config);
    assert_eq!(plane.region().header().data_plane().incarnation, 4);
    ask_options(&plane, 1, "k");
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    plane.stop();
}

#[test]
fn errors_name_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(&folder, 1, MediaChoice::Auto);
    let sip = (config.locations[1].ip, config.locations[1].sip_port);
    let squatter = UdpSocket::bind(sip).expect("it is free");
    let run = |config: &Config| {
        driver::run(config.clone(), Arc::new(AtomicBool::new(false))).expect_err("it cannot run")
    };
    let error = run(&config).to_string();
    let expected = format!("SIP port of location west: bind {}:{}/udp: Address", sip.0, sip.1);
    assert!(error.starts_with(&expected), "{error}");
    drop(squatter);

    let broken = |change: fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        run(&config)
    };
    for (change, rule) in [
        ((|config| config.cores.clear()) as fn(&mut Config), "cores"),
        (|config| config.locations.clear(), "locations"),
        (|config| config.locations[1].ip = config.locations[0].ip, "locations"),
        (|config| config.locations[0].sip_port = 0, "locations"),
        (|config| config.rtp_ports = (30_000, 30_000), "rtp_ports"),
    ] {
        let error = broken(change);
        assert!(matches!(&error, DriverError::Config(what) if what.starts_with(rule)), "{error}");
    }
    let error = broken(|config| config.cores = vec![1_023]);
    assert!(error.to_string().starts_with("worker 0 on core 1023: "), "{error}");
    let error = broken(|config| config.sizes.ring_slots = 3);
    assert!(error.to_string().starts_with("region: "), "{error}");
}

on_both!(a_range_with_more_ports_than_files_may_be_open_is_served_as_far_as_they_go);
fn a_range_with_more_ports_than_files_may_be_open_is_served_as_far_as_they_go(media: MediaChoice) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&folder, 1, media);
    // 57,000 sockets at two addresses; the limit is lower on most machines.
    config.rtp_ports = (32_000, 60_600);
    let plane = Plane::start_with(folder, config);
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 100);
    ask_options(&plane, 0, "wide");
    plane.stop();
}
