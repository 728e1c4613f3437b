use lockstep_contract::services::tasks::Page;

use super::*;
use crate::caller::Caller;

fn open(dir: &std::path::Path) -> Arc<Site> {
    let config = crate::Config {
        name: "s".to_owned(),
        data_dir: dir.to_owned(),
        journal: lockstep_journal::Config::default(),
        query_limits: lockstep_query::Limits::default(),
        sessions: crate::sessions::SessionLimits::default(),
        epoch_types: Vec::new(),
    };
    Site::open(config, &mut |_| {}).unwrap()
}

fn asked(kind: &str) -> Asked {
    Asked {
        kind: kind.to_owned(),
        user: "ann".to_owned(),
        site: "s".to_owned(),
        operation_id: Some("op-1".to_owned()),
        resource_type: "vmReplication".to_owned(),
        resource_id: "C4-1".to_owned(),
        resource_name: "vm 1".to_owned(),
        source_org: Some("org1".to_owned()),
        destination_org: None,
        input: Some("{\"a\":1}".to_owned()),
    }
}

async fn page(tasks: &Arc<Tasks>, json: &str) -> Page {
    use lockstep_contract::{Encoding, Place, PlainJson, Wire as _};
    let mut table = Table::default();
    tasks.register(&mut table);
    let index = table.find("lockstep.tasks", "list").unwrap();
    let context =
        crate::table::Context { site: tasks.site.clone(), caller: Caller::Server("test"), operation_id: "op".into() };
    let input = Data::from_json(json.as_bytes()).unwrap();
    let answer = table.entries()[index].call(context, input, Encoding::Plain, false).await.unwrap();
    let mut out = PlainJson::default();
    answer.value.encode(&mut out);
    Page::decode(Data::from_json(&out.out).unwrap(), &Place::root(Encoding::Plain)).unwrap()
}

#[tokio::test]
async fn a_task_tells_how_it_goes_and_what_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new(open(dir.path()), Limits::default());
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let work = |handle: Handle| async move {
        handle.progress(40);
        handle.progress(30);
        handle.progress(200);
        handle.log("half of it");
        handle.warn("not quite");
        gone.await.unwrap();
        let result = Data::object([("n".to_owned(), Data::Long(7))]);
        Ok(Done { result_type: Some("Number".to_owned()), result: Some(result) })
    };
    let begun = tasks.begin(asked("sync"), work).await.unwrap();
    assert_eq!((begun.state, begun.progress, begun.end_time), (State::Running, 0, -1));
    let mut progress = tasks.site.progress();
    while tasks.get(&begun.id).unwrap().progress == 0 {
        progress.changed().await.unwrap();
    }
    let running = tasks.get(&begun.id).unwrap();
    assert_eq!((running.state, running.progress, running.operation_id.as_deref()), (State::Running, 99, Some("op-1")));
    go.send(()).unwrap();
    let ended = tasks.ended(&begun.id).await.unwrap();
    assert_eq!((ended.state, ended.progress, ended.error.is_none()), (State::Succeeded, 100, true));
    assert!(ended.end_time >= ended.start_time && ended.warnings[0].msg == "not quite");
    assert_eq!(ended.result.unwrap().0.to_json(), "{\"n\":7}");
    assert_eq!(tasks.record(&begun.id).unwrap().lines()[0].text, "half of it");
    // It is let go of just after its end is written.
    while tasks.cancel(&begun.id) {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks.get(&begun.id).unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn what_fails_panics_or_is_cancelled_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new(open(dir.path()), Limits::default());
    let refuse = |_| async { Err(Error::not_found(codes::VM_NOT_FOUND, "no vm-1", vec!["vm-1".to_owned()])) };
    let failed = tasks.begin(asked("a"), refuse).await.unwrap();
    let panics = |_| async { panic!("on purpose") };
    let panicked = tasks.begin(asked("b"), panics).await.unwrap();
    let waits = |handle: Handle| async move {
        handle.cancelled().await;
        handle.log("put in order");
        Err(Error::internal())
    };
    let waiting = tasks.begin(asked("c"), waits).await.unwrap();
    assert!(tasks.cancel(&waiting.id));
    for (id, code) in
        [(&failed.id, "VmNotFound"), (&panicked.id, "GeneralServerFailure"), (&waiting.id, "TaskCanceled")]
    {
        let ended = tasks.ended(id).await.unwrap();
        assert_eq!((ended.state, &*ended.error.unwrap().code, ended.result), (State::Failed, code, None));
    }
    assert_eq!(tasks.record(&waiting.id).unwrap().lines()[0].text, "put in order");
}

#[tokio::test]
async fn after_a_restart_a_task_goes_on_or_has_failed_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, kept) = {
        let tasks = Tasks::new(open(dir.path()), Limits::default());
        let forever = |handle: Handle| {
            handle.progress(20);
            std::future::pending()
        };
        let lost = tasks.begin(asked("lost"), forever).await.unwrap();
        (lost.id, tasks.begin(asked("kept"), forever).await.unwrap().id)
    };
    // The works hold the site; what a crash would leave is a copy of its files.
    let after = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.path().join("journal")).arg(after.path()).status();
    assert!(copied.unwrap().success());
    let tasks = Tasks::new(open(after.path()), Limits::default());
    tasks.resume(
        "kept",
        Arc::new(|record, handle| {
            assert_eq!(record.asked, asked("kept"));
            Some(Box::pin(async move {
                handle.progress(50);
                Ok(Done::default())
            }))
        }),
    );
    tasks.start().await;
    let failed = tasks.ended(&lost).await.unwrap();
    let error = failed.error.unwrap();
    assert_eq!((failed.state, &*error.code), (State::Failed, "GeneralServerFailure"));
    assert!(error.msg.contains("interrupted by a restart"), "{}", error.msg);
    assert_eq!(tasks.ended(&kept).await.unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn tasks_are_listed_by_conditions_and_pages_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { ended_max: 3, ..Limits::default() };
    let tasks = Tasks::new(open(dir.path()), limits);
    let mut ids = Vec::new();
    for at in 0..5 {
        let mut asked = asked("sync");
        asked.operation_id = Some(format!("op-{at}"));
        let begun = tasks.begin(asked, |_| async { Ok(Done::default()) }).await.unwrap();
        ids.push(tasks.ended(&begun.id).await.unwrap().id);
    }
    assert_eq!(page(&tasks, "{}").await.total, 5);
    let some = page(&tasks, r#"{"offset":1,"limit":2}"#).await;
    assert_eq!((some.items.len(), some.offset, some.limit, some.total), (2, 1, 2, 5));
    for (condition, expected) in [
        (r#"{"operationID":"op-3"}"#, 1),
        (r#"{"user":"ann","state":"SUCCEEDED"}"#, 5),
        (r#"{"state":"RUNNING"}"#, 0),
        (r#"{"resourceType":"site, vmReplication"}"#, 5),
        (r#"{"resourceType":"site"}"#, 0),
        (r#"{"sourceOrg":"Org1"}"#, 0),
        (r#"{"startTimeAfter":0,"startTimeBefore":9000000000000}"#, 5),
        (r#"{"startTimeBefore":0}"#, 0),
    ] {
        assert_eq!(page(&tasks, condition).await.total, expected, "{condition}");
    }
    tasks.sweep().await;
    let left: Vec<String> = page(&tasks, "{}").await.items.into_iter().map(|task| task.id).collect();
    assert_eq!(left.len(), 3);
    assert!(ids[3..].iter().all(|id| left.contains(id)), "{left:?}");
}
