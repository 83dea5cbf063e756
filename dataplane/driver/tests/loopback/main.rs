//! The driver for real: sockets on loopback, a region in a temporary folder, control played by the test.

mod call;
mod garbage;
mod link;
mod plane;
mod restart;
