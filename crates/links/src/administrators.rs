//! The groups that administer linked sites: one resource, names compared without regard to case, kept as they were first written.
//!
//! Source: `api/hvc.md`, 2.4.

use std::sync::Arc;

use lockstep_contract::Error;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::links::administrators::{GroupInput, SetInput};
use lockstep_model::{Document, Position, ResourceId, builtin};
use lockstep_site::table::Context;
use lockstep_site::{Site, WriteError};

use crate::Links;
use crate::link::{list, texts};

/// Longest name of a group, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Groups at the most.
const GROUPS_MAX: usize = 1000;

/// Tries before a change gives up against others that keep changing the groups.
const TRIES_MAX: usize = 16;

fn resource() -> ResourceId {
    ResourceId::new(builtin::LINK_ADMINISTRATORS, builtin::LINK_ADMINISTRATORS_ID)
}

fn stored(site: &Site) -> (Vec<String>, Position) {
    match site.view().get(&resource()) {
        Some(stored) => (texts(&stored.document, "groups"), stored.modified),
        None => (Vec::new(), Position::ZERO),
    }
}

/// Whether it is the name of a group: `group@domain`.
///
/// # Errors
/// `invalid_argument`, naming `place`.
pub(crate) fn check(name: &str, place: &str) -> Result<(), Error> {
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.trim() == name
        && !name.chars().any(char::is_control)
        && name
            .split_once('@')
            .is_some_and(|(group, domain)| !group.is_empty() && !domain.is_empty() && !domain.contains('@'));
    if is_name {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let message = format!("{shown:?} is no group: write group@domain, {NAME_BYTES_MAX} bytes at the most");
    Err(Error::invalid_argument("lockstep.administrators.group", place, &message))
}

fn is_same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

/// Adds those that are not there.
pub(crate) fn add_to(groups: &mut Vec<String>, names: &[String]) {
    for name in names {
        if !groups.iter().any(|group| is_same(group, name)) {
            groups.push(name.clone());
        }
    }
}

/// Changes the groups, whoever else does at the same time.
pub(crate) async fn change(site: &Site, author: Arc<str>, edit: impl Fn(&mut Vec<String>)) -> Result<(), Error> {
    for _ in 0..TRIES_MAX {
        let (mut groups, modified) = stored(site);
        edit(&mut groups);
        if groups.len() > GROUPS_MAX {
            let message = format!("more than {GROUPS_MAX} groups");
            return Err(Error::invalid_argument("lockstep.administrators.count", "group_names", &message));
        }
        let mut document = Document::default();
        document.set("groups", list(&groups));
        match site.write_document(author.clone(), resource(), document, Some(modified)).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Changed { .. }) => {}
            Err(error) => return Err(error.into_error()),
        }
    }
    Err(WriteError::Contended(resource()).into_error())
}

pub(crate) async fn get(links: &Arc<Links>, _: Context, _: NoInput) -> Result<Vec<String>, Error> {
    Ok(stored(&links.site).0)
}

pub(crate) async fn add(links: &Arc<Links>, context: Context, input: GroupInput) -> Result<(), Error> {
    check(&input.group_name, "group_name")?;
    let name = [input.group_name];
    change(&links.site, context.caller.name(), |groups| add_to(groups, &name)).await
}

pub(crate) async fn remove(links: &Arc<Links>, context: Context, input: GroupInput) -> Result<(), Error> {
    check(&input.group_name, "group_name")?;
    change(&links.site, context.caller.name(), |groups| groups.retain(|group| !is_same(group, &input.group_name))).await
}

pub(crate) async fn set(links: &Arc<Links>, context: Context, input: SetInput) -> Result<(), Error> {
    for (i, name) in input.group_names.iter().enumerate() {
        check(name, &format!("group_names[{i}]"))?;
    }
    change(&links.site, context.caller.name(), |groups| {
        groups.clear();
        add_to(groups, &input.group_names);
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_apart_without_regard_to_case() {
        let mut groups = vec!["Admins@Site2.local".to_owned()];
        add_to(
            &mut groups,
            &["admins@site2.LOCAL".to_owned(), "ops@site2.local".to_owned(), "OPS@site2.local".to_owned()],
        );
        assert_eq!(groups, ["Admins@Site2.local", "ops@site2.local"]);
    }

    #[test]
    fn what_is_no_group_is_refused() {
        for good in ["a@b", "Domain Admins@corp.example", "ä@ö"] {
            assert!(check(good, "group_name").is_ok(), "{good}");
        }
        let long = format!("{}@b", "x".repeat(NAME_BYTES_MAX));
        for bad in ["", "a", "@b", "a@", "a@b@c", " a@b", "a@b\n", "a\0@b", &*long] {
            let error = check(bad, "group_name").unwrap_err();
            assert!(error.to_string().starts_with("group_name: "), "{error}");
        }
    }
}
