//! Sets: which resources of the other site are copied, and as what.

use lockstep_contract::Error;
use lockstep_model::builtin::{self, ACQ_SPEC, LINKED_ACQ_SPEC, TAG, TAG_CATEGORY};

use crate::{LinkId, Run};

/// The provider that copies the inventory.
pub(crate) const INVENTORY: &str = "inventory";

/// The provider that copies acquisition specifications.
pub(crate) const ACQ_SPECS: &str = "acquisition-specs";

/// The provider that keeps tagging in step.
pub(crate) const TAGGING: &str = "tagging";

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Set {
    /// All types without a writing service, but for tags and categories: both sites share those, and nobody has copies.
    #[default]
    Inventory,
    /// Acquisition specifications, as [`LINKED_ACQ_SPEC`].
    AcqSpecs,
}

impl Set {
    /// What the run's provider copies.
    pub(crate) fn of(run: &Run) -> Self {
        if run.provider() == ACQ_SPECS { Self::AcqSpecs } else { Self::Inventory }
    }

    /// Whether resources of a type of the other site are told.
    pub(crate) fn holds(self, resource_type: &str) -> bool {
        match self {
            Self::Inventory => {
                builtin::writing_service(resource_type).is_none() && !matches!(resource_type, TAG | TAG_CATEGORY)
            }
            Self::AcqSpecs => resource_type == ACQ_SPEC,
        }
    }

    /// The type that copies of a type have.
    pub(crate) fn here(self, there: &str) -> &str {
        match self {
            Self::AcqSpecs if there == ACQ_SPEC => LINKED_ACQ_SPEC,
            Self::AcqSpecs | Self::Inventory => there,
        }
    }

    /// The type that is copied as `here`; `None` when none is.
    pub(crate) fn there(self, here: &str) -> Option<&str> {
        match self {
            Self::AcqSpecs => (here == LINKED_ACQ_SPEC).then_some(ACQ_SPEC),
            Self::Inventory => self.holds(here).then_some(here),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// Resources, to be copied.
    Copies(Set),
    /// What is known of edits of tagging, over this link.
    Tagging(LinkId),
}

impl Asked {
    /// # Errors
    /// `invalid_argument` for a set that is not known.
    pub(crate) fn read(set: Option<&str>, link: Option<&str>) -> Result<Self, Error> {
        let invalid = |place: &str, text: &str| Err(Error::invalid_argument("lockstep.links.pull.set", place, text));
        match (set.unwrap_or(INVENTORY), link) {
            (INVENTORY, _) => Ok(Self::Copies(Set::Inventory)),
            (ACQ_SPECS, _) => Ok(Self::Copies(Set::AcqSpecs)),
            (TAGGING, Some(link)) => Ok(Self::Tagging(LinkId::new(link))),
            (TAGGING, None) => invalid("link", "tagging is told over a link"),
            (other, _) => invalid("set", &format!("no set {other:?}")),
        }
    }

    /// As [`Asked::read`], for operations that tell of resources only.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(crate) fn copies(set: Option<&str>) -> Result<Set, Error> {
        match Self::read(set, Some(""))? {
            Self::Copies(set) => Ok(set),
            Self::Tagging(_) => {
                Err(Error::invalid_argument("lockstep.links.pull.set", "set", "tagging has no digests"))
            }
        }
    }
}
