//! Asking guests to shut down, to begin anew, and to sleep. Tasks are made as for switching ([`super::power`]).

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What the guest does.
    pub enum State = "com.vmware.vcenter.vm.guest.power.state" {
        /// It runs.
        Running = "RUNNING",
        /// It ends.
        ShuttingDown = "SHUTTING_DOWN",
        /// It begins anew.
        Resetting = "RESETTING",
        /// It sleeps.
        Standby = "STANDBY",
        /// It does not run.
        NotRunning = "NOT_RUNNING",
        /// It cannot be told.
        Unavailable = "UNAVAILABLE",
    }
}

structure! {
    /// What the guest does.
    pub struct Info = "com.vmware.vcenter.vm.guest.power.info" {
        /// What it does.
        state: State,
        /// Whether it can be asked to shut down.
        operations_ready: bool,
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
    /// What the guest of a virtual machine does.
    pub Get = "com.vmware.vcenter.vm.guest.power"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/vm/{vm}/guest/power", 200),
    id: "vm",
}

operation! {
    /// Asks the guest to shut down: by the power button, or by VMware Tools where a vCenter keeps the machine. Answers when it was asked;
    /// `get` tells when it has.
    pub Shutdown = "com.vmware.vcenter.vm.guest.power"."shutdown"(IdInput) -> (),
    errors: [Error, NotFound, AlreadyInDesiredState, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, Unauthenticated, Unsupported],
    privilege: Power,
    rest: Rest::new(Method::Post, "/vcenter/vm/{vm}/guest/power", 204).action("shutdown"),
    id: "vm",
}

operation! {
    /// Asks the guest to begin anew, by VMware Tools. There is no way to ask a guest of QEMU from outside: it is refused.
    pub Reboot = "com.vmware.vcenter.vm.guest.power"."reboot"(IdInput) -> (),
    errors: [Error, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, Unauthenticated, Unsupported],
    privilege: Power,
    rest: Rest::new(Method::Post, "/vcenter/vm/{vm}/guest/power", 204).action("reboot"),
    id: "vm",
}

operation! {
    /// Asks the guest to sleep, by VMware Tools. There is no way to ask a guest of QEMU from outside: it is refused.
    pub Standby = "com.vmware.vcenter.vm.guest.power"."standby"(IdInput) -> (),
    errors: [Error, NotFound, AlreadyInDesiredState, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, Unauthenticated, Unsupported],
    privilege: Power,
    rest: Rest::new(Method::Post, "/vcenter/vm/{vm}/guest/power", 204).action("standby"),
    id: "vm",
}
