//! Collecting from vCenter and ESXi: their inventory in ours, and kept so.
//!
//! # What it promises
//! - **Ends equal to the source.** A session begins with a whole read that is compared with what is here, and goes on with the source's
//!   updates. Whatever breaks (connection, session, source, this server), the next session begins the same way.
//! - **Only real changes.** What is written is what differs; an idle source adds nothing to the journal. Measures that change by
//!   themselves are not asked for, or, like a datastore's free space, move here when they have moved by a hundredth.
//! - **Nothing is deleted by mistake.** What is missing is deleted only after the source has told everything, in that session.
//! - **Bounded memory.** Answers are read as they come and written some hundred objects at a time, however large the source is and whether
//!   it pages its answers or not.
//! - **What is hidden is shown as hidden.** A property that the account may not read is unset here, and told with the privilege that is
//!   missing.
//!
//! # What is where
//! | what | where |
//! |---|---|
//! | `Collector` resources, the operations `lockstep.collectors`, a task for each | `service`, `stored`, `status` |
//! | sessions, reads, following | `run`, `changes`, `tree` |
//! | from their properties to ours | `map`: a table of rules |
//! | tags and categories over the REST API, every minute | `tags` |
//! | the SOAP API, a dozen methods | `vim`, `element` |
//! | switching a machine at its source | `power` |
//! | hosts that an agent keeps, and what the agent is ordered to do | `agents`, `hosts` |
//! | errors, with what to do | `error` |
//!
//! The password is sealed in the journal; in memory it is kept as long as the collector runs, since sessions end at any time.
//!
//! # Ids
//! A resource's id is the managed object's own, `vm-42`, as VMware's clients expect. Those ids are unique within one source only, and
//! two sources have the same as a rule. So the first collector of a site has the bare ones, and each further one a prefix, `NAME:`,
//! which is decided when it is made and never changes; one may be given instead. The decision 006 says why.
//!
//! # Who owns what
//! The module [`collected`](lockstep_site::collected) has the rules. Of its resources a collector owns what `map` sets, and of
//! their lists of tags those tags that it collected; tags of this site and whatever else people add stay.

mod agents;
mod changes;
mod element;
mod error;
mod hosts;
mod map;
mod object;
mod power;
mod run;
mod service;
mod status;
mod stored;
mod tags;
mod tree;
mod vim;

pub use hosts::{Rules, Told};
pub use service::{Collectors, Elsewhere};
