//! The words every other crate shares: time, ids, bounded text, randomness that comes from a seed.
//!
//! Pure: no clock, no socket, no source of entropy of its own. The driver reads the clock and passes an
//! [`Instant`]; the driver draws 32 bytes from the kernel and passes them to [`Rng::from_seed`].

mod id;
mod rng;
mod slab;
mod text;
mod time;
mod timers;
mod transport;

pub use id::{AgentSlot, CallRef, CcbId, LocationId, Medium, TenantId, WorkerId, owner};
pub use rng::Rng;
pub use slab::{Slab, SlabFull, SlabKey};
pub use text::{Text, TextTooLong};
pub use time::Instant;
pub use timers::Timers;
pub use transport::{Channel, Transport};
