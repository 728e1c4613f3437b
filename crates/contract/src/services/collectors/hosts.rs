//! Collectors that run on their hosts: what agents call.
//!
//! An agent *attaches* itself as the collector of its host, keeps the host as it is with [`Keep`], takes what it is ordered to do with
//! [`TakeOrders`], and answers with [`Answer`]. One at a time keeps a host: whoever is attached is known by its account and by the id of its
//! run, and both are demanded with every call.

use crate::services::TypedId;
use crate::{Method, Opaque, Rest, enumeration, operation, structure};

enumeration! {
    /// What is to be done with a virtual machine.
    pub enum Action = "lockstep.collectors.hosts.action" {
        /// Switch it on, or let it go on.
        Start = "START",
        /// Switch it off, as if its power were cut.
        Stop = "STOP",
        /// Halt it.
        Suspend = "SUSPEND",
        /// Reset it.
        Reset = "RESET",
        /// Ask its guest to shut down.
        Shutdown = "SHUTDOWN",
        /// Ask its guest to begin anew.
        Reboot = "REBOOT",
        /// Ask its guest to sleep.
        Standby = "STANDBY",
    }
}

enumeration! {
    /// What became of an order.
    pub enum Outcome = "lockstep.collectors.hosts.outcome" {
        /// It is done.
        Done = "DONE",
        /// The machine was in that state already.
        Already = "ALREADY",
        /// The machine is in a state in which it cannot be done; the detail names it.
        NotNow = "NOT_NOW",
        /// No such machine is there.
        NotHere = "NOT_HERE",
        /// There is no way to do it; the detail says why.
        NoWay = "NO_WAY",
        /// The machine's monitor serves another client.
        Busy = "BUSY",
        /// The machine's monitor did not answer: whether it is done is unknown.
        Silent = "SILENT",
        /// The order came to its turn too late, and was not done.
        Late = "LATE",
    }
}

structure! {
    /// The parameters of `attach`.
    pub struct AttachInput = "operation-input" {
        /// The host's id: of its `HostSystem`.
        host: String,
        /// The host's name.
        name: String,
        /// The id of this run of the agent: random, and the same for as long as it runs.
        run: String,
        /// How often the host is read, in seconds.
        interval_s: i64,
        /// Whether orders to switch machines are taken.
        takes_orders: bool,
    }
}

structure! {
    /// What an agent is told that keeps a host.
    pub struct Attached = "lockstep.collectors.hosts.attached" {
        /// The collector that it is.
        collector: String,
        /// After so many seconds without a call another run may take over.
        absent_after_s: i64,
    }
}

structure! {
    /// A resource as it was read.
    pub struct Reading = "lockstep.collectors.hosts.reading" {
        /// Its type: `HostSystem`, `VirtualMachine`, `Datastore` or `Network`.
        resource_type: String,
        /// Its id.
        id: String,
        /// Its properties.
        properties: Opaque,
    }
}

structure! {
    /// The parameters of `keep`.
    pub struct KeepInput = "operation-input" {
        /// The collector.
        collector: String,
        /// The id of this run.
        run: String,
        /// All that there is: the host, and what is on it. What is missing is gone, or off. Unset: all as with the last call.
        resources: Option<Vec<Reading>>,
    }
}

structure! {
    /// What became of a reading.
    pub struct Kept = "lockstep.collectors.hosts.kept" {
        /// Resources that are new.
        created: i64,
        /// Resources that changed.
        changed: i64,
        /// Resources that are gone.
        deleted: i64,
        /// Resources that somebody else keeps, and that were left alone; some of them.
        left_alone: Vec<TypedId>,
        /// What does not fit the models and was left as it was, in words; some of it.
        misfits: Vec<String>,
    }
}

structure! {
    /// The parameters of `take_orders` and `detach`.
    pub struct RunInput = "operation-input" {
        /// The collector.
        collector: String,
        /// The id of this run.
        run: String,
    }
}

structure! {
    /// Something to do with a virtual machine of the host.
    pub struct Order = "lockstep.collectors.hosts.order" {
        /// The order's id: of the task that it is of.
        order: String,
        /// The virtual machine.
        vm: String,
        /// What is to be done.
        action: Action,
        /// For how long it may be begun with, in milliseconds from the answer on.
        valid_ms: i64,
    }
}

structure! {
    /// The parameters of `answer`.
    pub struct AnswerInput = "operation-input" {
        /// The collector.
        collector: String,
        /// The id of this run.
        run: String,
        /// The order.
        order: String,
        /// What became of it.
        outcome: Outcome,
        /// In words.
        detail: Option<String>,
    }
}

operation! {
    /// Makes the caller the collector of a host. Refused while another run keeps it, and for another account until the collector is ended
    /// or has detached itself: the message names it.
    pub Attach = "lockstep.collectors.hosts"."attach"(AttachInput) -> Attached,
    errors: [AlreadyExists, InvalidArgument, ResourceInUse, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Collect,
    rest: Rest::new(Method::Post, "/lockstep/hosts", 200).action("attach"),
}

operation! {
    /// Keeps a host as it was read: what differs is written and nothing else. Properties that are not the collector's stay.
    pub Keep = "lockstep.collectors.hosts"."keep"(KeepInput) -> Kept,
    errors: [InvalidArgument, NotAllowedInCurrentState, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Collect,
    rest: Rest::new(Method::Post, "/lockstep/hosts", 200).action("keep"),
}

operation! {
    /// What there is to do. Waits for the first order, up to half a minute. An order is in one answer and in no other, so it is done once at
    /// the most; not begun with in time it is void.
    pub TakeOrders = "lockstep.collectors.hosts"."take_orders"(RunInput) -> Vec<Order>,
    errors: [NotAllowedInCurrentState, Unauthenticated, Unauthorized],
    privilege: Collect,
    rest: Rest::new(Method::Post, "/lockstep/hosts", 200).action("take-orders"),
    waits: true,
}

operation! {
    /// Says what became of an order. One that nobody waits for any more is passed over.
    pub Answer = "lockstep.collectors.hosts"."answer"(AnswerInput) -> (),
    errors: [NotAllowedInCurrentState, Unauthenticated, Unauthorized],
    privilege: Collect,
    rest: Rest::new(Method::Post, "/lockstep/hosts", 204).action("answer"),
}

operation! {
    /// Ends a run: the host is free for any other. Its resources stay, and stay its collector's.
    pub Detach = "lockstep.collectors.hosts"."detach"(RunInput) -> (),
    errors: [NotAllowedInCurrentState, Unauthenticated, Unauthorized],
    privilege: Collect,
    rest: Rest::new(Method::Post, "/lockstep/hosts", 204).action("detach"),
}
