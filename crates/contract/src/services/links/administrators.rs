//! The groups that administer linked sites.

use super::{Method, NoInput, Rest, operation, structure};

structure! {
    /// The parameters of `add` and `remove`.
    pub struct GroupInput = "operation-input" {
        /// The group, `group@domain`.
        group_name: String,
    }
}

structure! {
    /// The parameters of `set`.
    pub struct SetInput = "operation-input" {
        /// The groups, each `group@domain`.
        group_names: Vec<String>,
    }
}

operation! {
    /// The groups, none twice.
    pub Get = "com.vmware.vcenter.hvc.management.administrators"."get"(NoInput) -> Vec<String>,
    errors: [Error, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/hvc/management/administrators", 200),
}

operation! {
    /// Adds a group. One that is there stays.
    pub Add = "com.vmware.vcenter.hvc.management.administrators"."add"(GroupInput) -> (),
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/hvc/management/administrators", 204).action("add"),
}

operation! {
    /// Removes a group. One that is not there is no error.
    pub Remove = "com.vmware.vcenter.hvc.management.administrators"."remove"(GroupInput) -> (),
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/hvc/management/administrators", 204).action("remove"),
}

operation! {
    /// Makes these the groups, and no others.
    pub Set = "com.vmware.vcenter.hvc.management.administrators"."set"(SetInput) -> (),
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Put, "/hvc/management/administrators", 204),
}
