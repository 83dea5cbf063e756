//! The same streams as [`super::blast`]'s without a socket in the way: frames that the kernel makes ready and
//! sends by an interface, and an XDP program on it that counts what comes back. So one core has a million
//! packets a second. What leaves has the addresses and ports that the sockets are bound to.
//!
//! ```text
//! send (BPF_PROG_TEST_RUN, live frames) --> interface --> relay --> interface --> hear (XDP), counts, drops
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, io};

use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use media::wire::RtpHeader;
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use rustix::process::{Pid, setpriority_process};
use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};

use super::blast::{Counted, PACKET_BYTES, Window, pin_thread, ssrc};
use super::watch::{self, Sample, Spent};

/// The object that `blast/build.sh` makes.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/blast/blast.bpf.o"));
/// Streams that the program has room for.
const STREAMS: usize = 16_384;
/// Ethernet's, IPv4's and UDP's headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// A frame of a stream.
const FRAME: usize = ETHERNET + IPV4 + UDP + PACKET_BYTES;
/// The words of [`Stream`] that its frames begin with.
const HEAD_WORDS: usize = 10;
/// Frames that the kernel makes at a time; an interface's queue takes four times as many.
const BATCH: u32 = 64;
/// How often a sending thread is told to end until it does.
const TELL_EVERY: Duration = Duration::from_millis(1);
/// Packets that may be sent at once when they are late, half of what an interface's queue takes; the others are
/// not sent any more.
const LATEST: u64 = 128;
/// How long the thread may take to start.
const LEAD: Duration = Duration::from_millis(20);
/// After the last send: nothing may arrive for so long, and all may take so long.
const SILENCE: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(2);
const PROTOCOL_UDP: u8 = 17;

/// One stream as the program has it, in words: its head, the sum and the number, its address, and more room.
type Stream = [u64; 16];
/// What the program counted of a stream; see [`ARRIVED`] and the words after it.
type Arrivals = [u64; 8];
const ARRIVED: usize = 1;
const AGAIN: usize = 2;
const LATE: usize = 3;
const STRAY: usize = 4;
/// When packets are due; the words are the program's `struct pace`.
type Pace = [u64; 10];
const DONE: usize = 5;
const SENT: usize = 6;
const MISSED: usize = 7;

/// The program on its interface, and what it sends.
pub struct Frames {
    ebpf: Ebpf,
    interface: Interface,
    own: Vec<SocketAddrV4>,
    core: Option<usize>,
    paces: Array<MapData, Pace>,
    streams: Array<MapData, Stream>,
    heard: Array<MapData, Arrivals>,
}

struct Interface {
    name: String,
    index: u32,
    mac: [u8; 6],
}

impl Frames {
    /// Loads the program and attaches it; `own` are the streams' addresses, two for each call.
    pub fn start(name: &str, own: &[SocketAddr], cores: &[usize]) -> Result<Frames, String> {
        let mut frames = Frames::load(Interface::named(name)?, own, cores)?;
        let index = frames.interface.index;
        let attached = xdp(&mut frames.ebpf, "hear")?.attach_to_if_index(index, XdpMode::Driver);
        attached.map_err(|error| format!("--frames {name}: {}", root(&error)))?;
        if let Some(core) = frames.core {
            hear_on(name, core)?;
        }
        Ok(frames)
    }

    fn load(interface: Interface, own: &[SocketAddr], cores: &[usize]) -> Result<Frames, String> {
        let own: Option<Vec<SocketAddrV4>> = own.iter().map(|at| v4(*at)).collect();
        let own = own.ok_or("--frames makes packets of IPv4 only")?;
        if own.len() > STREAMS || cores.len() > 1 {
            return Err(format!("--frames sends from one core, at most {STREAMS} streams"));
        }
        let failed = |error: &dyn std::error::Error| format!("--frames: {}", root(error));
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).map_err(|error| failed(&error))?;
        for program in ["send", "hear"] {
            xdp(&mut ebpf, program)?.load().map_err(|error| failed(&error))?;
        }
        let mut take = |map: &str| ebpf.take_map(map).ok_or(format!("the object has no {map}"));
        let paces = take("paces")?.try_into().map_err(|error| failed(&error))?;
        let streams = take("streams")?.try_into().map_err(|error| failed(&error))?;
        let heard = take("heard")?.try_into().map_err(|error| failed(&error))?;
        let core = cores.first().copied();
        Ok(Frames { ebpf, interface, own, core, paces, streams, heard })
    }

    /// Where each stream's packets go.
    pub fn connect(&mut self, peers: &[SocketAddr]) -> Result<(), String> {
        if peers.len() != self.own.len() {
            return Err(format!("{} of {} streams stand", peers.len(), self.own.len()));
        }
        let neighbours = fs::read_to_string("/proc/net/arp").map_err(|error| error.to_string())?;
        for (number, peer) in peers.iter().enumerate() {
            let peer = v4(*peer).ok_or("--frames makes packets of IPv4 only")?;
            let mac = self.hop(*peer.ip(), &neighbours)?;
            let stream = stream(number as u32, self.own[number], peer, mac, self.interface.mac);
            self.streams.set(number as u32, stream, 0).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The neighbour's MAC address; SIP went there before. What goes to ourselves goes to all, who drop it.
    fn hop(&self, ip: Ipv4Addr, neighbours: &str) -> Result<[u8; 6], String> {
        if self.own.iter().any(|own| *own.ip() == ip) {
            return Ok([0xff; 6]);
        }
        let name = &self.interface.name;
        neighbour(neighbours, ip, name)
            .ok_or(format!("{ip} is no neighbour at {name}: --frames knows no routes"))
    }

    /// Sends and counts; takes as long as `window` says and a little more, for what is still under way.
    pub fn measure(&mut self, window: &Window) -> Result<(Counted, Spent), String> {
        let before = self.heard()?;
        let begin = Instant::now() + LEAD;
        let first = begin + window.warm_up;
        let last = first + window.length;
        self.order(window)?;
        let program: &Xdp = match self.ebpf.program("send").map(TryInto::try_into) {
            Some(Ok(program)) => program,
            _ => return Err("the object has no program to send".into()),
        };
        // What ends the thread's run; as such it does nothing, once somebody listens to it.
        let listened = signal(SignalKind::from_raw(Signal::SIGUSR1 as i32));
        let _listened = listened.map_err(|error| format!("SIGUSR1: {error}"))?;
        let (index, core, cores) = (self.interface.index, self.core, Vec::from_iter(self.core));
        let spent = std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let sending = scope.spawn(move || {
                core.map_or(Ok(()), |core| pin_thread(None, core))
                    .map_err(|error| format!("core: {error}"))?;
                let _ = tell.send(pthread_self());
                while Instant::now() < last {
                    run(program, index)?;
                }
                Ok::<(), String>(())
            });
            let thread = told.recv();
            std::thread::sleep(first.saturating_duration_since(Instant::now()));
            let earlier = Sample::take(window.watch);
            std::thread::sleep(last.saturating_duration_since(Instant::now()));
            let spent = Sample::take(window.watch).since(&earlier, &cores);
            while let (Ok(thread), false) = (thread, sending.is_finished()) {
                let _ = pthread_kill(thread, Signal::SIGUSR1);
                std::thread::sleep(TELL_EVERY);
            }
            let ended = sending.join().map_err(|_| "the sending thread failed".to_owned())?;
            ended.map(|()| spent)
        })?;
        // What a process spent that ended meanwhile is in no file any more.
        window.watch.map_or(Ok(()), watch::check)?;
        let after = self.quiet()?;
        let pace = self.paces.get(&0, 0).map_err(|error| error.to_string())?;
        let each = |word: usize| -> u64 {
            let words = after.iter().zip(&before);
            words.map(|(after, before)| after[word] - before[word]).sum()
        };
        let counted = Counted {
            sent: pace[SENT],
            missed: pace[MISSED],
            received: each(ARRIVED),
            duplicated: each(AGAIN),
            reordered: each(LATE),
            stray: each(STRAY),
            ..Counted::default()
        };
        Ok((counted, spent))
    }

    /// Tells the program when what is due.
    fn order(&mut self, window: &Window) -> Result<(), String> {
        let nanos = |time: Duration| time.as_nanos() as u64;
        let begin = nanos(monotonic() + LEAD);
        let first = begin + nanos(window.warm_up);
        let rate = u64::from(window.rate);
        let streams = (self.own.len() as u64) << 32;
        let last = first + nanos(window.length);
        let pace: Pace = [begin, first, last, rate, LATEST, 0, 0, 0, streams, 0];
        debug_assert_eq!(pace[DONE], 0);
        self.paces.set(0, pace, 0).map_err(|error| error.to_string())
    }

    /// What has arrived when nothing arrives any more.
    fn quiet(&self) -> Result<Vec<Arrivals>, String> {
        let end = Instant::now() + DRAIN;
        let mut heard = self.heard()?;
        loop {
            std::thread::sleep(SILENCE);
            let now = self.heard()?;
            if now == heard || Instant::now() > end {
                return Ok(now);
            }
            heard = now;
        }
    }

    fn heard(&self) -> Result<Vec<Arrivals>, String> {
        let streams = 0..self.own.len() as u32;
        let arrivals: Result<_, _> = streams.map(|stream| self.heard.get(&stream, 0)).collect();
        let mut arrivals: Vec<Arrivals> = arrivals.map_err(|error| error.to_string())?;
        // Only the counts count.
        arrivals.iter_mut().for_each(|words| [words[0], words[5]] = [0, 0]);
        Ok(arrivals)
    }
}

/// Has what comes by the interface taken on a core of its own, and not on that of whoever sends it, as a veth would:
/// counting is the generator's work.
fn hear_on(name: &str, core: usize) -> Result<(), String> {
    let file = format!("/sys/class/net/{name}/threaded");
    fs::write(&file, "1").map_err(|error| format!("{file}: {error}"))?;
    let threads = format!("napi/{name}-");
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let id = process.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        if comm.starts_with(&threads) && id.is_some() {
            pin_thread(id, core).map_err(|error| format!("{}: {error}", comm.trim()))?;
            // Before everything else that is not in a hurry; its queue is short.
            let _ = setpriority_process(id, -20);
        }
    }
    Ok(())
}

/// Lets the kernel make frames that come as if from the interface, and the program send them back by it, until a
/// signal comes: to begin and to end it takes the kernel many milliseconds.
fn run(program: &Xdp, interface: u32) -> Result<(), String> {
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let words = [0, FRAME as u32, 0, interface, 0, 0];
    let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let frame = [0xd5; FRAME];
    let options = TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        repeat: u32::MAX,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    };
    match program.test_run(options) {
        Err(error) if !is_signal(&error) => Err(format!("sending: {}", root(&error))),
        _ => Ok(()),
    }
}

impl Interface {
    fn named(name: &str) -> Result<Interface, String> {
        let read = |what: &str| {
            let file = format!("/sys/class/net/{name}/{what}");
            fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))
        };
        let index = read("ifindex")?.trim().parse().map_err(|_| "no index".to_owned())?;
        let mac = mac(read("address")?.trim()).ok_or(format!("{name} is no Ethernet"))?;
        Ok(Interface { name: name.to_owned(), index, mac })
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, String> {
    let program = ebpf.program_mut(name).ok_or(format!("the object has no {name}"))?;
    program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())
}

fn is_signal(error: &(dyn std::error::Error + 'static)) -> bool {
    let errors = std::iter::successors(Some(error), |error| error.source());
    let mut kinds = errors.filter_map(|error| Some(error.downcast_ref::<io::Error>()?.kind()));
    kinds.any(|kind| kind == io::ErrorKind::Interrupted)
}

/// What an error comes from.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn v4(at: SocketAddr) -> Option<SocketAddrV4> {
    match (at.ip().to_canonical(), at.port()) {
        (IpAddr::V4(ip), port) => Some(SocketAddrV4::new(ip, port)),
        (IpAddr::V6(_), _) => None,
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok()
}

/// `IP address, HW type, Flags, HW address, Mask, Device` (proc_net(5)); flag 2 is a complete entry.
fn neighbour(table: &str, ip: Ipv4Addr, interface: &str) -> Option<[u8; 6]> {
    let line = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.first()?.parse() == Ok(ip) && words.last() == Some(&interface);
        is_it.then(|| words.get(3).and_then(|word| mac(word)))
    })?;
    line.filter(|mac| *mac != [0; 6])
}

fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What the program has to know of a stream.
fn stream(
    number: u32,
    own: SocketAddrV4,
    peer: SocketAddrV4,
    to_mac: [u8; 6],
    from_mac: [u8; 6],
) -> Stream {
    let frame = frame(number, own, peer, to_mac, from_mac);
    let udp = &frame[ETHERNET + IPV4..];
    let mut pseudo = [own.ip().octets(), peer.ip().octets()].concat();
    pseudo.extend([0, PROTOCOL_UDP]);
    pseudo.extend((udp.len() as u16).to_be_bytes());
    let mut words = [0; 16];
    for (word, bytes) in words[..HEAD_WORDS].iter_mut().zip(frame.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words[HEAD_WORDS] = u64::from(sum(&pseudo) + sum(udp));
    let [a, b, c, d] = own.ip().octets();
    let [high, low] = own.port().to_be_bytes();
    words[HEAD_WORDS + 1] = u64::from_ne_bytes([a, b, c, d, high, low, 0, 0]);
    words
}

/// A stream's frame; what varies is 0.
fn frame(
    number: u32,
    own: SocketAddrV4,
    peer: SocketAddrV4,
    to_mac: [u8; 6],
    from_mac: [u8; 6],
) -> [u8; FRAME] {
    let mut frame = [0xd5; FRAME];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&to_mac);
    put(&from_mac);
    put(&[8, 0]);
    let length = (FRAME - ETHERNET) as u16;
    let mut ip = [0; IPV4];
    ip[..2].copy_from_slice(&[0x45, 0]);
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    // Don't fragment; 64 hops.
    ip[6..10].copy_from_slice(&[0x40, 0, 64, PROTOCOL_UDP]);
    ip[12..16].copy_from_slice(&own.ip().octets());
    ip[16..].copy_from_slice(&peer.ip().octets());
    let check = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&check.to_ne_bytes());
    put(&ip);
    put(&own.port().to_be_bytes());
    put(&peer.port().to_be_bytes());
    put(&(length - IPV4 as u16).to_be_bytes());
    put(&[0, 0]);
    let rtp =
        RtpHeader { marker: false, payload_type: 8, sequence: 0, timestamp: 0, ssrc: ssrc(number) };
    put(&rtp.bytes());
    // The time of sending is not used.
    put(&[0; 8]);
    put(&number.to_be_bytes());
    put(&[0; 8]);
    frame
}

/// The ones' complement sum of words of 16 bits in this machine's order, not folded.
fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests;
