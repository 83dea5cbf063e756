//! Built-in phones with sockets: any number of them on one thread.
//!
//! The thread owns the phones and the clock; orders come in by a channel and an eventfd, news go
//! out by a channel of tokio's. Delay is measured without touching the audio: every packet sent is
//! noted under its source and sequence number, and found again by them where it arrives.

mod turn;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use base::{Instant, Rng, Timers};
use media::wire::Rtp;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::Timespec;
use softphone::{Event, Input, Order, Output, Phone, PhoneConfig, Report};
use tokio::sync::{mpsc as news, oneshot};

use crate::clock;
use crate::delays::Delays;
use turn::Turn;

/// Datagrams taken from one socket before the next one has its turn.
const BURST: usize = 64;
/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// Sequence numbers whose time of sending is kept: 20 s of 20 ms frames.
const NOTED: usize = 1_024;
/// How often a pair of neighbouring ports is sought.
const PORT_TRIES: u32 = 1_000;
/// The token of the eventfd; phones' tokens are far below.
const BELL: u64 = u64::MAX;

/// The ports of one phone; RTP and RTCP are none where something else sends and hears them.
pub struct Ports {
    sip: UdpSocket,
    media: Option<(UdpSocket, UdpSocket)>,
}

impl Ports {
    /// Three free ports at the address from which `peer` is reached.
    pub fn bind_towards(peer: SocketAddr) -> io::Result<Ports> {
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => [0_u16; 8].into(),
        };
        let sip = UdpSocket::bind((any, 0))?;
        // Connecting sends nothing; the kernel chooses the route and with it the address.
        sip.connect(peer)?;
        let ip = sip.local_addr()?.ip();
        let sip = UdpSocket::bind((ip, 0))?;
        let (rtp, rtcp) = bind_pair(ip)?;
        for socket in [&sip, &rtp, &rtcp] {
            socket.set_nonblocking(true)?;
        }
        Ok(Ports { sip, media: Some((rtp, rtcp)) })
    }

    /// A port for SIP alone at this address.
    pub fn bind_sip(ip: IpAddr) -> io::Result<Ports> {
        let sip = UdpSocket::bind((ip, 0))?;
        sip.set_nonblocking(true)?;
        Ok(Ports { sip, media: None })
    }

    /// Where SIP is received.
    pub fn sip(&self) -> io::Result<SocketAddr> {
        self.sip.local_addr()
    }

    /// Where RTP is received; not where these ports are without it.
    pub fn rtp(&self) -> io::Result<SocketAddr> {
        match &self.media {
            Some((rtp, _)) => rtp.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// RFC 3550, 11: RTP on an even port, RTCP on the next.
fn bind_pair(ip: IpAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES {
        let rtp = UdpSocket::bind((ip, 0))?;
        let port = rtp.local_addr()?.port();
        if port % 2 != 0 {
            continue;
        }
        match UdpSocket::bind((ip, port + 1)) {
            Ok(rtcp) => return Ok((rtp, rtcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a phone tells, and when.
#[derive(Clone, Debug)]
pub struct News {
    /// Which phone.
    pub phone: usize,
    /// What happened.
    pub event: Event,
    /// With [`Event::Answered`] of a call that the phone placed: from its INVITE to the 200.
    pub set_up: Option<Duration>,
    /// With [`Event::Answered`]: of a call that the phone placed, for how much of the set-up it was not its turn to send
    /// (from the kernel's receive timestamps); of one that it took, for how much it was.
    pub turn: Option<Duration>,
    /// With [`Event::Answered`]: where the peer wants its RTP.
    pub media: Option<SocketAddr>,
}

/// What a phone counted.
#[derive(Clone, Debug)]
pub struct Counts {
    /// By the phone itself.
    pub phone: Report,
    /// How long packets of the fleet's other phones were under way to this one.
    pub delays: Delays,
}

enum Command {
    Add(usize, Box<PhoneConfig>, [u8; 32], Ports),
    Order(usize, Order),
    Count(oneshot::Sender<Vec<Counts>>),
    Stop,
}

/// The thread and the way to it.
pub struct Fleet {
    commands: mpsc::Sender<Command>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
    phones: usize,
}

impl Fleet {
    /// A fleet without phones, and where its news come out.
    pub fn start() -> io::Result<(Fleet, news::UnboundedReceiver<News>)> {
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (commands, orders) = mpsc::channel();
        let (tell, heard) = news::unbounded_channel();
        let deck = Deck::new(Arc::clone(&bell), orders, tell)?;
        let thread = std::thread::Builder::new().name("phones".into()).spawn(|| {
            // A phone shares the bytes that it may send again, so it stays on its thread.
            deck.into_hall().run()
        })?;
        Ok((Fleet { commands, bell, thread: Some(thread), phones: 0 }, heard))
    }

    /// Adds a phone; its number counts from 0.
    pub fn add(&mut self, config: PhoneConfig, ports: Ports) -> io::Result<usize> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let number = self.phones;
        self.phones += 1;
        self.command(Command::Add(number, Box::new(config), seed, ports));
        Ok(number)
    }

    /// Lets a phone do something.
    pub fn order(&self, phone: usize, order: Order) {
        self.command(Command::Order(phone, order));
    }

    /// What all phones counted, in the order of their numbers.
    pub async fn counts(&self) -> Vec<Counts> {
        let (reply, counts) = oneshot::channel();
        self.command(Command::Count(reply));
        counts.await.unwrap_or_default()
    }

    fn command(&self, command: Command) {
        // A thread that is gone tells so when it is joined.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the built-in phones stopped: {error}");
        }
    }
}

/// What the thread is given.
struct Deck {
    bell: Arc<OwnedFd>,
    orders: mpsc::Receiver<Command>,
    tell: news::UnboundedSender<News>,
    epoll: OwnedFd,
}

impl Deck {
    fn new(
        bell: Arc<OwnedFd>,
        orders: mpsc::Receiver<Command>,
        tell: news::UnboundedSender<News>,
    ) -> io::Result<Deck> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Deck { bell, orders, tell, epoll })
    }

    fn into_hall(self) -> Hall {
        Hall {
            deck: self,
            seats: Vec::new(),
            timers: Timers::default(),
            noted: HashMap::new(),
            buffer: vec![0; DATAGRAM_BYTES],
            room: turn::room(),
            outputs: Vec::new(),
        }
    }
}

/// One phone and what belongs to it.
struct Seat {
    phone: Phone,
    ports: Ports,
    delays: Delays,
    turn: Turn,
    /// The timer that is set for it.
    due: Option<Instant>,
}

/// When the packets of one source were sent, by the low bits of their sequence numbers.
type Noted = Box<[(u16, Instant)]>;

/// All phones.
struct Hall {
    deck: Deck,
    seats: Vec<Seat>,
    timers: Timers<usize>,
    noted: HashMap<u32, Noted>,
    buffer: Vec<u8>,
    room: Vec<u8>,
    outputs: Vec<Output>,
}

#[derive(Clone, Copy)]
enum Port {
    Sip,
    Rtp,
    Rtcp,
}

impl Port {
    const ALL: [Port; 3] = [Port::Sip, Port::Rtp, Port::Rtcp];

    fn of(self, ports: &Ports) -> Option<&UdpSocket> {
        match (self, &ports.media) {
            (Port::Sip, _) => Some(&ports.sip),
            (Port::Rtp, Some((rtp, _))) => Some(rtp),
            (Port::Rtcp, Some((_, rtcp))) => Some(rtcp),
            (_, None) => None,
        }
    }
}

impl Hall {
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            if !self.obey()? {
                return Ok(());
            }
            let now = clock::now();
            while let Some((at, seat)) = self.timers.due(now) {
                // Set anew meanwhile, and earlier.
                if self.seats[seat].due != Some(at) {
                    continue;
                }
                self.seats[seat].due = None;
                if self.seats[seat].phone.deadline().is_some_and(|at| at <= now) {
                    self.handle(now, seat, Input::Timeout);
                }
                self.set_timer(seat);
            }
            let wait = self.timers.deadline().map(|at| timespec(at.since(clock::now())));
            events.clear();
            match epoll::wait(
                &self.deck.epoll,
                rustix::buffer::spare_capacity(&mut events),
                wait.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    BELL => {
                        let mut count = [0; 8];
                        let _ = rustix::io::read(&*self.deck.bell, &mut count);
                    }
                    token => self.receive((token / 4) as usize, Port::ALL[(token % 4) as usize]),
                }
            }
        }
    }

    /// Takes the commands that wait; false when it is time to stop.
    fn obey(&mut self) -> io::Result<bool> {
        loop {
            match self.deck.orders.try_recv() {
                Ok(Command::Add(number, config, seed, ports)) => {
                    debug_assert_eq!(number, self.seats.len());
                    for (place, port) in Port::ALL.into_iter().enumerate() {
                        let token = epoll::EventData::new_u64((number * 4 + place) as u64);
                        if let Some(socket) = port.of(&ports) {
                            epoll::add(&self.deck.epoll, socket, token, epoll::EventFlags::IN)?;
                        }
                    }
                    turn::stamp(&ports.sip)?;
                    let phone = Phone::new(*config, Rng::from_seed(seed));
                    let (delays, turn) = (Delays::default(), Turn::default());
                    self.seats.push(Seat { phone, ports, delays, turn, due: None });
                }
                Ok(Command::Order(seat, order)) if seat < self.seats.len() => {
                    if matches!(order, Order::Call(_)) {
                        self.seats[seat].turn.order();
                    }
                    self.handle(clock::now(), seat, Input::Order(order));
                    self.set_timer(seat);
                }
                Ok(Command::Order(..)) => {}
                Ok(Command::Count(reply)) => {
                    let count = |seat: &Seat| Counts {
                        phone: seat.phone.report(),
                        delays: seat.delays.clone(),
                    };
                    // Who asked may be gone.
                    let _ = reply.send(self.seats.iter().map(count).collect());
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return Ok(false),
                Err(mpsc::TryRecvError::Empty) => return Ok(true),
            }
        }
    }

    fn receive(&mut self, seat: usize, port: Port) {
        for _ in 0..BURST {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = match (port, port.of(&self.seats[seat].ports)) {
                (Port::Sip, Some(socket)) => turn::receive(socket, &mut buffer, &mut self.room),
                (_, Some(socket)) => {
                    let received = socket.recv_from(&mut buffer);
                    received.map(|(length, from)| (length, from, Instant::ZERO))
                }
                (_, None) => Err(io::ErrorKind::NotConnected.into()),
            };
            let now = clock::now();
            let length = match received {
                Ok((length, from, came)) => {
                    let datagram = &buffer[..length];
                    let input = match port {
                        Port::Sip => {
                            self.seats[seat].turn.take(came, datagram);
                            Input::Sip { from, datagram }
                        }
                        Port::Rtp => {
                            self.measure(now, seat, datagram);
                            Input::Rtp(datagram)
                        }
                        Port::Rtcp => Input::Rtcp(datagram),
                    };
                    self.handle(now, seat, input);
                    self.seats[seat].turn.taken();
                    Some(length)
                }
                // A port that refused an earlier datagram of ours says so here, once.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(0),
                Err(_) => None,
            };
            self.buffer = buffer;
            if length.is_none() {
                break;
            }
        }
        self.set_timer(seat);
    }

    fn measure(&mut self, now: Instant, seat: usize, datagram: &[u8]) {
        let Ok(rtp) = Rtp::parse(datagram) else { return };
        let Some(noted) = self.noted.get(&rtp.ssrc()) else { return };
        let (sequence, sent) = noted[usize::from(rtp.sequence()) % NOTED];
        if sequence == rtp.sequence() {
            self.seats[seat].delays.add(now.since(sent));
        }
    }

    fn handle(&mut self, now: Instant, seat: usize, input: Input<'_>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.seats[seat].phone.handle(now, input, &mut outputs);
        for output in outputs.drain(..) {
            self.put_out(seat, output);
        }
        self.outputs = outputs;
    }

    fn put_out(&mut self, seat: usize, output: Output) {
        let Seat { ports, turn, .. } = &mut self.seats[seat];
        // A datagram that cannot be sent is one that was lost.
        match output {
            Output::Sip { to, datagram } => {
                turn.send(clock::now(), &datagram);
                let _ = ports.sip.send_to(&datagram, to);
            }
            Output::Rtp { to, ssrc, sequence, packet } => {
                let empty = || vec![(0, Instant::ZERO); NOTED].into_boxed_slice();
                let noted = self.noted.entry(ssrc).or_insert_with(empty);
                noted[usize::from(sequence) % NOTED] = (sequence, clock::now());
                if let Some((rtp, _)) = &ports.media {
                    let _ = rtp.send_to(&packet, to);
                }
            }
            Output::Rtcp { to, packet } => {
                if let Some((_, rtcp)) = &ports.media {
                    let _ = rtcp.send_to(&packet, to);
                }
            }
            Output::Event(event) => {
                if matches!(event, Event::Ended(_)) && self.noted.len() > 2 * self.seats.len() {
                    // Sources of calls that are long over.
                    self.forget_old();
                }
                let answered = event == Event::Answered;
                let phone = &self.seats[seat].phone;
                let set_up = answered.then(|| phone.report().set_up).flatten();
                let media = answered.then(|| phone.peer_media()).flatten();
                let turn = answered.then(|| self.seats[seat].turn.answered());
                let _ = self.deck.tell.send(News { phone: seat, event, set_up, turn, media });
            }
        }
    }

    fn forget_old(&mut self) {
        let now = clock::now();
        let recent = |at: &(u16, Instant)| now.since(at.1) < Duration::from_secs(10);
        self.noted.retain(|_, noted| noted.iter().any(recent));
    }

    fn set_timer(&mut self, seat: usize) {
        let Seat { phone, due, .. } = &mut self.seats[seat];
        if let Some(at) = phone.deadline()
            && due.is_none_or(|due| at < due)
        {
            *due = Some(at);
            self.timers.set(at, seat);
        }
    }
}

fn timespec(wait: Duration) -> Timespec {
    Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two phones on loopback that call each other without any server.
    #[tokio::test]
    async fn two_phones_talk_over_real_sockets() {
        let (mut fleet, mut heard) = Fleet::start().unwrap();
        let target: SocketAddr = "127.0.0.1:5060".parse().unwrap();
        let ports = [Ports::bind_towards(target).unwrap(), Ports::bind_towards(target).unwrap()];
        let peer = ports[1].sip().unwrap();
        for (user, ports) in ["one", "two"].into_iter().zip(ports) {
            let (sip, rtp) = (ports.sip().unwrap(), ports.rtp().unwrap());
            assert_eq!(rtp.port() % 2, 0);
            let mut config = PhoneConfig::new(user, peer, sip, rtp);
            config.frames = Some(25);
            fleet.add(config, ports).unwrap();
        }
        fleet.order(0, Order::Call("two".into()));
        let mut answered = 0;
        while answered < 2 {
            let news = tokio::time::timeout(Duration::from_secs(5), heard.recv()).await;
            answered += usize::from(news.unwrap().unwrap().event == Event::Answered);
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        fleet.order(0, Order::HangUp);
        loop {
            let news = tokio::time::timeout(Duration::from_secs(5), heard.recv()).await;
            let news = news.unwrap().unwrap();
            if news.phone == 1 && matches!(news.event, Event::Ended(_)) {
                break;
            }
        }
        for counts in fleet.counts().await {
            assert_eq!((counts.phone.rtp_sent, counts.phone.rtp_received), (25, 25));
            assert!(counts.delays.percentile(50.0).is_some_and(|p50| p50.as_millis() < 100));
        }
    }
}
