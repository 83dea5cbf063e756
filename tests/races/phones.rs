//! Phones on one thread: those of the agents who are fought for, and those of callers on a trunk of every blade.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use base::{Instant, Rng};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde_json::Value;
use softphone::{Event, Input, Order, Output, Phone, PhoneConfig};

use crate::now;

/// Where agents' phones are.
const AGENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Where the trunk is.
pub const TRUNK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

struct Seat {
    phone: Phone,
    socket: UdpSocket,
}

/// All phones, by number.
#[derive(Default)]
pub struct Phones {
    seats: Vec<Seat>,
    buffer: Vec<u8>,
    out: Vec<Output>,
    pub news: Vec<(usize, Event)>,
}

impl Phones {
    /// A phone of an agent, by the answer of its login.
    pub fn add_agent(&mut self, login: &Value) -> usize {
        let phone = &login["phone"];
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let port = phone["addresses"][0]["port"].as_u64().expect("a port") as u16;
        self.add(AGENTS, port, &text(&phone["user"]), |config| {
            config.auth_user = text(&phone["auth_user"]);
            config.realm = text(&phone["realm"]);
            config.secret = text(&phone["secret"]);
        })
    }

    /// A caller's phone, whose calls come to the blade with that SIP port.
    pub fn add_caller(&mut self, port: u16) -> usize {
        let user = format!("caller{}", self.seats.len());
        self.add(TRUNK, port, &user, |_| {})
    }

    fn add(
        &mut self,
        ip: Ipv4Addr,
        port: u16,
        user: &str,
        change: impl FnOnce(&mut PhoneConfig),
    ) -> usize {
        let socket = UdpSocket::bind((ip, 0)).expect("a port");
        socket.set_nonblocking(true).expect("set");
        let sip = socket.local_addr().expect("bound");
        // Nobody sends anything there: both ends of every call are silent.
        let rtp = SocketAddr::new(ip.into(), 40_000);
        let mut config = PhoneConfig::new(user, SocketAddr::from((AGENTS, port)), sip, rtp);
        config.media = false;
        config.listen = false;
        config.transactions = 16_384;
        change(&mut config);
        let number = self.seats.len();
        let phone = Phone::new(config, Rng::from_number(number as u64 + 1));
        self.seats.push(Seat { phone, socket });
        number
    }

    pub fn order(&mut self, phone: usize, order: Order) {
        self.handle(phone, Input::Order(order));
    }

    pub fn is_busy(&self, phone: usize) -> bool {
        self.seats[phone].phone.is_busy()
    }

    /// Waits for at most so long for datagrams and timers, and takes them; what the phones tell is in `news`.
    pub fn turn(&mut self, limit: Duration) {
        let due = self.seats.iter().filter_map(|seat| seat.phone.deadline()).min();
        let wait = due.map_or(limit, |due| due.since(now()).min(limit));
        let mut fds: Vec<PollFd<'_>> =
            self.seats.iter().map(|seat| PollFd::new(&seat.socket, PollFlags::IN)).collect();
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
        let _ = poll(&mut fds, Some(&wait));
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let at = now();
        for (phone, is_ready) in ready.into_iter().enumerate() {
            if self.seats[phone].phone.deadline().is_some_and(|due| due <= at) {
                self.handle(phone, Input::Timeout);
            }
            if is_ready {
                self.receive(phone);
            }
        }
    }

    fn receive(&mut self, phone: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(65_536, 0);
        loop {
            match self.seats[phone].socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    self.handle(phone, Input::Sip { from, datagram: &buffer[..length] });
                }
                // A dead blade's port says so once.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        self.buffer = buffer;
    }

    fn handle(&mut self, phone: usize, input: Input<'_>) {
        let mut out = std::mem::take(&mut self.out);
        let seat = &mut self.seats[phone];
        let at: Instant = now();
        seat.phone.handle(at, input, &mut out);
        for output in out.drain(..) {
            match output {
                Output::Sip { to, datagram } => _ = seat.socket.send_to(&datagram, to),
                Output::Event(event) => self.news.push((phone, event)),
                Output::Rtp { .. } | Output::Rtcp { .. } => {}
            }
        }
        self.out = out;
    }
}
