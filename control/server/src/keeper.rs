//! Keeps the core equal to the directory, which other blades change, too.

use std::sync::Arc;
use std::time::Duration;

use control_core::End;
use tokio::sync::Mutex;

use crate::directory::{Directory, DirectoryError};
use crate::owner::{Ask, BladeHandle};
use crate::password::PasswordCheck;
use crate::resolve::Names;

/// How often the directory is asked whether somebody changed it.
const LOOK_MS: u64 = 2_000;

/// Tells the core what the directory holds.
pub struct Keeper {
    directory: Directory,
    blade: BladeHandle,
    passwords: PasswordCheck,
    options_s: u32,
    names: Arc<Names>,
    /// The version of the directory that the core was told of.
    told: Mutex<Option<i64>>,
}

impl Keeper {
    /// A keeper that has told nothing yet; trunks are asked every `options_s` seconds, and found by `names`.
    pub fn new(
        directory: &Directory,
        blade: &BladeHandle,
        passwords: &PasswordCheck,
        options_s: u32,
        names: Arc<Names>,
    ) -> Keeper {
        Keeper {
            directory: directory.clone(),
            blade: blade.clone(),
            passwords: passwords.clone(),
            options_s,
            names,
            told: Mutex::new(None),
        }
    }

    /// Tells the core what the directory holds now, and ends the logins of agents that it no longer
    /// has; how many there were.
    pub async fn refresh(&self) -> Result<usize, DirectoryError> {
        let mut told = self.told.lock().await;
        // A change between the two reads is told twice, not forgotten.
        let version = self.directory.version().await?;
        let mut provision = self.directory.provision().await?;
        provision.options_s = self.options_s;
        self.names.fill(&mut provision);
        if let Some(sample) = self.directory.sample_hash().await? {
            self.passwords.set_sample(sample);
        }
        self.blade.tell(Ask::Provision(provision)).await;
        let gone = self.log_out_the_gone().await?;
        *told = Some(version);
        Ok(gone)
    }

    /// Looks again and again whether the directory is another one than the core was told of.
    pub async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(LOOK_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let told = *self.told.lock().await;
            let looked = match self.directory.version().await {
                Ok(version) if told == Some(version) => continue,
                Ok(_) => self.refresh().await.map(drop),
                Err(why) => Err(why),
            };
            match looked {
                Ok(()) => tracing::info!("the directory changed and was read again"),
                // The log was told when it went.
                Err(DirectoryError::Away(_)) => {}
                Err(error) => tracing::error!(%error, "the directory cannot be read"),
            }
        }
    }

    async fn log_out_the_gone(&self) -> Result<usize, DirectoryError> {
        let logins =
            self.blade.look(|blade, _| blade.logins().map(|view| view.login).collect::<Vec<_>>());
        let logins = logins.await.unwrap_or_default();
        if logins.is_empty() {
            return Ok(0);
        }
        let known = self.directory.agent_keys().await?;
        let mut gone = 0;
        for login in logins.into_iter().filter(|login| !known.contains(&login.agent)) {
            gone += usize::from(self.blade.logout(login, End::Ordered).await);
        }
        Ok(gone)
    }
}
