//! A bus for the controls of one process.

use super::Ends;

/// Blades of one process meet here.
#[derive(Clone, Debug, Default)]
pub struct LocalBus;

impl LocalBus {
    /// Carries until the core is gone.
    pub async fn run(self, mut ends: Ends) {
        while let Some(say) = ends.says.recv().await {
            ends.refuse(say).await;
        }
    }
}
