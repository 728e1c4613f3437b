//! What a replication is told: checked, and made into what is stored.

use lockstep_contract::Error;
use lockstep_contract::services::replication::vm::{CreateInput, UpdateInput};
use lockstep_contract::services::replication::{
    DataConnection, INSTANCES_MAX, RPO_MINUTES_MAX, RPO_MINUTES_MIN, RetentionPolicy,
};

use crate::record::{StoredRule, StoredSettings};

/// Minutes that a replica may be behind unless said otherwise.
const RPO_MINUTES_DEFAULT: i64 = 60;

/// Longest text that is kept for people, in bytes.
const TEXT_BYTES_MAX: usize = 2000;

/// Most rules of retention, and most disks that are left out.
const LIST_MAX: usize = 64;

pub(crate) fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.replication.invalid", place, message)
}

fn rpo(minutes: i64) -> Result<i64, Error> {
    if (RPO_MINUTES_MIN..=RPO_MINUTES_MAX).contains(&minutes) {
        return Ok(minutes);
    }
    Err(invalid("rpo", &format!("{minutes} minutes are not within {RPO_MINUTES_MIN} to {RPO_MINUTES_MAX}")))
}

fn rules(policy: &RetentionPolicy) -> Result<Vec<StoredRule>, Error> {
    let place = "retentionPolicy.rules";
    if policy.rules.len() > LIST_MAX {
        return Err(invalid(place, &format!("more than {LIST_MAX} rules")));
    }
    let mut total = 0i64;
    let mut stored = Vec::with_capacity(policy.rules.len());
    for rule in &policy.rules {
        if !(1..=INSTANCES_MAX).contains(&rule.number_of_instances) {
            return Err(invalid(
                place,
                &format!("numberOfInstances {} is not within 1 to 24", rule.number_of_instances),
            ));
        }
        if !(0..=i64::from(i32::MAX)).contains(&rule.distance) {
            return Err(invalid(place, &format!("distance {} is no number of minutes", rule.distance)));
        }
        total += rule.number_of_instances;
        stored.push(StoredRule { instances: rule.number_of_instances, distance_minutes: rule.distance });
    }
    if total > INSTANCES_MAX {
        return Err(invalid(place, &format!("the rules keep {total} instances together, and at most 24 are kept")));
    }
    Ok(stored)
}

pub(crate) fn text(place: &str, text: String) -> Result<String, Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(invalid(place, &format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn disk_keys(keys: Vec<i64>) -> Result<Vec<i64>, Error> {
    let fits = |key: &i64| (2000..2000 + LIST_MAX as i64).contains(key);
    if keys.len() > LIST_MAX || !keys.iter().all(fits) {
        return Err(invalid("excludedDiskKeys", "keys of disks: 2000 is the first"));
    }
    Ok(keys)
}

/// The settings of a new replication.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn of_new(input: &CreateInput) -> Result<StoredSettings, Error> {
    let is_migration = input.is_migration.unwrap_or(false);
    let default = if is_migration { RPO_MINUTES_MAX } else { RPO_MINUTES_DEFAULT };
    let connection = input.data_connection_type.unwrap_or(DataConnection::EncryptedCompressed);
    let optional = |place: &str, value: &Option<String>| value.clone().map(|value| text(place, value)).transpose();
    Ok(StoredSettings {
        description: optional("description", &input.description)?.unwrap_or_default(),
        rpo_minutes: rpo(input.rpo.unwrap_or(default))?,
        quiesced: input.quiesced.unwrap_or(false),
        data_connection: connection.name().to_owned(),
        retention: input.retention_policy.as_ref().map(rules).transpose()?.unwrap_or_default(),
        initial_sync: input.initial_sync_time.unwrap_or(0).max(0),
        excluded_disk_keys: disk_keys(input.excluded_disk_keys.clone().unwrap_or_default())?,
        target_disk_type: optional("targetDiskType", &input.target_disk_type)?
            .map_or_else(|| "THIN".to_owned(), |text| text.to_uppercase()),
        sla_profile: optional("slaProfileId", &input.sla_profile_id)?,
    })
}

/// Changes settings: what is not there stays as it is.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn update(stored: &mut StoredSettings, input: &UpdateInput) -> Result<(), Error> {
    let before = stored.clone();
    if let Some(description) = &input.description {
        stored.description = text("description", description.clone())?;
    }
    if let Some(minutes) = input.rpo {
        stored.rpo_minutes = rpo(minutes)?;
    }
    if let Some(quiesced) = input.quiesced {
        stored.quiesced = quiesced;
    }
    if let Some(connection) = input.data_connection_type {
        connection.name().clone_into(&mut stored.data_connection);
    }
    if let Some(policy) = &input.retention_policy {
        stored.retention = rules(policy)?;
    }
    if let Some(keys) = &input.excluded_disk_keys {
        stored.excluded_disk_keys = disk_keys(keys.clone())?;
    }
    match &input.sla_profile_id {
        Some(profile) => stored.sla_profile = Some(text("slaProfileId", profile.clone())?),
        // Values of one's own are none of a profile's.
        None if *stored != before => stored.sla_profile = None,
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lockstep_contract::services::replication::RetentionRule;

    use super::*;

    fn change() -> UpdateInput {
        UpdateInput {
            replication_id: String::new(),
            description: None,
            rpo: None,
            quiesced: None,
            data_connection_type: None,
            retention_policy: None,
            sla_profile_id: None,
            excluded_disk_keys: None,
        }
    }

    #[test]
    fn what_is_given_is_checked_and_the_rest_stays() {
        let stored = StoredSettings { rpo_minutes: 60, sla_profile: Some("gold".into()), ..StoredSettings::default() };
        let check = |input: &UpdateInput| {
            let mut changed = stored.clone();
            update(&mut changed, input).map(|()| changed)
        };
        assert_eq!(check(&change()).unwrap(), stored);
        let changed = check(&UpdateInput { rpo: Some(1), ..change() }).unwrap();
        assert_eq!((changed.rpo_minutes, changed.sla_profile), (1, None));
        for rpo in [0, -5, 1441] {
            assert!(check(&UpdateInput { rpo: Some(rpo), ..change() }).is_err());
        }
        let policy = |rules: &[(i64, i64)]| {
            let rule = |(number_of_instances, distance): &(i64, i64)| RetentionRule {
                number_of_instances: *number_of_instances,
                distance: *distance,
            };
            let policy = RetentionPolicy { rules: rules.iter().map(rule).collect() };
            check(&UpdateInput { retention_policy: Some(policy), ..change() }).map(|changed| changed.retention.len())
        };
        assert_eq!(policy(&[(12, 60), (12, 1440)]).unwrap(), 2);
        assert!(policy(&[(12, 60), (13, 1440)]).is_err() && policy(&[(0, 1)]).is_err() && policy(&[(1, -1)]).is_err());
        assert!(check(&UpdateInput { excluded_disk_keys: Some(vec![1999]), ..change() }).is_err());
    }
}
