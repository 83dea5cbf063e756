//! Serves HTTP to whoever comes: who is slow or silent is cut, and nobody can take all the sockets.
//!
//! A connection takes a seat for as long as it lives and is a guest until a desk's login is known on
//! it. There are fewer guests than seats, so that those who only connect do not keep desks out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ApiError;
use crate::Cidr;

/// How long a client may take for the head of a request, also of its first one.
const HEADER_MS: u64 = 5_000;
/// How long a request may take from its head to its answer, its body and its turn included.
const REQUEST_MS: u64 = 10_000;
/// How long a connection may be kept for further requests.
const CONNECTION_MS: u64 = 60_000;
/// The longest head of a request, and what is read ahead of a body.
const HEAD_BYTES: usize = 32 * 1024;
/// Descriptors that connections leave to all else: the directory, the regions, the admin socket.
const SPARE_FILES: u64 = 256;
/// Connections of a listener that are no desk's yet.
const GUESTS: usize = 10_000;
/// Those of one source: an IPv4 address, or what a customer has of IPv6.
const GUESTS_OF_ONE: u32 = 64;
/// What a balancer names the client in.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// How long the listener rests when the kernel gives it no descriptor.
const NO_FILES_MS: u64 = 1_000;

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    header: Duration,
    request: Duration,
    connection: Duration,
    seats: usize,
    guests: usize,
    guests_of_one: u32,
}

impl Limits {
    /// What each of so many listeners may take of the files that this process may open.
    pub fn of_listeners(listeners: usize) -> Limits {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let seats = files.saturating_sub(SPARE_FILES) / listeners.max(1) as u64;
        let seats = usize::try_from(seats).unwrap_or(usize::MAX).clamp(2, Semaphore::MAX_PERMITS);
        Limits {
            header: Duration::from_millis(HEADER_MS),
            request: Duration::from_millis(REQUEST_MS),
            connection: Duration::from_millis(CONNECTION_MS),
            seats,
            guests: (seats / 2).min(GUESTS),
            guests_of_one: GUESTS_OF_ONE,
        }
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Visitor {
    peer: IpAddr,
    visit: Arc<Visit>,
}

/// A connection.
#[derive(Debug)]
struct Visit {
    _seat: OwnedSemaphorePermit,
    guest: Mutex<Option<Guest>>,
}

#[derive(Debug)]
struct Guest {
    _turn: OwnedSemaphorePermit,
    _place: Option<Place>,
}

impl Visitor {
    /// Where the request comes from: the other end of its connection, or who a balancer says.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whose request it is that came by a balancer: the last address that it added is true, those before are the
    /// client's own words.
    fn behind(&self, headers: &HeaderMap) -> Visitor {
        let last = headers.get_all(FORWARDED_FOR).iter().next_back();
        let last =
            last.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        Visitor { peer: last.unwrap_or(self.peer), visit: self.visit.clone() }
    }

    /// The connection is a desk's: it keeps its seat and is no guest any more.
    pub fn settle(&self) {
        self.visit.guest.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// How many guests each source has.
#[derive(Clone, Debug, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// One guest of a source.
#[derive(Debug)]
struct Place {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    /// A place for one more guest of that source, unless it has `limit` of them.
    fn take(&self, source: IpAddr, limit: u32) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { sources: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// What an address is counted by; none for this machine, whose proxy speaks for everybody.
fn source(peer: IpAddr) -> Option<IpAddr> {
    match peer.to_canonical() {
        peer if peer.is_loopback() => None,
        IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into()),
        peer => Some(peer),
    }
}

/// Serves `router` until `stop` becomes true or its sender is dropped, then ends what is under way. Balancers at
/// `balancers` speak for many, so that they have no limit of a source and are believed who their client is.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    balancers: Arc<[Cidr]>,
    mut stop: watch::Receiver<bool>,
) {
    let seats = Arc::new(Semaphore::new(limits.seats));
    let guests = Arc::new(Semaphore::new(limits.guests));
    let sources = Sources::default();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // Who finds no seat waits in the kernel's queue until a silent one is cut.
            let seat = seats.clone().acquire_owned().await.map_err(io::Error::other)?;
            let turn = guests.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            io::Result::Ok((stream, peer.ip(), seat, turn))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer, seat, turn) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(Duration::from_millis(NO_FILES_MS)).await;
                continue;
            }
        };
        let is_balancer = balancers.iter().any(|net| net.contains(peer));
        let place = source(peer)
            .filter(|_| !is_balancer)
            .map(|source| sources.take(source, limits.guests_of_one));
        if let Some(None) = place {
            tracing::debug!(%peer, "a source has too many connections");
            continue;
        }
        let guest = Guest { _turn: turn, _place: place.flatten() };
        let visit = Visit { _seat: seat, guest: Mutex::new(Some(guest)) };
        let visitor = Visitor { peer, visit: Arc::new(visit) };
        let who = (visitor, is_balancer);
        connections.spawn(converse(stream, who, router.clone(), limits, stop.clone()));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection from its acceptance to its end, or to its upgrade.
async fn converse(
    stream: TcpStream,
    (visitor, is_balancer): (Visitor, bool),
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    // A desk's messages are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let sender = match is_balancer {
            true => visitor.behind(request.headers()),
            false => visitor.clone(),
        };
        request.extensions_mut().insert(sender);
        let answer = router.call(request);
        async move {
            let answer = match timeout(limits.request, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    let mut answer = ApiError::too_slow().into_response();
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                    answer
                }
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(HEAD_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        // What went wrong on it is the client's affair.
        _ = connection.as_mut() => return,
        () = sleep(limits.connection) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.request, connection).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use axum::Extension;
    use axum::body::Bytes;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: Limits = Limits {
        header: Duration::from_millis(200),
        request: Duration::from_millis(400),
        connection: Duration::from_millis(5_000),
        seats: 3,
        guests: 2,
        guests_of_one: 1,
    };

    async fn start() -> (SocketAddr, watch::Sender<bool>) {
        start_behind(&[]).await
    }

    async fn start_behind(balancers: &[&str]) -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it binds");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        let router = Router::new()
            .route("/", get(async |Extension(from): Extension<Visitor>| from.peer().to_string()))
            .route("/", post(async |body: Bytes| body));
        let balancers = balancers.iter().map(|net| net.parse().expect("a network"));
        tokio::spawn(serve(listener, router, LIMITS, balancers.collect(), stopped));
        (address, stop)
    }

    /// What the server answers to `text` until it closes, and how long that took.
    async fn tell(address: SocketAddr, text: &str) -> (String, Duration) {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await.expect("it connects");
        stream.write_all(text.as_bytes()).await.expect("it is written");
        let mut answer = Vec::new();
        // A client that is cut may be told so by a reset.
        let read = timeout(Duration::from_secs(4), stream.read_to_end(&mut answer));
        let _ = read.await.expect("the server closes");
        (String::from_utf8_lossy(&answer).into_owned(), begun.elapsed())
    }

    #[tokio::test]
    async fn silent_and_slow_clients_are_cut_and_others_are_served_meanwhile() {
        let (address, _stop) = start().await;
        let length = 2 * HEAD_BYTES;
        let big = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(length));
        let (silent, head, body, big) = tokio::join!(
            tell(address, ""),
            tell(address, "GET / HTTP/1.1\r\nx-a: "),
            tell(address, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"),
            tell(address, &big),
        );
        // Two at a time are guests; the others wait for their turn.
        assert!(silent.1 < Duration::from_secs(3) && head.1 < Duration::from_secs(3));
        assert!(body.0.starts_with("HTTP/1.1 408"), "{body:?}");
        assert!(body.0.contains("connection: close"), "{body:?}");
        assert!(!big.0.starts_with("HTTP/1.1 200"), "{big:?}");
        let good = tell(address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(good.0.starts_with("HTTP/1.1 200") && good.0.ends_with("127.0.0.1"), "{good:?}");
    }

    #[tokio::test]
    async fn a_balancer_is_believed_who_its_client_is_and_nobody_else() {
        let ask = "GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.1\r\n\
                   x-forwarded-for: 203.0.113.9, 198.51.100.7\r\nconnection: close\r\n\r\n";
        let garbled = ask.replace("198.51.100.7", "?");
        let (trusted, _stop) = start_behind(&["127.0.0.0/8"]).await;
        assert!(tell(trusted, ask).await.0.ends_with("198.51.100.7"));
        assert!(tell(trusted, &garbled).await.0.ends_with("127.0.0.1"));
        let (other, _stop) = start_behind(&["192.0.2.1"]).await;
        assert!(tell(other, ask).await.0.ends_with("127.0.0.1"));
    }

    #[tokio::test]
    async fn connections_beyond_the_guests_wait() {
        let (address, _stop) = start().await;
        let mut held = Vec::new();
        for _ in 0..LIMITS.guests {
            held.push(TcpStream::connect(address).await.expect("it connects"));
        }
        let good = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let (answer, took) = tell(address, good).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(took >= LIMITS.header / 2, "it waited until the silent ones were cut: {took:?}");
    }

    #[test]
    fn a_source_has_so_many_guests_and_this_machine_any() {
        assert_eq!(source(IpAddr::from([127, 0, 0, 9])), None);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(source(ip("2001:db8:1:2:3:4:5:6")), Some(ip("2001:db8:1:2::")));
        assert_eq!(source(ip("::ffff:192.0.2.1")), Some(ip("192.0.2.1")));
        let sources = Sources::default();
        let first = sources.take(ip("192.0.2.1"), 1).expect("a place");
        assert!(sources.take(ip("192.0.2.1"), 1).is_none());
        assert!(sources.take(ip("192.0.2.2"), 1).is_some());
        drop(first);
        assert!(sources.take(ip("192.0.2.1"), 1).is_some());
        assert!(sources.0.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn guests_leave_seats_and_files() {
        let limits = Limits::of_listeners(1);
        assert!(limits.guests < limits.seats && limits.guests <= GUESTS);
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(limits.seats as u64 <= files.saturating_sub(SPARE_FILES).max(2));
    }
}
