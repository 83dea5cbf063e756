//! The rows: fixed integers and bytes, for which any bit pattern is a value.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use base::{AgentSlot, CallRef, CcbId, Channel, LocationId, TenantId, Text, Transport};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::event::Party;
use crate::order::GuestKind;
use crate::table::Row;

/// Declares a row: its bytes are plain, and a row of zeros is its default. It lies in two copies, or in one and a
/// journal.
macro_rules! row {
    ($(#[$doc:meta])* pub struct $name:ident: $key:ty {
        $($(#[$field_doc:meta])* pub $field:ident: $ty:ty,)+
    }) => {
        row! { $(#[$doc])* pub struct $name: $key, in two copies {
            $($(#[$field_doc])* pub $field: $ty,)+
        } }
    };
    (@is_journalled in two copies) => { false };
    (@is_journalled in a journal) => { true };
    ($(#[$doc:meta])* pub struct $name:ident: $key:ty, $($kept:ident)+ {
        $($(#[$field_doc:meta])* pub $field:ident: $ty:ty,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new_zeroed()
            }
        }

        impl Row for $name {
            type Key = $key;
            const IS_JOURNALLED: bool = row!(@is_journalled $($kept)+);
        }
    };
}

/// Declares a closed set of states that a `u32` of a row holds; 0 is the default.
macro_rules! states {
    ($(#[$doc:meta])* pub enum $name:ident {
        $($(#[$state_doc:meta])* $state:ident = $value:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$state_doc])* $state = $value,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$state,)+];

            /// The state of a row's field; None for a number that means nothing.
            pub const fn of(number: u32) -> Option<Self> {
                match number {
                    $($value => Some($name::$state),)+
                    _ => None,
                }
            }
        }

        impl From<$name> for u32 {
            fn from(state: $name) -> u32 {
                state as u32
            }
        }
    };
}

states! {
    /// What an agent's row is; the control process sets it.
    pub enum AgentState {
        /// Nobody's.
        Empty = 0,
        /// Logged in.
        LoggedIn = 1,
        /// Still there, but takes no new call or registration (G-09).
        Draining = 2,
        /// The login is over; the row may be used for another after a while.
        LoggedOut = 3,
    }
}

states! {
    /// What the control process knows of the agent's CTI session (S1-010).
    pub enum CtiState {
        /// There was none yet.
        None = 0,
        /// Its WebSocket stands.
        Connected = 1,
        /// It lost its WebSocket.
        Lost = 2,
    }
}

states! {
    /// Whether an agent takes calls of queues; it says nothing of the calls that the agent is in.
    pub enum WorkState {
        /// Takes none.
        NotReady = 0,
        /// Takes them.
        Ready = 1,
        /// Has the time after a call of a queue to write down what it was about.
        AfterCall = 2,
    }
}

states! {
    /// What follows the call that an agent is in.
    pub enum NextWork {
        /// What was before, and after a queue's call the time after it.
        Unchanged = 0,
        /// Ready.
        Ready = 1,
        /// Not ready.
        NotReady = 2,
    }
}

states! {
    /// How far a call is.
    pub enum CallState {
        /// The row is nobody's.
        Free = 0,
        /// It waits for the control process to say where to.
        Asked = 1,
        /// The callee was sent an INVITE.
        Calling = 2,
        /// The callee rings.
        Ringing = 3,
        /// The parties talk.
        Answered = 4,
        /// It is over; the row stays until the control process acknowledged it.
        Ended = 5,
    }
}

states! {
    /// How far a leg is.
    pub enum LegState {
        /// The row is nobody's.
        Free = 0,
        /// An INVITE was sent or received.
        Calling = 1,
        /// The party rings.
        Ringing = 2,
        /// It stands.
        Answered = 3,
        /// It is over.
        Ended = 4,
    }
}

states! {
    /// Who ended a call.
    pub enum EndedBy {
        /// It stands, or nobody knows.
        Unknown = 0,
        /// The party of the leg that [`CallRow::ended_leg`] names: by BYE, CANCEL or a refusal.
        Leg = 1,
        /// The control process.
        Control = 2,
        /// The data plane: silence, a timeout, no room, a death.
        DataPlane = 3,
    }
}

states! {
    /// Which way a stream's packets go.
    pub enum MediaPath {
        /// No stream.
        None = 0,
        /// Through the process, by io_uring.
        IoUring = 1,
        /// Through the process, by recvmmsg.
        Recvmmsg = 2,
        /// By an XDP program, past the process.
        Xdp = 3,
    }
}

states! {
    /// Why a stream's packets go through the process and not past it.
    pub enum PathReason {
        /// They do go past it, or there is no stream.
        None = 0,
        /// The bypass is switched off.
        NotWanted = 1,
        /// No interface has the bypass: no rights, an old kernel, a driver that refuses.
        Unavailable = 2,
        /// The source of this stream or of its peer's is not locked yet.
        Learning = 3,
        /// The stream is joined to no other, or to nobody who can be sent to.
        NoPeer = 4,
        /// A prompt is played.
        Prompt = 5,
        /// The call is recorded.
        Recording = 6,
        /// The leg is in a mix.
        Mix = 7,
        /// One of the interfaces that it comes in and goes out by has no bypass.
        Interface = 8,
        /// The MAC address of the next hop is not known.
        NextHop = 9,
        /// The table of the bypass is full.
        TableFull = 10,
        /// It has just been asked for.
        Installing = 11,
        /// The stream or its peer's is encrypted (SRTP).
        Srtp = 12,
    }
}

row! {
    /// What proves an agent's phone, H(user:realm:secret) (RFC 7616, 3.4.2); its writer is the
    /// control process, and it lies in the secrets file.
    pub struct SecretRow: AgentSlot {
        /// The login that it was minted for; 0 is none.
        pub epoch: u32,
        /// The counter of the lease that `lease_token` is for.
        pub lease_counter: u32,
        /// By MD5.
        pub ha1_md5: [u8; 16],
        /// By SHA-256.
        pub ha1_sha256: [u8; 32],
        /// The [`crate::LeaseToken`] of the agent's newest lease that another CCB was granted; zeros for none.
        pub lease_token: [u8; 16],
    }
}

impl fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRow").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

row! {
    /// Where an agent's phone is (RFC 3261, 10.3); its writer is the worker that owns the user.
    #[derive(Debug)]
    pub struct RegistrationRow: AgentSlot, in a journal {
        /// 0 none, 1 registered.
        pub state: u32,
        /// The login that it belongs to.
        pub epoch: u32,
        /// The location that it came through, as a [`LocationId`].
        pub location: u16,
        /// How it came, as a [`Transport`].
        pub transport: u16,
        /// The CSeq of the REGISTER.
        pub cseq: u32,
        /// A hash of its Call-ID.
        pub call_id_hash: u64,
        /// When it ends, ns of the clock.
        pub expires_at: u64,
        /// The connection that it came by; 0 for datagrams.
        pub connection: u32,
        /// The status of the answer to the REGISTER of `answered`.
        pub answer: u32,
        /// What tells the REGISTER that was answered last from all others, so that its repetitions get the same
        /// answer; 0 for none. It stands also where no phone is registered.
        pub answered: u64,
        /// Where the REGISTER came from, and where INVITEs go.
        pub address: Address,
        /// The URI of its Contact and, behind a line feed, its Path where it has one (RFC 3327); zeros behind it.
        pub contact: [u8; 160],
    }
}

impl RegistrationRow {
    /// The value of `state` for a phone that is registered.
    pub const REGISTERED: u32 = 1;

    /// True when a phone is registered, whether or not in time.
    pub fn is_registered(&self) -> bool {
        self.state == Self::REGISTERED
    }

    /// The location; None when no location has that number.
    pub fn location(&self) -> Option<LocationId> {
        u8::try_from(self.location).ok().map(LocationId)
    }

    /// Where the phone is.
    pub fn addr(&self) -> SocketAddr {
        self.address.get()
    }

    /// By what the REGISTER came, and INVITEs go.
    pub fn channel(&self) -> Channel {
        let transport = Transport::from_number(u32::from(self.transport)).unwrap_or_default();
        Channel { connection: self.connection, ..Channel::any(transport) }
    }

    /// Sets by what the REGISTER came.
    pub fn set_channel(&mut self, channel: Channel) {
        self.transport = channel.transport as u16;
        self.connection = channel.connection;
    }

    /// Sets where the phone is.
    pub fn set_addr(&mut self, addr: SocketAddr) {
        self.address = Address::new(addr);
    }

    /// The URI of the Contact.
    pub fn contact(&self) -> Text<160> {
        let line = self.contact.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let len = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
        Text::new(&line[..len]).unwrap_or(Text::EMPTY)
    }

    /// The values of Path as one list; empty when there is none (RFC 3327, 5.3).
    pub fn path(&self) -> Text<160> {
        let both = text(&self.contact);
        let path = both.as_bytes().split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
        Text::new(path).unwrap_or(Text::EMPTY)
    }

    /// Sets the URI of the Contact and the Path; false, and no Path, when there is no room for both.
    pub fn set_contact(&mut self, contact: Text<160>, path: &[u8]) -> bool {
        self.contact = field(contact);
        if path.is_empty() {
            return true;
        }
        let both = Text::new(&[contact.as_bytes(), b"\n", path].concat());
        both.is_ok_and(|both| {
            self.contact = field(both);
            true
        })
    }
}

row! {
    /// A tenant (S1-031); its writer is the control process.
    #[derive(Debug)]
    pub struct TenantRow: u32 {
        /// The tenant; 0 is none.
        pub tenant: u32,
        /// 0 none, 1 in service.
        pub state: u32,
        /// The name; zeros behind it.
        pub name: [u8; 48],
        /// The realm of its phones' digest; zeros behind it.
        pub realm: [u8; 64],
        /// Whether its phones speak SRTP, as a [`SrtpPolicy`].
        pub srtp: u32,
        /// For a whole number of words.
        pub reserved: u32,
    }
}

impl TenantRow {
    /// The name.
    pub fn name(&self) -> Text<48> {
        text(&self.name)
    }

    /// Sets the name.
    pub fn set_name(&mut self, name: Text<48>) {
        self.name = field(name);
    }

    /// The realm.
    pub fn realm(&self) -> Text<64> {
        text(&self.realm)
    }

    /// Sets the realm.
    pub fn set_realm(&mut self, realm: Text<64>) {
        self.realm = field(realm);
    }
}

row! {
    /// A location that the data plane serves (S1-036); its writer is the data plane at its start.
    #[derive(Debug)]
    pub struct LocationRow: LocationId {
        /// The name; zeros behind it. An empty one is no location.
        pub name: [u8; 48],
        /// The address and the SIP port.
        pub address: Address,
        /// The ports of SIP by the number of their [`Transport`]; 0 for a transport that is not spoken here. UDP's
        /// is that of the address.
        pub ports: [u16; 8],
    }
}

impl LocationRow {
    /// The port of SIP over `transport`.
    pub fn port(&self, transport: Transport) -> Option<u16> {
        let port = match transport {
            Transport::Udp => self.sip().port(),
            other => self.ports[other as usize],
        };
        (port != 0).then_some(port)
    }

    /// Sets the port of SIP over `transport`; that over UDP is set by [`LocationRow::set_sip`].
    pub fn set_port(&mut self, transport: Transport, port: Option<u16>) {
        self.ports[transport as usize] = port.unwrap_or(0);
    }

    /// The name.
    pub fn name(&self) -> Text<48> {
        text(&self.name)
    }

    /// Sets the name.
    pub fn set_name(&mut self, name: Text<48>) {
        self.name = field(name);
    }

    /// The address and port that SIP is spoken on.
    pub fn sip(&self) -> SocketAddr {
        self.address.get()
    }

    /// Sets the address and port that SIP is spoken on.
    pub fn set_sip(&mut self, sip: SocketAddr) {
        self.address = Address::new(sip);
    }
}

row! {
    /// A call; its writer is the worker that owns it. The slots of all workers count through.
    #[derive(Debug)]
    pub struct CallRow: u32 {
        /// A [`CallState`].
        pub state: u32,
        /// Tells the calls of one slot apart.
        pub generation: u32,
        /// The call serial number (G-16).
        pub serial: u64,
        /// The tenant.
        pub tenant: u32,
        /// Why it ended, a SIP status; 0 when it ended well or has not ended.
        pub cause: u32,
        /// When it began, ns of the clock.
        pub started_at: u64,
        /// When it was answered, ns of the clock; 0 when it was not.
        pub answered_at: u64,
        /// When it ended, ns of the clock; 0 when it has not.
        pub ended_at: u64,
        /// The data plane's incarnation that it belongs to.
        pub incarnation: u64,
        /// How many legs it has.
        pub legs: u32,
        /// The mix that legs of it are in, or are called for; 0 for none.
        pub mix: u32,
        /// The number that was called; zeros behind it.
        pub called: [u8; 32],
        /// An [`EndedBy`]: who ended it.
        pub ended_by: u32,
        /// The number of the leg whose party ended it, where one did.
        pub ended_leg: u32,
        /// A [`GuestKind`] when somebody was called for the mix, [`CallRow::ORGANISES`] and the number of the leg for
        /// the call of who organises a conference; 0 for all others.
        pub guest: u32,
        /// For a whole number of words.
        pub reserved: u32,
    }
}

impl CallRow {
    /// In `guest`, beside the number of a leg: its party organises a conference.
    pub const ORGANISES: u32 = 0x100;

    /// What was called for a mix, when it was.
    pub fn guest(&self) -> Option<GuestKind> {
        GuestKind::of(self.guest)
    }

    /// The leg of who organises a conference.
    pub fn organiser(&self) -> Option<u8> {
        (self.guest & CallRow::ORGANISES != 0).then_some(self.guest as u8)
    }

    /// Who ended it.
    pub fn ended_by(&self) -> EndedBy {
        EndedBy::of(self.ended_by).unwrap_or_default()
    }

    /// The number that was called, whether or not anybody has it.
    pub fn called(&self) -> Text<32> {
        text(&self.called)
    }

    /// Sets the number that was called.
    pub fn set_called(&mut self, called: Text<32>) {
        self.called = field(called);
    }

    /// How far it is; [`CallState::Free`] when the number means nothing.
    pub fn state(&self) -> CallState {
        CallState::of(self.state).unwrap_or_default()
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        TenantId(self.tenant)
    }
}

row! {
    /// A leg of a call; its writer is the worker that owns the call.
    #[derive(Debug)]
    pub struct LegRow: u32 {
        /// A [`LegState`].
        pub state: u32,
        /// The slot of its call.
        pub call_slot: u32,
        /// The generation of its call.
        pub call_generation: u32,
        /// Its number in the call, from 0.
        pub leg: u32,
        /// The bridge of the call that it is joined to.
        pub bridge: u32,
        /// A [`base::Medium`].
        pub medium: u32,
        /// 0 none, 1 an agent, 2 a trunk, 3 another CCB.
        pub party_kind: u32,
        /// The agent's slot, the trunk's row, or the other CCB's device number.
        pub party: u32,
        /// The agent's login epoch.
        pub epoch: u32,
        /// The location that it goes through, as a [`LocationId`].
        pub location: u32,
        /// Our RTP port.
        pub rtp_port: u32,
        /// The counter of the lease that it holds (see [`crate::Fence`]).
        pub fence_counter: u32,
        /// The party's number; zeros behind it.
        pub number: [u8; 32],
        /// Where the party's RTP comes from.
        pub media: Address,
        /// RTP packets received from the party.
        pub packets_in: u64,
        /// RTP packets sent to the party.
        pub packets_out: u64,
        /// RTP bytes received from the party.
        pub bytes_in: u64,
        /// RTP packets of the party that never came.
        pub lost: u64,
        /// RTP and RTCP packets that came for the leg from others than the party, all dropped.
        pub foreign: u64,
        /// A [`MediaPath`]: which way the party's packets go.
        pub path: u32,
        /// A [`PathReason`]: why they do not take the bypass.
        pub path_reason: u32,
        /// Interarrival jitter of the party's packets, microseconds (RFC 3550, 6.4.1).
        pub jitter_us: u32,
        /// Round trip to the party, microseconds; 0 when nothing told it (RFC 3550, 6.4.1).
        pub round_trip_us: u32,
        /// Mean opinion score of what the party sends, in hundredths (ITU-T G.107); 0 before there is one.
        pub mos_hundredths: u32,
        /// Loss that the party reports of what it hears, in 256ths; its last report (RFC 3550, 6.4.1).
        pub reported_loss: u32,
        /// When it began, ns of the clock.
        pub started_at: u64,
        /// When it was answered, ns of the clock; 0 when it was not.
        pub answered_at: u64,
        /// When it ended, ns of the clock; 0 when it has not.
        pub ended_at: u64,
        /// The codec that was agreed on last, as `PCMU/8000`; zeros behind it.
        pub codec: [u8; 16],
        /// The Call-ID of its dialog (RFC 3261, 20.8), cut off behind its room; zeros behind it.
        pub call_id: [u8; 128],
    }
}

impl LegRow {
    /// Which way the party's packets go.
    pub fn path(&self) -> MediaPath {
        MediaPath::of(self.path).unwrap_or_default()
    }

    /// Why they do not take the bypass.
    pub fn path_reason(&self) -> PathReason {
        PathReason::of(self.path_reason).unwrap_or_default()
    }

    /// How far it is; [`LegState::Free`] when the number means nothing.
    pub fn state(&self) -> LegState {
        LegState::of(self.state).unwrap_or_default()
    }

    /// The call it belongs to.
    pub fn call(&self) -> CallRef {
        CallRef { slot: self.call_slot, generation: self.call_generation }
    }

    /// Sets the call it belongs to.
    pub fn set_call(&mut self, call: CallRef) {
        (self.call_slot, self.call_generation) = (call.slot, call.generation);
    }

    /// Who is at its end; None when nobody is.
    pub fn party(&self) -> Option<Party> {
        match self.party_kind {
            1 => Some(Party::Agent(AgentSlot(self.party), self.epoch)),
            2 => Some(Party::Trunk(self.party)),
            3 => u16::try_from(self.party).ok().map(|ccb| Party::Peer(CcbId(ccb))),
            _ => None,
        }
    }

    /// Sets who is at its end.
    pub fn set_party(&mut self, party: Party) {
        (self.party_kind, self.party, self.epoch) = match party {
            Party::Agent(slot, epoch) => (1, slot.0, epoch),
            Party::Trunk(row) => (2, row, 0),
            Party::Peer(ccb) => (3, u32::from(ccb.0), 0),
        };
    }

    /// The location; None when no location has that number.
    pub fn location(&self) -> Option<LocationId> {
        u8::try_from(self.location).ok().map(LocationId)
    }

    /// The party's number.
    pub fn number(&self) -> Text<32> {
        text(&self.number)
    }

    /// Sets the party's number.
    pub fn set_number(&mut self, number: Text<32>) {
        self.number = field(number);
    }

    /// The codec that was agreed on last, as `PCMU/8000`.
    pub fn codec(&self) -> Text<16> {
        text(&self.codec)
    }

    /// Sets the codec.
    pub fn set_codec(&mut self, codec: Text<16>) {
        self.codec = field(codec);
    }

    /// The Call-ID of its dialog, or the first bytes of a long one.
    pub fn call_id(&self) -> Text<128> {
        text(&self.call_id)
    }

    /// Sets the Call-ID; what does not fit is cut off.
    pub fn set_call_id(&mut self, call_id: &[u8]) {
        let len = call_id.len().min(self.call_id.len());
        self.call_id.fill(0);
        self.call_id[..len].copy_from_slice(&call_id[..len]);
    }

    /// Where the party's RTP comes from; None before that is known.
    pub fn media(&self) -> Option<SocketAddr> {
        (self.media.port != 0).then(|| self.media.get())
    }

    /// Sets where the party's RTP comes from.
    pub fn set_media(&mut self, media: Option<SocketAddr>) {
        self.media = media.map_or(Address::default(), Address::new);
    }
}

mod agent;
mod dialog;
mod srtp;
mod trunk;

pub use agent::AgentRow;
pub use dialog::{DIALOG_TEXT_BYTES, DialogPhase, DialogRow, DialogText, StreamRow};
pub use srtp::{KeyRow, SrtpPolicy};
pub use trunk::{Outage, TrunkRow, TrunkTlsRow};

/// An address and a port; IPv4 is kept as `::ffff:a.b.c.d`. An IPv6 flow label is not kept.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Address {
    /// The address in network byte order.
    pub ip: [u8; 16],
    /// The IPv6 scope.
    pub scope: u32,
    /// The port; 0 in an address that was never set.
    pub port: u16,
    /// For a whole number of words.
    pub reserved: u16,
}

impl Address {
    /// The address of `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        let (ip, scope) = match addr {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Address { ip: ip.octets(), scope, port: addr.port(), reserved: 0 }
    }

    /// The address, IPv4 where it is one.
    pub fn get(&self) -> SocketAddr {
        let ip = Ipv6Addr::from(self.ip);
        match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, self.port)),
            None => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The bytes of a field for `text`, zeros behind it.
fn field<const N: usize>(text: Text<N>) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..text.as_bytes().len()].copy_from_slice(text.as_bytes());
    bytes
}

/// The text of a field; zeros end it.
fn text<const N: usize>(field: &[u8; N]) -> Text<N> {
    let len = field.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    Text::new(&field[..len]).unwrap_or(Text::EMPTY)
}
