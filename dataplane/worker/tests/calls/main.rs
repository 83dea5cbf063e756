//! Calls through one worker, message by message.

mod corners;
mod deaths;
mod flows;
mod forwards;
mod house;
mod media;
mod storm;
mod strangers;
mod transfers;
