//! Calls through one worker, message by message.

mod blades_storm;
mod carried;
mod corners;
mod deaths;
mod extensions;
mod flows;
mod forwards;
mod hosting;
mod house;
mod info;
mod media;
mod mirror;
mod offers;
mod rooms;
mod sessions;
mod sips;
mod srtp;
mod storm;
mod strangers;
mod thrift;
mod transfers;
mod trunks;
mod updates;
