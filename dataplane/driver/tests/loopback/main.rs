//! The driver for real: sockets on loopback, a region in a temporary folder, control played by the test.

#[macro_use]
mod plane;

mod blades;
mod call;
mod garbage;
mod link;
mod outbound;
mod refused;
mod restart;
mod streams;
mod tls;
