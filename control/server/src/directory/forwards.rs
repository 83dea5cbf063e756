//! Forwarding rules and music on hold.

use base::TenantId;
use control_core::{Forward, When};
use sqlx::{Row, query};

use super::{Directory, DirectoryError, tenant_id};

/// The longest time that a phone rings before its calls go elsewhere, in seconds.
pub const LONGEST_RING_S: u32 = 180;
/// The longest number, as the data plane's tables hold it.
const NUMBER_BYTES: usize = 24;
/// The rule of [`is_number`].
pub const NUMBER_RULE: &str = "must be 1 to 24 of the letters, digits and + * # . _ -";

/// True for a number as the data plane takes it.
pub fn is_number(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+*#._-".contains(&byte);
    (1..=NUMBER_BYTES).contains(&text.len()) && text.bytes().all(is_digit)
}

/// How many places a call may be tried at in turn.
const MOST_PLACES: usize = 16;
/// The rule of [`is_destination`].
pub const DESTINATION_RULE: &str = "must be a number, or up to 16 with commas between them, each with /SECONDS where \
                                    another follows: 1001/15,1002/20 (1 to 180 seconds)";

/// True for where calls may be sent: a number, or places that are tried one after another (RFC 5359, 2.12).
pub fn is_destination(text: &str) -> bool {
    let places: Vec<&str> = text.split(',').collect();
    let last = places.len() - 1;
    let is_place = |(nth, place): (usize, &&str)| match place.split_once('/') {
        // As long as nobody says how long it rings, no place after it is ever tried.
        None => nth == last && is_number(place),
        Some((number, seconds)) => {
            let is_plain = seconds.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = seconds.parse::<u32>().unwrap_or(0);
            is_number(number) && is_plain && (1..=LONGEST_RING_S).contains(&seconds)
        }
    };
    places.len() <= MOST_PLACES && places.iter().enumerate().all(is_place)
}

impl Directory {
    /// Sets a rule; one that the number has for the same case is replaced.
    pub async fn put_forward(&self, rule: &Forward) -> Result<(), DirectoryError> {
        let after_s = if let When::NoAnswer(after_s) = rule.when { after_s } else { 0 };
        let put = query(
            "INSERT INTO forwards (tenant_id, number, condition, after_s, destination) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, number, condition) DO UPDATE SET \
             after_s = excluded.after_s, destination = excluded.destination",
        );
        let put = put.bind(i64::from(rule.tenant.0)).bind(rule.number.as_str());
        let put = put.bind(rule.when.name()).bind(i64::from(after_s)).bind(rule.to.as_str());
        let mut writer = self.database.write().await?;
        writer.execute(put).await?;
        writer.commit().await
    }

    /// Removes the rules of a number, or the one for that case; how many there were.
    pub async fn remove_forwards(
        &self,
        tenant: TenantId,
        number: &str,
        condition: Option<&str>,
    ) -> Result<u64, DirectoryError> {
        let remove = query(
            "DELETE FROM forwards WHERE tenant_id = $1 AND number = $2 AND condition LIKE $3",
        );
        let remove = remove.bind(i64::from(tenant.0)).bind(number).bind(condition.unwrap_or("%"));
        let mut writer = self.database.write().await?;
        let removed = writer.execute(remove).await?;
        writer.commit().await?;
        Ok(removed)
    }

    /// All rules, in order of tenants and numbers.
    pub async fn forwards(&self) -> Result<Vec<Forward>, DirectoryError> {
        let rules = query(
            "SELECT tenant_id, number, condition, after_s, destination FROM forwards \
             ORDER BY tenant_id, number, condition",
        );
        let rows = self.database.all(rules).await?;
        let field = |name: &str| DirectoryError::Field(format!("forwards.{name}"));
        rows.iter()
            .map(|row| {
                let after_s: i64 = row.try_get("after_s")?;
                let after_s = u32::try_from(after_s).map_err(|_| field("after_s"))?;
                let condition: String = row.try_get("condition")?;
                Ok(Forward {
                    tenant: tenant_id(row.try_get("tenant_id")?)?,
                    number: row.try_get("number")?,
                    when: When::named(&condition, after_s).ok_or_else(|| field("condition"))?,
                    to: row.try_get("destination")?,
                })
            })
            .collect()
    }

    /// Sets the prompt that held parties of a tenant hear; none is silence.
    pub async fn set_hold_music(
        &self,
        tenant: TenantId,
        prompt: Option<&str>,
    ) -> Result<(), DirectoryError> {
        let set = query("UPDATE tenants SET hold_music = $1 WHERE id = $2");
        let mut writer = self.database.write().await?;
        writer.execute(set.bind(prompt).bind(i64::from(tenant.0))).await?;
        writer.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_numbers_and_places_in_turn() {
        let sixteen = vec!["1/1"; MOST_PLACES].join(",");
        for good in ["1001", "1001/20", "1001/15,1002/180,+49301", "*1/1,#2/2", &sixteen] {
            assert!(is_destination(good), "{good}");
        }
        let too_many = format!("{sixteen},1/1");
        for bad in [
            "",
            ",",
            "1001,",
            ",1001",
            "1001,1002",
            "1001/,1002",
            "1001/0",
            "1001/181",
            "1001/+5",
            "a b",
            "1001/5/6",
            "1001/x",
            "1001@host/5",
            &too_many,
        ] {
            assert!(!is_destination(bad), "{bad}");
        }
    }
}
