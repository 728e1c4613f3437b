//! Switching virtual machines.
//!
//! Each call makes a task (`lockstep.tasks`), which anyone may watch, and answers as the task ends. The contract has no form of these operations
//! that answers at once.

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// Whether a virtual machine runs.
    pub enum State = "com.vmware.vcenter.vm.power.state" {
        /// It does not.
        PoweredOff = "POWERED_OFF",
        /// It does.
        PoweredOn = "POWERED_ON",
        /// It is halted and goes on where it was.
        Suspended = "SUSPENDED",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// Whether a virtual machine runs.
    pub struct Info = "com.vmware.vcenter.vm.power.info" {
        /// Whether it does.
        state: State,
        /// Whether the guest is known to have shut down by itself; set with POWERED_OFF.
        clean_power_off: Option<bool>,
    }
}

structure! {
    /// The parameters of every operation.
    pub struct IdInput = "operation-input" {
        /// The virtual machine's id.
        vm: String,
    }
}

operation! {
    /// Whether a virtual machine runs.
    pub Get = "com.vmware.vcenter.vm.power"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/vm/{vm}/power", 200),
    id: "vm",
}

operation! {
    /// Lets a virtual machine go on that is suspended, or whose guest has shut down.
    pub Start = "com.vmware.vcenter.vm.power"."start"(IdInput) -> (),
    errors: [Error, NotFound, AlreadyInDesiredState, Unsupported, ResourceBusy, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Power,
    rest: Rest { alias: Some("/vcenter/vm/{vm}/power/start"), ..Rest::new(Method::Post, "/vcenter/vm/{vm}/power", 204).action("start") },
    id: "vm",
}

operation! {
    /// Switches a virtual machine off, at once, as if its power were cut.
    pub Stop = "com.vmware.vcenter.vm.power"."stop"(IdInput) -> (),
    errors: [Error, NotFound, AlreadyInDesiredState, ResourceBusy, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Power,
    rest: Rest { alias: Some("/vcenter/vm/{vm}/power/stop"), ..Rest::new(Method::Post, "/vcenter/vm/{vm}/power", 204).action("stop") },
    id: "vm",
}

operation! {
    /// Halts a virtual machine where it is.
    pub Suspend = "com.vmware.vcenter.vm.power"."suspend"(IdInput) -> (),
    errors: [Error, NotFound, AlreadyInDesiredState, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Power,
    rest: Rest { alias: Some("/vcenter/vm/{vm}/power/suspend"), ..Rest::new(Method::Post, "/vcenter/vm/{vm}/power", 204).action("suspend") },
    id: "vm",
}

operation! {
    /// Resets a virtual machine, as if the button were pressed.
    pub Reset = "com.vmware.vcenter.vm.power"."reset"(IdInput) -> (),
    errors: [Error, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Power,
    rest: Rest { alias: Some("/vcenter/vm/{vm}/power/reset"), ..Rest::new(Method::Post, "/vcenter/vm/{vm}/power", 204).action("reset") },
    id: "vm",
}
