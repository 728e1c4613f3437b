//! Requests as real clients write them, made into what the declared types take; and answers of other sites, made whole.

use jiff::Timestamp;
use lockstep_contract::{Data, Type};

/// The value with what the type does not have left out, and with what can be read in one way only made into what the type says: constants
/// in any case, numbers and booleans as text, and instants, which are milliseconds here, as dates.
pub(super) fn fit(ty: Type, data: Data) -> Data {
    match (ty, data) {
        (Type::Optional(inner), data) => fit(inner(), data),
        (Type::List(element), Data::List(items)) => {
            Data::List(items.into_iter().filter(|item| *item != Data::Null).map(|item| fit(element(), item)).collect())
        }
        // One where several may be: PowerShell writes a list of one so.
        (Type::List(element), data @ (Data::Struct(..) | Data::Long(_))) => Data::List(vec![fit(element(), data)]),
        (Type::Struct(def), Data::Struct(_, fields)) => {
            let known = fields.into_iter().filter_map(|(name, value)| {
                let field = def.fields.iter().find(|field| field.name == name)?;
                (value != Data::Null).then(|| (name, fit((field.ty)(), value)))
            });
            Data::object(known.collect::<Vec<_>>())
        }
        (Type::Enum(def), Data::String(text)) => {
            let constant = def.constants.iter().find(|constant| constant.eq_ignore_ascii_case(text.trim()));
            Data::String(constant.map_or(text, |constant| (*constant).to_owned()))
        }
        (Type::Long, Data::String(text)) => match (text.trim().parse(), text.trim().parse::<Timestamp>()) {
            (Ok(number), _) => Data::Long(number),
            (Err(_), Ok(instant)) => Data::Long(instant.as_millisecond()),
            (Err(_), Err(_)) => Data::String(text),
        },
        // What has no fraction is written with one by some.
        (Type::Long, Data::Double(number)) if number.fract() == 0.0 && number.abs() < 9e15 => Data::Long(number as i64),
        (Type::Boolean, Data::String(text)) => match &*text.trim().to_ascii_lowercase() {
            "true" => Data::Boolean(true),
            "false" => Data::Boolean(false),
            _ => Data::String(text),
        },
        (Type::String, Data::Long(number)) => Data::String(number.to_string()),
        (_, data) => data,
    }
}

/// The value with null for every member of the type that is not there, in the order of the declaration.
pub(super) fn complete(ty: Type, data: Data) -> Data {
    match (ty, data) {
        (Type::Optional(_), Data::Null) => Data::Null,
        (Type::Optional(inner), data) => complete(inner(), data),
        (Type::List(element), Data::List(items)) => {
            Data::List(items.into_iter().map(|item| complete(element(), item)).collect())
        }
        (Type::Struct(def), Data::Struct(name, mut fields)) => {
            let mut whole = Vec::with_capacity(def.fields.len());
            for field in def.fields {
                let value = match fields.iter().position(|(name, _)| name == field.name) {
                    Some(at) => complete((field.ty)(), fields.swap_remove(at).1),
                    None => Data::Null,
                };
                whole.push((field.name.to_owned(), value));
            }
            Data::Struct(name, whole)
        }
        (_, data) => data,
    }
}

#[cfg(test)]
mod tests {
    use lockstep_contract::services::replication::vm;
    use lockstep_contract::services::tasks;
    use lockstep_contract::{Encoding, Place, Wire as _};

    use super::*;

    #[test]
    fn what_real_clients_write_is_read() {
        let body = br#"{"source":{"type":"vm","site":"a","vmId":"vm-1","more":1},"unknown":{"x":[]},
            "destination":{"type":"vcloud","site":"b","vdc":"v","storageProfile":"*"},"rpo":"15","quiesced":"False",
            "dataConnectionType":"encrypted_compressed","targetDiskType":"thin","description":null,
            "initialSyncTime":"2024-05-01T10:00:00Z","excludedDiskKeys":2001,
            "retentionPolicy":{"rules":{"numberOfInstances":3.0,"distance":60}}}"#;
        let fitted = fit(vm::CreateInput::ty(), Data::from_json(body).unwrap());
        let input = vm::CreateInput::decode(fitted, &Place::root(Encoding::Plain)).unwrap();
        assert_eq!((input.rpo, input.quiesced, input.description), (Some(15), Some(false), None));
        assert_eq!(input.data_connection_type.unwrap().name(), "ENCRYPTED_COMPRESSED");
        assert_eq!(input.initial_sync_time, Some(1_714_557_600_000));
        assert_eq!(input.excluded_disk_keys, Some(vec![2001]));
        assert_eq!(input.retention_policy.unwrap().rules[0].number_of_instances, 3);
    }

    #[test]
    fn what_makes_no_sense_stays_and_is_refused_by_the_decoder() {
        let fitted = fit(
            vm::CreateInput::ty(),
            Data::from_json(br#"{"source":{},"destination":{"site":"b"},"rpo":"soon"}"#).unwrap(),
        );
        let error = vm::CreateInput::decode(fitted, &Place::root(Encoding::Plain)).unwrap_err();
        assert!(error.to_string().contains("rpo"), "{error}");
        assert_eq!(fit(Type::Long, Data::Null), Data::Null);
    }

    #[test]
    fn answers_of_other_sites_are_made_whole() {
        let data = Data::from_json(br#"{"items":[{"id":"x"}],"total":1,"limit":1,"offset":0}"#).unwrap();
        let whole = complete(tasks::Page::ty(), data);
        let Data::List(items) = whole.member("items").unwrap() else { panic!() };
        assert_eq!(
            (items[0].member("error"), items[0].member("id")),
            (Some(&Data::Null), Some(&Data::String("x".into())))
        );
    }
}
