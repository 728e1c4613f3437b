//! Tasks: whatever takes long answers one at once, and goes on by itself.
//!
//! A task is told in the words of Cloud Director Availability, over every transport alike: three states, times in milliseconds since
//! 1970, -1 for what has not ended.
//!
//! Source: `api/vcda.md`, section 6.

use crate::{Method, Opaque, Rest, enumeration, operation, structure};

enumeration! {
    /// How far a task is. Clients take everything but RUNNING for an end.
    pub enum State = "lockstep.tasks.state" {
        /// It has not ended.
        Running = "RUNNING",
        /// It has done what was asked for.
        Succeeded = "SUCCEEDED",
        /// It has not, and its error says why.
        Failed = "FAILED",
    }
}

structure! {
    /// Why something failed, in the form of Cloud Director Availability.
    pub struct ApiError = "lockstep.tasks.api_error" {
        /// Its name, for programs.
        code: String,
        /// What happened, for people.
        msg: String,
        /// What the message speaks of.
        args: Vec<String>,
        /// Always empty: what is internal is in the log.
        stacktrace: String,
    }
}

structure! {
    /// What a task is about.
    pub struct Workflow = "lockstep.tasks.workflow" {
        /// What is done, e.g. `sync`.
        kind as "type": String,
        /// To what kind of thing, e.g. `vmReplication`.
        resource_type as "resourceType": String,
        /// Its id.
        resource_id as "resourceId": String,
        /// Its name, for people.
        resource_name as "resourceName": String,
    }
}

structure! {
    /// A task.
    pub struct Task = "lockstep.tasks.task" {
        /// A UUID.
        id: String,
        /// Who asked.
        user: String,
        /// Where it runs.
        site: String,
        /// How far it is.
        state: State,
        /// Percent; it only grows.
        progress: i64,
        /// When it began, in milliseconds since 1970.
        start_time as "startTime": i64,
        /// When it was last heard of.
        last_updated as "lastUpdated": i64,
        /// When it ended, or -1.
        end_time as "endTime": i64,
        /// What kind of result there is, when it succeeded.
        result_type as "resultType": Option<String>,
        /// The result, when it succeeded and has one.
        result: Option<Opaque>,
        /// Why it failed, when it did.
        error: Option<ApiError>,
        /// What went otherwise than wished.
        warnings: Vec<ApiError>,
        /// What it is about.
        workflow_info as "workflowInfo": Workflow,
        /// The id that ties log lines together, here and at the other site.
        operation_id as "operationID": Option<String>,
    }
}

structure! {
    /// Some of many.
    pub struct Page = "lockstep.tasks.page" {
        /// The tasks, the youngest first.
        items: Vec<Task>,
        /// How many were passed over.
        offset: i64,
        /// Most that were asked for.
        limit: i64,
        /// How many there are in all.
        total: i64,
    }
}

structure! {
    /// The parameters of `list`. All conditions hold together.
    pub struct ListInput = "operation-input" {
        /// Asked for by this user.
        user: Option<String>,
        /// In this state.
        state: Option<State>,
        /// About these kinds of things: names with commas between.
        resource_type as "resourceType": Option<String>,
        /// About this thing.
        resource_id as "resourceId": Option<String>,
        /// From this organization; capitals count.
        source_org as "sourceOrg": Option<String>,
        /// To this organization; capitals count.
        destination_org as "destinationOrg": Option<String>,
        /// Begun after this, in milliseconds since 1970.
        start_time_after as "startTimeAfter": Option<i64>,
        /// Begun before this, in milliseconds since 1970.
        start_time_before as "startTimeBefore": Option<i64>,
        /// With this operation id.
        operation_id as "operationID": Option<String>,
        /// How many to pass over.
        offset: Option<i64>,
        /// How many to answer at most; 100 unless said otherwise.
        limit: Option<i64>,
    }
}

structure! {
    /// A task by its id.
    pub struct TaskInput = "operation-input" {
        /// The id.
        task: String,
    }
}

structure! {
    /// A line of what a task has to tell.
    pub struct LogLine = "lockstep.tasks.log_line" {
        /// When, in milliseconds since 1970.
        time: i64,
        /// The line.
        text: String,
    }
}

operation! {
    /// Tasks, the youngest first.
    pub List = "lockstep.tasks"."list"(ListInput) -> Page,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/tasks", 200),
    availability: Rest::new(Method::Get, "/tasks", 200),
}

operation! {
    /// A task. That it failed is no error of this call.
    pub Get = "lockstep.tasks"."get"(TaskInput) -> Task,
    errors: [NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/tasks/{task}", 200),
    availability: Rest::new(Method::Get, "/tasks/{task}", 200),
}

operation! {
    /// Asks a task to end. It fails with the code `TaskCanceled` as soon as it has put things in order; one that has ended already stays as it is.
    pub Cancel = "lockstep.tasks"."cancel"(TaskInput) -> Task,
    errors: [NotFound],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/tasks/{task}", 200).action("cancel"),
}

operation! {
    /// What a task has told, the oldest line first. Of many lines the oldest are dropped.
    pub Log = "lockstep.tasks"."log"(TaskInput) -> Vec<LogLine>,
    errors: [NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/tasks/{task}/log", 200),
}
