use std::fmt;
use std::io;

use abi::RegionError;
use base::WorkerId;

use crate::ring_io::RingError;
use crate::xdp::BypassRefused;

/// Why a data plane does not start or stopped.
#[derive(Debug)]
pub enum DriverError {
    /// The configuration cannot be served.
    Config(&'static str),
    /// The region's file.
    Region(RegionError),
    /// io_uring is missing, or a part of it.
    Ring(RingError),
    /// The bypass is wanted, and no interface takes it.
    Bypass(BypassRefused),
    /// The kernel refused.
    Io {
        /// What was tried, with its address, path or number.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A worker's thread panicked; its message went to standard error.
    Panicked(WorkerId),
    /// The thread of the connections panicked; its message went to standard error.
    StreamsPanicked,
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriverError::Config(rule) => write!(f, "data plane: {rule}"),
            DriverError::Region(error) => write!(f, "region: {error}"),
            DriverError::Ring(RingError { missing, source }) => {
                write!(f, "the data plane needs {missing}: {source}")
            }
            DriverError::Bypass(refused) => write!(f, "{refused}"),
            DriverError::Io { what, source } => write!(f, "{what}: {source}"),
            DriverError::Panicked(worker) => write!(f, "worker {worker} panicked"),
            DriverError::StreamsPanicked => f.write_str("the thread of the connections panicked"),
        }
    }
}

impl std::error::Error for DriverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DriverError::Region(error) => Some(error),
            DriverError::Bypass(refused) => Some(refused),
            DriverError::Ring(RingError { source, .. }) | DriverError::Io { source, .. } => {
                Some(source)
            }
            DriverError::Config(_) | DriverError::Panicked(_) | DriverError::StreamsPanicked => {
                None
            }
        }
    }
}

impl From<RegionError> for DriverError {
    fn from(error: RegionError) -> Self {
        DriverError::Region(error)
    }
}

impl From<RingError> for DriverError {
    fn from(error: RingError) -> Self {
        DriverError::Ring(error)
    }
}
