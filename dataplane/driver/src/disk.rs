//! What a worker has to do with disks: its spool and its prompts. Nothing here waits.

use std::sync::Arc;

use abi::SpoolState;
use base::{Instant, Text};
use worker::Input;

use crate::loader::{Loader, Shelf};
use crate::spool::{BlockLost, Spool};

/// A worker's spool and prompts, each if the configuration names a directory for it.
pub struct Disk {
    spool: Option<Spool>,
    loader: Option<Loader>,
    shelf: Arc<Shelf>,
    /// Bytes that a worker without a spool wanted written.
    unspooled: u64,
}

impl Disk {
    /// A worker's; `wake` wakes it.
    pub fn new(
        spool: Option<Spool>,
        loader: Option<Loader>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Disk {
        Disk { spool, loader, shelf: Shelf::new(wake), unspooled: 0 }
    }

    /// Hands a block to the spool.
    pub fn write(&mut self, block: Vec<u8>) -> Result<(), BlockLost> {
        match &mut self.spool {
            Some(spool) => spool.write(block),
            None => {
                self.unspooled += block.len() as u64;
                Err(BlockLost(block.len() as u64))
            }
        }
    }

    /// Asks for a prompt.
    pub fn load(&mut self, name: Text<64>) {
        match &self.loader {
            Some(loader) => loader.load(name, &self.shelf),
            None => self.shelf.put((name, None)),
        }
    }

    /// True when a prompt has come. News of the spool can wait for the next heartbeat.
    pub fn has_answers(&self) -> bool {
        !self.shelf.is_empty()
    }

    /// What the worker is to be told next.
    pub fn next(&mut self, now: Instant) -> Option<Input<'static>> {
        if let Some((name, samples)) = self.shelf.take() {
            return Some(Input::Loaded { name, samples });
        }
        if self.unspooled > 0 {
            let lost = std::mem::take(&mut self.unspooled);
            return Some(Input::Spool { state: SpoolState::Failed, lost });
        }
        let (state, lost) = self.spool.as_mut()?.news(now)?;
        Some(Input::Spool { state, lost })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(spool) = self.spool.take() {
            spool.close();
        }
    }
}
