//! Whether phones and trunks speak SRTP.

use abi::SrtpPolicy;
use base::TenantId;
use sqlx::any::AnyRow;
use sqlx::{Row as _, query};

use super::{Directory, DirectoryError};

/// The policy in a row's column `srtp`, which is called `field` in faults.
pub(super) fn policy(row: &AnyRow, field: &str) -> Result<SrtpPolicy, DirectoryError> {
    let name: String = row.try_get("srtp")?;
    SrtpPolicy::named(&name).ok_or_else(|| DirectoryError::Field(field.into()))
}

impl Directory {
    /// Sets whether the phones of a tenant speak SRTP, or the peers of that trunk of it. False when it has none of
    /// that name.
    pub async fn set_srtp(
        &self,
        tenant: TenantId,
        trunk: Option<&str>,
        policy: SrtpPolicy,
    ) -> Result<bool, DirectoryError> {
        let tenant = i64::from(tenant.0);
        let set = match trunk {
            None => query("UPDATE tenants SET srtp = $1 WHERE id = $2"),
            Some(_) => query("UPDATE trunks SET srtp = $1 WHERE tenant_id = $2 AND name = $3"),
        };
        let set = set.bind(policy.name()).bind(tenant);
        let set = match trunk {
            None => set,
            Some(trunk) => set.bind(trunk),
        };
        let mut writer = self.database.write().await?;
        let changed = writer.execute(set).await?;
        writer.commit().await?;
        Ok(changed > 0)
    }
}
