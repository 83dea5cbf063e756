//! The names of keys in the buckets of the bus.

use base::TenantId;
use control_core::cluster::Key;

/// One of the buckets that facts stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// How blades do.
    Reports,
    /// Where the agents of directory numbers are.
    Homes,
    /// Who leads, who owns a queue.
    Claims,
}

impl Bucket {
    /// All of them.
    pub const ALL: [Bucket; 3] = [Bucket::Reports, Bucket::Homes, Bucket::Claims];

    /// Its name behind that of the cluster.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Reports => "reports",
            Bucket::Homes => "homes",
            Bucket::Claims => "claims",
        }
    }
}

/// The bucket of a key and its name in it.
pub fn of_key(key: &Key) -> (Bucket, String) {
    match key {
        Key::Blade(blade) => (Bucket::Reports, escape(blade)),
        Key::Number(tenant, number) => (Bucket::Homes, format!("{}.{}", tenant.0, escape(number))),
        Key::Leader => (Bucket::Claims, "leader".to_owned()),
        Key::Queue(tenant, name) => {
            (Bucket::Claims, format!("queue.{}.{}", tenant.0, escape(name)))
        }
    }
}

/// The key of that name in that bucket; none of a name that we never give.
pub fn to_key(bucket: Bucket, name: &str) -> Option<Key> {
    let pair = |text: &str| {
        let (tenant, rest) = text.split_once('.')?;
        Some((TenantId(tenant.parse().ok()?), unescape(rest)?))
    };
    match bucket {
        Bucket::Reports => Some(Key::Blade(unescape(name)?.into())),
        Bucket::Homes => pair(name).map(|(tenant, number)| Key::Number(tenant, number)),
        Bucket::Claims if name == "leader" => Some(Key::Leader),
        Bucket::Claims => {
            let (tenant, queue) = pair(name.strip_prefix("queue.")?)?;
            Some(Key::Queue(tenant, queue))
        }
    }
}

/// A text as part of a subject: what is no letter, digit or dash goes as `=` and its hexadecimal number.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("={byte:02X}")),
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'=' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let number = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                bytes.push(u8::try_from(number).ok()?);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_back_from_its_name() {
        let tenant = TenantId(7);
        for key in [
            Key::Blade("b-1_x".into()),
            Key::Number(tenant, "1001".into()),
            Key::Number(tenant, "*72 +#.ä>".into()),
            Key::Leader,
            Key::Queue(tenant, "sales.de".into()),
        ] {
            let (bucket, name) = of_key(&key);
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-=.".contains(&b);
            assert!(name.bytes().all(plain), "{name}");
            assert_eq!(to_key(bucket, &name), Some(key));
        }
    }

    #[test]
    fn a_name_that_is_none_of_ours_is_no_key() {
        for (bucket, name) in [
            (Bucket::Homes, "1001"),
            (Bucket::Homes, "x.1001"),
            (Bucket::Homes, "1.=4"),
            (Bucket::Homes, "1.=zz"),
            (Bucket::Homes, "1.=FF"),
            (Bucket::Claims, "queue"),
            (Bucket::Claims, "queue.1"),
        ] {
            assert_eq!(to_key(bucket, name), None, "{name}");
        }
    }
}
