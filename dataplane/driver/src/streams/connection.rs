//! One connection: made or accepted, read, written, and ended.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use abi::{Counter, Outage};
use base::Transport;
use rustix::net::sockopt;
use sip::wire::{Frame, Framer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::{client, server};

use super::hub::{Hub, Line, Peer, Post, Visit};
use super::{Letter, Opening, tls, web};
use crate::sockets::TOS_SIGNALLING;

/// Who is known is closed after this time without a message or a keep-alive: longer than any registration lasts.
const IDLE_LIMIT: Duration = Duration::from_secs(2 * 3_600);
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to reach a peer: less than its caller waits.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// How long a peer may take for one message that is written to it.
const WRITE_LIMIT: Duration = Duration::from_secs(15);
/// How long the last word to a peer may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Messages that are remembered until a trunk is heard, to be told of should it refuse the connection.
const UNHEARD: usize = 16;
/// The rest after a failure to accept, which is for want of files.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// A peer that is silent this long is asked whether it lives, by the kernel, in seconds.
const KEEP_ALIVE_S: u64 = 60;
/// How long the kernel sends what a peer does not acknowledge, in milliseconds.
const UNACKNOWLEDGED_MS: u32 = 30_000;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Peer,
    Idle,
    Malformed,
    Slow,
    Handshake,
    /// It showed a certificate that is not believed.
    Certificate,
    /// It does not take our certificate.
    NotTaken,
}

impl End {
    fn counter(self) -> Counter {
        match self {
            End::Peer => Counter::ClosedByPeer,
            End::Idle => Counter::ClosedIdle,
            End::Malformed => Counter::ClosedMalformed,
            End::Slow => Counter::ClosedSlow,
            End::Handshake => Counter::HandshakeFailed,
            End::Certificate => Counter::ClientCertificateRefused,
            End::NotTaken => Counter::TlsNotTaken,
        }
    }
}

/// Accepts connections for ever.
pub(super) async fn accept(hub: Rc<Hub>, opening: Opening) {
    let Opening { location, transport, socket } = opening;
    let listener = match TcpListener::from_std(socket.into()) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listening socket"),
    };
    let mut failed = 0_u64;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let peer = Peer { location, transport, address };
                let Some(visit) = Hub::enter(&hub, peer, true) else {
                    hub.count(Counter::RefusedConnectionsFull);
                    continue;
                };
                hub.count(Counter::ConnectionsAccepted);
                tokio::task::spawn_local(host(visit, stream));
            }
            Err(error) => {
                failed += 1;
                // Told ever more rarely.
                if failed.is_power_of_two() {
                    tracing::warn!(%error, failed, %transport, "a connection is not accepted");
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Serves a peer that came.
async fn host(mut visit: Visit, stream: TcpStream) {
    let peer = visit.line.peer;
    prepare(&stream, peer.address);
    let end = match peer.transport {
        Transport::Ws => web::serve(&mut visit, stream).await,
        Transport::Tls | Transport::Wss => match accept_tls(&visit, stream).await {
            Ok(stream) if peer.transport == Transport::Wss => web::serve(&mut visit, stream).await,
            Ok(stream) => serve(&mut visit, stream).await,
            Err(end) => end,
        },
        Transport::Tcp | Transport::Udp => serve(&mut visit, stream).await,
    };
    tracing::trace!(?peer, ?end, "a connection ended");
    visit.hub.count(end.counter());
}

/// Shakes hands with a peer that came; what its certificate proves is noted.
async fn accept_tls(visit: &Visit, stream: TcpStream) -> Result<server::TlsStream<TcpStream>, End> {
    let Visit { hub, line, .. } = visit;
    let acceptor = {
        let tls = hub.places[usize::from(line.peer.location.0)].tls.borrow();
        match line.peer.transport {
            Transport::Wss => tls.web_acceptor.clone(),
            _ => tls.acceptor.clone(),
        }
    };
    let Some(acceptor) = acceptor else { return Err(End::Handshake) };
    match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            if let Some(certificate) = shown {
                hub.prove(line, tls::domains(certificate));
            }
            Ok(stream)
        }
        Ok(Err(error)) if tls::is_bad_certificate(&error) => {
            let address = line.peer.address;
            tracing::info!(%error, %address, "a certificate that was shown is not believed");
            Err(End::Certificate)
        }
        Ok(Err(_)) | Err(_) => Err(End::Handshake),
    }
}

/// Opens a connection to a peer, and sends that message first.
pub(super) fn connect(hub: &Rc<Hub>, peer: Peer, letter: Letter) {
    let Some(mut visit) = Hub::enter(hub, peer, false) else {
        hub.count(Counter::RefusedConnectionsFull);
        return hub.unsent(letter, Outage::Unreachable);
    };
    visit.in_hand = Some(letter);
    tokio::task::spawn_local(call_on(visit));
}

/// Serves a peer whom we call.
async fn call_on(mut visit: Visit) {
    let reached = timeout(CONNECT_LIMIT, reach(&visit)).await;
    let end = match reached.unwrap_or(Err(Outage::Unreachable)) {
        Ok(reached) => {
            visit.hub.count(Counter::ConnectionsOpened);
            match reached {
                Reached::Tcp(stream) => serve(&mut visit, stream).await,
                Reached::Tls(stream) => serve(&mut visit, *stream).await,
            }
        }
        Err(outage) => {
            visit.outage = outage;
            if let Some(counter) = tls::counter_of(outage) {
                visit.hub.count(counter);
            }
            return visit.hub.count(Counter::ConnectFailed);
        }
    };
    visit.hub.count(end.counter());
    if end == End::NotTaken {
        visit.outage = Outage::TlsNotTaken;
    }
}

/// Makes a connection.
async fn reach(visit: &Visit) -> Result<Reached, Outage> {
    let Visit { hub, line, in_hand, .. } = visit;
    let (peer, transport) = (line.peer, line.peer.transport);
    let failed = |error: io::Error, outage| {
        let (address, why) = (peer.address, Outage::text(outage));
        tracing::debug!(%error, why, %address, %transport, "no connection");
        outage
    };
    let call = match transport {
        Transport::Tls => {
            let proof = in_hand.as_ref().map_or(0, |letter| letter.channel.proof);
            let call = hub.secure_call(peer, proof);
            Some(call.map_err(|error| failed(error, Outage::TlsFiles))?)
        }
        _ => None,
    };
    let ours = hub.places[usize::from(peer.location.0)].location.ip;
    let stream = dial(ours, peer.address).await;
    let stream = stream.map_err(|error| failed(error, Outage::Unreachable))?;
    prepare(&stream, peer.address);
    let Some(call) = call else { return Ok(Reached::Tcp(stream)) };
    let stream = call.connector.connect(call.name, stream).await;
    let stream = stream.map_err(|error| {
        let outage = tls::outage_of(&error);
        failed(error, outage)
    })?;
    hub.prove(line, call.proves.into_iter().collect());
    Ok(Reached::Tls(Box::new(stream)))
}

enum Reached {
    Tcp(TcpStream),
    Tls(Box<client::TlsStream<TcpStream>>),
}

async fn dial(ours: std::net::IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(ours, 0))?;
    socket.connect(to).await
}

/// What a socket would rather have; none of it is needed.
fn prepare(stream: &TcpStream, peer: SocketAddr) {
    let interval = Duration::from_secs(KEEP_ALIVE_S);
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, interval);
    let _ = sockopt::set_tcp_keepintvl(stream, interval / 6);
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS);
    let _ = match peer {
        SocketAddr::V4(_) => sockopt::set_ip_tos(stream, TOS_SIGNALLING),
        SocketAddr::V6(_) => sockopt::set_ipv6_tclass(stream, TOS_SIGNALLING.into()),
    };
}

/// Reads and writes a stream until it ends.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(visit: &mut Visit, stream: S) -> End {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let Visit { hub, line, posts, in_hand, unheard, is_guest, .. } = visit;
    // A peer of TLS 1.3 refuses our certificate after we have begun to write.
    let unheard = (!*is_guest && line.peer.transport == Transport::Tls).then_some(unheard);
    let may_refuse = unheard.is_some();
    let (mut end, last) = tokio::select! {
        read = read(hub, line, &mut reader) => read,
        end = write(&mut writer, posts, in_hand, line, unheard) => (end, None),
        () = line.is_slow.notified() => (End::Slow, None),
    };
    // What cannot be written any more may have been refused, and why can still be read.
    if may_refuse
        && (end, line.is_heard.get()) == (End::Peer, false)
        && let Ok((said, _)) = timeout(FAREWELL_LIMIT, read(hub, line, &mut reader)).await
    {
        end = said;
    }
    let farewell = async {
        if let Some(last) = last {
            writer.write_all(&last).await?;
        }
        writer.shutdown().await
    };
    // Who does not listen any more misses nothing.
    let _ = timeout(FAREWELL_LIMIT, farewell).await;
    end
}

/// Reads until the stream ends; what is to be said last comes with the reason.
async fn read(
    hub: &Hub,
    line: &Line,
    reader: &mut (impl AsyncRead + Unpin),
) -> (End, Option<Vec<u8>>) {
    let mut framer = Framer::default();
    let mut patience = Patience::new(hub.limits.whole);
    loop {
        match timeout_at(patience.ends(line), read_some(hub, reader, &mut framer)).await {
            Ok(Ok(0)) => return (End::Peer, None),
            Ok(Err(error)) if tls::outage_of(&error) == Outage::TlsNotTaken => {
                return (End::NotTaken, None);
            }
            Ok(Err(_)) => return (End::Peer, None),
            Ok(Ok(_)) => line.is_heard.set(true),
            Err(_) if patience.is_over(line) => return (End::Idle, None),
            Err(_) => continue,
        }
        loop {
            let message: Box<[u8]> = match framer.next_frame() {
                Ok(Some(Frame::Message(message))) => message.into(),
                Ok(Some(Frame::Ping)) => {
                    patience.on_ping(line);
                    hub.pong(line);
                    continue;
                }
                Ok(None) => break,
                Err(error) => {
                    let last = framer.refusal(error, line.peer.address);
                    return (End::Malformed, last);
                }
            };
            hub.deliver(line, message).await;
            patience.on_message();
        }
        patience.on_bytes(framer.is_amid_message());
    }
}

/// Reads what is there, by way of the buffer that all connections share: one at rest takes none.
async fn read_some(
    hub: &Hub,
    reader: &mut (impl AsyncRead + Unpin),
    framer: &mut Framer,
) -> io::Result<usize> {
    std::future::poll_fn(|context| {
        let mut scratch = hub.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        let polled = Pin::new(&mut *reader).poll_read(context, &mut buffer);
        polled.map_ok(|()| {
            framer.feed(buffer.filled());
            buffer.filled().len()
        })
    })
    .await
}

/// Writes what workers want written.
async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    posts: &mut mpsc::Receiver<Post>,
    in_hand: &mut Option<Letter>,
    line: &Line,
    mut unheard: Option<&mut Vec<Letter>>,
) -> End {
    loop {
        if in_hand.is_none() {
            *in_hand = match posts.recv().await {
                Some(Post::Letter(letter)) => Some(letter),
                Some(Post::Pong) => None,
                None => return End::Peer,
            };
        }
        // RFC 5626, 4.4.1: a pong is a single CRLF.
        let bytes = in_hand.as_ref().map_or(&b"\r\n"[..], |letter| &letter.message);
        let written = async {
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        match timeout(WRITE_LIMIT, written).await {
            Ok(Ok(())) => {
                let written = in_hand.take();
                match &mut unheard {
                    Some(unheard) if line.is_heard.get() => unheard.clear(),
                    Some(unheard) if unheard.len() < UNHEARD => unheard.extend(written),
                    _ => {}
                }
            }
            Ok(Err(_)) => return End::Peer,
            Err(_) => return End::Slow,
        }
    }
}

/// How long a peer may go on without a whole message.
pub(super) struct Patience {
    /// When the last one came, or the last keep-alive of one who is known.
    since: Instant,
    /// When the first bytes came of one that is not whole.
    amid: Option<Instant>,
    whole: Duration,
}

impl Patience {
    /// `whole` is how long a whole message may take, and who is not known may send none.
    pub fn new(whole: Duration) -> Patience {
        Patience { since: Instant::now(), amid: None, whole }
    }

    pub fn ends(&self, line: &Line) -> Instant {
        let idle = if line.is_known.get() { IDLE_LIMIT } else { self.whole };
        let amid = self.amid.map(|since| since + self.whole);
        amid.into_iter().fold(self.since + idle, Instant::min)
    }

    pub fn is_over(&self, line: &Line) -> bool {
        self.ends(line) <= Instant::now()
    }

    pub fn on_message(&mut self) {
        (self.since, self.amid) = (Instant::now(), None);
    }

    pub fn on_ping(&mut self, line: &Line) {
        if line.is_known.get() {
            self.since = Instant::now();
        }
    }

    fn on_bytes(&mut self, is_amid: bool) {
        self.amid = is_amid.then(|| self.amid.unwrap_or_else(Instant::now));
    }
}
