use core::fmt;

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit as _};
use aes::{Aes128Enc, Block};
use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use super::{MasterKey, SALT_BYTES};

/// Blocks that are encrypted at once: as many as the processor has under way.
const BLOCKS: usize = 8;
const BLOCK: usize = 16;
/// RFC 3711, 5.2: "n_a ... SHALL be 160 bits" of key.
const AUTH_KEY: usize = 20;
/// The longest tag; what is sent of it is the suite's.
const TAG: usize = 20;

/// The session keys of RTP, or of RTCP, of one direction (RFC 3711, 4.3).
#[derive(Clone)]
pub(super) struct Session {
    cipher: Aes128Enc,
    salt: [u8; SALT_BYTES],
    mac: Hmac<Sha1>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

/// Which keys of a master key: the labels of encryption, authentication and salt.
///
/// RFC 3711, 4.3.2: "The labels 0x00 to 0x02 [are for SRTP], 0x03 to 0x05 [for SRTCP]".
#[derive(Clone, Copy)]
pub(super) enum Of {
    Rtp = 0,
    Rtcp = 3,
}

impl Session {
    pub fn new(master: &MasterKey, of: Of) -> Session {
        let generator = Aes128Enc::new(&Array(master.key));
        let mut key = [0; BLOCK];
        let mut auth = [0; AUTH_KEY];
        let mut salt = [0; SALT_BYTES];
        derive(&generator, &master.salt, of as u8, &mut key);
        derive(&generator, &master.salt, of as u8 + 1, &mut auth);
        derive(&generator, &master.salt, of as u8 + 2, &mut salt);
        // A key of any length is one for HMAC.
        let mac = Hmac::new_from_slice(&auth).unwrap_or_else(|_| Hmac::new(&Array::default()));
        Session { cipher: Aes128Enc::new(&Array(key)), salt, mac }
    }

    /// Encrypts or decrypts: `index` is the packet's, of 48 bits (RFC 3711, 4.1.1).
    ///
    /// "IV = (k_s * 2^16) XOR (SSRC * 2^64) XOR (i * 2^16)"
    pub fn crypt(&self, ssrc: u32, index: u64, data: &mut [u8]) {
        let mut iv = [0; BLOCK];
        iv[..SALT_BYTES].copy_from_slice(&self.salt);
        let ssrc = ssrc.to_be_bytes();
        let index = index.to_be_bytes();
        iv[4..8].iter_mut().zip(ssrc).for_each(|(byte, with)| *byte ^= with);
        iv[8..14].iter_mut().zip(&index[2..]).for_each(|(byte, with)| *byte ^= with);
        keystream(&self.cipher, iv, data);
    }

    /// The tag of a packet and what is authenticated with it; the first bytes of it are sent.
    pub fn tag(&self, packet: &[u8], with: &[u8]) -> [u8; TAG] {
        let mut mac = self.mac.clone();
        mac.update(packet);
        mac.update(with);
        mac.finalize().into_bytes().0
    }

    /// True when `tag` is the beginning of the packet's; it takes as long for any tag.
    pub fn is_tag(&self, packet: &[u8], with: &[u8], tag: &[u8]) -> bool {
        let right = self.tag(packet, with);
        right.get(..tag.len()).is_some_and(|right| right.ct_eq(tag).into())
    }
}

/// RFC 3711, 4.3.1 with a key derivation rate of 0: "x = key_id XOR master_salt", and the key is the keystream
/// of "x * 2^16"; key_id is the label above 48 zero bits.
fn derive(generator: &Aes128Enc, salt: &[u8; SALT_BYTES], label: u8, out: &mut [u8]) {
    let mut iv = [0; BLOCK];
    iv[..SALT_BYTES].copy_from_slice(salt);
    iv[7] ^= label;
    keystream(generator, iv, out);
}

/// AES in counter mode (RFC 3711, 4.1.1). The last two bytes of `iv` count blocks, so that one packet has 2^16 of
/// them at most; a datagram has no more than 4,096.
fn keystream(cipher: &Aes128Enc, iv: [u8; BLOCK], data: &mut [u8]) {
    let mut counter = 0_u16;
    for chunk in data.chunks_mut(BLOCKS * BLOCK) {
        let mut blocks = [Block::from(iv); BLOCKS];
        let used = &mut blocks[..chunk.len().div_ceil(BLOCK)];
        for block in used.iter_mut() {
            block[BLOCK - 2..].copy_from_slice(&counter.to_be_bytes());
            counter = counter.wrapping_add(1);
        }
        cipher.encrypt_blocks(used);
        for (data, block) in chunk.chunks_mut(BLOCK).zip(used.iter()) {
            data.iter_mut().zip(block.iter()).for_each(|(byte, with)| *byte ^= with);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::Suite;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let digit = |b: u8| (b as char).to_digit(16).expect("a digit") as u8;
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// RFC 3711, B.2: "AES-CM Test Vectors".
    #[test]
    fn keystream_of_the_rfc() {
        let key: [u8; 16] = hex("2B7E151628AED2A6ABF7158809CF4F3C").try_into().expect("16 bytes");
        let salt: [u8; 14] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().expect("14 bytes");
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&salt);
        let mut stream = vec![0; 0xff02 * 16];
        keystream(&Aes128Enc::new(&Array(key)), iv, &mut stream);
        for (block, expected) in [
            (0, "E03EAD0935C95E80E166B16DD92B4EB4"),
            (1, "D23513162B02D0F72A43A2FE4A5F97AB"),
            (2, "41E95B3BB0A2E8DD477901E4FCA894C0"),
            (0xfeff, "EC8CDF7398607CB0F2D21675EA9EA1E4"),
            (0xff00, "362B7C3C6773516318A077D7FC5073AE"),
            (0xff01, "6A2CC3787889374FBEB4C81B17BA6C44"),
        ] {
            assert_eq!(stream[block * 16..][..16], hex(expected), "block {block:x}");
        }
    }

    /// RFC 3711, B.3: "Key Derivation Test Vectors".
    #[test]
    fn session_keys_of_the_rfc() {
        let master = MasterKey {
            suite: Suite::Sha1Tag80,
            key: hex("E1F97A0D3E018BE0D64FA32C06DE4139").try_into().expect("16 bytes"),
            salt: hex("0EC675AD498AFEEBB6960B3AABE6").try_into().expect("14 bytes"),
        };
        let generator = Aes128Enc::new(&Array(master.key));
        let derived = |label, bytes| {
            let mut out = vec![0; bytes];
            derive(&generator, &master.salt, label, &mut out);
            out
        };
        assert_eq!(derived(0, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derived(2, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        // The RFC derives 94 bytes; a key of 20 is their beginning.
        let auth = hex("CEBE321F6FF7716B6FD4AB49AF256A15 6D38BAA48F0A0ACF3C34E2359E6CDBCE
             E049646C43D9327AD175578EF7227098 6371C10C9A369AC2F94A8C5FBCDDDC25
             6D6E919A48B610EF17C2041E47403576 6B68642C59BBFC2F34DB60DBDFB2");
        assert_eq!(derived(1, 94), auth);
    }
}
