//! What the kernel lets a data plane use, and what it takes.

use abi::MediaPath;

use crate::datagrams::Datagrams;
use crate::mmsg::Mmsg;
use crate::ring_io::Ring;
use crate::{DriverError, MediaChoice};

/// How the workers' packets go in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// [`Ring`].
    IoUring,
    /// [`Mmsg`].
    Recvmmsg,
}

impl Means {
    /// As rows tell it.
    pub fn path(self) -> MediaPath {
        match self {
            Means::IoUring => MediaPath::IoUring,
            Means::Recvmmsg => MediaPath::Recvmmsg,
        }
    }
}

/// Takes what is wanted, or what works; says in one line what that is and why.
pub fn choose(choice: MediaChoice) -> Result<Means, DriverError> {
    if choice == MediaChoice::Recvmmsg {
        tracing::info!("media: {}, as configured", Mmsg::NAME);
        return Ok(Means::Recvmmsg);
    }
    // The ring that is tried has all that a worker's has but the size of its table.
    match Ring::open(1) {
        Ok(_) => {
            let why =
                if choice == MediaChoice::IoUring { "as configured" } else { "which works here" };
            tracing::info!("media: {}, {why}", Ring::NAME);
            Ok(Means::IoUring)
        }
        Err(error) if choice == MediaChoice::IoUring => Err(error.into()),
        Err(error) => {
            let (missing, source) = (error.missing, error.source);
            tracing::info!("media: {}, since it has not {missing}: {source}", Mmsg::NAME);
            Ok(Means::Recvmmsg)
        }
    }
}
