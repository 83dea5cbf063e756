//! Streams through a Jackfield, made by SIP: agents log in and register, and are called by each
//! other or from a trunk.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use softphone::{Event, Order, PhoneConfig, Why};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::{log_in_all, log_out_all, registered, server};
use crate::cli;
use crate::delays::Delays;
use crate::desk::Grant;
use crate::fleet::{Fleet, News, Ports};

/// Calls that are set up or ended at a time.
const AT_A_TIME: usize = 8;
/// How many answers 503 lead to another try, for ports are bound ahead only so far, and how long is
/// waited before it.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// How long nothing may happen before a call counts as failed: a request is sent again for 32 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// The logins, before there are sockets for their media.
pub struct Agents {
    grants: Vec<Grant>,
    registrar: SocketAddr,
    /// Where the callers' and the called phones' SIP and RTP is.
    pub ips: (IpAddr, IpAddr),
    callers: Option<IpAddr>,
}

impl Agents {
    /// Logs in who is needed for the calls.
    pub async fn log_in(options: &cli::Load) -> Result<Agents, String> {
        let callers = options.blast.callers;
        let agents = if callers.is_some() { options.calls } else { options.calls * 2 };
        let options = cli::Load { agents, ..options.clone() };
        let logged_in = log_in_all(&options, &server(&options)?, false).await?;
        let grants: Vec<Grant> = logged_in.into_iter().map(|(grant, _)| grant).collect();
        let registrar = grants.first().ok_or("--calls must be at least 1")?.registrar().await?;
        let own = own_address(registrar).map_err(|error| format!("{registrar}: {error}"))?;
        Ok(Agents { grants, registrar, ips: (callers.unwrap_or(own), own), callers })
    }

    /// Registers the phones; `sockets` are theirs for RTP, two for each call.
    pub async fn register(self, sockets: &[Arc<UdpSocket>]) -> Result<Calls, String> {
        let failed = |error: std::io::Error| error.to_string();
        let (mut fleet, mut news) = Fleet::start().map_err(failed)?;
        let mut grants = self.grants.iter();
        // Phones that register come first in the fleet.
        let mut later = Vec::new();
        let mut phones = vec![0; sockets.len()];
        let mut numbers = Vec::new();
        for (stream, socket) in sockets.iter().enumerate() {
            let rtp = socket.local_addr().map_err(failed)?;
            let is_caller = stream % 2 == 0;
            if is_caller && self.callers.is_some() {
                later.push((stream, rtp));
                continue;
            }
            let grant = grants.next().ok_or("too few logins")?;
            let ports = Ports::bind_sip(rtp.ip()).map_err(failed)?;
            let sip = ports.sip().map_err(failed)?;
            let config = grant.config(self.registrar, sip, rtp);
            phones[stream] = fleet.add(silent(config), ports).map_err(failed)?;
            fleet.order(phones[stream], Order::Register);
            if !is_caller {
                numbers.push(grant.agent.number.clone());
            }
        }
        let wanted = self.grants.len();
        let count = registered(&mut news, wanted).await;
        if count < wanted {
            return Err(format!("{count} of {wanted} phones registered"));
        }
        for (stream, rtp) in later {
            let ports = Ports::bind_sip(rtp.ip()).map_err(failed)?;
            let sip = ports.sip().map_err(failed)?;
            let config = PhoneConfig::new(&format!("load{stream}"), self.registrar, sip, rtp);
            phones[stream] = fleet.add(silent(config), ports).map_err(failed)?;
        }
        Ok(Calls { fleet, news, phones, numbers, registered: wanted, set_up: Delays::default() })
    }
}

/// Its RTP is not its own business.
fn silent(mut config: PhoneConfig) -> PhoneConfig {
    config.media = false;
    config.listen = false;
    config
}

/// The address from which `peer` is reached.
pub(super) fn own_address(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Connecting sends nothing; the kernel chooses the route and with it the address.
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// The phones, and their calls.
pub struct Calls {
    fleet: Fleet,
    news: UnboundedReceiver<News>,
    /// Of each stream, its phone's number in the fleet.
    phones: Vec<usize>,
    /// Who is called, of each call.
    numbers: Vec<String>,
    registered: usize,
    /// From INVITE to 200.
    pub set_up: Delays,
}

impl Calls {
    /// Sets all up; where each stream's packets are to be sent.
    pub async fn make(&mut self) -> Result<Vec<SocketAddr>, String> {
        let streams = self.streams_by_phone();
        let mut peers: Vec<Option<SocketAddr>> = vec![None; self.phones.len()];
        let mut next = 0;
        let mut busy = 0;
        let mut tries = TRIES;
        loop {
            while busy < AT_A_TIME && next < self.numbers.len() {
                let called = Order::Call(self.numbers[next].clone());
                self.fleet.order(self.phones[next * 2], called);
                next += 1;
                busy += 1;
            }
            if peers.iter().all(Option::is_some) {
                return Ok(peers.into_iter().flatten().collect());
            }
            let news = timeout(PATIENCE, self.news.recv()).await;
            let news = news.map_err(|_| "calls are not answered".to_owned())?;
            let news = news.ok_or("the built-in phones stopped")?;
            let stream = streams[news.phone];
            match news.event {
                Event::Answered => {
                    peers[stream] = news.media;
                    if stream.is_multiple_of(2) {
                        busy -= 1;
                        self.set_up.add(news.set_up.unwrap_or_default());
                    }
                }
                Event::Ended(Why::Refused(503)) if stream.is_multiple_of(2) && tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(PAUSE).await;
                    let called = Order::Call(self.numbers[stream / 2].clone());
                    self.fleet.order(news.phone, called);
                }
                Event::Ended(why) if stream.is_multiple_of(2) => {
                    return Err(format!("call {} of {next} failed: {why:?}", stream / 2 + 1));
                }
                _ => {}
            }
        }
    }

    /// Ends the calls that there are; how many did not end.
    pub async fn hang_up(&mut self) -> usize {
        let streams = self.streams_by_phone();
        let mut next = 0;
        let mut ended = 0;
        let mut busy = 0_usize;
        while ended < self.phones.len() {
            while busy < AT_A_TIME && next < self.phones.len() {
                self.fleet.order(self.phones[next], Order::HangUp);
                next += 2;
                busy += 1;
            }
            let Ok(Some(news)) = timeout(PATIENCE, self.news.recv()).await else { break };
            if matches!(news.event, Event::Ended(_)) {
                ended += 1;
                busy -= usize::from(streams[news.phone].is_multiple_of(2)).min(busy);
            }
        }
        self.phones.len() - ended
    }

    /// Logs everybody out.
    pub async fn leave(mut self) {
        log_out_all(&self.fleet, &mut self.news, self.registered, Vec::new()).await;
    }

    fn streams_by_phone(&self) -> Vec<usize> {
        let mut streams = vec![0; self.phones.len()];
        for (stream, phone) in self.phones.iter().enumerate() {
            streams[*phone] = stream;
        }
        streams
    }
}
