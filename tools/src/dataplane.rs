//! `jackfield dataplane`: one CCB's data plane, told to systemd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use driver::{CaptureServer, MediaChoice, Notice};
use sd_notify::NotifyState;

use crate::cli;
use crate::config::{Ccb, Config, Media, XdpMode};
use crate::process;

/// Runs it until SIGTERM or SIGINT.
pub fn run(options: &cli::Dataplane) -> Result<(), String> {
    process::die_with_parent(options.die_with_parent)?;
    let config = Config::load(&options.config)?;
    let ccb = config.ccb(options.ccb)?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    process::on_stop_signal(move || {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        told.store(true, Ordering::Release);
    })?;
    let mut supervisor = Supervisor::new();
    driver::run_telling(driver_config(ccb), stop, |notice| supervisor.tell(notice))
        .map_err(|error| error.to_string())
}

fn driver_config(ccb: &Ccb) -> driver::Config {
    let location = |location: &crate::config::Location| worker::Location {
        name: location.name.clone(),
        ip: location.ip,
        sip_port: location.sip_port,
        streams: worker::StreamPorts {
            tcp: location.streams.tcp,
            tls: location.streams.tls_port,
            ws: location.streams.ws_port,
            wss: location.streams.wss_port,
        },
    };
    let modes = ccb.media.interfaces.iter().map(|(name, mode)| (name.clone(), xdp_mode(*mode)));
    driver::Config {
        ccb: ccb.number,
        region: ccb.region.clone(),
        socket: ccb.socket.clone(),
        cores: ccb.cores.clone(),
        locations: ccb.locations.iter().map(location).collect(),
        streams: driver::StreamSettings {
            tls: ccb.locations.iter().map(tls_settings).collect(),
            certificates: ccb.certificates.clone(),
            ..driver::StreamSettings::default()
        },
        rtp_ports: ccb.rtp_ports,
        sizes: ccb.sizes,
        limits: worker::Limits::default(),
        media: match ccb.media.media {
            Media::Auto => MediaChoice::Auto,
            Media::IoUring => MediaChoice::IoUring,
            Media::Recvmmsg => MediaChoice::Recvmmsg,
            Media::Xdp => MediaChoice::Xdp,
        },
        media_timeout: (ccb.media.timeout_s > 0)
            .then(|| Duration::from_secs(ccb.media.timeout_s.into())),
        session: worker::SessionWishes {
            interval_s: ccb.media.session_s,
            min_s: ccb.media.session_min_s,
        },
        xdp: driver::XdpSettings {
            mode: xdp_mode(ccb.media.mode),
            modes: modes.collect(),
            bpffs: Some(ccb.media.bpffs.clone()),
        },
        spool: ccb.media.spool.clone(),
        prompts: ccb.media.prompts.clone(),
        capture: ccb.hep.clone().map(|address| CaptureServer { address, agent: ccb.hep_agent }),
    }
}

fn tls_settings(location: &crate::config::Location) -> driver::TlsSettings {
    driver::TlsSettings {
        identity: location.streams.identity.clone(),
        ca: location.streams.ca.clone(),
        verify: location.streams.verify,
        ask_clients: location.streams.ask_clients,
    }
}

fn xdp_mode(mode: XdpMode) -> driver::xdp::XdpMode {
    match mode {
        XdpMode::Auto => driver::xdp::XdpMode::Auto,
        XdpMode::Native => driver::xdp::XdpMode::Native,
        XdpMode::Generic => driver::xdp::XdpMode::Generic,
        XdpMode::Off => driver::xdp::XdpMode::Off,
    }
}

/// systemd's watchdog, when there is one (Type=notify, WatchdogSec).
///
/// The driver says [`Notice::Alive`] only while every worker goes through its duty cycle, so a
/// worker that hangs starves the watchdog though the process lives.
struct Supervisor {
    interval: Option<Duration>,
    last: Option<Instant>,
}

impl Supervisor {
    fn new() -> Self {
        // Twice as often as systemd recommends, for the notices come in steps of their own.
        Supervisor { interval: sd_notify::watchdog_enabled().map(|limit| limit / 4), last: None }
    }

    fn tell(&mut self, notice: Notice) {
        // Without systemd there is nobody to tell.
        match notice {
            Notice::Running => {
                let _ = sd_notify::notify(&[
                    NotifyState::Ready,
                    NotifyState::Status("running normally"),
                ]);
            }
            Notice::Alive => {
                let due = |last: Instant| self.interval.is_some_and(|i| last.elapsed() >= i);
                if self.interval.is_some() && self.last.is_none_or(due) {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                    self.last = Some(Instant::now());
                }
            }
        }
    }
}
