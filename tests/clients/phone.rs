//! The house's own softphone on real sockets: for tests that kill things, where each packet counts.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Wall};

use crate::lab::Host;
use base::{Instant, Rng};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use softphone::{Event, Input, Order, Output, Phone, PhoneConfig, Report};

/// How long a thread waits for packets before it looks for orders.
const POLL_MS: u64 = 2;

pub struct Softphone {
    orders: Sender<Order>,
    events: Receiver<Event>,
    heard: Arc<Heard>,
    thread: Option<JoinHandle<Report>>,
}

type Samples = Mutex<VecDeque<i16>>;

/// What tones are looked for in: 200 ms, so that those 50 Hz apart are told from each other.
const BLOCK: usize = 1_600;
/// The share of what is heard that a tone has at least.
const SHARE: f64 = 0.08;
/// Nothing is heard any more when no packet came for so long.
const SILENT: Duration = Duration::from_millis(200);
/// What is quieter than this is silence.
const QUIET: f64 = 50.0;

/// What the phone's thread tells while it runs.
#[derive(Default)]
struct Heard {
    gap_us: AtomicU64,
    /// When the newest RTP packet of the present call came, in microseconds since the first phone; 0 is none.
    last_us: AtomicU64,
    is_busy: AtomicBool,
    /// The call that stands, as a Replaces header names it.
    dialog: Mutex<Option<String>>,
    /// What it heard in the last 200 ms.
    samples: Samples,
}

/// How often any phone told something so far, and who waits for that.
static NEWS: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());

fn tell_all() {
    *NEWS.0.lock().expect("whole") += 1;
    NEWS.1.notify_all();
}

/// Waits until some phone told something since `seen`, or began or ended a call; no longer than `until`.
pub fn await_news(seen: &mut u64, until: Wall) {
    let limit = until.saturating_duration_since(Wall::now());
    let told = NEWS.0.lock().expect("whole");
    let (told, _) = NEWS.1.wait_timeout_while(told, limit, |told| *told == *seen).expect("whole");
    *seen = *told;
}

/// Microseconds by the clock of all phones.
fn clock_us() -> u64 {
    static BEGUN: std::sync::OnceLock<Wall> = std::sync::OnceLock::new();
    BEGUN.get_or_init(Wall::now).elapsed().as_micros() as u64 + 1
}

impl Softphone {
    /// A phone set up from nothing but the answer of `/v1/login`, at an address of this machine.
    pub fn start(login: &Value, ip: IpAddr, tone_hz: u32) -> Softphone {
        Softphone::start_for(login, ip, tone_hz, 3_600)
    }

    /// The same, registering for so many seconds at a time.
    pub fn start_for(login: &Value, ip: IpAddr, tone_hz: u32, expires_s: u32) -> Softphone {
        Softphone::with(Sockets::bind(ip).expect("three ports"), login, tone_hz, expires_s)
    }

    /// A phone on another host.
    pub fn start_on(host: &Host, login: &Value, ip: IpAddr, tone_hz: u32) -> Softphone {
        let sockets = host.enter(|| Sockets::bind(ip).expect("three ports"));
        Softphone::with(sockets, login, tone_hz, 3_600)
    }

    fn with(sockets: Sockets, login: &Value, tone_hz: u32, expires_s: u32) -> Softphone {
        let phone = &login["phone"];
        let text = |value: &Value| {
            value.as_str().unwrap_or_else(|| panic!("no text in {phone}")).to_owned()
        };
        let address = &phone["addresses"][0];
        let host: IpAddr = text(&address["host"]).parse().expect("an address");
        let port = address["port"].as_u64().expect("a port") as u16;
        let registrar = SocketAddr::new(host, port);
        let mut config = PhoneConfig::new(
            &text(&phone["user"]),
            registrar,
            sockets.sip.local_addr().expect("bound"),
            sockets.rtp.local_addr().expect("bound"),
        );
        config.auth_user = text(&phone["auth_user"]);
        config.realm = text(&phone["realm"]);
        config.secret = text(&phone["secret"]);
        config.tone_hz = tone_hz;
        config.expires_s = expires_s;
        config.ring = Some(Duration::from_millis(50));
        let (orders, to_phone) = channel();
        let (from_phone, events) = channel();
        let heard = Arc::new(Heard::default());
        let tell = Arc::clone(&heard);
        let thread = std::thread::spawn(move || sockets.run(config, &to_phone, &from_phone, &tell));
        Softphone { orders, events, heard, thread: Some(thread) }
    }

    /// Which of these tones it hears just now, in Hz.
    pub fn hears(&self, tones: &[u32]) -> BTreeSet<u32> {
        let samples: Vec<f64> = {
            let heard = self.heard.samples.lock().expect("whole");
            heard.iter().map(|sample| f64::from(*sample)).collect()
        };
        let energy: f64 = samples.iter().map(|sample| sample * sample).sum();
        if samples.len() < BLOCK || energy < QUIET * QUIET * BLOCK as f64 {
            return BTreeSet::new();
        }
        let is_heard = |tone: &&u32| {
            // Goertzel.
            let turn = 2.0 * std::f64::consts::PI * f64::from(**tone) / 8_000.0;
            let (mut one, mut two) = (0.0, 0.0);
            for sample in &samples {
                (one, two) = (sample + 2.0 * turn.cos() * one - two, one);
            }
            let power = one * one + two * two - 2.0 * turn.cos() * one * two;
            2.0 * power / (samples.len() as f64 * energy) > SHARE
        };
        tones.iter().filter(is_heard).copied().collect()
    }

    pub fn order(&self, order: Order) {
        self.orders.send(order).expect("the phone runs");
    }

    /// Waits for an event of that kind; others before it pass by.
    pub fn expect(&self, limit: Duration, what: &str, is_it: impl Fn(&Event) -> bool) {
        let end = Wall::now() + limit;
        let mut seen = Vec::new();
        loop {
            match self.events.recv_timeout(end.saturating_duration_since(Wall::now())) {
                Ok(event) if is_it(&event) => return,
                Ok(event) => seen.push(event),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("not {what} within {limit:?}, but {seen:?}")
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the phone died"),
            }
        }
    }

    /// The next event, when one comes in time.
    pub fn next(&self, limit: Duration) -> Option<Event> {
        self.events.recv_timeout(limit).ok()
    }

    pub fn register(&self) {
        self.order(Order::Register);
        self.expect(Duration::from_secs(5), "registered", |event| {
            matches!(event, Event::Registered { .. })
        });
    }

    pub fn call(&self, number: &str) {
        self.order(Order::Call(number.to_owned()));
        self.expect(Duration::from_secs(5), "answered", |event| *event == Event::Answered);
    }

    /// Waits until the other side has hung up, and what it said of it has arrived.
    pub fn expect_end(&self) {
        self.expect(Duration::from_secs(5), "ended", |event| matches!(event, Event::Ended(_)));
        std::thread::sleep(Duration::from_millis(50));
    }

    pub fn hang_up(&self) {
        self.order(Order::HangUp);
        self.expect(Duration::from_secs(5), "ended", |event| matches!(event, Event::Ended(_)));
    }

    /// The longest time between two RTP packets of one call since this was asked last.
    pub fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.heard.gap_us.swap(0, Ordering::Relaxed))
    }

    /// True while it has a call.
    pub fn is_busy(&self) -> bool {
        self.heard.is_busy.load(Ordering::Relaxed)
    }

    /// The call that stands, as a Replaces header names it.
    pub fn dialog(&self) -> Option<String> {
        self.heard.dialog.lock().expect("whole").clone()
    }

    /// For how long no RTP of the present call has come; none before the first packet.
    pub fn silence(&self) -> Option<Duration> {
        let last = self.heard.last_us.load(Ordering::Relaxed);
        (last > 0).then(|| Duration::from_micros(clock_us().saturating_sub(last)))
    }

    /// Ends the phone and says what it saw.
    pub fn end(mut self) -> Report {
        let (gone, _) = channel();
        self.orders = gone;
        self.thread.take().expect("it runs").join().expect("the phone ends well")
    }
}

struct Sockets {
    sip: UdpSocket,
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

impl Sockets {
    fn bind(ip: IpAddr) -> io::Result<Sockets> {
        let sip = UdpSocket::bind((ip, 0))?;
        // RFC 3550, 11: RTP on an even port, RTCP on the next.
        for _ in 0..1_000 {
            let rtp = UdpSocket::bind((ip, 0))?;
            let port = rtp.local_addr()?.port();
            if let (0, Some(next)) = (port % 2, port.checked_add(1))
                && let Ok(rtcp) = UdpSocket::bind((ip, next))
            {
                for socket in [&sip, &rtp, &rtcp] {
                    socket.set_nonblocking(true)?;
                }
                return Ok(Sockets { sip, rtp, rtcp });
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn run(
        &self,
        config: PhoneConfig,
        orders: &Receiver<Order>,
        events: &Sender<Event>,
        heard: &Heard,
    ) -> Report {
        let begun = Wall::now();
        let now = || Instant::from_nanos(begun.elapsed().as_nanos() as u64);
        let seed = u64::from(config.sip.port());
        let mut phone = Phone::new(config, Rng::from_number(seed));
        let mut last_rtp: Option<Wall> = None;
        let mut buffer = vec![0; 65_536];
        let mut out = Vec::new();
        loop {
            match orders.try_recv() {
                Ok(order) => phone.handle(now(), Input::Order(order), &mut out),
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    return phone.report();
                }
            }
            self.send(&mut out, events);
            let wait = phone
                .deadline()
                .map_or(POLL_MS * 1_000_000, |deadline| deadline.since(now()).as_nanos() as u64);
            let wait =
                rustix::time::Timespec { tv_sec: 0, tv_nsec: wait.min(POLL_MS * 1_000_000) as i64 };
            let mut fds =
                [&self.sip, &self.rtp, &self.rtcp].map(|socket| PollFd::new(socket, PollFlags::IN));
            let _ = poll(&mut fds, Some(&wait));
            if phone.deadline().is_some_and(|deadline| deadline <= now()) {
                phone.handle(now(), Input::Timeout, &mut out);
            }
            while let Some((socket, from, len)) = self.receive(&mut buffer) {
                let datagram = &buffer[..len];
                let input = match socket {
                    0 => Input::Sip { from, datagram },
                    1 => {
                        let at = Wall::now();
                        if let Some(last) = last_rtp.replace(at).filter(|_| phone.is_busy()) {
                            let gap_us = (at - last).as_micros() as u64;
                            heard.gap_us.fetch_max(gap_us, Ordering::Relaxed);
                        }
                        listen(datagram, &heard.samples);
                        heard.last_us.store(clock_us(), Ordering::Relaxed);
                        Input::Rtp(datagram)
                    }
                    _ => Input::Rtcp(datagram),
                };
                phone.handle(now(), input, &mut out);
            }
            if last_rtp.is_none_or(|at| at.elapsed() > SILENT) {
                heard.samples.lock().expect("whole").clear();
            }
            if !phone.is_busy() {
                last_rtp = None;
                heard.last_us.store(0, Ordering::Relaxed);
            }
            if heard.is_busy.swap(phone.is_busy(), Ordering::Relaxed) != phone.is_busy() {
                tell_all();
            }
            *heard.dialog.lock().expect("whole") = phone.dialog();
            self.send(&mut out, events);
        }
    }

    /// The next datagram for the phone, in the buffer, and which socket it came by.
    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr, usize)> {
        let mut sockets = [&self.sip, &self.rtp, &self.rtcp].into_iter().enumerate();
        sockets.find_map(|(number, socket)| {
            socket.recv_from(buffer).ok().map(|(len, from)| (number, from, len))
        })
    }

    fn send(&self, out: &mut Vec<Output>, events: &Sender<Event>) {
        for output in out.drain(..) {
            // A peer that is dead right now answers by ICMP, which says nothing new.
            match output {
                Output::Sip { to, datagram } => drop(self.sip.send_to(&datagram, to)),
                Output::Rtp { to, packet, .. } => drop(self.rtp.send_to(&packet, to)),
                Output::Rtcp { to, packet } => drop(self.rtcp.send_to(&packet, to)),
                Output::Event(event) => {
                    let _ = events.send(event);
                    tell_all();
                }
            }
        }
    }
}

/// Keeps what a packet sounds like.
fn listen(packet: &[u8], samples: &Samples) {
    let Ok(rtp) = media::wire::Rtp::parse(packet) else { return };
    let Some(law) = media::g711::Law::of_payload_type(rtp.payload_type()) else { return };
    let mut samples = samples.lock().expect("whole");
    samples.extend(rtp.payload().iter().map(|code| law.decode(*code)));
    let over = samples.len().saturating_sub(BLOCK);
    samples.drain(..over);
}
