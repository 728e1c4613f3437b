//! Imports of few resources in small batches, so that batches in flight meet, against a model that takes one after the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;

use lockstep_contract::ErrorKind;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::Config;
use crate::sessions::SessionLimits;

/// One line: the number of a resource, and what it is to be.
type Line = (u8, u8);

struct House {
    runtime: Runtime,
    site: Arc<Site>,
    _dir: TempDir,
}

impl House {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = Config {
            name: "test".to_owned(),
            data_dir: dir.path().to_owned(),
            journal: Default::default(),
            query_limits: Default::default(),
            sessions: SessionLimits::default(),
            epoch_types: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        Self { runtime, site: Site::open(config, &mut |_| {}).unwrap(), _dir: dir }
    }

    /// Imports the text in batches of so many lines: what came of it, and what the report says afterwards.
    fn import(&self, text: &str, on_existing: OnExisting, batch_lines: usize) -> (Result<(), Error>, Report) {
        let caller = Caller::Server("test");
        let mut importer = Importer::new(self.site.clone(), &caller, ImportOptions { on_existing, batch_lines });
        let outcome = self.runtime.block_on(async {
            // In pieces, as the network has it.
            for piece in text.as_bytes().chunks(1000) {
                importer.push(piece).await?;
            }
            importer.finish().await.map(drop)
        });
        self.runtime.block_on(importer.abandon());
        (outcome, importer.report())
    }

    /// Fails when the import succeeds; the number of the line that the error names, and how many lines are in.
    fn refused(&self, text: &str, on_existing: OnExisting, batch_lines: usize) -> (Error, u64) {
        let (outcome, report) = self.import(text, on_existing, batch_lines);
        (outcome.unwrap_err(), report.lines)
    }

    fn state(&self) -> BTreeMap<u8, u8> {
        let view = self.site.view();
        let number = |of: u8| {
            let stored = view.get(&id(of))?;
            let name = stored.document.get("name").and_then(|name| name.as_str().map(str::to_owned));
            Some((of, name.unwrap().parse().unwrap()))
        };
        (0..u8::MAX).filter_map(number).collect()
    }
}

fn id(number: u8) -> ResourceId {
    ResourceId::new("Folder", format!("f{number}"))
}

fn text(lines: &[Line]) -> String {
    let line = |(number, value): &Line| {
        format!("{{\"type\":\"Folder\",\"id\":\"f{number}\",\"properties\":{{\"name\":\"{value}\"}}}}\n")
    };
    lines.iter().map(line).collect()
}

fn message(error: &Error) -> &str {
    &error.messages[0].default_message
}

/// What importing does, batch after batch: the report, and the line that stops it.
fn model(
    state: &mut BTreeMap<u8, u8>,
    lines: &[Line],
    on_existing: OnExisting,
    batch_lines: usize,
) -> (Report, Option<u64>) {
    let mut report = Report::default();
    for batch in lines.chunks(batch_lines) {
        // Of two lines for one resource in a batch the later holds, in the place of the earlier.
        let mut wanted: Vec<(Line, u64)> = Vec::new();
        for (line, number) in batch.iter().zip(report.lines + 1..) {
            match wanted.iter_mut().find(|(known, _)| known.0 == line.0) {
                Some(known) => *known = (*line, number),
                None => wanted.push((*line, number)),
            }
        }
        if on_existing == OnExisting::Fail
            && let Some((_, number)) = wanted.iter().find(|(line, _)| state.contains_key(&line.0))
        {
            return (report, Some(*number));
        }
        for ((number, value), _) in wanted {
            match state.get(&number) {
                Some(_) if on_existing == OnExisting::Skip => report.skipped += 1,
                Some(known) if *known == value => report.unchanged += 1,
                Some(_) => report.replaced += 1,
                None => report.created += 1,
            }
            if on_existing != OnExisting::Skip || !state.contains_key(&number) {
                state.insert(number, value);
            }
        }
        report.lines += batch.len() as u64;
    }
    (report, None)
}

fn on_existing() -> impl Strategy<Value = OnExisting> {
    prop_oneof![2 => Just(OnExisting::Replace), 1 => Just(OnExisting::Skip), 1 => Just(OnExisting::Fail)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn batches_in_flight_come_to_the_same_as_one_after_the_other(
        imports in prop::collection::vec(
            (prop::collection::vec((0u8..12, 0u8..3), 1..40), on_existing(), 1usize..4),
            1..6,
        ),
    ) {
        let house = House::new();
        let mut state = BTreeMap::new();
        for (lines, on_existing, batch_lines) in imports {
            let (expected, stopped) = model(&mut state, &lines, on_existing, batch_lines);
            let (outcome, report) = house.import(&text(&lines), on_existing, batch_lines);
            prop_assert_eq!(outcome.is_err(), stopped.is_some());
            if let (Err(error), Some(line)) = (&outcome, stopped) {
                prop_assert_eq!(error.kind, ErrorKind::AlreadyExists);
                prop_assert!(message(error).starts_with(&format!("line {line}: ")), "{}, not {line}", message(error));
            }
            prop_assert_eq!(Report { position: report.position, ..expected }, report);
            prop_assert_eq!(house.state(), state.clone());
        }
    }
}

#[test]
fn the_last_of_many_lines_for_one_resource_holds() {
    let house = House::new();
    // Ends as it began, and every other line finds in an older view what it wants.
    let lines: Vec<Line> = (0..200).map(|n| (0, n % 2)).chain([(0, 0)]).collect();
    let (outcome, report) = house.import(&text(&lines), OnExisting::Replace, 1);
    assert_eq!((outcome, report.created, report.replaced, report.unchanged), (Ok(()), 1, 200, 0));
    assert_eq!(house.state(), [(0, 0)].into());
}

#[test]
fn an_error_of_one_batch_in_flight_leaves_exactly_the_lines_before_it() {
    // What is wrong with the line shows when it is read, when it is planned, or when the journal has refused it.
    let good: Vec<Line> = (0..40).map(|number| (number, 1)).collect();
    let unreadable = "{\"type\":\"Folder\",\"id\":\"x\",\"properties\":{\"nam\":1}}\n".to_owned();
    for (bad, kind) in [
        (unreadable, ErrorKind::InvalidArgument),
        (text(&[(90, 0)]), ErrorKind::AlreadyExists),
        (text(&[(2, 0)]), ErrorKind::AlreadyExists),
        (text(&[(19, 0)]), ErrorKind::AlreadyExists),
    ] {
        let house = House::new();
        house.import(&text(&[(90, 5)]), OnExisting::Fail, 1).0.unwrap();
        let stream = text(&good[..20]) + &bad + &text(&good[20..]);
        let (error, lines) = house.refused(&stream, OnExisting::Fail, 2);
        assert_eq!((error.kind, lines), (kind, 20), "{error:?}");
        assert!(message(&error).starts_with("line 21: "), "{error:?}");
        let expected: BTreeMap<u8, u8> = good[..20].iter().copied().chain([(90, 5)]).collect();
        assert_eq!(house.state(), expected);
        // Nothing comes in late: the journal has no more than the view.
        assert_eq!(house.site.journal().head(), house.site.position());
    }
}

#[test]
fn nobody_imports_where_a_resource_is_linked_from() {
    let house = House::new();
    let linked = |properties: &str, order: &str| {
        let line = order.replace("PROPERTIES", properties);
        text(&[(1, 1), (2, 2)]) + &line + "\n" + &text(&[(3, 3)])
    };
    let type_first = r#"{"type":"Folder","id":"x","properties":PROPERTIES}"#;
    let type_last = r#"{"properties":PROPERTIES,"id":"x","type":"Folder"}"#;
    for order in [type_first, type_last] {
        let claims = linked(r#"{"name":"9","linked_from":{"type":"Link","id":"link-1"}}"#, order);
        let (error, lines) = house.refused(&claims, OnExisting::Replace, 1);
        assert_eq!((error.kind, lines), (ErrorKind::InvalidArgument, 2));
        assert!(message(&error).starts_with("line 3: ") && message(&error).contains("linked_from"), "{error:?}");
        assert_eq!(house.state(), [(1, 1), (2, 2)].into());
    }
    // Unset is what it is on a site's own.
    house.import(&linked(r#"{"name":"9","linked_from":null}"#, type_first), OnExisting::Replace, 1).0.unwrap();
    assert_eq!(house.state(), [(1, 1), (2, 2), (3, 3)].into());
}

#[test]
fn a_line_is_read_in_any_order_of_its_members_and_what_is_wrong_is_named() {
    let house = House::new();
    let check = |line: &str, expected: &str| {
        let (error, _) = house.refused(&format!("\n{line}\n"), OnExisting::Replace, 10);
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{line}");
        assert!(
            message(&error).starts_with("line 2: ") && format!("{error:?}").contains(expected),
            "{line}: {error:?}"
        );
    };
    check(r#"{"type":"Folder","id":"x","properties":{"name":7}}"#, "properties.name");
    check(r#"{"properties":{"name":7},"type":"Folder","id":"x"}"#, "properties.name");
    check(r#"{"type":"Folder","id":"x","properties":{"name":"a","name":"b"}}"#, "twice");
    check(r#"{"type":"Folder","id":"x","properties":[]}"#, "a structure");
    check(r#"{"type":"Folder","id":"x","properties":7}"#, "a structure");
    check(r#"{"type":"Folder","id":"x","properties":{"name":"a"}"#, "EOF");
    check(r#"{"type":"Folder","id":"x","properties":{"name":"a"}} {}"#, "trailing");
    check(r#"{"type":"Folder","id":"x","properties":{"name":}}"#, "expected value");
    check(r#"{"type":"NoSuch","id":"x","properties":{}}"#, "no resource type NoSuch");
    check(r#"{"id":"x","properties":{},"type":"NoSuch"}"#, "no resource type NoSuch");
    check(r#"{"type":"Folder","properties":{}}"#, "missing field `id`");
    check(r#"{"type":"Folder","id":"x"}"#, "missing field `properties`");
    check(r#"{"id":"x","properties":{}}"#, "missing field `type`");
    check(r#"{"type":"Folder","type":"Folder","id":"x","properties":{}}"#, "duplicate field `type`");
    check(r#"{"type":"Folder","id":"x","id":"y","properties":{}}"#, "duplicate field `id`");
    check(r#"{"properties":{},"type":"Folder","id":"x","properties":{}}"#, "duplicate field `properties`");
    check(r#"{"type":"Folder","id":"x","properties":{},"more":1}"#, "unknown field `more`");
    check(r#"{"type":"Folder","id":"","properties":{}}"#, "id");
    check(r#"["Folder","x",{}]"#, "expected an object");
    assert_eq!(house.state(), BTreeMap::new());
    let escaped = r#"{"id":"f\u0031","properties":{"n\u0061me":"3\u0037"},"type":"F\u006flder"}"#;
    house.import(escaped, OnExisting::Fail, 1).0.unwrap();
    assert_eq!(house.state(), [(1, 37)].into());
}

#[test]
fn a_line_that_is_too_long_is_refused_behind_what_came_before_it() {
    let house = House::new();
    let long = "x".repeat(LINE_BYTES_MAX + 1);
    for (stream, at) in [(long.clone(), 4), (format!("{long}\n"), 4)] {
        let (error, lines) = house.refused(&(text(&[(1, 1), (2, 2), (3, 3)]) + &stream), OnExisting::Replace, 1);
        assert!(message(&error).starts_with(&format!("line {at}: the line is longer")), "{error:?}");
        assert_eq!((lines, house.state().len()), (3, 3));
    }
}

#[test]
fn parents_are_known_from_the_batches_in_front() {
    let house = House::new();
    let line = |number: u8| {
        let parent =
            number.checked_sub(1).map(|above| format!(",\"parent\":{{\"type\":\"Folder\",\"id\":\"f{above}\"}}"));
        let parent = parent.unwrap_or_default();
        format!("{{\"type\":\"Folder\",\"id\":\"f{number}\",\"properties\":{{\"name\":\"{number}\"{parent}}}}}\n")
    };
    house.import(&(0..30).map(line).collect::<String>(), OnExisting::Fail, 1).0.unwrap();
    let commits = house.site.journal().read(Position(0), 1 << 20).unwrap();
    let change = commits.iter().flat_map(|commit| &commit.changes).find(|change| change.id == id(29)).unwrap();
    assert_eq!(&*change.parents, (0..29).rev().map(id).collect::<Vec<_>>());
}
