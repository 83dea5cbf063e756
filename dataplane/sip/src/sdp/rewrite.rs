use std::io::Write as _;
use std::net::IpAddr;

use super::audio::{chosen, connection, direction, numbered, payload_numbers, video};
use super::{Direction, Media, Sdp, SdpError, Section, Secured, number, words};
use crate::wire::is_token;

/// What a relay puts in place of the describer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Our address, where the other side sends to.
    pub address: IpAddr,
    /// Our RTP port; RTCP is the next one.
    pub port: u16,
    /// The same for the first video stream; none refuses it.
    pub video_port: Option<u16>,
    /// The session id of `o=`, one for each leg.
    pub session_id: u64,
    /// The version of `o=`; it must grow by one with each new description of a leg (RFC 3264, 8).
    pub version: u64,
    /// How the audio is protected on the other side; its keys are never copied.
    pub secured: Secured,
}

/// The description for the other side: own `o=`, `s=`, `c=`, port and `a=rtcp`, the codecs of the
/// first audio stream and of the first video stream in their order, all other streams refused.
///
/// RFC 3264, 6: "For each "m=" line in the offer, there MUST be a corresponding "m=" line in the
/// answer." So the sections keep their order and number. What is copied is on a list: `t=`, `b=`
/// with numbers, `rtpmap`, `fmtp`, `ptime`, `maxptime`, `rtcp-fb` and the direction.
pub fn rewrite(sdp: &Sdp<'_>, with: Rewrite) -> Result<Vec<u8>, SdpError> {
    write_with(sdp, with, None)
}

/// The same as an offer for somebody else than who it was made for: a hold was between those two, so the
/// streams flow as `flows` says (RFC 3264, 5.1: "If the offerer wishes to both send and receive media with its
/// peer, it MAY include an "a=sendrecv" attribute").
pub fn rewrite_as(sdp: &Sdp<'_>, with: Rewrite, flows: Direction) -> Result<Vec<u8>, SdpError> {
    write_with(sdp, with, Some(flows))
}

fn write_with(sdp: &Sdp<'_>, with: Rewrite, flows: Option<Direction>) -> Result<Vec<u8>, SdpError> {
    let (relayed, _) = chosen(sdp)?;
    let video = with.video_port.zip(video(sdp).map(|video| video.section));
    let mut out = Vec::with_capacity(512);
    push_session(&mut out, with, timing(sdp.session));
    for (at, section) in sdp.media().iter().enumerate() {
        match video {
            _ if at == relayed => {
                let protocol = with.secured.protocol(section.protocol);
                push_relayed(&mut out, sdp, section, ("audio", protocol), with.port, flows)?;
                with.secured.push(&mut out);
                push_rtcp(&mut out, with.port, with.secured.mux);
            }
            Some((port, section_of_video)) if at == section_of_video => {
                push_relayed(&mut out, sdp, section, ("video", section.protocol), port, flows)?;
                push_rtcp(&mut out, port, false);
            }
            _ => push_refused(&mut out, section)?,
        }
    }
    Ok(out)
}

/// Writes a stream that is relayed through `port`.
fn push_relayed(
    out: &mut Vec<u8>,
    sdp: &Sdp<'_>,
    media: &Media<'_>,
    (kind, protocol): (&str, &[u8]),
    port: u16,
    flows: Option<Direction>,
) -> Result<(), SdpError> {
    let numbers = payload_numbers(media)?;
    let unspecified = connection(sdp, media)?.is_unspecified();
    push_media_line(out, kind, protocol, port, &numbers);
    push_bandwidth(out, media.section);
    push_codecs(out, media.section, &numbers, media.is_video());
    push_direction(out, flows.unwrap_or_else(|| relayed_direction(sdp, media, unspecified)));
    Ok(())
}

/// RFC 3605: the port of RTCP, which is that of RTP where one is enough (RFC 5761).
fn push_rtcp(out: &mut Vec<u8>, port: u16, mux: bool) {
    let port = if mux { port } else { port.saturating_add(1) };
    put(out, format_args!("a=rtcp:{port}\r\n"));
}

/// The direction of the relayed stream. RFC 2543 held a call with the address 0.0.0.0, which says
/// "do not send to me"; as our own address takes its place, the direction says it instead (RFC
/// 3264, 8.4).
fn relayed_direction(sdp: &Sdp<'_>, media: &Media<'_>, unspecified: bool) -> Direction {
    let said = direction(sdp, media);
    if unspecified { Direction::new(said.sends(), false) } else { said }
}

/// Writes the session part.
pub(super) fn push_session(out: &mut Vec<u8>, with: Rewrite, timing: (u64, u64)) {
    let Rewrite { address, session_id, version, .. } = with;
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    put(
        out,
        format_args!(
            "v=0\r\no=- {session_id} {version} IN {family} {address}\r\ns=-\r\n\
             c=IN {family} {address}\r\nt={} {}\r\n",
            timing.0, timing.1
        ),
    );
}

/// The first `t=` line's two numbers, `0 0` without one.
fn timing(session: Section<'_>) -> (u64, u64) {
    let read = session.values(b't').next().and_then(|value| {
        let mut numbers = words(value).map(number::<u64>);
        Some((numbers.next()??, numbers.next()??))
    });
    read.unwrap_or_default()
}

pub(super) fn push_media_line(
    out: &mut Vec<u8>,
    kind: &str,
    protocol: &[u8],
    port: u16,
    numbers: &[u8],
) {
    put(out, format_args!("m={kind} {port} "));
    out.extend_from_slice(protocol);
    for number in numbers {
        put(out, format_args!(" {number}"));
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn push_direction(out: &mut Vec<u8>, direction: Direction) {
    put(out, format_args!("a={}\r\n", direction.name()));
}

/// A refused stream (RFC 3264, 6: port 0); the formats do not matter, but one must be there.
pub(super) fn push_refused(out: &mut Vec<u8>, media: &Media<'_>) -> Result<(), SdpError> {
    // Names of media and protocols have no dots and colons; what has some may be a part of an address.
    let is_name = |name: &[u8]| !name.iter().any(|byte| matches!(byte, b'.' | b':'));
    if !is_name(media.kind) || !is_name(media.protocol) {
        return Err(SdpError::Media);
    }
    out.extend_from_slice(b"m=");
    out.extend_from_slice(media.kind);
    out.extend_from_slice(b" 0 ");
    out.extend_from_slice(media.protocol);
    // Nor is a part of an address told, where the formats are not what they should be.
    let harmless = !bears_address(media.formats);
    let format = media.formats().next().filter(|f| harmless && is_token(f));
    out.push(b' ');
    out.extend_from_slice(format.unwrap_or(b"0"));
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn push_bandwidth(out: &mut Vec<u8>, section: Section<'_>) {
    for value in section.values(b'b') {
        let mut parts = value.splitn(2, |&b| b == b':');
        let (kind, width) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let known = [&b"AS"[..], b"TIAS", b"CT", b"RS", b"RR"].contains(&kind);
        if let (true, Some(width)) = (known, number::<u64>(width)) {
            out.extend_from_slice(b"b=");
            out.extend_from_slice(kind);
            put(out, format_args!(":{width}\r\n"));
        }
    }
}

/// The attributes on the list, in their order.
fn push_codecs(out: &mut Vec<u8>, section: Section<'_>, numbers: &[u8], is_video: bool) {
    for (name, value) in section.attributes() {
        let allowed = match name {
            b"rtpmap" => {
                numbered(value).is_some_and(|(n, map)| numbers.contains(&n) && is_map(map))
            }
            b"fmtp" => numbered(value)
                .is_some_and(|(n, format)| numbers.contains(&n) && is_harmless(format)),
            // RFC 4585, 4.2: of one payload type, or of all.
            b"rtcp-fb" if is_video => {
                let mut parts = value.splitn(2, |&b| b == b' ');
                let of = parts.next().unwrap_or_default();
                let listed = of == b"*" || number::<u8>(of).is_some_and(|n| numbers.contains(&n));
                listed && parts.next().is_some_and(is_harmless)
            }
            b"ptime" | b"maxptime" => number::<u16>(value.trim_ascii()).is_some(),
            _ => false,
        };
        if allowed {
            out.extend_from_slice(b"a=");
            out.extend_from_slice(name);
            out.push(b':');
            out.extend_from_slice(value.trim_ascii());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// RFC 4566, 6: `<encoding name>/<clock rate> [/<encoding parameters>]`.
fn is_map(map: &[u8]) -> bool {
    let mut parts = map.split(|&b| b == b'/');
    let encoding = parts.next().is_some_and(|name| is_token(name) && !bears_address(name));
    let clock = parts.next().is_some_and(|clock| number::<u32>(clock).is_some());
    let channels = parts.next().is_none_or(|channels| number::<u8>(channels).is_some());
    encoding && clock && channels && parts.next().is_none()
}

/// Format parameters belong to the codec and are passed on as they are, unless an address is in
/// them or there are none.
fn is_harmless(format: &[u8]) -> bool {
    !format.trim_ascii().is_empty()
        && format.iter().all(|b| b.is_ascii_graphic() || *b == b' ')
        && !bears_address(format)
}

/// True when something in `bytes` is spelt like an IP address: four numbers with dots between them,
/// or hexadecimal digits with two colons. No codec's parameters look like that.
fn bears_address(bytes: &[u8]) -> bool {
    let mut in_a_row = 0;
    let dotted = bytes.split(|b| !(b.is_ascii_digit() || *b == b'.')).any(|run| {
        in_a_row = 0;
        run.split(|b| *b == b'.').any(|part| {
            in_a_row = if part.is_empty() { 0 } else { in_a_row + 1 };
            in_a_row == 4
        })
    });
    let is_colon = |b: &&u8| **b == b':';
    dotted
        || bytes
            .split(|b| !(b.is_ascii_hexdigit() || *b == b':'))
            .any(|run| run.iter().filter(is_colon).count() >= 2)
}

pub(super) fn put(out: &mut Vec<u8>, text: core::fmt::Arguments<'_>) {
    // Writing into a Vec cannot fail.
    let _ = out.write_fmt(text);
}
