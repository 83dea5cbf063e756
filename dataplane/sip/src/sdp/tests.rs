use std::net::{IpAddr, SocketAddr};

use super::*;

const WITH: Rewrite = Rewrite {
    address: IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 5)),
    port: 20_000,
    video_port: None,
    session_id: 77,
    version: 3,
    secured: Secured { profile: false, crypto: [None; 2], mux: false },
};

const BARESIP: &[u8] = b"v=0\r\n\
o=- 1893172913 1462023442 IN IP4 192.168.10.21\r\n\
s=-\r\n\
c=IN IP4 192.168.10.21\r\n\
t=0 0\r\n\
a=tool:baresip 3.10.1\r\n\
m=audio 31234 RTP/AVP 8 0 101\r\n\
b=AS:125\r\n\
a=rtpmap:8 PCMA/8000\r\n\
a=rtpmap:0 PCMU/8000\r\n\
a=rtpmap:101 telephone-event/8000\r\n\
a=fmtp:101 0-15\r\n\
a=rtcp:31235\r\n\
a=sendrecv\r\n\
a=label:1\r\n\
a=rtcp-rsize\r\n\
a=ssrc:3417122315 cname:sip:1001@192.168.10.21\r\n\
a=ptime:20\r\n";

const LINPHONE: &[u8] = b"v=0\r\n\
o=1001.demo 3526 2345 IN IP4 10.1.2.3\r\n\
s=Talk\r\n\
c=IN IP4 10.1.2.3\r\n\
t=0 0\r\n\
a=ice-pwd:2c0b1d6f5a4e3c2b1a\r\n\
a=ice-ufrag:8a7b\r\n\
a=rtcp-xr:rcvr-rtt=all:10000 stat-summary=loss,dup,jitt,TTL voip-metrics\r\n\
a=record:off\r\n\
m=audio 7078 RTP/AVPF 96 97 98 0 8 101 99\r\n\
c=IN IP4 198.51.100.9\r\n\
a=rtpmap:96 opus/48000/2\r\n\
a=fmtp:96 useinbandfec=1\r\n\
a=rtpmap:97 speex/16000\r\n\
a=fmtp:97 vbr=on\r\n\
a=rtpmap:98 speex/8000\r\n\
a=fmtp:98 vbr=on\r\n\
a=rtpmap:101 telephone-event/48000\r\n\
a=rtpmap:99 telephone-event/8000\r\n\
a=rtcp:7079 IN IP4 198.51.100.10\r\n\
a=candidate:1 1 UDP 2130706303 10.1.2.3 7078 typ host\r\n\
a=candidate:2 1 UDP 1694498687 198.51.100.9 7078 typ srflx raddr 10.1.2.3 rport 7078\r\n\
a=rtcp-fb:* trr-int 1000\r\n\
a=rtcp-fb:* ccm tmmbr\r\n\
m=video 9078 RTP/AVPF 96 97\r\n\
c=IN IP4 198.51.100.9\r\n\
a=rtpmap:96 VP8/90000\r\n\
a=rtpmap:97 H264/90000\r\n\
a=candidate:1 1 UDP 2130706303 10.1.2.3 9078 typ host\r\n";

const WEBRTC: &[u8] = b"v=0\r\n\
o=mozilla...THIS_IS_SDPARTA-99.0 4611731400430051336 2 IN IP4 127.0.0.1\r\n\
s=-\r\n\
t=0 0\r\n\
a=fingerprint:sha-256 E7:FA:17:DA:3F:3C:1E:D8:E4:9C:8C:4C:13:B9:2E:D5:C6:78:AB:\
B3:B8:42:BF:22:0D:EE:A1:12:34:56:78:9A\r\n\
a=group:BUNDLE 0 1\r\n\
m=audio 9 UDP/TLS/RTP/SAVPF 109 0 8\r\n\
c=IN IP4 0.0.0.0\r\n\
a=candidate:0 1 UDP 2122252543 10.0.0.5 49203 typ host\r\n\
a=mid:0\r\n\
a=rtcp-mux\r\n\
m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
a=mid:1\r\n";

fn rewritten(sdp: &[u8]) -> String {
    String::from_utf8(rewrite(&parse(sdp).unwrap(), WITH).unwrap()).unwrap()
}

fn reason(sdp: &[u8]) -> &'static str {
    parse(sdp).and_then(|sdp| audio(&sdp).map(|_| ())).unwrap_err().name()
}

fn with_lines(lines: &str) -> Vec<u8> {
    format!("v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\n{}\r\n", lines.replace('\n', "\r\n"))
        .into_bytes()
}

#[test]
fn baresip_is_rewritten_exactly() {
    let expected = "v=0\r\n\
        o=- 77 3 IN IP4 203.0.113.5\r\n\
        s=-\r\n\
        c=IN IP4 203.0.113.5\r\n\
        t=0 0\r\n\
        m=audio 20000 RTP/AVP 8 0 101\r\n\
        b=AS:125\r\n\
        a=rtpmap:8 PCMA/8000\r\n\
        a=rtpmap:0 PCMU/8000\r\n\
        a=rtpmap:101 telephone-event/8000\r\n\
        a=fmtp:101 0-15\r\n\
        a=ptime:20\r\n\
        a=sendrecv\r\n\
        a=rtcp:20001\r\n";
    assert_eq!(rewritten(BARESIP), expected);
}

#[test]
fn linphone_keeps_its_codecs_and_its_video_is_refused() {
    let out = rewritten(LINPHONE);
    assert!(out.contains("m=audio 20000 RTP/AVPF 96 97 98 0 8 101 99\r\n"), "{out}");
    assert!(out.contains("a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n"), "{out}");
    assert!(out.ends_with("m=video 0 RTP/AVPF 96\r\n"), "{out}");
    for gone in ["10.1.2.3", "198.51.100", "ice", "candidate", "VP8", "1001", "Talk", "rtcp-fb"] {
        assert!(!out.contains(gone), "{gone} in {out}");
    }
}

#[test]
fn the_media_level_address_and_rtcp_are_found() {
    let sdp = parse(LINPHONE).unwrap();
    let audio = audio(&sdp).unwrap();
    assert_eq!(audio.address, "198.51.100.9:7078".parse::<SocketAddr>().unwrap());
    assert_eq!(audio.rtcp, "198.51.100.10:7079".parse::<SocketAddr>().unwrap());
    assert_eq!(audio.direction, Direction::SendRecv);
    assert!(!audio.held);
    let numbers: Vec<u8> = audio.payloads.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [96, 97, 98, 0, 8, 101, 99]);
    assert_eq!(audio.payloads[0], Payload { number: 96, encoding: b"opus", clock: 48_000 });
    assert_eq!(audio.payloads[3], Payload { number: 0, encoding: b"PCMU", clock: 8000 });
}

#[test]
fn no_address_of_the_input_is_in_the_output_wherever_it_was() {
    let places = [
        "i=10.66.1.2",
        "u=http://10.66.1.2/",
        "e=a@10.66.1.2",
        "k=uri:http://10.66.1.2",
        "a=rtpmap:96 10.66.1.2/8000",
        "a=rtpmap:96 x/8000/10.66.1.2",
        "a=fmtp:96 ip=10.66.1.2",
        "a=fmtp:96 x10.66.1.2:5004",
        "a=fmtp:96 [2001:db8::66:1]",
        "a=fmtp:96 ::ffff:10.66.1.2",
        "a=ptime:20 10.66.1.2",
        "a=sendrecv 10.66.1.2",
        "a=sendonly:10.66.1.2",
        "a=rtcp:9 IN IP4 10.66.1.2",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x|10.66.1.2",
        "b=AS:10.66.1.2",
        "b=X-10.66.1.2:5",
        "m=image 5 udptl 10.66.1.2",
    ];
    for place in places {
        let sdp = with_lines(&format!(
            "c=IN IP4 10.66.1.2\nt=0 0\nm=audio 4000 RTP/AVP 96 0\na=rtpmap:96 X/8000\n{place}"
        ));
        let out = rewritten(&sdp);
        assert!(!out.contains("10.66") && !out.contains("66:1"), "{place} in {out}");
        let again = parse(out.as_bytes()).unwrap();
        assert_eq!(audio(&again).unwrap().address.to_string(), "203.0.113.5:20000");
    }
    let kind = with_lines("c=IN IP4 10.66.1.2\nm=audio 4 RTP/AVP 0\nm=10.66.1.2 5 RTP/AVP 0");
    assert_eq!(rewrite(&parse(&kind).unwrap(), WITH), Err(SdpError::Media));
}

#[test]
fn what_says_nothing_or_parts_of_an_address_is_left_out() {
    let sdp = with_lines(
        "c=IN IP4 10.0.0.1\nm=audio 4 RTP/AVP 96\na=fmtp:96 \na=fmtp:96 x\n\
         m=application 9 UDP/BFCP 10.66. 10.66.1.2 1.2",
    );
    let out = rewritten(&sdp);
    assert!(out.contains("a=fmtp:96 x\r\n") && !out.contains("a=fmtp:96\r\n"), "{out}");
    assert!(out.contains("m=application 0 UDP/BFCP 0\r\n"), "{out}");
}

#[test]
fn webrtc_is_refused_by_name() {
    assert_eq!(reason(WEBRTC), "sdp_transport");
    assert_eq!(rewrite(&parse(WEBRTC).unwrap(), WITH), Err(SdpError::Transport));
    assert_eq!(SdpError::Transport.status(), 488);
}

#[test]
fn sections_keep_their_order_and_number() {
    let sdp = with_lines(
        "c=IN IP4 10.0.0.1\nt=1 2\n\
         m=video 5000 RTP/AVP 31\n\
         m=audio 0 RTP/AVP 0\n\
         m=audio 5002 RTP/SAVP 0\na=crypto:1 x inline:y\n\
         m=audio 5004/2 RTP/AVP 8\na=inactive\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\n\
         m=message 2855 TCP/MSRP *",
    );
    let out = rewritten(&sdp);
    let lines: Vec<&str> = out.lines().filter(|l| l.starts_with("m=")).collect();
    let expected = [
        "m=video 0 RTP/AVP 31",
        "m=audio 0 RTP/AVP 0",
        "m=audio 0 RTP/SAVP 0",
        "m=audio 20000 RTP/AVP 8",
        "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
        "m=message 0 TCP/MSRP *",
    ];
    assert_eq!(lines, expected);
    assert!(out.contains("t=1 2\r\n") && out.contains("a=inactive\r\n"));
    let again = parse(out.as_bytes()).unwrap();
    let audio = audio(&again).unwrap();
    assert_eq!((audio.section, audio.direction, audio.held), (3, Direction::Inactive, true));
}

#[test]
fn ipv6_lf_only_and_a_missing_last_line_end_are_read() {
    let sdp = b"v=0\no=- 1 1 IN IP6 2001:db8::1\ns=-\nc=IN IP6 2001:db8::1\nt=0 0\na=recvonly\n\
        m=audio 4000 RTP/AVP 0";
    let parsed = parse(sdp).unwrap();
    let read = audio(&parsed).unwrap();
    assert_eq!(read.address, "[2001:db8::1]:4000".parse::<SocketAddr>().unwrap());
    assert_eq!(read.rtcp.port(), 4001);
    assert_eq!(read.direction, Direction::RecvOnly);
    assert!(!read.held);
    let with = Rewrite { address: "2001:db8::ffff".parse().unwrap(), port: 65_535, ..WITH };
    let out = String::from_utf8(rewrite(&parsed, with).unwrap()).unwrap();
    assert!(out.contains("c=IN IP6 2001:db8::ffff\r\n") && out.contains("a=recvonly\r\n"), "{out}");
    assert!(!out.contains("db8::1"));
}

#[test]
fn holds_are_seen_and_the_old_one_becomes_a_direction() {
    for (lines, direction, held) in [
        ("a=sendonly", Direction::SendOnly, true),
        ("a=inactive", Direction::Inactive, true),
        ("a=recvonly", Direction::RecvOnly, false),
        ("a=sendrecv", Direction::SendRecv, false),
        ("a=ptime:20", Direction::SendRecv, false),
    ] {
        let sdp = with_lines(&format!("c=IN IP4 10.0.0.1\nm=audio 4 RTP/AVP 0\n{lines}"));
        let parsed = parse(&sdp).unwrap();
        let read = audio(&parsed).unwrap();
        assert_eq!((read.direction, read.held), (direction, held), "{lines}");
    }
    let old = with_lines("c=IN IP4 0.0.0.0\nm=audio 4 RTP/AVP 0");
    assert!(audio(&parse(&old).unwrap()).unwrap().held);
    assert!(rewritten(&old).contains("a=sendonly\r\n"));
    let old = with_lines("c=IN IP4 0.0.0.0\nm=audio 4 RTP/AVP 0\na=recvonly");
    assert!(rewritten(&old).contains("a=inactive\r\n"));
}

#[test]
fn unusable_descriptions_have_named_reasons() {
    let c = "c=IN IP4 10.0.0.1\n";
    let cases = [
        (Vec::new(), "sdp_syntax"),
        (b"hello".to_vec(), "sdp_syntax"),
        (b"v=1\r\n".to_vec(), "sdp_syntax"),
        (b"\r\nv=0\r\n".to_vec(), "sdp_syntax"),
        (with_lines("nonsense"), "sdp_syntax"),
        (with_lines("a=x\n\na=y"), "sdp_syntax"),
        (with_lines("a=x\ry"), "sdp_syntax"),
        (with_lines("t=0 0"), "sdp_no_audio"),
        (with_lines(&format!("{c}m=video 4 RTP/AVP 96")), "sdp_no_audio"),
        (with_lines(&format!("{c}m=audio 0 RTP/AVP 0")), "sdp_audio_refused"),
        (with_lines(&format!("{c}m=audio 4 RTP/SAVP 0")), "sdp_crypto"),
        (with_lines(&format!("{c}m=audio 4 UDP/TLS/RTP/SAVP 0")), "sdp_transport"),
        (with_lines(&format!("{c}m=audio 4 RTP/AVP")), "sdp_media"),
        (with_lines(&format!("{c}m=audio 4 RTP/AVP ")), "sdp_media"),
        (with_lines(&format!("{c}m=audio 65536 RTP/AVP 0")), "sdp_media"),
        (with_lines(&format!("{c}m=audio -1 RTP/AVP 0")), "sdp_media"),
        (with_lines(&format!("{c}m=audio 4 RTP/AVP 128")), "sdp_media"),
        (with_lines(&format!("{c}m=audio 4 RTP/AVP x")), "sdp_media"),
        (with_lines("m=audio 4 RTP/AVP 0"), "sdp_connection"),
        (with_lines("c=IN IP4\nm=audio 4 RTP/AVP 0"), "sdp_connection"),
        (with_lines("c=IN IP6 10.0.0.1\nm=audio 4 RTP/AVP 0"), "sdp_connection"),
        (with_lines("c=IN IP4 phone.lan\nm=audio 4 RTP/AVP 0"), "sdp_host_name"),
        (with_lines("c=IN IP4 224.2.1.1/127\nm=audio 4 RTP/AVP 0"), "sdp_multicast"),
        (with_lines(&"m=x 1 y z\n".repeat(MAX_MEDIA + 1)), "sdp_too_large"),
        (vec![b'v'; MAX_SDP + 1], "sdp_too_large"),
    ];
    for (sdp, name) in cases {
        assert_eq!(reason(&sdp), name, "{}", sdp.escape_ascii());
    }
    let many = (0..MAX_PAYLOADS + 1).map(|n| format!(" {n}")).collect::<String>();
    let many = with_lines(&format!("{c}m=audio 4 RTP/AVP{many}"));
    assert_eq!(reason(&many), "sdp_too_large");
}

fn own(codecs: &[Codec]) -> Own<'_> {
    Own {
        address: "192.0.2.1".parse().unwrap(),
        port: 6000,
        session_id: 1,
        version: 2,
        direction: Direction::SendRecv,
        codecs,
    }
}

#[test]
fn an_offer_reads_back() {
    let codecs = [Codec::Pcma, Codec::Pcmu, Codec::TelephoneEvent];
    let bytes = offer(&own(&codecs));
    let sdp = parse(&bytes).unwrap();
    let read = audio(&sdp).unwrap();
    assert_eq!(read.address.to_string(), "192.0.2.1:6000");
    let names: Vec<&[u8]> = read.payloads.iter().map(|p| p.encoding).collect();
    assert_eq!(names, [&b"PCMA"[..], b"PCMU", b"telephone-event"]);
}

#[test]
fn an_answer_takes_the_offers_order_numbers_and_direction() {
    let codecs = [Codec::Pcmu, Codec::Pcma, Codec::TelephoneEvent];
    let sdp = parse(LINPHONE).unwrap();
    let bytes = answer(&sdp, &own(&codecs)).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    // The event at 48 kHz is not ours, that at 8 kHz is.
    assert!(text.contains("m=audio 6000 RTP/AVPF 0 8 99\r\n"), "{text}");
    assert!(text.contains("a=rtpmap:99 telephone-event/8000\r\na=fmtp:99 0-15\r\n"), "{text}");
    assert!(text.ends_with("m=video 0 RTP/AVPF 96\r\n"), "{text}");
    assert!(audio(&parse(&bytes).unwrap()).is_ok());
    let held = with_lines("c=IN IP4 10.0.0.1\nm=audio 4 RTP/AVP 0\na=sendonly");
    let text = answer(&parse(&held).unwrap(), &own(&codecs)).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("a=recvonly\r\n"));
    let only_events = own(&[Codec::TelephoneEvent]);
    assert_eq!(answer(&sdp, &only_events), Err(SdpError::NoCommonCodec));
}

#[test]
fn directions_answer_each_other() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    for (offered, wanted, answered) in [
        (SendRecv, SendRecv, SendRecv),
        (SendOnly, SendRecv, RecvOnly),
        (RecvOnly, SendRecv, SendOnly),
        (Inactive, SendRecv, Inactive),
        (SendRecv, SendOnly, SendOnly),
        (SendOnly, SendOnly, Inactive),
        (RecvOnly, RecvOnly, Inactive),
    ] {
        assert_eq!(offered.answered(wanted), answered, "{offered:?} {wanted:?}");
    }
}

/// Video is relayed beside audio, with what belongs to it, and nothing of the describer's address.
#[test]
fn video_is_relayed_where_there_is_a_port_for_it() {
    let offer = b"v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
        m=audio 4000 RTP/AVP 0\r\n\
        m=video 4002 RTP/AVPF 96 97\r\nb=AS:512\r\na=rtpmap:96 H264/90000\r\n\
        a=fmtp:96 profile-level-id=42e01f\r\na=rtcp-fb:96 nack pli\r\na=rtcp-fb:* ccm fir\r\n\
        a=rtcp-fb:98 nack\r\na=candidate:1 1 UDP 1 192.0.2.9 4002 typ host\r\na=sendonly\r\n\
        m=video 4004 RTP/AVP 98\r\n";
    let sdp = parse(offer).expect("valid");
    let found = video(&sdp).expect("video");
    assert_eq!((found.section, found.address.to_string()), (1, "192.0.2.9:4002".to_owned()));
    assert_eq!(found.rtcp.port(), 4003);
    let with = Rewrite { video_port: Some(30_002), ..WITH };
    let text = String::from_utf8(rewrite(&sdp, with).expect("rewritten")).expect("text");
    for line in [
        "m=video 30002 RTP/AVPF 96 97\r\n",
        "b=AS:512",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 profile-level-id=42e01f",
        "a=rtcp-fb:96 nack pli",
        "a=rtcp-fb:* ccm fir",
        "a=sendonly",
        "a=rtcp:30003",
        "m=video 0 RTP/AVP 98\r\n",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    for line in ["192.0.2.9", "rtcp-fb:98", "candidate", "4002"] {
        assert!(!text.contains(line), "{line} is in {text}");
    }
    let refused = String::from_utf8(rewrite(&sdp, WITH).expect("rewritten")).expect("text");
    assert!(refused.contains("m=video 0 RTP/AVPF 96\r\n"), "{refused}");
    for none in ["m=video 0 RTP/AVP 96", "m=video 5 RTP/SAVP 96", "m=video 5 RTP/AVP 200"] {
        let text = format!("v=0\r\nc=IN IP4 192.0.2.9\r\nm=audio 4 RTP/AVP 0\r\n{none}\r\n");
        assert_eq!(video(&parse(text.as_bytes()).expect("valid")), None, "{none}");
    }
}
