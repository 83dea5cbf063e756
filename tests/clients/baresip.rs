//! Debian's baresip as a phone that is configured from nothing but a login's answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Host, Process, wait_for};

pub struct Baresip {
    pub process: Process,
    folder: PathBuf,
}

/// How a phone's SIP goes.
pub struct Way {
    /// The transport, as URIs name it.
    pub transport: &'static str,
    /// The root that it verifies certificates by.
    pub ca: Option<PathBuf>,
}

/// How a phone's media goes.
#[derive(Clone, Copy, Default)]
pub struct MediaWay {
    /// What it encrypts by, as its accounts name it: `srtp` offers it, `srtp-mand` insists on it.
    pub encryption: Option<&'static str>,
    /// RTCP by the port of RTP (RFC 5761).
    pub mux: bool,
}

/// What a phone recorded of the other side.
#[derive(Debug)]
pub struct Sound {
    pub seconds: f64,
    pub hz: f64,
}

impl Baresip {
    /// A phone on `host` at `ip` that sends a tone. With `dial` it calls that number at once, else it
    /// answers whoever calls.
    pub fn start(
        host: &Host,
        ip: &str,
        login: &Value,
        tone_hz: u32,
        dial: Option<&str>,
        folder: &Path,
    ) -> Baresip {
        let way = Way { transport: "udp", ca: None };
        Baresip::start_by(&way, host, ip, login, tone_hz, dial, folder)
    }

    /// The same with media that goes otherwise.
    pub fn start_with(
        media: MediaWay,
        host: &Host,
        ip: &str,
        login: &Value,
        tone_hz: u32,
        dial: Option<&str>,
        folder: &Path,
    ) -> Baresip {
        let way = Way { transport: "udp", ca: None };
        Baresip::start_so((&way, media), host, ip, login, tone_hz, dial, folder)
    }

    /// The same by any transport.
    pub fn start_by(
        way: &Way,
        host: &Host,
        ip: &str,
        login: &Value,
        tone_hz: u32,
        dial: Option<&str>,
        folder: &Path,
    ) -> Baresip {
        Baresip::start_so((way, MediaWay::default()), host, ip, login, tone_hz, dial, folder)
    }

    /// The same with media that goes otherwise.
    pub fn start_so(
        (way, media): (&Way, MediaWay),
        host: &Host,
        ip: &str,
        login: &Value,
        tone_hz: u32,
        dial: Option<&str>,
        folder: &Path,
    ) -> Baresip {
        let transport = way.transport;
        let folder = folder.join(format!("baresip-{ip}"));
        fs::create_dir_all(&folder).expect("a folder");
        let phone = &login["phone"];
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut addresses = phone["addresses"].as_array().expect("addresses").iter();
        let address = addresses.find(|address| address["transport"] == transport);
        let address = address.unwrap_or_else(|| panic!("nothing by {transport} in {phone}"));
        let sbc = format!("{}:{}", text(&address["host"]), address["port"]);
        let account = format!(
            "<sip:{}@{sbc};transport={transport}>;auth_user={};auth_pass={};regint=600;answermode={}{}\n",
            text(&phone["user"]),
            text(&phone["auth_user"]),
            text(&phone["secret"]),
            if dial.is_some() { "manual" } else { "auto" },
            media.encryption.map_or(String::new(), |by| format!(";mediaenc={by}")),
        );
        fs::write(folder.join("accounts"), account).expect("written");
        fs::write(folder.join("contacts"), "").expect("written");
        fs::write(folder.join("config"), config(ip, tone_hz, way, media, &folder))
            .expect("written");
        let mut command = host.command("baresip");
        command.arg("-f").arg(&folder).arg("-v");
        if let Some(number) = dial {
            command.arg("-e").arg(format!("/dial sip:{number}@{sbc};transport={transport}"));
        }
        let process = Process::start(&mut command, &folder, "baresip");
        Baresip { process, folder }
    }

    /// Waits for a line of its log.
    pub fn expect(&mut self, limit: Duration, line: &str) {
        let seen = wait_for(limit, || self.process.output().contains(line).then_some(()));
        assert!(seen.is_some(), "baresip did not say {line:?}:\n{}", self.process.output());
    }

    /// How often its log has such a line.
    pub fn said(&self, line: &str) -> usize {
        self.process.output().matches(line).count()
    }

    /// Ends it, and measures what it heard in the longest of its calls.
    pub fn heard(&mut self) -> Sound {
        self.process.stop();
        let recorded = fs::read_dir(&self.folder)
            .expect("readable")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with("-dec.wav"))
            .max_by_key(|path| fs::metadata(path).map_or(0, |file| file.len()));
        let recorded =
            recorded.unwrap_or_else(|| panic!("nothing recorded:\n{}", self.process.output()));
        measure(&fs::read(recorded).expect("readable"))
    }
}

fn config(ip: &str, tone_hz: u32, way: &Way, media: MediaWay, folder: &Path) -> String {
    let verified = way.ca.as_ref().map_or(String::new(), |ca| {
        format!("sip_cafile {}\nsip_verify_server yes\n", ca.display())
    });
    let mux = if media.mux { "yes" } else { "no" };
    let modules: String = ["g711", "ausine", "aubridge", "sndfile", "srtp"]
        .map(|name| format!("module {name}.so\n"))
        .concat();
    format!(
        "{verified}sip_listen {ip}:5070\nnet_interface {ip}\naudio_player aubridge,nowhere\naudio_alert aubridge,bell\n\
         audio_source ausine,{tone_hz}\nausrc_srate 48000\nauplay_srate 8000\nausrc_channels 2\n\
         auplay_channels 1\nrtp_ports 20000-20100\nrtcp_mux {mux}\njitter_buffer_delay 5-10\n\
         module_path /usr/lib/baresip/modules\n{modules}module_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\nctrl_tcp_listen {ip}:4444\n\
         snd_path {}\n",
        folder.display()
    )
}

/// Length and pitch of a 16-bit WAV: a tone crosses zero upwards once a period.
fn measure(wav: &[u8]) -> Sound {
    let word = |at: usize| u32::from_le_bytes(wav[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(&wav[..4], b"RIFF");
    let rate = f64::from(word(24));
    let samples: Vec<i16> = wav[44..]
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .skip_while(|sample| sample.abs() < 200)
        .collect();
    let upwards = samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
    let seconds = samples.len() as f64 / rate;
    Sound { seconds, hz: upwards as f64 / seconds }
}
