use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn capture<'a>(from: &str, to: &str, transport: Transport) -> Capture<'a> {
    Capture {
        from: at(from),
        to: at(to),
        transport,
        at: Duration::new(0x0102_0304, 0x0005_0607 * 1_000),
        agent: 7,
        correlation: b"42",
        payload: b"OPTIONS",
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(core::str::from_utf8(pair).expect("digits"), 16).expect("a byte")
    };
    digits.chunks(2).map(byte).collect()
}

/// Each packet byte by byte, as the specification draws it.
#[test]
fn a_message_is_written_as_the_specification_draws_it() {
    let tail = "0000 0009 000a 01020304  0000 000a 000a 00050607  0000 000b 0007 01 \
                0000 000c 000a 00000007  0000 0011 0008 3432  0000 000f 000d 4f5054494f4e53";
    for (packet, drawn) in [
        (
            capture("192.0.2.1:5060", "198.51.100.2:5062", Transport::Udp),
            format!(
                "48455033 0072  0000 0001 0007 02  0000 0002 0007 11 \
                 0000 0003 000a c0000201  0000 0004 000a c6336402 \
                 0000 0007 0008 13c4  0000 0008 0008 13c6 {tail}"
            ),
        ),
        (
            capture("[2001:db8::1]:5061", "[2001:db8::2]:40000", Transport::Tls),
            format!(
                "48455033 008a  0000 0001 0007 0a  0000 0002 0007 06 \
                 0000 0005 0016 20010db8000000000000000000000001 \
                 0000 0006 0016 20010db8000000000000000000000002 \
                 0000 0007 0008 13c5  0000 0008 0008 9c40 {tail}"
            ),
        ),
    ] {
        let written = packet.encode().expect("it fits");
        assert_eq!(written, bytes(&drawn));
        let read = Capture::decode(&written).expect("it is read");
        let transport =
            if packet.transport.is_reliable() { Transport::Tcp } else { Transport::Udp };
        assert_eq!(read, Capture { transport, ..packet });
    }
}

#[test]
fn a_mapped_address_is_ipv4_and_a_mixed_pair_is_ipv6() {
    let mapped = capture("[::ffff:192.0.2.1]:1", "192.0.2.2:2", Transport::Udp);
    let read = mapped.encode().expect("it fits");
    assert_eq!(Capture::decode(&read).expect("it is read").from, at("192.0.2.1:1"));
    let mixed = capture("192.0.2.1:1", "[2001:db8::2]:2", Transport::Udp);
    let read = mixed.encode().expect("it fits");
    assert_eq!(Capture::decode(&read).expect("it is read").from, at("[::ffff:192.0.2.1]:1"));
}

#[test]
fn what_is_too_long_is_not_written() {
    let whole = capture("192.0.2.1:1", "192.0.2.2:2", Transport::Udp);
    let room = 65_535 - whole.encode().expect("it fits").len() + whole.payload.len();
    let payload = vec![b'a'; room + 1];
    let fits = Capture { payload: &payload[..room], ..whole };
    assert_eq!(fits.encode().expect("it fits").len(), 65_535);
    assert_eq!(Capture { payload: &payload, ..whole }.encode(), None);
    assert_eq!(Capture { payload: &[0; 70_000], ..whole }.encode(), None);
}

#[test]
fn whatever_is_cut_short_or_missing_is_refused_and_nothing_panics() {
    let whole = capture("192.0.2.1:1", "192.0.2.2:2", Transport::Udp).encode().expect("it fits");
    for length in 0..whole.len() {
        assert_eq!(Capture::decode(&whole[..length]), Err(HepError::Head));
        let mut cut = whole[..length].to_vec();
        if length >= HEAD {
            cut[4..HEAD].copy_from_slice(&(length as u16).to_be_bytes());
        }
        assert!(Capture::decode(&cut).is_err(), "{length}");
    }
    for place in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut broken = whole.clone();
            broken[place] = value;
            let _ = Capture::decode(&broken);
        }
    }
    let mut other = whole.clone();
    let place = other.windows(6).position(|w| w == [0, 0, 0, 11, 0, 7]).expect("its type") + 6;
    other[place] = 5;
    assert_eq!(Capture::decode(&other), Err(HepError::NotSip(5)));
}

#[test]
fn what_is_unknown_is_left_out() {
    let packet = capture("192.0.2.1:1", "192.0.2.2:2", Transport::Udp);
    let mut more = packet.encode().expect("it fits");
    more.extend([0, 0, 0, 19, 0, 8, b'm', b'e']);
    // Another vendor's chunk 15 is no payload.
    more.splice(HEAD..HEAD, [0, 9, 0, 15, 0, 7, b'!']);
    let length = more.len() as u16;
    more[4..HEAD].copy_from_slice(&length.to_be_bytes());
    assert_eq!(Capture::decode(&more), Ok(packet));
}

#[test]
fn proofs_and_keys_are_masked_and_nothing_else() {
    for (plain, masked) in [
        (
            "REGISTER sip:a SIP/2.0\r\nAuthorization: Digest username=\"1001\", realm=\"r\", \
             nonce=\"abc\", uri=\"sip:a\", response=\"0123\", cnonce=\"q\", nc=00000001\r\n\r\n",
            "REGISTER sip:a SIP/2.0\r\nAuthorization: Digest username=\"1001\", realm=\"r\", \
             nonce=\"xxx\", uri=\"sip:a\", response=\"xxxx\", cnonce=\"x\", nc=00000001\r\n\r\n",
        ),
        (
            "INVITE sip:a SIP/2.0\r\nPROXY-authorization : Digest Response = \"0\\\"1\" ,\r\n \
             nonce=abc,\r\n\topaque=\"nonce=z\"\r\nFrom: response=\"1\"\r\n nonce=\"2\"\r\n",
            "INVITE sip:a SIP/2.0\r\nPROXY-authorization : Digest Response = \"xxxx\" ,\r\n \
             nonce=xxx,\r\n\topaque=\"nonce=z\"\r\nFrom: response=\"1\"\r\n nonce=\"2\"\r\n",
        ),
        (
            "SIP/2.0 401 No\r\nWWW-Authenticate: Digest nonce=\"abc\"\r\n\r\n",
            "SIP/2.0 401 No\r\nWWW-Authenticate: Digest nonce=\"abc\"\r\n\r\n",
        ),
        (
            "INVITE sip:a SIP/2.0\r\n\r\nv=0\r\na=crypto:1 S inline:a2V5|2^31;inline:Zz09 P\r\n",
            "INVITE sip:a SIP/2.0\r\n\r\nv=0\r\na=crypto:1 S inline:xxxx|2^31;inline:xxxx P\r\n",
        ),
        (
            "INVITE sip:a SIP/2.0\r\njackfield-lease: 1.2.3;token=00ff;purpose=call;by=1\r\n\r\n",
            "INVITE sip:a SIP/2.0\r\njackfield-lease: 1.2.3;token=xxxx;purpose=call;by=1\r\n\r\n",
        ),
        ("Authorization: Digest response=\"abc", "Authorization: Digest response=\"xxx"),
        ("Authorization: Digest response=", "Authorization: Digest response="),
        ("Authorization:", "Authorization:"),
    ] {
        let mut message = plain.as_bytes().to_vec();
        mask(&mut message);
        assert_eq!(String::from_utf8_lossy(&message), masked);
        for length in 0..plain.len() {
            let mut cut = plain.as_bytes()[..length].to_vec();
            mask(&mut cut);
        }
    }
}
