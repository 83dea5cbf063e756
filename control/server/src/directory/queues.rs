//! Queues, and what agents can do.

use base::TenantId;
use control_core::QueueSpec;
use sqlx::{Row, query};

use super::{Directory, DirectoryError, list_text, tenant_id};

/// The right of a supervisor, among those of an agent.
const SUPERVISE: &str = "supervise";

impl Directory {
    /// Creates a queue or changes the one of that name.
    pub async fn put_queue(&self, queue: &QueueSpec) -> Result<(), DirectoryError> {
        let put = query(
            "INSERT INTO queues (tenant_id, name, skills, ring_s, after_call_s, max_wait_s, max_callers, overflow, \
             prompt, priority) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (tenant_id, name) DO UPDATE SET skills = excluded.skills, ring_s = excluded.ring_s, \
             after_call_s = excluded.after_call_s, max_wait_s = excluded.max_wait_s, \
             max_callers = excluded.max_callers, overflow = excluded.overflow, prompt = excluded.prompt, \
             priority = excluded.priority",
        )
        .bind(i64::from(queue.tenant.0))
        .bind(queue.name.as_str())
        .bind(list_text(&queue.skills))
        .bind(i64::from(queue.ring_s))
        .bind(i64::from(queue.after_call_s))
        .bind(i64::from(queue.max_wait_s))
        .bind(i64::from(queue.max_callers))
        .bind(queue.overflow.as_deref())
        .bind(queue.prompt.as_deref())
        .bind(i64::from(queue.priority));
        let mut writer = self.database.write().await?;
        writer.execute(put).await?;
        writer.commit().await
    }

    /// Removes a queue; whether there was one.
    pub async fn remove_queue(&self, tenant: TenantId, name: &str) -> Result<bool, DirectoryError> {
        let remove = query("DELETE FROM queues WHERE tenant_id = $1 AND name = $2");
        let mut writer = self.database.write().await?;
        let removed = writer.execute(remove.bind(i64::from(tenant.0)).bind(name)).await?;
        writer.commit().await?;
        Ok(removed > 0)
    }

    /// All queues, in order of tenants and names.
    pub async fn queues(&self) -> Result<Vec<QueueSpec>, DirectoryError> {
        let queues = query(
            "SELECT tenant_id, name, skills, ring_s, after_call_s, max_wait_s, max_callers, overflow, prompt, \
             priority FROM queues ORDER BY tenant_id, name",
        );
        let rows = self.database.all(queues).await?;
        let field = |name: &str| DirectoryError::Field(format!("queues.{name}"));
        rows.iter()
            .map(|row| {
                let number = |name: &str| -> Result<u32, DirectoryError> {
                    let number: i64 = row.try_get(name)?;
                    u32::try_from(number).map_err(|_| field(name))
                };
                let skills: String = row.try_get("skills")?;
                Ok(QueueSpec {
                    tenant: tenant_id(row.try_get("tenant_id")?)?,
                    name: row.try_get("name")?,
                    skills: serde_json::from_str(&skills).map_err(|_| field("skills"))?,
                    ring_s: number("ring_s")?,
                    after_call_s: number("after_call_s")?,
                    max_wait_s: number("max_wait_s")?,
                    max_callers: number("max_callers")?,
                    overflow: row.try_get("overflow")?,
                    prompt: row.try_get("prompt")?,
                    priority: number("priority")?,
                })
            })
            .collect()
    }

    /// Who has the right to listen to others, by the agent's key.
    pub async fn supervisors(&self) -> Result<Vec<(TenantId, u64)>, DirectoryError> {
        let rows = self.database.all(query("SELECT tenant_id, id, rights FROM agents")).await?;
        let field = |name: &str| DirectoryError::Field(format!("agents.{name}"));
        let mut supervisors = Vec::new();
        for row in &rows {
            let id: i64 = row.try_get("id")?;
            let id = u64::try_from(id).map_err(|_| field("id"))?;
            let rights: String = row.try_get("rights")?;
            let rights: Vec<String> = serde_json::from_str(&rights).map_err(|_| field("rights"))?;
            if rights.iter().any(|right| right == SUPERVISE) {
                supervisors.push((tenant_id(row.try_get("tenant_id")?)?, id));
            }
        }
        Ok(supervisors)
    }

    /// What every agent can do, by the agent's key.
    pub async fn skills(&self) -> Result<Vec<(TenantId, u64, Vec<String>)>, DirectoryError> {
        let rows = self.database.all(query("SELECT tenant_id, id, skills FROM agents")).await?;
        let field = |name: &str| DirectoryError::Field(format!("agents.{name}"));
        rows.iter()
            .map(|row| {
                let id: i64 = row.try_get("id")?;
                let id = u64::try_from(id).map_err(|_| field("id"))?;
                let skills: String = row.try_get("skills")?;
                let mut skills: Vec<String> =
                    serde_json::from_str(&skills).map_err(|_| field("skills"))?;
                skills.sort_unstable();
                skills.dedup();
                Ok((tenant_id(row.try_get("tenant_id")?)?, id, skills))
            })
            .collect()
    }
}
