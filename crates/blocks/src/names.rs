//! What drafts and instances are called.

use std::fmt;

/// Most letters of either part: names of files hold 255 bytes.
const PART_BYTES_MAX: usize = 100;

/// An instance of a replication, or a draft of one. Both parts are letters, digits and hyphens, since they become a file's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    replication: String,
    instance: String,
}

impl Name {
    /// A name; none when a part is empty, too long, or holds something else.
    pub fn new(replication: &str, instance: &str) -> Option<Self> {
        let is_part = |part: &str| {
            (1..=PART_BYTES_MAX).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        (is_part(replication) && is_part(instance))
            .then(|| Self { replication: replication.to_owned(), instance: instance.to_owned() })
    }

    /// The replication.
    pub fn replication(&self) -> &str {
        &self.replication
    }

    /// The instance, unique in its replication.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The file of that kind.
    pub(crate) fn file(&self, kind: &str) -> String {
        format!("{kind}.{}.{}", self.replication, self.instance)
    }

    /// The name in a file's name; none when it is of another kind.
    pub(crate) fn of_file(file: &str, kind: &str) -> Option<Self> {
        let rest = file.strip_prefix(kind)?.strip_prefix('.')?;
        let (replication, instance) = rest.split_once('.')?;
        Self::new(replication, instance)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.instance, self.replication)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_files_and_read_back() {
        let name = Name::new("C4-0a", "h4replica-1").unwrap();
        assert_eq!(name.file("draft"), "draft.C4-0a.h4replica-1");
        assert_eq!(Name::of_file("draft.C4-0a.h4replica-1", "draft"), Some(name));
        for file in ["instance.a.b", "draft.a", "draft.a.b.new", "draft..b", "drafts.a.b", "pack.1"] {
            assert_eq!(Name::of_file(file, "draft"), None, "{file}");
        }
    }

    #[test]
    fn what_could_leave_the_directory_is_no_name() {
        for part in ["", "..", "a/b", "a.b", "a b", "é", &"a".repeat(101)] {
            assert_eq!(Name::new(part, "a"), None, "{part}");
            assert_eq!(Name::new("a", part), None, "{part}");
        }
    }
}
