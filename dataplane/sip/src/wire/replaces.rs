use super::{Params, Uri, is_token, same_token, unescape};

/// The dialog that a Replaces header names (RFC 3891, 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaces {
    /// Its Call-ID.
    pub call_id: Vec<u8>,
    /// The tag of who gets the Replaces.
    pub to_tag: Vec<u8>,
    /// The tag of that one's peer.
    pub from_tag: Vec<u8>,
    /// It is to be replaced only while it is not confirmed.
    pub early_only: bool,
}

impl Replaces {
    /// Reads the value of the header; none when it breaks the grammar.
    ///
    /// RFC 3891, 6.1: "A Replaces header field MUST contain exactly one to-tag and exactly one from-tag".
    pub fn parse(value: &[u8]) -> Option<Replaces> {
        let value = value.trim_ascii();
        let end = value.iter().position(|byte| *byte == b';')?;
        let (call_id, params) = (value[..end].trim_ascii(), Params::new(&value[end..]));
        let one = |name: &str| {
            let mut of_name = params.iter().filter(|(param, _)| same_token(param, name.as_bytes()));
            let tag = of_name.next()?.1.filter(|tag| is_token(tag))?;
            of_name.next().is_none().then(|| tag.to_vec())
        };
        let clean = !call_id.is_empty() && call_id.iter().all(u8::is_ascii_graphic);
        clean.then_some(())?;
        Some(Replaces {
            call_id: call_id.to_vec(),
            to_tag: one("to-tag")?,
            from_tag: one("from-tag")?,
            early_only: params.value("early-only").is_some(),
        })
    }

    /// What a URI asks to be put into a Replaces header of the request to it (RFC 3261, 19.1.1): `Some(None)`
    /// when that breaks the grammar.
    pub fn of_uri(uri: &Uri<'_>) -> Option<Option<Replaces>> {
        let mut headers = uri.headers.split(|byte| *byte == b'&').filter_map(|header| {
            let equals = header.iter().position(|byte| *byte == b'=')?;
            Some((unescape(&header[..equals]), unescape(&header[equals + 1..])))
        });
        let (_, value) = headers.find(|(name, _)| same_token(name, b"Replaces"))?;
        Some(Replaces::parse(&value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_is_named_by_its_call_id_and_both_tags() {
        // RFC 3891, 6.1.
        let named =
            Replaces::parse(b"98732@sip.example.com\r\n  ;from-tag=r33th4x0r\r\n ;to-tag=ff87ff");
        assert!(named.is_some());
        let named = Replaces::parse(b"12adf2f34456gs5;to-tag=12345;from-tag=54321;early-only");
        let named = named.expect("it is one");
        assert_eq!((&*named.call_id, named.early_only), (&b"12adf2f34456gs5"[..], true));
        assert_eq!((&*named.to_tag, &*named.from_tag), (&b"12345"[..], &b"54321"[..]));
        for broken in [
            &b""[..],
            b"a",
            b";to-tag=1;from-tag=2",
            b"a;to-tag=1",
            b"a;from-tag=1",
            b"a;to-tag=1;to-tag=1;from-tag=2",
            b"a;to-tag;from-tag=2",
            b"a b;to-tag=1;from-tag=2",
        ] {
            assert_eq!(Replaces::parse(broken), None, "{}", broken.escape_ascii());
        }
    }

    #[test]
    fn a_uri_may_ask_for_it() {
        // RFC 5589, 7.2.
        let text = b"sips:482n4z24kdg@chicago.example.com;gr=8594958?Replaces=592435881734450904%3Bto-tag%3D9m2n3wq\
                     %3Bfrom-tag%3D763231";
        let uri = Uri::parse(text).expect("a URI");
        let named = Replaces::of_uri(&uri).expect("it asks").expect("it is one");
        assert_eq!(named.call_id, b"592435881734450904");
        assert_eq!((&*named.to_tag, &*named.from_tag), (&b"9m2n3wq"[..], &b"763231"[..]));
        let uri = |text| Uri::parse(text).expect("a URI");
        assert_eq!(Replaces::of_uri(&uri(b"sip:a@b?Subject=x")), None);
        assert_eq!(Replaces::of_uri(&uri(b"sip:a@b?Subject=x&replaces=y")), Some(None));
        assert_eq!(Replaces::of_uri(&uri(b"sip:a@b")), None);
    }
}
